"""Term Revealing's encoder: magnitudes to signed powers of two, and the largest terms of a group.

H. T. Kung, B. McDanel, S. Q. Zhang, SC 2020, arXiv:2007.06389. Whole groups at once (`TermEncoder`), or as streams of
digits as in the paper's system: `SerialRecoder` least significant bit first, a reversal, `TermSelector` largest first.
Budget and recoding of the streams are inputs: a register that holds them switches between plain quantization and Term
Revealing.
"""

from functools import reduce
from operator import add

from amaranth.hdl import Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib.wiring import In, Out

from bitwright.rtl.recode import kept_bits
from bitwright.rtl.term import named, shape_of
from bitwright.rtl.unit import Unit
from bitwright.schemes.term_revealing import TermBudget


class TermEncoder(Unit):
    """Powers of two of neighbouring codes, within the budget of each group. Combinational.

    code_{lane}                 in: sign and magnitude
    plus_{lane}, minus_{lane}   out: bit e is set where the element adds, subtracts 2**e
    """

    def __init__(self, format: TermBudget, lanes: int | None = None) -> None:
        self.format, self.lanes = format, lanes or format.group
        count = len(format.bounds().exponent)
        ports = {f"code_{lane}": In(unsigned(format.bits)) for lane in range(self.lanes)}
        for lane in range(self.lanes):
            ports |= {f"plus_{lane}": Out(unsigned(count)), f"minus_{lane}": Out(unsigned(count))}
        super().__init__(ports, format, lanes)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.kept = kept = Module()
        codes = [getattr(self, f"code_{lane}") for lane in range(self.lanes)]
        for lane, (plus, minus) in enumerate(kept_bits(self.format, kept, codes)):
            m.d.comb += [getattr(self, f"plus_{lane}").eq(plus), getattr(self, f"minus_{lane}").eq(minus)]
        return m


class SerialRecoder(Unit):
    """Bits to signed digits, one a clock: Recoding.HESE. Latency 1.

    first         in: the bit is a magnitude's least significant one
    bit           in: from the least significant on; a zero follows the most significant one
    recode        in: 0 leaves the bits as they are (Recoding.BINARY)
    is_term       out: the digit of the bit before is not zero
    is_negative   out: and is -1
    """

    is_clocked = True

    def __init__(self) -> None:
        super().__init__({"first": In(1), "bit": In(1), "recode": In(1), "is_term": Out(1), "is_negative": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        low, in_run = Signal(name="low"), Signal(name="in_run")
        high = named(m, "high", unsigned(1), self.bit & ~self.first & self.recode)
        carried = (low & high) | (in_run & (low | high))
        m.d.comb += [self.is_term.eq(low ^ in_run), self.is_negative.eq(self.is_term & high)]
        m.d.sync += [low.eq(self.bit), in_run.eq(carried & ~self.first)]
        return m


class TermSelector(Unit):
    """Keeps the first terms of streams, largest exponents first, of one exponent those of the first lanes.

    As many lanes as a group has are the paper's comparator, one lane its truncator. Latency 0: it decides in the clock
    in which a digit comes, and remembers how much of the budget is left.

    first                      in: the digits are those of the largest exponent
    budget                     in: terms of the group, with `first`; at its largest all are kept
    term_{lane}, kept_{lane}   in, out: the lane has a digit that is not zero
    """

    is_clocked = True

    def __init__(self, lanes: int, exponents: int) -> None:
        if lanes < 1 or exponents < 1:
            raise ValueError(f"TermSelector: {lanes} lanes and {exponents} exponents found; both are at least 1")
        self.lanes, self.exponents = lanes, exponents
        ports = {"first": In(1), "budget": In(shape_of(0, lanes * exponents))}
        for lane in range(lanes):
            ports |= {f"term_{lane}": In(1), f"kept_{lane}": Out(1)}
        super().__init__(ports, lanes, exponents)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        held = Signal(self.budget.shape(), name="held")
        left = named(m, "left", self.budget.shape(), Mux(self.first, self.budget, held))
        ahead: Value = Const(0, 1)
        kept = []
        for lane in range(self.lanes):
            has = getattr(self, f"term_{lane}")
            m.d.comb += getattr(self, f"kept_{lane}").eq(has & (ahead < left))
            kept.append(getattr(self, f"kept_{lane}"))
            ahead = named(m, f"ahead_{lane}", shape_of(0, self.lanes), ahead + has)
        m.d.sync += held.eq(left - reduce(add, kept))
        return m
