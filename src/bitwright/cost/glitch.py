"""Toggles with delays: gates whose inputs change one after the other change more than once before they settle.

Event-driven, lanes in parallel as in `simulate`: an event is a net, a time, and the lanes that change then. Delays are
inertial: a gate's output follows once its inputs have asked for the new value as long as its delay, so shorter pulses
vanish. A cycle is as long as settling takes. Each cycle starts and must end as the simulation without delays says.
"""

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice, pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped

from bitwright.cost.library import Arc, Cell, Library
from bitwright.cost.netlist import ONE, ZERO, Netlist
from bitwright.cost.simulate import Simulator
from bitwright.cost.timing import Surroundings, Timing, analyse

TICK_PS = 0.1
"""Delays are whole numbers of it, at least one."""

TRANSITIONS = 4
"""Between the last cycles of a stimulus; with a few hundred lanes they are vectors enough for a mean."""


class Edges(NamedTuple):
    """Delays in ticks."""

    rise: int
    fall: int


@dataclass(frozen=True)
class Delays:
    """When nets follow."""

    launches: Mapping[int, Edges] = field(repr=False)
    """Inputs and outputs of flip-flops, after the clock edge; those not named change at once."""
    gates: Mapping[tuple[str, str, str], Edges] = field(repr=False)
    """Instance, output pin, and the input pin that changed; of several that change at once the slowest counts."""


@dataclass(frozen=True)
class Activity:
    """Changes of each net over all lanes of some cycles: with delays, and between the settled values."""

    toggles: Mapping[int, int] = field(repr=False)
    settled: Mapping[int, int] = field(repr=False)
    changes: int
    """Cycles times lanes."""

    @property
    def factor(self) -> float:
        """Toggles over those without delays."""
        return sum(self.toggles.values()) / max(1, sum(self.settled.values()))


def library_activity(
    netlist: Netlist,
    library: Library,
    stimulus: Mapping[str, Shaped[np.ndarray, "cycles lanes"]],
    *,
    transitions: int = TRANSITIONS,
    surroundings: Surroundings = Surroundings(),
) -> Activity:
    """Toggles under a library's delays, between the last cycles of a stimulus."""
    delays = library_delays(netlist, library, analyse(netlist, library, surroundings))
    return delayed_activity(Simulator(netlist, library.cells), library.cells, stimulus, delays, transitions)


def library_delays(netlist: Netlist, library: Library, timing: Timing, tick_ps: float = TICK_PS) -> Delays:
    """Of every arc at the slews and loads of the timing analysis. Inputs arrive as from the netlist's flip-flops."""
    launches: dict[int, Edges] = {}
    gates: dict[tuple[str, str, str], Edges] = {}
    for instance in netlist.instances:
        cell = library.cell(instance.kind)
        for pin in cell.outputs:
            if pin not in instance.pins:
                continue
            net = instance.pins[pin]
            load = timing.loads_ff.get(net, 0.0)
            for source in cell.inputs:
                arcs = [arc for arc in cell.by_name[pin].arcs if arc.source == source and arc.kind != "setup"]
                if arcs:
                    slew = timing.slews_ns.get(instance.pins.get(source, ZERO), 0.0)
                    edges = _edges(arcs, slew, load, tick_ps)
                    if cell.flip_flop:
                        launches[net] = edges
                    else:
                        gates[instance.name, pin, source] = edges
    mean = Edges(*(round(sum(column) / len(launches)) for column in zip(*launches.values()))) if launches else None
    inputs = {net: mean for nets in netlist.inputs.values() for net in nets if mean}
    return Delays(inputs | launches, gates)


def delayed_activity(
    simulator: Simulator,
    cells: Mapping[str, Cell],
    stimulus: Mapping[str, Shaped[np.ndarray, "cycles lanes"]],
    delays: Delays,
    transitions: int = TRANSITIONS,
) -> Activity:
    """Toggles under given delays, between the last cycles of a stimulus."""
    cycles, lanes = next(iter(stimulus.values())).shape
    if not 0 < transitions < cycles:
        raise ValueError(f"{transitions} transitions asked of {cycles} cycles; there is one between two cycles")
    events = _Events(simulator.netlist, cells, delays, (1 << lanes) - 1)
    settled: dict[int, int] = {}
    for before, after in islice(pairwise(simulator.settled(stimulus)), cycles - 1 - transitions, None):
        events.run(before, after)
        for net, plane in after.items():
            settled[net] = settled.get(net, 0) + (plane ^ before[net]).bit_count()
    return Activity({net: events.toggles[net] for net in settled}, settled, transitions * lanes)


