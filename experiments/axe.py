"""AXE against projection and plain GPTQ, on image networks and a language model.

    BITWRIGHT_DATA=<folder> python experiments/axe.py [TASK ...]

Writes results/axe_<task>.md and .csv, resumed row by row from runs/axe/. Every register is proved never to overflow:
`freeze` refuses weights that its certificate does not cover. `TxPb` has inner registers of P bits over tiles of T
products (Colbert et al., arXiv:2409.17092); without a tile a register sums all of K.
"""

import csv
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from bitwright.config import from_text
from bitwright.model.evaluate import evaluate, reference
from bitwright.model.layers import FakeQuantizedLayer, QuantizedLayer
from bitwright.model.prepare import calibrate, freeze, prepare
from bitwright.model.task import Batch, Task
from bitwright.model.transform import (
    AS_CALIBRATED,
    WIDER,
    Gptq,
    GreedyPath,
    Method,
    ScaleSearch,
    axe,
    correct_bias,
    fold_batchnorm,
    gptq,
)
from bitwright.model.zoo import TASKS
from bitwright.recipe import Recipe, Rule
from bitwright.store import read_json, write_json

RESULTS = Path(__file__).parent / "results"
RUNS = Path("runs") / "axe"

NARROWER = ScaleSearch(tuple(2 ** (i / 4) for i in range(-4, 3)))
"""For weights without a register: from half of the largest weight to 1.4 times it."""

METHODS: dict[str, tuple[Method, ScaleSearch]] = {
    "AXE, published": (Gptq(), AS_CALIBRATED),
    "AXE": (Gptq(), WIDER),
    "AXE, greedy": (GreedyPath(), WIDER),
}
WITHOUT: dict[str, tuple[Method, ScaleSearch]] = {
    "GPTQ": (Gptq(), AS_CALIBRATED),
    "GPTQ, scales searched": (Gptq(), NARROWER),
    "greedy, scales searched": (GreedyPath(), NARROWER),
}

Register = tuple[int | None, int]
"""Tile and bits; a tile of None is all of K."""


def projected(weight_bits: int, input_bits: int, register: Register) -> str:
    """The scheme that bounds weights by projection onto the L1 ball."""
    tile, bits = register
    return f"a2q({weight_bits}, {input_bits}, {bits}, tile={tile})"


@dataclass(frozen=True)
class Plan:
    """What is run on one task."""

    registers: dict[tuple[int, int], tuple[Register, ...]]  # by bits of weights and inputs
    wide: tuple[str, ...]  # layers with 8-bit integers and as wide a register as they need
    inputs: str = ""  # more options of the integers
    samples: int | None = None  # None is all
    batches: int = 2  # of calibration
    projects: bool = True
    corrects: bool = True  # biases
    exact: bool = True  # evaluation through the datapath; proved either way
    note: str = ""


def whole(*bits: int) -> tuple[Register, ...]:
    """Registers over all of K."""
    return tuple((None, b) for b in bits)


PLANS = {
    "digits": Plan(
        {
            (8, 8): (*whole(20, 18, 17, 16, 15, 14, 13), (32, 16), (32, 14)),
            (4, 8): (*whole(16, 15, 14, 13, 12), (32, 14), (32, 12)),
            (4, 4): (*whole(12, 11, 10, 9, 8), (32, 10), (32, 8)),
        },
        ("first", "last"),
        note="K is 9 to 288 in the bounded layers.",
    ),
    "resnet8": Plan(
        {
            (8, 8): (*whole(18, 16), (128, 14)),
            (4, 8): (*whole(15), (128, 12)),
        },
        ("first", "last"),
        batches=1,
        note="K is 16 to 576 in the bounded layers.",
    ),
    "stories260k": Plan(
        {(4, 8): ((128, 16), (128, 14)), (4, 4): ((128, 16),)},
        ("output",),
        inputs=", zero=Zero.FITTED",
        samples=40,
        batches=1,
        projects=False,
        corrects=False,
        exact=False,
        note="K is 64 in all layers but the second ones of the feed-forward, where it is 172: only these have a second "
        "tile, and a register of 16 bits binds less than it does at a K of thousands. Inputs have zero points; "
        "products of attention stay in float. Output matrix: 8 bits. Calibration: 8 stories.",
    ),
}

