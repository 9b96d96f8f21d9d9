"""Term Revealing's results on the networks at hand: results/term_revealing_*.md, each beside the published figures.

    BITWRIGHT_DATA=<folder> python experiments/term_revealing.py [mlp] [cnns] [groups] [charlstm] [wordlstm]

Rows are kept under runs/term_revealing/ and read again; delete a folder there to compute its rows anew. Published:
H. T. Kung et al., SC 2020, arXiv:2007.06389, from results/*.json of BradMcDanel/term-quantization@c2c4a1e.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import term_revealing_setup as setup
import torch
from term_revealing_setup import RUNS, Point, markdown, plain, published, write
from torch import Tensor, nn

from bitwright.formats import Format
from bitwright.model.evaluate import Reference, evaluate, reference
from bitwright.model.layers import FakeQuantizedLayer, QuantizedLayer
from bitwright.model.prepare import freeze, observe, prepare, resolve
from bitwright.model.task import Batch, Metric, Task, Top1
from bitwright.model.term_pairs import term_pairs
from bitwright.model.transform import fold_batchnorm
from bitwright.model.watch import watch
from bitwright.model.zoo import TASKS
from bitwright.quantization import BySign, Granularity, RangeEstimator, Statistics
from bitwright.quantization.ranges import Error
from bitwright.recipe import Recipe
from bitwright.scheme import Scheme
from bitwright.schemes.term_revealing import Recoding
from bitwright.store import key_of, read_json, write_json

BUDGETS, LARGE_BUDGETS = (8, 10, 12, 14, 16, 20, 24), (12, 16, 20, 24)
CNNS: dict[str, tuple[int | None, tuple[int, ...]]] = {
    "lenet": (None, BUDGETS), "fashion_cnn": (2000, BUDGETS), "resnet20": (None, BUDGETS), "resnet32": (None, BUDGETS),
    "resnet8": (None, BUDGETS), "mobilenetv1_vww": (None, BUDGETS), "dscnn_kws": (None, BUDGETS),
    "tiny_darknet": (100, BUDGETS), "mobilenetv2": (100, LARGE_BUDGETS), "efficientnet_lite0": (100, LARGE_BUDGETS),
}  # fmt: skip
"""Test samples (None: all) and budgets, which for the large mobile networks are the paper's."""

GROUP_TASKS = {"resnet20_jpeg": 1000, "resnet32": None}  # test samples


@dataclass(frozen=True)
class Row:
    """What an operating point does to a network."""

    metric: float
    agreement: float  # per cent of decisions equal to the float network's
    decisions: int
    macs: float  # a sample or word, of layers that have a budget
    macs_alone: float  # of depthwise layers, which have none
    counted: float | None  # term pairs of layers with a budget that really occur; None where data are in float


@dataclass(frozen=True)
class Check:
    """The exact datapath beside the simulation on the first samples."""

    samples: int
    difference: float  # largest of a layer's outputs on one input, over the largest output
    differing: int  # decisions of the whole network, where a layer's difference may tip the next one's rounding

    def cells(self) -> list[object]:
        return [self.samples, f"{self.difference:.1e}", self.differing]


LAW = "exact datapath beside simulation | samples | largest difference of a layer, equal inputs | differing decisions"


@dataclass(frozen=True)
class Remembered(RangeEstimator):
    """Another estimator, asked once for each sample and format: rows often differ in their weights alone."""

    inner: RangeEstimator
    known: dict = field(compare=False)

    def magnitude(self, seen: Statistics, share: Granularity, format: Format, error: Error) -> np.ndarray:
        key = (id(seen), format)
        if key not in self.known:
            self.known[key] = self.inner.magnitude(seen, share, format, error)
        return self.known[key]


