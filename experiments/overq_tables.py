"""What experiments/overq.py writes: figures of each layer, one table a task, and the overview of all tasks."""

import csv
import itertools
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from statistics import mean, median

import numpy as np

from bitwright import kernels
from bitwright.model.layers import FakeQuantizedLayer
from bitwright.schemes.overq import Overwrite, expected_coverage

CASCADES = (1, 2, 4, 8)
ORDERS = ("reordered", "independent", "mixed")
CLIP, RO, BOTH = (
    "integer(8, {0}, input_range=Deviations())",
    "overq({0}, cascade=4, signed=True, input_range=Deviations())",
    "overq({0}, cascade=4, precision_overwrite=True, signed=True, input_range=Deviations())",
)
LAYER_COLUMNS = [
    "task", "bits", "layer", "channels", "inputs", "range", "zeros", "outliers",
    *(f"coverage_{c}" for c in CASCADES), *(f"expected_{c}" for c in CASCADES), "endless_4",
    *(f"{o}_4" for o in ORDERS),
    "sqnr_clipping_db", "sqnr_ro_db", "sqnr_ro_pr_db",
]  # fmt: skip


def layer_rows(bench, bits: int, scheme: str) -> list[dict[str, object]]:
    """Coverage at the ranges of the selected scheme, and input SQNR of three kinds of lanes at ranges of their own."""
    ranged = _layers(bench.quantized(scheme.replace("signed=False", "signed=True")))
    others = [_layers(bench.quantized(f"kept_ends({t.format(bits)}, integer(8, 8))")) for t in (CLIP, RO, BOTH)]
    rows = []
    for name in bench.inner:
        layer, x = ranged[name], bench.seen[name].sample
        line = {"task": bench.task.name, "bits": bits, "layer": name, "channels": x.shape[1]}
        line["inputs"] = "signed" if bench.seen[name].low < 0 else "unsigned"
        line["range"] = float(layer.input_ranges[0].magnitude.max())
        format = layer.input_quantizer.format
        if isinstance(format, Overwrite):
            line |= _coverage(format, x / np.float32(line["range"] / format.full_scale), layer.input_quantizer.rounding)
        else:
            line["inputs"] += ", depthwise"
        for column, found in zip(LAYER_COLUMNS[-3:], others, strict=True):
            line[column] = _sqnr_db(found[name], x)
        rows.append(line)
    return rows


def _layers(prepared) -> dict[str, FakeQuantizedLayer]:
    return {m.name: m for m in prepared.modules() if isinstance(m, FakeQuantizedLayer)}


def _coverage(format: Overwrite, level: np.ndarray, rounding) -> dict[str, object]:
    """Measured coverage, its formula for independent lanes, and coverage with the order of values destroyed.

    Reordered: the channels in another order. Independent: each channel's values over the pixels shuffled. Mixed: all
    values shuffled, where the formula must hold.
    """
    zero, outlier, wide = format.classes(level, rounding)
    found: dict[str, object] = {"zeros": float(zero.mean()), "outliers": float(outlier.mean())}
    if not outlier.any():
        return found
    generator = np.random.default_rng(0)
    for c in CASCADES:
        found[f"coverage_{c}"] = _covered(format, c, zero, outlier, wide)
        tile = min(format.tile or level.shape[1], level.shape[1])
        found[f"expected_{c}"] = expected_coverage(found["zeros"], found["outliers"], c, tile)
    found["endless_4"] = expected_coverage(found["zeros"], found["outliers"], 4)
    shuffled = (
        level[:, generator.permutation(level.shape[1])],
        generator.permuted(level, axis=0),
        generator.permutation(level.ravel()).reshape(level.shape),
    )
    for order, values in zip(ORDERS, shuffled, strict=True):
        found[f"{order}_4"] = _covered(format, 4, *format.classes(values, rounding))
    return found


def _covered(format: Overwrite, cascade: int, zero: np.ndarray, outlier: np.ndarray, wide: np.ndarray) -> float:
    donors = replace(format, cascade=cascade).donors(zero, outlier, wide)
    return float((donors > 0).sum() / outlier.sum())


