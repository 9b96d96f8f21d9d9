"""Float registers: every step rounds the exact sum once, as `Accumulator` defines it. They hold codes of a Minifloat.

One rounder serves addends, scales and sums: a magnitude moves until its leading one, or the smallest binade, stands at
the top, and what is below the mantissa decides. Codes are in order, so rounding up carries into the exponent by itself.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import frexp
from typing import NamedTuple

import numpy as np
from amaranth.hdl import Cat, Const, Module, Mux, Shape, Signal, Value, unsigned
from amaranth.lib.wiring import In, Out

from bitwright.datapath import Accumulator
from bitwright.formats import FLOAT32, Minifloat, Rounding
from bitwright.rtl.round import OF_MAGNITUDE, rounds_up
from bitwright.rtl.term import named, shape_of
from bitwright.rtl.unit import Unit

BELOW = 3
"""Bits below the smaller operand's that a sum keeps; only neighbours in exponent cancel more than one leading bit."""

FLOAT64_BITS = 53


Step = Callable[[Module, str, Value], Value]
"""What stands between two parts of a sum: a register of this name, or nothing."""


def at_once(m: Module, name: str, value: Value) -> Value:
    """The value itself: no register."""
    return value


def a_cycle_later(m: Module, name: str, value: Value) -> Value:
    """The value in a register."""
    if isinstance(value, Const):
        return value
    held = Signal(value.shape(), name=name)
    m.d.sync += held.eq(value)
    return held


class Scaled(NamedTuple):
    """±magnitude · 2**exponents[exponent]: an exact value before it is rounded."""

    is_negative: Value
    magnitude: Value
    exponent: Value
    exponents: range  # of step one

    def after(self, m: Module, name: str, step: Step) -> "Scaled":
        """The same value behind a step."""
        is_negative, magnitude, exponent = (
            step(m, f"{name}_{part}", value) for part, value in zip(self._fields, self[:3])
        )
        return Scaled(is_negative, magnitude, exponent, self.exponents)


@dataclass(frozen=True)
class FloatRegister:
    """A register of a signed float format. `is_bounded` says that no sum leaves the format's finite values.

    Beyond the largest of them a sum stops there; a float32 rounded to the nearest even becomes infinity instead, and
    the sum of both infinities is no number: `Accumulator.round` takes the machine's.
    """

    format: Minifloat
    rounding: Rounding = Rounding.NEAREST_EVEN
    is_bounded: bool = False

    @property
    def bits(self) -> int:
        return self.format.bits

    @property
    def is_signed(self) -> bool:
        """Of the code as an integer."""
        return False

    @property
    def shape(self) -> Shape:
        return unsigned(self.bits)

    @property
    def infinity(self) -> int | None:
        """Magnitude code of infinity, where a sum may become it."""
        is_machine = self.format == FLOAT32 and self.rounding is Rounding.NEAREST_EVEN
        return largest_code(self.format) + 1 if is_machine and not self.is_bounded else None

    def rounded(self, m: Module, name: str, value: Scaled) -> Value:
        """Code of an exact value."""
        lower, up = neighbours(m, name, value, self.format, self.rounding)
        most = largest_code(self.format) if self.infinity is None else self.infinity
        code = limited(m, name, lower + up, None if self.is_bounded else most, self.bits - 1)
        return named(m, f"{name}_code", self.shape, Cat(code, value.is_negative))

    def add(self, m: Module, name: str, held: Value, addend: Value, step: Step = at_once) -> Value:
        """Code of the sum of two codes; of zero it is never the negative one. The step stands before it is rounded."""
        size = self.bits - 1
        is_swapped = named(m, f"{name}_is_swapped", unsigned(1), addend[:size] > held[:size])
        large = named(m, f"{name}_large", self.shape, Mux(is_swapped, addend, held))
        small = named(m, f"{name}_small", self.shape, Mux(is_swapped, held, addend))
        exact = self._aligned_sum(m, name, large, small).after(m, f"{name}_exact", step)
        code = self.rounded(m, name, exact)
        if self.infinity is None:
            return code
        are_opposite = (small[:size] >= self.infinity) & (large[-1] ^ small[-1])
        no_number = self.infinity | 1 << (self.format.mantissa_bits - 1)
        is_special = step(m, f"{name}_is_special", large[:size] >= self.infinity)
        special = step(m, f"{name}_special", Mux(are_opposite, no_number, large))
        return named(m, f"{name}_or_infinity", self.shape, Mux(is_special, special, code))

    def _aligned_sum(self, m: Module, name: str, large: Value, small: Value) -> Scaled:
        """The exact sum, but for bits of the smaller one that are far below: one is set if any of those is."""
        split = self.format.mantissa_bits
        upper, upper_exponent = unpacked(self.format, large[:-1])
        lower, lower_exponent = unpacked(self.format, small[:-1])
        width = split + 1 + BELOW
        far = named(m, f"{name}_far", upper_exponent.shape(), upper_exponent - lower_exponent)
        by = named(m, f"{name}_by", shape_of(0, width), Mux(far > width, width, far))
        aligned = shifted_right(m, f"{name}_small", Cat(Const(0, BELOW), lower), by, width)
        raised = Cat(Const(0, BELOW), upper)
        is_difference = large[-1] ^ small[-1]
        total = named(m, f"{name}_sum", unsigned(width + 1), Mux(is_difference, raised - aligned, raised + aligned))
        is_negative = named(m, f"{name}_is_negative", unsigned(1), large[-1] & total.any())
        start = self.format.smallest_exponent - split - BELOW
        binades = max(largest_code(self.format) >> split, 1)
        return Scaled(is_negative, total, upper_exponent, range(start, start + binades))


