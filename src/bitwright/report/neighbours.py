"""Outliers that find a zero to overwrite: a figure over the cascade, a table of the layers, one row of lanes."""

import html
from collections.abc import Sequence
from math import log10
from statistics import median

from bitwright.report import notation
from bitwright.report.axes import AXIS, WIDTH
from bitwright.report.notation import Number
from bitwright.report.palette import INK, MUTED, families
from bitwright.report.tables import Cell, Column
from bitwright.result import Comparison, NeighbourResult, OutlierCoverage, SchemeResult

_PANEL_HEIGHT, _TOP, _BETWEEN, _BOTTOM, _LEFT, _RIGHT = 250, 84, 92, 52, 52, 12
_GAP = 40
_SHORT = 46  # letters of a scheme that fit over one of three panels
_LAYER = "#cfcfca"

_KINDS = {
    "measured": "measured",
    "expected": "formula, independent lanes",
    "shuffled": "lanes of each row shuffled",
}


def overwriting_rows(comparison: Comparison) -> list[SchemeResult]:
    """Schemes whose inputs overwrite neighbours."""
    return [row for row in comparison.rows if row.neighbours]


def coverage_plot(comparison: Comparison) -> dict | None:
    """Coverage against the cascade, a panel a scheme; None where no scheme overwrites."""
    rows = [row for row in overwriting_rows(comparison) if any(layer.coverage for layer in row.neighbours)]
    if not rows:
        return None
    across = min(3 if max(len(row.scheme) for row in rows) <= _SHORT else 2, len(rows))
    down = -(-len(rows) // across)
    height = _TOP + down * _PANEL_HEIGHT + (down - 1) * _BETWEEN + _BOTTOM
    colour_of = {scheme: family.colour for scheme, family in families(comparison).items()}
    traces, shapes, annotations = [], [], []
    layout: dict = {}
    for i, row in enumerate(rows):
        panel = "" if i == 0 else str(i + 1)
        domain = _domain(i % across, i // across, across, down, height)
        layout |= _axes(panel, domain, _cascades(row), is_left=i % across == 0)
        traces += _traces(row, panel, colour_of[row.scheme], is_first=i == 0)
        annotations.append(_title(row, panel))
        shapes += _own_cascade(row, panel)
    layout |= {
        "width": WIDTH, "height": height, "shapes": shapes, "annotations": annotations,
        "margin": {"l": _LEFT, "r": _RIGHT, "t": _TOP, "b": _BOTTOM},
        "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "top", "yref": "container", "font": {"size": 12},
                   "itemclick": False, "itemdoubleclick": False},
    }  # fmt: skip
    return {"data": traces, "layout": layout}


def layer_columns(row: SchemeResult) -> tuple[Column[NeighbourResult], ...]:
    """Columns of one scheme's layers; coverage at each cascade in three groups."""
    columns: list[Column[NeighbourResult]] = [
        Column("layer", "layer", "", "name in the model", lambda layer: layer.name, str),
        Column("lanes", "lanes", "", "channels that share a block", lambda layer: layer.lanes, str),
        Column("tile", "tile", "", "lanes that no search leaves", lambda layer: layer.tile, str),
        Column("zeros_fraction", "zeros p", "%", "lanes whose level rounds to zero", lambda layer: layer.zeros,
               notation.per_cent),
        Column("outliers_fraction", "outliers r", "%", "lanes whose level rounds beyond the largest of one lane",
               lambda layer: layer.outliers, notation.per_cent),
    ]  # fmt: skip
    for kind, name in _KINDS.items():
        columns += [_coverage_column(kind, name, cascade) for cascade in _cascades(row)]
    if any(layer.precise is not None for layer in row.neighbours):
        columns.append(
            Column("precise_fraction", "precise", "%", "values, neither zero nor outlier, that get a fraction",
                   lambda layer: layer.precise, notation.per_cent, absent="precision overwriting is off")
        )  # fmt: skip
    return tuple(columns)


def layer_cells(row: SchemeResult) -> list[tuple[Cell, ...]]:
    """One line a layer; coverage at the scheme's own cascade is bold."""
    columns = layer_columns(row)
    return [
        tuple(
            Cell(cell.text, cell.value, column.key.endswith(f"_{layer.cascade}"), cell.note)
            for column, cell in zip(columns, (column.cell(layer) for column in columns))
        )
        for layer in row.neighbours
    ]


def layer_note(row: SchemeResult) -> str:
    """Medians over the layers."""
    parts = [
        f"median zeros {notation.per_cent(median(layer.zeros for layer in row.neighbours))} %",
        f"outliers {notation.per_cent(median(layer.outliers for layer in row.neighbours))} %",
    ]
    cascade = row.neighbours[0].cascade
    found = [c.measured for layer in row.neighbours for c in layer.coverage if c.cascade == cascade]
    if found:
        parts.append(f"coverage at cascade {cascade}: {notation.per_cent(median(found))} %")
    precise = [layer.precise for layer in row.neighbours if layer.precise is not None]
    if precise:
        parts.append(f"values with a fraction {notation.per_cent(median(precise))} %")
    return f"{notation.plural(len(row.neighbours), 'layer')}; " + ", ".join(parts)


def _cascades(row: SchemeResult) -> list[int]:
    return sorted({found.cascade for layer in row.neighbours for found in layer.coverage})


def _coverage_column(kind: str, name: str, cascade: int) -> Column[NeighbourResult]:
    def read(layer: NeighbourResult) -> float | None:
        return next((getattr(found, kind) for found in layer.coverage if found.cascade == cascade), None)

    meaning = f"% of outliers that find a zero at most {notation.plural(cascade, 'lane')} on: {name}"
    return Column(f"{kind}_{cascade}", f"c = {cascade}", "%", meaning, read, notation.per_cent,
                  absent="no outliers", group=f"coverage, {name}")  # fmt: skip


def _domain(column: int, line: int, across: int, down: int, height: Number) -> tuple[list[Number], list[Number]]:
    """Shares of the plot that a panel takes, left to right and bottom to top."""
    width, plot = WIDTH - _LEFT - _RIGHT, height - _TOP - _BOTTOM
    panel = (width - 2 * _GAP) / 3 if across == 3 else (width - _GAP) / 2
    left = column * (panel + _GAP)
    top = line * (_PANEL_HEIGHT + _BETWEEN)
    return [left / width, (left + panel) / width], [1 - (top + _PANEL_HEIGHT) / plot, 1 - top / plot]


def _axes(panel: str, domain: tuple[list[Number], list[Number]], cascades: list[int], *, is_left: bool) -> dict:
    horizontal, vertical = domain
    title = {"title": {"text": "outliers covered (%)", "standoff": 6, "font": {"size": 12}}} if is_left else {}
    return {
        f"xaxis{panel}": {**AXIS, "domain": horizontal, "anchor": f"y{panel}", "type": "log", "showgrid": False,
                          "tickmode": "array", "tickvals": cascades, "ticktext": [str(c) for c in cascades],
                          "range": [log10(cascades[0]) - 0.06, log10(cascades[-1]) + 0.06],
                          "title": {"text": "cascade (lanes)", "standoff": 6, "font": {"size": 12}}},
        f"yaxis{panel}": {**AXIS, "domain": vertical, "anchor": f"x{panel}", "range": [0, 102], "dtick": 20,
                          "showticklabels": is_left, **title},
    }  # fmt: skip


def _traces(row: SchemeResult, panel: str, colour: str, *, is_first: bool) -> list[dict]:
    """Thin lines of the layers in one trace, then the medians."""
    cascades = _cascades(row)
    base = {"type": "scatter", "xaxis": f"x{panel}", "yaxis": f"y{panel}", "cliponaxis": False,
            "hovertemplate": "%{text}<extra></extra>"}  # fmt: skip
    layers: dict[str, list] = {"x": [], "y": [], "text": []}
    for layer in row.neighbours:
        for found in layer.coverage:
            layers["x"].append(found.cascade)
            layers["y"].append(100 * found.measured)
            layers["text"].append(_hover(layer, found))
        for values in layers.values():
            values.append(None)  # the line breaks between layers
    looks = {
        "measured": {"color": colour, "width": 3.5},
        "expected": {"color": INK, "width": 1.5, "dash": "dash"},
        "shuffled": {"color": INK, "width": 1.8, "dash": "dot"},
    }
    medians = []
    for kind, look in looks.items():
        ys = [_median(row.neighbours, kind, cascade) for cascade in cascades]
        name = f"median, {_KINDS[kind]}"
        medians.append(
            base | {"mode": "lines+markers" if kind == "measured" else "lines", "x": cascades, "y": ys, "name": name,
                    "line": look, "marker": {"size": 8}, "showlegend": is_first, "legendgroup": kind,
                    "text": [f"{name}<br>cascade {c}: {notation.decimal(y, 1)} %" for c, y in zip(cascades, ys)]}
        )  # fmt: skip
    thin = base | layers | {"mode": "lines+markers", "name": "a layer, measured", "showlegend": is_first,
                            "legendgroup": "layer", "line": {"color": _LAYER, "width": 1},
                            "marker": {"size": 4, "color": _LAYER}}  # fmt: skip
    return [thin, *medians]


def _median(layers: Sequence[NeighbourResult], kind: str, cascade: int) -> float:
    """In per cent, over the layers with outliers."""
    return 100 * median(getattr(c, kind) for layer in layers for c in layer.coverage if c.cascade == cascade)


def _hover(layer: NeighbourResult, found: OutlierCoverage) -> str:
    lines = [
        f"<b>{html.escape(layer.name)}</b>",
        f"zeros {notation.per_cent(layer.zeros)} %, outliers {notation.per_cent(layer.outliers)} %",
        *(f"{name}: {notation.per_cent(getattr(found, kind))} %" for kind, name in _KINDS.items()),
    ]
    return "<br>".join([lines[0], f"cascade {found.cascade}", *lines[1:]])


def _title(row: SchemeResult, panel: str) -> dict:
    return {"xref": f"x{panel} domain", "yref": f"y{panel} domain", "x": 0, "y": 1, "xanchor": "left",
            "yanchor": "bottom", "yshift": 8, "text": f"<b>{html.escape(row.scheme)}</b>", "showarrow": False,
            "font": {"size": 12, "color": INK}}  # fmt: skip


def _own_cascade(row: SchemeResult, panel: str) -> list[dict]:
    """A line at the cascade that the scheme itself has."""
    cascade = row.neighbours[0].cascade
    if not cascade:
        return []
    return [
        {"type": "line", "xref": f"x{panel}", "yref": f"y{panel} domain", "x0": cascade, "x1": cascade, "y0": 0,
         "y1": 1, "line": {"color": MUTED, "width": 1}, "layer": "below"}
    ]  # fmt: skip
