"""Does equalizing channels help? Weights of one scale for a tensor or a row, 8 and 4 bits, and AXE's narrow registers.

    BITWRIGHT_DATA=<folder> python experiments/equalize.py [TASK ...]

Writes results/equalize.md over all tasks that have been run; rows are resumed from runs/equalize/. Simulated
evaluation, as no register is the question; the registers of AXE are proved all the same, by `freeze`.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from bitwright.config import from_text
from bitwright.model.evaluate import evaluate, reference
from bitwright.model.layers import FakeQuantizedLayer
from bitwright.model.prepare import calibrate, freeze, prepare
from bitwright.model.task import Batch
from bitwright.model.transform import Migration, WeightRanges, axe, correct_bias, equalize, fold_batchnorm, links
from bitwright.model.zoo import TASKS
from bitwright.recipes import kept_ends
from bitwright.store import read_json, write_json

RESULTS = Path(__file__).parent / "results"
RUNS = Path("runs") / "equalize"

SAMPLES = {"digits": None, "pydoc": None, "mobilenetv1_vww": None, "mobilenetv2": 100}
"""Test samples by task; None is all."""

LARGE = ("pydoc", "mobilenetv2")
"""Without bias correction and AXE, which run the network once for each layer."""

BALANCES = {"none": None, "weight ranges": WeightRanges(), "migration 0.5": Migration(0.5)}

SCHEMES = {
    "8/8, one scale a tensor": "integer(8, 8, weight_share=PerTensor())",
    "8/8, one scale a row": "integer(8, 8)",
    "6/6, one scale a row": "integer(6, 6)",
    "4/8, one scale a tensor": "integer(4, 8, weight_share=PerTensor())",
    "4/8, one scale a row": "integer(4, 8)",
}
WIDTHS = {"8/8, AXE 16b": ("integer(8, 8)", 16), "4/8, AXE 14b": ("integer(4, 8)", 14)}


@dataclass(frozen=True)
class Row:
    """One quantized network."""

    task: str
    scheme: str
    balance: str
    metric: float
    agreement: float


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    RUNS.mkdir(parents=True, exist_ok=True)
    for name in names or SAMPLES:
        run_task(name)
    write()


def run_task(name: str) -> None:
    """All rows of a task that are not stored yet."""
    task = TASKS[name]
    calibration = [batch.first(64) for batch in list(task.calibration())[:1]]
    loaded = task.load()
    folded = fold_batchnorm(loaded, calibration[0].first(2).inputs)
    against = reference(task, loaded, SAMPLES[name])
    found = links(folded, [calibration[0].first(2)])
    linked = sum(not link.refused for link in found)
    write_json(RUNS / f"{name}.json", Row(name, f"{against.samples}", f"{linked} of {len(found)}", against.metric, 100))
    for balance, value in BALANCES.items():
        model = folded if value is None else equalize(folded, calibration, balance=value)
        for label, make in networks(model, calibration, corrects=name not in LARGE).items():
            stored = RUNS / f"{name} {label.replace('/', ' ')} {balance}.json"
            if not stored.exists():
                result = evaluate(task, make(), against)
                write_json(stored, Row(name, label, balance, result.metric, result.agreement or 0.0))
                print(read_json(stored, Row), flush=True)


def networks(model: nn.Module, calibration: list[Batch], *, corrects: bool) -> dict[str, Callable[[], nn.Module]]:
    """How each row's network is made; without correction plain ones alone."""

    def simulated(scheme: str) -> nn.Module:
        recipe = kept_ends(from_text(scheme), from_text("integer(8, 8)"))
        return calibrate(prepare(model, recipe, calibration[0].inputs), calibration)

    def within(scheme: str, bits: int) -> nn.Module:
        prepared = simulated(scheme)
        inner = [m.name for m in prepared.modules() if isinstance(m, FakeQuantizedLayer)][1:-1]
        chosen = correct_bias(
            axe(prepared, calibration, accumulator_bits=bits, layers=inner), model, calibration
        )  # fmt: skip
        freeze(chosen)
        return chosen

    if not corrects:
        return {label: (lambda scheme=scheme: simulated(scheme)) for label, scheme in SCHEMES.items()}
    made: dict[str, Callable[[], nn.Module]] = {
        label: (lambda scheme=scheme: correct_bias(simulated(scheme), model, calibration))
        for label, scheme in SCHEMES.items()
    }
    made |= {label: (lambda value=value: within(*value)) for label, value in WIDTHS.items()}
    return made


def write() -> None:
    """One table a task: schemes down, balances across, metric and agreement with float."""
    lines = [
        "# Equalized channels",
        "",
        "Weights/inputs in bits, first and last product at 8 bits, bias correction last (none of pydoc, mobilenetv2), "
        "one batch of up to 64 calibration samples. Cells: metric, and agreement with the float network. Equalizing "
        "leaves the float network bit for bit the same. Simulated. Made by `python experiments/equalize.py`.",
    ]
    for name in SAMPLES:
        if not (RUNS / f"{name}.json").exists():
            continue
        head = read_json(RUNS / f"{name}.json", Row)
        metric = TASKS[name].metric
        lines += [
            "",
            f"## {name}",
            "",
            f"Float {metric.name}: {head.metric:.2f} {metric.unit} on {head.scheme} samples. "
            f"{head.balance} layers have a link.",
            "",
            "| weights/inputs | " + " | ".join(BALANCES) + " |",
            "|---" * (1 + len(BALANCES)) + "|",
        ]
        for label in (*SCHEMES, *([] if name in LARGE else WIDTHS)):
            paths = [RUNS / f"{name} {label.replace('/', ' ')} {balance}.json" for balance in BALANCES]
            rows = [read_json(path, Row) if path.exists() else None for path in paths]
            cells = ["–" if row is None else f"{row.metric:.2f} ({row.agreement:.1f} %)" for row in rows]
            lines.append(f"| {label} | " + " | ".join(cells) + " |")
    (RESULTS / "equalize.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
