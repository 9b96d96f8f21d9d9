"""The page, the CSV file and the terminal's tables of a search."""

import csv
from collections.abc import Sequence
from pathlib import Path

from bitwright.report import notation, search
from bitwright.report.provenance import facts
from bitwright.report.rendering import write_page
from bitwright.report.search import three
from bitwright.result_search import Point, SearchResult

COLUMNS = ("mm²", "µJ", "ms", "kB", "sum bits", "array", "schemes")


def write_report(result: SearchResult, path: Path) -> None:
    """One HTML file that fetches nothing; the same search gives the same bytes. Needs the `report` extra."""
    figures = {
        "front-plot": search.front_plot(result),
        "designs-plot": search.layers_plot(result),
        "damage-plot": search.damage_plot(result),
    }
    write_page("search.html.j2", path, figures, **_context(result))


def write_csv(result: SearchResult, path: Path) -> None:
    """One line a design: figures, costs, limits that it breaks, and the scheme of each layer; full precision."""
    costs = ("area_mm2", "array_mm2", "energy_uj", "delay_ms", "cycles", "model_bytes", "accumulator_bits")
    fields = ("metric", "held_out_metric", "agreement", "output_sqnr_db", "error")
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["origin", "front", *fields, "predicted_damage", *costs, "breaks", "array", "dataflow", "buffers",
                       *result.layers])  # fmt: skip
        for i, point in enumerate(result.points):
            machine, of = point.design.machine, dict(point.design.layers)
            taken = ["" if point.costs is None else getattr(point.costs, name) for name in costs]
            known = ["" if point.figures is None else getattr(point.figures, name) for name in fields]
            rows.writerow(
                [point.origin, int(i in result.front), *known, point.predicted_damage,
                 *taken, point.refused or "; ".join(text for text, _ in point.excess),
                 machine.array, machine.dataflow, machine.buffers, *(of[layer] for layer in result.layers)]
            )  # fmt: skip


def lines(result: SearchResult) -> list[str]:
    """Front, gains and the finding as text."""
    info, told = result.info, search.finding(result)
    unit = f" {info.metric_unit}" if info.metric_unit else ""
    return [
        f"{info.task}: float {info.metric} {notation.decimal(result.float_metric, 2)}{unit} on the searched samples",
        f"{len(result.points)} designs: {result.evaluated} networks evaluated in {result.evaluation_seconds:.0f} s of "
        f"{result.seconds:.0f} s, {result.rejected} rejected by their costs",
        "",
        *_aligned(*front_table(result)),
        "",
        *_gain_lines(result),
        *(f"sums of layers' damages order designs as the {t.beside} does: {_correlation(t.correlation)} "
          f"(rank correlation over {t.designs} designs; 1 is the same order)" for t in result.trust if t.designs),
        *(f"its cells: {remark}" for remark in _best_remarks(result)),
        *(f"left out: {line}" for line in result.left_out),
        f"{told.before}{told.scheme}{told.after}",
    ]  # fmt: skip


def _gain_lines(result: SearchResult) -> list[str]:
    """Nothing where no uniform design keeps the budget."""
    if not result.gains:
        return []
    said = f"uniform designs, and how much more {result.info.metric} the best of no more area × delay and energy has:"
    return [said, *_aligned(*gain_table(result)), search.verdict(result), ""]


def _best_remarks(result: SearchResult) -> tuple[str, ...]:
    """What stands behind the costs of the design that the search ends with."""
    best = result.nearest if result.chosen is None else result.points[result.chosen]
    return () if best is None else best.known_costs.left_out


def remarks(result: SearchResult) -> list[str]:
    """What stands behind the costs of the designs that are shown, and what they leave out."""
    return sorted({remark for point in _shown(result) for remark in point.known_costs.left_out})


def front_table(result: SearchResult) -> tuple[list[str], list[list[str]]]:
    """Headings and lines, the best metric first."""
    unit = result.info.metric_unit or result.info.metric
    return ["", unit, "held out", *COLUMNS], [_line(i, point) for i, point in enumerate(_shown(result), 1)]


