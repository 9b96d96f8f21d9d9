"""The metric as a vertical axis, with the float model's line across it.

Where a few schemes collapse, the axis breaks: the schemes near float keep their resolution above, the others below.
"""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from bitwright.report import notation
from bitwright.report.finding import measured, standard_error
from bitwright.report.notation import Number
from bitwright.report.palette import INK, MUTED, Family
from bitwright.result import Comparison, SchemeResult

WIDTH, HEIGHT = 1040, 520
MARGIN = {"l": 68, "r": 168, "t": 56, "b": 64}
PLOT_WIDTH = WIDTH - MARGIN["l"] - MARGIN["r"]
PLOT_HEIGHT = HEIGHT - MARGIN["t"] - MARGIN["b"]
AXIS = {"showgrid": True, "gridcolor": "#eeeeea", "zeroline": False, "linecolor": INK, "showline": True,
        "ticks": "outside", "ticklen": 4, "tickcolor": INK}  # fmt: skip
_LEAST_GAP = 0.5  # the axis breaks where a gap between neighbours takes this share of the whole range
_MOST_DECADES_WITH_STEPS = 3.5
_MOST_LETTERS = 56  # of a scheme's name beside an axis
_FAR_SHARE, _BREAK_SHARE = 0.2, 0.05  # of the height


@dataclass(frozen=True)
class Canvas:
    """Size of a figure and of the margins around its plot, in pixels."""

    width: Number
    height: Number
    left: Number
    right: Number
    top: Number
    bottom: Number

    @property
    def plot_width(self) -> Number:
        return self.width - self.left - self.right

    @property
    def plot_height(self) -> Number:
        return self.height - self.top - self.bottom

    @property
    def margin(self) -> dict:
        return {"l": self.left, "r": self.right, "t": self.top, "b": self.bottom}


WHOLE = Canvas(WIDTH, HEIGHT, MARGIN["l"], MARGIN["r"], MARGIN["t"], MARGIN["b"])
"""As wide as the page, with a legend in the margin."""


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
        return self.share(value) * PLOT_HEIGHT

    def share(self, value: Number) -> Number:
        """Of the plot's height, from its upper edge."""
        share = (self.position(value) - self.low) / (self.high - self.low)
        return 1 - self.bottom - share * (self.top - self.bottom)

    def contains(self, value: Number) -> bool:
        return self.low <= self.position(value) <= self.high


def metric_panels(comparison: Comparison) -> list[Panel]:
    """One panel, or two where some schemes lie far below the others."""
    info = comparison.info
    values = [row.metric for row in measured(comparison)]
    error = standard_error(info) or 0.0
    everything = [*values, info.float_metric, info.float_metric - error, info.float_metric + error]
    if not info.higher_is_better and min(everything) > 0 and max(everything) > 10 * min(everything):
        return [Panel("y", *padded([math.log10(value) for value in everything]), 0.0, 1.0, True)]
    ranked = sorted(everything)
    gap, first_near = max((b - a, b) for a, b in pairwise(ranked)) if values else (0.0, 0.0)
    near, far = [value for value in ranked if value >= first_near], [value for value in ranked if value < first_near]
    is_collapse = info.higher_is_better and max(far, default=math.inf) < info.float_metric - error
    if not is_collapse or len(near) < len(far) or gap < _LEAST_GAP * (ranked[-1] - ranked[0]):
        return [Panel("y", *padded(everything), 0.0, 1.0, False)]
    (near_low, near_high), (far_low, far_high) = padded(near), padded(far, 0.35)
    return [
        Panel("y", near_low, near_high, _FAR_SHARE + _BREAK_SHARE, 1.0, False),
        Panel("y2", max(far_low, min(0.0, *far)), min(far_high, near_low), 0.0, _FAR_SHARE, False),
    ]


def padded(values: list[Number], share: Number = 0.09) -> tuple[Number, Number]:
    """Range of the values with room around it."""
    low, high = min(values), max(values)
    room = share * (high - low) or max(0.02 * abs(high), 0.1)
    return low - room, high + room


def panel_of(row: SchemeResult, panels: Sequence[Panel]) -> Panel:
    """The first panel that holds the metric; the last holds what the others do not."""
    return next((panel for panel in panels if panel.contains(row.metric)), panels[-1])