@dataclass(frozen=True)
class Bench:
    """One float network and the layers that are quantized in it; rows are computed once and kept in a folder."""

    task: Task
    around: Callable[[Scheme], Recipe]
    folder: Path
    limit: int | None = None
    words: bool = False  # figures are for a word, not for a sample
    known: dict = field(default_factory=dict, compare=False)

    def rows(self, points: Iterable[Point]) -> dict[Point, Row]:
        return {point: self._kept(str(point), Row, lambda point=point: self._row(point), point) for point in points}

    def float_metric(self) -> float:
        return self._kept("float", Row, lambda: Row(self._against.metric, 100.0, 0, 0.0, 0.0, None)).metric

    def check(self, point: Point, samples: int) -> Check:
        return self._kept(f"exact {point}", Check, lambda: self._check(point, samples), point)

    def _kept(self, what: str, kind: type, compute: Callable, point: Point | None = None):
        path = self.folder / f"{what.replace(' ', '_')}-{key_of(repr(point), self.task.name, self.limit)}.json"
        if not path.exists():
            found = compute()
            write_json(path, found)
            print(f"{self.folder.name}: {what}: {found}", flush=True)
        return read_json(path, kind)

    def _row(self, point: Point) -> Row:
        prepared = self._prepared(point)
        batch = self._against.batches[0].first(1)
        unit = batch.tensors[0].shape[1] if self.words else 1
        layers = {str(m.name): m for m in prepared.modules() if isinstance(m, FakeQuantizedLayer)}
        macs: Counter = Counter()

        def see(layer: FakeQuantizedLayer, x: Tensor) -> None:
            gemm = layer.lowering.gemm(x, layer.weight)
            macs[_has_budget(layer)] += gemm.m * gemm.k * gemm.n * gemm.groups * len(x)

        watch(self.task, prepared, layers.values(), batch, see)
        counts = [t.counted for t in term_pairs(self.task, prepared, batch) if _has_budget(layers[t.name])]
        found = evaluate(self.task, prepared, self._against)
        decisions = sum(int((b.targets >= 0).sum()) for b in self._against.batches)
        counted = sum(counts) / unit if counts else None
        return Row(found.metric, found.agreement, decisions, macs[True] / unit, macs[False] / unit, counted)

    @torch.no_grad()
    def _check(self, point: Point, samples: int) -> Check:
        prepared = self._prepared(point)
        frozen, batch, worst = freeze(prepared), next(iter(self.task.test(samples))), 0.0
        layers = {str(m.name): m for m in prepared.modules() if isinstance(m, FakeQuantizedLayer)}
        exact = {str(m.name): m for m in frozen.modules() if isinstance(m, QuantizedLayer)}

        def see(layer: FakeQuantizedLayer, x: Tensor) -> None:
            nonlocal worst
            simulated = FakeQuantizedLayer.forward(layer, x)  # not through the hook that calls this
            worst = max(worst, float((simulated - exact[str(layer.name)](x)).abs().max() / simulated.abs().max()))

        watch(self.task, prepared, layers.values(), batch, see)
        a, b = (self.task.forward(model, batch) for model in (prepared, frozen))
        agreed = self.task.metric.agreement(b, a, batch.targets)
        return Check(len(batch.targets), worst, int((agreed == 0).sum()))

    def _prepared(self, point: Point) -> nn.Module:
        model, calibration, seen = self._calibrated
        return resolve(prepare(model, self._recipe(point), calibration[0].first(1).inputs), seen)

    def _recipe(self, point: Point) -> Recipe:
        scheme = point.scheme()
        assert isinstance(scheme.input, BySign)
        choices = [
            replace(q, scales=tuple(replace(s, range=Remembered(s.range, self.known)) for s in q.scales))
            for q in (scheme.input.unsigned, scheme.input.signed)
        ]
        return self.around(replace(scheme, input=BySign(*choices)))

    @cached_property
    def _calibrated(self) -> tuple[nn.Module, tuple[Batch, ...], dict]:
        calibration = tuple(self.task.calibration())
        example = calibration[0].first(1).inputs
        model = fold_batchnorm(self.task.load(), example)
        prepared = prepare(model, self._recipe(Point(8, 8)), example)
        return model, calibration, observe(prepared, calibration, self.task.forward)

    @cached_property
    def _against(self) -> Reference:
        return reference(self.task, self.task.load(), self.limit)


def _has_budget(layer: FakeQuantizedLayer) -> bool:
    """Depthwise layers have none: a filter's taps are no neighbours."""
    return layer.lowering.has_neighbours(layer.weight)


def by_agreement(reference: Row) -> Callable[[Row], bool]:
    """Whether a row agrees with the float network as QT does, less one standard error, at least one decision."""
    share, n = reference.agreement / 100, reference.decisions
    margin = 100 * max((share * (1 - share) / n) ** 0.5, 1 / n)
    return lambda row: row.agreement >= reference.agreement - margin - 1e-9


