"""Multipliers of narrow typed operands that make one product of integers twice as wide: ANT's TypeFusion.

C. Guo et al., MICRO 2022; the composition is Bit Fusion's (H. Sharma et al., ISCA 2018). A wide integer is
2**b · high + low, and both halves are operands of a multiplier like any other: the low half an unsigned integer, the
high half one with an exponent of b. The shifter that flint and powers of two need anyway brings the partial products to
their places, and the adder of the four products adds them up.
"""

from typing import NamedTuple

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib.wiring import In, Out

from bitwright.datapath import bits_for, worst_sum
from bitwright.formats import Format, Int
from bitwright.rtl.decoder import OperandDecoder
from bitwright.rtl.multiply import extended, term_product, total
from bitwright.rtl.operand import Operand, Sign, has_zero_point, operand
from bitwright.rtl.term import named
from bitwright.rtl.unit import Unit, place
from bitwright.scheme import Scheme

LANES = 4
"""Multipliers that are fused: two halves of one operand meet two of the other."""


class Lane(NamedTuple):
    """What one multiplier of four takes: which code of an operand, and whether as the high half of a wide one."""

    code: int
    is_high: bool


def lane_of(i: int, is_wide: bool, is_other_wide: bool, *, is_first: bool) -> Lane:
    """What multiplier i takes of an operand: of x if `is_first`, else of w.

    With both wide the four halves cross; with one wide, each of its two values meets one narrow value twice.
    """
    if is_wide and is_other_wide:
        half = i % 2 if is_first else i // 2
        return Lane(half, half == 1)
    if is_wide:
        return Lane(i, i % 2 == 1)
    return Lane(i // 2 if is_other_wide else i, False)


class FusedOperand:
    """Formats that a port chooses from: narrow ones, and integers of twice their bits, which arrive in two codes."""

    def __init__(self, formats: tuple[Format, ...]) -> None:
        self.formats = formats
        self.bits = min(format.bits for format in formats)
        for format in formats:
            is_wide = isinstance(format, Int) and format.bits == 2 * self.bits
            if (format.bits != self.bits and not is_wide) or format.run > 1 or format.bounds().reach:
                raise ValueError(
                    f"TypeFusion: {format} beside formats of {self.bits} bits found; give scalar formats of these "
                    f"bits, or Int({2 * self.bits})"
                )
        low, high = (tuple(self._half(f, is_high) for f in formats) for is_high in (False, True))
        self.operand = Operand(tuple(dict.fromkeys(low + high)))

    @property
    def select_bits(self) -> int:
        return (len(self.formats) - 1).bit_length()

    def is_wide(self, select: int) -> bool:
        """Whether the format at this position comes in halves."""
        return self.formats[select].bits != self.bits

    def position(self, select: int, is_high: bool) -> int:
        """Of the format that a multiplier sees, among the operand's."""
        return self.operand.formats.index(self._half(self.formats[select], is_high))

    def _half(self, format: Format, is_high: bool) -> Format:
        if format.bits == self.bits:
            return format
        assert isinstance(format, Int)
        return Int(self.bits, format.signed and is_high, exponent=format.exponent + (self.bits if is_high else 0))


def sum_bits(x: tuple[Format, ...], w: tuple[Format, ...], k: int) -> int:
    """Width of sums of k products in any of these formats, in the unit of the finest."""
    unit = sum(min(format.bounds().exponent.start for format in formats) for formats in (x, w))
    needed = []
    for a in x:
        for b in w:
            raised = a.bounds().exponent.start + b.bounds().exponent.start - unit
            needed.append(bits_for(*(end << raised for end in worst_sum(a.bounds(), b.bounds(), k))))
    return max(needed)


class TypeFusion(Unit):
    """A sum of products: four of narrow operands a clock, two of a narrow and a wide one, one of wide ones. Latency 1.

    x_{i}, w_{i}         in: codes of `bits` each. A wide integer takes two: its low half, then its high half
    x_select, w_select   in: formats, by position in those that it was made from; where there is more than one
    enable, first        in: add the products of this clock; start from zero
    total                out: their sum so far, in units of 2**unit

    Narrow: x_{i} · w_{i}, i from 0 to 3. Wide w alone: x_{i} · (w_{2i}, w_{2i+1}), i from 0 to 1, and the same with x
    and w exchanged. Both wide: (x_0, x_1) · (w_0, w_1). Other codes are not looked at.

    Sums of up to k products fit. Narrow unsigned powers of two reach 2**14; a register for them is as wide as they ask.
    """

    is_clocked = True

    def __init__(self, x: tuple[Format, ...], w: tuple[Format, ...], k: int) -> None:
        self.x, self.w, self.k = FusedOperand(x), FusedOperand(w), k
        self.unit = sum(side.operand.bounds.exponent.start for side in (self.x, self.w))
        self.bits = sum_bits(x, w, k)
        ports = {"enable": In(1), "first": In(1), "total": Out(signed(self.bits))}
        for name, side in (("x", self.x), ("w", self.w)):
            ports |= {f"{name}_{i}": In(unsigned(side.bits)) for i in range(LANES)}
            if side.select_bits:
                ports[f"{name}_select"] = In(unsigned(side.select_bits))
        super().__init__(ports, x, w, k)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        terms = {}
        for i in range(LANES):
            for name, side in (("x", self.x), ("w", self.w)):
                decoder = OperandDecoder(side.operand, 1)
                place(m, platform, f"decode_{name}_{i}", decoder)
                self._route(m, i, name, decoder)
                terms[name, i] = decoder.term(0)
        exponents = self.x.operand.bounds.exponent, self.w.operand.bounds.exponent
        products = [
            extended(term_product(m, f"product_{i}", terms["x", i], terms["w", i], exponents), self.bits)
            for i in range(LANES)
        ]
        held = Signal(signed(self.bits), name="held")
        start = named(m, "start", unsigned(self.bits), Mux(self.first, 0, held))
        with m.If(self.enable):
            m.d.sync += held.eq(total([start, *products], self.bits))
        m.d.comb += self.total.eq(held)
        return m

    def _route(self, m: Module, i: int, name: str, decoder: OperandDecoder) -> None:
        """The code that a multiplier takes, and as which format, by the formats of both operands."""
        sides = {"x": self.x, "w": self.w}
        side, other = sides.pop(name), sides.popitem()[1]
        own, others = self._select(name), self._select("w" if name == "x" else "x")
        codes = [getattr(self, f"{name}_{j}") for j in range(LANES)]
        is_other_wide = named(m, f"{name}_{i}_other_is_wide", unsigned(1), is_wide(other, others))
        with m.Switch(own):
            for select in range(len(side.formats)):
                with m.Case(select):
                    narrow, wide = (
                        lane_of(i, side.is_wide(select), is_wide, is_first=name == "x") for is_wide in (False, True)
                    )
                    m.d.comb += decoder.code_0.eq(Mux(is_other_wide, codes[wide.code], codes[narrow.code]))
                    if side.operand.select_bits:
                        position = [side.position(select, lane.is_high) for lane in (narrow, wide)]
                        m.d.comb += decoder.select.eq(Mux(is_other_wide, position[1], position[0]))

    def _select(self, name: str) -> Value:
        return getattr(self, f"{name}_select", Const(0, unsigned(0)))


def type_fusion(narrow: Scheme, wide: Scheme, *, k: int, sign: Sign = Sign.BOTH) -> TypeFusion:
    """The unit of two schemes, such as ant(4, 4) and ant(8, 8)."""
    return TypeFusion(*fused_formats(narrow, wide, sign), k)


def fused_formats(narrow: Scheme, wide: Scheme, sign: Sign) -> tuple[tuple[Format, ...], tuple[Format, ...]]:
    """Formats of inputs and weights of two schemes; those of the narrow one come first."""
    if narrow.input is None or wide.input is None:
        raise ValueError("TypeFusion: a scheme that leaves inputs in float found; give it input bits")
    if any(has_zero_point(q) for q in (narrow.input, narrow.weight, wide.input, wide.weight)):
        raise ValueError("TypeFusion: formats with a zero point found; use Zero.FIXED")
    x, w = (
        tuple(dict.fromkeys([*operand(a, sign).formats, *operand(b, sign).formats]))
        for a, b in ((narrow.input, wide.input), (narrow.weight, wide.weight))
    )
    return x, w


def is_wide(side: FusedOperand, select: Value) -> Value:
    """Whether a port names a format that comes in halves."""
    wide = [select == i for i in range(len(side.formats)) if side.is_wide(i)]
    return Cat(*wide).any() if wide else Const(0, 1)
