"""A systolic array that keeps its sums: inputs move right, weights move down, one element of K a clock."""

from contextlib import nullcontext
from dataclasses import replace

from amaranth.hdl import Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib.wiring import In, Out

from bitwright.rtl.decoder import OperandDecoder
from bitwright.rtl.dot import lane_product, select_ports
from bitwright.rtl.operand import Operand
from bitwright.rtl.plan import Plan
from bitwright.rtl.systolic import chain, delay, grid, require_size, select
from bitwright.rtl.term import Term, term_shapes
from bitwright.rtl.unit import Unit, place
from bitwright.rtl.units import term_of, term_ports


class SummingElement(Unit):
    """A multiplier with its sum, of an output-stationary array. Latency 1.

    valid, first, and both _out   in, out: take this product; start from zero; move right with the input
    x_{part}, w_{part}, and _out  in, out: input term to the right, weight term down
    drain                         in: take the sum from above instead
    sum_in, sum                   in, out: inner register of the element above, and of this one
    """

    is_clocked = True

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        ports = {"drain": In(1), "sum_in": In(plan.inner.shape), "sum": Out(plan.inner.shape)}
        for name in ("valid", "first"):
            ports |= {name: In(1), f"{name}_out": Out(1)}
        super().__init__(ports | term_ports(plan), plan)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for name in self.ports():
            if name.endswith("_out"):
                m.d.sync += getattr(self, name).eq(getattr(self, name.removesuffix("_out")))
        before = {part: getattr(self, f"w_{part}_out") for part in term_shapes(self.plan.w.bounds)}
        nothing = Const(0, unsigned(0))
        # the weight that moves on was the one of the lane before
        w_before = Term(*(before.get(part, nothing) for part in Term._fields))
        product = lane_product(m, "lane", self.plan, term_of(self, "x"), term_of(self, "w"), w_before)
        register = self.plan.inner
        start = Mux(self.first, 0, self.sum)
        start = start.as_signed() if register.is_signed else start
        after = register.add(m, "after", start, [product], self.plan.addend_width)
        with m.If(self.drain):
            m.d.sync += self.sum.eq(self.sum_in)
        with m.Elif(self.valid):
            m.d.sync += self.sum.eq(after)
        return m


class OutputStationary(Unit):
    """rows × columns multipliers that keep their sums: row r is row r of x, column c row c of w.

    valid, first   in: an element of K is given, and the first one
    x_{r}, w_{c}   in: its stored codes; x_select, w_select: their formats, where there are several. Formats that limit
                   the terms of a group take the limited elements, as integers
    drain          in: move all sums down by one row
    sum_{c}        out: inner register of the last row, in units of 2**plan.unit; while `drain` is high the row above
                   follows at every clock
    read_{c}       out: what is read from it, where the register has a readout

    Elements follow each other without a pause where inputs hold digits of neighbours.

    Latency: the sums of K elements are complete rows + columns + K - 2 cycles after the first one was given (SCALE-Sim
    counts a fold so), and rows - 1 cycles of `drain` bring the others to the last row.
    """

    is_clocked = True

    def __init__(self, plan: Plan, rows: int, columns: int) -> None:
        require_size(rows, columns)
        require_one_sum(plan)
        self.plan = plan = replace(plan, x=plan.x.elementwise(), w=plan.w.elementwise())
        self.rows, self.columns = rows, columns
        ports = {"valid": In(1), "first": In(1), "drain": In(1)}
        ports |= select_ports(plan)
        ports |= {f"x_{r}": In(plan.x.bits) for r in range(rows)} | {f"w_{c}": In(plan.w.bits) for c in range(columns)}
        for c in range(columns):
            ports[f"sum_{c}"] = Out(plan.inner.shape)
            if plan.inner.readout is not None:
                ports[f"read_{c}"] = Out(plan.inner.read_shape)
        super().__init__(ports, plan, rows, columns)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        cells = grid(m, platform, lambda: SummingElement(self.plan), self.rows, self.columns)
        m.d.comb += [cell.drain.eq(self.drain) for row in cells for cell in row]
        for r, row in enumerate(cells):
            for name in ("valid", "first"):
                chain(m, row, name, delay(m, f"{name}_{r}", getattr(self, name), r))
            for port, value in edge_terms(m, platform, self, "x", self.plan.x, r).items():
                chain(m, row, port, value)
        for c in range(self.columns):
            for port, value in edge_terms(m, platform, self, "w", self.plan.w, c).items():
                chain(m, [row[c] for row in cells], port, value)
            bottom = cells[-1][c].sum
            m.d.comb += getattr(self, f"sum_{c}").eq(bottom)
            if self.plan.inner.readout is not None:
                m.submodules[f"read_{c}"] = reader = Module()
                m.d.comb += getattr(self, f"read_{c}").eq(self.plan.inner.read(reader, bottom))
        return m


def edge_terms(
    m: Module, platform: object, array: Unit, name: str, operand: Operand, i: int, moves: Value | None = None
) -> dict[str, Value]:
    """Decoded operand `name` of row or column i, entering i cycles late; `moves`: in which cycles elements come."""
    code = getattr(array, f"{name}_{i}")
    codes = [code]
    if operand.bounds.reach:  # whether a digit was moved is seen beside the lane before
        before = Signal(operand.bits, name=f"{name}_{i}_before")
        with nullcontext() if moves is None else m.If(moves):
            m.d.sync += before.eq(code)
        codes = [before, code]
    decoder = OperandDecoder(operand, len(codes))
    place(m, platform, f"decode_{name}_{i}", decoder)
    m.d.comb += [getattr(decoder, f"code_{lane}").eq(value) for lane, value in enumerate(codes)]
    select(m, decoder, array, f"{name}_select")
    return {
        f"{name}_{part}": delay(m, f"{name}_{i}_{part}", getattr(decoder, f"{part}_{len(codes) - 1}"), i)
        for part in term_shapes(operand.bounds)
    }


def require_one_sum(plan: Plan) -> None:
    """ValueError where one element of an array cannot hold a whole sum."""
    if plan.products is not None:
        raise ValueError(
            f"an output-stationary element holds one sum over all of K, blocks of {plan.products} products found; "
            "use a weight-stationary array"
        )
    if plan.w.bounds.reach:
        raise ValueError("weights hold digits of neighbours; give that format to the inputs")
