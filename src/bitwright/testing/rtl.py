"""Circuits in Amaranth's simulator beside the golden model. Needs amaranth: pip install 'bitwright[rtl]'."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from amaranth.lib.wiring import Component, Out
from amaranth.sim import Simulator
from jaxtyping import Float, Int, Shaped

from bitwright.datapath import lanes
from bitwright.formats import Format
from bitwright.quantization import QuantizedTensor
from bitwright.rtl.decode import bounds
from bitwright.rtl.decoder import Decoder
from bitwright.rtl.dot import DotUnit
from bitwright.rtl.plan import Plan, plan, zero_correction
from bitwright.rtl.units import VectorUnit
from bitwright.scheme import Scheme
from bitwright.testing.operands import resolve

Steps = Mapping[str, Sequence[int] | Shaped[np.ndarray, " steps"]]


def evaluate(component: Component, inputs: Steps, *, clocked: bool = False) -> dict[str, list[int]]:
    """Outputs of a component for each step of its inputs; of a clocked one before the clock's edge that ends the step.

    Inputs without values stay zero.
    """
    steps = {name: [int(v) for v in values] for name, values in inputs.items()}
    count = len(next(iter(steps.values())))
    outputs = [name for name, member in component.signature.members.items() if member.flow is Out]
    found: dict[str, list[int]] = {name: [] for name in outputs}

    async def bench(context: Any) -> None:
        for i in range(count):
            for name, values in steps.items():
                context.set(getattr(component, name), values[i])
            if not clocked:
                await context.delay(1e-9)
            for name in outputs:
                found[name].append(int(context.get(getattr(component, name))))
            if clocked:
                await context.tick()

    simulator = Simulator(component)
    if clocked:
        simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return found


def assert_decoder_equals_terms(format: Format, codes: Int[np.ndarray, "rows lanes"]) -> None:
    """The decoder's terms are `format.terms` of these rows of neighbouring codes, one by one."""
    lanes = codes.shape[1]
    found = evaluate(Decoder(format, lanes), {f"code_{lane}": codes[:, lane] for lane in range(lanes)})
    exponents, per_lane = bounds(format).exponent, bounds(format).per_lane
    keys = [(lane, t) for lane in range(lanes) for t in range(per_lane)]

    def column(kind: str) -> np.ndarray:
        return np.stack([np.asarray(found[f"{kind}_{lane}_{t}"]) for lane, t in keys], 1)

    significand, exponent = column("significand"), exponents.start + exponents.step * column("exponent")
    source = np.repeat(np.arange(lanes), per_lane) - column("back")
    golden = format.terms(codes)
    is_term = np.broadcast_to(golden.significand != 0, significand.shape)  # of nothing only the significand counts
    np.testing.assert_array_equal(significand, golden.significand)
    np.testing.assert_array_equal(exponent[is_term], np.broadcast_to(golden.exponent, is_term.shape)[is_term])
    np.testing.assert_array_equal(source[is_term], np.broadcast_to(golden.source, is_term.shape)[is_term])


@dataclass(frozen=True)
class Case:
    """Two quantized matrices and the plan of the circuits that multiply them."""

    scheme: Scheme
    plan: Plan
    x: QuantizedTensor
    w: QuantizedTensor

    @property
    def length(self) -> int:
        """Products of one inner sum."""
        return self.plan.products or self.x.k

    @property
    def tiles(self) -> int:
        return self.x.k // self.length

    def codes(self, operand: str, tile: int) -> Int[np.ndarray, "rows length"]:
        """Stored codes of one tile."""
        t = {"x": self.x, "w": self.w}[operand]
        return t.codes.reshape(len(t.codes), -1)[:, tile * self.length : (tile + 1) * self.length]

    def selects(self, steps: int) -> dict[str, list[int]]:
        """Values of the ports that name the formats."""
        chosen = {"x": (self.plan.x, self.x), "w": (self.plan.w, self.w)}
        return {
            f"{name}_select": [operand.formats.index(t.quantizer.format)] * steps
            for name, (operand, t) in chosen.items()
            if operand.select_bits
        }

    def scale_codes(self, operand: str, tile: int) -> Int[np.ndarray, " rows"] | None:
        """Stored block scales of one tile, where the circuit multiplies by them."""
        if self.plan.outer is None:
            return None
        t, format = {"x": (self.x, self.plan.outer.scale.x), "w": (self.w, self.plan.outer.scale.w)}[operand]
        if format is None:
            return None
        scale = t.quantizer.scales[-1]
        return scale.share.expand(t.scales[-1], *t.shape)[:, tile * self.length].astype(np.int64)

    def starts(self, tile: int) -> Shaped[np.ndarray, "m n"]:
        """What the registers of one tile start from: zero, or what takes the zero point off."""
        m, n = len(self.x.codes), len(self.w.codes)
        if not self.plan.has_zero_point:
            return np.zeros((m, n), object)
        assert self.x.zero_points is not None, "inputs with a zero point"
        down = self.x.quantizer.scales[0].share.expand(self.x.zero_points, *self.x.shape)[:, tile * self.length]
        w = lanes(self.w, self.length)
        weights = w.integers[:, tile].astype(object) << (w.unit - self.plan.w.bounds.exponent.start)
        return zero_correction(self.plan, down.astype(np.int64), weights)

    def sums(self, tile: int, *, read: bool = True) -> Shaped[np.ndarray, "m n"]:
        """The golden inner sums of one tile as integers, in units of 2**plan.unit."""
        x, w = (lanes(t, self.length) for t in (self.x, self.w))
        a, b = (t.integers[:, tile].astype(object) for t in (x, w))
        inner = self.scheme.datapath.inner
        if inner.format is None:
            total = a @ b.T
        else:
            total = np.zeros((len(a), len(b)), np.int64)
            for i in range(a.shape[1]):
                total = inner.add(total, (a[:, i, None] * b[None, :, i]).astype(np.int64))
            total = inner.read(total) if read else total
        return total.astype(object) << (x.unit + w.unit - self.plan.unit)


