"""An output-stationary array that hands its sums out while it adds up the next ones.

When the last element of K has passed a multiplier, its sum moves into a register of its own. These registers then move
down, the last row's first, each row for as many cycles as there are rows above it. So a fold takes max(K, rows) cycles.
"""

from dataclasses import replace

from amaranth.hdl import Const, Module, Mux, Signal, unsigned
from amaranth.lib.wiring import In, Out

from bitwright.rtl.dot import lane_product, select_ports
from bitwright.rtl.output_stationary import edge_terms, require_one_sum
from bitwright.rtl.plan import Plan
from bitwright.rtl.systolic import chain, delay, grid, require_size
from bitwright.rtl.term import Term, term_shapes
from bitwright.rtl.unit import Unit
from bitwright.rtl.units import term_of, term_ports


class HandingElement(Unit):
    """A multiplier with its sum, and the register that hands it out. Latency 1.

    valid, first, last, drain, and all _out   in, out: take this product; start from zero; hand out the sum after it;
                                              take the register above instead; to the right with the input
    x_{part}, w_{part}, and _out              in, out: input term to the right, weight term down
    done_in, done                             in, out: register above, and this one
    """

    is_clocked = True

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        ports = {"done_in": In(plan.inner.shape), "done": Out(plan.inner.shape)}
        for name in ("valid", "first", "last", "drain"):
            ports |= {name: In(1), f"{name}_out": Out(1)}
        super().__init__(ports | term_ports(plan), plan)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for name in self.ports():
            if name.endswith("_out"):
                m.d.sync += getattr(self, name).eq(getattr(self, name.removesuffix("_out")))
        before = self._weight_before(m) if self.plan.x.bounds.reach else None
        product = lane_product(m, "lane", self.plan, term_of(self, "x"), term_of(self, "w"), before)
        register = self.plan.inner
        held, start = Signal(register.shape, name="sum"), Signal(register.shape, name="start")
        m.d.comb += start.eq(Mux(self.first, 0, held))
        after = register.add(m, "after", start, [product], self.plan.addend_width)
        with m.If(self.valid):
            m.d.sync += held.eq(after)
        with m.If(self.last_out):
            m.d.sync += self.done.eq(held)
        with m.Elif(self.drain):
            m.d.sync += self.done.eq(self.done_in)
        return m

    def _weight_before(self, m: Module) -> Term:
        """Of the element of K before this one, however long ago it came."""
        before = {}
        for part, shape in term_shapes(self.plan.w.bounds).items():
            before[part] = Signal(shape, name=f"w_{part}_before")
            with m.If(self.valid):
                m.d.sync += before[part].eq(getattr(self, f"w_{part}"))
        return Term(*(before.get(part, Const(0, unsigned(0))) for part in Term._fields))


class DoubleBufferedOutputs(Unit):
    """rows × columns multipliers that keep their sums: row r is row r of x, column c row c of w.

    valid, first, last   in: an element of K is given; the first one; the last one
    x_{r}, w_{c}         in: its stored codes; x_select, w_select: their formats, where there are several. Formats that
                         limit the terms of a group take the limited elements, as integers
    drain_{r}            in: move the finished sums down to row r
    sum_{c}              out: finished sum of the last row, in units of 2**plan.unit

    Elements may pause. rows + columns cycles after the last one the last row's sums leave. In each of the rows - 1
    cycles from rows + 1 cycles after it on, those rows drain that have had fewer such cycles than rows above them: the
    rows above follow. Two last elements are at least `rows` cycles apart.
    """

    is_clocked = True

    def __init__(self, plan: Plan, rows: int, columns: int) -> None:
        require_size(rows, columns)
        require_one_sum(plan)
        self.plan = plan = replace(plan, x=plan.x.elementwise(), w=plan.w.elementwise())
        self.rows, self.columns = rows, columns
        ports = {"valid": In(1), "first": In(1), "last": In(1)} | {f"drain_{r}": In(1) for r in range(rows)}
        ports |= select_ports(plan)
        ports |= {f"x_{r}": In(plan.x.bits) for r in range(rows)} | {f"w_{c}": In(plan.w.bits) for c in range(columns)}
        ports |= {f"sum_{c}": Out(plan.inner.shape) for c in range(columns)}
        super().__init__(ports, plan, rows, columns)

    @property
    def latency(self) -> int:
        """Cycles from the last element to the sums of the last row."""
        return self.rows + self.columns

    def elaborate(self, platform: object) -> Module:
        m = Module()
        cells = grid(m, platform, lambda: HandingElement(self.plan), self.rows, self.columns, down="done")
        for r, row in enumerate(cells):
            for name in ("valid", "first", "last"):
                chain(m, row, name, delay(m, f"{name}_{r}", getattr(self, name), r))
            chain(m, row, "drain", getattr(self, f"drain_{r}"))
            for port, value in edge_terms(m, platform, self, "x", self.plan.x, r, self.valid).items():
                chain(m, row, port, value)
        for c in range(self.columns):
            for port, value in edge_terms(m, platform, self, "w", self.plan.w, c, self.valid).items():
                chain(m, [row[c] for row in cells], port, value)
            bottom = delay(m, f"sum_{c}", cells[-1][c].done, self.columns - 1 - c)
            m.d.comb += getattr(self, f"sum_{c}").eq(bottom)
        return m
