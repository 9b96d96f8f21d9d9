"""The page and the CSV files of a sweep over accumulator widths, in the style of the comparison's report."""

import csv
from pathlib import Path

from bitwright.report import notation, overflow
from bitwright.report.overflow import named
from bitwright.report.provenance import facts
from bitwright.report.rendering import write_page
from bitwright.result import OverflowSweep


def write_report(sweep: OverflowSweep, path: Path) -> None:
    """One HTML file that fetches nothing; the same sweep gives the same bytes. Needs the `report` extra."""
    figures = {
        "width-plot": overflow.over_width(sweep),
        "rates-plot": overflow.rates(sweep),
        "needed-plot": overflow.histograms(sweep),
    }
    write_page("overflow.html.j2", path, figures, **_context(sweep))


def write_csv(sweep: OverflowSweep, path: Path) -> None:
    """One line per register: full precision, empty where there is no value."""
    plain = ["behaviour", "bits", "metric", "agreement", "overflow_rate"]
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        layers = [layer.name for layer in sweep.layers]
        rows.writerow([*plain, "samples", "float_metric", *(f"overflow_rate {name}" for name in layers)])
        for p in sweep.points:
            rates = p.layer_rates or [None] * len(layers)
            rows.writerow([*(getattr(p, key) for key in plain), sweep.info.samples, sweep.info.float_metric, *rates])


def write_needed_bits_csv(sweep: OverflowSweep, path: Path) -> None:
    """One line per layer: how many complete sums need one bit, two, three, ..."""
    last = max(len(layer.counts) for layer in sweep.layers)
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["layer", "k", "proved_bits", *(f"sums of {bits} bits" for bits in range(1, last + 1))])
        for layer in sweep.layers:
            rows.writerow([layer.name, layer.k, layer.proved, *layer.counts, *[0] * (last - len(layer.counts))])


def lines(sweep: OverflowSweep) -> list[str]:
    """The tables and the finding as text."""
    info = sweep.info
    unit = f" {info.metric_unit}" if info.metric_unit else ""
    return [
        f"{info.task} under {sweep.scheme}: float {info.metric} {notation.decimal(info.float_metric, 2)}{unit}, "
        f"{info.samples} samples",
        "",
        f"{info.metric}{f' in {info.metric_unit}' if unit else ''} by bits of the accumulator",
        *_aligned(*table(sweep)),
        "",
        "bits of complete sums, and per cent of them that need more",
        *_aligned(*layer_table(sweep)),
        "",
        overflow.finding(sweep).text,
    ]


def _aligned(headings: list[str], lines: list[list[str]]) -> list[str]:
    every = [headings, *lines]
    spans = [max(len(line[i]) for line in every) for i in range(len(headings))]
    cells = [[text.ljust(n) if i == 0 else text.rjust(n) for i, (text, n) in enumerate(zip(line, spans))]
             for line in every]  # fmt: skip
    return ["  ".join(line).rstrip() for line in cells]


def table(sweep: OverflowSweep) -> tuple[list[str], list[list[str]]]:
    """Headings and lines, widest register first: metric of each behaviour, and overflow where it is counted."""
    counted = {name: any(p.overflow_rate is not None for p in overflow.of(sweep, name)) for name in sweep.behaviours}
    headings = ["bits"]
    for name in sweep.behaviours:
        headings += [named(name), *(["overflow %"] if counted[name] else [])]
    lines = []
    for bits in reversed(overflow.widths(sweep)):
        line = [str(bits)]
        for name in sweep.behaviours:
            point = next((p for p in overflow.of(sweep, name) if p.bits == bits), None)
            line.append(notation.DASH if point is None else notation.decimal(point.metric, 2))
            if counted[name]:
                rate = None if point is None else point.overflow_rate
                line.append(notation.DASH if rate is None else notation.per_cent(rate))
        lines.append(line)
    return headings, lines


def layer_table(sweep: OverflowSweep) -> tuple[list[str], list[list[str]]]:
    """Headings and lines: what each layer needs, and the share of its sums beyond the widths of the sweep."""
    shown = [bits for bits in reversed(overflow.widths(sweep)) if any(len(la.counts) > bits for la in sweep.layers)]
    headings = ["layer", "K", "proved", "reached", *(f">{bits}" for bits in shown)]
    lines = [
        [layer.name, str(layer.k), str(layer.proved), str(len(layer.counts)),
         *(notation.per_cent(overflow.beyond(layer, bits)) for bits in shown)]
        for layer in sweep.layers
    ]  # fmt: skip
    return headings, lines


def _context(sweep: OverflowSweep) -> dict:
    info = sweep.info
    proved, reached = (max(v) for v in zip(*((la.proved, len(la.counts)) for la in sweep.layers)))
    unit = f"\u00a0{info.metric_unit}" if info.metric_unit else ""
    return {
        "info": info,
        "scheme": sweep.scheme,
        "finding": overflow.finding(sweep),
        "statistics": [
            (f"float {info.metric}", f"{notation.decimal(info.float_metric, 2)}{unit}", info.evaluation),
            ("test samples", f"{info.samples:,}", f"{info.calibration_samples:,} for calibration"),
            ("proved", f"{proved} bits", "never overflow, for any input"),
            ("reached", f"{reached} bits", "by complete sums of these samples"),
            ("registers", str(len(sweep.points)), notation.plural(len(sweep.behaviours), "behaviour")),
        ],
        "behaviours": [(overflow.families(sweep)[name], meaning) for name, meaning in sweep.behaviours.items()],
        "table": table(sweep),
        "layers": layer_table(sweep),
        "facts": [("scheme", sweep.scheme), *facts(info)],
    }
