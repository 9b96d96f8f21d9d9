"""OverQ (arXiv:1910.06909v2) on real networks: 4 and 5-bit inputs against clipping and outlier channel splitting.

    BITWRIGHT_DATA=<folder> python experiments/overq.py [TASK ...]

Writes results/overq_<task>.md and .csv, results/overq_<task>_layers.csv, and results/overq.md over all of them. Rows
are resumed from runs/overq/. First layer and classifier have 8-bit integers everywhere. Ranges, the k of the
standard-deviation sweep among them, are selected by output error on calibration images, without labels.
"""

import csv
import hashlib
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from overq_tables import LAYER_COLUMNS, layer_rows, overview, task_table
from torch import nn

import bitwright
from bitwright.config import from_text
from bitwright.model.evaluate import Evaluation, Reference, evaluate, forward, reference
from bitwright.model.prepare import Seen, freeze, observe, prepare, resolve
from bitwright.model.task import Batch, Task
from bitwright.model.transform import (
    fold_batchnorm,
    input_magnitudes,
    split_input_channels,
    split_weight_channels,
    splittable,
)
from bitwright.model.zoo import TASKS
from bitwright.store import key_of, read_json, write_json

RESULTS = Path(__file__).parent / "results"

COUNTS = (1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0)
COARSE = (2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 12.0)
"""Standard deviations above the mean that are tried for the whole network; fewer where a network is large."""

ONE_K, PER_LAYER, MSE = "one k", "k per layer", "MSE"
SWEEPS = {ONE_K: "", PER_LAYER: "Deviations()", MSE: "MinimumError(1, 100, 2)"}
METHODS = SWEEPS | {"ACIQ": "Aciq()", "KL": "Entropy()"}
"""Range methods; those of `SWEEPS` see the lanes' own error, the others the values' distribution only."""

CLIPPING, LARGEST = "clipping", "RO c=4, largest"
FAMILIES = {
    CLIPPING: "integer(8, {bits}, input_range={range})",
    "RO c=1": "overq({bits}, 8, cascade=1, signed={signed}, input_range={range})",
    "RO c=4": "overq({bits}, 8, cascade=4, signed={signed}, input_range={range})",
    "RO c=4 + PR": "overq({bits}, 8, cascade=4, precision_overwrite=True, signed={signed}, input_range={range})",
    LARGEST: "overq({bits}, 8, cascade=4, pick=Pick.LARGEST, signed={signed}, input_range={range})",
}
SIGNED = "signed lanes, RO c=4 + PR"

Methods = dict[str, str]
ALL_SWEEPS = {**dict.fromkeys(FAMILIES, SWEEPS), CLIPPING: METHODS, LARGEST: {PER_LAYER: SWEEPS[PER_LAYER]}}
FEW_SWEEPS = {
    CLIPPING: METHODS,
    "RO c=1": {ONE_K: ""},
    "RO c=4": {ONE_K: "", PER_LAYER: SWEEPS[PER_LAYER]},
    "RO c=4 + PR": {ONE_K: "", PER_LAYER: SWEEPS[PER_LAYER]},
}
"""Families of lanes, and the range methods of each; fewer where a network is large."""

SPLITS = ("OCS of inputs, 2 %", "OCS of inputs, 5 %", "OCS of weights, 5 %")

BEYOND = (
    "integer(4, 4)", "vs_quant(4, 4)", "overq_on(vs_quant(4, 4))", "overq_on(vs_quant(4, 4), precision_overwrite=True)",
    "vs_quant(4, 3)", "overq_on(vs_quant(4, 3))", "overq_on(vs_quant(4, 3), precision_overwrite=True)",
    "ant(4, 4)", "combined(overq(4), ant(4, 4))", "combined(overq(4, precision_overwrite=True), ant(4, 4))",
    "combined(overq(4, precision_overwrite=True), vs_quant(4, 4))",
    "ant_type('flint', 4, 4)", "overq_on(ant_type('flint', 4, 4))",
    "ant(4, 4, ('flint',), lowest_ratio=10)", "overq_on(ant(4, 4, ('flint',), lowest_ratio=10))",
)  # fmt: skip
"""Weights of 4 bits: OverQ's lanes with other schemes' scales, types and weights."""


