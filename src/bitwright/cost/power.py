"""Energy of a mapped netlist from what its nets toggle in a simulation.

Switching is half C V² for each transition; internal energy comes from the library's tables at the slews and loads of
the timing analysis; a clock has two edges a cycle, at every flip-flop. Without delays there are no glitches, so that
total is a lower bound (E0); `glitch` gives what they add (E1). No clock tree, no wires but the stated ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from bitwright.cost.glitch import Activity
from bitwright.cost.library import Cell, Energy, Library
from bitwright.cost.netlist import Instance, Netlist
from bitwright.cost.simulate import Trace
from bitwright.cost.timing import Surroundings, Timing, analyse

HOROWITZ_FACTOR = 0.22
"""From energies of `generic45` to those of M. Horowitz, ISSCC 2014, fig. 1.1.9: experiments/results/pe_costs.md."""


@dataclass(frozen=True)
class EnergyReport:
    """Energy of one cycle, mean over the lanes and cycles of a trace (pJ)."""

    name: str
    library: str
    switching_pj: float
    """Charging nets, the clock's not among them."""
    internal_pj: float
    """Inside cells, when outputs or flip-flop inputs change."""
    clock_pj: float
    """The clock net and what its edges take inside flip-flops."""
    leakage_pj: float
    """Over one cycle at `clock_mhz`."""
    clock_mhz: float
    glitch_pj: float | None = None
    """Switching and internal energy of changes within a cycle that it takes back; None without delays."""

    @property
    def total_pj(self) -> float:
        """Without glitches: E0."""
        return self.switching_pj + self.internal_pj + self.clock_pj + self.leakage_pj

    @property
    def glitching_pj(self) -> float:
        """With glitches: E1. ValueError where none were simulated."""
        if self.glitch_pj is None:
            raise ValueError(f"{self.name} was simulated without delays; give energy_report an activity")
        return self.total_pj + self.glitch_pj

    @property
    def calibrated_pj(self) -> float:
        """The total without glitches as Horowitz' 45 nm numbers would have it, to compare with costs built on them."""
        return HOROWITZ_FACTOR * self.total_pj


def energy_report(
    netlist: Netlist,
    library: Library,
    trace: Trace,
    *,
    activity: Activity | None = None,
    clock_mhz: float = 500.0,
    surroundings: Surroundings = Surroundings(),
) -> EnergyReport:
    """Energy of a cycle of the trace, whose cycles follow each other without pause; `activity` adds its glitches."""
    timing = analyse(netlist, library, surroundings)
    switching, internal = _dynamic_fj(netlist, library, trace.toggles, timing)
    changes = (trace.cycles - 1) * trace.lanes
    glitch_pj = None
    if activity:
        taken_back = {net: count - activity.settled[net] for net, count in activity.toggles.items()}
        glitch_pj = sum(_dynamic_fj(netlist, library, taken_back, timing)) / activity.changes / 1000
    cells = [library.cell(instance.kind) for instance in netlist.instances]
    return EnergyReport(
        name=netlist.name,
        library=library.name,
        switching_pj=switching / changes / 1000,
        internal_pj=internal / changes / 1000,
        clock_pj=sum(_clock_fj(cell, library.voltage_v, surroundings) for cell in cells) / 1000,
        leakage_pj=sum(cell.leakage_nw for cell in cells) / clock_mhz / 1000,
        clock_mhz=clock_mhz,
        glitch_pj=glitch_pj,
    )


def _dynamic_fj(netlist: Netlist, library: Library, toggles: Mapping[int, int], timing: Timing) -> tuple[float, float]:
    """Switching and internal energy of so many changes of each net."""
    half = 0.5 * library.voltage_v**2
    switching = sum(toggles.get(net, 0) * half * load for net, load in timing.loads_ff.items())
    internal = sum(_internal_fj(i, library.cell(i.kind), toggles, timing) for i in netlist.instances)
    return switching, internal


def _internal_fj(instance: Instance, cell: Cell, toggles: Mapping[int, int], timing: Timing) -> float:
    """Of outputs, and of flip-flop inputs, whose changes no output follows at once."""
    total = 0.0
    clocks = cell.flip_flop.clock.inputs if cell.flip_flop else ()
    for pin in cell.pins:
        net = instance.pins.get(pin.name)
        if net is None or pin.name in clocks or not (pin.is_output or cell.flip_flop):
            continue
        slew = _input_slew(instance, cell, pin.name, timing)
        total += toggles.get(net, 0) * _mean_fj(pin.energies, slew, timing.loads_ff.get(net, 0.0))
    return total


def _clock_fj(cell: Cell, voltage_v: float, surroundings: Surroundings) -> float:
    """Two edges: the pin and its wire charged and discharged, and twice the cell's own energy."""
    total = 0.0
    for name in cell.flip_flop.clock.inputs if cell.flip_flop else ():
        pin = cell.by_name[name]
        total += (pin.capacitance_ff + surroundings.wire_ff) * voltage_v**2
        total += 2 * _mean_fj(pin.energies, surroundings.slew_ns, 0.0)
    return total


def _input_slew(instance: Instance, cell: Cell, pin: str, timing: Timing) -> float:
    nets = [instance.pins[name] for name in cell.inputs if name in instance.pins]
    if pin in cell.inputs:
        nets = [instance.pins[pin]]
    slews = [timing.slews_ns[net] for net in nets if net in timing.slews_ns]
    return sum(slews) / len(slews) if slews else 0.0


def _mean_fj(energies: tuple[Energy, ...], slew_ns: float, load_ff: float) -> float:
    """Mean over causes, conditions and both edges."""
    found = [table.at(slew_ns, load_ff) for energy in energies for table in (energy.rise, energy.fall) if table]
    return sum(found) / len(found) if found else 0.0
