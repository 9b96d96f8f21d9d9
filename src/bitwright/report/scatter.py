"""The metric against the bits spent: every scheme a point, the float baseline a dashed line, the Pareto front a step.

Where a few schemes collapse, the axis breaks: the schemes near float keep their resolution above, the others below.
"""

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from bitwright.report import notation
from bitwright.report.finding import loss, mean_bits, measured, pareto, standard_error
from bitwright.report.labels import Label, boxes, place
from bitwright.report.notation import Number
from bitwright.report.palette import INK, MUTED, RULE, Family, families
from bitwright.report.tables import summary_columns
from bitwright.result import Comparison, SchemeResult

WIDTH, HEIGHT = 1040, 520
_MARGIN = {"l": 68, "r": 168, "t": 56, "b": 64}
_PLOT_WIDTH = WIDTH - _MARGIN["l"] - _MARGIN["r"]
_PLOT_HEIGHT = HEIGHT - _MARGIN["t"] - _MARGIN["b"]
_CHARACTER, _LINE = 6.0, 15  # pixels of an 11 px sans character, upper estimate
_LEAST_GAP = 0.5  # the axis breaks where a gap between neighbours takes this share of the whole range
_MOST_DECADES_WITH_STEPS = 3.5
_FAR_SHARE, _BREAK_SHARE = 0.2, 0.05  # of the height


@dataclass(frozen=True)
class Cost:
    """One choice of the horizontal axis."""

    title: str
    button: str
    read: Callable[[SchemeResult], Number | None]
    unit: Number = 1

    def of(self, row: SchemeResult) -> Number | None:
        value = self.read(row)
        return None if value is None else value / self.unit


@dataclass(frozen=True)
class Panel:
    """A stretch of the vertical axis: data range, its logarithm taken if so drawn, and the share of the height."""

    axis: str  # "y" | "y2"
    low: Number
    high: Number
    bottom: Number
    top: Number
    is_log: bool

    def position(self, value: Number) -> Number:
        """The value as the axis counts it."""
        return math.log10(value) if self.is_log else value

    def pixel(self, value: Number) -> Number:
        share = (self.position(value) - self.low) / (self.high - self.low)
        return (1 - self.bottom - share * (self.top - self.bottom)) * _PLOT_HEIGHT

    def contains(self, value: Number) -> bool:
        return self.low <= self.position(value) <= self.high


@dataclass(frozen=True)
class Frame:
    """Where a scheme lies on the figure: horizontal range of its cost, and the panels."""

    cost: Cost
    low: Number
    high: Number
    panels: tuple[Panel, ...]

    def panel(self, row: SchemeResult) -> Panel:
        return _panel(row, self.panels)

    def pixel(self, row: SchemeResult) -> tuple[Number, Number]:
        x = (self.cost.of(row) - self.low) / (self.high - self.low) * _PLOT_WIDTH
        return x, self.panel(row).pixel(row.metric)


def scatter(comparison: Comparison) -> dict:
    """The figure as plotly's plain structure: traces and layout."""
    panels = _panels(comparison)
    costs = _costs(comparison)
    groups = _groups(comparison, panels)
    views = [_view(comparison, cost, panels, groups) for cost in costs]
    traces = [_points(comparison, *group) for group in groups]
    seen: set[str] = set()
    for trace in traces:
        trace["showlegend"] = trace["name"] not in seen
        seen.add(trace["name"])
    traces = [*(_front(panel) for panel in panels), *traces]
    for trace, x, y in zip(traces, views[0][0]["x"], views[0][0]["y"]):
        trace.update(x=x, y=y)
    layout = _layout(comparison, panels, [cost.button for cost in costs], views)
    return {"data": traces, "layout": layout}


def _costs(comparison: Comparison) -> list[Cost]:
    sizes = [row.model_bytes for row in measured(comparison) if row.model_bytes]
    name, unit, _ = notation.size_scale(min(sizes, default=1))
    return [
        Cost("mean of weight and input bits per element", "mean bits", mean_bits),
        Cost("bits per weight", "weight bits", lambda row: row.weight_bits),
        Cost(f"model size ({name})", "model size", lambda row: row.model_bytes, unit),
    ]