@dataclass(frozen=True)
class Plan:
    """What is run on one task, and on how many images."""

    bits: tuple[int, ...] = (4, 5)
    samples: int | None = None  # None is all
    selection: int = 128  # calibration images that select ranges
    counts: tuple[float, ...] = COUNTS
    families: dict[str, Methods] = field(default_factory=lambda: ALL_SWEEPS)
    splits: tuple[str, ...] = SPLITS
    beyond: tuple[str, ...] = BEYOND
    isolated: dict[str, tuple[str, ...]] = field(default_factory=dict)  # label -> layers kept at 8 bits
    tensor_weights: bool = True  # repeat the selected rows with one weight scale a tensor
    exact_samples: int = 346


BOTTLENECKS = {
    "depthwise layers at 8 bits": ("*depthwise*",),
    "depthwise layers and those with signed inputs at 8 bits": ("*depthwise*", "*expand*", "head*"),
}
SMALL = Plan((4, 5), splits=("OCS of inputs, 5 %",), beyond=(), tensor_weights=False, exact_samples=100)
LARGE = Plan(
    (4, 5), samples=100, selection=16, counts=COARSE, families=FEW_SWEEPS, splits=("OCS of inputs, 5 %",), beyond=(),
    tensor_weights=False, exact_samples=20,
)  # fmt: skip

PLANS = {
    "resnet8": Plan((3, 4, 5)),
    "resnet20": Plan(beyond=(*BEYOND[:7], BEYOND[10])),
    "tiny_darknet": LARGE,
    "mobilenetv2": replace(LARGE, isolated=BOTTLENECKS),
    "efficientnet_lite0": replace(LARGE, isolated=BOTTLENECKS),
    "resnet20_jpeg": replace(SMALL, samples=1000),
    "resnet32": SMALL,
}


@dataclass(frozen=True)
class Row:
    """One scheme on one network."""

    bits: int
    family: str
    method: str
    scheme: str
    network: str  # "as trained", or how its channels were split
    calibration_sqnr_db: float  # of the outputs on the calibration images that select
    metric: float
    agreement: float
    output_sqnr_db: float


@dataclass(frozen=True)
class Checked:
    """One row on the same images, simulated and through the exact datapath."""

    samples: int
    simulated: Evaluation
    exact: Evaluation


@dataclass(frozen=True)
class Bench:
    """A float network, its calibration, and its outputs on the images that select and on those that judge."""

    task: Task
    plan: Plan
    model: nn.Module  # BatchNorm folded
    network: str
    calibration: tuple[Batch, ...]
    selection: Reference
    against: Reference

    @staticmethod
    def of(task: Task, plan: Plan) -> "Bench":
        trained = task.load()
        calibration = tuple(task.calibration())
        batches = math.ceil(plan.selection / len(calibration[0].targets))
        chosen = tuple(batch.first(plan.selection) for batch in calibration[:batches])
        outputs = tuple(forward(task, trained, b) for b in chosen)
        selection = Reference(float("nan"), chosen, outputs)
        model = fold_batchnorm(trained, calibration[0].inputs)
        return Bench(task, plan, model, "as trained", calibration, selection, reference(task, trained, plan.samples))

    @cached_property
    def seen(self) -> Seen:
        prepared = prepare(self.model, from_text("integer(8, 8)"), self.calibration[0].inputs)
        return observe(prepared, self.calibration, self.run)

    @cached_property
    def inner(self) -> tuple[str, ...]:
        """Layers between the first and the last."""
        return tuple(self.seen)[1:-1]

    def run(self, network: nn.Module, batch: Batch) -> object:
        return forward(self.task, network, batch)

    def quantized(self, scheme: str) -> nn.Module:
        return resolve(prepare(self.model, from_text(scheme), self.calibration[0].inputs), self.seen)

    def split(self, how: str, change: Callable[[nn.Module, tuple[str, ...]], nn.Module]) -> "Bench":
        """The same network with channels of its inner layers split."""
        inner = tuple(name for name in splittable(self.model) if name in self.inner)
        return replace(self, model=change(self.model, inner), network=how)

    @cached_property
    def key(self) -> tuple[object, ...]:
        """All that decides a row beside its scheme."""
        files = sorted(Path(bitwright.__file__).parent.rglob("*.py"))
        source = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
        data = {name: hashlib.sha256(read()).hexdigest() for name, read in self.task.files().items()}
        return self.task.name, self.network, self.selection.samples, len(self.calibration), data, source

    def selecting(self, scheme: str) -> Evaluation:
        """Outputs against the float network's on calibration images: no label, no test image."""
        return self._saved("selection", scheme, lambda: evaluate(self.task, self.quantized(scheme), self.selection))

    def judging(self, scheme: str) -> Evaluation:
        """Metric and outputs on the test images."""
        return self._saved(
            f"test-{self.against.samples}", scheme, lambda: evaluate(self.task, self.quantized(scheme), self.against)
        )

    def row(self, bits: int, family: str, method: str, scheme: str) -> Row:
        selected, judged = self.selecting(scheme), self.judging(scheme)
        row = Row(
            bits, family, method, scheme, self.network, selected.output_sqnr_db or 0.0,
            judged.metric, judged.agreement or 0.0, judged.output_sqnr_db or 0.0,
        )  # fmt: skip
        print(f"  {bits} {family}, {method}: {row.metric:.2f} {row.agreement:.2f} {row.output_sqnr_db:.2f}", flush=True)
        return row

    def _saved(self, what: str, scheme: str, compute: Callable[[], Evaluation]) -> Evaluation:
        path = Path("runs/overq") / self.task.name / f"{key_of(what, scheme, *self.key)}.json"
        if not path.exists():
            write_json(path, compute())
        return read_json(path, Evaluation)


