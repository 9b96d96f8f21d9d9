"""Multiplication by pairs of powers of two, one pair a clock: Term Revealing's tMAC.

A pair adds ±2**(x exponent + w exponent). `ShiftSum` shifts and adds; `CoefficientSum` counts the pairs of each
exponent in a small register of its own, as the paper does, and shifts when the sum is read.
"""

from collections.abc import Callable, Sequence
from functools import reduce
from operator import or_

from amaranth.hdl import Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib.wiring import In, Out

from bitwright.datapath import bits_for
from bitwright.rtl.multiply import total
from bitwright.rtl.recode import Masks, kept_bits
from bitwright.rtl.term import exponent_shape, named, shape_of
from bitwright.rtl.unit import Unit, place
from bitwright.schemes.term_revealing import TermBudget


class PairSum(Unit):
    """What the two accumulators of pairs have in common. Latency 1.

    enable, first            in: take this pair; start from zero
    is_negative              in: the pair's sign
    x_exponent, w_exponent   in: positions in the formats' exponents
    total                    out: the sum, in units of the product of both formats' units

    Sums of up to k products of elements fit; on the way a sum may wrap.
    """

    is_clocked = True

    def __init__(self, x: TermBudget, w: TermBudget, k: int) -> None:
        self.x, self.w, self.k = x, w, k
        corners = [a * b for a in x.bounds().units for b in w.bounds().units]
        self.bits = bits_for(k * min(0, *corners), k * max(0, *corners))
        self.most = len(x.bounds().exponent) + len(w.bounds().exponent) - 2  # largest sum of two exponents
        super().__init__(
            {
                "enable": In(1), "first": In(1), "is_negative": In(1),
                "x_exponent": In(exponent_shape(x.bounds())), "w_exponent": In(exponent_shape(w.bounds())),
                "total": Out(signed(self.bits)),
            },
            x, w, k,
        )  # fmt: skip

    def exponent(self, m: Module) -> Value:
        """Of the pair."""
        return named(m, "exponent", shape_of(0, self.most), self.x_exponent + self.w_exponent)


class ShiftSum(PairSum):
    """One register of the sum's width, and a shifter before it."""

    def elaborate(self, platform: object) -> Module:
        m = Module()
        held = Signal(signed(self.bits), name="held")
        bit = named(m, "addend", unsigned(self.bits), (Const(1, 1) << self.exponent(m))[: self.bits])
        start = named(m, "start", signed(self.bits), Mux(self.first, 0, held))
        with m.If(self.enable):
            m.d.sync += held.eq(Mux(self.is_negative, start - bit, start + bit))
        with m.Elif(self.first):
            m.d.sync += held.eq(0)
        m.d.comb += self.total.eq(held)
        return m


class CoefficientSum(PairSum):
    """A counter for each exponent; the sum is made of them when it is read."""

    @property
    def counter_bits(self) -> list[int]:
        """Of each exponent: as many as its pairs need, none beyond the sum's own width."""
        pairs = self.k * min(self.x.bounds().per_lane, self.w.bounds().per_lane)
        return [max(1, min(bits_for(-pairs, pairs), self.bits - e)) for e in range(self.most + 1)]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        exponent = self.exponent(m)
        parts = []
        for e, bits in enumerate(self.counter_bits):
            count = Signal(signed(bits), name=f"coefficient_{e}")
            chosen = named(m, f"is_chosen_{e}", unsigned(1), self.enable & (exponent == e))
            start = named(m, f"start_{e}", signed(bits), Mux(self.first, 0, count))
            step = Mux(self.is_negative, start - 1, start + 1)
            m.d.sync += count.eq(Mux(chosen, step, start))
            parts.append(named(m, f"part_{e}", signed(bits + e), count << e))
        m.d.comb += self.total.eq(total(parts, self.bits))
        return m


Pairs = Callable[[TermBudget, TermBudget, int], PairSum]
"""How pairs are summed: `ShiftSum` or `CoefficientSum`."""


