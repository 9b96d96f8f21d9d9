"""Small circuits that synthesis is tried on."""

import pytest

pytest.importorskip("amaranth", reason="amaranth is not installed")

from amaranth.hdl import Cat, Const, Module, Signal, signed
from amaranth.lib.wiring import Component, In, Out

from bitwright.rtl.verilog import rtlil


class Mac(Component):
    """A weight-stationary processing element: operands and sum in registers, two clock edges from port to sum."""

    def __init__(self, bits: int, sum_bits: int) -> None:
        operand = signed(bits)
        super().__init__(
            {
                "x": In(operand),
                "w": In(operand),
                "above": In(signed(sum_bits)),
                "passed": Out(operand),
                "sum": Out(signed(sum_bits)),
            }
        )
        self.operand = operand

    def elaborate(self, platform):
        m = Module()
        w = Signal(self.operand)
        m.d.sync += [self.passed.eq(self.x), w.eq(self.w), self.sum.eq(self.passed * w + self.above)]
        return m


def mac(values):
    """What `Mac` holds after two edges."""
    return {"passed": values["x"], "sum": values["x"] * values["w"] + values["above"]}


class BaughWooley(Component):
    """A 4 by 4 signed multiplier of partial products with inverted edges; no registers."""

    x: In(signed(4))
    w: In(signed(4))
    product: Out(signed(8))

    def elaborate(self, platform):
        m = Module()
        rows = [Const(0b1001_0000, 8)]
        for i in range(4):
            bits = [self.x[j] & self.w[i] for j in range(4)]
            bits = [~bit if (i == 3) != (j == 3) else bit for j, bit in enumerate(bits)]
            rows.append(Cat(Const(0, i), *bits) if i else Cat(*bits))
        m.d.comb += self.product.eq(sum(rows[1:], rows[0]))
        return m


class Product(Component):
    """The specification of the multiplier."""

    x: In(signed(4))
    w: In(signed(4))
    product: Out(signed(8))

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.product.eq(self.x * self.w)
        return m


class Counter(Component):
    """Counts the cycles in which `enable` is high; a register that reads itself and starts at five."""

    enable: In(1)
    count: Out(4, init=5)

    def elaborate(self, platform):
        m = Module()
        with m.If(self.enable):
            m.d.sync += self.count.eq(self.count + 1)
        return m


MAC4 = rtlil(Mac(4, 16), "mac")
SMALL = rtlil(Mac(3, 8), "mac")