def _panels(comparison: Comparison) -> list[Panel]:
    info = comparison.info
    values = [row.metric for row in measured(comparison)]
    error = standard_error(info) or 0.0
    everything = [*values, info.float_metric, info.float_metric - error, info.float_metric + error]
    if not info.higher_is_better and min(everything) > 0 and max(everything) > 10 * min(everything):
        return [Panel("y", *_padded([math.log10(value) for value in everything]), 0.0, 1.0, True)]
    ranked = sorted(everything)
    gap, first_near = max((b - a, b) for a, b in pairwise(ranked)) if values else (0.0, 0.0)
    near, far = [value for value in ranked if value >= first_near], [value for value in ranked if value < first_near]
    is_collapse = info.higher_is_better and max(far, default=math.inf) < info.float_metric - error
    if not is_collapse or len(near) < len(far) or gap < _LEAST_GAP * (ranked[-1] - ranked[0]):
        return [Panel("y", *_padded(everything), 0.0, 1.0, False)]
    (near_low, near_high), (far_low, far_high) = _padded(near), _padded(far, 0.35)
    return [
        Panel("y", near_low, near_high, _FAR_SHARE + _BREAK_SHARE, 1.0, False),
        Panel("y2", max(far_low, min(0.0, *far)), min(far_high, near_low), 0.0, _FAR_SHARE, False),
    ]


def _padded(values: list[Number], share: Number = 0.09) -> tuple[Number, Number]:
    """Range of the values with room around it."""
    low, high = min(values), max(values)
    room = share * (high - low) or max(0.02 * abs(high), 0.1)
    return low - room, high + room


def _groups(comparison: Comparison, panels: list[Panel]) -> list[tuple[Panel, Family, list[SchemeResult]]]:
    """Points by panel and family: one trace each."""
    family_of = families(comparison)
    groups: dict[tuple[Panel, Family], list[SchemeResult]] = {}
    for row in measured(comparison):
        groups.setdefault((_panel(row, panels), family_of[row.scheme]), []).append(row)
    by_family = sorted(groups.items(), key=lambda item: item[0][1].index)
    return [(panel, family, rows) for (panel, family), rows in by_family]


def _panel(row: SchemeResult, panels: Sequence[Panel]) -> Panel:
    """The first panel that holds the metric; the last holds what the others do not."""
    return next((panel for panel in panels if panel.contains(row.metric)), panels[-1])


def _points(comparison: Comparison, panel: Panel, family: Family, rows: list[SchemeResult]) -> dict:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": html.escape(family.name),
        "legendgroup": f"family {family.index}",
        "yaxis": panel.axis,
        "cliponaxis": False,
        "text": [_hover(comparison, row) for row in rows],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {
            "color": family.colour,
            "symbol": family.marker,
            "size": 11,
            "line": {"color": "white", "width": 1},
        },
    }


def _hover(comparison: Comparison, row: SchemeResult) -> str:
    """Every figure of the table, for one point."""
    columns = summary_columns(comparison)[1:]
    lines = [f"{column.heading}: {column.cell(row).text}" for column in columns]
    return "<br>".join([f"<b>{html.escape(row.scheme)}</b>", *(html.escape(line) for line in lines)])


def _front(panel: Panel) -> dict:
    """The step line; drawn once for each panel, which clips it."""
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "Pareto front",
        "legendgroup": "front",
        "showlegend": panel.axis == "y",
        "yaxis": panel.axis,
        "line": {"color": MUTED, "width": 1, "shape": "hv"},
        "hoverinfo": "skip",
    }


