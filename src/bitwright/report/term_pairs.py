"""Products of single terms: the metric against how many there are, and tables of schemes and layers."""

import html
import math
from collections.abc import Callable
from itertools import pairwise

from bitwright.report import notation
from bitwright.report.axes import (
    AXIS,
    HEIGHT,
    MARGIN,
    PLOT_HEIGHT,
    PLOT_WIDTH,
    WIDTH,
    Panel,
    float_name,
    float_shapes,
    legend,
    metric_panels,
    padded,
    panel_of,
    vertical_axes,
    vertical_title,
)
from bitwright.report.finding import measured
from bitwright.report.labels import Label, boxes, place
from bitwright.report.notation import Number
from bitwright.report.palette import INK, MUTED, families
from bitwright.report.tables import Cell, Column, delta
from bitwright.result import Comparison, SchemeResult, TermPairs


def pair_rows(comparison: Comparison) -> list[SchemeResult]:
    """Schemes whose pairs are counted, if any of them has terms: the others are plain integers to compare with."""
    rows = [row for row in comparison.rows if row.term_pairs]
    return rows if any(has_terms(row) for row in rows) else []


def has_terms(row: SchemeResult) -> bool:
    return any(layer.has_terms for layer in row.term_pairs)


def pairs_plot(comparison: Comparison) -> dict | None:
    """The metric against term pairs, counted and bound; None where no scheme has terms."""
    shown = Comparison(comparison.info, tuple(pair_rows(comparison)))
    rows = [row for row in measured(shown) if millions(row, "counted")]  # the axis is logarithmic
    if not rows:
        return None
    panels = metric_panels(shown)
    spans = [math.log10(millions(row, key)) for row in rows for key in ("bound", "counted")]
    low, high = padded(spans, 0.07)

    def pixel(row: SchemeResult, pairs: Number) -> tuple[Number, Number]:
        x = (math.log10(pairs) - low) / (high - low) * PLOT_WIDTH
        return x, panel_of(row, panels).pixel(row.metric)

    marks = [pixel(row, millions(row, key)) for row in rows for key in ("bound", "counted")]
    lines = [(min(a[0], b[0]), a[1] - 1, max(a[0], b[0]), a[1] + 1) for a, b in list(pairwise(marks))[::2]]
    offsets = place(
        [Label.of(*pixel(row, millions(row, "counted")), row.scheme) for row in rows],
        frame=boxes([(2, 2, PLOT_WIDTH - 2, PLOT_HEIGHT - 2)])[0],
        points=boxes([(x - 7, y - 7, x + 7, y + 7) for x, y in marks]),
        lines=boxes([*lines, _float_line(comparison, panels[0])]),
    )
    labels = [
        {"x": math.log10(millions(row, "counted")), "y": panel_of(row, panels).position(row.metric),
         "yref": panel_of(row, panels).axis, "text": html.escape(row.scheme), "ax": dx, "ay": dy, "showarrow": True,
         "arrowhead": 0, "arrowwidth": 0.7, "arrowcolor": MUTED, "standoff": 6, "font": {"size": 11, "color": INK}}
        for row, (dx, dy) in zip(rows, offsets)
    ]  # fmt: skip
    decades = range(math.floor(low), math.ceil(high))
    ticks = [step * 10.0**decade for decade in decades for step in (1, 2, 5)]
    layout = {
        "width": WIDTH, "height": HEIGHT, "margin": MARGIN, **vertical_axes(panels),
        "xaxis": {**AXIS, "type": "log", "range": [low, high], "anchor": panels[-1].axis, "tickmode": "array",
                  "tickvals": ticks, "ticktext": [f"{tick:,g}" for tick in ticks],
                  "title": {"text": "products of single terms or bits per sample (million)"}},
        "shapes": float_shapes(comparison, panels), "annotations": [float_name(comparison, panels[0]), *labels],
        "legend": legend(panels[0], comparison.info.float_metric), "title": vertical_title(comparison),
    }  # fmt: skip
    return {"data": _traces(comparison, rows, panels), "layout": layout}


def millions(row: SchemeResult, key: str) -> float:
    """Of all layers, per sample."""
    return math.fsum(_millions(layer, key) for layer in row.term_pairs)


def scheme_columns(comparison: Comparison) -> tuple[Column[SchemeResult], ...]:
    """Columns of the schemes' table."""
    info = comparison.info
    points = "points" if info.metric_unit == "%" else info.metric_unit
    return (
        Column("scheme", "scheme", "", "the call that makes the scheme", lambda row: row.scheme, str),
        Column("metric", info.metric, info.metric_unit, info.metric, lambda row: row.metric,
               lambda value: notation.decimal(value, 2)),
        Column("delta", "Δ float", points, f"{info.metric} minus the float model's", lambda row: delta(info, row),
               lambda value: notation.signed(value, 2)),
        *_pair_columns(millions),
    )  # fmt: skip