PUBLISHED = """
Published beside it (perplexity on WikiText2, Llama-3.2-1B-Instruct, 4-bit weights, 8-bit inputs with zero points, K of
2048 and 8192; from the authors' public benchmark): BF16 11.7; 128x32b 12.8 and 128x16b 14.1 by GPTQ, 12.8 and 13.8 by
greedy path following; 4-bit inputs, 128x16b: 15.7 and 16.0. Another network, other text: compare ratios only."""


@dataclass(frozen=True)
class Row:
    """One network whose registers cannot overflow."""

    weight_bits: int
    input_bits: int
    method: str
    tile: int | None
    bits: int | None  # of the register asked for; None is as wide as needed
    certified: int  # width that its integers need, tile by tile
    metric: float
    agreement: float
    sparsity: float  # per cent of the bounded layers' weights


class Experiment:
    """One task under its plan."""

    def __init__(self, task: Task, plan: Plan) -> None:
        self.task, self.plan = task, plan
        self.calibration: list[Batch] = list(task.calibration())[: plan.batches]
        loaded = task.load()
        self.folded = fold_batchnorm(loaded, self.calibration[0].inputs)
        self.against = reference(task, loaded, plan.samples)

    def simulated(self, scheme: str) -> nn.Module:
        """Calibrated, with the wide layers at 8 bits and attention in float."""
        wide = from_text(f"integer(8, 8{self.plan.inputs})")
        rules = (*[Rule(name, wide) for name in self.plan.wide], Rule("*", from_text(scheme)))
        prepared = prepare(self.folded, Recipe((*self._attention, *rules)), self.calibration[0].inputs)
        return calibrate(prepared, self.calibration)

    @cached_property
    def _attention(self) -> tuple[Rule, ...]:
        found = prepare(self.folded, from_text("integer(8, 8)"), self.calibration[0].inputs)
        return (Rule("attention", None),) if any(row.kind == "attention" for row in found.coverage) else ()

    def bounded(self, model: nn.Module) -> list[str]:
        """Layers with a register, in the order of execution."""
        layers = [m for m in model.modules() if isinstance(m, FakeQuantizedLayer)]
        if self.plan.wide == ("first", "last"):
            layers = layers[1:-1]
        return [m.name for m in layers if m.name not in self.plan.wide]

    def models(self) -> dict[tuple[int, int, str, Register | None], Callable[[], nn.Module]]:
        """How each row's network is made."""
        made: dict[tuple[int, int, str, Register | None], Callable[[], nn.Module]] = {}
        for (w, x), registers in self.plan.registers.items():
            plain = f"integer({w}, {x}{self.plan.inputs})"

            def without(plain: str = plain) -> nn.Module:
                return self.corrected(self.simulated(plain))

            made[w, x, "nearest", None] = without
            for name, (method, scales) in WITHOUT.items():

                def chosen(plain: str = plain, method: Method = method, scales: ScaleSearch = scales) -> nn.Module:
                    model = self.simulated(plain)
                    layers = self.bounded(model)
                    found = gptq(model, self.calibration, method=method, scales=scales, layers=layers)
                    return self.corrected(found)

                made[w, x, name, None] = chosen
            for register in registers:
                if self.plan.projects:

                    def onto(scheme: str = projected(w, x, register)) -> nn.Module:
                        return self.corrected(self.simulated(scheme))

                    made[w, x, "projection", register] = onto
                for name, (method, scales) in METHODS.items():

                    def within(
                        plain: str = plain,
                        method: Method = method,
                        scales: ScaleSearch = scales,
                        register: Register = register,
                    ) -> nn.Module:
                        model = self.simulated(plain)
                        tile, bits = register
                        layers = self.bounded(model)
                        found = axe(
                            model, self.calibration, accumulator_bits=bits, tile=tile,
                            method=method, scales=scales, layers=layers,
                        )  # fmt: skip
                        return self.corrected(found)

                    made[w, x, name, register] = within
        return made

    def corrected(self, model: nn.Module) -> nn.Module:
        """With its biases corrected, which comes last."""
        return correct_bias(model, self.folded, self.calibration) if self.plan.corrects else model

    def rows(self) -> list[Row]:
        """All rows, those that a run before this one has left among them."""
        rows = []
        for (w, x, method, register), make in self.models().items():
            tile, bits = register or (None, None)
            stored = RUNS / f"{self.task.name} {w} {x} {method} {tile} {bits}.json"
            if not stored.exists():
                model = make()
                layers = self.bounded(model)
                frozen = freeze(model)
                exact = [m for m in frozen.modules() if isinstance(m, QuantizedLayer) and m.name in layers]
                found = evaluate(self.task, frozen if self.plan.exact else model, self.against)
                assert found.overflows == 0, "proved"
                codes = [m.quantized_weight().elements() for m in exact]
                zeros = sum(int((c == 0).sum()) for c in codes) / sum(c.size for c in codes)
                certified = max(m.certificate.inner_bits for m in exact)
                row = Row(w, x, method, tile, bits, certified, found.metric, found.agreement or 0.0, 100 * zeros)
                write_json(stored, row)
                print(row, flush=True)
            rows.append(read_json(stored, Row))
        return rows


