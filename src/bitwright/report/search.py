"""Designs that a search found: metric against cost, which layer got what, and what each scheme does to each layer."""

import html
import math
from dataclasses import replace

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
    tick_axis,
    vertical_axes,
    vertical_title,
)
from bitwright.report.finding import Finding
from bitwright.report.heatmap import BLANK, SCALE
from bitwright.report.palette import MUTED, Family
from bitwright.report.scatter import menu
from bitwright.result import Comparison
from bitwright.result_search import Point, SearchResult

COSTS = (
    ("area_delay", "area × delay", "mm² ms"), ("energy_uj", "energy", "µJ a sample"), ("area_mm2", "area", "mm²"),
    ("delay_ms", "delay", "ms a sample"), ("model_bytes", "model", "bytes"),
)  # fmt: skip
KEY = 18
"""Pixels down that one scheme takes in a key."""
ORIGINS = {
    "uniform": "one scheme for all layers", "allocation": "integer program", "mixquant": "MixQuant", "ohq": "OHQ",
    "ant4_8": "ANT4-8", "search": "proposed by the sampler",
}  # fmt: skip


def families(result: SearchResult) -> dict[str, Family]:
    """A colour and a marker for each way that designs came about."""
    known = [name for name in ORIGINS if any(point.origin == name for point in result.points)]
    return {name: Family(ORIGINS[name], i) for i, name in enumerate(known)}


def finding(result: SearchResult) -> Finding:
    """What the search ends with, in a sentence or two."""
    metric, unit = result.info.metric, result.info.metric_unit
    if result.chosen is None:
        if result.nearest is None:
            return Finding("No design could be computed.", "", "")
        figures = result.nearest.figures
        if figures is not None and figures.error:
            return Finding("No design could be evaluated: ", figures.error, ".")
        broken = ", ".join(f"{text} by {notation.per_cent(part)} %" for text, part in result.nearest.excess)
        return Finding(f"No design keeps {' and '.join(result.budget)}. The nearest breaks ", broken, ".")
    point = result.points[result.chosen]
    assert point.figures is not None, "chosen among evaluated ones"
    kept = point.figures.held_out_metric
    text = f"{metric} {notation.decimal(point.figures.metric, 2)} {unit}"
    text += "" if kept is None else f" ({notation.decimal(kept, 2)} on held-out samples)"
    costs = point.known_costs
    text += f", {three(costs.area_mm2)} mm², {three(costs.energy_uj)} µJ, {three(costs.delay_ms)} ms"
    schemes = ", ".join(dict.fromkeys(dict(point.design.layers).values()))
    within = f" within {' and '.join(result.budget)}" if result.budget else ""
    return Finding(f"The best design{within}: ", schemes, f" on {point.design.machine.array}: {text}.")


def verdict(result: SearchResult) -> str:
    """Whether designs of several schemes beat uniform ones of no less cost, or by how much not."""
    rivals = [(gain.mixed_gain, gain.mixed_held_out_gain) for gain in result.gains if gain.mixed_gain is not None]
    unit = {"": "", "%": " points"}.get(result.info.metric_unit, f" {result.info.metric_unit}")
    beaten = [(gain, held) for gain, held in rivals if gain > 0]
    kept = sum(held is not None and held > 0 for _, held in beaten)
    lost = [-gain for gain, _ in rivals if gain < 0]
    text = f"Mixed designs of no more area × delay and energy beat {len(beaten)} of {len(result.gains)} uniform ones"
    text += f" ({kept} of them on held-out samples too)" if beaten else ""
    text += f", equal {len(rivals) - len(beaten) - len(lost)} and lose to {len(lost)}" if rivals else ""
    text += f", by {notation.decimal(max(lost), 2)}{unit} at most" if lost else ""
    rest = len(result.gains) - len(rivals)
    return f"{text}; beside {rest} there is no mixed design that takes as little." if rest else f"{text}."


