"""Decoders: stored codes to terms, the only hardware that knows formats.

`decode` and `bounds` dispatch on the format's type; register functions for a format of your own. Without them a scalar
format gets a read-only memory of its codes. Codes that stand for no number give any term.
"""

from collections.abc import Callable, Sequence
from functools import reduce, singledispatch
from operator import add

import numpy as np
from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, unsigned

from bitwright.formats import Format, Int, Minifloat, Table
from bitwright.rtl.ranges import bounds
from bitwright.rtl.recode import kept_bits
from bitwright.rtl.term import (
    Term,
    back_shape,
    element_shape,
    exponent_shape,
    named,
    places,
    shift_left,
    significand_shape,
    term,
)  # fmt: skip
from bitwright.schemes.a2q import L1Bounded
from bitwright.schemes.ant import flint, power_of_two
from bitwright.schemes.overq import Overwrite, State
from bitwright.schemes.term_revealing import TermBudget

Lane = tuple[Term, ...]
"""The terms of one code."""

LARGEST_MEMORY = 12
"""Bits of a code that a read-only memory may decode."""


@singledispatch
def decode(format: Format, m: Module, codes: Sequence[Value]) -> list[Lane]:
    """Terms of each lane's code; `codes` are neighbours along K, `bounds(format)` gives every width."""
    if format.bits > LARGEST_MEMORY or format.run > 1 or bounds(format).reach:
        raise ValueError(f"{format} has no decoder; register one: @bitwright.rtl.decode.decode.register")
    return [_memory(format, m, code, lane) for lane, code in enumerate(codes)]


@singledispatch
def elements(format: Format, m: Module, codes: Sequence[Value]) -> list[Value]:
    """Whole element of each lane in units of 2**bounds.exponent.start: the sum of its terms."""
    b = bounds(format)
    if b.reach:
        raise ValueError(f"{format}: elements lie in several lanes; use its terms")
    made = []
    for i, lane in enumerate(decode(format, m, codes)):
        most = b.exponent[-1] - b.exponent.start
        aligned = [shift_left(t.significand, places(t.exponent, b.exponent), most) for t in lane]
        made.append(named(m, f"element_{i}", element_shape(b), reduce(add, aligned)))
    return made


def operands(format: Format, m: Module, codes: Sequence[Value]) -> list[Term]:
    """One multiplier operand a lane, within `carried(bounds(format))`: its term, or the sum of several."""
    if bounds(format).per_lane == 1:
        return [lane[0] for lane in decode(format, m, codes)]
    return [term(element) for element in elements(format, m, codes)]


@decode.register
def _(format: Int, m: Module, codes: Sequence[Value]) -> list[Lane]:
    return [(term(code.as_signed() if format.signed else code),) for code in codes]


@decode.register
def _(format: Minifloat, m: Module, codes: Sequence[Value]) -> list[Lane]:
    split = format.mantissa_bits
    lanes: list[Lane] = []
    for i, code in enumerate(codes):
        mantissa, field = code[:split], code[split : split + format.exponent_bits]
        is_normal = field.any() if format.subnormal else Const(1, 1)
        magnitude = Cat(mantissa, is_normal)
        value = Mux(code[-1], -magnitude, magnitude) if format.signed else magnitude
        offset = Mux(is_normal, field - 1, 0) if format.subnormal else field
        lanes.append((
            term(
                named(m, f"significand_{i}", significand_shape(bounds(format)), value),
                named(m, f"exponent_{i}", exponent_shape(bounds(format)), offset),
            ),
        ))  # fmt: skip
    return lanes


@decode.register
def _(format: Table, m: Module, codes: Sequence[Value]) -> list[Lane]:
    for family, decoder in _HAND_MADE:
        for signed in (True, False):
            if format.bits >= 3 and format == family(format.bits, signed):
                return [_sign_magnitude(format, m, code, i, decoder, signed) for i, code in enumerate(codes)]
    return [_memory(format, m, code, lane) for lane, code in enumerate(codes)]


@decode.register
def _(format: L1Bounded, m: Module, codes: Sequence[Value]) -> list[Lane]:
    return decode(format.lane, m, codes)


