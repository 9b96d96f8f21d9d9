"""Small floating point of any split, and the IEEE ones as their large siblings."""

from dataclasses import dataclass
from enum import Enum
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int

from bitwright.formats.format import Bounds, Format, Terms, own_lane, refuse_nan
from bitwright.formats.rounding import Rounding, choose_upper


class Specials(Enum):
    """Which codes are not finite numbers."""

    NONE = "every code is a number"
    NAN = "all ones is NaN, no infinity"  # E4M3 of OCP FP8 v1.0, E8M0 of OCP MX v1.0
    IEEE = "the largest exponent is infinity and NaN"

    def __repr__(self) -> str:
        return f"Specials.{self.name}"


@dataclass(frozen=True)
class Minifloat(Format):
    """Sign, exponent and mantissa fields, most significant first; `bias` defaults to 2**(exponent_bits-1) - 1.

    With `subnormal` an exponent field of zero holds zero and the subnormals; without it that field is one more
    binade and zero has no code (E8M0). -0 decodes to 0; `encode` writes its sign bit for small negative levels.
    """

    exponent_bits: int
    mantissa_bits: int
    bias: int | None = None
    signed: bool = True
    subnormal: bool = True
    specials: Specials = Specials.NONE

    def __post_init__(self) -> None:
        if not 1 <= self.exponent_bits <= 8 or not 0 <= self.mantissa_bits <= 23:
            raise ValueError(
                f"Minifloat: {self.exponent_bits} exponent and {self.mantissa_bits} mantissa bits found; "
                "1 to 8 and 0 to 23 are possible"
            )
        if self._largest_code <= 0:
            raise ValueError(f"{self}: no finite non-zero code is left; use more bits or Specials.NONE")

    @property
    def bits(self) -> int:  # type: ignore[override]  # derived, so read-only
        return self.signed + self.exponent_bits + self.mantissa_bits

    @property
    def smallest_exponent(self) -> int:
        """Exponent of the smallest normal binade, which the subnormals share."""
        bias = 2 ** (self.exponent_bits - 1) - 1 if self.bias is None else self.bias
        return int(self.subnormal) - bias

    @property
    def _largest_code(self) -> int:
        magnitudes = 2 ** (self.exponent_bits + self.mantissa_bits)
        return magnitudes - {Specials.NONE: 1, Specials.NAN: 2, Specials.IEEE: 2**self.mantissa_bits + 1}[self.specials]

    @cached_property
    def full_scale(self) -> float:
        significand, exponent, _ = self.terms(np.asarray([self._largest_code]))
        return float(np.ldexp(float(significand[0]), int(exponent[0])))

    def encode(
        self,
        x: Float[np.ndarray, "*rows k"],
        rounding: Rounding = Rounding.NEAREST_EVEN,
        generator: np.random.Generator | None = None,
    ) -> Int[np.ndarray, "*rows k"]:
        """Nearest code; ties by the mantissa's last bit under NEAREST_EVEN. OCP MX v1.0, sec. 5.3."""
        refuse_nan(x, self)
        x = np.clip(x.astype(np.float64), self.bounds().lowest, self.full_scale)
        binade = np.where(x == 0, self.smallest_exponent, np.frexp(x)[1].astype(np.int64) - 1)
        exponent = np.maximum(binade, self.smallest_exponent)
        step = np.ldexp(1.0, exponent - self.mantissa_bits)
        lower = np.floor(x / step).astype(np.int64)  # significand; exact, as step is a power of two
        up = choose_upper(
            x, lower * step, (lower + 1) * step,
            is_lower_even=self._magnitude_code(lower, exponent) % 2 == 0, rounding=rounding, generator=generator,
        )  # fmt: skip
        magnitude = np.clip(self._magnitude_code(lower + up, exponent), 0, self._largest_code)
        return magnitude | ((x < 0).astype(np.int64) << (self.bits - 1)) if self.signed else magnitude

    def _magnitude_code(
        self, significand: Int[np.ndarray, "*rows k"], exponent: Int[np.ndarray, "*rows k"]
    ) -> Int[np.ndarray, "*rows k"]:
        """Code without its sign; the sum carries a rounded-up significand into the exponent, subnormals out of it."""
        field = exponent - self.smallest_exponent + self.subnormal
        return (field << self.mantissa_bits) + np.abs(significand) - 2**self.mantissa_bits

    def is_reserved(self, codes: Int[np.ndarray, "*rows k"]) -> Bool[np.ndarray, "*rows k"]:
        return (codes & (2 ** (self.exponent_bits + self.mantissa_bits) - 1)) > self._largest_code

    def terms(self, codes: Int[np.ndarray, "*rows k"]) -> Terms:
        codes = codes.astype(np.int64)
        field = (codes >> self.mantissa_bits) & (2**self.exponent_bits - 1)
        mantissa = codes & (2**self.mantissa_bits - 1)
        is_normal = (field > 0) | (not self.subnormal)
        significand = mantissa + np.where(is_normal, 2**self.mantissa_bits, 0)
        if self.signed:
            significand = np.where(codes >> (self.bits - 1) & 1, -significand, significand)
        exponent = np.maximum(field - self.subnormal, 0) + self.smallest_exponent - self.mantissa_bits
        return Terms(significand, exponent, own_lane(codes.shape))

    def bounds(self) -> Bounds:
        first = self.smallest_exponent - self.mantissa_bits
        binades = (self._largest_code >> self.mantissa_bits) + (not self.subnormal)
        highest = self.full_scale
        lowest = -highest if self.signed else 0.0 if self.subnormal else 2.0**self.smallest_exponent
        return Bounds(2 ** (self.mantissa_bits + 1) - 1, range(first, first + max(binades, 1)), lowest, highest)
