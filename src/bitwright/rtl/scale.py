"""The product of two block scales, rounded and saturated: VS-Quant's scale unit, and that of float scales."""

from dataclasses import dataclass
from typing import NamedTuple

from amaranth.hdl import Cat, Const, Module, Mux, Value, unsigned

from bitwright.formats import Format, Int, Minifloat, Rounding
from bitwright.rtl.float_register import Scaled, largest_code, limited, neighbours, unpacked
from bitwright.rtl.multiply import multiply
from bitwright.rtl.term import named, shape_of

ScaleFormat = Int | Minifloat
"""What a block scale is stored in. Scales are never negative: a sign bit is not looked at."""


class Factor(NamedTuple):
    """significand · 2**exponents[exponent], both unsigned."""

    significand: Value
    exponent: Value


def exponents_of(format: ScaleFormat | None) -> range:
    """Of a scale's factors; a missing one is one."""
    return range(1) if format is None else format.bounds().exponent


def largest_significand(format: ScaleFormat | None) -> int:
    return 1 if format is None else format.range[1] if isinstance(format, Int) else format.bounds().significand


def factor(format: ScaleFormat, code: Value) -> Factor:
    """What a scale's code stands for."""
    if isinstance(format, Int):
        return Factor(code, Const(0, unsigned(0)))
    magnitude = code[: format.exponent_bits + format.mantissa_bits]
    if format.subnormal:
        return Factor(*unpacked(format, magnitude))
    return Factor(Cat(magnitude[: format.mantissa_bits], Const(1, 1)), magnitude[format.mantissa_bits :])


def exact_product(
    m: Module, formats: tuple[ScaleFormat | None, ScaleFormat | None], codes: tuple[Value | None, Value | None]
) -> Factor:
    """Of the scales of x and w; there is a code where there is a format, and a missing one is one."""
    factors = [factor(format, code) for format, code in zip(formats, codes) if format is not None and code is not None]
    if len(factors) < 2:
        return factors[0] if factors else Factor(Const(1, unsigned(1)), Const(0, unsigned(0)))
    (x, x_exponent), (w, w_exponent) = factors
    powers = [isinstance(format, Minifloat) and not format.subnormal and not format.mantissa_bits for format in formats]
    significand = w if powers[0] else x if powers[1] else multiply(m, "scales", x, w)
    if not len(x_exponent) or not len(w_exponent):
        return Factor(significand, x_exponent if len(x_exponent) else w_exponent)
    return Factor(significand, x_exponent + w_exponent)


def require_unsigned(format: Format | None) -> None:
    """ValueError for integers that may be negative."""
    if isinstance(format, Int) and format.signed:
        raise ValueError(f"scale product: {format} found; block scales and their product are unsigned")


@dataclass(frozen=True)
class ScaleProduct:
    """Scales x · w as an integer in units of 2**unit; `format` None keeps the product exact, scales None are ones."""

    x: ScaleFormat | None
    w: ScaleFormat | None
    format: Int | None = None
    rounding: Rounding = Rounding.NEAREST_EVEN

    def __post_init__(self) -> None:
        for format in (self.x, self.w, self.format):
            require_unsigned(format)

    @property
    def is_one(self) -> bool:
        """Whether there is nothing to multiply by."""
        return (self.x, self.w, self.format) == (None, None, None)

    @property
    def unit(self) -> int:
        return self.exponent if self.format is None else self.format.exponent

    @property
    def exponent(self) -> int:
        """Of the exact product."""
        return sum(exponents_of(format).start for format in (self.x, self.w))

    @property
    def highest(self) -> int:
        """Largest result, in units of 2**unit."""
        exact = 1
        for format in (self.x, self.w):
            exact *= format.bounds().units[1] if format is not None else 1
        if self.format is None:
            return exact
        shifted = exact << max(self.exponent - self.unit, 0)
        return min((shifted >> max(self.unit - self.exponent, 0)) + 1, self.format.range[1])

    def make(self, m: Module, x: Value | None, w: Value | None) -> Value:
        """The rounded product of two scale codes."""
        exact, places = self._fixed_point(m, exact_product(m, (self.x, self.w), (x, w)))
        if self.format is None:
            return named(m, "scale_product", shape_of(0, self.highest), exact)
        rounded = exact << -places if places <= 0 else _shift_right(exact, places, self.rounding)
        rounded = named(m, "rounded_scale", rounded.shape(), rounded)
        limit = self.format.range[1]
        return named(m, "scale_product", unsigned(self.format.bits), Mux(rounded > limit, limit, rounded))

    def _fixed_point(self, m: Module, product: Factor) -> tuple[Value, int]:
        """The exact product over 2**places, in units of the result, as far as rounding and saturation see it."""
        exact, places = product.significand, self.unit - self.exponent
        if not len(product.exponent):
            return exact, places
        last = sum(exponents_of(format)[-1] for format in (self.x, self.w)) - self.exponent
        if self.format is None:
            return named(m, "aligned_scale", unsigned(len(exact) + last), exact << product.exponent), places
        # below the first exponent it is less than half a unit, from the last one on it saturates
        low, high = places - len(exact) - 1, places + self.format.bits
        low, high = min(max(low, 0), last), max(min(high, last), 0)
        exponent = named(m, "scale_exponent", shape_of(0, last), product.exponent)
        above = Mux(exponent < low, 0, Mux(exponent > high, high - low, exponent - low))
        by = named(m, "scale_places", shape_of(0, high - low), above)
        return named(m, "aligned_scale", unsigned(len(exact) + high - low), exact << by), places - low