def case(scheme: Scheme, *, k: int, signed_input: bool = True, columns: int = 5, examples: bool = True) -> Case:
    """Random operands with outliers and zeros, rows of extreme values, and the weights of the scheme's examples."""
    assert scheme.input is not None, "a scheme with an input"
    generator = np.random.default_rng(0)
    x, w = (generator.standard_t(4, (count, k)) for count in (4, columns))
    for values in (x, w):
        values[0] = np.abs(values).max()
        values[1] = -values[0] * np.where(np.arange(k) % 2, 1, -1)
        values[2, ::3] = 0
    w[3] = -w[0]
    rows = [e.values for e in scheme.examples if e.operand == "weight" and k % len(e.values) == 0]
    if examples:
        w = np.concatenate([w, *(np.tile(values, k // len(values))[None] for values in rows)])
    x = x if signed_input else np.abs(x)
    x, w = x.astype(np.float32), w.astype(np.float32)
    (x_quantizer, x_ranges), (w_quantizer, w_ranges) = resolve(scheme.input, x), resolve(scheme.weight, w)
    return Case(
        scheme, plan(scheme, k=k), x_quantizer.quantize(x, x_ranges), w_quantizer.quantize(w, w_ranges)
    )  # fmt: skip


def assert_dot_unit_equals_golden(case: Case) -> None:
    """Every tile of every pair of rows: what a dot unit gives is the golden model's inner sum."""
    m, n = len(case.x.codes), len(case.w.codes)
    inputs: dict[str, list[int]] = {name: [] for i in range(case.length) for name in (f"x_{i}", f"w_{i}")}
    expected: list[int] = []
    for tile in range(case.tiles):
        x, w = case.codes("x", tile), case.codes("w", tile)
        for i in range(case.length):
            inputs[f"x_{i}"] += np.repeat(x[:, i], n).tolist()
            inputs[f"w_{i}"] += np.tile(w[:, i], m).tolist()
        expected += case.sums(tile).ravel().tolist()
        if case.plan.has_zero_point:
            inputs.setdefault("start", []).extend(case.starts(tile).ravel().tolist())
    found = evaluate(DotUnit(case.plan, case.length), inputs | case.selects(len(expected)))
    assert found["sum"] == expected


def assert_vector_unit_equals_golden(case: Case) -> None:
    """One row of results after another, tile by tile: the totals are `Datapath.matmul`'s."""
    m, n = len(case.x.codes), len(case.w.codes)
    unit = VectorUnit(case.plan, case.length)
    inputs: dict[str, list[int]] = {name: [] for name in unit.signature.members if name != "total"}
    for i in range(m):
        for j in range(n):
            for tile in range(case.tiles):
                _append(inputs, case, tile, i, j)
    inputs |= case.selects(len(inputs["first"]))
    found = evaluate(unit, {name: [*values, 0] for name, values in inputs.items()}, clocked=True)["total"]
    totals = np.asarray(found[case.tiles :: case.tiles], object).reshape(m, n)
    np.testing.assert_array_equal(values_of(case, totals), case.scheme.datapath.matmul(case.x, case.w).values)


def values_of(case: Case, totals: Shaped[np.ndarray, "m n"]) -> Float[np.ndarray, "m n"]:
    """What stands for the integers and codes that leave a circuit, times the scales shared along K."""
    outer, unit = case.plan.outer, case.plan.unit
    values = np.ldexp(totals.astype(np.float64), unit) if outer is None else outer.values(totals, unit)
    x, w = (lanes(t, case.length) for t in (case.x, case.w))
    return values * x.outside * w.outside.T


def _append(inputs: dict[str, list[int]], case: Case, tile: int, i: int, j: int) -> None:
    inputs["enable"].append(1)
    inputs["first"].append(int(tile == 0))
    if case.plan.has_zero_point:
        inputs["start"].append(int(case.starts(tile)[i, j]))
    for operand, row in (("x", i), ("w", j)):
        for lane, code in enumerate(case.codes(operand, tile)[row].tolist()):
            inputs[f"{operand}_{lane}"].append(code)
        scales = case.scale_codes(operand, tile)
        if scales is not None:
            inputs[f"{operand}_scale"].append(int(scales[row]))