def float_register(accumulator: Accumulator, largest: float, tiles: int) -> FloatRegister:
    """The register of a float accumulator that sums so many addends, none larger than this.

    ValueError where there is no circuit for its format.
    """
    format = accumulator.format
    if not isinstance(format, Minifloat) or not format.signed:
        raise ValueError(f"no circuit for an outer register of {format}; use integers, or a signed Minifloat")
    # so many multiples of one power of two are floats, so rounding cannot carry a sum beyond the same multiple
    highest = max(2.0 ** frexp(largest)[1], 2.0**format.smallest_exponent)
    is_bounded = tiles <= 2 ** (format.mantissa_bits + 1) and tiles * highest <= format.full_scale
    return FloatRegister(format, accumulator.rounding, is_bounded)


def largest_code(format: Minifloat) -> int:
    """Magnitude code of the largest finite value."""
    return int(format.encode(np.asarray([format.full_scale]))[0])


def unpacked(format: Minifloat, magnitude: Value) -> tuple[Value, Value]:
    """Significand of a magnitude's code, and its place above the smallest exponent."""
    split = format.mantissa_bits
    field = magnitude[split:]
    return Cat(magnitude[:split], field.any()), Mux(field.any(), field - 1, 0)[: len(field)]


def neighbours(m: Module, name: str, value: Scaled, format: Minifloat, rounding: Rounding) -> tuple[Value, Value]:
    """Magnitude code below or at an exact value, as if exponents had no end, and whether the next one stands for it."""
    split = format.mantissa_bits
    top, normal_field, last = _placed(m, name, value, format)
    mantissa, half, rest = top[-split - 1 : -1], top[-split - 2], top[: -split - 2].any()
    field = named(m, f"{name}_field", shape_of(0, last), Mux(top[-1], normal_field, 0))
    lower = named(m, f"{name}_lower", unsigned(split + len(field)), Cat(mantissa, field))
    positive, negative = (
        rounds_up(of, half, rest, is_odd=lower[0], is_negative=Const(0, 1))
        for of in (rounding, OF_MAGNITUDE.get(rounding, rounding))
    )
    return lower, named(m, f"{name}_up", unsigned(1), Mux(value.is_negative, negative, positive))


def limited(m: Module, name: str, code: Value, most: int | None, bits: int) -> Value:
    """A magnitude code, or `most` where it lies beyond; None is never passed."""
    return named(m, f"{name}_limited", unsigned(bits), code if most is None else Mux(code > most, most, code))


