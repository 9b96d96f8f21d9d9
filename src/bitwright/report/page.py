"""The report: one HTML file that holds figures, tables and the plotly.js that draws them, and fetches nothing."""

from dataclasses import dataclass
from pathlib import Path

from bitwright.report import lanes, neighbours, notation, pictures, provenance, silicon, sizes, tables, term_pairs
from bitwright.report.array_drawing import drawing
from bitwright.report.axes import WIDTH
from bitwright.report.finding import finding, standard_error
from bitwright.report.heatmap import heatmap
from bitwright.report.palette import PART_COLOURS, Family, families
from bitwright.report.rendering import write_page
from bitwright.report.scatter import scatter
from bitwright.report.silicon_plots import SCATTERS, silicon_figures
from bitwright.report.tables import Cell, Column
from bitwright.result import Comparison, RunInfo, SchemeResult


@dataclass(frozen=True)
class Heading:
    """A run of neighbouring columns under one word; an empty word heads nothing."""

    text: str
    span: int


@dataclass(frozen=True)
class Plate:
    """One picture as drawn, with the words around it."""

    layer: str
    operand: str
    format: str
    caption: str
    svg: str


@dataclass(frozen=True)
class Entry:
    """All that the page shows of one scheme."""

    scheme: str
    title: str
    error: str | None
    family: Family
    cells: tuple[Cell, ...]
    layers: tuple[tuple[Cell, ...], ...]
    layer_note: str
    plates: tuple[Plate, ...]


@dataclass(frozen=True)
class Detail:
    """One scheme's table of layers and, of one that overwrites neighbours, the picture of its lanes."""

    scheme: str
    family: Family
    note: str
    columns: tuple[Column, ...]
    headings: tuple[Heading, ...]
    layers: tuple[tuple[Cell, ...], ...]
    caption: str = ""
    svg: str = ""


def write_report(comparison: Comparison, path: Path) -> None:
    """Writes the page; the same comparison gives the same bytes. Needs the `report` extra."""
    figures = {
        "bits-plot": scatter(comparison),
        **silicon_figures(comparison),
        "layers-plot": heatmap(comparison, WIDTH),
        "neighbours-plot": neighbours.coverage_plot(comparison),
        "pairs-plot": term_pairs.pairs_plot(comparison),
    }
    write_page("template.html.j2", path, figures, **_context(comparison))


def _context(comparison: Comparison) -> dict:
    """Everything that the template shows, formatted."""
    entries = _entries(comparison)
    return {
        "info": comparison.info,
        "finding": finding(comparison),
        "heading": f"{_sentence_case(comparison.info.metric)} against bits",
        "statistics": _statistics(comparison),
        "families": list({entry.family.index: entry.family for entry in entries}.values()),
        "columns": tables.summary_columns(comparison),
        "baseline": tables.baseline_cells(comparison),
        "entries": entries,
        "layer_columns": tables.LAYER_COLUMNS,
        "layer_headings": _headings(tables.LAYER_COLUMNS),
        "silicon": _silicon(comparison),
        "neighbours": _neighbours(comparison),
        "pairs": _pairs(comparison),
        "sizes": _sizes(comparison),
        "coverage": provenance.coverage_tables(comparison),
        "facts": provenance.facts(comparison.info),
        "bibtex": provenance.bibtex(comparison),
    }


def _entries(comparison: Comparison) -> list[Entry]:
    family_of = families(comparison)
    return [
        Entry(
            row.scheme,
            row.title,
            row.error,
            family_of[row.scheme],
            line.cells,
            tuple(tables.layer_cells(layer) for layer in row.layers),
            _layer_note(row),
            tuple(
                Plate(
                    picture.layer,
                    picture.operand,
                    picture.format,
                    pictures.caption(picture),
                    pictures.svg(picture, family_of[row.scheme].colour),
                )
                for picture in row.pictures
            ),
        )
        for row, line in zip(comparison.rows, tables.summary_rows(comparison))
    ]


def _neighbours(comparison: Comparison) -> dict | None:
    """What overwrites neighbours: the schemes, the picture with most kinds of states, and those of the others."""
    family_of = families(comparison)
    details = [
        Detail(
            row.scheme,
            family_of[row.scheme],
            neighbours.layer_note(row),
            neighbours.layer_columns(row),
            tuple(_headings(neighbours.layer_columns(row))),
            tuple(neighbours.layer_cells(row)),
            "" if row.lane_row is None else lanes.caption(row.lane_row),
            "" if row.lane_row is None else lanes.svg(row.lane_row),
        )
        for row in neighbours.overwriting_rows(comparison)
    ]
    drawn = [row.lane_row for row in neighbours.overwriting_rows(comparison)]
    ranked = sorted(zip(drawn, details), key=lambda pair: -len(set(pair[0].states)) if pair[0] else 0)
    plates = [detail for row, detail in ranked if row is not None]
    return {"details": details, "plates": plates} if details else None


