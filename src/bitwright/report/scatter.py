"""The metric against the bits spent: a point a scheme, the float baseline a dashed line, the Pareto front a step."""

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from bitwright.report import notation
from bitwright.report.axes import (
    AXIS,
    WHOLE,
    Canvas,
    Panel,
    float_name,
    float_shapes,
    legend,
    log_ticks,
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

_LETTER = 6.0  # pixels of one in a label, an upper estimate


@dataclass(frozen=True)
class Cost:
    """One choice of the horizontal axis."""

    title: str
    button: str
    read: Callable[[SchemeResult], Number | None]
    unit: Number = 1
    is_apart: Callable[[SchemeResult], bool] = lambda row: False  # whether it compares with no other
    widest_ratio: Number = math.inf  # of the largest to the smallest cost, beyond which the axis is logarithmic

    def of(self, row: SchemeResult) -> Number | None:
        value = self.read(row)
        return None if value is None else value / self.unit

    def range(self, values: Sequence[Number]) -> tuple[Number, Number]:
        """Of the axis, as it counts."""
        counted = [math.log10(value) for value in values] if self.is_log(values) else list(values)
        return padded(counted, 0.07) if counted else (0.0, 1.0)

    def is_log(self, values: Sequence[Number]) -> bool:
        return bool(values) and min(values) > 0 and max(values) > self.widest_ratio * min(values)


@dataclass(frozen=True)
class Frame:
    """Where a scheme lies on the figure: horizontal range of its cost as the axis counts it, and the panels."""

    cost: Cost
    low: Number
    high: Number
    is_log: bool
    panels: tuple[Panel, ...]
    canvas: Canvas

    def panel(self, row: SchemeResult) -> Panel:
        return panel_of(row, self.panels)

    def position(self, row: SchemeResult) -> Number:
        """The cost as the axis counts it."""
        return math.log10(self.cost.of(row)) if self.is_log else self.cost.of(row)

    def pixel(self, row: SchemeResult) -> tuple[Number, Number]:
        x = (self.position(row) - self.low) / (self.high - self.low) * self.canvas.plot_width
        return x, self.panel(row).share(row.metric) * self.canvas.plot_height


def scatter(comparison: Comparison) -> dict:
    """The metric against bits, as plotly's plain structure: traces and layout."""
    panels, costs = metric_panels(comparison), _costs(comparison)
    figure, views = _figure(comparison, costs, panels, WHOLE)
    figure["layout"]["legend"] = legend(panels[0], comparison.info.float_metric)
    figure["layout"]["updatemenus"] = [menu([cost.button for cost in costs], [["update", list(v)] for v in views])]
    return figure


def against(comparison: Comparison, cost: Cost, canvas: Canvas) -> dict:
    """The metric against one cost on a canvas without room for a legend, likewise."""
    figure, _ = _figure(comparison, [cost], metric_panels(comparison), canvas)
    unit = comparison.info.metric_unit
    figure["layout"]["showlegend"] = False
    apart = {row.scheme for row in measured(comparison) if cost.is_apart(row)}
    for trace in figure["data"]:
        for key in ("legendgroup", "showlegend", "name"):
            trace.pop(key, None)
        if trace.pop("text", None):
            symbol = trace["marker"]["symbol"]
            if apart.intersection(trace["customdata"]):
                symbols = [f"{symbol}-open" if scheme in apart else symbol for scheme in trace["customdata"]]
                trace["marker"] |= {"symbol": symbols}
            axes = f"%{{y:.2f}} {html.escape(unit)}<br>%{{xaxis.title.text}}: %{{x:.3g}}"
            trace["hovertemplate"] = f"<b>%{{customdata}}</b><br>{axes}<extra></extra>"
    for annotation in figure["layout"]["annotations"]:
        if annotation.get("xanchor") == "left":  # the float model's name: no margin to stand in
            annotation |= {"xanchor": "right", "xshift": -4, "yshift": 9}
    return figure


def _figure(
    comparison: Comparison, costs: Sequence[Cost], panels: list[Panel], canvas: Canvas
) -> tuple[dict, list[tuple[dict, dict]]]:
    """Traces and layout with the first cost, and the view of each."""
    groups = _groups(comparison, panels)
    views = [_view(comparison, cost, panels, groups, canvas) for cost in costs]
    traces = [_points(comparison, *group) for group in groups]
    seen: set[str] = set()
    for trace in traces:
        trace["showlegend"] = trace["name"] not in seen
        seen.add(trace["name"])
    traces = [*(_front(panel) for panel in panels), *traces]
    for trace, x, y in zip(traces, views[0][0]["x"], views[0][0]["y"]):
        trace.update(x=x, y=y)
    return {"data": traces, "layout": _layout(comparison, panels, canvas, views[0][1])}, views


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
    points = {
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
    if comparison.silicon is not None:  # the page's script finds a scheme's points in other figures by its name
        points |= {"customdata": [row.scheme for row in rows], "unselected": {"marker": {"opacity": 0.25}}}
    return points


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
    comparison: Comparison,
    cost: Cost,
    panels: list[Panel],
    groups: list[tuple[Panel, Family, list[SchemeResult]]],
    canvas: Canvas,
) -> tuple[dict, dict]:
    """What changes with the horizontal axis: coordinates of all traces, and the layout's axis and labels."""
    rows = [row for row in measured(comparison) if cost.of(row) is not None]
    xs = [cost.of(row) for row in rows]
    alike = [row for row in rows if not cost.is_apart(row)]
    front = [alike[i] for i in pareto([cost.of(row) for row in alike], [loss(comparison.info, row) for row in alike])]
    drawn = [front] * len(panels) + [group for _, _, group in groups]
    data = {
        "x": [[cost.of(row) for row in trace] for trace in drawn],
        "y": [[row.metric for row in trace] for trace in drawn],
    }
    frame = Frame(cost, *cost.range(xs), cost.is_log(xs), tuple(panels), canvas)
    annotations = [
        float_name(comparison, panels[0]),
        *(_left_out(comparison, cost, len(rows)) if canvas == WHOLE else []),
        *_labels(frame, rows, front, panels[0].share(comparison.info.float_metric) * canvas.plot_height),
    ]
    view = {"xaxis.title.text": cost.title, "xaxis.range": [frame.low, frame.high], "annotations": annotations}
    return data, view | ({"xaxis.type": "log"} if frame.is_log else {})


def _labels(frame: Frame, rows: list[SchemeResult], front: list[SchemeResult], baseline_y: Number) -> list[dict]:
    """The scheme's text beside each point of the front."""
    canvas = frame.canvas
    lines = [(0, baseline_y - 1, canvas.plot_width, baseline_y + 1)]
    for (x0, y0), (x1, y1) in pairwise(map(frame.pixel, front)):
        lines += [(x0, y0 - 1, x1, y0 + 1), (x1 - 1, min(y0, y1), x1 + 1, max(y0, y1))]
    offsets = place(
        [Label.of(*frame.pixel(row), _short(row.scheme, canvas)) for row in front],
        frame=boxes([(2, 2, canvas.plot_width - 2, canvas.plot_height - 2)])[0],
        points=boxes([(x - 7, y - 7, x + 7, y + 7) for x, y in map(frame.pixel, rows)]),
        lines=boxes(lines),
    )
    return [
        {
            "x": frame.position(row),
            "y": frame.panel(row).position(row.metric),
            "yref": frame.panel(row).axis,
            "text": html.escape(_short(row.scheme, canvas)),
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


def _short(scheme: str, canvas: Canvas) -> str:
    """A name that takes no more than half of the plot."""
    most = int(canvas.plot_width / 2 / _LETTER)
    return scheme if len(scheme) <= most else f"{scheme[: most - 1]}…"


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


def _layout(comparison: Comparison, panels: list[Panel], canvas: Canvas, view: dict) -> dict:
    kind = {"type": "log", **log_ticks(*view["xaxis.range"])} if "xaxis.type" in view else {}
    return {
        "width": canvas.width,
        "height": canvas.height,
        "margin": canvas.margin,
        "xaxis": {**AXIS, **kind, "title": {"text": view["xaxis.title.text"]}, "range": view["xaxis.range"],
                  "anchor": panels[-1].axis},
        **vertical_axes(panels),
        "shapes": float_shapes(comparison, panels),
        "annotations": [*view["annotations"]],
        "title": vertical_title(comparison),
    }  # fmt: skip


def menu(labels: list[str], calls: list[list]) -> dict:
    """A row of plain buttons at the figure's upper right."""
    return {
        "type": "buttons",
        "direction": "right",
        "x": 1, "xanchor": "right", "y": 1, "yanchor": "bottom", "pad": {"b": 12, "r": 0, "t": 0},
        "bgcolor": "white", "bordercolor": RULE, "font": {"size": 11.5},
        "showactive": True,
        "buttons": [{"label": label, "method": method, "args": args} for label, (method, args) in zip(labels, calls)],
    }  # fmt: skip
