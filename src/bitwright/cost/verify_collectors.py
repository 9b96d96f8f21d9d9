"""Collectors with a float register as gates: narrow ones on all inputs, those of the catalogue on a million.

A solver comes to no end with them.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from amaranth.hdl import Shape
from jaxtyping import Bool
from jaxtyping import Float as Floats
from jaxtyping import Int as Ints

from bitwright.config import from_text
from bitwright.cost.cells import generic_library
from bitwright.cost.formal_units import Columns, all_columns, canonical
from bitwright.cost.simulate import Simulator
from bitwright.cost.synthesis import synthesize
from bitwright.cost.verify_proofs import Finding
from bitwright.datapath import Accumulator, Datapath
from bitwright.formats import E4M3, E5M2, E8M0, FLOAT32, Format, Int, Minifloat, Rounding
from bitwright.quantization import PerBlock, Quantizer, Scale
from bitwright.rtl.operand import Sign
from bitwright.rtl.outer import FloatOuter
from bitwright.rtl.plan import plan
from bitwright.rtl.units import Collector
from bitwright.rtl.verilog import digest, rtlil
from bitwright.scheme import Scheme

OUTERS = {
    "E4M3": Accumulator(E4M3), "E5M2": Accumulator(E5M2), "E3M2": Accumulator(Minifloat(3, 2)),
    "E3M2, truncated": Accumulator(Minifloat(3, 2), rounding=Rounding.TOWARD_ZERO),
}  # fmt: skip
"""Float registers behind tiles of two 2-bit products, whose scales are floats of three bits."""

DRAWN = ("mxfp4()", "mxfp6()", "mxfp6(element=E3M2)", "mxfp8()", "mxint8()", "nvfp4()")
"""Schemes whose collectors, of FLOAT32, are tried on `CASES` inputs."""

CASES = 2**20
Cases = tuple[Columns, Ints[np.ndarray, " rows"], Bool[np.ndarray, " rows"]]
"""Inputs of a collector, the codes that `Accumulator` gives, and which inputs occur."""


def try_collectors(*, cache: Path | None = None) -> Iterator[Finding]:
    """All of them."""
    for name, unit in collectors().items():
        is_long = float_outer(unit).register.format == FLOAT32
        yield tried(name, unit, drawn_cases(unit) if is_long else all_cases(unit), cache=cache)


def collectors() -> dict[str, Collector]:
    """By what a certificate calls them."""
    narrow = {f"collector of a float register of {name}, two scales of unsigned E2M1": collector(outer)
              for name, outer in OUTERS.items()}  # fmt: skip
    return narrow | {f"collector of {text}": Collector(plan(_scheme(text), sign=Sign.SIGNED)) for text in DRAWN}


def collector(outer: Accumulator) -> Collector:
    """Of tiles of two 2-bit products with scales of three bits."""
    scaled = Quantizer(Int(2), (Scale(PerBlock(2), Minifloat(2, 1, signed=False)),))
    return Collector(plan(Scheme(scaled, scaled, Datapath(outer=outer)), k=16, sign=Sign.SIGNED))


def tried(name: str, unit: Collector, cases: Cases, *, cache: Path | None = None) -> Finding:
    """Inputs that occur, side by side."""
    text = rtlil(unit, "collector")
    columns, wanted, valid = cases
    library = generic_library()
    simulator = Simulator(synthesize(text, library, cache=cache).netlist, library.cells)
    held = float_outer(unit).latency + 1  # cycles
    totals = simulator.run({port: np.stack([values] * held) for port, values in columns.items()}).outputs["total"][-1]
    (wrong,) = np.nonzero(valid & (totals != wanted))
    counterexample = None
    if len(wrong):
        case = ", ".join(f"{port}={values[wrong[0]]}" for port, values in columns.items())
        counterexample = f"{case}: total is {totals[wrong[0]]}, the accumulator says {wanted[wrong[0]]}"
    return Finding(name, digest(text), f"mapped to {library.name}", int(valid.sum()), counterexample)


def float_outer(unit: Collector) -> FloatOuter:
    """ValueError of an integer one."""
    if not isinstance(unit.plan.outer, FloatOuter):
        raise ValueError("an integer register found; the specification is of floats")
    return unit.plan.outer


def all_cases(unit: Collector) -> Cases:
    """Every input of a register without infinities."""
    outer = float_outer(unit)
    if outer.register.infinity is not None:
        raise ValueError("a register with infinities found; the specification of all inputs is of other floats")
    scales = _scales(outer)
    shapes = {name: Shape(format.bits) for name, format in scales.items()}
    columns, valid = all_columns({**shapes, "sum": unit.plan.inner.shape, "total_in": outer.register.shape})
    low, high = outer.tile_sum
    valid &= (columns["sum"] >= low) & (columns["sum"] <= high)
    for name, format in scales.items():
        is_number = np.asarray(~format.is_reserved(columns[name]))
        factor = format.decode(np.where(is_number, columns[name], 0))
        valid &= is_number & (format.encode(np.abs(factor)) == columns[name])  # no sign
    register, held = outer.register.format, columns["total_in"]
    is_number = np.asarray(~register.is_reserved(held))
    total = register.decode(np.where(is_number, held, 0))
    valid &= is_number & ~((total == 0) & (held != 0))  # zero is never negative in a register
    return columns, canonical(register, _after(outer, columns, total, valid)), valid


def drawn_cases(unit: Collector, count: int = CASES) -> Cases:
    """Random inputs of a FLOAT32 register: sums of all sizes, half of the totals nearly cancel what is added."""
    outer, rng = float_outer(unit), np.random.default_rng(0)
    low, high = outer.tile_sum
    sums = rng.integers(0, high, count, endpoint=True) >> rng.integers(0, high.bit_length(), count, endpoint=True)
    sums = np.maximum(np.where(rng.random(count) < 0.5, -sums, sums), low)
    sums[:3] = [0, low, high]
    codes = {
        name: rng.integers(0, 2 ** (f.bits - (f.bounds().lowest < 0)), count) for name, f in _scales(outer).items()
    }
    if _scales(outer).get("x_scale") == E8M0:  # sums of all sizes, subnormal ones and infinity among them
        codes["w_scale"] = np.clip(254 - codes["x_scale"] + rng.integers(-170, 150, count), 0, 254)
    codes = {name: np.where(_scales(outer)[name].is_reserved(values), 0, values) for name, values in codes.items()}
    columns = {"sum": sums, **codes}
    every = np.ones(count, bool)
    with np.errstate(over="ignore", invalid="ignore"):
        added = _after(outer, columns, np.zeros(count), every)
        near = -added * (1 + 2.0 ** -rng.integers(1, 24, count))
        other = rng.integers(0, 2**32, count, dtype=np.uint32).view(np.float32)
        if outer.register.infinity is None:  # no sum of the tiles that there are leaves the finite
            other = rng.normal(0, np.abs(added).max(), count) * 2.0 ** -rng.integers(0, 60, count)
        total = np.where(rng.random(count) < 0.5, near, np.where(np.isnan(other), 0, other)).astype(np.float32) + 0
        if outer.register.infinity is not None:
            total[3:7] = [np.inf, -np.inf, FLOAT32.full_scale, -FLOAT32.full_scale]
        after = _after(outer, columns, total.astype(np.float64), every).astype(np.float32)
    no_number = np.uint32(0x7FC00000)
    wanted = np.where(np.isnan(after), no_number, (after + 0.0).view(np.uint32))
    return columns | {"total_in": total.view(np.uint32).astype(np.int64)}, wanted.astype(np.int64), every


def _after(
    outer: FloatOuter, columns: Columns, total: Floats[np.ndarray, " rows"], valid: Bool[np.ndarray, " rows"]
) -> Floats[np.ndarray, " rows"]:
    """The register after each case, as `Datapath` defines it."""
    product = np.ones(len(total))
    for name, format in _scales(outer).items():
        product = product * format.decode(np.where(format.is_reserved(columns[name]), 0, columns[name]))
    tile = np.where(valid, np.ldexp(columns["sum"].astype(np.float64), outer.unit) * product, 0.0)
    accumulator = Accumulator(outer.register.format, rounding=outer.register.rounding)
    return accumulator.add(total[None], accumulator.round(tile[None]))[0]


def _scales(outer: FloatOuter) -> dict[str, Format]:
    formats = {"x_scale": outer.scale.x, "w_scale": outer.scale.w}
    return {name: format for name, format in formats.items() if format is not None}


def _scheme(text: str) -> Scheme:
    scheme = from_text(text)
    assert isinstance(scheme, Scheme)
    return scheme
