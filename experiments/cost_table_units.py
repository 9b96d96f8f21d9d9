"""Measures one circuit of the table of cells in one library: area, period, energy, and a check of its netlist."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from cost_table_circuits import RULE, circuit, decoded, level_of, scheme_of, text_of
from cost_table_points import Point

from bitwright.cost.library import Library
from bitwright.cost.power import EnergyReport, energy_report
from bitwright.cost.simulate import Simulator, as_port
from bitwright.cost.synthesis import WIDE_SUMS, AreaReport, Flow, synthesize
from bitwright.cost.synthesis_element import CYCLES, GROUPS, ROWS, SIGMAS, element_plan, synthesize_element
from bitwright.cost.table import Row
from bitwright.cost.table_names import operand_name
from bitwright.cost.timing import analyse
from bitwright.formats import Format, Int
from bitwright.rtl.accumulate import Register
from bitwright.rtl.operand import choices
from bitwright.rtl.outer import FloatOuter
from bitwright.rtl.plan import Plan, plan
from bitwright.rtl.vector_quantizer import VectorQuantizer, quantize_vectors
from bitwright.scheme import Scheme
from bitwright.schemes.overq import Overwrite

ELEMENT_ACTIVITY = f"normal operands, full scale {SIGMAS:g} sigma, held weights, {CYCLES} cycles of {ROWS * GROUPS}"


def measure(point: Point, library: Library, cache: Path) -> Row:
    return UNITS[point.unit](point, scheme_of(point), library, cache)


def element(point: Point, scheme: Scheme, library: Library, cache: Path) -> Row:
    made = element_plan(scheme, accumulator_bits=point.bits, k=point.k, sign=point.sign)
    report = synthesize_element(made, library, rng=np.random.default_rng(0), cache=cache)
    return row(
        point, made, text_of(point), report.area, report.timing.period_ns, report.energy,
        ELEMENT_ACTIVITY, report.verdict.patterns, made.inner.bits, made.inner.low is not None,
    )  # fmt: skip


def row(
    point: Point, made: Plan, text: str, area: AreaReport, period_ns: float, energy: EnergyReport, activity: str,
    patterns: int, bits: int, saturates: bool, scales: str = "",
) -> Row:  # fmt: skip
    return Row(
        point.unit, point.scheme, operand_name(made.x.formats), operand_name(made.w.formats), bits, saturates, scales,
        point.lanes, area.library, rounded(area.area_um2), rounded(area.area_ge), area.flip_flops, rounded(period_ns),
        rounded(energy.switching_pj), rounded(energy.internal_pj), rounded(energy.clock_pj),
        rounded(energy.leakage_pj), activity, hashlib.sha256(text.encode()).hexdigest(), area.tool, patterns,
    )  # fmt: skip


def rounded(value: float) -> float:
    """To five digits: more would be noise."""
    return float(f"{value:.5g}")


def collector(point: Point, scheme: Scheme, library: Library, cache: Path) -> Row:
    made = plan(scheme, k=point.k, sign=point.sign)
    outer = made.outer
    assert outer is not None
    rng, lanes = np.random.default_rng(0), ROWS * GROUPS

    def inputs(shape: tuple[int, ...]) -> Ports:
        low, high = outer.tile_sum
        sums = np.clip(rng.normal(0, high / SIGMAS, shape), low, high)
        sums = np.vectorize(int, otypes=[object])(sums) if high >= 2**62 else sums.astype(np.int64)
        ports = {"sum": sums, "total_in": totals(shape)}
        return ports | {name: scale_codes(format, rng, shape) for name, format in scales(made).items()}

    def totals(shape: tuple[int, ...]) -> np.ndarray:
        if isinstance(outer, FloatOuter):
            return as_float_codes(rng.normal(0, outer.tile_sum[1] * 2.0**outer.unit, shape))
        return rng.integers(*span(outer.register), shape, endpoint=True)

    def expected(ports: Ports) -> Ports:
        if isinstance(outer, FloatOuter):
            held = ports["total_in"].astype(np.uint32).view(np.float32)
            tile_sum = np.ldexp(ports["sum"].astype(float), outer.unit)
            return {"total": as_float_codes(held + scaled(made, ports, tile_sum).astype(np.float32))}
        scale = np.ones_like(ports["sum"])
        for name, format in scales(made).items():
            scale = scale * format.decode(ports[name]).astype(np.int64)
        if outer.scale.format is not None:
            scale = outer.scale.format.encode(np.ldexp(scale, outer.scale.exponent), outer.scale.rounding)
        total, register = ports["total_in"] + ports["sum"] * scale, outer.register
        if register.low is not None:
            return {"total": np.clip(total, register.low, register.high)}
        return {"total": as_port(total, register.bits, register.is_signed)}

    return one(point, made, library, cache, inputs, expected, outer.register.bits, Held(lanes), latency=outer.latency,
               saturates=getattr(outer.register, "low", None) is not None, scales=scale_names(made))  # fmt: skip


def decoder(point: Point, scheme: Scheme, library: Library, cache: Path) -> Row:
    """Of one row of inputs, of as many as hold neighbours, or of one column's weights."""
    made = plan(scheme, k=point.k, sign=point.sign)
    operand = decoded(point, made)
    rng = np.random.default_rng(0)

    def inputs(shape: tuple[int, ...]) -> Ports:
        which = rng.integers(0, len(operand.formats), shape)
        codes = np.zeros((*shape, point.lanes), np.int64)
        for i, format in enumerate(operand.formats):
            codes = np.where(which[..., None] == i, codes_of(format, rng, (*shape, point.lanes)), codes)
        ports = {f"code_{lane}": codes[..., lane] for lane in range(point.lanes)}
        return ports | ({"select": which} if operand.select_bits else {})

    def expected(ports: Ports) -> Ports:
        codes = np.stack([ports[f"code_{lane}"] for lane in range(point.lanes)], -1)
        which = ports.get("select", np.zeros(codes.shape[:-1], int))[..., None]
        found = [format.terms(codes & (2**format.bits - 1)) for format in operand.formats]
        values, backs = np.zeros(codes.shape), np.zeros(codes.shape, int)
        for i, (significand, exponent, source) in enumerate(found):
            values = np.where(which == i, np.ldexp(significand, exponent), values)
            backs = np.where(which == i, np.arange(point.lanes) - source, backs)
        return {"values": values, "backs": np.where(values != 0, backs, 0)}

    def read(outputs: Ports) -> Ports:
        parts = {}
        for part in ("significand", "exponent", "back"):
            columns = [outputs.get(f"{part}_{lane}") for lane in range(point.lanes)]
            shape = outputs["significand_0"].shape
            parts[part] = np.stack([np.zeros(shape, int) if c is None else c for c in columns], -1)
        exponents = np.asarray(operand.bounds.exponent)[parts["exponent"]]
        values = np.ldexp(parts["significand"].astype(float), exponents)
        return {"values": values, "backs": np.where(values != 0, parts["back"], 0)}

    shown = replace(made, x=operand, w=operand)
    found = one(point, shown, library, cache, inputs, expected, 0, Held(ROWS * GROUPS), read)
    return replace(found, w="")


