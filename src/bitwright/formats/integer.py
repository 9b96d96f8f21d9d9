"""Integers and fixed point."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from jaxtyping import Int as Ints

from bitwright.formats.format import Bounds, Format, Terms, own_lane, refuse_nan
from bitwright.formats.rounding import Rounding, round_to_integer


@dataclass(frozen=True)
class Int(Format):
    """`bits`-wide two's complement or unsigned integers, times 2**exponent.

    `narrow` leaves out the most negative code, so that the range is symmetric (VS-Quant, eq. 2).
    """

    bits: int
    signed: bool = True
    narrow: bool = False
    exponent: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 62 or (self.signed and self.narrow and self.bits < 2):
            raise ValueError(
                f"Int: {self.bits} bits found; 1 to 62 are possible, and 2 or more for a symmetric signed range"
            )

    @property
    def range(self) -> tuple[int, int]:
        """Smallest and largest integer before the exponent."""
        if not self.signed:
            return 0, 2**self.bits - 1
        return -(2 ** (self.bits - 1)) + self.narrow, 2 ** (self.bits - 1) - 1

    @property
    def full_scale(self) -> float:
        """The largest value; for one signed bit, whose range is {-1, 0}, the magnitude of the smallest."""
        low, high = self.range
        return max(high, 1 if low else 0) * 2.0**self.exponent

    def encode(
        self,
        x: Float[np.ndarray, "*rows k"],
        rounding: Rounding = Rounding.NEAREST_EVEN,
        generator: np.random.Generator | None = None,
    ) -> Ints[np.ndarray, "*rows k"]:
        """Two's complement bits of the rounded and saturated level."""
        refuse_nan(x, self)
        low, high = self.range
        # clip first, as a float beyond the range may not fit an int64; and last, as the range's end may not be a float
        x = np.clip(x, low * 2.0**self.exponent, high * 2.0**self.exponent)
        level = round_to_integer(np.ldexp(x, -self.exponent), rounding, generator)
        return np.clip(level.astype(np.int64), low, high) & (2**self.bits - 1)

    def is_reserved(self, codes: Ints[np.ndarray, "*rows k"]) -> Bool[np.ndarray, "*rows k"]:
        return codes == 2 ** (self.bits - 1) if self.signed and self.narrow else np.zeros(codes.shape, bool)

    def terms(self, codes: Ints[np.ndarray, "*rows k"]) -> Terms:
        codes = codes.astype(np.int64)
        value = codes - ((codes >> (self.bits - 1)) << self.bits) if self.signed else codes
        return Terms(value, np.full_like(value, self.exponent), own_lane(value.shape))

    def bounds(self) -> Bounds:
        low, high = self.range
        unit = 2.0**self.exponent
        return Bounds(max(-low, high), range(self.exponent, self.exponent + 1), low * unit, high * unit)