@dataclass(frozen=True)
class FloatScale:
    """Scales x · w as a float, for a float register; `format` None keeps the product exact, scales None are ones."""

    x: ScaleFormat | None
    w: ScaleFormat | None
    format: Format | None = None
    rounding: Rounding = Rounding.NEAREST_EVEN

    def __post_init__(self) -> None:
        for format in (self.x, self.w, self.format):
            require_unsigned(format)
        if isinstance(self.format, Minifloat) and not self.format.subnormal:
            raise ValueError(f"scale product: {self.format} has no zero; choose a format with one, or None")
        if not isinstance(self.format, ScaleFormat | None):
            raise ValueError(f"no circuit for a scale product of {self.format}; use a Minifloat, an Int or None")

    @property
    def exponents(self) -> range:
        """Of the product's factor."""
        if self._rounded is not None:
            return exponents_of(self._rounded)
        x, w = exponents_of(self.x), exponents_of(self.w)
        return range(x.start + w.start, x[-1] + w[-1] + 1)

    @property
    def significand(self) -> int:
        """Largest one."""
        if self._rounded is not None:
            return largest_significand(self._rounded)
        return largest_significand(self.x) * largest_significand(self.w)

    @property
    def has_zero(self) -> bool:
        """Whether a product may be zero."""
        factors = (self.x, self.w) if self._rounded is None else (self._rounded,)
        return any(isinstance(f, Int) or (f is not None and f.subnormal) for f in factors)

    @property
    def largest(self) -> float:
        """Largest product, or more."""
        return float(self.significand) * 2.0 ** self.exponents[-1]

    def make(self, m: Module, x: Value | None, w: Value | None) -> Factor:
        """The rounded product of two scale codes."""
        if isinstance(self.format, Int):
            made = ScaleProduct(self.x, self.w, self.format, self.rounding).make(m, x, w)
            return Factor(made, Const(0, unsigned(0)))
        exact = exact_product(m, (self.x, self.w), (x, w))
        if self._rounded is None:
            return exact
        assert isinstance(self.format, Minifloat)
        start = exponents_of(self.x).start + exponents_of(self.w).start
        last = exponents_of(self.x)[-1] + exponents_of(self.w)[-1]
        value = Scaled(Const(0, 1), exact.significand, exact.exponent, range(start, last + 1))
        lower, up = neighbours(m, "scale", value, self.format, self.rounding)
        size = self.format.exponent_bits + self.format.mantissa_bits
        return Factor(*unpacked(self.format, limited(m, "scale", lower + up, largest_code(self.format), size)))

    @property
    def _rounded(self) -> ScaleFormat | None:
        """The format that the product is rounded to; None where it keeps every product as it is."""
        stored = [format for format in (self.x, self.w) if format is not None]
        if isinstance(self.format, Int) or (isinstance(self.format, Minifloat) and stored not in ([], [self.format])):
            return self.format
        return None


def _shift_right(value: Value, places: int, rounding: Rounding) -> Value:
    """value / 2**places of an unsigned value, rounded."""
    half = 1 << (places - 1)
    match rounding:
        case Rounding.NEAREST_UP | Rounding.NEAREST_AWAY:
            return (value + half) >> places
        case Rounding.NEAREST_ZERO:
            return (value + (half - 1)) >> places
        case Rounding.NEAREST_EVEN:
            is_odd = value[places] if places < len(value) else Const(0, 1)
            return (value + (half - 1) + is_odd) >> places
        case Rounding.CEILING:
            return (value + (2 * half - 1)) >> places
        case Rounding.FLOOR | Rounding.TOWARD_ZERO:
            return value >> places
    raise ValueError(f"scale product: {rounding} found; a circuit without random numbers cannot round so")
