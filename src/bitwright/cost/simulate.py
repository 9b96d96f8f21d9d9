"""Bit-parallel simulation of netlists: one Python integer a net, one bit of it a lane, thousands of cases at once.

A netlist becomes straight-line Python of `&`, `|` and `^`. Time has cycles, no delays: within a cycle everything
settles, at its end all flip-flops take their next state. The same run checks a circuit and counts toggles.
"""

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Shaped

from bitwright.cost.library import Cell
from bitwright.cost.netlist import ONE, ZERO, Instance, Netlist

Step = Callable[[list[int], list[int], int], list[int]]
"""One cycle: planes of the inputs, of the registers, and a one in each lane."""


@dataclass(frozen=True)
class Trace:
    """Outputs of every cycle, before its clock edge, and how often each net changed over all lanes."""

    outputs: Mapping[str, Shaped[np.ndarray, "cycles lanes"]] = field(repr=False)
    toggles: Mapping[int, int] = field(repr=False)
    cycles: int
    lanes: int


class Simulator:
    """A netlist ready to run. Its flip-flops share one clock port, rising edge, which is no input of the runs."""

    def __init__(self, netlist: Netlist, cells: Mapping[str, Cell]) -> None:
        self.netlist = netlist
        self._registers = [i for i in netlist.instances if cells[i.kind].flip_flop]
        clock = _clock(netlist, cells, self._registers)
        self.inputs = {port: nets for port, nets in netlist.inputs.items() if nets != (clock,)}
        self._order, self._cells = netlist.in_order(cells), cells
        self._given = [net for nets in self.inputs.values() for net in nets]

    @property
    def input_bits(self) -> int:
        """Bits of all inputs together."""
        return len(self._given)

    def settle(self, inputs: Mapping[str, list[int]], mask: int, cycles: int) -> dict[str, list[int]]:
        """Bit planes of the outputs once the inputs have been held for so many clock edges."""
        given = self._planes(inputs)
        state = self._start(mask)
        for _ in range(cycles):
            state = self._next_states(given, state, mask)
        return self._ports(self._outputs(given, state, mask))

    def walk(self, cycles: Iterable[Mapping[str, list[int]]], mask: int) -> Iterator[dict[str, list[int]]]:
        """Bit planes of the outputs in each cycle, before its clock edge, from the state at power-up."""
        state = self._start(mask)
        for inputs in cycles:
            given = self._planes(inputs)
            yield self._ports(self._outputs(given, state, mask))
            state = self._next_states(given, state, mask)

    def run(self, stimulus: Mapping[str, Shaped[np.ndarray, "cycles lanes"]]) -> Trace:
        """All lanes through all cycles, from the state at power-up; toggles are counted between cycles."""
        self._check_ports(stimulus)
        cycles, lanes = next(iter(stimulus.values())).shape
        mask = (1 << lanes) - 1
        state, before, nets = self._start(mask), None, self._nets
        toggles = [0] * len(nets)
        outputs: dict[str, list[Shaped[np.ndarray, "lanes"]]] = {port: [] for port in self.netlist.outputs}
        for cycle in range(cycles):
            planes = {p: pack(stimulus[p][cycle], len(wires)) for p, wires in self.inputs.items()}
            given = self._planes(planes)
            values = self._all(given, state, mask)
            if before is not None:
                toggles = [t + (a ^ b).bit_count() for t, a, b in zip(toggles, before, values, strict=True)]
            before = values
            for port, found in self._ports(self._outputs(given, state, mask)).items():
                outputs[port].append(unpack(found, lanes, port in self.netlist.signed))
            state = self._next_states(given, state, mask)
        stacked = {port: np.stack(values) for port, values in outputs.items()}
        return Trace(stacked, dict(zip(nets, toggles, strict=True)), cycles, lanes)

    def settled(self, stimulus: Mapping[str, Shaped[np.ndarray, "cycles lanes"]]) -> Iterator[dict[int, int]]:
        """Of every cycle of a run the bit planes of all nets, inputs first."""
        self._check_ports(stimulus)
        cycles, lanes = next(iter(stimulus.values())).shape
        mask = (1 << lanes) - 1
        state = self._start(mask)
        for cycle in range(cycles):
            given = self._planes({p: pack(stimulus[p][cycle], len(wires)) for p, wires in self.inputs.items()})
            yield dict(zip(self._nets, self._all(given, state, mask), strict=True))
            state = self._next_states(given, state, mask)

    def _check_ports(self, given: Mapping[str, object]) -> None:
        if set(given) != set(self.inputs):
            raise ValueError(f"{self.netlist.name} has the inputs {sorted(self.inputs)}, found {sorted(given)}")

    def _planes(self, inputs: Mapping[str, list[int]]) -> list[int]:
        self._check_ports(inputs)
        return [plane for port in self.inputs for plane in inputs[port]]

    def _ports(self, planes: list[int]) -> dict[str, list[int]]:
        rest = iter(planes)
        return {port: [next(rest) for _ in nets] for port, nets in self.netlist.outputs.items()}

    def _start(self, mask: int) -> list[int]:
        return [mask if self._held(i) in self.netlist.ones else 0 for i in self._registers]

    def _held(self, register: Instance) -> int | None:
        """The net that carries a flip-flop's state, not its inverse."""
        cell = self._cells[register.kind]
        assert cell.flip_flop is not None
        for pin in cell.outputs:
            function = cell.by_name[pin].function
            if function and function.postfix == (cell.flip_flop.state,) and pin in register.pins:
                return register.pins[pin]
        return None

    @functools.cached_property
    def _nets(self) -> list[int]:
        driven = [i.pins[pin] for i in self.netlist.instances for pin in self._cells[i.kind].outputs if pin in i.pins]
        return list(dict.fromkeys([*self._given, *driven]))

    @functools.cached_property
    def _outputs(self) -> Step:
        return self._compile([_net_name(net) for nets in self.netlist.outputs.values() for net in nets])

    @functools.cached_property
    def _next_states(self) -> Step:
        return self._compile([self._next_state(register, i) for i, register in enumerate(self._registers)])

    @functools.cached_property
    def _all(self) -> Step:
        return self._compile([_net_name(net) for net in self._nets])

    @functools.cached_property
    def _assignments(self) -> list[str]:
        return [line for instance in self._order for line in self._assign(instance)]

    def _compile(self, results: list[str]) -> Step:
        """A function of inputs, states and mask, without the cells that the results do not need."""
        wanted = {name for text in results for name in re.findall(r"\w+", text)}
        lines: list[str] = []
        for line in reversed(self._assignments):
            if line.split()[0] in wanted:
                lines.append(line)
                wanted |= set(re.findall(r"n\d+", line))
        head = [f"    {_net_name(ZERO)}, {_net_name(ONE)} = 0, m"]
        if self._given:
            head.append(f"    {''.join(f'{_net_name(net)}, ' for net in self._given)} = given")
        if self._registers:
            head.append(f"    {''.join(f's{i}, ' for i in range(len(self._registers)))} = state")
        head += [line for i, register in enumerate(self._registers) for line in self._read_state(register, i)]
        body = [*head, *reversed(lines), f"    return [{', '.join(results)}]"]
        scope: dict[str, Step] = {}
        exec(compile("\n".join(["def step(given, state, m):", *body]), f"<netlist {self.netlist.name}>", "exec"), scope)
        return scope["step"]

    def _assign(self, instance: Instance) -> Iterator[str]:
        cell, pins = self._cells[instance.kind], instance.pins
        for pin in cell.outputs:
            function = cell.by_name[pin].function
            if pin in pins:
                if function is None:
                    raise ValueError(f"{instance.name}: the cell {instance.kind} has no function for its output {pin}")
                yield f"    {_net_name(pins[pin])} = {function.code(lambda name: _net_name(pins.get(name, ZERO)))}"

    def _read_state(self, register: Instance, index: int) -> Iterator[str]:
        cell = self._cells[register.kind]
        names = self._state_names(register, index)
        for pin in cell.outputs:
            function = cell.by_name[pin].function
            if pin in register.pins and function:
                yield f"    {_net_name(register.pins[pin])} = {function.code(names)}"

    def _next_state(self, register: Instance, index: int) -> str:
        flip_flop = self._cells[register.kind].flip_flop
        assert flip_flop is not None
        names = self._state_names(register, index)
        text = flip_flop.next_state.code(names)
        if flip_flop.clear:
            text = f"(m ^ {flip_flop.clear.code(names)}) & {text}"
        return f"{flip_flop.preset.code(names)} | {text}" if flip_flop.preset else text

    def _state_names(self, register: Instance, index: int) -> Callable[[str], str]:
        flip_flop = self._cells[register.kind].flip_flop
        assert flip_flop is not None
        known = {flip_flop.state: f"s{index}", flip_flop.negated: f"(m ^ s{index})"}
        return lambda name: known.get(name) or _net_name(register.pins.get(name, ZERO))


