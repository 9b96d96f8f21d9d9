"""Accumulators that overflow: the metric over the register's width, rates by layer, and the bits that sums need."""

import html
import math
from collections.abc import Sequence

from bitwright.report import notation
from bitwright.report.axes import (
    AXIS,
    HEIGHT,
    MARGIN,
    WIDTH,
    Panel,
    float_name,
    float_shapes,
    padded,
    vertical_axes,
    vertical_title,
)
from bitwright.report.finding import Finding, tolerance
from bitwright.report.heatmap import BLANK, SCALE
from bitwright.report.palette import INK, MUTED, RULE, Family
from bitwright.result import Comparison, NeededBits, OverflowPoint, OverflowSweep

_SMALLEST_RATE = 1e-5
_WITHIN, _BEYOND = "#9db8cc", "#D55E00"
_COLUMNS, _ROW_HEIGHT = 4, 150


def named(behaviour: str) -> str:
    """As the page and the terminal print it."""
    return behaviour.replace("_", " ")


def families(sweep: OverflowSweep) -> dict[str, Family]:
    """A colour and a marker each."""
    return {name: Family(named(name), i) for i, name in enumerate(sweep.behaviours)}


def finding(sweep: OverflowSweep) -> Finding:
    """The narrowest register of each behaviour that stays within the tolerance of float."""
    allowed = tolerance(sweep.info)
    proved = max(layer.proved for layer in sweep.layers)
    narrow = {name: narrowest(sweep, name) for name in sweep.behaviours}
    parts = [f"{named(name)} {bits}" for name, bits in narrow.items() if bits is not None]
    lost = [named(name) for name, bits in narrow.items() if bits is None]
    after = f" proves that {proved} bits never overflow. "
    if parts:
        after += f"Narrowest register within {allowed.text} of float, in bits: {', '.join(parts)}"
        after += f"; not at these widths: {', '.join(lost)}." if lost else "."
    else:
        after += f"At these widths no register stays within {allowed.text} of float."
    return Finding("The certificate of ", sweep.scheme, after)


def narrowest(sweep: OverflowSweep, behaviour: str) -> int | None:
    """Smallest width from which on every wider one stays within the tolerance; None where the widest does not."""
    info, found = sweep.info, None
    sign = 1 if info.higher_is_better else -1
    for point in reversed(of(sweep, behaviour)):
        if not sign * (info.float_metric - point.metric) <= tolerance(info).value:
            break
        found = point.bits
    return found


def of(sweep: OverflowSweep, behaviour: str) -> list[OverflowPoint]:
    """Its points, narrowest register first."""
    return sorted((point for point in sweep.points if point.behaviour == behaviour), key=lambda point: point.bits)


def widths(sweep: OverflowSweep) -> list[int]:
    return sorted({point.bits for point in sweep.points})


def over_width(sweep: OverflowSweep) -> dict:
    """The metric against the register's width, a line each behaviour."""
    info, family_of = sweep.info, families(sweep)
    values = [p.metric for p in sweep.points if math.isfinite(p.metric)]
    is_log = not info.higher_is_better and min([*values, info.float_metric]) > 0
    every = [math.log10(v) if is_log else v for v in [*values, info.float_metric]]
    panel = Panel("y", *padded(every, 0.06), 0.0, 1.0, is_log)
    around = Comparison(info)
    traces = [
        {
            "type": "scatter", "mode": "lines+markers", "name": html.escape(named(name)), "cliponaxis": False,
            "x": [p.bits for p in points], "y": [p.metric for p in points],
            "text": [_hover(sweep, p) for p in points], "hovertemplate": "%{text}<extra></extra>",
            "line": {"color": family_of[name].colour, "width": 1.6, "dash": "solid" if _counts(sweep, name) else "dot"},
            "marker": {"color": family_of[name].colour, "symbol": family_of[name].marker, "size": 9,
                       "line": {"color": "white", "width": 1}},
        }
        for name in sweep.behaviours
        for points in [of(sweep, name)]
    ]  # fmt: skip
    shown = widths(sweep)
    layout = {
        "width": WIDTH, "height": HEIGHT, "margin": MARGIN, **vertical_axes([panel]),
        "xaxis": {**AXIS, "title": {"text": "bits of the accumulator"}, "range": [shown[0] - 0.5, shown[-1] + 0.5],
                  "tickmode": "array", "tickvals": shown, "ticktext": [str(bits) for bits in shown], "anchor": "y"},
        "shapes": [*float_shapes(around, [panel]), *_proved_line(sweep)],
        "annotations": [float_name(around, panel), *_proved_name(sweep)],
        "legend": {"x": 1.0, "xanchor": "left", "y": 0.0, "yanchor": "bottom", "font": {"size": 12}},
        "title": vertical_title(around),
    }  # fmt: skip
    return {"data": traces, "layout": layout}


