"""Vector units in gates: checked on random codes, driven with normal operands or with those of a real layer."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bitwright.cost.glitch import library_activity
from bitwright.cost.library import Library
from bitwright.cost.power import EnergyReport, energy_report
from bitwright.cost.simulate import Simulator
from bitwright.cost.synthesis import WIDE_SUMS, AreaReport, Synthesis, synthesize
from bitwright.formats import Format
from bitwright.rtl.units import VectorUnit
from bitwright.rtl.verilog import rtlil

CYCLES, STREAMS = 64, 32
PATTERNS = 2**15


@dataclass(frozen=True)
class VectorReport:
    """One unit in one library; energies of a step of all its lanes."""

    synthesis: Synthesis
    library: Library

    @property
    def area(self) -> AreaReport:
        return self.synthesis.report

    def energy(self, work: dict[str, np.ndarray]) -> EnergyReport:
        """Without glitches of all the work, and what glitches add in its last cycles."""
        netlist = self.synthesis.netlist
        trace = Simulator(netlist, self.library.cells).run(work)
        return energy_report(netlist, self.library, trace, activity=library_activity(netlist, self.library, work))


def synthesize_vector(unit: VectorUnit, library: Library, cache: Path | None, rng: np.random.Generator) -> VectorReport:
    """The unit in cells. AssertionError where its netlist computes something else."""
    synthesis = synthesize(rtlil(unit, "vector"), library, WIDE_SUMS, cache=cache)
    plan = unit.plan
    x_format, w_format = plan.x.formats[0], plan.w.formats[0]
    x, w = (
        f.encode(rng.uniform(min(0.0, f.bounds().lowest), f.full_scale, (PATTERNS, unit.lanes)))
        for f in (x_format, w_format)
    )
    ones = np.ones((1, PATTERNS), int)
    stimulus = codes(unit, x[None], w[None]) | {"enable": ones, "first": ones}
    total = (x_format.decode(x) * w_format.decode(w)).sum(-1)
    if plan.outer is not None:
        scales = {port: rng.integers(0, 2**f.bits, (1, PATTERNS)) for port, f in scale_formats(unit).items()}
        stimulus |= scales
        total = total * rounded_product(unit, [scales.get(port) for port in ("x_scale", "w_scale")])
    stimulus = {port: np.repeat(values, 2, axis=0) for port, values in stimulus.items()}
    found = Simulator(synthesis.netlist, library.cells).run(stimulus).outputs["total"][1]
    wanted = np.ldexp(total, -plan.unit).astype(np.int64)
    register = plan.inner if plan.outer is None else plan.outer.register
    if register.low is not None:
        wanted = np.clip(wanted, register.low, register.high)
    np.testing.assert_array_equal(found, wanted)
    return VectorReport(synthesis, library)


def rounded_product(unit: VectorUnit, scales: list[np.ndarray | None]) -> np.ndarray:
    """Of the scale codes, in units of the outer register."""
    assert unit.plan.outer is not None
    product = unit.plan.outer.scale
    exact = np.prod([s[0] for s in scales if s is not None], axis=0).astype(np.int64)
    if product.format is None:
        return exact
    places = product.unit - product.exponent
    return np.minimum((exact + (1 << places >> 1)) >> places, product.format.range[1])  # nearest, ties up


def normal_work(unit: VectorUnit, rng: np.random.Generator, reset: int = 32) -> dict[str, np.ndarray]:
    """Normal operands at three deviations, weights held, any scales; sums start anew after so many steps."""
    x, w = (
        f.encode(np.maximum(rng.normal(0, f.full_scale / 3, shape), f.bounds().lowest))
        for f, shape in (
            (unit.plan.x.formats[0], (CYCLES, STREAMS, unit.lanes)),
            (unit.plan.w.formats[0], (1, STREAMS, unit.lanes)),
        )
    )
    shape = (CYCLES, STREAMS)
    first = np.zeros(shape, int)
    first[::reset] = 1
    work = codes(unit, x, np.repeat(w, CYCLES, axis=0)) | {"enable": np.ones(shape, int), "first": first}
    for port, format in scale_formats(unit).items():
        held = rng.integers(1, 2**format.bits, (CYCLES if port == "x_scale" else 1, STREAMS))
        work[port] = held + np.zeros(shape, int)
    return work


def codes(unit: VectorUnit, x: np.ndarray, w: np.ndarray) -> dict[str, np.ndarray]:
    """Codes by port, of arrays whose last axis is the unit's lanes."""
    return {f"{side}_{lane}": values[..., lane] for side, values in (("x", x), ("w", w)) for lane in range(unit.lanes)}


def scale_formats(unit: VectorUnit) -> dict[str, Format]:
    outer = unit.plan.outer
    found = {} if outer is None else {"x_scale": outer.scale.x, "w_scale": outer.scale.w}
    return {port: format for port, format in found.items() if format is not None}
