"""The units that a scheme's hardware is made of, each from the same plan: multiplier cell, vector unit, collector."""

from math import lcm

from amaranth.hdl import Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib.wiring import Component, In, Member, Out

from bitwright.rtl.accumulate import Register
from bitwright.rtl.dot import DotUnit, code_ports, inner_sum, lane_product, start_of
from bitwright.rtl.float_register import a_cycle_later
from bitwright.rtl.operand import Sign
from bitwright.rtl.plan import LONGEST, Plan, plan
from bitwright.rtl.term import Term, term_shapes
from bitwright.rtl.unit import Unit
from bitwright.scheme import Scheme


def processing_element(scheme: Scheme, *, k: int = LONGEST, sign: Sign = Sign.BOTH) -> "ProcessingElement":
    """The cell of a weight-stationary array for a scheme, decoders at the array's edge."""
    return ProcessingElement(plan(scheme, k=k, sign=sign).elementwise())


def dot_unit(scheme: Scheme, lanes: int, *, k: int | None = None, sign: Sign = Sign.BOTH) -> DotUnit:
    """Decoders, multipliers and adders of one dot product."""
    return DotUnit(plan(scheme, k=k or lanes, sign=sign), lanes)


def vector_unit(scheme: Scheme, lanes: int | None = None, *, k: int = LONGEST, sign: Sign = Sign.BOTH) -> "VectorUnit":
    """A dot unit with its accumulators; lanes None takes the block of the scheme, or 16 and more."""
    made = plan(scheme, k=k, sign=sign)
    return VectorUnit(made, lanes or VectorUnit.lanes_for(made))


def term_of(component: Component, prefix: str) -> Term:
    """The term that a component's ports of this prefix carry."""
    nothing = Const(0, unsigned(0))
    return Term(*(getattr(component, f"{prefix}_{part}", nothing) for part in Term._fields))


def term_ports(plan: Plan) -> dict[str, Member]:
    """Terms of both operands, in and out again to the next element of an array."""
    ports: dict[str, Member] = {}
    for operand, bounds in (("x", plan.x.bounds), ("w", plan.w.bounds)):
        for part, shape in term_shapes(bounds).items():
            ports |= {f"{operand}_{part}": In(shape), f"{operand}_{part}_out": Out(shape)}
    return ports


class ProcessingElement(Unit):
    """A multiplier with its weight, of a weight-stationary array. Latency 1: sum and input move on at each clock.

    load                      in: take the weight from above
    w_{part}                  in: weight of the element above, or of the array's edge
    w_{part}_out              out: the weight held here; a digit of the lane before meets it in the element below
    x_{part}, x_{part}_out    in, out: input term from the left, to the right
    sum_in, sum               in, out: inner register from above, to below, in units of 2**plan.unit

    `part` is significand, exponent or back, where the formats need it.
    """

    is_clocked = True

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        ports = {"load": In(1), "sum_in": In(plan.inner.shape), "sum": Out(plan.inner.shape)}
        ports |= term_ports(plan)
        super().__init__(ports, plan)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for part in term_shapes(self.plan.x.bounds):
            m.d.sync += getattr(self, f"x_{part}_out").eq(getattr(self, f"x_{part}"))
        weight = []
        for part, shape in term_shapes(self.plan.w.bounds).items():
            held = Signal(shape, name=f"weight_{part}")
            with m.If(self.load):
                m.d.sync += held.eq(getattr(self, f"w_{part}"))
            m.d.comb += getattr(self, f"w_{part}_out").eq(held)
            weight.append(held)
        nothing = Const(0, unsigned(0))
        own = Term(weight[0], weight[1] if len(weight) > 1 else nothing, nothing)
        above = term_of(self, "w")
        product = lane_product(m, "lane", self.plan, term_of(self, "x"), own, above)
        after = self.plan.inner.add(m, "after", self.sum_in, [product], self.plan.addend_width)
        m.d.sync += self.sum.eq(after)
        return m