def _pairs(comparison: Comparison) -> dict | None:
    """Tables of term pairs: the schemes, then the layers of those with terms."""
    rows = term_pairs.pair_rows(comparison)
    if not rows:
        return None
    family_of, columns = families(comparison), term_pairs.scheme_columns(comparison)
    layer_columns = term_pairs.layer_columns()
    return {
        "columns": columns,
        "headings": _headings(columns),
        "rows": [(row.scheme, family_of[row.scheme], [column.cell(row) for column in columns[1:]]) for row in rows],
        "details": [
            Detail(row.scheme, family_of[row.scheme], term_pairs.layer_note(row), layer_columns,
                   tuple(_headings(layer_columns)), tuple(term_pairs.layer_cells(row)))
            for row in rows
            if term_pairs.has_terms(row)
        ],
    }  # fmt: skip


def _silicon(comparison: Comparison) -> dict | None:
    """What the schemes take on the accelerator: a table, the parts of an element, and a drawing for each width."""
    found = silicon.priced_rows(comparison)
    if comparison.silicon is None or not found:
        return None
    family_of, columns = families(comparison), silicon.table_columns(comparison)
    cells = silicon.table_cells(comparison)
    drawn = [each for each in found if each.price.wires is not None]
    widths = list(dict.fromkeys(each.price.wires for each in drawn))
    chosen = next(
        (each for each in drawn if each.row.scheme == finding(comparison).scheme), drawn[0] if drawn else None
    )
    return {
        "hardware": silicon.described(comparison.silicon.hardware),
        "scatters": SCATTERS,
        "families": list({family_of[each.row.scheme].index: family_of[each.row.scheme] for each in found}.values()),
        "columns": columns,
        "headings": _headings(columns),
        "rows": [(each.row.scheme, family_of[each.row.scheme], line) for each, line in zip(found, cells)],
        "origins": silicon.origins(comparison),
        "missing": silicon.missing(comparison),
        "left_out": silicon.left_out(comparison),
        "published": [each.row.scheme for each in silicon.published(found)],
        "notes": comparison.silicon.notes,
        "parts": list(PART_COLOURS.items()),
        "parts_sources": list(dict.fromkeys(each.price.parts_source for each in drawn if each.price.parts_um2)),
        "no_parts": [(each.row.scheme, each.price.parts_note) for each in drawn if not each.price.parts_um2],
        "drawings": [drawing(comparison.silicon.hardware, wires) for wires in widths],
        "choices": [(each.row.scheme, widths.index(each.price.wires), silicon.summary(each)) for each in drawn],
        "chosen": chosen and chosen.row.scheme,
        "first_drawing": chosen and widths.index(chosen.price.wires),
    }


def _sizes(comparison: Comparison) -> dict | None:
    """Tables of what stored weights could shrink to: the schemes, then their layers."""
    rows = sizes.sized_rows(comparison)
    if not rows:
        return None
    family_of, columns = families(comparison), sizes.scheme_columns(comparison)
    cells = sizes.scheme_cells(comparison)
    layer_columns = sizes.layer_columns(comparison)
    return {
        "columns": columns,
        "headings": _headings(columns),
        "rows": [(row.scheme, family_of[row.scheme], line) for row, line in zip(rows, cells)],
        "details": [
            Detail(row.scheme, family_of[row.scheme], sizes.layer_note(row), layer_columns,
                   tuple(_headings(layer_columns)), tuple(sizes.layer_cells(comparison, row)))
            for row in rows
        ],
    }  # fmt: skip


def _statistics(comparison: Comparison) -> list[tuple[str, str, str]]:
    """Label, figure and remark of the headline's row."""
    info = comparison.info
    error = standard_error(info)
    unit = f"\u00a0{info.metric_unit}" if info.metric_unit else ""
    failed = sum(row.error is not None for row in comparison.rows)
    remark = "higher is better" if info.higher_is_better else "lower is better"
    if error is not None:
        remark = f"± {notation.decimal(error, 2)} points standard error"
    return [
        (f"float {info.metric}", f"{notation.decimal(info.float_metric, 2)}{unit}", remark),
        ("test samples", f"{info.samples:,}", f"{info.calibration_samples:,} for calibration"),
        ("float model", notation.size(info.float_bytes), "stored parameters"),
        ("schemes", str(len(comparison.rows)), f"{failed} failed" if failed else "none failed"),
        ("evaluation", info.evaluation, _evaluation_meaning(info)),
    ]


def _sentence_case(name: str) -> str:
    """A capital first; a name with capitals of its own, as mIoU, stays."""
    return name.capitalize() if name == name.lower() else name


def _evaluation_meaning(info: RunInfo) -> str:
    return {"exact": "integer datapath", "simulated": "float emulation"}.get(info.evaluation, "")


def _headings(columns: tuple[Column, ...]) -> list[Heading]:
    headings: list[Heading] = []
    for column in columns:
        if headings and column.group and headings[-1].text == column.group:
            headings[-1] = Heading(column.group, headings[-1].span + 1)
        else:
            headings.append(Heading(column.group, 1))
    return headings


def _layer_note(row: SchemeResult) -> str:
    """How many layers, the weakest one, and how many overflow."""
    parts = [notation.plural(len(row.layers), "layer")]
    known = [layer for layer in row.layers if layer.output_sqnr_db is not None]
    if known:
        worst = min(known, key=lambda layer: layer.output_sqnr_db)
        parts.append(f"lowest output SQNR {notation.decimal(worst.output_sqnr_db, 1)} dB in {worst.name}")
    overflowing = sum(layer.overflows > 0 for layer in row.layers)
    if overflowing:
        parts.append(f"{notation.plural(overflowing, 'layer')} with overflows")
    return "; ".join(parts)
