"""The only loop that sets scales: coarse to fine, each level encoded into its own format.

At each level ideal = magnitude / (full scale · what finer levels can add · what coarser levels already took).
MX, NVFP4, VS-Quant and per-channel integers are this loop over different tuples of `Scale`.
"""

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from bitwright.formats import FLOAT32, Format, Rounding
from bitwright.quantization.granularity import Granularity

if TYPE_CHECKING:
    from bitwright.quantization.ranges import RangeEstimator


@dataclass(frozen=True)
class Scale:
    """One level of scale factors: who shares one, how it is stored, and where its range comes from.

    `range` None takes the range from the tensor that is being quantized (dynamic for an input, exact for a weight);
    an estimator fixes it at calibration (static) or searches it (weights).
    """

    share: Granularity
    format: Format = FLOAT32
    rounding: Rounding = Rounding.NEAREST_EVEN
    range: "RangeEstimator | None" = None
    full_scale: float | tuple[float, ...] | None = None  # level of the magnitude; several: the least error wins a block
    largest: float | None = None  # stored value that a coarser level leaves room for; None: the format's full scale
    magnitude_format: Format | None = None  # the magnitude is first rounded to this, ties away
    smallest: float = 0.0  # positive ideal scales are raised to this
    zero_as: float | None = None  # stored in place of a scale that is zero

    def __post_init__(self) -> None:
        if self.zero_as is None:
            return
        held = float(self.format.decode(self.format.encode(np.asarray([self.zero_as])))[0])
        if held != self.zero_as:
            raise ValueError(f"Scale: zero_as {self.zero_as} found, which {self.format} does not hold; give {held}")

    @property
    def room(self) -> float:
        """Largest factor that this level can add for a coarser one."""
        return self.format.full_scale if self.largest is None else self.largest


class ScaleValue(Enum):
    """Which scale divides the elements before they are encoded."""

    STORED = "the scale as stored"
    IDEAL = "the scale before rounding; decoding uses the stored one (VS-Quant, eq. 7c)"

    def __repr__(self) -> str:
        return f"ScaleValue.{self.name}"


class Range(NamedTuple):
    """Extremes that one level's scale must cover, one pair a cell. Symmetric ones are (-m, m)."""

    low: Float[np.ndarray, "down across"]
    high: Float[np.ndarray, "down across"]

    @property
    def magnitude(self) -> Float[np.ndarray, "down across"]:
        return np.maximum(np.abs(self.low), np.abs(self.high))


def set_scales(
    scales: tuple[Scale, ...],
    spans: list[Float[np.ndarray, "_ _"]],
    full_scales: tuple[float, ...],
    shape: tuple[int, int],
) -> tuple[list[Int[np.ndarray, "_ _"]], Float[np.ndarray, "rows across"]]:
    """Scale codes of each level, and the stored product of all of them [rows or 1, cells of the finest level].

    `spans` are what each level must map to its entry of `full_scales`. Arithmetic is in the spans' own float type.
    """
    codes = []
    taken = np.ones((1, 1), spans[0].dtype)  # product of the coarser levels, on the current level's grid
    for i, (scale, span) in enumerate(zip(scales, spans, strict=True)):
        room = float(np.prod([finer.room for finer in scales[i + 1 :]]))
        if scale.magnitude_format is not None:
            rounded = scale.magnitude_format.encode(span, Rounding.NEAREST_AWAY)
            span = scale.magnitude_format.decode(rounded).astype(span.dtype)
        if i:
            taken = _on_finer_grid(taken, scales[i - 1].share, scale.share, shape)
        divisor = span.dtype.type(full_scales[i] * room) * taken
        ideal = np.zeros(np.broadcast(span, divisor).shape, span.dtype)
        with np.errstate(over="ignore"):  # an infinite scale saturates like any other
            np.divide(span, divisor, out=ideal, where=divisor > 0)
        ideal = np.where(ideal > 0, np.maximum(ideal, span.dtype.type(scale.smallest)), ideal)
        code = scale.format.encode(ideal, scale.rounding)
        value = scale.format.decode(code).astype(span.dtype)
        if scale.zero_as is not None:
            replacement = scale.format.encode(np.asarray([scale.zero_as]))[0]
            code = np.where(value == 0, replacement, code)
            value = np.where(value == 0, span.dtype.type(scale.zero_as), value)
        codes.append(code)
        taken = value * taken
    return codes, taken


def scale_product(
    scales: tuple[Scale, ...], codes: tuple[Int[np.ndarray, "_ _"], ...], shape: tuple[int, int]
) -> Float[np.ndarray, "rows across"]:
    """Product of the stored scales in float64, on the finest level's grid."""
    product = np.ones((1, 1))
    for i, (scale, code) in enumerate(zip(scales, codes, strict=True)):
        if i:
            product = _on_finer_grid(product, scales[i - 1].share, scale.share, shape)
        product = scale.format.decode(code) * product
    return product


def _on_finer_grid(
    cells: Float[np.ndarray, "down across"], coarse: Granularity, fine: Granularity, shape: tuple[int, int]
) -> Float[np.ndarray, "finer_down finer_across"]:
    (coarse_height, coarse_width), (height, width) = coarse.cell(*shape), fine.cell(*shape)
    down, across = fine.shape(*shape)
    rows = np.arange(down) * height // coarse_height if cells.shape[0] > 1 else np.zeros(down, int)
    columns = np.arange(across) * width // coarse_width if cells.shape[1] > 1 else np.zeros(across, int)
    return cells[rows[:, None], columns]
