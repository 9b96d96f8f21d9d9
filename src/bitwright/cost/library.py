"""What synthesis, timing and power read of a standard-cell library, in one set of units: µm², fF, ns, fJ, nW, V."""

import bisect
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field

from bitwright.cost.liberty_function import Function


@dataclass(frozen=True)
class Table:
    """Values over input slew (ns) and load (fF), linear between the points and beyond them.

    A setup time's second axis is the slew of the clock (ns) instead.
    """

    slews_ns: tuple[float, ...]
    loads_ff: tuple[float, ...]
    values: tuple[tuple[float, ...], ...]
    """One row a slew."""

    def __post_init__(self) -> None:
        shape = (len(self.values), *{len(row) for row in self.values})
        if shape != (len(self.slews_ns), len(self.loads_ff)):
            raise ValueError(f"Table: {len(self.slews_ns)} slews and {len(self.loads_ff)} loads, but values of {shape}")

    def at(self, slew_ns: float, load_ff: float) -> float:
        """Bilinear interpolation; the outermost cell of the table goes on beyond its edge."""
        row, u = _position(self.slews_ns, slew_ns)
        column, v = _position(self.loads_ff, load_ff)
        across = [
            _between(line[column], line[min(column + 1, len(line) - 1)], v) for line in self.values[row : row + 2]
        ]
        return _between(across[0], across[-1], u)


@dataclass(frozen=True)
class Arc:
    """Delay from a pin to an output, or the setup time of a pin before a clock edge."""

    source: str
    kind: str
    """combinational, clock (clock pin to output) or setup."""
    sense: str
    """positive_unate, negative_unate or non_unate."""
    rise: Table | None
    fall: Table | None
    rise_slew: Table | None = None
    fall_slew: Table | None = None


@dataclass(frozen=True)
class Energy:
    """Energy (fJ) that a transition of a pin takes inside the cell, the load not counted."""

    source: str | None
    """The pin whose transition caused it; None for the pin's own."""
    rise: Table | None
    fall: Table | None


@dataclass(frozen=True)
class Pin:
    """One pin of a cell; outputs have a function, inputs a capacitance."""

    name: str
    is_output: bool
    capacitance_ff: float = 0.0
    function: Function | None = None
    arcs: tuple[Arc, ...] = ()
    energies: tuple[Energy, ...] = ()


@dataclass(frozen=True)
class FlipFlop:
    """State of a sequential cell; `state` and `negated` are the names that functions read it by."""

    state: str
    negated: str
    clock: Function
    next_state: Function
    clear: Function | None = None
    preset: Function | None = None


@dataclass(frozen=True)
class Cell:
    """One cell. A cell that keeps a state otherwise than in a flip-flop has outputs without functions."""

    name: str
    area_um2: float
    leakage_nw: float = 0.0
    pins: tuple[Pin, ...] = ()
    flip_flop: FlipFlop | None = None

    @functools.cached_property
    def by_name(self) -> Mapping[str, Pin]:
        """The pins by their names."""
        return {pin.name: pin for pin in self.pins}

    @functools.cached_property
    def inputs(self) -> tuple[str, ...]:
        """Names of the input pins, the clock among them."""
        return tuple(pin.name for pin in self.pins if not pin.is_output)

    @functools.cached_property
    def outputs(self) -> tuple[str, ...]:
        """Names of the output pins."""
        return tuple(pin.name for pin in self.pins if pin.is_output)


@dataclass(frozen=True)
class Library:
    """A cell library: its cells, and the text that yosys maps with."""

    name: str
    voltage_v: float
    gate_area_um2: float
    """Area of the smallest two-input NAND: one gate equivalent."""
    cells: Mapping[str, Cell] = field(repr=False, compare=False, hash=False)
    liberty: tuple[str, ...] = field(repr=False)
    """Liberty texts, without cells that are not to be used."""
    source: str = ""

    def cell(self, name: str) -> Cell:
        """The named cell. KeyError names the library where it has none."""
        if name not in self.cells:
            raise KeyError(f"the library {self.name} has no cell {name}; was the netlist mapped to another one?")
        return self.cells[name]


def _position(points: tuple[float, ...], x: float) -> tuple[int, float]:
    """Index of the point below and the share of the way to the next."""
    if len(points) == 1:
        return 0, 0.0
    below = min(max(bisect.bisect_right(points, x) - 1, 0), len(points) - 2)
    return below, (x - points[below]) / (points[below + 1] - points[below])


def _between(low: float, high: float, share: float) -> float:
    return low + (high - low) * share