class Iso(NamedTuple):
    """One plain quantization and what TR needs to be as good."""

    network: str
    bits: int
    row: Row
    by_metric: setup.Cheapest | None
    by_agreement: setup.Cheapest | None
    whole: float | None  # with depthwise layers at all their bits; this and the next of the point that agrees
    counted: float | None  # of term pairs that really occur, in place of bounds

    def cells(self) -> list[object]:
        row, times = self.row, [f"{x:.2f}×" if x else "–" for x in (self.whole, self.counted)]
        found = [self.by_metric or "none", self.by_agreement or "none"]
        about = [self.network, row.decisions, f"{self.bits} bit", f"{row.metric:#.5g}", f"{row.agreement:.2f}"]
        return [*about, *found, *times]


ISO = "network | N | QT | its metric | its agreement | cheapest TR by metric | by agreement | with depthwise layers | \
counted, not bounded"


def iso(name: str, metric: Metric, rows: dict[Point, Row]) -> list[Iso]:
    """One line for each QT that TR is measured against."""
    lines = []
    pairs = {p: p.pairs(r.macs) for p, r in rows.items()}
    whole = {p: pairs[p] + replace(p, group=1, budget=None).pairs(r.macs_alone) for p, r in rows.items()}
    for bits in (8, 7):
        row, measured = plain(rows, bits), setup.as_good(metric, rows, pairs, bits)
        agreed = setup.cheapest(pairs, [p for p, r in rows.items() if by_agreement(row)(r)], bits)
        whole_times = plain(whole, bits) / whole[agreed.point] if agreed and row.macs_alone else None
        counted = row.counted / rows[agreed.point].counted if agreed and row.counted else None
        lines.append(Iso(name, bits, row, measured, agreed, whole_times, counted))
    return lines


def conclusion(lines: list[Iso]) -> str:
    """What the table says, in one sentence a criterion."""
    text, of_8 = [], [line for line in lines if line.bits == 8]
    for criterion in ("metric", "agreement"):
        best = [b for line in of_8 if (b := getattr(line, f"by_{criterion}"))]
        text.append(f"- As good as QT 8 bit by {criterion}: {len(best)} of {len(of_8)} lines")
        if best:
            times, paper = [b.times for b in best], [b.times_of_7_bits for b in best]
            text[-1] += f", with {min(times):.1f} to {max(times):.1f} times fewer pairs (median {np.median(times):.1f})"
            text[-1] += f"; of 7·7 pairs, as the paper counts 8 bits, {min(paper):.1f} to {max(paper):.1f}."
    occurring = _span([line.row.counted / line.row.macs for line in of_8 if line.row.counted])
    fewer = _span([line.counted for line in of_8 if line.counted])
    text.append(f"""\
- Why: QT is charged {Point(8, 8).pairs(1):.0f} pairs a multiplication. Written in signed digits, {occurring} occur. A
  machine that skips zero digits ideally needs these alone, and of them the TR points that agree need {fewer} times
  fewer. TR's gain is a bound: no group exceeds it, so that all groups take the same time.
""")
    return "\n".join(text)


def _span(values: list[float]) -> str:
    return " to ".join(dict.fromkeys((f"{min(values):.2f}", f"{max(values):.2f}"))) if values else "–"


def mlp() -> None:
    (task, log), paper = setup.mlp(), published("MLP")
    as_there = {point: replace(point, recoding=Recoding.HESE_ARTIFACT) for point in paper}
    rows = Bench(task, Recipe.uniform, RUNS / "mlp_uniform").rows(paper)
    artifact = Bench(task, setup.weights_alone, RUNS / "mlp_weights_alone").rows(as_there.values())
    theirs = dict(zip(paper, artifact.values(), strict=True))
    pairs = {point: point.pairs(row.macs) for point, row in rows.items()}
    head = "point | term pairs (M) | published (M) | artifact's way (%) | published (%) | data quantized (%) | \
agreement (%) | parameter bits | published"
    lines = [
        [point, f"{pairs[point] / 1e6:.2f}", f"{figure.pairs / 1e6:.2f}", f"{theirs[point].metric:.2f}", figure.metric,
         f"{rows[point].metric:.2f}", f"{rows[point].agreement:.2f}",
         setup.parameter_bits(task.load(), as_there[point]), figure.parameter_bits]
        for point, figure in paper.items()
    ]  # fmt: skip
    ways = {"published": paper, "artifact's way": theirs, "data quantized": rows}
    good = {b: [setup.as_good(Top1(), way, pairs, b) or "none" for way in ways.values()] for b in (4, 3)}
    off = sorted(theirs[point].metric - figure.metric for point, figure in paper.items() if point.budget)
    about = f"""\
MNIST, 784-512-512-10, {rows[Point(4, 6, 16)].decisions} test images; one training (seed {log["seed"]}) by the
artifact's recipe, {log["epochs"]} epochs, {log["seconds"]:.0f} s: {log["accuracy"]:.2f} % in float. The artifact's
way: weights alone, in its recoding, and data in float. Data quantized: both operands, in HESE.

- Term pairs are the published ones. TR's accuracies differ from those by {off[0]:+.2f} to {off[-1]:+.2f} points.
- Parameter bits are not the published ones: they count what is left of the trained weights, which are others.
"""
    best = ([f"{bits} bit", *found] for bits, found in good.items())
    first = markdown("cheapest TR within 0.1 point of QT | " + " | ".join(ways), best)
    write("mlp", about, first, markdown(head, lines))