def table(experiment: Experiment, rows: list[Row]) -> str:
    """Methods across, registers down, one table for each pair of formats."""
    task, plan = experiment.task, experiment.plan
    unit = task.metric.unit
    lines = [
        f"# AXE on {task.name}",
        "",
        f"Float {task.metric.name}: {experiment.against.metric:.3f} {unit} on {experiment.against.samples} samples. "
        f"{'Exact' if plan.exact else 'Simulated'} evaluation; no register can overflow, as each layer's certificate "
        "proves.",
        f"{plan.note} {'First and last product: 8 bits. ' if 'first' in plan.wide else ''}"
        f"{'Bias correction comes last.' if plan.corrects else 'No bias correction.'}",
        '"Published" keeps the scale of each row\'s largest weight; AXE searches it, from 0.7 to 64 times as wide, by '
        "output error. All methods see the same calibration samples.",
        f"Made by `python experiments/axe.py {task.name}`.",
    ]
    for w, x in plan.registers:
        own = [row for row in rows if (row.weight_bits, row.input_bits) == (w, x)]
        lines += ["", f"## {w}-bit weights, {x}-bit inputs", ""]
        lines += [f"| method | {task.metric.name} | agreement with float | certified bits | zeros |", "|---" * 5 + "|"]
        for row in own:
            cells = f"{row.metric:.3f} | {row.agreement:.2f} % | {row.certified} | {row.sparsity:.1f} %"
            lines.append(f"| {_name(row)} | {cells} |")
    return "\n".join(lines) + "\n"


def _name(row: Row) -> str:
    if row.bits is None:
        return f"{row.method}, any register"
    return f"{row.method}, {'' if row.tile is None else f'{row.tile}x'}{row.bits}b"


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    RUNS.mkdir(parents=True, exist_ok=True)
    for name in names or PLANS:
        experiment = Experiment(TASKS[name], PLANS[name])
        rows = experiment.rows()
        text = table(experiment, rows) + (PUBLISHED if name == "stories260k" else "")
        (RESULTS / f"axe_{name}.md").write_text(text.rstrip() + "\n")
        with (RESULTS / f"axe_{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, [f.name for f in fields(Row)], lineterminator="\n")
            writer.writeheader()
            writer.writerows(asdict(row) for row in rows)


if __name__ == "__main__":
    main(sys.argv[1:])