class VectorUnit(Unit):
    """A dot unit and its accumulator: one step of `lanes` products a clock. Latency 1.

    x_{lane}, w_{lane}   in: stored codes; x_select, w_select: their formats, where there is more than one
    x_scale, w_scale     in: codes of the block scales, where operands have them
    enable, first        in: take this step; start from zero, or from `start`
    start                in: `zero_correction` of a whole sum, or of each tile; where inputs have a zero point
    total                out: outer register, where there is one: in units of 2**(unit + scale unit), or a float's code;
                         else what the inner one reads in units of 2**unit
    """

    is_clocked = True

    def __init__(self, plan: Plan, lanes: int) -> None:
        if plan.products is not None and lanes != plan.products:
            raise ValueError(
                f"the scheme sums blocks of {plan.products} products, {lanes} lanes found; they must agree"
            )
        run = max(plan.w.run, plan.x.run)
        if lanes % run and lanes < plan.k:
            raise ValueError(f"the formats look at {run} neighbours, {lanes} lanes found; choose a multiple")
        self.plan, self.lanes = plan, lanes
        ports = {**code_ports(plan, lanes), "enable": In(1), "first": In(1)}
        outer = plan.outer
        if outer is not None:
            scales = {"x_scale": outer.scale.x, "w_scale": outer.scale.w}
            ports |= {name: In(format.bits) for name, format in scales.items() if format is not None}
        ports["total"] = Out(plan.inner.read_shape if outer is None else outer.register.shape)
        super().__init__(ports, plan, lanes)

    @staticmethod
    def lanes_for(plan: Plan) -> int:
        """Lanes of a whole block, or of sixteen products and the neighbours that formats look at."""
        return plan.products or lcm(plan.x.run, plan.w.run, 16)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        made = self.plan
        register = made.inner if made.outer is None else made.outer.register
        held = Signal(register.shape, name="held")
        zero = start_of(self)
        start = Mux(self.first, 0 if zero is None or made.outer is not None else zero, held)
        start = start.as_signed() if register.is_signed else start
        if made.outer is None:
            after = inner_sum(m, made, self, start if made.products is None else zero)
            m.d.comb += self.total.eq(made.inner.read(m, held))
        else:
            tile_sum = made.inner.read(m, inner_sum(m, made, self, zero))
            after = made.outer.add(m, start, tile_sum, scale_codes(self))
            m.d.comb += self.total.eq(held)
        with m.If(self.enable):
            m.d.sync += held.eq(after)
        return m


class Readout(Unit):
    """What a register's readout makes of a complete sum, as `Cyclic.fold`. Combinational.

    sum      in: the inner register
    result   out: what is read, in the same units
    """

    def __init__(self, register: Register) -> None:
        self.register = register
        super().__init__({"sum": In(register.shape), "result": Out(register.read_shape)}, register)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.result.eq(self.register.read(m, self.sum))
        return m


def scale_codes(ports: Component) -> tuple[Value | None, Value | None]:
    """Codes of the block scales of x and w at a component's ports."""
    return getattr(ports, "x_scale", None), getattr(ports, "w_scale", None)


class Collector(Unit):
    """Scales a tile sum and adds it to the outer register, which is kept outside. Latency 1; 4 of a float register.

    sum                in: inner register of one tile, in units of 2**plan.unit
    x_scale, w_scale   in: codes of the block scales
    total_in, total    in, out: outer register before and after: in units of 2**(unit + scale unit), or a float's code.
                       A float's `total_in` is given two cycles after the sum
    """

    is_clocked = True

    def __init__(self, plan: Plan) -> None:
        assert plan.outer is not None, "a scheme with an outer register"
        self.plan = plan
        outer = plan.outer
        scales = {"x_scale": outer.scale.x, "w_scale": outer.scale.w}
        ports = {name: In(format.bits) for name, format in scales.items() if format is not None}
        shape = outer.register.shape
        super().__init__({**ports, "sum": In(plan.inner.shape), "total_in": In(shape), "total": Out(shape)}, plan)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        assert self.plan.outer is not None
        tile_sum = self.plan.inner.read(m, self.sum)
        after = self.plan.outer.add(m, self.total_in, tile_sum, scale_codes(self), a_cycle_later)
        m.d.sync += self.total.eq(after)
        return m