class _Events:
    """A netlist between two settled states. Its drivers are the outputs of gates, then inputs and flip-flops."""

    def __init__(self, netlist: Netlist, cells: Mapping[str, Cell], delays: Delays, mask: int) -> None:
        self.mask, self.launches = mask, delays.launches
        ports = (nets for ports in (netlist.inputs, netlist.outputs) for nets in ports.values())
        pins = (instance.pins.values() for instance in netlist.instances)
        size = 1 + max([ONE, *chain.from_iterable(ports), *chain.from_iterable(pins)])
        self.toggles = [0] * size
        self.loads: list[list[tuple[int, Edges]]] = [[] for _ in range(size)]
        """Of each net the gates that it reaches, and how fast they follow it."""
        self.driven: list[int] = []
        lines: list[str] = []
        for instance in netlist.in_order(cells):
            cell = cells[instance.kind]
            for pin in cell.outputs:
                function = cell.by_name[pin].function
                if pin not in instance.pins or function is None:
                    continue
                nets = {name: instance.pins.get(name, ZERO) for name in function.inputs}
                wires = {name: f"n[{net}]" for name, net in nets.items()}
                lines.append(f"lambda n, m: {function.code(wires.__getitem__)}")
                for name, net in nets.items():
                    edges = delays.gates.get((instance.name, pin, name), Edges(1, 1))
                    self.loads[net].append((len(self.driven), edges))
                self.driven.append(instance.pins[pin])
        self.gates: list[Callable[[Sequence[int], int], int]] = eval(f"[{', '.join(lines)}]")

    def run(self, before: Mapping[int, int], after: Mapping[int, int]) -> None:
        """Adds to `toggles` what happens on the way from one state to the next."""
        self.values = [0] * len(self.toggles)
        self.values[ONE] = self.mask
        for net, plane in before.items():
            self.values[net] = plane
        self.asked = [self.values[net] for net in self.driven]
        driven = set(self.driven)
        sources = [net for net in after if net not in driven]
        self.nets = self.driven + sources
        self.pending: list[dict[int, int]] = [{} for _ in self.nets]
        self.due: dict[int, list[int]] = {}
        self.times: list[int] = []
        for driver, net in enumerate(sources, len(self.driven)):
            self._schedule(driver, 0, before[net] ^ after[net], after[net], self.launches.get(net, Edges(0, 0)))
        while self.times:
            self._step(heapq.heappop(self.times))
        assert all(self.values[net] == plane for net, plane in after.items()), "it settles as without delays"

    def _step(self, now: int) -> None:
        """All changes of one time, then each gate that they reach, once."""
        reached: dict[int, Edges] = {}
        for driver in self.due.pop(now):
            changed = self.pending[driver].pop(now, 0)
            if not changed:
                continue
            net = self.nets[driver]
            self.values[net] ^= changed
            self.toggles[net] += changed.bit_count()
            for gate, edges in self.loads[net]:
                known = reached.get(gate)
                reached[gate] = Edges(max(known.rise, edges.rise), max(known.fall, edges.fall)) if known else edges
        for gate, edges in reached.items():
            asked = self.gates[gate](self.values, self.mask)
            other = asked ^ self.asked[gate]
            if other:
                self.asked[gate] = asked
                self.pending[gate] = {t: left for t, m in self.pending[gate].items() if (left := m & ~other)}
                self._schedule(gate, now, other & (asked ^ self.values[self.driven[gate]]), asked, edges)

    def _schedule(self, driver: int, now: int, changed: int, asked: int, edges: Edges) -> None:
        """Lanes that change to what is asked, each after the delay of its edge."""
        for lanes, delay in ((changed & asked, edges.rise), (changed & ~asked, edges.fall)):
            if lanes:
                time, pending = now + delay, self.pending[driver]
                if time not in self.due:
                    self.due[time] = []
                    heapq.heappush(self.times, time)
                if time not in pending:
                    self.due[time].append(driver)
                pending[time] = pending.get(time, 0) | lanes


def _edges(arcs: Iterable[Arc], slew_ns: float, load_ff: float, tick_ps: float) -> Edges:
    """Means over conditions; an edge that no arc has is as slow as the other."""
    means = []
    for tables in ([arc.rise for arc in arcs], [arc.fall for arc in arcs]):
        found = [table.at(slew_ns, load_ff) for table in tables if table]
        means.append(sum(found) / len(found) if found else None)
    known = [mean for mean in means if mean is not None]
    rise, fall = (max(known) if mean is None else mean for mean in means)
    return Edges(max(1, round(rise * 1000 / tick_ps)), max(1, round(fall * 1000 / tick_ps)))
