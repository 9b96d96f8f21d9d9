"""OverQ's encoder: finds zeros and outliers among neighbouring lanes, and moves lanes up to make room for digits.

`schemes.overq.Overwrite.encode` in gates, all lanes of a tile at a time. Each zero looks back over its run of non-zero
lanes, at most `cascade` of them, for the outlier that takes it; runs share no lane, so zeros decide independently.
"""

from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Const, Module, Mux, Shape, Signal, Value, unsigned
from amaranth.lib.wiring import In, Out

from bitwright.formats import Int, Rounding
from bitwright.rtl.encode import encode
from bitwright.rtl.round import shift_right
from bitwright.rtl.term import named, shape_of
from bitwright.rtl.unit import Unit
from bitwright.schemes.overq import Overwrite, Pick, State


class OverwriteEncoder(Unit):
    """Codes of the levels of neighbouring lanes, from the first lane of a tile on. Combinational.

    level_{lane}   in: in units of 2**level.exponent; unsigned lanes take no negative levels
    code_{lane}    out: payload, and above it the lane's state
    """

    def __init__(self, format: Overwrite, level: Int, lanes: int, rounding: Rounding = Rounding.NEAREST_UP) -> None:
        if not isinstance(format.lane, Int):
            raise ValueError(f"OverwriteEncoder: lanes of {format.lane} found; it encodes Int lanes")
        if level.signed and not format.lane.signed:
            raise ValueError(f"OverwriteEncoder: {level} levels found for unsigned lanes; they must be unsigned too")
        if rounding is Rounding.STOCHASTIC:
            raise ValueError(f"OverwriteEncoder: {rounding} found; an encoder without random bits cannot round so")
        self.format, self.level, self.lanes, self.rounding = format, level, lanes, rounding
        shape = Shape(level.bits, level.signed)
        ports = {f"level_{lane}": In(shape) for lane in range(lanes)}
        ports |= {f"code_{lane}": Out(unsigned(format.bits)) for lane in range(lanes)}
        super().__init__(ports, format, level, lanes, rounding)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        size = self.format.tile or self.lanes
        for start in range(0, self.lanes, size):
            self._tile(m, range(start, min(start + size, self.lanes)))
        return m

    def _tile(self, m: Module, lanes: range) -> None:
        found = [_Lane(m, self, lane) for lane in lanes]
        taken = [self._donor(m, found, at) for at in range(len(found))]
        for at, lane in enumerate(found):
            lane.overwrite(m, found, taken, at)
            code = Cat(lane.payload, lane.state if self.format.side_bits == 2 else lane.state.any())
            m.d.comb += getattr(self, f"code_{lanes[at]}").eq(code)

    def _donor(self, m: Module, lanes: list["_Lane"], at: int) -> list[Value]:
        """Whether the lane is a zero that the outlier 1, 2, ... lanes back takes; at most one of them does."""
        if not self.format.range_overwrite:
            return []
        unbroken: Value = lanes[at].is_zero
        candidates: list[Value] = []
        for distance in range(1, min(self.format.cascade, at) + 1):
            back = lanes[at - distance]
            unbroken = named(m, f"unbroken_{back.lane}_{distance}", unsigned(1), unbroken & ~back.is_zero)
            candidates.append(unbroken & back.is_outlier)
        taken: list[Value] = []
        for i, candidate in enumerate(candidates):  # one farther back comes first from the left
            rivals = [c if self.format.pick is Pick.LEFTMOST else
                      c & (lanes[at - 1 - j].magnitude >= lanes[at - 1 - i].magnitude)
                      for j, c in enumerate(candidates) if j > i]  # fmt: skip
            if self.format.pick is Pick.LARGEST:
                rivals += [c & (lanes[at - 1 - j].magnitude > lanes[at - 1 - i].magnitude)
                           for j, c in enumerate(candidates) if j < i]  # fmt: skip
            won = candidate & ~reduce(or_, rivals, Const(0, 1))
            taken.append(named(m, f"taken_{lanes[at].lane}_{i + 1}", unsigned(1), won))
        return taken


