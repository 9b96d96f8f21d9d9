"""What a comparison says: the losses against float, the Pareto front and the one sentence at the top."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bitwright.report import notation
from bitwright.result import Comparison, RunInfo, SchemeResult


@dataclass(frozen=True)
class Finding:
    """One sentence with the scheme that it is about, if any, in the middle."""

    before: str
    scheme: str
    after: str

    @property
    def text(self) -> str:
        return self.before + self.scheme + self.after


@dataclass(frozen=True)
class Tolerance:
    """The loss that still counts as equal to float."""

    value: float  # in units of the metric
    text: str


def tolerance(info: RunInfo) -> Tolerance:
    """One point of a metric in per cent; otherwise one per cent of the float metric."""
    if info.metric_unit == "%":
        return Tolerance(1.0, "1 point")
    return Tolerance(0.01 * abs(info.float_metric), "1 %")


def standard_error(info: RunInfo) -> float | None:
    """Binomial standard error of the float accuracy in points; None for a metric that is no share of the samples."""
    is_share = info.metric_unit == "%" and "accuracy" in info.metric.lower() and 0 <= info.float_metric <= 100
    if not is_share or info.samples < 1:
        return None
    share = info.float_metric / 100
    return 100 * math.sqrt(share * (1 - share) / info.samples)


def loss(info: RunInfo, row: SchemeResult) -> float | None:
    """How much worse than float, in units of the metric; negative when better."""
    if row.metric is None:
        return None
    return info.float_metric - row.metric if info.higher_is_better else row.metric - info.float_metric


def mean_bits(row: SchemeResult) -> float | None:
    """Mean of weight and input bits per element."""
    if row.weight_bits is None or row.input_bits is None:
        return None
    return (row.weight_bits + row.input_bits) / 2


def measured(comparison: Comparison) -> list[SchemeResult]:
    """Rows with a finite metric: the ones that can be ranked."""
    return [
        row for row in comparison.rows if row.error is None and row.metric is not None and math.isfinite(row.metric)
    ]


def pareto(costs: Sequence[notation.Number], losses: Sequence[notation.Number]) -> list[int]:
    """Indices that no other point beats in one and equals in the other, by rising cost. Equal points keep the first."""
    front: list[int] = []
    for i in sorted(range(len(costs)), key=lambda i: (costs[i], losses[i], i)):
        if not front or losses[i] < losses[front[-1]]:
            front.append(i)
    return front


def finding(comparison: Comparison) -> Finding:
    """The cheapest scheme within the tolerance of float, or the closest one where none is.

    Cost is the mean of weight and input bits per element; ties go to the smaller model, then to the better metric.
    """
    info, rows = comparison.info, measured(comparison)
    if not comparison.rows:
        return Finding("No scheme was compared.", "", "")
    if not rows:
        return Finding(f"None of the {notation.plural(len(comparison.rows), 'scheme')} produced a result.", "", "")
    allowed = tolerance(info)
    near = [row for row in rows if loss(info, row) <= allowed.value]
    priced = [row for row in near if mean_bits(row) is not None]
    if not near:
        closest = min(rows, key=lambda row: loss(info, row))
        return Finding(
            f"No scheme stays within {allowed.text} of float; the closest is ", closest.scheme, _figures(info, closest)
        )
    share = f"{len(near)} of {notation.plural(len(rows), 'scheme')} {'stays' if len(near) == 1 else 'stay'}"
    if not priced:
        closest = min(near, key=lambda row: loss(info, row))
        return Finding(
            f"{share} within {allowed.text} of float; the closest is ", closest.scheme, _figures(info, closest)
        )
    cheapest = min(priced, key=lambda row: (mean_bits(row), row.model_bytes or math.inf, loss(info, row)))
    return Finding(
        f"{share} within {allowed.text} of float; the cheapest is ", cheapest.scheme, _figures(info, cheapest)
    )


def _figures(info: RunInfo, row: SchemeResult) -> str:
    """Bits, size and metric of one scheme, as the end of a sentence."""
    parts = []
    if row.weight_bits is not None:
        parts.append(f"{notation.bits(row.weight_bits)} bits per weight")
    if row.input_bits is not None:
        parts.append(f"{notation.bits(row.input_bits)} per input")
    if row.model_bytes:
        ratio = f" ({info.float_bytes / row.model_bytes:.1f}× smaller)" if info.float_bytes > row.model_bytes else ""
        parts.append(notation.size(row.model_bytes) + ratio)
    unit = f"\u00a0{info.metric_unit}" if info.metric_unit else ""
    change = notation.signed(row.metric - info.float_metric, 2)
    change_unit = " points" if info.metric_unit == "%" else unit
    parts.append(f"{info.metric} {notation.decimal(row.metric, 2)}{unit} ({change}{change_unit})")
    return f": {', '.join(parts)}."
