"""Term Revealing's cell in lockstep, and the registers that switch it to plain quantization and back.

H. T. Kung, B. McDanel, S. Q. Zhang, SC 2020, arXiv:2007.06389; verilog/ of BradMcDanel/term-quantization@c2c4a1e. A
group of weights is a list of its terms, largest first, so a budget is how many entries of it are read. Each meets as
many terms of its input, largest first. Every group so takes budget · data terms clocks in every cell, whatever the
values are. Differs from the artifact: counters are parallel, not bit-serial, and a weight's term names its lane.
"""

from dataclasses import replace
from functools import reduce
from operator import or_
from typing import NamedTuple

import numpy as np
from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib.wiring import In, Out
from jaxtyping import Bool, Int

from bitwright.rtl.operand import Sign, operand
from bitwright.rtl.recode import recoded
from bitwright.rtl.term import exponent_shape, named, shape_of
from bitwright.rtl.term_serial import CoefficientSum, Pairs, position
from bitwright.rtl.unit import Unit, place
from bitwright.scheme import Scheme
from bitwright.schemes.term_revealing import Recoding, TermBudget

SIZE_BITS, BUDGET_BITS, DATA_BITS = 5, 7, 4
"""Fields of the artifact's register, from the least significant bit on."""


class TermList(NamedTuple):
    """Terms of groups of neighbours, largest exponents first, of one exponent the first lanes first."""

    is_term: Bool[np.ndarray, "groups terms"]
    is_negative: Bool[np.ndarray, "groups terms"]
    exponent: Int[np.ndarray, "groups terms"]
    lane: Int[np.ndarray, "groups terms"]


