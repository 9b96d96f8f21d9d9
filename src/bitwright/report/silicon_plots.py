"""The metric against area, energy, delay and their product, and what the elements are made of."""

import html
from dataclasses import replace

from bitwright.report import notation
from bitwright.report.axes import WIDTH, Canvas, scheme_margin, scheme_ticks, tick_axis
from bitwright.report.palette import MUTED, PART_COLOURS, families
from bitwright.report.scatter import Cost, against
from bitwright.report.silicon import PricedRow, priced_rows, published
from bitwright.result import Comparison, SchemeResult

HALF = Canvas(512, 340, left=58, right=14, top=44, bottom=52)
"""Two stand side by side."""

_LOG_BEYOND = 5.0  # ratio of the dearest scheme to the cheapest
_BAR_HEIGHT = 25

SCATTERS = ("area-plot", "energy-plot", "delay-plot", "product-plot")
"""Elements of the page."""


def silicon_figures(comparison: Comparison) -> dict[str, dict | None]:
    """Plotly's plain structures by element; empty where nothing was priced."""
    found = {priced.row.scheme: priced for priced in priced_rows(comparison)}
    if not any(priced.price.error is None for priced in found.values()):
        return {}
    figures: dict[str, dict | None] = {
        name: against(comparison, cost, HALF) for name, cost in zip(SCATTERS, _costs(found), strict=True)
    }
    return figures | {"parts-plot": parts_plot(comparison)}


def _costs(found: dict[str, PricedRow]) -> list[Cost]:
    """Horizontal axes, in the order of `SCATTERS`."""

    def of(key: str, title: str, name: str) -> Cost:
        def read(row: SchemeResult) -> float | None:
            priced = found.get(row.scheme)
            figure = None if priced is None else getattr(priced.price, key)
            return None if figure is None else figure.value

        return Cost(title, name, read, is_apart=is_published, widest_ratio=_LOG_BEYOND)

    def product(row: SchemeResult) -> float | None:
        return found[row.scheme].energy_delay if row.scheme in found else None

    apart = {priced.row.scheme for priced in published(found.values())}

    def is_published(row: SchemeResult) -> bool:
        return row.scheme in apart

    return [
        of("area_mm2", "area of array and buffers (mm²)", "area"),
        of("energy_uj", "energy a sample (µJ)", "energy"),
        replace(of("delay_ms", "delay a sample (ms)", "delay"), is_apart=lambda row: False),
        Cost("energy × delay a sample (µJ·ms)", "energy and delay", product, is_apart=is_published,
             widest_ratio=_LOG_BEYOND),
    ]  # fmt: skip


def parts_plot(comparison: Comparison) -> dict | None:
    """Bars of an element's parts, a scheme each; None where none was measured."""
    found = [priced for priced in priced_rows(comparison) if priced.price.parts_um2]
    if not found:
        return None
    rows = [priced.row for priced in found]
    parts = [dict(priced.price.parts_um2) for priced in found]
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": html.escape(part),
            "x": [areas.get(part, 0.0) for areas in parts],
            "y": list(range(len(rows))),
            "marker": {"color": colour},
            "hovertemplate": "%{x:.1f} µm²",
        }
        for part, colour in PART_COLOURS.items()
        if any(areas.get(part) for areas in parts)
    ]
    sums = [
        {"x": sum(areas.values()), "y": i, "xanchor": "left", "xshift": 4, "showarrow": False,
         "text": f"{notation.three_digits(sum(areas.values()))}, {priced.price.parts_sum_bits}-bit sums",
         "font": {"size": 11, "color": MUTED}}
        for i, (priced, areas) in enumerate(zip(found, parts))
    ]  # fmt: skip
    layout = {
        "barmode": "stack",
        "bargap": 0.3,
        "width": WIDTH,
        "height": 80 + _BAR_HEIGHT * len(rows),
        "margin": {"l": scheme_margin(rows), "r": 108, "t": 24, "b": 52},
        "xaxis": {"title": {"text": "area of one element and its share of the edge (µm²)"}, "gridcolor": "#eeeeea",
                  "zeroline": False},
        "yaxis": tick_axis(scheme_ticks(rows, families(comparison))) | {"range": [len(rows) - 0.4, -0.6]},
        "hovermode": "y unified",
        "showlegend": False,
        "annotations": sums,
    }  # fmt: skip
    return {"data": traces, "layout": layout}