def _view(
    comparison: Comparison, cost: Cost, panels: list[Panel], groups: list[tuple[Panel, Family, list[SchemeResult]]]
) -> tuple[dict, dict]:
    """What changes with the horizontal axis: coordinates of all traces, and the layout's axis and labels."""
    rows = [row for row in measured(comparison) if cost.of(row) is not None]
    xs = [cost.of(row) for row in rows]
    front = [rows[i] for i in pareto(xs, [loss(comparison.info, row) for row in rows])]
    drawn = [front] * len(panels) + [group for _, _, group in groups]
    data = {
        "x": [[cost.of(row) for row in trace] for trace in drawn],
        "y": [[row.metric for row in trace] for trace in drawn],
    }
    frame = Frame(cost, *(_padded(xs, 0.07) if xs else (0.0, 1.0)), tuple(panels))
    annotations = [
        _baseline_name(comparison, panels[0]),
        *_left_out(comparison, cost, len(rows)),
        *_labels(frame, rows, front, panels[0].pixel(comparison.info.float_metric)),
    ]
    return data, {"xaxis.title.text": cost.title, "xaxis.range": [frame.low, frame.high], "annotations": annotations}


def _labels(frame: Frame, rows: list[SchemeResult], front: list[SchemeResult], baseline_y: Number) -> list[dict]:
    """The scheme's text beside each point of the front."""
    lines = [(0, baseline_y - 1, _PLOT_WIDTH, baseline_y + 1)]
    for (x0, y0), (x1, y1) in pairwise(map(frame.pixel, front)):
        lines += [(x0, y0 - 1, x1, y0 + 1), (x1 - 1, min(y0, y1), x1 + 1, max(y0, y1))]
    offsets = place(
        [Label(*frame.pixel(row), _CHARACTER * len(row.scheme) + 6, _LINE) for row in front],
        frame=boxes([(2, 2, _PLOT_WIDTH - 2, _PLOT_HEIGHT - 2)])[0],
        points=boxes([(x - 7, y - 7, x + 7, y + 7) for x, y in map(frame.pixel, rows)]),
        lines=boxes(lines),
    )
    return [
        {
            "x": frame.cost.of(row),
            "y": frame.panel(row).position(row.metric),
            "yref": frame.panel(row).axis,
            "text": html.escape(row.scheme),
            "ax": dx,
            "ay": dy,
            "showarrow": True,
            "arrowhead": 0,
            "arrowwidth": 0.7,
            "arrowcolor": MUTED,
            "standoff": 6,
            "font": {"size": 11, "color": INK},
        }
        for row, (dx, dy) in zip(front, offsets)
    ]


def _baseline_name(comparison: Comparison, panel: Panel) -> dict:
    """The float metric at the right end of its line, outside the frame."""
    info = comparison.info
    unit = f" {info.metric_unit}" if info.metric_unit else ""
    return {
        "xref": "paper",
        "x": 1,
        "xanchor": "left",
        "xshift": 6,
        "yref": "y",
        "y": panel.position(info.float_metric),
        "text": html.escape(f"float {notation.decimal(info.float_metric, 2)}{unit}"),
        "showarrow": False,
        "font": {"size": 11, "color": INK},
    }


def _left_out(comparison: Comparison, cost: Cost, shown: int) -> list[dict]:
    missing = len(comparison.rows) - shown
    if not missing:
        return []
    text = f"not shown: {notation.plural(missing, 'scheme')} without a metric or {cost.button}"
    return [
        {
            "xref": "paper", "yref": "paper", "x": 1, "y": 0, "xanchor": "right", "yanchor": "top", "yshift": -36,
            "text": text, "showarrow": False, "font": {"size": 11, "color": MUTED},
        }
    ]  # fmt: skip