def term_list(format: TermBudget, codes: Int[np.ndarray, "groups lanes"]) -> TermList:
    """Every term of each row, a group of `format.group` codes; a budget's terms are the first of them.

    Rows are as long as the most that a group may have; what is missing is no term.
    """
    added, subtracted = replace(format, budget=None).kept(codes)
    exponents = np.asarray(format.bounds().exponent)[::-1]
    digits = (added[:, None] >> exponents[:, None] & 1) - (subtracted[:, None] >> exponents[:, None] & 1)
    rows, lanes = codes.shape
    flat = digits.reshape(rows, -1)
    order = np.argsort(flat == 0, axis=1, kind="stable")[:, : format.group * format.most_terms]
    found = np.take_along_axis(flat, order, 1)
    return TermList(found != 0, found < 0, exponents[order // lanes], order % lanes)


class ModeRegisters(Unit):
    """The artifact's two registers. Latency 1.

    write, address, data   in: `data` goes to `address`, a byte's; 0x0 {limit, recode}, 0x8 {data_terms, group_budget,
                           group_size} from the most significant field on
    read                   out: the register at `address`, the first one also at 0x4
    recode                 out: inputs are recoded; else their bits are the terms
    limit                  out: terms are limited, for what encodes results
    group_size             out: weights of a group
    group_budget           out: terms that are read of a group
    data_terms             out: terms that are read of an input

    Plain quantization: 0x0 ← 0, groups of one, and budgets of as many terms as magnitudes have bits.
    """

    is_clocked = True

    def __init__(self) -> None:
        self.fields = {"group_size": SIZE_BITS, "group_budget": BUDGET_BITS, "data_terms": DATA_BITS}
        width = sum(self.fields.values())
        super().__init__(
            {
                "write": In(1), "address": In(4), "data": In(width), "read": Out(width),
                "recode": Out(1), "limit": Out(1),
                **{name: Out(bits) for name, bits in self.fields.items()},
            }
        )  # fmt: skip

    def elaborate(self, platform: object) -> Module:
        m = Module()
        switches, budgets = Signal(2, name="switches"), Signal(self.data.shape(), name="budgets")
        with m.If(self.write & (self.address == 0)):
            m.d.sync += switches.eq(self.data[:2])
        with m.If(self.write & (self.address == 8)):
            m.d.sync += budgets.eq(self.data)
        m.d.comb += [
            self.read.eq(Mux(self.address == 8, budgets, switches)),
            Cat(self.recode, self.limit).eq(switches),
            Cat(*(getattr(self, name) for name in self.fields)).eq(budgets),
        ]
        return m


class TermMac(Unit):
    """Dot product of the first terms of weights and inputs, one pair a clock, in a number of clocks that budgets give.

    load, first               in: take the inputs of a group; start the sum from zero. While not busy, or with `is_last`
    x_{lane}                  in: codes of the group's inputs, with `load`
    recode                    in: with `load`: signed terms (Recoding.HESE), else bits
    group_budget, data_terms  in: at least one; they stay while it is busy
    index                     out: the entry of the group's list that is read
    w_term, w_negative, w_exponent, w_lane   in: that entry, in the same clock; is it one, its sign, exponent and lane
    busy                      out: from the clock after `load`, for group_budget · data_terms clocks
    is_last                   out: the last of them
    total                     out: the sum, in the clock after that
    """

    is_clocked = True

    def __init__(self, x: TermBudget, w: TermBudget, k: int, sums: Pairs = CoefficientSum) -> None:
        for name, format in (("inputs", x), ("weights", w)):
            if format.recoding is not Recoding.HESE or format.budget is not None:
                raise ValueError(
                    f"TermMac: {name} of {format} found; recoding and budget are chosen at run time, so give "
                    "Recoding.HESE and no budget"
                )
        self.x, self.w, self.lanes, self.k, self.sums = x, w, w.group, k, sums
        self.sum = sums(_widest(x), _widest(w), k)
        most = w.group * w.most_terms
        ports = {
            "load": In(1), "first": In(1), "recode": In(1), "busy": Out(1), "is_last": Out(1),
            "group_budget": In(shape_of(0, max(most, w.largest.bit_length()))),
            "data_terms": In(shape_of(0, max(x.most_terms, x.largest.bit_length()))),
            "w_term": In(1), "w_negative": In(1), "w_exponent": In(exponent_shape(_widest(w).bounds())),
            "w_lane": In(shape_of(0, self.lanes - 1)), "total": Out(self.sum.total.shape()),
        }  # fmt: skip
        ports["index"] = Out(ports["group_budget"].shape)
        ports |= {f"x_{lane}": In(unsigned(x.bits)) for lane in range(self.lanes)}
        super().__init__(ports, x, w, k, sums)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        place(m, platform, "sum", self.sum)
        terms, minus = self._inputs(m)
        met, met_minus = (_chosen(m, name, of, self.w_lane) for name, of in (("met", terms), ("met_minus", minus)))
        place_of_data, starts = Signal(self.data_terms.shape(), name="data_index"), Signal(name="starts")
        is_first_data = place_of_data == 0
        left = Signal(len(met), name="left")
        now = named(m, "now", met.shape(), Mux(is_first_data, met, left))
        bit = named(m, "bit", met.shape(), _highest(now))
        ends_weight = named(m, "ends_weight", unsigned(1), place_of_data == self.data_terms - 1)
        m.d.comb += [
            self.is_last.eq(self.busy & ends_weight & (self.index == self.group_budget - 1)),
            self.sum.enable.eq(self.busy & self.w_term & bit.any()),
            self.sum.first.eq(self.busy & starts & (self.index == 0) & is_first_data),
            self.sum.is_negative.eq((met_minus & bit).any() ^ self.w_negative),
            self.sum.x_exponent.eq(position(bit)), self.sum.w_exponent.eq(self.w_exponent),
            self.total.eq(self.sum.total),
        ]  # fmt: skip
        with m.If(self.busy):
            m.d.sync += [left.eq(now & ~bit), place_of_data.eq(Mux(ends_weight, 0, place_of_data + 1))]
            with m.If(ends_weight):
                m.d.sync += self.index.eq(self.index + 1)
            with m.If(self.is_last):
                m.d.sync += self.busy.eq(0)
        with m.If(self.load):
            m.d.sync += [self.busy.eq(1), self.index.eq(0), place_of_data.eq(0), starts.eq(self.first)]
        return m

    def _inputs(self, m: Module) -> tuple[list[Signal], list[Signal]]:
        """Registers of each lane's terms, and of those that are subtracted."""
        width, count = self.x.largest.bit_length(), len(_widest(self.x).bounds().exponent)
        m.submodules.recoded = inside = Module()
        terms, minuses = [], []
        for lane in range(self.lanes):
            code = getattr(self, f"x_{lane}")
            added, subtracted = recoded(Recoding.HESE, inside, code[:width], count, lane)
            is_negative = code[width] if self.x.signed else Const(0, 1)
            held, minus = (Signal(count, name=f"{name}_{lane}") for name in ("terms", "minus"))
            with m.If(self.load):
                m.d.sync += [
                    held.eq(Mux(self.recode, added | subtracted, code[:width])),
                    minus.eq(Mux(self.recode, Mux(is_negative, added, subtracted), is_negative.replicate(count))),
                ]
            terms.append(held)
            minuses.append(minus)
        return terms, minuses


def term_mac(scheme: Scheme, *, k: int, sign: Sign = Sign.BOTH, sums: Pairs = CoefficientSum) -> TermMac:
    """The cell of a scheme of term budgets, such as term_revealing(). Its own budgets go to the registers.

    Inputs of both signs are given with a sign bit.
    """
    if scheme.input is None:
        raise ValueError("TermMac: the scheme leaves inputs in float; give it input bits")
    x, w = operand(scheme.input, sign).formats[-1], operand(scheme.weight).formats[-1]
    if not isinstance(x, TermBudget) or not isinstance(w, TermBudget):
        raise ValueError(f"TermMac: {x} and {w} found; give a scheme of term budgets, such as term_revealing()")
    x, w = (replace(format, budget=None, recoding=Recoding.HESE) for format in (x, w))
    return TermMac(x, w, k, sums)


def _widest(format: TermBudget) -> TermBudget:
    """The format of all that budgets may leave: the first term of 127 is 128."""
    budgets = [None, *range(1, format.group * format.most_terms + 1)]
    return replace(format, largest=int(max(replace(format, budget=b).bounds().highest for b in budgets)))


def _chosen(m: Module, name: str, several: list[Signal], index: Value) -> Value:
    """The one at an index."""
    return named(m, name, several[0].shape(), reduce(or_, (Mux(index == i, one, 0) for i, one in enumerate(several))))


def _highest(value: Value) -> Value:
    """Its leading one alone."""
    above: Value = Const(0, 1)
    bits = []
    for bit in reversed(list(value)):
        bits.append(bit & ~above)
        above = above | bit
    return Cat(*reversed(bits))