def rates(sweep: OverflowSweep) -> dict | None:
    """Layers against widths: how many complete sums overflow, one behaviour at a time; None of floats alone."""
    integers = [name for name in sweep.behaviours if _counts(sweep, name)]
    if not integers:
        return None
    names = [html.escape(layer.name) for layer in sweep.layers]
    views = [_rate_view(sweep, name) for name in integers]
    left = 34 + min(330, round(6.4 * max(map(len, names))))
    decades = range(round(math.log10(_SMALLEST_RATE)), 1)
    trace = {
        "type": "heatmap", **views[0], "hoverinfo": "text", "colorscale": SCALE, "xgap": 1, "ygap": 1,
        "hoverongaps": False, "zmin": math.log10(_SMALLEST_RATE), "zmax": 0, "texttemplate": "%{text}",
        "textfont": {"size": 10.5},
        "colorbar": {"title": {"text": "sums that overflow", "side": "right", "font": {"size": 11}}, "thickness": 10,
                     "outlinewidth": 0, "tickfont": {"size": 11}, "len": 1, "x": 1.01, "tickmode": "array",
                     "tickvals": list(decades), "ticktext": [f"{100 * 10.0**d:g} %" for d in decades]},
    }  # fmt: skip
    bits = [p.bits for p in of(sweep, integers[0])]
    buttons = [
        {"label": named(name), "method": "restyle", "args": [{key: [value] for key, value in view.items()}]}
        for name, view in zip(integers, views)
    ]
    layout = {
        "width": WIDTH, "height": 96 + 26 * len(names), "margin": {"l": left, "r": 84, "t": 44, "b": 52},
        "plot_bgcolor": BLANK,
        "xaxis": _positions([str(b) for b in bits]) | {"title": {"text": "bits of the accumulator"}},
        "yaxis": _positions(names) | {"autorange": "reversed"},
        "updatemenus": [{
            "type": "buttons", "direction": "right", "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom",
            "pad": {"b": 8, "l": 0, "t": 0}, "bgcolor": "white", "bordercolor": RULE,
            "font": {"size": 11.5, "color": MUTED}, "showactive": True, "buttons": buttons,
        }],
    }  # fmt: skip
    return {"data": [trace], "layout": layout}


