"""Rounding of fixed-point values: a barrel shifter that keeps what it shifts out, and the decision of one bit."""

from amaranth.hdl import Const, Module, Mux, Shape, Value, unsigned
from amaranth.lib.wiring import In, Out

from bitwright.formats import Rounding
from bitwright.rtl.term import named, shape_of
from bitwright.rtl.unit import Unit

OF_MAGNITUDE = {Rounding.NEAREST_UP: Rounding.NEAREST_ZERO, Rounding.FLOOR: Rounding.CEILING,
                Rounding.CEILING: Rounding.FLOOR}  # fmt: skip
"""What a rounding of negative values is for their magnitudes; the others are symmetric."""


def rounds_up(rounding: Rounding, half: Value, rest: Value, *, is_odd: Value, is_negative: Value) -> Value:
    """Whether a value rounds to its upper neighbour: `choose_upper` in bits.

    `half` is the first bit below the lower neighbour, `rest` whether a further one is set. ValueError for STOCHASTIC,
    which needs random bits.
    """
    match rounding:
        case Rounding.NEAREST_EVEN:
            return half & (rest | is_odd)
        case Rounding.NEAREST_AWAY:
            return half & (rest | ~is_negative)
        case Rounding.NEAREST_UP:
            return half
        case Rounding.NEAREST_ZERO:
            return half & (rest | is_negative)
        case Rounding.TOWARD_ZERO:
            return (half | rest) & is_negative
        case Rounding.CEILING:
            return half | rest
        case Rounding.FLOOR:
            return Const(0, 1)
        case Rounding.STOCHASTIC:
            raise ValueError(f"{rounding} found; this circuit has no random bits, use a Rounder or another rounding")


def shift_right(
    m: Module, name: str, value: Value, places: Value | int, rounding: Rounding, *,
    shifts: range | None = None, random: Value | None = None,
) -> Value:  # fmt: skip
    """value / 2**places, rounded. `shifts` are the places that occur; an int is known beforehand.

    STOCHASTIC takes shifts[-1] bits of `random`, and rounds up where they are below the fraction.
    """
    if isinstance(places, int):
        shifts = range(places, places + 1)
    assert shifts is not None, "the places that occur"
    if not shifts[-1]:
        return value
    least, most = shifts.start, shifts[-1]
    shape = value.shape()
    # the binary point lies `most` bits up: whatever is shifted out stays, and one more place is the sign's
    width = max(shape.width, least + 1) + most - least
    wide = named(m, f"{name}_wide", Shape(width, shape.signed), value << (most - least))
    by = Const(0, 1) if isinstance(places, int) else (places - least)[: max((most - least).bit_length(), 1)]
    shifted = named(m, f"{name}_shifted", wide.shape(), wide >> by)
    fraction, lower = shifted[:most], shifted[most:]
    lower = lower.as_signed() if shape.signed else lower
    if rounding is Rounding.STOCHASTIC:
        assert random is not None, "random bits"
        up: Value = random < fraction
    else:
        is_negative = value[-1] if shape.signed else Const(0, 1)
        up = rounds_up(rounding, fraction[-1], fraction[:-1].any(), is_odd=lower[0], is_negative=is_negative)
    return named(m, name, Shape(len(lower) + 1, shape.signed), lower + up)


def saturated(m: Module, name: str, value: Value, low: int, high: int) -> Value:
    """The value, or the end of the range that it lies beyond; as narrow as the range."""
    return named(m, name, shape_of(low, high), Mux(value < low, low, Mux(value > high, high, value)))


class Rounder(Unit):
    """An integer over a power of two, rounded. Combinational.

    value    in: `bits` wide
    places   in: at most `most_places`
    random   in: uniform bits, for Rounding.STOCHASTIC alone
    result   out: value / 2**places
    """

    def __init__(self, bits: int, most_places: int, rounding: Rounding, is_signed: bool = True) -> None:
        if bits < 1 or most_places < 1:
            raise ValueError(f"a Rounder of {bits} bits and {most_places} places found; both are at least 1")
        self.bits, self.most_places, self.rounding, self.is_signed = bits, most_places, rounding, is_signed
        ports = {"value": In(Shape(bits, is_signed)), "places": In(shape_of(0, most_places))}
        if rounding is Rounding.STOCHASTIC:
            ports["random"] = In(unsigned(most_places))
        super().__init__(ports | {"result": Out(Shape(bits + 1, is_signed))}, bits, most_places, rounding, is_signed)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rounded = shift_right(
            m, "rounded", self.value, self.places, self.rounding,
            shifts=range(self.most_places + 1), random=getattr(self, "random", None),
        )  # fmt: skip
        m.d.comb += self.result.eq(rounded)
        return m