class TermSerialDot(Unit):
    """Dot product of the kept terms of `lanes` neighbouring codes, one pair of terms a clock.

    load                 in: take the codes; only while not busy
    first                in: with `load`, start the sum from zero
    x_{lane}, w_{lane}   in: stored codes
    busy                 out: pairs are left: from the clock after `load`, for as many clocks as there are pairs
    total                out: the sum, once not busy
    """

    is_clocked = True

    def __init__(self, x: TermBudget, w: TermBudget, lanes: int, k: int, sums: Pairs = CoefficientSum) -> None:
        for operand in (x, w):
            if lanes % operand.group:
                raise ValueError(f"TermSerialDot: {lanes} lanes found for groups of {operand.group}; use a multiple")
        self.x, self.w, self.lanes, self.k, self.sums = x, w, lanes, k, sums
        self.sum = sums(x, w, k)
        ports = {"load": In(1), "first": In(1), "busy": Out(1), "total": Out(self.sum.total.shape())}
        for lane in range(lanes):
            ports |= {f"x_{lane}": In(unsigned(x.bits)), f"w_{lane}": In(unsigned(w.bits))}
        super().__init__(ports, x, w, lanes, k, sums)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        place(m, platform, "sum", self.sum)
        x_kept, w_kept = self._kept(m, "x", self.x), self._kept(m, "w", self.w)
        x_terms, x_minus = self._hold(m, "x", x_kept)
        # a weight whose input has no terms has no pairs
        meets = [(plus | minus).any() for plus, minus in x_kept]
        w_terms, w_minus = self._hold(m, "w", [(Mux(a, p, 0), Mux(a, n, 0)) for a, (p, n) in zip(meets, w_kept)])
        lane_left = [w.any() for w in w_terms]
        m.d.comb += self.busy.eq(reduce(or_, lane_left))
        # the first lane with a term left, its lowest term of each operand
        at = [named(m, f"at_{i}", unsigned(1), has & ~reduce(or_, lane_left[:i], Const(0, 1)))
              for i, has in enumerate(lane_left)]  # fmt: skip
        w_now, x_all, w_signs, x_signs = (
            named(m, name, unsigned(len(of[0])), reduce(or_, (Mux(a, v, 0) for a, v in zip(at, of))))
            for name, of in (("w_now", w_terms), ("x_all", x_terms), ("w_signs", w_minus), ("x_signs", x_minus))
        )
        rest, is_fresh = Signal(len(x_all), name="rest"), Signal(init=1, name="is_fresh")
        x_now = named(m, "x_now", x_all.shape(), Mux(is_fresh, x_all, rest))
        x_bit, w_bit = (named(m, f"{name}_bit", v.shape(), v & -v) for name, v in (("x", x_now), ("w", w_now)))
        x_next = named(m, "x_next", x_now.shape(), x_now & ~x_bit)
        m.d.comb += [
            self.sum.enable.eq(self.busy), self.sum.first.eq(self.load & self.first),
            self.sum.is_negative.eq((x_signs & x_bit).any() ^ (w_signs & w_bit).any()),
            self.sum.x_exponent.eq(position(x_bit)), self.sum.w_exponent.eq(position(w_bit)),
            self.total.eq(self.sum.total),
        ]  # fmt: skip
        with m.If(self.busy):
            m.d.sync += [rest.eq(x_next), is_fresh.eq(~x_next.any())]
            with m.If(~x_next.any()):
                for a, left in zip(at, w_terms):
                    m.d.sync += left.eq(Mux(a, left & ~w_bit, left))
        with m.If(self.load):  # its registers hold anything at power-up
            m.d.sync += is_fresh.eq(1)
        return m

    def _kept(self, m: Module, operand: str, format: TermBudget) -> list[Masks]:
        m.submodules[f"kept_{operand}"] = inside = Module()
        return kept_bits(format, inside, [getattr(self, f"{operand}_{lane}") for lane in range(self.lanes)])

    def _hold(self, m: Module, operand: str, kept: list[Masks]) -> tuple[list[Signal], list[Signal]]:
        """Registers of each lane's terms, and of those that are subtracted."""
        terms, minuses = [], []
        for lane, (plus, minus) in enumerate(kept):
            held, is_minus = (Signal(len(plus), name=f"{operand}_{name}_{lane}") for name in ("terms", "minus"))
            with m.If(self.load):
                m.d.sync += [held.eq(plus | minus), is_minus.eq(minus)]
            terms.append(held)
            minuses.append(is_minus)
        return terms, minuses


def position(one_hot: Value) -> Value:
    """Index of the only bit that is set."""
    indices: Sequence[Value] = [Mux(one_hot[i], i, 0) for i in range(len(one_hot))]
    return reduce(or_, indices)