def whole(scheme: str, kept: tuple[str, ...] = ()) -> str:
    """A recipe: the scheme, with 8-bit integers in the first and last layer and in those `kept`."""
    rules = "".join(f"Rule({layers!r}, integer(8, 8)), " for layers in ("first", "last", *kept))
    return f"Recipe(({rules}Rule('*', {scheme})))" if kept else f"kept_ends({scheme}, integer(8, 8))"


def network_deviations(bench: Bench, scheme: Callable[[str], str]) -> float:
    """The one k for all layers whose outputs on calibration images come nearest to the float network's."""
    trials = {k: bench.selecting(whole(scheme(f"Deviations(({k},))"))) for k in bench.plan.counts}
    return max(trials, key=lambda k: trials[k].output_sqnr_db or 0.0)


def family_rows(bench: Bench, bits: int, family: str, methods: Methods, *, signed: bool) -> list[Row]:
    """One kind of lanes with its range found by each method."""
    template = FAMILIES["RO c=4 + PR" if family == SIGNED else family]

    def scheme(range: str) -> str:
        return template.format(bits=bits, range=range, signed=signed)

    rows = []
    for method, range in methods.items():
        label = method
        if method == ONE_K:
            k = network_deviations(bench, scheme)
            label, range = f"one k = {k:g}", f"Deviations(({k},))"
        rows.append(bench.row(bits, family, label, whole(scheme(range))))
    return rows


def best(rows: list[Row], family: str, bits: int) -> Row:
    """The range method that calibration images select."""
    found = [r for r in rows if r.family == family and r.bits == bits and r.network == "as trained"]
    return max(found, key=lambda row: row.calibration_sqnr_db)


def family_stages(bench: Bench) -> Iterator[list[Row]]:
    """Each kind of lanes at each width."""
    is_signed = [bench.seen[name].low < 0 for name in bench.inner]  # type: ignore[union-attr]
    print(f"{bench.task.name}: {sum(is_signed)} of {len(is_signed)} inner layers have negative inputs", flush=True)
    yield [bench.row(8, "integers", "integer's own", whole("integer(8, 8)"))]
    for bits in bench.plan.bits:
        for family, methods in bench.plan.families.items():
            yield family_rows(bench, bits, family, methods, signed=all(is_signed))
        if any(is_signed) and not all(is_signed):
            yield family_rows(bench, bits, SIGNED, bench.plan.families["RO c=4 + PR"], signed=True)