def gain_table(result: SearchResult) -> tuple[list[str], list[list[str]]]:
    """Headings and lines: each uniform design that was evaluated, and how much more the best, and mixed one, has."""
    unit = result.info.metric_unit or result.info.metric
    rows = []
    for gain in result.gains:
        more = (gain.gain, gain.held_out_gain, gain.mixed_gain, gain.mixed_held_out_gain)
        cells = (notation.DASH if value is None else notation.signed(value, 2) for value in more)
        rows.append([gain.scheme, gain.machine.array, notation.decimal(gain.metric, 2), *cells])
    return ["uniform", "array", unit, "best", "held out", "best mixed", "held out"], rows


def layer_table(result: SearchResult, point: Point) -> tuple[list[str], list[list[str]]]:
    """Headings and lines: what each layer got, and what it would be damaged by under each scheme."""
    damages = {(layer, text): value for layer, text, value in result.damages}
    rows = []
    for layer, text in point.design.layers:
        cells = (damages.get((layer, other)) for other in result.schemes)
        rows.append([layer, text, *(notation.DASH if value is None else notation.scientific(value) for value in cells)])
    return ["layer", "scheme", *result.schemes], rows


def _shown(result: SearchResult) -> list[Point]:
    """The front, or else what breaks the budget least."""
    return [result.points[i] for i in result.front] or ([result.nearest] if result.nearest else [])


def _line(index: int, point: Point) -> list[str]:
    figures, costs = point.figures, point.known_costs
    metric = notation.DASH if point.metric is None else notation.decimal(point.metric, 2)
    kept = None if figures is None else figures.held_out_metric
    return [
        str(index), metric, notation.DASH if kept is None else notation.decimal(kept, 2),
        three(costs.area_mm2), three(costs.energy_uj), three(costs.delay_ms), three(costs.model_bytes / 1000),
        f"{costs.accumulator_bits:.0f}", point.design.machine.array, ", ".join(_counted(point)),
    ]  # fmt: skip


def _counted(point: Point) -> list[str]:
    """Schemes in use, with how many layers have each."""
    texts = [text for _, text in point.design.layers]
    counts = {text: texts.count(text) for text in dict.fromkeys(texts)}
    return [f"{text} × {n}" if len(counts) > 1 else text for text, n in counts.items()]


def _correlation(value: float | None) -> str:
    return "none" if value is None else notation.decimal(value, 2)


def _aligned(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    every = [headings, *rows]
    spans = [max(len(line[i]) for line in every) for i in range(len(headings))]
    is_text = [not any(line[i][:1].isdigit() or line[i][:1] in "+−–" for line in rows) for i in range(len(headings))]
    cells = [[t.ljust(n) if left else t.rjust(n) for t, n, left in zip(line, spans, is_text)] for line in every]
    return ["  ".join(line).rstrip() for line in cells]


def _context(result: SearchResult) -> dict:
    info = result.info
    unit = f"\u00a0{info.metric_unit}" if info.metric_unit else ""
    return {
        "info": info,
        "budget": " and ".join(result.budget),
        "finding": search.finding(result),
        "families": search.families(result),
        "statistics": [
            (f"float {info.metric}", f"{notation.decimal(result.float_metric, 2)}{unit}", "of the searched samples"),
            ("designs", f"{len(result.points):,}", f"{result.rejected:,} rejected by their costs"),
            ("networks evaluated", f"{result.evaluated:,}", f"in {result.evaluation_seconds:.0f} s, exactly"),
            ("front", str(len(result.front)), "designs that no other beats in all objectives"),
            ("layers", str(len(result.layers)), notation.plural(len(result.schemes), "scheme")),
        ],
        "front": front_table(result),
        "gains": gain_table(result),
        "verdict": search.verdict(result),
        "designs": [(i, point, layer_table(result, point)) for i, point in enumerate(_shown(result), 1)],
        "chosen": None if result.chosen is None else result.front.index(result.chosen) + 1,
        "trust": [(t.beside, _correlation(t.correlation), t.designs) for t in result.trust],
        "facts": [
            *facts(info), ("budget", ", ".join(result.budget)),
            ("objectives", ", ".join(("metric", *result.objectives))),
            ("schemes", "; ".join(result.schemes)), ("arrays", ", ".join(m.array for m in result.machines)),
            ("cells", result.library), ("damage", result.measure), ("sampler", f"{result.sampler}, seed {result.seed}"),
        ],
        "remarks": remarks(result),
        "left_out": result.left_out,
    }  # fmt: skip
