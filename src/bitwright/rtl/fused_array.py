"""A weight-stationary array of narrow typed multipliers, in which wide integers take two rows, two columns or both.

C. Guo et al., MICRO 2022: ANT's array for 4- and 8-bit layers. A wide input takes two neighbouring rows, a wide weight
two neighbouring columns, low half first: the high half's exponent puts its products in place, rows add up in their
column as they always do, and one adder below each pair of columns adds the halves of a weight.
"""

from amaranth.hdl import Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib.wiring import In, Out

from bitwright.formats import Format
from bitwright.rtl.accumulate import Register
from bitwright.rtl.decoder import OperandDecoder
from bitwright.rtl.plan import Plan
from bitwright.rtl.systolic import chain, delay, grid
from bitwright.rtl.term import named, term_shapes
from bitwright.rtl.type_fusion import FusedOperand, is_wide, sum_bits
from bitwright.rtl.unit import Unit, place
from bitwright.rtl.units import ProcessingElement


class FusedArray(Unit):
    """rows × columns narrow multipliers that keep their weights; both are even.

    load                in: shift weights down by one row; `rows` cycles fill the array, its last row's first
    w_{c}               in: weight code of column c. Wide weights of output j: low half at c = 2j, high half at 2j + 1.
                        With wide inputs both rows of an input hold the same weights
    valid               in: x is a vector
    x_{r}               in: input code of row r. Wide inputs, element i: low half at r = 2i, high half at 2i + 1
    x_select, w_select  in: formats, by position in those that it was made from; w_select while `load` is high
    sum_in_{c}          in: where the sum of column c starts: zero, or what an earlier fold along K left. Wide weights
                        of output j: at c = 2j, and zero at 2j + 1
    sum_valid           out: the sums of a vector leave now
    sum_{c}             out: the sum of column c, of wide weights that of output j at c = 2j; in units of 2**unit

    Latency: the sums of a vector leave rows + columns - 1 cycles after it. Sums of up to k products fit.
    """

    is_clocked = True

    def __init__(self, x: tuple[Format, ...], w: tuple[Format, ...], k: int, rows: int, columns: int) -> None:
        if rows < 2 or columns < 2 or rows % 2 or columns % 2:
            raise ValueError(f"a fused array of {rows} rows and {columns} columns found; both are even, and at least 2")
        self.x, self.w, self.rows, self.columns = FusedOperand(x), FusedOperand(w), rows, columns
        register = Register(sum_bits(x, w, k))
        outside = "multiply each sum by 2**unit and the scales of its row and column"
        self.plan = Plan(self.x.operand, self.w.operand, None, k, register, None, outside)
        ports = {"load": In(1), "valid": In(1), "sum_valid": Out(1)}
        ports |= {f"x_{r}": In(unsigned(self.x.bits)) for r in range(rows)}
        for c in range(columns):
            ports |= {f"w_{c}": In(unsigned(self.w.bits))}
            ports |= {f"sum_in_{c}": In(register.shape), f"sum_{c}": Out(register.shape)}
        selects = {"x_select": self.x.select_bits, "w_select": self.w.select_bits}
        ports |= {name: In(unsigned(bits)) for name, bits in selects.items() if bits}
        super().__init__(ports, x, w, k, rows, columns)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        cells = grid(m, platform, lambda: ProcessingElement(self.plan), self.rows, self.columns)
        m.d.comb += [cell.load.eq(self.load) for row in cells for cell in row]
        for r, row in enumerate(cells):
            decoder = self._decoder(m, platform, "x", self.x, r)
            for part in term_shapes(self.plan.x.bounds):
                chain(m, row, f"x_{part}", delay(m, f"x_{r}_{part}", getattr(decoder, f"{part}_0"), r))
        for c in range(self.columns):
            decoder = self._decoder(m, platform, "w", self.w, c)
            for part in term_shapes(self.plan.w.bounds):
                chain(m, [row[c] for row in cells], f"w_{part}", getattr(decoder, f"{part}_0"))
        m.d.comb += self.sum_valid.eq(delay(m, "valid", self.valid, self.rows + self.columns - 1))
        self._connect_sums(m, cells)
        return m

    def _decoder(self, m: Module, platform: object, name: str, side: FusedOperand, i: int) -> OperandDecoder:
        """Of one row or column: odd ones take the high half of what is wide."""
        decoder = OperandDecoder(side.operand, 1)
        place(m, platform, f"decode_{name}_{i}", decoder)
        m.d.comb += decoder.code_0.eq(getattr(self, f"{name}_{i}"))
        if side.operand.select_bits:
            with m.Switch(self._select(name)):
                for select in range(len(side.formats)):
                    with m.Case(select):
                        m.d.comb += decoder.select.eq(side.position(select, i % 2 == 1))
        return decoder

    def _connect_sums(self, m: Module, cells: list[list[ProcessingElement]]) -> None:
        has_wide = Signal(name="holds_wide_weights")
        with m.If(self.load):
            m.d.sync += has_wide.eq(is_wide(self.w, self._select("w")))
        bottoms: list[Value] = []
        for c in range(self.columns):
            m.d.comb += cells[0][c].sum_in.eq(delay(m, f"sum_in_{c}", getattr(self, f"sum_in_{c}"), c))
            bottoms.append(delay(m, f"sum_{c}", cells[-1][c].sum, self.columns - 1 - c))
        for c, bottom in enumerate(bottoms):
            other = Mux(has_wide, bottoms[c + 1], 0) if c % 2 == 0 else Const(0, 1)
            both = named(m, f"both_{c}", self.plan.inner.shape, bottom + other) if c % 2 == 0 else bottom
            m.d.comb += getattr(self, f"sum_{c}").eq(both)

    def _select(self, name: str) -> Value:
        return getattr(self, f"{name}_select", Const(0, unsigned(0)))