@decode.register
def _(format: Overwrite, m: Module, codes: Sequence[Value]) -> list[Lane]:
    split, exponents, lane_exponents = format.lane.bits, bounds(format).exponent, bounds(format.lane).exponent
    steps = format.radix_bits // exponents.step
    down = steps if format.precision_overwrite else 0
    lanes: list[Lane] = []
    before: Value = Const(0, 1)
    for i, ((own,), code) in enumerate(zip(decode(format.lane, m, [c[:split] for c in codes]), codes)):
        side = code[split:]
        if format.side_bits == 2:
            is_high, is_low = side == State.HIGH, side == State.LOW
        elif format.range_overwrite:
            # a set bit after a set one: the value of the lane before, moved here
            is_high, is_low = side & ~before, Const(0, 1)
            before = Const(0, 1) if format.tile is not None and (i + 1) % format.tile == 0 else side
        else:
            is_high, is_low = Const(0, 1), side
        shift = Mux(is_high, down + steps, Mux(is_low, 0, down))
        own_exponent = own.exponent * (lane_exponents.step // exponents.step) if len(own.exponent) else 0
        lanes.append((
            Term(
                own.significand,
                named(m, f"exponent_{i}", exponent_shape(bounds(format)), own_exponent + shift),
                named(m, f"back_{i}", back_shape(bounds(format)), side.any()),
            ),
        ))  # fmt: skip
    return lanes


@decode.register
def _(format: TermBudget, m: Module, codes: Sequence[Value]) -> list[Lane]:
    lanes: list[Lane] = []
    for i, (added, subtracted) in enumerate(kept_bits(format, m, codes)):
        left: Value = named(m, f"left_{i}", added.shape(), added | subtracted)
        terms = []
        for t in range(bounds(format).per_lane):  # the largest first
            significand = Signal(significand_shape(bounds(format)), name=f"significand_{i}_{t}")
            exponent = Signal(exponent_shape(bounds(format)), name=f"exponent_{i}_{t}")
            following = Signal(len(left), name=f"left_{i}_{t}")
            m.d.comb += following.eq(left)
            for e in range(len(left)):  # a later assignment wins: the largest exponent
                with m.If(left[e]):
                    m.d.comb += [
                        significand.eq(Mux(subtracted[e], -1, 1)), exponent.eq(e),
                        following.eq(left & ((1 << len(left)) - 1 - (1 << e))),
                    ]  # fmt: skip
            terms.append(term(significand, exponent))
            left = following
        lanes.append(tuple(terms))
    return lanes


@elements.register
def _(format: TermBudget, m: Module, codes: Sequence[Value]) -> list[Value]:
    shape = element_shape(bounds(format))
    return [
        named(m, f"element_{i}", shape, added - subtracted)
        for i, (added, subtracted) in enumerate(kept_bits(format, m, codes))
    ]


def _memory(format: Format, m: Module, code: Value, lane: int) -> Lane:
    """One word a code: its significands and exponents."""
    b = bounds(format)
    words = format.terms(np.arange(2**format.bits)[:, None])
    terms = []
    for t in range(b.per_lane):
        suffix = f"{lane}_{t}" if b.per_lane > 1 else f"{lane}"
        significand = Signal(significand_shape(b), name=f"significand_{suffix}")
        exponent = Signal(exponent_shape(b), name=f"exponent_{suffix}")
        with m.Switch(code):
            for value in range(2**format.bits):
                with m.Case(value):
                    m.d.comb += [
                        significand.eq(int(words.significand[value, t])),
                        exponent.eq(b.exponent.index(int(words.exponent[value, t]))),
                    ]
        terms.append(term(significand, exponent))
    return tuple(terms)


Magnitude = Callable[[Value], tuple[Value, Value]]
"""Base and exponent of a magnitude's code."""


def _sign_magnitude(format: Table, m: Module, code: Value, lane: int, decoder: Magnitude, signed: bool) -> Lane:
    base, exponent = decoder(code[:-1] if signed else code)
    b = bounds(format)
    value = Mux(code[-1], -base, base) if signed else base
    return (
        term(
            named(m, f"significand_{lane}", significand_shape(b), value),
            named(m, f"exponent_{lane}", exponent_shape(b), exponent),
        ),
    )


def _flint(magnitude: Value) -> tuple[Value, Value]:
    """{0, r}: r. {1, r}: r and a zero below it, twice as many places up as r has leading zeros; for no r a one."""
    rest, is_upper = magnitude[:-1], magnitude[-1]
    zeros: Value = Const(len(rest), unsigned(len(rest).bit_length()))
    for i in range(len(rest)):
        zeros = Mux(rest[i], len(rest) - 1 - i, zeros)
    return Mux(is_upper, Cat(~rest.any(), rest), rest), Mux(is_upper, zeros, 0)  # in steps of two


def _power_of_two(magnitude: Value) -> tuple[Value, Value]:
    return magnitude.any(), Mux(magnitude.any(), magnitude - 1, 0)


_HAND_MADE: tuple[tuple[Callable[[int, bool], Table], Magnitude], ...] = (
    (flint, _flint),
    (power_of_two, _power_of_two),
)
