"""The metric against the bits spent: a point a scheme, the float baseline a dashed line, the Pareto front a step."""

import html
from collections.abc import Callable
from dataclasses import dataclass
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
from bitwright.report.finding import loss, mean_bits, measured, pareto
from bitwright.report.labels import Label, boxes, place
from bitwright.report.notation import Number
from bitwright.report.palette import INK, MUTED, RULE, Family, families
from bitwright.report.tables import summary_columns
from bitwright.result import Comparison, SchemeResult


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
class Frame:
    """Where a scheme lies on the figure: horizontal range of its cost, and the panels."""

    cost: Cost
    low: Number
    high: Number
    panels: tuple[Panel, ...]

    def panel(self, row: SchemeResult) -> Panel:
        return panel_of(row, self.panels)

    def pixel(self, row: SchemeResult) -> tuple[Number, Number]:
        x = (self.cost.of(row) - self.low) / (self.high - self.low) * PLOT_WIDTH
        return x, self.panel(row).pixel(row.metric)


def scatter(comparison: Comparison) -> dict:
    """The figure as plotly's plain structure: traces and layout."""
    panels = metric_panels(comparison)
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


def _groups(comparison: Comparison, panels: list[Panel]) -> list[tuple[Panel, Family, list[SchemeResult]]]:
    """Points by panel and family: one trace each."""
    family_of = families(comparison)
    groups: dict[tuple[Panel, Family], list[SchemeResult]] = {}
    for row in measured(comparison):
        groups.setdefault((panel_of(row, panels), family_of[row.scheme]), []).append(row)
    by_family = sorted(groups.items(), key=lambda item: item[0][1].index)
    return [(panel, family, rows) for (panel, family), rows in by_family]


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
    frame = Frame(cost, *(padded(xs, 0.07) if xs else (0.0, 1.0)), tuple(panels))
    annotations = [
        float_name(comparison, panels[0]),
        *_left_out(comparison, cost, len(rows)),
        *_labels(frame, rows, front, panels[0].pixel(comparison.info.float_metric)),
    ]
    return data, {"xaxis.title.text": cost.title, "xaxis.range": [frame.low, frame.high], "annotations": annotations}


def _labels(frame: Frame, rows: list[SchemeResult], front: list[SchemeResult], baseline_y: Number) -> list[dict]:
    """The scheme's text beside each point of the front."""
    lines = [(0, baseline_y - 1, PLOT_WIDTH, baseline_y + 1)]
    for (x0, y0), (x1, y1) in pairwise(map(frame.pixel, front)):
        lines += [(x0, y0 - 1, x1, y0 + 1), (x1 - 1, min(y0, y1), x1 + 1, max(y0, y1))]
    offsets = place(
        [Label.of(*frame.pixel(row), row.scheme) for row in front],
        frame=boxes([(2, 2, PLOT_WIDTH - 2, PLOT_HEIGHT - 2)])[0],
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
    _, first = views[0]
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "margin": MARGIN,
        "xaxis": {**AXIS, "title": {"text": first["xaxis.title.text"]}, "range": first["xaxis.range"],
                  "anchor": panels[-1].axis},
        **vertical_axes(panels),
        "shapes": float_shapes(comparison, panels),
        "annotations": [*first["annotations"]],
        "legend": legend(panels[0], comparison.info.float_metric),
        "updatemenus": [_menu(buttons, [["update", list(view)] for view in views])],
        "title": vertical_title(comparison),
    }  # fmt: skip


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