def vertical_axes(panels: Sequence[Panel]) -> dict:
    """The layout's vertical axes, one a panel."""
    return {f"yaxis{panel.axis[1:]}": {**AXIS, **_vertical_axis(panel)} for panel in panels}


def vertical_title(comparison: Comparison) -> dict:
    """The vertical axis' name, horizontal above the axis as journals set it."""
    info = comparison.info
    unit = f" ({info.metric_unit})" if info.metric_unit else ""
    arrow = "↑ higher is better" if info.higher_is_better else "↓ lower is better"
    text = f"{html.escape(info.metric + unit)}  <span style='color:{MUTED}'>{arrow}</span>"
    return {"text": text, "font": {"size": 13}, "x": 0, "xref": "paper", "xanchor": "left", "y": 1, "yref": "paper",
            "yanchor": "bottom", "pad": {"b": 14, "l": -40}}  # fmt: skip


def float_shapes(comparison: Comparison, panels: Sequence[Panel]) -> list[dict]:
    """The float model's line with its standard error, and the marks of a broken axis."""
    info = comparison.info
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
    return [baseline, *([band] if error else []), *(_break_marks() if len(panels) > 1 else [])]


def float_name(comparison: Comparison, panel: Panel) -> dict:
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


def legend(panel: Panel, baseline: Number) -> dict:
    """At the right, in the corner away from the baseline, whose name stands in the same margin."""
    is_low = panel.pixel(baseline) > PLOT_HEIGHT / 2
    place = {"y": 1.0, "yanchor": "top"} if is_low else {"y": 0.0, "yanchor": "bottom"}
    return {"x": 1.0, "xanchor": "left", **place, "font": {"size": 12}, "tracegroupgap": 2}


def _vertical_axis(panel: Panel) -> dict:
    ticks = {"nticks": 3} if panel.axis == "y2" else {"nticks": 8}
    if panel.is_log:
        ticks = {"type": "log", **log_ticks(panel.low, panel.high)}
    return {"domain": [panel.bottom, panel.top], "range": [panel.low, panel.high], **ticks}


def log_ticks(low: Number, high: Number) -> dict:
    """Written out, of an axis between these logarithms."""
    steps = (1, 1.5, 2, 3, 5, 7) if high - low < 1 else (1, 2, 5) if high - low < _MOST_DECADES_WITH_STEPS else (1,)
    values = [step * 10.0**decade for decade in range(math.floor(low), math.ceil(high)) for step in steps]
    texts = [f"{value:.6g}" if 1e-4 <= value < 1e6 else notation.scientific(value) for value in values]
    return {"tickmode": "array", "tickvals": values, "ticktext": texts}


def _break_marks() -> list[dict]:
    """Two slanted strokes across the axis line at each side of the break."""
    ends = (_FAR_SHARE, _FAR_SHARE + _BREAK_SHARE)
    return [
        {"type": "line", "xref": "paper", "yref": "paper", "x0": -0.007, "x1": 0.007, "y0": y - 0.008, "y1": y + 0.008,
         "line": {"color": INK, "width": 1}}
        for y in ends
    ]  # fmt: skip


def tick_axis(names: Sequence[str]) -> dict:
    """Tick texts by position, so that equal names stay apart."""
    return {"tickmode": "array", "tickvals": list(range(len(names))), "ticktext": names, "showgrid": False,
            "zeroline": False, "ticks": "", "tickfont": {"size": 11.5, "color": INK}, "fixedrange": True}  # fmt: skip


def scheme_ticks(rows: Sequence[SchemeResult], family_of: Mapping[str, Family]) -> list[str]:
    """Names of schemes behind the colour of their family."""
    return [
        f"<span style='color:{family_of[row.scheme].colour};font-size:16px'>●</span> {html.escape(_short(row.scheme))}"
        for row in rows
    ]


def scheme_margin(rows: Sequence[SchemeResult]) -> int:
    """Pixels that the longest of these names takes beside an axis."""
    return 34 + round(5.9 * max(len(_short(row.scheme)) for row in rows))


def _short(scheme: str) -> str:
    """What fits beside an axis."""
    return scheme if len(scheme) <= _MOST_LETTERS else f"{scheme[: _MOST_LETTERS - 1]}…"
