"""A circuit as simulators take it: RTLIL, and where each port lies in a row of 32-bit words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Shaped, UInt32

from bitwright.rtl.unit import Unit
from bitwright.rtl.verilog import digest, rtlil, to_verilog

WORD = 32


@dataclass(frozen=True)
class Port:
    """Some wires of a circuit's boundary, lowest bits in the first word."""

    name: str
    bits: int
    is_signed: bool = False

    @property
    def words(self) -> int:
        return -(-self.bits // WORD)


@dataclass(frozen=True)
class Row:
    """Ports one after another, each on whole words: what goes in or comes out at one clock."""

    ports: tuple[Port, ...]

    @cached_property
    def first(self) -> dict[str, int]:
        """The first word of each port."""
        found, word = {}, 0
        for port in self.ports:
            found[port.name] = word
            word += port.words
        return found

    @property
    def words(self) -> int:
        return sum(port.words for port in self.ports)

    def pack(self, values: Mapping[str, Sequence[int] | Shaped[np.ndarray, " steps"]]) -> UInt32[np.ndarray, "steps _"]:
        """A row a step; ports without values are zero. ValueError for a name that is no port."""
        unknown = sorted(set(values) - set(self.first))
        if unknown:
            raise ValueError(f"the circuit has no input {unknown[0]!r}; it has {', '.join(self.first)}")
        steps = max((len(v) for v in values.values()), default=0)
        rows = np.zeros((steps, self.words), np.uint32)
        for port in self.ports:
            if port.name in values:
                first = self.first[port.name]
                rows[:, first : first + port.words] = _words(values[port.name], port.bits)
        return rows

    def unpack(self, rows: UInt32[np.ndarray, "steps _"]) -> dict[str, Shaped[np.ndarray, " steps"]]:
        """The integers of each port; Python's where 63 bits do not hold them."""
        found = {}
        for port in self.ports:
            first = self.first[port.name]
            wide = np.int64 if port.bits < 63 else object
            value = np.zeros(len(rows), wide)
            for i in range(port.words):
                value = value | rows[:, first + i].astype(wide) << (WORD * i)
            if port.is_signed:
                value = value - ((value >> (port.bits - 1)) << port.bits)
            found[port.name] = value
        return found


@dataclass(frozen=True)
class Design:
    """A circuit with the ports of its unit."""

    name: str
    rtlil: str
    inputs: Row
    outputs: Row
    is_clocked: bool

    @cached_property
    def verilog(self) -> str:
        """Needs yosys: pip install 'bitwright[synthesis]'."""
        return to_verilog(self.rtlil)

    @property
    def streams(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """AXI4-Stream ports: those that take beats, and those that give them."""
        takes, gives = (
            tuple(port.name.removesuffix("_tvalid") for port in row.ports if port.name.endswith("_tvalid"))
            for row in (self.inputs, self.outputs)
        )
        return takes, gives

    @property
    def sha256(self) -> str:
        """Of the RTLIL, as `digest` counts it."""
        return digest(self.rtlil)


def design(unit: Unit, name: str) -> Design:
    """The circuit of a unit; ports of no bits are left out."""
    ports: dict[bool, list[Port]] = {True: [], False: []}
    for port, (wire, is_input) in unit.ports().items():
        if len(wire):
            ports[is_input].append(Port(port, len(wire), wire.shape().signed))
    return Design(name, rtlil(unit, name), Row(tuple(ports[True])), Row(tuple(ports[False])), unit.is_clocked)


def _words(values: Sequence[int] | Shaped[np.ndarray, " steps"], bits: int) -> UInt32[np.ndarray, "steps words"]:
    """The lowest bits of integers of any sign."""
    wide = object if bits > 62 else np.int64
    integers = np.asarray(values, wide) & ((1 << bits) - 1)
    shifts = np.arange(-(-bits // WORD)) * WORD
    return ((integers[:, None] >> shifts.astype(wide)) & 0xFFFFFFFF).astype(np.uint32)