def cnns() -> None:
    lines, grids, checks = [], [], []
    for name, (limit, budgets) in CNNS.items():
        bench = Bench(TASKS[name], setup.ends_in_float, RUNS / name, limit)
        revealed = [Point(8, 8, 8, k, s) for s in (2, 3, 4) for k in budgets]
        rows = bench.rows([*(Point(b, 8) for b in (5, 6, 7, 8)), *revealed])
        checks.append([name, *bench.check(Point(8, 8, 8, 12, 3), 20).cells()])
        lines += iso(name, bench.task.metric, rows)
        grids.append(grid(name, rows, bench.float_metric()))
        paper = setup.published_iso(Top1(), "ResNet-18", "VGG-16", "MobileNet-v2")
        table = markdown(ISO, [line.cells() for line in lines] + paper)
        write("cnns", ABOUT_CNNS, conclusion(lines), table, markdown(LAW, checks), *grids)


def grid(name: str, rows: dict[Point, Row], float_metric: float) -> str:
    """Metric and agreement by budget and data terms."""
    row = plain(rows, 8)
    about = f"{row.macs / 1e6:.2f} M multiplications in layers with a budget, {row.macs_alone / 1e6:.2f} M depthwise"
    qt, lines = [[f"{r.metric:#.5g} ({r.agreement:.1f})" for p, r in rows.items() if p.budget is None]], []
    for s in dict.fromkeys(p.data_terms for p in rows if p.budget):
        of = [(p, r) for p, r in rows.items() if p.budget and p.data_terms == s]
        lines.append([f"s={s}" if s else "all", *(f"{r.metric:#.5g} ({r.agreement:.1f})" for _, r in of)])
        lines.append(["pairs (M)", *(f"{p.pairs(r.macs) / 1e6:.4g}" for p, r in of)])
    plains = " | ".join(f"QT {p.weight_bits} bit" for p in rows if p.budget is None)
    qt_pairs = Point(8, 8).pairs(row.macs) / 1e6
    head = f"Metric (agreement), in float {float_metric:#.5g}; {about}; QT 8 bit: {qt_pairs:.4g} M pairs."
    budgets = " | ".join(f"k={k}" for k in dict.fromkeys(p.budget for p in rows if p.budget))
    return f"## {name}\n\n{head}\n\n" + markdown(plains, qt) + markdown("data terms | " + budgets, lines)


ABOUT_CNNS = """\
Weights and data of 8 bits in groups of 8; QT has weights of fewer bits and data of 8, as the artifact. The first
convolution and the classifier stay in float and are not counted, as there; depthwise layers are quantized without a
budget and counted in a column of their own. Calibrated on training images as `bitwright.model.zoo.real` says. By
metric: within 0.1 point of QT, the paper's way, which is below the noise of these samples. By agreement: as often the
float network's class as QT, less one standard error.
"""

ABOUT_GROUPS = """\
Accuracy in % (agreement with the float network), weights of 9 bits, data of 8 and s=3, first and last layer in float.
α is the budget a weight, k = round(α·g) as the artifact rounds. First: agreement, the mean over g=2 to 32. As
published, single weights lose most at small α, groups of 8 and more little, and from α=2 on groups hardly matter.
Signed digits make small budgets work: plain bits lose far more, Booth's lie between. HESE and the artifact's differ
little, but at one term a weight, where the artifact's truncation is nearer (11 becomes 8 there and 16 in HESE).
"""


