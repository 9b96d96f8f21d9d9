"""Static timing of mapped netlists over the library's tables: how long the slowest path takes.

Both edges of every net have an arrival and a slew; where arcs meet, the later arrival and the slower slew count. A wire
is a stated capacitance for each pin that it reaches; there is no placement, no clock tree and no variation.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from bitwright.cost.library import Arc, Cell, Library, Table
from bitwright.cost.netlist import Instance, Netlist

RISE, FALL = "rise", "fall"
EDGES = (RISE, FALL)
OTHER = {RISE: FALL, FALL: RISE}


@dataclass(frozen=True)
class Surroundings:
    """What stands around a circuit, and what its wires are taken to be."""

    wire_ff: float = 1.0
    """Of each pin that a net reaches."""
    output_ff: float = 3.0
    """On each output port, besides its wire."""
    slew_ns: float = 0.02
    """Of inputs and of the clock."""


@dataclass(frozen=True)
class Step:
    """A net on the slowest path: who drives it, and when it arrives."""

    cell: str
    net: int
    edge: str
    arrival_ns: float


@dataclass(frozen=True)
class Timing:
    """The slowest path, from an input or a flip-flop to an output or a flip-flop's setup."""

    period_ns: float
    setup_ns: float
    """Part of the period that the last flip-flop needs before its edge; 0 at an output port."""
    path: tuple[Step, ...]
    slews_ns: Mapping[int, float] = field(repr=False, compare=False)
    """Mean of both edges' slews on each net."""
    loads_ff: Mapping[int, float] = field(repr=False, compare=False)

    @property
    def clock_mhz(self) -> float:
        """The fastest clock that the path allows."""
        return 1000 / self.period_ns


class _Event(NamedTuple):
    arrival_ns: float
    slew_ns: float
    step: Step
    before: "_Event | None"


_Events = dict[tuple[int, str], _Event]


def analyse(netlist: Netlist, library: Library, surroundings: Surroundings = Surroundings()) -> Timing:
    """The slowest path of a netlist. ValueError where it has no path at all."""
    loads = net_loads(netlist, library, surroundings)
    events = _starts(netlist, library, loads, surroundings)
    for instance in netlist.in_order(library.cells):
        cell = library.cell(instance.kind)
        for pin in cell.outputs:
            if pin in instance.pins:
                _propagate(events, instance, cell, pin, loads.get(instance.pins[pin], 0.0))
    ends = list(_ends(netlist, library, events, surroundings))
    if not ends:
        raise ValueError(f"netlist {netlist.name} has no path from an input to an output or a flip-flop")
    setup, last = max(ends, key=lambda end: end[0] + end[1].arrival_ns)
    nets = {net for net, _ in events}
    return Timing(
        period_ns=last.arrival_ns + setup,
        setup_ns=setup,
        path=tuple(_path(last)),
        slews_ns={n: sum(events[n, e].slew_ns for e in EDGES if (n, e) in events) / 2 for n in nets},
        loads_ff=loads,
    )


def net_loads(netlist: Netlist, library: Library, surroundings: Surroundings = Surroundings()) -> dict[int, float]:
    """Capacitance on every net (fF): the pins on it, a wire to each, and what stands outside."""
    loads: dict[int, float] = {}
    for instance in netlist.instances:
        cell = library.cell(instance.kind)
        for pin in cell.inputs:
            if pin in instance.pins:
                net = instance.pins[pin]
                loads[net] = loads.get(net, 0.0) + cell.by_name[pin].capacitance_ff + surroundings.wire_ff
    for nets in netlist.outputs.values():
        for net in nets:
            loads[net] = loads.get(net, 0.0) + surroundings.output_ff + surroundings.wire_ff
    return loads


def _starts(netlist: Netlist, library: Library, loads: Mapping[int, float], surroundings: Surroundings) -> _Events:
    events: _Events = {}
    for port, nets in netlist.inputs.items():
        for net in nets:
            for edge in EDGES:
                events[net, edge] = _Event(0.0, surroundings.slew_ns, Step(f"input {port}", net, edge, 0.0), None)
    for instance in netlist.instances:
        cell = library.cell(instance.kind)
        if cell.flip_flop:
            for pin in cell.outputs:
                if pin in instance.pins:
                    net = instance.pins[pin]
                    for arc in cell.by_name[pin].arcs:
                        if arc.kind == "clock":
                            for edge in EDGES:
                                _arrive(
                                    events, instance, arc, edge, net, loads.get(net, 0.0), None, surroundings.slew_ns
                                )
    return events


def _propagate(events: _Events, instance: Instance, cell: Cell, pin: str, load_ff: float) -> None:
    for arc in cell.by_name[pin].arcs:
        source = instance.pins.get(arc.source)
        if source is None or arc.kind != "combinational":
            continue
        for edge in EDGES:
            for cause in _causes(arc, edge):
                before = events.get((source, cause))
                if before:
                    _arrive(events, instance, arc, edge, instance.pins[pin], load_ff, before, before.slew_ns)


def _causes(arc: Arc, edge: str) -> tuple[str, ...]:
    """Edges of the source that make this edge of the output."""
    return {"positive_unate": (edge,), "negative_unate": (OTHER[edge],)}.get(arc.sense, EDGES)


def _arrive(
    events: _Events,
    instance: Instance,
    arc: Arc,
    edge: str,
    net: int,
    load_ff: float,
    before: _Event | None,
    slew_ns: float,
) -> None:
    """Records an edge at the end of an arc, if it is the latest; the slowest slew stays."""
    delay, slew = (arc.rise, arc.rise_slew) if edge == RISE else (arc.fall, arc.fall_slew)
    if delay is None:
        return
    arrival = (before.arrival_ns if before else 0.0) + max(0.0, delay.at(slew_ns, load_ff))
    out_slew = max(0.0, slew.at(slew_ns, load_ff)) if slew else slew_ns
    known = events.get((net, edge))
    if known and known.arrival_ns >= arrival:
        events[net, edge] = known._replace(slew_ns=max(known.slew_ns, out_slew))
    else:
        slowest = max(out_slew, known.slew_ns if known else 0.0)
        events[net, edge] = _Event(arrival, slowest, Step(instance.kind, net, edge, arrival), before)


def _ends(
    netlist: Netlist, library: Library, events: _Events, surroundings: Surroundings
) -> Iterator[tuple[float, _Event]]:
    """Setup time and event of every end of a path."""
    for nets in netlist.outputs.values():
        for net in nets:
            yield from ((0.0, events[net, edge]) for edge in EDGES if (net, edge) in events)
    for instance in netlist.instances:
        cell = library.cell(instance.kind)
        if not cell.flip_flop:
            continue
        for name in cell.inputs:
            for arc in cell.by_name[name].arcs:
                for edge, table in ((RISE, arc.rise), (FALL, arc.fall)):
                    event = events.get((instance.pins.get(name, -1), edge))
                    if event and arc.kind == "setup" and table:
                        yield _setup(table, event, surroundings), event


def _setup(table: Table, event: _Event, surroundings: Surroundings) -> float:
    return table.at(event.slew_ns, surroundings.slew_ns)


def _path(event: _Event) -> list[Step]:
    steps: list[Step] = []
    step: _Event | None = event
    while step:
        steps.append(step.step)
        step = step.before
    return steps[::-1]
