"""A weight-stationary array that loads its next weights while it works with the present ones.

A multiplier has two weights. The next ones move down a column one behind the other, the last row's first, and each
stays where it belongs; a mark that travels with the first vector of a fold makes them the present ones, row by row and
column by column as that vector arrives. Columns load one cycle after each other, as vectors reach them. So the next
weights may enter one cycle after a fold's first vector: a fold of T vectors takes max(T, rows + 1) cycles.
"""

from amaranth.hdl import Const, Module, Signal, unsigned
from amaranth.lib.wiring import In, Out

from bitwright.rtl.decoder import OperandDecoder
from bitwright.rtl.dot import lane_product, select_ports
from bitwright.rtl.plan import Plan, for_array
from bitwright.rtl.stream import stages
from bitwright.rtl.systolic import chain, connect_inputs, delay, grid, require_size
from bitwright.rtl.term import Term, term_shapes
from bitwright.rtl.unit import Unit, place
from bitwright.rtl.units import term_of, term_ports


class DoubleBufferedElement(Unit):
    """A multiplier with its present and its next weight. Latency 1: everything moves on at each clock.

    load, load_out            in, out: take the next weight from above; to the right
    w_{part}, w_{part}_out    in, out: next weight of the element above, or of the array's edge; the one held here
    swap, swap_out            in, out: the next weight is the present one from the following cycle on; to the right
    x_{part}, x_{part}_out    in, out: input term from the left, to the right
    sum_in, sum               in, out: inner register from above, to below, in units of 2**plan.unit
    """

    is_clocked = True

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        ports = {"sum_in": In(plan.inner.shape), "sum": Out(plan.inner.shape)}
        for name in ("load", "swap"):
            ports |= {name: In(1), f"{name}_out": Out(1)}
        super().__init__(ports | term_ports(plan), plan)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for name in ("load", "swap", *(f"x_{part}" for part in term_shapes(self.plan.x.bounds))):
            m.d.sync += getattr(self, f"{name}_out").eq(getattr(self, name))
        weight, before = {}, {}
        for part, shape in term_shapes(self.plan.w.bounds).items():
            following = Signal(shape, name=f"next_weight_{part}")
            weight[part] = Signal(shape, name=f"weight_{part}")
            with m.If(self.load):
                m.d.sync += following.eq(getattr(self, f"w_{part}"))
            with m.If(self.swap):
                m.d.sync += weight[part].eq(following)
            m.d.comb += getattr(self, f"w_{part}_out").eq(following)
            if self.plan.x.bounds.reach:  # a digit of the lane before meets the weight of the row above
                before[part] = Signal(shape, name=f"weight_before_{part}")
                with m.If(self.swap):
                    m.d.sync += before[part].eq(getattr(self, f"w_{part}"))
        nothing = Const(0, unsigned(0))
        own, above = (Term(*(held.get(part, nothing) for part in Term._fields)) for held in (weight, before))
        product = lane_product(m, "lane", self.plan, term_of(self, "x"), own, above if before else None)
        after = self.plan.inner.add(m, "after", self.sum_in, [product], self.plan.addend_width)
        m.d.sync += self.sum.eq(after)
        return m


class DoubleBuffered(Unit):
    """rows × columns multipliers with two weights each: row r holds element r along K, column c output c.

    load_{r}         in: row r takes a next weight: at the first of `rows` loads row 0, at the second rows 0 and 1, ...
    w_{c}            in: weight code of column c, with load_0; the last row's first. w_select: its format, where there
                     are several. A format that limits the terms of a group takes the limited elements, as integers
    swap             in: the vector given now is the first for the next weights
    x_{r}            in: input code of row r; x_select: its format, where there are several
    sum_in_{c}       in: what an earlier fold left, one cycle after its vector; only where sums saturate, whose order
                     matters. Elsewhere sums start from zero
    sum_{c}          out: inner registers after all rows, in units of 2**plan.unit

    Loads may pause. The last one comes before the swap, the next one after it.

    Latency: rows + columns cycles.
    """

    is_clocked = True

    def __init__(self, plan: Plan, rows: int, columns: int) -> None:
        require_size(rows, columns)
        self.plan = plan = for_array(plan, rows)
        self.rows, self.columns = rows, columns
        self.goes_on = plan.inner.low is not None and plan.products != rows
        ports = {f"load_{r}": In(1) for r in range(rows)} | {"swap": In(1)}
        ports |= select_ports(plan)
        ports |= {f"x_{r}": In(plan.x.bits) for r in range(rows)}
        for c in range(columns):
            ports |= {f"w_{c}": In(plan.w.bits), f"sum_{c}": Out(plan.inner.shape)}
            if self.goes_on:
                ports[f"sum_in_{c}"] = In(plan.inner.shape)
        super().__init__(ports, plan, rows, columns)

    @property
    def latency(self) -> int:
        return self.rows + self.columns

    def elaborate(self, platform: object) -> Module:
        m = Module()
        cells = grid(m, platform, lambda: DoubleBufferedElement(self.plan), self.rows, self.columns)
        swaps = stages(m, "swap", self.swap, self.rows - 1)
        for r, row in enumerate(cells):
            chain(m, row, "load", getattr(self, f"load_{r}"))
            chain(m, row, "swap", swaps[r])
        # a new weight is there one cycle after its swap
        connect_inputs(m, platform, self, self.plan.x, cells, wait=1)
        self._connect_weights(m, platform, cells)
        for c in range(self.columns):
            if self.goes_on:
                m.d.comb += cells[0][c].sum_in.eq(delay(m, f"sum_in_{c}", getattr(self, f"sum_in_{c}"), c))
            bottom = delay(m, f"sum_{c}", cells[-1][c].sum, self.columns - 1 - c)
            m.d.comb += getattr(self, f"sum_{c}").eq(bottom)
        return m

    def _connect_weights(self, m: Module, platform: object, cells: list[list[DoubleBufferedElement]]) -> None:
        """Codes wait at column c for c cycles; columns are no neighbours of each other."""
        operand = self.plan.w
        selects = stages(m, "w_select", self.w_select, self.columns - 1) if operand.select_bits else []
        for c in range(self.columns):
            decoder = OperandDecoder(operand, 1)
            place(m, platform, f"decode_w_{c}", decoder)
            if selects:
                m.d.comb += decoder.select.eq(selects[c])
            m.d.comb += decoder.code_0.eq(delay(m, f"w_{c}", getattr(self, f"w_{c}"), c))
            for part in term_shapes(operand.bounds):
                chain(m, [row[c] for row in cells], f"w_{part}", getattr(decoder, f"{part}_0"))
