"""The processing element of a scheme in gates: area, slowest path, energy of a product, checked on its netlist.

The element is `rtl.units.ProcessingElement`, with decoders at the array's edge. Its mapped netlist is compared with
integer arithmetic on every pair of terms, where these are few enough, each with random partial sums.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int as Ints
from jaxtyping import Shaped

from bitwright.cost.figure import Measured
from bitwright.cost.glitch import library_activity
from bitwright.cost.library import Library
from bitwright.cost.mac import Mac
from bitwright.cost.netlist import Netlist
from bitwright.cost.power import EnergyReport, energy_report
from bitwright.cost.simulate import Simulator, as_port
from bitwright.cost.simulate_check import Verdict
from bitwright.cost.synthesis import AreaReport, Flow, synthesize
from bitwright.cost.timing import Timing, analyse
from bitwright.formats import Bounds, Format
from bitwright.rtl.operand import Sign
from bitwright.rtl.plan import LONGEST, Plan, plan
from bitwright.rtl.term import significands, term_shapes
from bitwright.rtl.units import ProcessingElement
from bitwright.rtl.verilog import rtlil
from bitwright.scheme import Scheme

ROWS, GROUPS, CYCLES = 128, 2, 64
"""Of the work whose energy is taken: sums run down a column of so many elements."""

SIGMAS = 3.0
"""Standard deviations of the operands at the largest level of their format."""


class Ports(NamedTuple):
    """Terms as the element's ports carry them."""

    significand: Ints[np.ndarray, "*shape"]
    exponent: Ints[np.ndarray, "*shape"]
    """Position in the bounds' exponents."""
    back: Ints[np.ndarray, "*shape"]


@dataclass(frozen=True)
class ElementReport:
    """One element in one library."""

    area: AreaReport
    timing: Timing
    energy: EnergyReport
    verdict: Verdict

    def mac(self) -> Mac:
        """As `cost.estimate` takes it: one multiply-accumulate a cycle, without glitches."""
        source = f"{self.area.library}, {self.area.tool}, zero-delay activity"
        return Mac(Measured(self.area.area_um2, source), Measured(self.energy.total_pj, source))


def element_plan(
    scheme: Scheme, *, accumulator_bits: int | None = None, k: int = LONGEST, sign: Sign = Sign.BOTH
) -> Plan:
    """What the element is made from; accumulator bits instead of those that the scheme or k products ask for."""
    made = plan(scheme, k=k, sign=sign).elementwise()
    if accumulator_bits is None:
        return made
    if made.inner.low is not None:
        raise ValueError(f"the register saturates at {made.inner.bits} bits; give the scheme another accumulator")
    return replace(made, inner=replace(made.inner, bits=accumulator_bits))


def synthesize_element(
    made: Plan,
    library: Library,
    *,
    rng: np.random.Generator,
    flow: Flow = Flow(),
    cache: Path | None = None,
    clock_mhz: float = 500.0,
) -> ElementReport:
    """The element of a plan. AssertionError with a counterexample where the netlist computes something else."""
    synthesis = synthesize(rtlil(ProcessingElement(made), "element"), library, flow, cache=cache)
    verdict = check_element(synthesis.netlist, library, made, rng)
    assert verdict.holds, verdict.counterexample
    work = workload(made, rng)
    trace = Simulator(synthesis.netlist, library.cells).run(work)
    activity = library_activity(synthesis.netlist, library, work)
    energy = energy_report(synthesis.netlist, library, trace, activity=activity, clock_mhz=clock_mhz)
    return ElementReport(synthesis.report, analyse(synthesis.netlist, library), energy, verdict)


