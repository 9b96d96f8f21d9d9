"""Layers against schemes: one figure of every layer at a time, chosen by buttons."""

import html
import math

from bitwright.report.axes import scheme_margin, scheme_ticks, tick_axis
from bitwright.report.notation import Number
from bitwright.report.palette import MUTED, RULE, families
from bitwright.report.tables import Cell, Column, layer_column
from bitwright.result import Comparison, SchemeResult

# pale to dark in one hue: reads in grey, and the dark figures on pale cells stay legible
SCALE = [[0.0, "#fbf7e6"], [0.25, "#cfe3d5"], [0.5, "#7fbccb"], [0.75, "#3e83b5"], [1.0, "#1f3f7f"]]
BLANK = "#ececea"
_CELL_HEIGHT, _MOST_CELLS_WITH_TEXT = 26, 22
_QUANTITIES = (
    ("output_sqnr_db", "output SQNR"),
    ("weight_sqnr_db", "weight SQNR"),
    ("input_sqnr_db", "input SQNR"),
    ("input_clipped_fraction", "input clipped"),
    ("input_zeros_fraction", "input zeros"),
    ("accumulator_bits", "accumulator bits"),
)


def heatmap(comparison: Comparison, width: int) -> dict | None:
    """The figure as plotly's plain structure; None where no scheme has layers."""
    rows = [row for row in comparison.rows if row.layers]
    if not rows:
        return None
    layers = list(dict.fromkeys(layer.name for row in rows for layer in row.layers))
    views = [_view(layer_column(key), title, rows, layers) for key, title in _QUANTITIES]
    left = scheme_margin(rows)
    bottom = 26 + min(190, round(6.4 * max(len(name) for name in layers)))
    height = 60 + bottom + _CELL_HEIGHT * len(rows)
    trace = {
        "type": "heatmap",
        **{key: value for key, value in views[0].items() if "." not in key},
        "hoverinfo": "text",
        "colorscale": SCALE,
        "xgap": 1,
        "ygap": 1,
        "hoverongaps": False,
        "texttemplate": "%{text}" if len(layers) <= _MOST_CELLS_WITH_TEXT else "",
        "textfont": {"size": 10.5},
        "colorbar": {"title": {"text": views[0]["colorbar.title.text"], "side": "right", "font": {"size": 11}},
                     "thickness": 10, "outlinewidth": 0, "tickfont": {"size": 11}, "len": 1, "x": 1.01},
    }  # fmt: skip
    layout = {
        "width": width,
        "height": height,
        "margin": {"l": left, "r": 84, "t": 44, "b": bottom},
        "plot_bgcolor": BLANK,
        "xaxis": tick_axis([html.escape(name) for name in layers]) | {"tickangle": -90 if len(layers) > 8 else 0},
        "yaxis": tick_axis(scheme_ticks(rows, families(comparison))) | {"autorange": "reversed"},
        "updatemenus": [_menu([title for _, title in _QUANTITIES], views)],
    }
    return {"data": [trace], "layout": layout}


def _view(column: Column, title: str, rows: list[SchemeResult], layers: list[str]) -> dict:
    """What changes with the quantity: properties of the trace."""
    cells = [_cells_by_layer(column, row, layers) for row in rows]
    finite = [cell.value for line in cells for cell in line if _is_finite(cell)]
    low, high = (min(finite), max(finite)) if finite else (0, 1)
    scale = 100 if column.unit == "%" else 1
    unit = f" {column.unit}" if column.unit else ""
    hover = [
        [_hover(title, row, name, cell, unit) for name, cell in zip(layers, line)] for row, line in zip(rows, cells)
    ]
    return {
        "z": [[_shade(cell, low, high, scale) for cell in line] for line in cells],
        "text": [[cell.text for cell in line] for line in cells],
        "hovertext": hover,
        "zmin": scale * low,
        "zmax": scale * (high if high > low else low + 1),
        "colorbar.title.text": f"{title} ({column.unit})" if column.unit else title,
    }


def _cells_by_layer(column: Column, row: SchemeResult, layers: list[str]) -> list[Cell]:
    absent = Cell("", None, note="not a layer of this run")
    known = {layer.name: column.cell(layer) for layer in row.layers}
    return [known.get(name, absent) for name in layers]


def _shade(cell: Cell, low: Number, high: Number, scale: int) -> Number | None:
    """The colour's value; an infinite figure, as an error-free layer's SQNR, takes the end of the scale."""
    if cell.value is None or math.isnan(cell.value):
        return None
    return scale * min(max(cell.value, low), high)


def _hover(title: str, row: SchemeResult, layer: str, cell: Cell, unit: str) -> str:
    figure = f"{cell.text}{unit}" if cell.value is not None else cell.note
    return f"<b>{html.escape(row.scheme)}</b><br>{html.escape(layer)}<br>{title}: {html.escape(figure)}"


def _is_finite(cell: Cell) -> bool:
    return cell.value is not None and math.isfinite(cell.value)


def _menu(labels: list[str], views: list[dict]) -> dict:
    # restyle takes a list of values per property, one for each trace; there is one trace
    buttons = [
        {"label": label, "method": "restyle", "args": [{key: [value] for key, value in view.items()}]}
        for label, view in zip(labels, views)
    ]
    return {
        "type": "buttons", "direction": "right", "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom",
        "pad": {"b": 8, "l": 0, "t": 0}, "bgcolor": "white", "bordercolor": RULE,
        "font": {"size": 11.5, "color": MUTED}, "showactive": True, "buttons": buttons,
    }  # fmt: skip
