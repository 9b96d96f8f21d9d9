"""Terms as wires: what a decoder gives a multiplier. All widths follow from bounds.

Exponents that occur may lie apart, as a range with a step; a wire counts steps.
"""

from typing import NamedTuple

from amaranth.hdl import Cat, Const, Module, Shape, Signal, Value, signed, unsigned

from bitwright.datapath import bits_for
from bitwright.formats import Bounds
from bitwright.rtl.ranges import significands


class Term(NamedTuple):
    """significand · 2**bounds.exponent[exponent], of the element `back` lanes before this one."""

    significand: Value
    exponent: Value
    back: Value


def shape_of(low: int, high: int) -> Shape:
    """The narrowest shape that holds every integer from low to high: unsigned where none is negative."""
    return signed(bits_for(low, high)) if low < 0 else unsigned(high.bit_length())


def significand_shape(bounds: Bounds) -> Shape:
    return shape_of(*significands(bounds))


def exponent_shape(bounds: Bounds) -> Shape:
    """Of positions in bounds.exponent."""
    return shape_of(0, len(bounds.exponent) - 1)


def back_shape(bounds: Bounds) -> Shape:
    return shape_of(0, bounds.reach)


def term_shapes(bounds: Bounds) -> dict[str, Shape]:
    """Wires of one term, without those that carry nothing."""
    shapes = {
        "significand": significand_shape(bounds),
        "exponent": exponent_shape(bounds),
        "back": back_shape(bounds),
    }
    return {name: shape for name, shape in shapes.items() if shape.width}


def element_shape(bounds: Bounds) -> Shape:
    """Of whole elements in units of 2**bounds.exponent.start."""
    low, high = bounds.units
    return shape_of(min(low, 0), max(high, 0))


def named(m: Module, name: str, shape: Shape, value: Value | int) -> Signal:
    """A wire of that name and shape that carries the value: the name shows in the Verilog."""
    wire = Signal(shape, name=name)
    m.d.comb += wire.eq(value)
    return wire


def places(exponent: Value, exponents: range) -> Value:
    """How far the exponent at this position lies above the first."""
    step = exponents.step
    if step & (step - 1) or not len(exponent):
        return exponent * step
    return Cat(Const(0, unsigned(step.bit_length() - 1)), exponent)


def shift_left(value: Value, by: Value, most: int) -> Value:
    """value · 2**by for up to `most` places, no wider than that needs."""
    if not len(by):
        return value
    shifted = (value << by)[: len(value) + most]
    return shifted.as_signed() if value.shape().signed else shifted


def term(significand: Value, exponent: Value | None = None, back: Value | None = None) -> Term:
    """A term of its own lane at the lowest exponent unless more is said."""
    nothing = Const(0, unsigned(0))
    return Term(significand, nothing if exponent is None else exponent, nothing if back is None else back)