def check_element(
    netlist: Netlist, library: Library, made: Plan, rng: np.random.Generator, most: int = 2**18
) -> Verdict:
    """Loads a weight, then adds one product: all pairs of terms up to `most`, else random ones."""
    x, weights = all_ports(made.x.bounds), all_ports(made.w.bounds)
    pairs = len(x.significand) * len(weights.significand)
    lanes = most if pairs > most else pairs * max(1, 2**16 // pairs)
    other = len(weights.significand)
    pair = rng.integers(0, pairs, lanes) if pairs > most else np.arange(lanes) % pairs
    x, own, above = (
        Ports(*(part[i] for part in ports))
        for ports, i in ((x, pair // other), (weights, pair % other), (weights, rng.integers(0, other, lanes)))
    )
    bits = made.inner.bits
    sum_in = rng.integers(0, 2 ** min(bits, 62), lanes)
    if is_wide(made):
        sum_in = (rng.integers(0, 2 ** (bits - 62), lanes).astype(object) << 62) + sum_in
    sum_in = as_port(sum_in, bits, made.inner.is_signed)
    cycles = [_inputs(made, x, own, sum_in, load=1), _inputs(made, x, above, sum_in), _inputs(made, x, above, sum_in)]
    stimulus = {port: np.stack([cycle[port] for cycle in cycles]) for port in cycles[0]}
    simulator = Simulator(netlist, library.cells)
    found = simulator.run(stimulus).outputs["sum"][2]
    wanted = _add(made, sum_in, product(made, x, own, above))
    wrong = np.flatnonzero(found != wanted)
    if not len(wrong):
        return Verdict(lanes, False)
    shown = ", ".join(f"{port}={values[1, wrong[0]]}" for port, values in stimulus.items())
    return Verdict(lanes, False, f"{shown}: sum is {found[wrong[0]]}, the reference says {wanted[wrong[0]]}")


def workload(made: Plan, rng: np.random.Generator) -> dict[str, Shaped[np.ndarray, "cycles lanes"]]:
    """Normal operands in the first format of each side, weights held; a lane is an element below the lane before."""
    x = _normal(made.x.formats[0], made.x.bounds, rng, (CYCLES, GROUPS, ROWS))
    return column_workload(made, x, _normal(made.w.formats[0], made.w.bounds, rng, (GROUPS, ROWS)))


def column_workload(made: Plan, x: Ports, w: Ports) -> dict[str, Shaped[np.ndarray, "cycles lanes"]]:
    """Inputs [cycles, groups, rows] through columns of elements that hold the weights [groups, rows]."""
    cycles, groups, rows = x.significand.shape
    above = Ports(*(np.roll(part, 1, axis=-1) for part in w))
    products = product(made, x, Ports(*(part[None] for part in w)), Ports(*(part[None] for part in above)))
    depth = min(made.products or rows, rows)
    tiles = products.reshape(cycles, groups, rows // depth, depth)
    sums = _add(made, np.zeros_like(tiles), np.cumsum(tiles, axis=-1) - tiles).reshape(cycles, groups, rows)
    found = []
    for t in range(cycles):
        cycle = _inputs(made, Ports(*(part[t] for part in x)), above if t else w, sums[t], load=int(t == 0))
        found.append({port: values.reshape(-1) for port, values in cycle.items()})
    return {port: np.stack([cycle[port] for cycle in found]) for port in found[0]}


def all_ports(bounds: Bounds) -> Ports:
    """Every term that bounds allow."""
    low, high = significands(bounds)
    axes = (np.arange(low, high + 1), np.arange(len(bounds.exponent)), np.arange(bounds.reach + 1))
    return Ports(*(axis.reshape(-1) for axis in np.meshgrid(*axes, indexing="ij")))


def product(made: Plan, x: Ports, w: Ports, above: Ports) -> Shaped[np.ndarray, "*shape"]:
    """What a term adds, in units of 2**plan.unit: a digit of the lane before meets that lane's weight."""
    met = Ports(*(np.where(x.back > 0, b, a) for a, b in zip(w, above, strict=True)))
    places = x.exponent * made.x.bounds.exponent.step + met.exponent * made.w.bounds.exponent.step
    significands = x.significand * met.significand
    return (significands.astype(object) if is_wide(made) else significands) << places


def is_wide(made: Plan) -> bool:
    """Whether sums need Python integers: a register beyond int64's."""
    return made.inner.bits > 62


def _add(
    made: Plan, held: Shaped[np.ndarray, "*shape"], addend: Shaped[np.ndarray, "*shape"]
) -> Shaped[np.ndarray, "*shape"]:
    register = made.inner
    if register.low is None or register.high is None:
        return as_port(held + addend, register.bits, register.is_signed)
    return np.clip(held + addend, register.low, register.high)


def _inputs(
    made: Plan, x: Ports, w: Ports, sum_in: Shaped[np.ndarray, "*shape"], load: int = 0
) -> dict[str, Shaped[np.ndarray, "*shape"]]:
    ports = {"load": np.full(sum_in.shape, load), "sum_in": sum_in}
    for operand, given, bounds in (("x", x, made.x.bounds), ("w", w, made.w.bounds)):
        for part in term_shapes(bounds):
            ports[f"{operand}_{part}"] = np.broadcast_to(getattr(given, part), sum_in.shape)
    return ports


def ports_of(format: Format, bounds: Bounds, codes: Ints[np.ndarray, "*shape"]) -> Ports:
    """Neighbouring codes along the last axis, as ports of an element whose operand has these bounds."""
    if len(bounds.exponent) == 1:  # whole elements
        units = np.ldexp(format.decode(codes), -bounds.exponent.start).astype(np.int64)
        return Ports(units, np.zeros_like(units), np.zeros_like(units))
    significand, exponent, source = (np.broadcast_to(part, codes.shape) for part in format.terms(codes))
    position = (exponent - bounds.exponent.start) // bounds.exponent.step
    return Ports(significand, np.where(significand == 0, 0, position), np.arange(codes.shape[-1]) - source)


def _normal(format: Format, bounds: Bounds, rng: np.random.Generator, shape: tuple[int, ...]) -> Ports:
    """Normal values in a format, as ports; unsigned formats take magnitudes that are zero half of the time."""
    levels = rng.normal(0, format.full_scale / SIGMAS, shape)
    return ports_of(format, bounds, format.encode(levels if format.bounds().lowest < 0 else np.maximum(levels, 0.0)))