def _sqnr_db(layer: FakeQuantizedLayer, x: np.ndarray) -> float:
    wrong = kernels.represent(layer.input_quantizer, x, layer.input_ranges) - x
    return 10 * math.log10(float(np.square(x, dtype=np.float64).sum() / np.square(wrong, dtype=np.float64).sum()))


def task_table(bench, rows: list, layers: list[dict[str, object]], checked) -> str:
    """One task as Markdown, as far as it is."""
    info, plan = bench.against, bench.plan
    error = _standard_error(info.metric, info.samples)
    lines = [
        f"# OverQ on {bench.task.name}", "",
        f"Float {bench.task.metric.name}: {info.metric:.2f} % on {info.samples} test images (standard error "
        f"{error:.1f} points); {sum(len(b.targets) for b in bench.calibration)} calibration images, the first "
        f"{bench.selection.samples} of them select k and the range method by the output's SQNR against the float",
        "network, without labels. Seed 0 (calibration's row sample and the shuffles). Weights: 8-bit integers a row",
        "unless said otherwise; first layer and classifier 8/8. Simulated evaluation.",
        f"Made by `python experiments/overq.py {bench.task.name}`.", "",
        _signs(bench), "",
        "**Bold** rows are what calibration selects in their family. One k was searched among "
        + ", ".join(f"{k:g}" for k in plan.counts) + ".", "",
    ]  # fmt: skip
    if checked:
        exact, simulated = checked.exact, checked.simulated
        lines += [
            f"Exact and simulated, selected RO c=4 + PR at 4 bits on the first {checked.samples} images: top-1 "
            f"{exact.metric:.2f} and {simulated.metric:.2f} %, agreement {exact.agreement:.2f} and "
            f"{simulated.agreement:.2f} %, output SQNR {exact.output_sqnr_db:.3f} and "
            f"{simulated.output_sqnr_db:.3f} dB",
            "(the simulation rounds its sums).",
            "",
        ]
    main = [r for r in rows if r.bits in (*plan.bits, 8) and r.family != "4-bit weights"]
    for bits in sorted({r.bits for r in main}, reverse=True):
        lines += [f"## {bits}-bit inputs", "", *_row_table(bench, [r for r in main if r.bits == bits]), ""]
    extra = [r for r in rows if r.family == "4-bit weights"]
    if extra:
        lines += ["## Beyond the paper: 4-bit weights, lanes of other schemes", ""]
        lines += [*_row_table(bench, extra, show_scheme=True), ""]
    if layers:
        lines += ["## Layers", "", *layer_summary(layers), ""]
    return "\n".join(lines)


def _signs(bench) -> str:
    negative = [bench.seen[name].low < 0 for name in bench.inner]
    if all(negative):
        return "All inner layers have negative inputs, which the paper's OverQ clips: RO rows have signed lanes, ours."
    if not any(negative):
        return "No inner layer has negative inputs."
    return (
        f"{sum(negative)} of {len(negative)} inner layers have negative inputs: clipped, but for rows of signed lanes."
    )