def front_plot(result: SearchResult) -> dict:
    """The metric against one cost at a time; the front as a line."""
    shown = [p for p in result.points if p.figures is not None and p.figures.error is None and p.is_feasible]
    info = replace(result.info, float_metric=result.float_metric)  # of the same samples
    values = [p.figures.metric for p in shown if p.figures] + [result.float_metric]
    is_log = not info.higher_is_better and min(values) > 0
    panel = Panel("y", *padded([math.log10(v) if is_log else v for v in values], 0.06), 0.0, 1.0, is_log)
    around, family_of = Comparison(info), families(result)
    groups = [(name, [p for p in shown if p.origin == name]) for name in family_of]
    traces = [
        {
            "type": "scatter", "mode": "lines", "name": "front", "hoverinfo": "skip",
            "x": [], "y": [], "line": {"color": MUTED, "width": 1, "shape": "hv", "dash": "dot"},
        },
        *({
            "type": "scatter", "mode": "markers", "name": html.escape(family_of[name].name), "cliponaxis": False,
            "x": [], "y": [p.metric for p in points], "text": [_hover(result, p) for p in points],
            "hovertemplate": "%{text}<extra></extra>",
            "marker": {"color": family_of[name].colour, "symbol": family_of[name].marker, "size": 8, "opacity": 0.85,
                       "line": {"color": "white", "width": 1}},
        } for name, points in groups),
    ]  # fmt: skip
    views = [_view(result, field, title, unit, groups) for field, title, unit in COSTS]
    for trace, x, y in zip(traces, views[0][0]["x"], views[0][0]["y"]):
        trace |= {"x": x, "y": y}
    layout = {
        "width": WIDTH, "height": HEIGHT, "margin": MARGIN, **vertical_axes([panel]),
        "xaxis": {**AXIS, "title": {"text": views[0][1]["xaxis.title.text"]}, "anchor": "y"},
        "shapes": float_shapes(around, [panel]), "annotations": [float_name(around, panel)],
        "legend": {"x": 1.0, "xanchor": "left", "y": 0.0, "yanchor": "bottom", "font": {"size": 12}},
        "title": vertical_title(around),
        "updatemenus": [menu([title for _, title, _ in COSTS], [["update", list(view)] for view in views])],
    }  # fmt: skip
    return {"data": traces, "layout": layout}


def layers_plot(result: SearchResult) -> dict | None:
    """Designs of the front against layers: which scheme each got."""
    designs = [result.points[i] for i in result.front]
    if not designs:
        return None
    schemes = {text: i for i, text in enumerate(result.schemes)}
    count = max(len(schemes) - 1, 1)
    colours = [Family(text, i).colour for text, i in schemes.items()]
    steps = [[(i + end) / len(colours), colour] for i, colour in enumerate(colours) for end in (0, 1)]
    rows = [dict(point.design.layers) for point in designs]
    names = [f"{i + 1}" for i in range(len(designs))]
    trace = {
        "type": "heatmap", "z": [[schemes[row[layer]] for layer in result.layers] for row in rows],
        "zmin": -0.5, "zmax": count + 0.5, "colorscale": steps, "xgap": 1, "ygap": 1, "hoverinfo": "text",
        "text": [[html.escape(f"{layer}: {row[layer]}") for layer in result.layers] for row in rows],
        "x": [html.escape(layer) for layer in result.layers], "y": names,
        "colorbar": {"tickvals": list(range(len(schemes))), "ticktext": [html.escape(t) for t in schemes],
                     "lenmode": "pixels", "len": KEY * len(schemes), "y": 1, "yanchor": "top", "ypad": 0,
                     "thickness": 10, "outlinewidth": 0, "tickfont": {"size": 11}, "x": 1.01},
    }  # fmt: skip
    return {"data": [trace], "layout": _grid(result, len(designs), 190, KEY * len(schemes))}


