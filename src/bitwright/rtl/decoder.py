"""Decoders as units of their own: what stands at the edge of an array."""

from amaranth.hdl import Const, Module, unsigned
from amaranth.lib.wiring import In, Out

from bitwright.formats import Format
from bitwright.rtl.decode import bounds, decode
from bitwright.rtl.operand import Operand
from bitwright.rtl.term import Term, back_shape, exponent_shape, significand_shape, term_shapes
from bitwright.rtl.unit import Unit


class Decoder(Unit):
    """Terms of `lanes` neighbouring codes. Combinational.

    code_{lane}                in: a stored code
    significand_{lane}_{term}  out
    exponent_{lane}_{term}     out: position in bounds(format).exponent
    back_{lane}_{term}         out: how many lanes back the term's element is
    """

    def __init__(self, format: Format, lanes: int = 1) -> None:
        self.format, self.lanes = format, lanes
        b = bounds(format)
        ports = {f"code_{lane}": In(format.bits) for lane in range(lanes)}
        for lane in range(lanes):
            for t in range(b.per_lane):
                ports[f"significand_{lane}_{t}"] = Out(significand_shape(b))
                ports[f"exponent_{lane}_{t}"] = Out(exponent_shape(b))
                ports[f"back_{lane}_{t}"] = Out(back_shape(b))
        super().__init__(ports, format, lanes)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        codes = [getattr(self, f"code_{lane}") for lane in range(self.lanes)]
        for lane, terms in enumerate(decode(self.format, m, codes)):
            for t, made in enumerate(terms):
                m.d.comb += [
                    getattr(self, f"significand_{lane}_{t}").eq(made.significand),
                    getattr(self, f"exponent_{lane}_{t}").eq(made.exponent),
                    getattr(self, f"back_{lane}_{t}").eq(made.back),
                ]
        return m


class OperandDecoder(Unit):
    """Multiplier operands of `lanes` neighbouring codes, in any of an operand's formats. Combinational.

    code_{lane}     in: a stored code; select: its format's position in operand.formats, where there are several
    {part}_{lane}   out: significand, exponent and back of the operand, as far as it has them
    """

    def __init__(self, operand: Operand, lanes: int) -> None:
        self.operand, self.lanes = operand, lanes
        ports = {f"code_{lane}": In(operand.bits) for lane in range(lanes)}
        if operand.select_bits:
            ports["select"] = In(operand.select_bits)
        for lane in range(lanes):
            ports |= {f"{part}_{lane}": Out(shape) for part, shape in term_shapes(operand.bounds).items()}
        super().__init__(ports, operand, lanes)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        codes = [getattr(self, f"code_{lane}") for lane in range(self.lanes)]
        terms = self.operand.terms(m, codes, getattr(self, "select", Const(0, unsigned(0))))
        for lane, made in enumerate(terms):
            for part in term_shapes(self.operand.bounds):
                m.d.comb += getattr(self, f"{part}_{lane}").eq(getattr(made, part))
        return m

    def term(self, lane: int) -> Term:
        """What leaves for one lane."""
        nothing = Const(0, unsigned(0))
        return Term(*(getattr(self, f"{part}_{lane}", nothing) for part in Term._fields))
