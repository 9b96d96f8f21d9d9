"""Systolic arrays of a scheme's multipliers: decoders at the edge, operands that move on at every clock.

H. T. Kung, "Why systolic architectures?", IEEE Computer 15(1), 1982. Ports take and give whole vectors: the arrays
delay what must come later, so their users see no skew. Cycle counts are those of SCALE-Sim v2 (A. Samajdar et al.,
ISPASS 2020), which the tests count.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

from amaranth.hdl import Module, Signal, Value
from amaranth.lib.wiring import In, Out

from bitwright.rtl.decoder import OperandDecoder
from bitwright.rtl.dot import select_ports
from bitwright.rtl.operand import Operand
from bitwright.rtl.plan import Plan, for_array
from bitwright.rtl.stream import stages
from bitwright.rtl.term import term_shapes
from bitwright.rtl.unit import Unit, place
from bitwright.rtl.units import Collector, ProcessingElement

Element = TypeVar("Element", bound=Unit)


class WeightStationary(Unit):
    """rows × columns multipliers that keep their weights: row r holds element r along K, column c output c.

    load             in: shift weights down by one row; `rows` cycles fill the array, its last row's first
    w_{c}            in: weight code of column c; w_select: its format, where there are several. A format that limits
                     the terms of a group takes the limited elements, as integers
    valid            in: x is a vector
    x_{r}            in: input code of row r; x_select: its format, where there are several
    sum_in_{c}       in: inner register to start from: zero, or what an earlier fold along K left
    sum_valid        out: the sums of a vector leave now
    sum_{c}          out: inner registers after all rows, in units of 2**plan.unit
    read_{c}         out: what is read from them, where the register has a readout

    Where scales vary along K, collectors below the columns add the scaled sums:

    x_scale          in: block scale of the vector, given with it
    w_scale_{c}      in: block scales of the weights, taken while `load` is high
    total_in_{c}     in: outer register of the vector whose sums leave now; a float's two cycles later
    total_{c}        out: outer register after that, when total_valid is high: one cycle after the sums; a float's four

    Latency: the sums of a vector leave rows + columns - 1 cycles after it. So T vectors take
    2·rows + columns + T - 2 cycles a fold with the loading of weights (SCALE-Sim counts cycles from zero, one less in
    all), and a collector one more at the end, four with a float register.
    """

    is_clocked = True

    def __init__(self, plan: Plan, rows: int, columns: int) -> None:
        require_size(rows, columns)
        self.plan = plan = for_array(plan, rows)
        self.rows, self.columns = rows, columns
        inner, outer = plan.inner, plan.outer
        ports = {"load": In(1), "valid": In(1), "sum_valid": Out(1)}
        ports |= select_ports(plan)
        ports |= {f"x_{r}": In(plan.x.bits) for r in range(rows)}
        scales = (None, None) if outer is None else (outer.scale.x, outer.scale.w)
        if scales[0] is not None:
            ports["x_scale"] = In(scales[0].bits)
        if outer is not None:
            ports["total_valid"] = Out(1)
        for c in range(columns):
            ports |= {
                f"w_{c}": In(plan.w.bits), f"sum_in_{c}": In(inner.shape), f"sum_{c}": Out(inner.shape),
            }  # fmt: skip
            if inner.readout is not None:
                ports[f"read_{c}"] = Out(inner.read_shape)
            if scales[1] is not None:
                ports[f"w_scale_{c}"] = In(scales[1].bits)
            if outer is not None:
                ports |= {f"total_in_{c}": In(outer.register.shape), f"total_{c}": Out(outer.register.shape)}
        super().__init__(ports, plan, rows, columns)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        cells = grid(m, platform, lambda: ProcessingElement(self.plan), self.rows, self.columns)
        m.d.comb += [cell.load.eq(self.load) for row in cells for cell in row]
        connect_inputs(m, platform, self, self.plan.x, cells)
        self._connect_weights(m, platform, cells)
        latency = self.rows + self.columns - 1
        m.d.comb += self.sum_valid.eq(delay(m, "valid", self.valid, latency))
        for c in range(self.columns):
            top = delay(m, f"sum_in_{c}", getattr(self, f"sum_in_{c}"), c)
            bottom = delay(m, f"sum_{c}", cells[-1][c].sum, self.columns - 1 - c)
            m.d.comb += [cells[0][c].sum_in.eq(top), getattr(self, f"sum_{c}").eq(bottom)]
            if self.plan.inner.readout is not None:
                m.submodules[f"read_{c}"] = reader = Module()
                m.d.comb += getattr(self, f"read_{c}").eq(self.plan.inner.read(reader, bottom))
        if self.plan.outer is not None:
            self._collect(m, platform, latency)
        return m

    def _connect_weights(self, m: Module, platform: object, cells: list[list[ProcessingElement]]) -> None:
        """Weights enter at the top and move down; columns are no neighbours of each other."""
        for c in range(self.columns):
            decoder = OperandDecoder(self.plan.w, 1)
            place(m, platform, f"decode_w_{c}", decoder)
            select(m, decoder, self, "w_select")
            m.d.comb += decoder.code_0.eq(getattr(self, f"w_{c}"))
            for part in term_shapes(self.plan.w.bounds):
                chain(m, [row[c] for row in cells], f"w_{part}", getattr(decoder, f"{part}_0"))

    def _collect(self, m: Module, platform: object, latency: int) -> None:
        outer = self.plan.outer
        assert outer is not None
        m.d.comb += self.total_valid.eq(delay(m, "total_valid", self.sum_valid, outer.latency))
        x_scale = delay(m, "x_scale", self.x_scale, latency) if outer.scale.x is not None else None
        for c in range(self.columns):
            collector = Collector(self.plan)
            place(m, platform, f"collector_{c}", collector)
            m.d.comb += [
                collector.sum.eq(getattr(self, f"sum_{c}")),
                collector.total_in.eq(getattr(self, f"total_in_{c}")),
                getattr(self, f"total_{c}").eq(collector.total),
            ]
            if x_scale is not None:
                m.d.comb += collector.x_scale.eq(x_scale)
            if outer.scale.w is not None:
                held = Signal(outer.scale.w.bits, name=f"w_scale_{c}_held")
                with m.If(self.load):
                    m.d.sync += held.eq(getattr(self, f"w_scale_{c}"))
                m.d.comb += collector.w_scale.eq(held)


def require_size(rows: int, columns: int) -> None:
    """ValueError where an array would have no element."""
    if rows < 1 or columns < 1:
        raise ValueError(f"an array of {rows} rows and {columns} columns found; each is at least 1")


def grid(
    m: Module, platform: object, make: Callable[[], Element], rows: int, columns: int, *, down: str = "sum"
) -> list[list[Element]]:
    """rows × columns elements; the output `down` of each goes to the one below."""
    cells = [[make() for _ in range(columns)] for _ in range(rows)]
    for r, row in enumerate(cells):
        for c, cell in enumerate(row):
            place(m, platform, f"pe_{r}_{c}", cell)
            if r:
                m.d.comb += getattr(cell, f"{down}_in").eq(getattr(cells[r - 1][c], down))
    return cells


def connect_inputs(
    m: Module, platform: object, array: Unit, operand: Operand, cells: Sequence[Sequence[Unit]], *, wait: int = 0
) -> None:
    """Inputs enter row r after r cycles and `wait`, and move right; decoders see as many rows as hold neighbours."""
    rows = len(cells)
    together = operand.run if not operand.bounds.reach or operand.run > 1 else rows
    for first in range(0, rows, together):
        decoder = OperandDecoder(operand, together)
        place(m, platform, f"decode_x_{first}", decoder)
        select(m, decoder, array, "x_select")
        for lane in range(together):
            r = first + lane
            m.d.comb += getattr(decoder, f"code_{lane}").eq(getattr(array, f"x_{r}"))
            for part in term_shapes(operand.bounds):
                entering = delay(m, f"x_{r}_{part}", getattr(decoder, f"{part}_{lane}"), wait + r)
                chain(m, cells[r], f"x_{part}", entering)


def chain(m: Module, cells: Sequence[Unit], port: str, first: Value) -> None:
    """Each cell's input is the output of the one before."""
    for cell in cells:
        m.d.comb += getattr(cell, port).eq(first)
        first = getattr(cell, f"{port}_out")


def select(m: Module, decoder: OperandDecoder, array: Unit, name: str) -> None:
    """A decoder of several formats is told which by the array's port."""
    if decoder.operand.select_bits:
        m.d.comb += decoder.select.eq(getattr(array, name))


def delay(m: Module, name: str, value: Value, cycles: int) -> Value:
    """The value so many cycles later."""
    return stages(m, name, value, cycles)[-1]