def encoder(point: Point, scheme: Scheme, library: Library, cache: Path) -> Row:
    """Of levels that a requantizer made; VS-Quant's finds its vectors' scales too."""
    rng, quantizer = np.random.default_rng(0), choices(scheme.input, point.sign)[0]
    made, format = plan(scheme, k=point.k, sign=point.sign), quantizer.format
    unit, is_signed = circuit(point), format.bounds().lowest < 0
    if isinstance(unit, VectorQuantizer):
        level, factor = Int(16), RULE.fixed_point(1 / (format.full_scale * 2**8))

        def expected(ports: Ports) -> Ports:
            x = np.stack([ports[f"x_{lane}"] for lane in range(point.lanes)], -1)
            codes, scale = quantize_vectors(quantizer, RULE, factor, x.reshape(-1, point.lanes))
            lanes = {f"code_{lane}": codes[:, lane].reshape(x.shape[:-1]) for lane in range(point.lanes)}
            return lanes | {"scale": scale.reshape(x.shape[:-1])}
    else:
        level = level_of(format)

        def expected(ports: Ports) -> Ports:
            levels = np.stack([ports[f"level_{lane}"] for lane in range(point.lanes)], -1)
            rounding = {} if isinstance(format, Overwrite) else {"rounding": unit.rounding}
            codes = format.encode(np.ldexp(levels.astype(float), level.exponent), **rounding)
            return {f"code_{lane}": codes[..., lane] for lane in range(point.lanes)}

    def inputs(shape: tuple[int, ...]) -> Ports:
        scale = (
            level.range[1] / 4
            if isinstance(format, Int | Overwrite)
            else format.full_scale / 2.0**level.exponent / SIGMAS
        )
        drawn = rng.normal(0, scale, (*shape, point.lanes))
        found = np.clip(drawn if is_signed else np.maximum(drawn, 0), *level.range).astype(np.int64)
        name = "x" if isinstance(unit, VectorQuantizer) else "level"
        ports = {f"{name}_{lane}": found[..., lane] for lane in range(point.lanes)}
        if isinstance(unit, VectorQuantizer):
            fixed = {"multiplier": factor.multiplier, "shift": factor.shift - unit.requantizer.shifts.start}
            ports |= {name: np.full(shape, value) for name, value in fixed.items()}
        return ports

    def read(outputs: Ports) -> Ports:
        masks = {name: 2**bits - 1 for name, bits in (("code", format.bits), ("scale", 63))}
        return {name: values & masks[name.partition("_")[0]] for name, values in outputs.items()}

    work = Held(ROWS * GROUPS // point.lanes)
    found = one(point, made, library, cache, inputs, expected, level.bits, work, read)
    return replace(found, x=operand_name([format]), w="")


def requantizer(point: Point, scheme: Scheme, library: Library, cache: Path) -> Row:
    """Sums to integers by a fixed-point factor of 16 bits."""
    output, rng = choices(scheme.input, point.sign)[0].format, np.random.default_rng(0)
    made, high = plan(scheme, k=point.k, sign=point.sign), 2 ** (point.bits - 1)
    unit, factor = circuit(point), RULE.fixed_point(2.0 ** (output.bits - point.bits))

    def inputs(shape: tuple[int, ...]) -> Ports:
        sums = np.clip(rng.normal(0, high / SIGMAS, shape), -high, high - 1).astype(np.int64)
        fixed = {"multiplier": factor.multiplier, "shift": factor.shift - unit.shifts.start, "zero_point": 0}
        return {"accumulator": sums} | {name: np.full(shape, value) for name, value in fixed.items()}

    def expected(ports: Ports) -> Ports:
        return {"result": RULE.apply(ports["accumulator"], factor, output) & (2**output.bits - 1)}

    found = one(point, made, library, cache, inputs, expected, point.bits, Held(ROWS * GROUPS))
    return replace(found, x=operand_name([output]), w="")


def fold(point: Point, scheme: Scheme, library: Library, cache: Path) -> Row:
    """What sums are read through."""
    made, readout, rng = (
        plan(scheme, k=point.k, sign=point.sign),
        scheme.datapath.inner.readout,
        np.random.default_rng(0),
    )
    half = 2 ** (made.inner.bits - 1)

    def inputs(shape: tuple[int, ...]) -> Ports:
        return {"sum": np.clip(rng.normal(0, half / SIGMAS, shape), -half, half - 1).astype(np.int64)}

    def expected(ports: Ports) -> Ports:
        return {"result": readout.fold(ports["sum"], half)}

    found = one(point, made, library, cache, inputs, expected, made.inner.bits,
                Held(ROWS * GROUPS), scales=str(readout.slope))  # fmt: skip
    return replace(found, x="", w="")


def vector(point: Point, scheme: Scheme, library: Library, cache: Path) -> Row:
    """Checked from an empty register; driven with held weights, sums of `k` products."""
    made = plan(scheme, k=point.k, sign=point.sign)
    rng = np.random.default_rng(0)
    formats, w_format = made.x.formats, made.w.formats[0]

    def inputs(shape: tuple[int, ...]) -> Ports:
        which = (
            rng.integers(0, len(formats), shape) if shape[0] == 1 else np.zeros(shape, int)
        )  # all when it is checked
        sizes = (*shape, point.lanes), (1, *shape[1:], point.lanes)
        x, w = codes_of(formats[0], rng, sizes[0]), codes_of(w_format, rng, sizes[1])
        for i, format in enumerate(formats[1:], 1):
            x = np.where(which[..., None] == i, codes_of(format, rng, sizes[0]), x)
        first = np.zeros(shape, int)
        first[:: made.k // point.lanes] = 1
        ports = {"enable": np.ones(shape, int), "first": first} | ({"x_select": which} if len(formats) > 1 else {})
        for name, values in (("x", x), ("w", np.broadcast_to(w, x.shape))):
            ports |= {f"{name}_{lane}": values[..., lane] for lane in range(point.lanes)}
        drawn = {name: (format, shape if name[0] == "x" else (1, *shape[1:])) for name, format in scales(made).items()}
        found = {name: scale_codes(f, rng, size) for name, (f, size) in drawn.items()}
        return ports | {name: np.broadcast_to(values, shape) for name, values in found.items()}

    def expected(ports: Ports) -> Ports:
        x, w = (np.stack([ports[f"{name}_{lane}"] for lane in range(point.lanes)], -1) for name in "xw")
        which, values = ports.get("x_select", np.zeros(x.shape[:-1], int))[..., None], np.zeros(x.shape)
        for i, format in enumerate(formats):
            values = np.where(which == i, format.decode(np.where(which == i, x, 0)), values)
        total = scaled(made, ports, (values * w_format.decode(w)).sum(-1))
        if isinstance(made.outer, FloatOuter):
            return {"total": as_float_codes(total)}
        return {"total": np.ldexp(total, -made.unit).astype(np.int64)}

    register = made.inner if made.outer is None else made.outer.register
    return one(point, made, library, cache, inputs, expected, register.bits, Held(32), flow=WIDE_SUMS,
               scales=scale_names(made))  # fmt: skip


def pairs(point: Point, scheme: Scheme, library: Library, cache: Path) -> Row:
    """A group of weights against its inputs, the recoders of all lanes included, in as many cycles as its bound."""
    x, w = (choices(q, point.sign)[0].format for q in (scheme.input, scheme.weight))
    made, rng = plan(scheme, k=point.k, sign=point.sign), np.random.default_rng(0)
    unit = circuit(point)
    steps, groups, runs = w.budget * x.budget + 1, 8, 32
    codes = {"x": codes_of(x, rng, (groups, runs, point.lanes)), "w": codes_of(w, rng, (1, runs, point.lanes))}
    load = np.zeros((groups, steps), int)
    load[:, 0] = 1
    work = {"load": np.repeat(load.reshape(-1, 1), runs, 1)}
    work["first"] = work["load"]
    for name, values in codes.items():
        held = np.repeat(np.broadcast_to(values, (groups, runs, point.lanes)), steps, axis=0)
        work |= {f"{name}_{lane}": held[..., lane] for lane in range(point.lanes)}
    text = text_of(point)
    synthesis = synthesize(text, library, cache=cache)
    trace = Simulator(synthesis.netlist, library.cells).run(work)
    wanted = (x.decode(codes["x"]) * w.decode(codes["w"])).sum(-1)
    ended = {name: trace.outputs[name].reshape(groups, steps, runs)[1:, 0] for name in ("total", "busy")}
    assert not ended["busy"].any(), "a group takes more cycles than its bound"
    np.testing.assert_array_equal(ended["total"], wanted[:-1])
    energy = energy_report(synthesis.netlist, library, trace)
    said = f"normal operands, full scale {SIGMAS:g} sigma, {steps} cycles a group"
    period = analyse(synthesis.netlist, library).period_ns
    return replace(
        row(point, made, text, synthesis.report, period, energy, said, ended["total"].size, unit.sum.bits, False),
        x=operand_name([x]), w=operand_name([w]),
    )  # fmt: skip


Ports = dict[str, np.ndarray]


@dataclass(frozen=True)
class Held:
    """How many units are driven side by side."""

    lanes: int


def one(
    point: Point, made: Plan, library: Library, cache: Path, inputs: Callable[[tuple[int, ...]], Ports],
    expected: Callable[[Ports], Ports], bits: int, work: Held, read: Callable[[Ports], Ports] = dict, *,
    flow: Flow = Flow(), latency: int = 1, saturates: bool = False, scales: str = "",
) -> Row:  # fmt: skip
    """Mapped, compared on 2**14 random cases after `latency` cycles, driven for as many cycles as an element."""
    text = text_of(point)
    synthesis = synthesize(text, library, flow, cache=cache)
    simulator = Simulator(synthesis.netlist, library.cells)
    cases = inputs((1, 2**14))
    if "first" in cases:
        cases["first"] = np.ones_like(cases["first"])
    found = read(simulator.run({name: np.repeat(v, latency + 1, axis=0) for name, v in cases.items()}).outputs)
    for name, values in expected(cases).items():
        np.testing.assert_array_equal(found[name][-1], values[0], err_msg=name)
    energy = energy_report(synthesis.netlist, library, simulator.run(inputs((CYCLES, work.lanes))))
    said = f"normal operands, full scale {SIGMAS:g} sigma, {CYCLES} cycles of {work.lanes}"
    said += {"vector": ", held weights", "collector": ", uniform totals"}.get(point.unit, "")
    period = analyse(synthesis.netlist, library).period_ns
    return row(point, made, text, synthesis.report, period, energy, said, 2**14, bits, saturates, scales)


def codes_of(format: Format, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Normal levels in a format; unsigned ones are zero half of the time."""
    levels = rng.normal(0, format.full_scale / SIGMAS, shape)
    return format.encode(levels if format.bounds().lowest < 0 else np.maximum(levels, 0.0))


def scale_codes(format: Format, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Any but zero of an integer scale; of a float one those around one."""
    if isinstance(format, Int):
        return rng.integers(1, 2**format.bits, shape)
    return format.encode(np.exp2(rng.normal(0, 2, shape)))


def scaled(made: Plan, ports: Ports, tile_sum: np.ndarray) -> np.ndarray:
    """Times the scales at the ports."""
    for name, format in scales(made).items():
        tile_sum = tile_sum * format.decode(ports[name])
    return tile_sum


def as_float_codes(values: np.ndarray) -> np.ndarray:
    """Of float32, which numbers round to."""
    return values.astype(np.float32).view(np.uint32).astype(np.int64)


def scales(made: Plan) -> dict[str, Format]:
    """Formats of the block scales by port."""
    found = {} if made.outer is None else {"x_scale": made.outer.scale.x, "w_scale": made.outer.scale.w}
    return {port: format for port, format in found.items() if format is not None}


def scale_names(made: Plan) -> str:
    """As `cost.cells_for` asks for them."""
    if made.outer is None:
        return ""
    product = made.outer.scale.format
    both = [operand_name([f]) if f is not None else "1" for f in (made.outer.scale.x, made.outer.scale.w)]
    return "*".join(both) + (f">{operand_name([product])}" if product is not None else "")


def span(register: Register) -> tuple[int, int]:
    return -(2 ** (register.bits - 1)), 2 ** (register.bits - 1) - 1


UNITS: dict[str, Callable[[Point, Scheme, Library, Path], Row]] = {
    "element": element, "collector": collector, "decoder": decoder, "encoder": encoder, "requantizer": requantizer,
    "fold": fold, "vector": vector, "pairs": pairs,
}  # fmt: skip