def groups() -> None:
    """Group sizes at equal budgets a weight, as the paper studies them on ResNet-18."""
    sizes, shares, tables, means = (1, 2, 8, 16, 32), (1.0, 1.25, 1.5, 2.0, 3.0), [], []
    head = "g | " + " | ".join(f"α={share:g}" for share in shares)
    budget = {(g, share): round(share * g) for g in sizes for share in shares}
    paper = {(p.group, p.budget): figure.metric for p, figure in published("ResNet-18 groups").items()}
    tables.append("## ResNet-18, published\n\n" + markdown(
        head, ([g, *(f"{paper[g, budget[g, share]]:.2f}" for share in shares)] for g in sizes)
    ))  # fmt: skip
    for name, limit in GROUP_TASKS.items():
        bench = Bench(TASKS[name], setup.ends_in_float, RUNS / f"groups_{name}", limit)
        qt = plain(bench.rows([Point(9, 8)]), 9)
        float_metric = bench.float_metric()
        about = f"{qt.decisions} images; float {float_metric:.2f}; QT 9 bit: {qt.metric:.2f} ({qt.agreement:.1f})"
        for recoding in (Recoding.HESE, Recoding.HESE_ARTIFACT, Recoding.BINARY, Recoding.BOOTH):
            points = {key: Point(9, 8, key[0], k, 3, recoding) for key, k in budget.items()}
            rows = bench.rows(points.values())
            cells = {key: f"{rows[p].metric:.2f} ({rows[p].agreement:.1f})" for key, p in points.items()}
            table = markdown(head, ([g, *(cells[g, share] for share in shares)] for g in sizes))
            tables.append(f"## {name}, {recoding.name}\n\n{about}\n\n{table}")
            mean = [np.mean([rows[points[g, share]].agreement for g in sizes[1:]]) for share in shares]
            means.append([name, recoding.name, *(f"{value:.2f}" for value in mean)])
            write("groups", ABOUT_GROUPS, markdown("network | recoding | " + head.removeprefix("g | "), means), *tables)


ABOUT_LSTM = """
Each product of the LSTM (W_ih x, W_hh h, layer by layer) and the last layer is quantized with its data, 8 bits, in
groups of 8, and counted; embeddings are looked up in float. By metric: within 0.1 at the published perplexity, the
same share of another. By agreement: as often the float network's next symbol as QT, less one standard error.
"""


def lstm(part: str, task: Task, limit: int | None, about: str) -> None:
    """With all data terms, as published, and with fewer; of the word network also the artifact's way."""
    lines, grids, checks = [], [], []
    ways = {part: (setup.tables_in_float, Recoding.HESE, (None, 3, 2))}
    if part == "wordlstm":
        ways["wordlstm as the artifact"] = setup.artifact_lstm, Recoding.HESE_ARTIFACT, (None,)
    for name, (around, recoding, terms) in ways.items():
        bench = Bench(task, around, RUNS / f"{part}_{around.__name__}", limit, words=True)
        points = [Point(b, 8, recoding=recoding) for b in (5, 6, 7, 8, 9)]
        points += [Point(8, 8, 8, k, s, recoding) for s in terms for k in (8, 12, 16, 20, 24)]
        rows = bench.rows(points)
        checks.append([name, *bench.check(Point(8, 8, 8, 12, None, recoding), 2).cells()])
        lines += iso(f"{name}, all data terms", task.metric, {p: r for p, r in rows.items() if p.data_terms is None})
        lines += iso(f"{name}, fewer data terms", task.metric, rows) if len(terms) > 1 else []
        grids.append(grid(name, rows, bench.float_metric()))
        table = markdown(ISO, [line.cells() for line in lines] + setup.published_iso(task.metric, "LSTM"))
        write(part, about + "\n" + ABOUT_LSTM, conclusion(lines), table, markdown(LAW, checks), *grids)


def charlstm() -> None:
    lstm("charlstm", TASKS["charrnn"], 50, "`charrnn` on 50 streams of its own training text; figures per character.")


def wordlstm() -> None:
    task, log = setup.word_lstm()
    about = f"""\
{setup.WordRecipe()} trained on {log["training_words"]} words of WikiText-2's validation text, as its training text is
not at hand: {log["words"]} words in the vocabulary, {log["seconds"]:.0f} s on a shared core, perplexity
{log["held_out_perplexity"]:.1f} on the held-out rest. Scored on the first words of the test text, figures per word. As
the artifact: weights of layer 0 and of the decoder in its recoding, layer 1 and data in float."""
    lstm("wordlstm", task, 40, about)


PARTS = {part.__name__: part for part in (mlp, cnns, groups, charlstm, wordlstm)}

if __name__ == "__main__":
    torch.set_num_threads(1)
    for chosen in sys.argv[1:] or PARTS:
        PARTS[chosen]()