def damage_plot(result: SearchResult) -> dict:
    """Schemes against layers: the damage of one layer alone, on a logarithmic shade."""
    damages = {(layer, text): value for layer, text, value in result.damages}
    least = min((v for v in damages.values() if v > 0), default=1e-9)
    reasons = {(layer, text): why for layer, text, why in result.refused}

    def cell(layer: str, text: str) -> float | None:
        value = damages.get((layer, text))
        return None if value is None else math.log10(max(value, least))

    def word(layer: str, text: str) -> str:
        value = damages.get((layer, text))
        said = reasons.get((layer, text), "not measured") if value is None else notation.three_digits(value)
        return html.escape(f"{layer}, {text}: {said}")

    trace = {
        "type": "heatmap", "z": [[cell(layer, text) for layer in result.layers] for text in result.schemes],
        "text": [[word(layer, text) for layer in result.layers] for text in result.schemes], "hoverinfo": "text",
        "x": [html.escape(layer) for layer in result.layers], "y": [html.escape(text) for text in result.schemes],
        "colorscale": SCALE, "xgap": 1, "ygap": 1,
        "colorbar": {"title": {"text": "log₁₀ damage", "side": "right", "font": {"size": 11}}, "thickness": 10,
                     "outlinewidth": 0, "tickfont": {"size": 11}, "len": 1, "x": 1.01},
    }  # fmt: skip
    return {"data": [trace], "layout": _grid(result, len(result.schemes), 150)}


def three(value: float) -> str:
    return notation.three_digits(value)


def _grid(result: SearchResult, rows: int, right: int, key: int = 0) -> dict:
    """Of so many rows, with `right` pixels beside them, of which a key takes so many down."""
    bottom = max(26 + min(190, round(6.4 * max(len(name) for name in result.layers))), key - 24 * rows)
    return {
        "width": WIDTH, "height": 62 + bottom + 24 * rows, "plot_bgcolor": BLANK,
        "margin": {"l": 150, "r": right, "t": 36, "b": bottom},
        "xaxis": tick_axis([html.escape(name) for name in result.layers])
        | {"tickangle": -90 if len(result.layers) > 8 else 0},
        "yaxis": {**AXIS, "type": "category", "autorange": "reversed", "showgrid": False},
    }  # fmt: skip


def _view(
    result: SearchResult, field: str, title: str, unit: str, groups: list[tuple[str, list[Point]]]
) -> tuple[dict, dict]:
    """Coordinates of all traces and the axis under one cost."""
    sign = 1 if result.info.higher_is_better else -1
    kept: list[Point] = []
    for point in sorted((result.points[i] for i in result.front), key=lambda point: getattr(point.known_costs, field)):
        if point.metric is not None and (not kept or sign * point.metric > sign * (kept[-1].metric or 0.0)):
            kept.append(point)
    x = [
        [getattr(p.known_costs, field) for p in kept],
        *([getattr(p.known_costs, field) for p in points] for _, points in groups),
    ]
    y = [[p.metric for p in kept], *([p.metric for p in points] for _, points in groups)]
    return {"x": x, "y": y}, {"xaxis.title.text": f"{title} in {unit}", "xaxis.autorange": True}


def _hover(result: SearchResult, point: Point) -> str:
    figures, costs = point.figures, point.known_costs
    assert figures is not None, "shown where it was evaluated"
    kept = "" if figures.held_out_metric is None else f"<br>held out: {figures.held_out_metric:.2f}"
    schemes = ", ".join(dict.fromkeys(dict(point.design.layers).values()))
    lines = [
        f"<b>{html.escape(schemes)}</b>", f"{html.escape(result.info.metric)}: {figures.metric:.2f}{kept}",
        f"{costs.area_mm2:.3g} mm², {costs.energy_uj:.3g} µJ, {costs.delay_ms:.3g} ms, {costs.model_bytes:,.0f} bytes",
        f"array {point.design.machine.array}, {point.design.machine.dataflow}",
    ]  # fmt: skip
    return "<br>".join(lines)
