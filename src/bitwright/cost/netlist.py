"""A flat netlist: ports of bits, instances of one-bit cells. Read from the JSON that yosys writes."""

import functools
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bitwright.cost.liberty_function import parse_function
from bitwright.cost.library import Cell, FlipFlop, Pin

ZERO, ONE = 0, 1
"""Nets of the constants; yosys numbers the others from 2."""

CONSTANTS = {"0": ZERO, "1": ONE, "x": ZERO, "z": ZERO}


@dataclass(frozen=True)
class Instance:
    """One cell with the net on each of its pins."""

    name: str
    kind: str
    pins: Mapping[str, int] = field(hash=False)


@dataclass(frozen=True)
class Netlist:
    """Instances, and for each port its nets, least significant first."""

    name: str
    inputs: Mapping[str, tuple[int, ...]] = field(hash=False)
    outputs: Mapping[str, tuple[int, ...]] = field(hash=False)
    instances: tuple[Instance, ...] = field(repr=False)
    signed: frozenset[str] = frozenset()
    """Ports that hold two's complement."""
    ones: frozenset[int] = frozenset()
    """Nets of flip-flops that start at one."""

    def count(self) -> dict[str, int]:
        """Instances of each kind."""
        return dict(sorted(Counter(instance.kind for instance in self.instances).items()))

    def loads(self, cells: Mapping[str, Cell]) -> dict[int, list[tuple[str, str]]]:
        """For each net the (instance, input pin) pairs on it."""
        found: dict[int, list[tuple[str, str]]] = {}
        for instance in self.instances:
            for pin in cells[instance.kind].inputs:
                if pin in instance.pins:
                    found.setdefault(instance.pins[pin], []).append((instance.name, pin))
        return found

    def in_order(self, cells: Mapping[str, Cell]) -> tuple[Instance, ...]:
        """Combinational instances, each behind those that it reads. ValueError names one on a loop."""
        drivers: dict[int, Instance] = {}
        for instance in self.instances:
            if cells[instance.kind].flip_flop is None:
                drivers |= {
                    instance.pins[pin]: instance for pin in cells[instance.kind].outputs if pin in instance.pins
                }
        order: list[Instance] = []
        state: dict[str, bool] = {}  # absent: not visited; False: its inputs are being visited; True: done
        for start in drivers.values():
            path = [start]
            while path:
                instance = path[-1]
                if state.get(instance.name):
                    path.pop()
                    continue
                wanted = [drivers[net] for net in self._read(cells, instance) if net in drivers]
                waiting = [driver for driver in wanted if not state.get(driver.name)]
                if waiting and any(driver.name in state for driver in waiting):
                    raise ValueError(
                        f"netlist {self.name}: {instance.name} ({instance.kind}) is on a combinational loop"
                    )
                state[instance.name] = not waiting
                if waiting:
                    path += waiting[:1]
                else:
                    order.append(path.pop())
        return tuple(order)

    def _read(self, cells: Mapping[str, Cell], instance: Instance) -> list[int]:
        return [instance.pins[pin] for pin in cells[instance.kind].inputs if pin in instance.pins]


def count_cells(text: str) -> dict[str, int]:
    """Cells of each type in the top module of yosys' JSON, whatever they are."""
    modules = json.loads(text)["modules"].values()
    top = next(module for module in modules if _flag(module, "top"))
    return dict(Counter(about["type"] for about in top["cells"].values()))


def read_netlist(text: str, name: str | None = None) -> Netlist:
    """The one module of yosys' JSON, or the named one. Undefined bits read as zero."""
    modules = {
        n: m for n, m in json.loads(text)["modules"].items() if not _flag(m, "blackbox") and not _flag(m, "whitebox")
    }
    if name is None and len(modules) != 1:
        raise ValueError(f"a netlist of one module is wanted, found {len(modules)}: {', '.join(modules)}; flatten it")
    name = name or next(iter(modules))
    module = modules[name]
    ports = {port: (about["direction"], _nets(about["bits"])) for port, about in module["ports"].items()}
    instances = []
    for label, about in module["cells"].items():
        wide = [pin for pin, bits in about["connections"].items() if len(bits) > 1]
        if wide:
            raise ValueError(f"netlist {name}: {label} ({about['type']}) has pins of several bits; map it to gates")
        pins = {pin: _nets(bits)[0] for pin, bits in about["connections"].items() if bits}
        instances.append(Instance(label, about["type"], pins))
    ones = set()
    for about in module["netnames"].values():
        start = about.get("attributes", {}).get("init", "")
        if isinstance(start, str):
            ones |= {bit for bit, value in zip(about["bits"], reversed(start), strict=False) if value == "1"}
    return Netlist(
        name,
        {port: nets for port, (way, nets) in ports.items() if way == "input"},
        {port: nets for port, (way, nets) in ports.items() if way == "output"},
        tuple(instances),
        signed=frozenset(port for port, about in module["ports"].items() if about.get("signed")),
        ones=frozenset(ones),
    )


def _flag(module: Mapping[str, Any], name: str) -> bool:
    return "1" in str(module.get("attributes", {}).get(name, "0"))


def _nets(bits: list[int | str]) -> tuple[int, ...]:
    return tuple(CONSTANTS[bit] if isinstance(bit, str) else bit for bit in bits)


@functools.cache
def yosys_gates() -> Mapping[str, Cell]:
    """The gates that yosys maps to before it knows a library, as cells without size."""
    functions = {
        "$_BUF_": "A", "$_NOT_": "!A", "$_AND_": "A & B", "$_NAND_": "!(A & B)", "$_OR_": "A | B", "$_NOR_": "!(A | B)",
        "$_XOR_": "A ^ B", "$_XNOR_": "!(A ^ B)", "$_ANDNOT_": "A & !B", "$_ORNOT_": "A | !B",
        "$_MUX_": "A & !S | B & S", "$_NMUX_": "!(A & !S | B & S)",
        "$_AOI3_": "!(A & B | C)", "$_OAI3_": "!((A | B) & C)",
        "$_AOI4_": "!(A & B | C & D)", "$_OAI4_": "!((A | B) & (C | D))",
    }  # fmt: skip
    cells = {name: _gate(name, text) for name, text in functions.items()}
    cells["$_DFF_P_"] = Cell(
        "$_DFF_P_",
        0.0,
        pins=(Pin("D", False), Pin("C", False), Pin("Q", True, function=parse_function("IQ"))),
        flip_flop=FlipFlop("IQ", "IQN", parse_function("C"), parse_function("D")),
    )
    return cells


def _gate(name: str, text: str) -> Cell:
    function = parse_function(text)
    return Cell(name, 0.0, pins=(*(Pin(pin, False) for pin in function.inputs), Pin("Y", True, function=function)))
