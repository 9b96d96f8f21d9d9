"""Encoders: fixed-point levels to the codes of a scalar format.

`encode` dispatches on the format's type. An `Int` is rounded and clipped; every other scalar format is found by
comparing the level with the first level of each code, which the format itself names: its rounding is in them. Flint has
a leading-one encoder of its own, equal on all levels.
"""

from functools import singledispatch

import numpy as np
from amaranth.hdl import Cat, Const, Module, Mux, Shape, Signal, Value, unsigned
from amaranth.lib.wiring import In, Out

from bitwright.formats import Format, Int, Rounding, Table
from bitwright.rtl.round import OF_MAGNITUDE, rounds_up, saturated, shift_right
from bitwright.rtl.term import named
from bitwright.rtl.unit import Unit
from bitwright.schemes.ant import flint

MOST_CODES = 256
"""Codes that comparators may tell apart."""


@singledispatch
def encode(format: Format, m: Module, name: str, value: Value, level: Int, rounding: Rounding) -> Value:
    """Code of a level: `value` counts units of 2**level.exponent and lies within level.range."""
    if format.run > 1 or format.bounds().reach:
        raise ValueError(f"{format} has no encoder; register one with bitwright.rtl.encode.encode.register")
    return compared(format, m, name, value, level, rounding)


@encode.register
def _(format: Int, m: Module, name: str, value: Value, level: Int, rounding: Rounding) -> Value:
    places = format.exponent - level.exponent
    if places > 0:
        value = shift_right(m, f"{name}_rounded", value, places, rounding)
    else:
        value = named(m, f"{name}_aligned", Shape(len(value) - places, value.shape().signed), value << -places)
    return saturated(m, f"{name}_saturated", value, *format.range).as_unsigned()[: format.bits]


@encode.register
def _(format: Table, m: Module, name: str, value: Value, level: Int, rounding: Rounding) -> Value:
    for signed in (True, False):
        bits = format.bits - signed
        if bits >= 3 and format == flint(format.bits, signed) and rounding is not Rounding.STOCHASTIC:
            return _flint(m, name, value, level, rounding, bits, signed)
    return compared(format, m, name, value, level, rounding)


def compared(format: Format, m: Module, name: str, value: Value, level: Int, rounding: Rounding) -> Value:
    """A comparator for each code: the largest first level that is reached decides."""
    code = Signal(format.bits, name=name)
    first, *following = first_levels(format, level, rounding)
    m.d.comb += code.eq(first[1])
    for least, found in following:  # a later assignment wins
        with m.If(value >= least):
            m.d.comb += code.eq(found)
    return code


def first_levels(format: Format, level: Int, rounding: Rounding) -> list[tuple[int, int]]:
    """Each code that occurs and its first level, ascending. Found by halving intervals, as encoding is monotone."""
    if format.bits > MOST_CODES.bit_length() - 1:
        raise ValueError(f"{format}: comparators tell at most {MOST_CODES} codes apart; register an encoder")
    if rounding is Rounding.STOCHASTIC:
        raise ValueError(f"{rounding} found; an encoder without random bits cannot round so")
    if rounding is Rounding.TOWARD_ZERO and not (format.decode(np.arange(2**format.bits)[_usable(format)]) == 0).any():
        raise ValueError(f"{format} has no zero to round to; choose another rounding")

    def codes(levels: np.ndarray) -> np.ndarray:
        return format.encode(np.ldexp(levels.astype(np.float64), level.exponent), rounding)

    low, high = (np.asarray([end]) for end in level.range)
    found = [(int(low[0]), int(codes(low)[0]))]
    starts: list[tuple[int, int]] = []
    while len(low):  # intervals whose ends differ, halved until they are neighbours
        differ = codes(low) != codes(high)
        low, high = low[differ], high[differ]
        near = high - low == 1
        starts += zip(high[near].tolist(), codes(high[near]).tolist(), strict=True)
        low, high = low[~near], high[~near]
        middle = (low + high) // 2
        low, high = np.concatenate([low, middle]), np.concatenate([middle, high])
    return found + sorted(starts)


class Encoder(Unit):
    """Codes of fixed-point levels in a scalar format. Combinational.

    level_{lane}   in: in units of 2**level.exponent
    code_{lane}    out: a stored code
    """

    def __init__(self, format: Format, level: Int, rounding: Rounding = Rounding.NEAREST_EVEN, lanes: int = 1) -> None:
        self.format, self.level, self.rounding, self.lanes = format, level, rounding, lanes
        shape = Shape(level.bits, level.signed)
        ports = {f"level_{lane}": In(shape) for lane in range(lanes)}
        ports |= {f"code_{lane}": Out(unsigned(format.bits)) for lane in range(lanes)}
        super().__init__(ports, format, level, rounding, lanes)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for lane in range(self.lanes):
            value = getattr(self, f"level_{lane}")
            code = encode(self.format, m, f"encoded_{lane}", value, self.level, self.rounding)
            m.d.comb += getattr(self, f"code_{lane}").eq(code)
        return m


def _usable(format: Format) -> np.ndarray:
    return ~format.is_reserved(np.arange(2**format.bits))


def _flint(m: Module, name: str, value: Value, level: Int, rounding: Rounding, bits: int, signed: bool) -> Value:
    """The magnitude's leading one tells how many places are cut off, and with them the prefix of its `bits`."""
    most, below = 2 * (bits - 1), max(-level.exponent, 0)  # largest exponent, fractional places
    aligned = named(
        m,
        f"{name}_aligned",
        Shape(len(value) + max(level.exponent, 0), value.shape().signed),
        value << max(level.exponent, 0),
    )
    is_negative = named(m, f"{name}_is_negative", unsigned(1), aligned < 0)
    negative = -aligned if signed else 0
    width = max(len(aligned) + 1, most + below + 1)
    magnitude = named(m, f"{name}_magnitude", unsigned(width), Mux(is_negative, negative, aligned))
    whole = magnitude[below:]
    lower, upper = (Signal(bits, name=f"{name}_{which}") for which in ("lower", "upper"))
    half, rest = (Signal(name=f"{name}_{which}") for which in ("half", "rest"))

    def cut(places: int, mantissa: Value, prefix: int, next_prefix: int) -> None:
        fraction = magnitude[: places + below]
        exact = Cat(mantissa, Const(prefix >> len(mantissa), bits - len(mantissa)))
        m.d.comb += [
            lower.eq(exact), upper.eq(Mux(mantissa.all(), next_prefix, exact + 1)),
            half.eq(fraction[-1:]), rest.eq(fraction[:-1].any()),
        ]  # fmt: skip

    top = 1 << (bits - 1)
    cut(0, whole[: bits - 1], 0, top | top >> 1)
    for exponent in range(bits - 1, most):  # the leading one wins: a binade a case, each with a bit of mantissa less
        count = 2 * bits - 3 - exponent
        with m.If(whole[exponent]):
            cut(exponent - count, whole[exponent - count : exponent], top | 1 << count, top | (1 << count) >> 1)
    # the signed lower neighbour of a negative value is the larger magnitude
    positive = rounds_up(rounding, half, rest, is_odd=lower[0], is_negative=Const(0, 1))
    mirrored = rounds_up(OF_MAGNITUDE.get(rounding, rounding), half, rest, is_odd=~upper[0], is_negative=Const(0, 1))
    up = Mux(is_negative, mirrored, positive) if signed else positive
    rounded = Mux(whole[most:].any(), top, Mux(up, upper, lower))
    code = named(m, f"{name}_code", unsigned(bits), rounded)
    return Cat(code, is_negative & code.any()) if signed else code
