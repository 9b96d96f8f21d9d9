"""Registers that sum: integers that are proved to fit, wrap or saturate, and how they are read."""

from dataclasses import dataclass

from amaranth.hdl import Module, Mux, Shape, Value, signed

from bitwright.datapath import Accumulator, Cyclic, Overflow, bits_for
from bitwright.formats import Int
from bitwright.rtl.multiply import total
from bitwright.rtl.ranges import require_width
from bitwright.rtl.term import named


@dataclass(frozen=True)
class Register:
    """An integer register of `bits`: the widest that `Accumulator` promises, or as wide as the worst sum needs."""

    bits: int
    is_signed: bool = True
    low: int | None = None  # where it saturates; None wraps, or is proved to fit
    high: int | None = None
    readout: Cyclic | None = None

    @property
    def shape(self) -> Shape:
        return Shape(self.bits, self.is_signed)

    @property
    def read_shape(self) -> Shape:
        """Of what is read from it."""
        if self.readout is None:
            return self.shape
        most = self.readout.slope * 2 ** (self.bits - 1) // (self.readout.slope + 1)
        return signed(bits_for(-most, most))

    def width(self, low: int, high: int) -> int:
        """Bits that addends between low and high are given in: modulo the register, or whole where it saturates."""
        return self.bits if self.low is None else bits_for(low, high)

    def add(self, m: Module, name: str, held: Value | None, addends: list[Value], width: int) -> Value:
        """The register after one step, whose addends count modulo 2**width; `held` None starts from zero."""
        if self.low is None or self.high is None:
            added = addends if len(addends) < 2 else [total(addends, self.bits)]
            after = total([*([] if held is None else [held]), *added], self.bits)
            return named(m, name, self.shape, after.as_signed() if self.is_signed else after)
        addend = named(m, f"{name}_addend", signed(width), total(addends, width).as_signed())
        exact = addend if held is None else held + addend
        return named(m, name, self.shape, Mux(exact < self.low, self.low, Mux(exact > self.high, self.high, exact)))

    def read(self, m: Module, held: Value) -> Value:
        """What leaves the register: sign(m)·min(|m|, slope·(half - |m|)) for a cyclic one."""
        if self.readout is None:
            return held
        half, slope = 2 ** (self.bits - 1), self.readout.slope
        magnitude = named(m, "magnitude", Shape(self.bits), Mux(held < 0, -held, held))
        folded = slope * (half - magnitude)
        least = Mux(magnitude < folded, magnitude, folded)
        return named(m, "folded", self.read_shape, Mux(held < 0, -least, least))


def register_for(accumulator: Accumulator, worst: tuple[int, int], what: str) -> Register:
    """The register of an integer accumulator whose sums lie within `worst`.

    ValueError where it forbids overflow and is too narrow, with the width that would do.
    """
    if accumulator.format is None:
        return Register(bits_for(*worst))
    assert isinstance(accumulator.format, Int), "an integer register"
    require_width(accumulator, worst, what)
    bits, (low, high) = accumulator.format.bits, accumulator.format.range
    if accumulator.overflow is Overflow.FORBID:
        return Register(bits, accumulator.format.signed)
    if accumulator.overflow is Overflow.SATURATE:
        return Register(bits, accumulator.format.signed, low, high)
    if accumulator.format.narrow:
        raise ValueError(f"{what}: {accumulator.format} wraps at no power of two; leave out `narrow`")
    return Register(bits, accumulator.format.signed, readout=accumulator.readout)