def histograms(sweep: OverflowSweep) -> dict:
    """How many bits the complete sums of each layer need; a slider sets the register."""
    layers = sweep.layers
    last = max(max(len(layer.counts), layer.proved) for layer in layers)
    first = max(min(_first(layer) for layer in layers) - 1, 0)
    rows = -(-len(layers) // _COLUMNS)
    top, gap, bottom = 96, 46, 30  # pixels
    inner = rows * _ROW_HEIGHT - gap
    height = top + inner + bottom
    traces: list[dict] = []
    layout: dict = {"width": WIDTH, "height": height, "margin": {"l": 56, "r": 12, "t": top, "b": bottom},
                    "showlegend": False, "bargap": 0.08, "annotations": [], "shapes": []}  # fmt: skip
    for i, layer in enumerate(layers):
        row, column = divmod(i, _COLUMNS)
        axis = "" if i == 0 else str(i + 1)
        x0 = column / _COLUMNS
        x1 = x0 + 1 / _COLUMNS - 0.035
        y1 = 1 - row * _ROW_HEIGHT / inner
        y0 = y1 - (_ROW_HEIGHT - gap) / inner
        total = max(sum(layer.counts), 1)
        bits = list(range(1, len(layer.counts) + 1))
        traces.append({
            "type": "bar", "x": bits, "y": [c / total if c else None for c in layer.counts],
            "xaxis": f"x{axis}", "yaxis": f"y{axis}", "hovertemplate": "%{text}<extra></extra>",
            "text": [_bar_text(layer, b) for b in bits], "textposition": "none",
        })  # fmt: skip
        ends = [b for b in (1, 8, 16, 24, 32, 40) if first <= b <= last + 1]
        layout[f"xaxis{axis}"] = {
            "domain": [x0, x1], "anchor": f"y{axis}", "range": [first + 0.5, last + 0.9], "tickvals": ends,
            "showline": True, "linecolor": INK, "ticks": "outside", "ticklen": 3, "tickfont": {"size": 10},
            "zeroline": False, "showgrid": False, "fixedrange": True,
        }  # fmt: skip
        layout[f"yaxis{axis}"] = {
            "domain": [max(y0, 0), y1], "anchor": f"x{axis}", "type": "log", "range": [-6, 0.15], "fixedrange": True,
            "tickvals": [1e-6, 1e-4, 1e-2, 1], "ticktext": ["10⁻⁶", "10⁻⁴", "10⁻²", "1"],
            "tickfont": {"size": 9, "color": MUTED}, "zeroline": False, "gridcolor": "#eeeeea",
            "showticklabels": column == 0,
        }  # fmt: skip
        layout["annotations"].append({
            "xref": "paper", "yref": "paper", "x": x0, "y": y1, "xanchor": "left", "yanchor": "bottom", "yshift": 2,
            "text": f"<b>{html.escape(layer.name)}</b>  <span style='color:{MUTED}'>K {layer.k}</span>",
            "showarrow": False, "font": {"size": 11, "color": INK},
        })  # fmt: skip
        layout["shapes"].append({
            "type": "line", "xref": f"x{axis}", "yref": f"y{axis} domain", "x0": layer.proved + 0.5,
            "x1": layer.proved + 0.5, "y0": 0, "y1": 1, "line": {"color": INK, "width": 1, "dash": "dot"},
        })  # fmt: skip
    chosen = list(range(max(first, 1), last + 1))
    start = max(max(len(layer.counts) for layer in layers) - 2, chosen[0])
    layout["sliders"] = [{
        "active": chosen.index(start), "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom", "len": 0.62,
        "pad": {"b": 34, "t": 0}, "currentvalue": {"prefix": "register: ", "suffix": " bits", "font": {"size": 13}},
        "font": {"size": 10, "color": MUTED}, "ticklen": 3, "minorticklen": 0, "bordercolor": RULE,
        "steps": [{"label": str(bits), "method": "restyle", "args": [{"marker.color": _colours(layers, bits)}]}
                  for bits in chosen],
    }]  # fmt: skip
    for trace, colours in zip(traces, _colours(layers, start)):
        trace["marker"] = {"color": colours}
    return {"data": traces, "layout": layout}


def beyond(layer: NeededBits, bits: int) -> float:
    """The share of complete sums that need more bits."""
    return sum(layer.counts[bits:]) / max(sum(layer.counts), 1)


def _colours(layers: Sequence[NeededBits], register: int) -> list[list[str]]:
    return [[_BEYOND if b > register else _WITHIN for b in range(1, len(layer.counts) + 1)] for layer in layers]


def _first(layer: NeededBits) -> int:
    """The narrowest width that a visible share of the sums needs."""
    total = sum(layer.counts)
    return next((b for b, c in enumerate(layer.counts, 1) if c > 1e-6 * total), 1)


def _bar_text(layer: NeededBits, bits: int) -> str:
    total = max(sum(layer.counts), 1)
    return (
        f"<b>{html.escape(layer.name)}</b><br>{bits} bits: {notation.per_cent(layer.counts[bits - 1] / total)} % "
        f"of {total:,} sums<br>more: {notation.per_cent(beyond(layer, bits))} %<br>proved: {layer.proved} bits"
    )


def _counts(sweep: OverflowSweep, behaviour: str) -> bool:
    """Whether overflow is counted: a float register rounds instead."""
    return any(point.overflow_rate is not None for point in of(sweep, behaviour))


def _rate_view(sweep: OverflowSweep, behaviour: str) -> dict:
    points = of(sweep, behaviour)
    lines = [[point.layer_rates[i] for point in points] for i in range(len(sweep.layers))]
    return {
        "z": [[math.log10(max(rate, _SMALLEST_RATE)) if rate else None for rate in line] for line in lines],
        "text": [[notation.per_cent(rate) if rate else "" for rate in line] for line in lines],
        "hovertext": [
            [f"<b>{html.escape(layer.name)}</b><br>{named(behaviour)}, {point.bits} bits<br>"
             f"{notation.per_cent(rate)} % of complete sums overflow" for point, rate in zip(points, line)]
            for layer, line in zip(sweep.layers, lines)
        ],
    }  # fmt: skip


def _hover(sweep: OverflowSweep, point: OverflowPoint) -> str:
    unit = f" {sweep.info.metric_unit}" if sweep.info.metric_unit else ""
    lines = [f"<b>{named(point.behaviour)}, {point.bits} bits</b>",
             f"{html.escape(sweep.info.metric)}: {notation.decimal(point.metric, 2)}{unit}"]  # fmt: skip
    if point.agreement is not None:
        lines.append(f"agreement with float: {notation.decimal(point.agreement, 1)} %")
    if point.overflow_rate is not None:
        lines.append(f"sums that overflow: {notation.per_cent(point.overflow_rate)} %")
    return "<br>".join(lines)


def _proved_line(sweep: OverflowSweep) -> list[dict]:
    proved, shown = max(layer.proved for layer in sweep.layers), widths(sweep)
    if not shown[0] <= proved <= shown[-1]:
        return []
    return [{"type": "line", "xref": "x", "yref": "paper", "x0": proved, "x1": proved, "y0": 0, "y1": 1,
             "line": {"color": MUTED, "width": 1, "dash": "dot"}, "layer": "below"}]  # fmt: skip


def _proved_name(sweep: OverflowSweep) -> list[dict]:
    return [
        {"xref": "x", "yref": "paper", "x": line["x0"], "y": 1, "xanchor": "center", "yanchor": "bottom",
         "text": "proved", "showarrow": False, "font": {"size": 11, "color": MUTED}}
        for line in _proved_line(sweep)
    ]  # fmt: skip


def _positions(names: list[str]) -> dict:
    return {"tickmode": "array", "tickvals": list(range(len(names))), "ticktext": names, "showgrid": False,
            "zeroline": False, "ticks": "", "tickfont": {"size": 11.5, "color": INK}, "fixedrange": True}  # fmt: skip