def pack(values: Shaped[np.ndarray, "lanes"], width: int) -> list[int]:
    """Bit planes of integers modulo 2**width, least significant first."""
    last = width if values.dtype == object else 63
    return [
        int.from_bytes(np.packbits((values >> min(i, last) & 1).astype(bool), bitorder="little").tobytes(), "little")
        for i in range(width)
    ]


def unpack(planes: list[int], lanes: int, is_signed: bool) -> Shaped[np.ndarray, "lanes"]:
    """Integers of bit planes; signed ones extend the highest bit. Python integers where int64 does not hold them."""
    if len(planes) > 63 + is_signed:
        high = unpack(planes[63:], lanes, is_signed).astype(object)
        return (high << 63) + unpack(planes[:63], lanes, False).astype(object)
    total = np.zeros(lanes, dtype=np.int64)
    for i, plane in enumerate(planes):
        raw = np.frombuffer(plane.to_bytes((lanes + 7) // 8, "little"), dtype=np.uint8)
        total |= np.unpackbits(raw, count=lanes, bitorder="little").astype(np.int64) << i
    return as_port(total, len(planes), is_signed)


def as_port(values: Shaped[np.ndarray, "*shape"], width: int, is_signed: bool) -> Shaped[np.ndarray, "*shape"]:
    """The low `width` bits as unsigned or signed integers."""
    if width >= 64 and values.dtype != object:
        return values
    low = values & ((1 << width) - 1)
    return np.where(low >> (width - 1), low | (-1 << width), low) if is_signed and width else low


def _clock(netlist: Netlist, cells: Mapping[str, Cell], registers: list[Instance]) -> int | None:
    clocks = set()
    for register in registers:
        flip_flop = cells[register.kind].flip_flop
        assert flip_flop is not None
        if len(flip_flop.clock.postfix) > 1:
            raise ValueError(
                f"{register.name}: {register.kind} is clocked by {flip_flop.clock.postfix}, not a rising edge"
            )
        clocks.add(register.pins[flip_flop.clock.postfix[0]])
    ports = {nets[0] for nets in netlist.inputs.values() if len(nets) == 1}
    if len(clocks) > 1 or not clocks <= ports:
        raise ValueError(f"{netlist.name}: its flip-flops need one clock port, found {len(clocks)} clock nets")
    return next(iter(clocks), None)


def _net_name(net: int) -> str:
    return f"n{net}"
