"""The report: one HTML file that holds figures, tables and the plotly.js that draws them, and fetches nothing."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bitwright.report import lanes, neighbours, notation, pictures, provenance, sizes, tables, term_pairs
from bitwright.report.finding import finding, standard_error
from bitwright.report.palette import Family, families
from bitwright.report.tables import Cell, Column
from bitwright.result import Comparison, RunInfo, SchemeResult

_DEPENDENCIES = ("jinja2", "markupsafe", "plotly")


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
    try:
        import jinja2
        from markupsafe import Markup

        from bitwright.report import plots
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in _DEPENDENCIES:
            raise
        raise ImportError(
            f"the HTML report needs jinja2 and plotly, found no {error.name}; pip install 'bitwright[report]'",
            name=error.name,
        ) from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["sort_key"] = _sort_key
    page = environment.get_template("template.html.j2").render(
        **_context(comparison, trusted=Markup),
        figures={name: Markup(figure) for name, figure in plots.figures(comparison).items()},
        plotly=Markup(plots.script()),
    )
    Path(path).write_text(page, encoding="utf-8", newline="\n")


def _context(comparison: Comparison, *, trusted: Callable[[str], str]) -> dict:
    """Everything that the template shows, formatted; `trusted` marks markup that must not be escaped again."""
    entries = _entries(comparison, trusted)
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
        "neighbours": _neighbours(comparison, trusted),
        "pairs": _pairs(comparison),
        "sizes": _sizes(comparison),
        "coverage": provenance.coverage_tables(comparison),
        "facts": provenance.facts(comparison.info),
        "bibtex": provenance.bibtex(comparison),
    }


def _entries(comparison: Comparison, trusted: Callable[[str], str]) -> list[Entry]:
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
                    trusted(pictures.svg(picture, family_of[row.scheme].colour)),
                )
                for picture in row.pictures
            ),
        )
        for row, line in zip(comparison.rows, tables.summary_rows(comparison))
    ]


def _neighbours(comparison: Comparison, trusted: Callable[[str], str]) -> dict | None:
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
            "" if row.lane_row is None else trusted(lanes.svg(row.lane_row)),
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


def _sort_key(cell: Cell) -> str:
    """The cell's value as the page's script compares it; empty sorts last."""
    return "" if cell.value is None or cell.value != cell.value else str(cell.value).replace("inf", "Infinity")