class _Lane:
    """What one lane knows of its level, and what it stores in the end."""

    def __init__(self, m: Module, unit: OverwriteEncoder, lane: int) -> None:
        assert isinstance(unit.format.lane, Int)
        self.format, self.payload_format, self.lane, self.rounding = unit.format, unit.format.lane, lane, unit.rounding
        self.level = getattr(unit, f"level_{lane}")
        self.fraction_bits = self.payload_format.exponent - unit.level.exponent
        self.radix_bits = self.format.radix_bits
        self.highest = self.payload_format.range[1]
        value = self._rounded(m, f"value_{lane}", self.fraction_bits)
        self.is_negative = named(m, f"is_negative_{lane}", unsigned(1), value < 0)
        self.magnitude = named(m, f"magnitude_{lane}", unsigned(len(value)), Mux(value < 0, -value, value))
        self.is_zero = named(m, f"is_zero_{lane}", unsigned(1), value == 0)
        self.is_outlier = named(m, f"is_outlier_{lane}", unsigned(1), self.magnitude > self.highest)
        own = encode(self.payload_format, m, f"own_{lane}", self.level, unit.level, unit.rounding)
        self.own = named(m, f"own_{lane}", unsigned(self.payload_format.bits), own)
        largest = 2 ** (2 * self.radix_bits) - 1
        wide = named(m, f"wide_{lane}", shape_of(0, largest), Mux(self.magnitude > largest, largest, self.magnitude))
        self.low, self.high = self._digits(wide, self.is_negative)
        self.payload = Signal(self.payload_format.bits, name=f"payload_{lane}")
        self.state = Signal(2, name=f"state_{lane}")
        if self.format.precision_overwrite:
            self.fraction, self.whole = self._fraction_digits(m)

    def overwrite(self, m: Module, lanes: list["_Lane"], taken: list[list[Value]], at: int) -> None:
        """Which of the digits and neighbours this lane stores."""
        before = lanes[at - 1] if at else self

        def is_at(place: int) -> Value:
            """This lane lies so many lanes after an outlier that takes a zero here or beyond."""
            ends = [taken[end][end - at + place - 1] for end in range(at + (place == 0), len(lanes))
                    if 0 < end - at + place <= len(taken[end])]  # fmt: skip
            return reduce(or_, ends, Const(0, 1))

        m.d.comb += self.payload.eq(self.own)
        if self.format.precision_overwrite:
            after = lanes[at + 1] if at + 1 < len(lanes) else None
            if after is not None:
                with m.If(self.owns_fraction(after, taken[at + 1])):
                    m.d.comb += self.payload.eq(self.whole)
            if at:
                with m.If(before.owns_fraction(self, taken[at])):
                    m.d.comb += [self.payload.eq(before.fraction), self.state.eq(State.LOW)]
        if self.format.range_overwrite:
            moved = reduce(or_, [is_at(place) for place in range(2, self.format.cascade + 1)], Const(0, 1))
            with m.If(is_at(0)):
                m.d.comb += self.payload.eq(self.low)
            with m.If(is_at(1)):
                m.d.comb += [self.payload.eq(before.high), self.state.eq(State.HIGH)]
            with m.If(moved):
                m.d.comb += [self.payload.eq(before.own), self.state.eq(State.MOVED)]

    def owns_fraction(self, after: "_Lane", taken: list[Value]) -> Value:
        """An ordinary value before a zero that no outlier takes."""
        return after.is_zero & ~reduce(or_, taken, Const(0, 1)) & ~self.is_zero & ~self.is_outlier

    def _rounded(self, m: Module, name: str, places: int) -> Value:
        if places > 0:
            return shift_right(m, name, self.level, places, self.rounding)
        return named(m, name, Shape(len(self.level) - places, self.level.shape().signed), self.level << -places)

    def _digits(self, magnitude: Value, is_negative: Value) -> tuple[Value, Value]:
        """Codes of the low and the high digit, each with the value's sign."""
        digits = magnitude[: self.radix_bits], magnitude[self.radix_bits :]
        if not self.payload_format.signed:
            return digits
        low, high = (Mux(is_negative, -digit, digit).as_unsigned()[: self.payload_format.bits] for digit in digits)
        return low, high

    def _fraction_digits(self, m: Module) -> tuple[Value, Value]:
        """An ordinary value with `radix_bits` more places, kept from rounding to zero or to an outlier."""
        fine = self._rounded(m, f"fine_{self.lane}", self.fraction_bits - self.radix_bits)
        landed = shift_right(m, f"landed_{self.lane}", fine, self.radix_bits, self.rounding)
        is_negative = named(m, f"is_fine_negative_{self.lane}", unsigned(1), fine < 0)
        size = named(m, f"fine_size_{self.lane}", unsigned(len(fine)), Mux(fine < 0, -fine, fine))
        is_out = (landed > self.highest) | (landed < -self.highest)
        kept = size + (landed == 0) - is_out
        return self._digits(named(m, f"kept_{self.lane}", unsigned(2 * self.radix_bits), kept), is_negative)
