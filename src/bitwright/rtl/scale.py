"""The product of two block scales, rounded and saturated: VS-Quant's scale unit."""

from dataclasses import dataclass

from amaranth.hdl import Const, Module, Mux, Value, unsigned

from bitwright.formats import Int, Rounding
from bitwright.rtl.multiply import multiply
from bitwright.rtl.term import named, shape_of


@dataclass(frozen=True)
class ScaleProduct:
    """Integer scales x · w in units of 2**unit; `format` None keeps the product exact, scales None are ones."""

    x: Int | None
    w: Int | None
    format: Int | None = None
    rounding: Rounding = Rounding.NEAREST_EVEN

    def __post_init__(self) -> None:
        for format in (self.x, self.w, self.format):
            if format is not None and format.signed:
                raise ValueError(f"scale product: {format} found; block scales and their product are unsigned")

    @property
    def unit(self) -> int:
        return self.exponent if self.format is None else self.format.exponent

    @property
    def exponent(self) -> int:
        """Of the exact product."""
        return sum(format.exponent for format in (self.x, self.w) if format is not None)

    @property
    def highest(self) -> int:
        """Largest result, in units of 2**unit."""
        exact = 1
        for format in (self.x, self.w):
            exact *= format.range[1] if format is not None else 1
        if self.format is None:
            return exact
        shifted = exact << max(self.exponent - self.unit, 0)
        return min((shifted >> max(self.unit - self.exponent, 0)) + 1, self.format.range[1])

    def make(self, m: Module, x: Value | None, w: Value | None) -> Value:
        """The rounded product of two scale codes."""
        exact = Const(1, unsigned(1)) if x is None and w is None else (w if x is None else x)
        if x is not None and w is not None:
            exact = multiply(m, "scales", x, w)
        assert exact is not None
        if self.format is None:
            return named(m, "scale_product", shape_of(0, self.highest), exact)
        places = self.unit - self.exponent
        rounded = exact << -places if places <= 0 else _shift_right(exact, places, self.rounding)
        rounded = named(m, "rounded_scale", rounded.shape(), rounded)
        limit = self.format.range[1]
        return named(m, "scale_product", unsigned(self.format.bits), Mux(rounded > limit, limit, rounded))


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