def _row_table(bench, rows: list, show_scheme: bool = False) -> list[str]:
    heads = ["scheme"] if show_scheme else ["lanes", "range"]
    heads += ["top-1 (%)", "Δ float", "agreement (%)", "output SQNR (dB)", "calibration SQNR (dB)"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows:
        same = [r for r in rows if r.family == row.family]
        is_best = len(same) > 1 and not show_scheme and row is max(same, key=lambda r: r.calibration_sqnr_db)
        mark = "**" if is_best else ""
        inner = row.scheme.removeprefix("kept_ends(").removesuffix(", integer(8, 8))")
        cells = [f"`{inner}`"] if show_scheme else [row.family, f"{mark}{row.method}{mark}"]
        cells += [
            f"{mark}{row.metric:.2f}{mark}", f"{row.metric - bench.against.metric:+.2f}", f"{row.agreement:.2f}",
            f"{row.output_sqnr_db:.2f}", f"{row.calibration_sqnr_db:.2f}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def layer_summary(layers: list[dict[str, object]]) -> list[str]:
    """Means over the layers of each kind of input; layers without outliers are counted and left out."""
    lines = [
        "At the ranges of the selected RO c=4, on calibration data; signed layers with signed lanes. Formula: exact",
        "for independent lanes in tiles of at most 128. Shuffled, at c=4: channels in another order, each channel's",
        "values over the pixels, all values. Input SQNR: mean over layers, each kind of lanes at its own k per layer.",
        "",
        "| bits | inputs | layers | with outliers | zeros, median | outliers, median | coverage c=1, 2, 4, 8 (%) | "
        "formula (%) | layers of at least 90 % at c=1, 2, 4, 8 | shuffled (%) | SQNR clipping, RO, RO + PR (dB) |",
        "|" + "---|" * 11,
    ]  # fmt: skip
    for bits, inputs in sorted({(row["bits"], row["inputs"]) for row in layers}, key=str):
        here = [row for row in layers if (row["bits"], row["inputs"]) == (bits, inputs)]
        found = [row for row in here if "coverage_1" in row]
        cells = [str(bits), str(inputs), str(len(here)), str(len(found))]
        cells += [f"{median(row[c] for row in here):.3f}" if "zeros" in here[0] else "–" for c in ("zeros", "outliers")]
        cells += [_means(found, [f"coverage_{c}" for c in CASCADES], 100)]
        cells += [_means(found, [f"expected_{c}" for c in CASCADES], 100)]
        cells += [", ".join(str(sum(row[f"coverage_{c}"] >= 0.9 for row in found)) for c in CASCADES) if found else "–"]
        cells += [_means(found, [f"{o}_4" for o in ORDERS], 100), _means(here, LAYER_COLUMNS[-3:], 1)]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _means(rows: list[dict[str, object]], columns: list[str], factor: float) -> str:
    return ", ".join(f"{factor * mean(row[c] for row in rows):.1f}" for c in columns) if rows else "–"


def _standard_error(percent: float, samples: int) -> float:
    return math.sqrt(percent * (100 - percent) / samples)


CLIPPING, LARGEST = "clipping", "RO c=4, largest"
OVERQ = ("RO c=1", "RO c=4", "RO c=4 + PR", "signed lanes, RO c=4 + PR")
SHOWN = (CLIPPING, *OVERQ, "OCS of inputs, 5 %")
READING = [
    "## Reading",
    "",
    "- Top-1 is the noisiest of the three figures: on CIFAR-10 clipping to 4 bits lies within two standard errors of",
    "  float already, so that only agreement and output SQNR tell lanes apart. The mean gain in top-1 is made by the",
    "  ImageNet networks, two of which clipping nearly destroys.",
    "- Most comes from cascading and from precision overwriting; a direct neighbour alone hardly pays. Where several",
    "  outliers reach one zero, giving it to the largest is worth a good part of a cascade step at no cost in slots.",
    "- The published coverage holds at c=4 for nearly all unsigned layers of middle width and half of the others.",
    "  Tiles of few channels end before a zero comes, the widest layers have fewer zeros; the formula says so. In",
    "  the narrowest layers the order of channels matters: measured coverage is better than the formula, and falls",
    "  with the channels in another order (one permutation, seed 0).",
    "- Inputs with a sign have fewer zeros and half as many levels a side: coverage stays below 90 % at c=4 in every",
    "  such layer measured. Without signed lanes OverQ leaves them clipped. Signed lanes still gain where clipping",
    "  destroys the network.",
    "- In MobileNetV2's linear bottlenecks coverage lies far below the formula. Shuffling each channel over the pixels",
    "  restores most of it and another order of channels nothing: outliers gather in the same pixels, where zeros are",
    "  few. Behind ReLU6 measured coverage is near the formula.",
    "- A depthwise layer has no neighbours in its sum and is clipped; the rows with such layers at 8 bits isolate it.",
    "- A range of least error is no good guide where few values carry most of the energy, as in the last bottleneck of",
    "  MobileNetV2: it keeps those and loses the others. One k for the network, chosen by its output, is.",
    "- State bits count: RO lanes carry one bit more, RO + PR lanes two, while they are stored encoded. Beside them",
    "  stands the row of 5-bit clipping, whose multipliers are one bit wider.",
    "- Splitting channels changes little here beside clipping; inputs and weights alike.",
    "- Vectors with scales of their own (VS-Quant) and flint lanes leave few outliers, so overwriting adds nothing;",
    "  integer lanes of OverQ with weights of VS-Quant are the better pair. See resnet8 and resnet20.",
    "- Exact and simulated evaluation agree layer by layer to float32 rounding. Where a network is nearly destroyed",
    "  their outputs still part: a sum rounded otherwise flips a coarse code, and later layers amplify it.",
    "- ACIQ's rows were made while its Laplace parameter counted the zeros of a ReLU, so that it clipped too tightly:",
    "  they say little about the method.",
]


def overview(folder: Path, planned: Iterable[str]) -> str:
    """All tasks in one table: what calibration selects in each family; figures of the others below."""
    tables = {path.stem.removeprefix("overq_"): list(csv.DictReader(path.open())) for path in _task_files(folder)}
    layers = [row for path in sorted(folder.glob("overq_*_layers.csv")) for row in csv.DictReader(path.open())]
    missing = ", ".join(task for task in planned if task not in tables)
    all_signed = [t for t in tables if {r["inputs"] for r in layers if r["task"] == t} == {"signed"}]
    lines = [
        "# OverQ on real networks", "",
        "Weights of 8 bits a row, inputs of 4 and 5 bits (3 too for the smallest), first layer and classifier 8/8.",
        "Clipping and OverQ have the same range searches: one k for the network, one a layer, least squared error with",
        "the encoder in the loop (few for large networks); clipping ACIQ and KL as well. Of each family the row that",
        "calibration images select, without labels. Cells: top-1 (%) / agreement with float (%) / output SQNR (dB); ±",
        f"is one standard error of top-1. {', '.join(all_signed) or 'No task'}: signed lanes in all OverQ columns.",
        f"Made by `python experiments/overq.py`. Not measured yet: {missing or 'none'}.", "",
        "| task | images | float | 8/8 | bits | " + " | ".join(SHOWN) + " | selected OverQ − clipping |",
        "|" + "---|" * (len(SHOWN) + 6),
    ]  # fmt: skip
    pairs = {}
    for task, rows in tables.items():
        eight = next(r for r in rows if r["bits"] == "8")
        for bits in sorted({r["bits"] for r in rows if r["family"] == CLIPPING}):
            chosen = {family: _chosen(rows, family, bits) for family in SHOWN}
            if over := [chosen[f] for f in OVERQ if chosen[f]]:
                pairs[task, bits] = chosen[CLIPPING], max(over, key=_selection)
            gain = " / ".join(f"{g:+.1f}" for g in _gain(*pairs[task, bits])) if over else "–"
            error = _standard_error(float(eight["float_metric"]), int(eight["samples"]))
            head = [f"[{task}](overq_{task}.md)", eight["samples"]]
            head += [f"{float(eight['float_metric']):.2f} ± {error:.1f}", _cell(eight), bits]
            lines.append("| " + " | ".join([*head, *map(_cell, chosen.values()), gain]) + " |")
    parts = (gains(tables, pairs), coverage_by_channels(layers), READING)
    return "\n".join([*lines, *itertools.chain.from_iterable(["", *part] for part in parts), ""])


def gains(tables: dict[str, list[dict[str, str]]], pairs: dict) -> list[str]:
    """What each step gives, as means over networks of differences in one table."""
    lines = ["## Differences", "", "Means over networks: top-1 (points) / agreement (points) / output SQNR (dB).", ""]
    for bits in sorted({bits for _, bits in pairs}):
        found = {task: pair for (task, width), pair in pairs.items() if width == bits}
        lines.append(f"- {bits} bits, selected OverQ − selected clipping, {', '.join(found)}: {_mean(found.values())}.")
    for before, after in (*itertools.pairwise(SHOWN[:5]), (CLIPPING, SHOWN[5])):
        steps = [(_chosen(rows, before, "4"), _chosen(rows, after, "4")) for rows in tables.values()]
        steps = [step for step in steps if all(step)]
        if steps:
            lines.append(f"- 4 bits, {after} − {before}, {len(steps)} networks: {_mean(steps)}.")
    pick = [[_row(rows, family, "k per layer") for family in ("RO c=4", LARGEST)] for rows in tables.values()]
    lines.append(f"- 4 bits, k per layer, the largest outlier − the leftmost: {_mean(p for p in pick if all(p))}.")
    top = [
        max(float(r["metric"]) for r in rows if r["family"] in OVERQ and r["bits"] == "4")
        - max(float(r["metric"]) for r in rows if r["family"] == CLIPPING and r["bits"] == "4")
        for task, rows in tables.items()
        if (task, "4") in pairs
    ]
    lines.append(f"- 4 bits, best top-1 of all OverQ rows − best of all clipping rows: {mean(top):+.1f} points.")
    wider = [
        (_chosen(rows, CLIPPING, "5"), pairs[task, "4"][1]) for task, rows in tables.items() if (task, "5") in pairs
    ]
    lines.append(f"- Selected OverQ of 4 bits − selected clipping of 5 bits: {_mean(wider)}.")
    for task, rows in tables.items():
        for family in dict.fromkeys(r["family"] for r in rows if "; " in r["family"]):
            row = next(r for r in rows if r["family"] == family)
            lines.append(f"- {task}, {row['bits']} bits, {family}: {_cell(row)}.")
    return lines


def coverage_by_channels(layers: list[dict[str, str]]) -> list[str]:
    """How many layers of each width reach the published coverage."""
    lines = [
        "## Coverage at 4 bits", "",
        "Published: more than 90 % of outliers at a modest cascade. At the ranges of the selected RO c=4:", "",
        "| inputs | channels | layers with outliers | zeros, outliers (%) | coverage c=1, 2, 4, 8 (%) | formula (%) | "
        "formula without tile ends, c=4 (%) | channels in another order, c=4 (%) | "
        "layers of at least 90 % at c=1, 2, 4, 8 |",
        "|" + "---|" * 9,
    ]  # fmt: skip
    found = [_numbers(row) for row in layers if row["bits"] == "4" and row["coverage_1"]]
    for inputs in sorted({row["inputs"] for row in found}, reverse=True):
        for low, high in itertools.pairwise((1, 17, 33, 65, 129, 1 << 20)):
            here = [row for row in found if row["inputs"] == inputs and low <= row["channels"] < high]
            if here:
                reached = ", ".join(str(sum(row[f"coverage_{c}"] >= 0.9 for row in here)) for c in CASCADES)
                cells = [inputs, f"{low}–{high - 1}" if high < 1 << 20 else f"{low} and more", str(len(here))]
                cells += [_means(here, ["zeros", "outliers"], 100)]
                cells += [_means(here, [f"{what}_{c}" for c in CASCADES], 100) for what in ("coverage", "expected")]
                cells += [_means(here, ["endless_4"], 100), _means(here, ["reordered_4"], 100), reached]
                lines.append("| " + " | ".join(cells) + " |")
    return lines


def _task_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("overq_*.csv") if not path.stem.endswith("_layers"))


def _numbers(row: dict[str, str]) -> dict[str, object]:
    texts = ("task", "layer", "inputs")
    return {key: value if key in texts else float(value or "nan") for key, value in row.items()}


def _selection(row: dict[str, str]) -> float:
    return float(row["calibration_sqnr_db"])


def _chosen(rows: list[dict[str, str]], family: str, bits: str) -> dict[str, str] | None:
    return max((r for r in rows if r["family"] == family and r["bits"] == bits), key=_selection, default=None)


def _row(rows: list[dict[str, str]], family: str, method: str) -> dict[str, str] | None:
    return next((r for r in rows if (r["family"], r["method"], r["bits"]) == (family, method, "4")), None)


def _gain(before: dict[str, str], after: dict[str, str]) -> list[float]:
    return [float(after[c]) - float(before[c]) for c in ("metric", "agreement", "output_sqnr_db")]


def _mean(pairs: Iterable) -> str:
    return " / ".join(f"{mean(column):+.1f}" for column in zip(*(_gain(*pair) for pair in pairs), strict=True))


def _cell(row: dict[str, str] | None) -> str:
    return "–" if row is None else " / ".join(f"{float(row[c]):.1f}" for c in ("metric", "agreement", "output_sqnr_db"))
