"""Accumulator to next code, in integers: multiply by a fixed-point factor, shift right with rounding, add, clip.

The variants that hardware and runtimes use are values of one dataclass, so that their last-bit differences are
visible: TFLite's original path rounds twice (gemmlowp, B. Jacob et al., CVPR 2018, sec. 2.2), its newer one once.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Int as Ints

from bitwright.formats import Int, Rounding, shift_right


class FixedPoint(NamedTuple):
    """A positive real factor as multiplier · 2**-shift."""

    multiplier: int
    shift: int


@dataclass(frozen=True)
class Requantize:
    """y = clip(round(accumulator · multiplier / 2**shift) + zero point).

    `first_rounding` None shifts once; otherwise the product is first shifted by multiplier_bits - 1 under it, as a
    doubling high multiplication does, and the rest under `rounding`.
    """

    multiplier_bits: int = 32  # signed, so the factor keeps one bit less
    rounding: Rounding = Rounding.NEAREST_UP
    first_rounding: Rounding | None = None

    def __post_init__(self) -> None:
        if not 2 <= self.multiplier_bits <= 32:
            raise ValueError(f"Requantize: {self.multiplier_bits} multiplier bits found; 2 to 32 are possible")

    def fixed_point(self, factor: float) -> FixedPoint:
        """Nearest multiplier in [2**(bits-2), 2**(bits-1)) with its shift. The factor must be positive and below 2."""
        if not 0 < factor < 2:
            raise ValueError(f"Requantize: a factor of {factor} found; it must lie between 0 and 2")
        fraction, exponent = np.frexp(factor)
        places = self.multiplier_bits - 1
        multiplier = round(float(fraction) * 2**places)
        if multiplier == 2**places:
            multiplier, exponent = multiplier // 2, exponent + 1
        return FixedPoint(multiplier, places - int(exponent))

    def apply(
        self, accumulator: Ints[np.ndarray, "*shape"], factor: FixedPoint, output: Int, zero_point: int = 0
    ) -> Ints[np.ndarray, "*shape"]:
        """Integers of the output format. Accumulators of up to 32 bits keep the product within int64."""
        assert np.all(np.abs(accumulator) <= 2**31), "a 32-bit accumulator"
        product = accumulator.astype(np.int64) * factor.multiplier
        if self.first_rounding is None:
            scaled = shift_right(product, factor.shift, self.rounding)
        else:
            first = min(self.multiplier_bits - 1, factor.shift)  # a factor above one shifts left before it rounds
            scaled = shift_right(shift_right(product, first, self.first_rounding), factor.shift - first, self.rounding)
        return np.clip(scaled + zero_point, *output.range)


SINGLE_ROUNDING = Requantize()
"""TFLite's single-rounding path: add half, shift."""

DOUBLE_ROUNDING = Requantize(rounding=Rounding.NEAREST_AWAY, first_rounding=Rounding.NEAREST_UP)
"""TFLite's original path: gemmlowp's doubling high multiplication (ties up), then its rounding shift (ties away)."""