def _layout(comparison: Comparison, panels: list[Panel], buttons: list[str], views: list[tuple[dict, dict]]) -> dict:
    info = comparison.info
    _, first = views[0]
    axis = {"showgrid": True, "gridcolor": "#eeeeea", "zeroline": False, "linecolor": INK, "showline": True,
            "ticks": "outside", "ticklen": 4, "tickcolor": INK}  # fmt: skip
    error = standard_error(info)
    baseline = {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "yref": "y",
        "y0": info.float_metric,
        "y1": info.float_metric,
        "line": {"color": INK, "width": 1, "dash": "dash"},
        "layer": "below",
    }
    band = {"type": "rect", "xref": "paper", "x0": 0, "x1": 1, "yref": "y", "y0": info.float_metric - (error or 0),
            "y1": info.float_metric + (error or 0), "fillcolor": INK, "opacity": 0.07, "line": {"width": 0},
            "layer": "below"}  # fmt: skip
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "margin": _MARGIN,
        "xaxis": {**axis, "title": {"text": first["xaxis.title.text"]}, "range": first["xaxis.range"],
                  "anchor": panels[-1].axis},
        **{f"yaxis{panel.axis[1:]}": {**axis, **_vertical_axis(panel)} for panel in panels},
        "shapes": [baseline, *([band] if error else []), *(_break_marks() if len(panels) > 1 else [])],
        "annotations": [*first["annotations"]],
        "legend": {"x": 1.0, "xanchor": "left", **_legend_place(panels[0], info.float_metric), "font": {"size": 12},
                   "tracegroupgap": 2},
        "updatemenus": [_menu(buttons, [["update", list(view)] for view in views])],
        "title": _vertical_title(comparison),
    }  # fmt: skip


def _legend_place(panel: Panel, baseline: Number) -> dict:
    """The corner away from the baseline, whose name stands in the same margin."""
    is_low = panel.pixel(baseline) > _PLOT_HEIGHT / 2
    return {"y": 1.0, "yanchor": "top"} if is_low else {"y": 0.0, "yanchor": "bottom"}


def _vertical_axis(panel: Panel) -> dict:
    ticks = {"nticks": 3} if panel.axis == "y2" else {"nticks": 8}
    if panel.is_log:
        steps = (1, 2, 5) if panel.high - panel.low < _MOST_DECADES_WITH_STEPS else (1,)
        decades = range(math.floor(panel.low), math.ceil(panel.high))
        values = [step * 10.0**decade for decade in decades for step in steps]
        ticks = {"type": "log", "tickmode": "array", "tickvals": values,
                 "ticktext": [notation.decimal(value, 0 if value >= 1 else 3) for value in values]}  # fmt: skip
    return {"domain": [panel.bottom, panel.top], "range": [panel.low, panel.high], **ticks}


def _vertical_title(comparison: Comparison) -> dict:
    """The vertical axis' name, horizontal above the axis as journals set it."""
    info = comparison.info
    unit = f" ({info.metric_unit})" if info.metric_unit else ""
    arrow = "↑ higher is better" if info.higher_is_better else "↓ lower is better"
    text = f"{html.escape(info.metric + unit)}  <span style='color:{MUTED}'>{arrow}</span>"
    return {"text": text, "font": {"size": 13}, "x": 0, "xref": "paper", "xanchor": "left", "y": 1, "yref": "paper",
            "yanchor": "bottom", "pad": {"b": 14, "l": -40}}  # fmt: skip


def _break_marks() -> list[dict]:
    """Two slanted strokes across the axis line at each side of the break."""
    ends = (_FAR_SHARE, _FAR_SHARE + _BREAK_SHARE)
    return [
        {"type": "line", "xref": "paper", "yref": "paper", "x0": -0.007, "x1": 0.007, "y0": y - 0.008, "y1": y + 0.008,
         "line": {"color": INK, "width": 1}}
        for y in ends
    ]  # fmt: skip


def _menu(labels: list[str], calls: list[list]) -> dict:
    """A row of plain buttons at the figure's upper right."""
    return {
        "type": "buttons",
        "direction": "right",
        "x": 1, "xanchor": "right", "y": 1, "yanchor": "bottom", "pad": {"b": 12, "r": 0, "t": 0},
        "bgcolor": "white", "bordercolor": RULE, "font": {"size": 11.5},
        "showactive": True,
        "buttons": [{"label": label, "method": method, "args": args} for label, (method, args) in zip(labels, calls)],
    }  # fmt: skip
