"""Sums of products of terms: generic in the bounds of both operands."""

from dataclasses import replace

from amaranth.hdl import Const, Module, Mux, Value, unsigned
from amaranth.lib.wiring import Component, In, Member, Out

from bitwright.rtl.multiply import term_product
from bitwright.rtl.plan import Plan
from bitwright.rtl.term import Term, named, term
from bitwright.rtl.unit import Unit


def lane_product(m: Module, name: str, plan: Plan, x: Term, w: Term, w_before: Term | None) -> Value:
    """One lane's product in units of 2**plan.unit; a neighbour's digit meets the neighbour's weight."""
    if len(x.back):
        before = w_before or term(Const(0, unsigned(0)))
        chosen = Mux(x.back, before.significand, w.significand)
        significand = named(m, f"{name}_met", w.significand.shape(), chosen)
        w = term(significand, Mux(x.back, before.exponent, w.exponent) if len(w.exponent) else w.exponent)
    exponents = plan.x.bounds.exponent, plan.w.bounds.exponent
    return term_product(m, name, x, w, exponents)


class DotUnit(Unit):
    """What the inner register reads after the products of all lanes, in order. Combinational.

    x_{lane}, w_{lane}   in: stored codes
    x_select, w_select   in: which of plan.x.formats, plan.w.formats they are; where there is more than one
    start                in: `zero_correction`, where inputs have a zero point
    sum                  out: in units of 2**plan.unit
    """

    def __init__(self, plan: Plan, lanes: int) -> None:
        self.plan, self.lanes = plan, lanes
        super().__init__({**code_ports(plan, lanes), "sum": Out(plan.inner.read_shape)}, plan, lanes)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.sum.eq(self.plan.inner.read(m, inner_sum(m, self.plan, self, start_of(self))))
        return m


def code_ports(plan: Plan, lanes: int) -> dict[str, Member]:
    """Ports of both operands' codes, and where sums start."""
    ports = {f"x_{lane}": In(plan.x.bits) for lane in range(lanes)}
    ports |= {f"w_{lane}": In(plan.w.bits) for lane in range(lanes)}
    ports |= select_ports(plan)
    return ports | ({"start": In(plan.inner.shape)} if plan.has_zero_point else {})


def select_ports(plan: Plan) -> dict[str, Member]:
    """Ports that name each operand's format, where there are several."""
    selects = {"x_select": plan.x.select_bits, "w_select": plan.w.select_bits}
    return {name: In(bits) for name, bits in selects.items() if bits}


def start_of(ports: Component) -> Value | None:
    """What sums start from, where that is not zero."""
    return getattr(ports, "start", None)


def inner_sum(m: Module, plan: Plan, ports: Component, held: Value | None) -> Value:
    """The inner register after the products of all lanes of `ports`, starting from `held`."""
    x, w = (_terms(m, plan, ports, name) for name in ("x", "w"))
    lanes = len(x)
    products = []
    for i in range(lanes):
        x_term, w_term, x_before, w_before = x[i], w[i], x[i - 1] if i else None, w[i - 1] if i else None
        if len(w_term.back):  # the other way round: the weight's digit meets the neighbour's input
            swapped = replace(plan, x=plan.w, w=plan.x)
            products.append(lane_product(m, f"lane_{i}", swapped, w_term, x_term, x_before))
        else:
            products.append(lane_product(m, f"lane_{i}", plan, x_term, w_term, w_before))
    register, width = plan.inner, plan.addend_width
    if register.low is None:
        return register.add(m, "inner", held, products, width)
    for i, product in enumerate(products):
        held = register.add(m, f"inner_{i}", held, [product], width)
    assert held is not None
    return held


def _terms(m: Module, plan: Plan, ports: Component, name: str) -> list[Term]:
    """Decoded lanes of one operand, in a module of their own."""
    operand = {"x": plan.x, "w": plan.w}[name]
    codes: list[Value] = []
    while hasattr(ports, f"{name}_{len(codes)}"):
        codes.append(getattr(ports, f"{name}_{len(codes)}"))
    select = getattr(ports, f"{name}_select") if operand.select_bits else Const(0, unsigned(0))
    m.submodules[f"decode_{name}"] = decoder = Module()
    return operand.terms(decoder, codes, select)