def further_stages(bench: Bench, rows: list[Row]) -> Iterator[list[Row]]:
    """What builds on the rows that were selected, and other schemes."""
    if bench.plan.isolated:
        yield isolated_rows(bench, 4, rows)
    for how, change in splits(bench).items():
        divided = bench.split(how, change)
        for bits in bench.plan.bits:
            chosen = best(rows, CLIPPING, bits)
            scheme = per_tensor(chosen.scheme) if "weight" in how else chosen.scheme
            yield [divided.row(bits, how, chosen.method, scheme)]
    for bits in bench.plan.bits if bench.plan.tensor_weights else ():
        for family in (CLIPPING, "RO c=4 + PR"):
            chosen = best(rows, family, bits)
            share = per_tensor(chosen.scheme)
            yield [bench.row(bits, f"{family}, weights per tensor", chosen.method, share)]
    for scheme in bench.plan.beyond:
        yield [bench.row(3 if "4, 3" in scheme else 4, "4-bit weights", "its own", whole(scheme))]


def per_tensor(scheme: str) -> str:
    """The scheme with one weight scale a tensor."""
    return scheme.replace(", input_range", ", weight_share=PerTensor(), input_range")


def isolated_rows(bench: Bench, bits: int, rows: list[Row]) -> list[Row]:
    """The best clipping and the best OverQ again, with kinds of layers taken out of the comparison."""
    families = [f for f in (CLIPPING, "RO c=4 + PR", SIGNED) if any(r.family == f for r in rows)]
    return [
        bench.row(bits, f"{family}; {label}", found.method, whole(inner_scheme(found.scheme), kept))
        for label, kept in bench.plan.isolated.items()
        for family in families
        for found in [best(rows, family, bits)]
    ]


def inner_scheme(recipe: str) -> str:
    """What `whole` was made of."""
    return recipe.removeprefix("kept_ends(").removesuffix(", integer(8, 8))")


def splits(bench: Bench) -> dict[str, Callable[[nn.Module, tuple[str, ...]], nn.Module]]:
    """Outlier channel splitting: of inputs at two ratios, and of weights as published."""
    magnitudes = input_magnitudes(bench.model, bench.calibration, bench.run)

    def inputs(ratio: float) -> Callable[[nn.Module, tuple[str, ...]], nn.Module]:
        return lambda model, layers: split_input_channels(model, ratio, magnitudes, layers=layers)

    def weights(model: nn.Module, layers: tuple[str, ...]) -> nn.Module:
        return split_weight_channels(model, 0.05, 8, layers=layers)

    made = dict(zip(SPLITS, (inputs(0.02), inputs(0.05), weights), strict=True))
    return {how: made[how] for how in bench.plan.splits}


def verified(bench: Bench, scheme: str) -> Checked:
    """One row simulated and exact on the first test images."""
    batches, outputs, left = [], [], bench.plan.exact_samples
    for batch, output in zip(bench.against.batches, bench.against.outputs, strict=True):
        if left > 0:
            batches.append(batch.first(left))
            outputs.append(output[:left])
        left -= len(batch.targets)
    against = Reference(float("nan"), tuple(batches), tuple(outputs))
    part, name = replace(bench, against=against), f"-{against.samples}"
    exact = part._saved(f"exact{name}", scheme, lambda: evaluate(bench.task, freeze(bench.quantized(scheme)), against))
    return Checked(against.samples, part.judging(scheme), exact)


def write_csv(path: Path, columns: list[str], rows: list[dict[str, object]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def write(bench: Bench, rows: list[Row], layers: list[dict[str, object]], checked: Checked | None) -> None:
    """The tables as far as they are."""
    name = bench.task.name
    common = {"task": name, "samples": bench.against.samples, "float_metric": bench.against.metric}
    write_csv(RESULTS / f"overq_{name}.csv", [*common, *Row.__dataclass_fields__], [common | asdict(r) for r in rows])
    if layers:
        write_csv(RESULTS / f"overq_{name}_layers.csv", LAYER_COLUMNS, layers)
    (RESULTS / f"overq_{name}.md").write_text(task_table(bench, rows, layers, checked))
    (RESULTS / "overq.md").write_text(overview(RESULTS, PLANS))


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    for name in names or PLANS:
        bench = Bench.of(TASKS[name], PLANS[name])
        rows: list[Row] = []
        for found in family_stages(bench):
            rows += found
            write(bench, rows, [], None)
        layers = [
            line for bits in bench.plan.bits for line in layer_rows(bench, bits, best(rows, "RO c=4", bits).scheme)
        ]
        for found in further_stages(bench, rows):
            rows += found
            write(bench, rows, layers, None)
        write(bench, rows, layers, verified(bench, best(rows, "RO c=4 + PR", 4).scheme))
        print(name, "done", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