def layer_columns() -> tuple[Column[TermPairs], ...]:
    """Columns of one scheme's layers."""
    return (Column("layer", "layer", "", "name in the model", lambda layer: layer.name, str), *_pair_columns(_millions))


def layer_cells(row: SchemeResult) -> list[tuple[Cell, ...]]:
    """One line a layer."""
    return [tuple(column.cell(layer) for column in layer_columns()) for layer in row.term_pairs]


def layer_note(row: SchemeResult) -> str:
    """How many layers, and where the bound does not hold."""
    beyond = [layer.name for layer in row.term_pairs if layer.counted > layer.bound]
    parts = [notation.plural(len(row.term_pairs), "layer")]
    if beyond:
        parts.append(f"counted beyond the bound in {', '.join(beyond)}: its K splits groups")
    return "; ".join(parts)


def _traces(comparison: Comparison, rows: list[SchemeResult], panels: list[Panel]) -> list[dict]:
    """A line from the count to the bound of each scheme with terms, open marks for bounds, full ones for counts."""
    family_of = families(comparison)
    traces: list[dict] = []
    named: set[str] = set()
    for row in rows:
        family, axis = family_of[row.scheme], panel_of(row, panels).axis
        xs, ys = [millions(row, "counted"), millions(row, "bound")], [row.metric] * 2
        base = {"type": "scatter", "yaxis": axis, "cliponaxis": False, "hovertemplate": "%{text}<extra></extra>"}
        text = [_hover(comparison, row)]
        marker = {"color": family.colour, "symbol": family.marker, "size": 11, "line": {"color": "white", "width": 1}}
        if has_terms(row):
            is_new = not named & {f"bound {family.name}"}
            hollow = marker | {"color": "white", "line": {"color": family.colour, "width": 2}, "size": 9}
            traces.append(base | {"mode": "lines", "x": xs, "y": ys, "showlegend": False, "hoverinfo": "skip",
                                  "line": {"color": family.colour, "width": 1}})  # fmt: skip
            traces.append(base | {"mode": "markers", "x": xs[1:], "y": ys[1:], "text": text, "marker": hollow,
                                  "name": f"{html.escape(family.name)},<br>bound", "showlegend": is_new})  # fmt: skip
            named.add(f"bound {family.name}")
        name = f"{html.escape(family.name)},<br>{'counted' if has_terms(row) else 'bit by bit'}"
        traces.append(base | {"mode": "markers", "x": xs[:1], "y": ys[:1], "text": text, "marker": marker,
                              "name": name, "showlegend": name not in named})  # fmt: skip
        named.add(name)
    return traces


def _hover(comparison: Comparison, row: SchemeResult) -> str:
    lines = [f"{column.heading}: {column.cell(row).text}" for column in scheme_columns(comparison)[1:]]
    return "<br>".join([f"<b>{html.escape(row.scheme)}</b>", *(html.escape(line) for line in lines)])


def _float_line(comparison: Comparison, panel: Panel) -> tuple[Number, Number, Number, Number]:
    y = panel.pixel(comparison.info.float_metric)
    return 0, y - 1, PLOT_WIDTH, y + 1


def _millions(layer: TermPairs, key: str) -> float:
    return getattr(layer, key) / 1e6


def _pair_columns(read: Callable[..., float]) -> tuple[Column, ...]:
    """The counts of a record and how they compare; `read` takes a record and the name of a count."""
    group, saving = "products of terms or bits per sample", "times fewer than bit by bit"

    def count(key: str, title: str, meaning: str, group: str) -> Column:
        return Column(f"{key}_millions", title, "million", meaning, lambda record: read(record, key),
                      notation.three_digits, group=group)  # fmt: skip

    def ratio(key: str, over: str) -> Callable[..., float | None]:
        return lambda record: read(record, key) / read(record, over) if read(record, over) else None

    return (
        count("macs", "MACs", "multiply-accumulates per sample, padded zeros included", ""),
        count("bit_serial", "bit by bit", "every magnitude bit of a weight with every one of the input", group),
        count("bound", "bound", "as the paper counts: kept terms of both operands", group),
        count("counted", "counted", "terms of the weight times terms of the input, over all products", group),
        Column("bound_saving", "bound", "×", "bit by bit over bound", ratio("bit_serial", "bound"),
               notation.three_digits, absent="no products", group=saving),
        Column("counted_saving", "counted", "×", "bit by bit over counted", ratio("bit_serial", "counted"),
               notation.three_digits, absent="no products", group=saving),
        Column("counted_per_mac", "per MAC", "pairs", "counted pairs of one product, on average",
               ratio("counted", "macs"), notation.three_digits, absent="no products"),
    )  # fmt: skip