def shifted_right(m: Module, name: str, value: Value, by: Value, most: int) -> Value:
    """value >> by for up to `most` places; the last bit is also set where a one was shifted out."""
    wide = named(m, f"{name}_wide", unsigned(len(value) + most), Cat(Const(0, most), value))
    moved = named(m, f"{name}_moved", wide.shape(), wide >> by)
    return Cat(moved[: most + 1].any(), moved[most + 1 :])


def _placed(m: Module, name: str, value: Scaled, format: Minifloat) -> tuple[Value, Value, int]:
    """The magnitude with its leading one at the top, if that is no binade below the smallest; then its exponent field,
    and the largest that may be.
    """
    width = max(len(value.magnitude), format.mantissa_bits + 3)  # a significand, half of its unit and the rest
    padding = width - len(value.magnitude)
    magnitude: Value = Cat(Const(0, padding), value.magnitude)
    # binades of the topmost bit above the smallest one, before it moves
    first = value.exponents.start - padding + width - 1 - format.smallest_exponent
    last = first + len(value.exponents) - 1
    room = named(m, f"{name}_room", shape_of(min(first, 0), max(last, 0)), value.exponent + first)
    if first < 0:
        is_below = named(m, f"{name}_is_below", unsigned(1), room < 0)
        far = named(m, f"{name}_below", shape_of(0, -first), Mux(is_below, -room, 0))
        by = named(m, f"{name}_down", shape_of(0, width), Mux(far > width, width, far))
        magnitude = named(m, f"{name}_raised", unsigned(width), shifted_right(m, name, magnitude, by, width))
        room = named(m, f"{name}_above", shape_of(0, max(last, 0)), Mux(is_below, 0, room))
    zeros = named(m, f"{name}_zeros", shape_of(0, width), leading_zeros(magnitude))
    places = named(m, f"{name}_places", shape_of(0, width), Mux(zeros > room, room, zeros) if first < width else zeros)
    top = named(m, f"{name}_top", unsigned(width), magnitude << places)
    return top, (room + 1) - places, max(last, 0) + 1


def in_float64(m: Module, name: str, value: Scaled) -> Scaled:
    """What float64 holds of a value, as `Datapath` scales tile sums in it: 53 bits, to the nearest even."""
    width = len(value.magnitude)
    if width <= FLOAT64_BITS:
        return value
    zeros = named(m, f"{name}_zeros", shape_of(0, width), leading_zeros(value.magnitude))
    top = named(m, f"{name}_top", unsigned(width), value.magnitude << zeros)
    kept, half, rest = top[-FLOAT64_BITS:], top[-FLOAT64_BITS - 1], top[: -FLOAT64_BITS - 1].any()
    magnitude = named(m, f"{name}_kept", unsigned(FLOAT64_BITS + 1), kept + (half & (rest | kept[0])))
    first = value.exponents.start - FLOAT64_BITS
    exponents = range(first, first + width + len(value.exponents))
    exponent = named(m, f"{name}_exponent", shape_of(0, len(exponents) - 1), value.exponent + width - zeros)
    return Scaled(value.is_negative, magnitude, exponent, exponents)


def leading_zeros(value: Value) -> Value:
    """How many bits above the leading one; all where there is none."""
    size = 1 << len(value).bit_length()  # ones below stop the count
    found = [(Const(0, 0), ~bit) for bit in Cat(Const(1, 1).replicate(size - len(value)), value)]
    while len(found) > 1:  # of a pair the upper half decides, unless it has no one
        found = [
            (Cat(Mux(upper_zero, lower, upper), upper_zero), upper_zero & lower_zero)
            for (lower, lower_zero), (upper, upper_zero) in zip(found[::2], found[1::2])
        ]
    return found[0][0]


class FloatAdder(Unit):
    """A float register's next value. Combinational.

    held, addend   in: codes; zero is never negative in `held`
    sum            out: the code of their sum
    """

    def __init__(self, register: FloatRegister) -> None:
        self.register = register
        super().__init__(
            {"held": In(register.shape), "addend": In(register.shape), "sum": Out(register.shape)}, register
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.sum.eq(self.register.add(m, "sum", self.held, self.addend))
        return m
