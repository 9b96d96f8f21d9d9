"""Cycles of a matrix product on a systolic array, and what moves between array, buffers and DRAM.

An array takes a product in folds: two of its axes lie on the rows and columns, the third streams through. Cycles are
those of a fixed-size array, edge folds padded with zeros; SCALE-Sim (A. Samajdar et al., arXiv:1811.02883; 3.0.0)
reports the index of the last one, so one less. A fold begins when the one before is out. Of output-stationary arrays
the sums leave through registers of their own while the next fold runs.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import permutations, product
from math import ceil, prod
from typing import NamedTuple

from bitwright.gemm import Gemm

AXES = {"input": "mk", "weight": "nk", "output": "mn"}
"""What each operand depends on."""

Tile = dict[str, int]
"""Elements along each axis."""

SLACK = 1.02
"""How much longer than the fastest plan one may take that moves less."""


@dataclass(frozen=True)
class Cell:
    """What an array repeats: it takes `lanes` elements along K at once and needs `steps` cycles for them.

    A bit-parallel multiplier has one lane and one step, a vector unit more lanes, a serial one more steps. A serial
    cell counts the operations of a multiply-accumulate, the others count one.
    """

    lanes: int = 1
    steps: int = 1
    operations_per_mac: float = 1.0

    def __post_init__(self) -> None:
        if min(self.lanes, self.steps) < 1:
            raise ValueError(f"Cell: {self} found; lanes and steps are at least 1")


@dataclass(frozen=True)
class Array:
    """Rows and columns of cells."""

    rows: int
    columns: int
    cell: Cell = Cell()

    def __post_init__(self) -> None:
        if min(self.rows, self.columns) < 1:
            raise ValueError(f"Array: {self.rows} rows and {self.columns} columns found; at least 1 of each is needed")

    @property
    def macs_per_cycle(self) -> float:
        """At full use."""
        return self.rows * self.columns * self.cell.lanes / self.cell.steps


def term_serial(*, group: int, budget: int, data_terms: int) -> Cell:
    """Term Revealing's: a group of weights with `budget` terms takes budget · data_terms cycles, a pair in each.

    Kung et al., SC 2020, arXiv:2007.06389. No cell waits for another, as all have the same bound.
    """
    return Cell(group, budget * data_terms, budget * data_terms / group)


def bit_serial(*, group: int, weight_bits: int, data_bits: int) -> Cell:
    """The same cell on plain integers: every magnitude bit of a weight meets every one of an input."""
    return Cell(group, group * weight_bits * data_bits, float(weight_bits * data_bits))


class Widths(NamedTuple):
    """Bits of what moves: elements with their scales; sums in the array's width until they are complete."""

    weight: float
    input: float
    accumulator: int
    output: float


class Capacity(NamedTuple):
    """Bits of the three buffers. Half of each holds what is used, the other half what comes next."""

    weight: float
    input: float
    output: float


class Traffic(NamedTuple):
    """Bits moved for one layer."""

    weight: float
    input: float
    output_written: float
    output_read: float  # sums that come back to be added to

    @property
    def total(self) -> float:
        return float(sum(self))


class Plan(NamedTuple):
    """How a layer runs."""

    cycles: int  # with stalls
    compute_cycles: int
    sram: Traffic  # between array and buffers
    dram: Traffic
    order: str  # of the loops over tiles, innermost first
    m: int  # elements of a tile
    n: int
    k: int


class Dataflow(ABC):
    """Which operand stays in the array. A tile is what buffers hold at once: one fold, or several."""

    rows: str
    columns: str
    streamed: str
    name: str

    @abstractmethod
    def overhead(self, array: Array) -> int:
        """Cycles of a fold beyond those of its streaming axis."""

    @abstractmethod
    def changeover(self, array: Array) -> int:
        """Cycles of the shortest fold where the next one is prepared while it runs."""

    @abstractmethod
    def parts(self, length: int) -> list[int]:
        """Candidate lengths of what streams through a fold."""

    @abstractmethod
    def orders(self) -> tuple[str, ...]:
        """Orders of the loops over tiles, innermost first."""

    def fold(self, array: Array, gemm: Gemm) -> Tile:
        """Elements of each axis in a fold that streams all of its axis."""
        held = {self.rows: array.rows, self.columns: array.columns, self.streamed: max(_sizes(gemm)[self.streamed], 1)}
        if self.streamed != "k":
            held["k"] *= array.cell.lanes
        return held

    def tiles(self, array: Array, gemm: Gemm) -> Iterator[Tile]:
        """Candidates: whole folds along rows and columns, and parts of what streams."""
        fold = self.fold(array, gemm)
        lengths = {axis: _multiples(fold[axis], size) for axis, size in _sizes(gemm).items()}
        lengths[self.streamed] = self.parts(fold[self.streamed])
        for sizes in product(*(lengths[axis] for axis in "mnk")):
            yield dict(zip("mnk", sizes, strict=True))

    def compute_cycles(self, array: Array, gemm: Gemm, part: int | None = None) -> int:
        """Cycles without stalls, with `part` elements of the streaming axis in a fold (None: all).

        Closed form: folds · (overhead + steps · streamed).
        """
        folds = self._folds(array, gemm, part)
        length = _sizes(gemm)[self.streamed]
        if self.streamed == "k":
            length = -(-length // array.cell.lanes)
        streaming = folds[self.streamed] * self.overhead(array) + array.cell.steps * length
        return gemm.groups * folds[self.rows] * folds[self.columns] * streaming

    def overlapped_cycles(self, array: Array, gemm: Gemm) -> int:
        """Cycles of an engine that prepares the next fold while one runs, from the first beat in to the last one out.

        Those of `bitwright.rtl.engine` for one job without pauses: multipliers of one lane and one step, sums without
        outer registers, which take one cycle more in all (floats four), and without saturation from fold to fold.
        Closed form: 2·rows + columns + streamed + 2 + (folds - 1) · max(streamed, changeover).
        """
        counts = self._folds(array, gemm, None)
        folds, length = gemm.groups * counts[self.rows] * counts[self.columns], _sizes(gemm)[self.streamed]
        filling = 2 * array.rows + array.columns + length + 2
        return filling + (folds - 1) * max(length, self.changeover(array))

    def sram(self, array: Array, gemm: Gemm, widths: Widths, part: int | None = None) -> Traffic:
        """Between array and buffers: each operand once for every fold that it meets."""
        folds = self._folds(array, gemm, part)
        times = {name: prod(folds[a] for a in "mnk" if a not in axes) for name, axes in AXES.items()}
        visits = _elements(gemm, "output") * times["output"]
        return Traffic(
            _elements(gemm, "weight") * times["weight"] * widths.weight,
            _elements(gemm, "input") * times["input"] * widths.input,
            visits * widths.accumulator,
            max(visits - _elements(gemm, "output"), 0) * widths.accumulator,
        )

    def _folds(self, array: Array, gemm: Gemm, part: int | None) -> dict[str, int]:
        """How many along each axis, of one group."""
        fold = self.fold(array, gemm)
        return _counts(gemm, fold if part is None else fold | {self.streamed: part})


class _Preloaded(Dataflow):
    """An operand is loaded into the array, row by row, before the third axis streams."""

    def overhead(self, array: Array) -> int:
        return 2 * array.rows + array.columns - 2

    def changeover(self, array: Array) -> int:
        return max(array.rows, 2) + 1

    def parts(self, length: int) -> list[int]:
        return sorted({min(part, length) for part in _multiples(16, length)})

    def orders(self) -> tuple[str, ...]:
        return tuple(map("".join, permutations("mnk")))


class WeightStationary(_Preloaded):
    """Rows of K and columns of outputs hold the weights; inputs stream."""

    rows, columns, streamed, name = "k", "n", "m", "weight stationary"


class InputStationary(_Preloaded):
    """Rows of K and columns of inputs hold the inputs; weights stream."""

    rows, columns, streamed, name = "k", "m", "n", "input stationary"


class OutputStationary(Dataflow):
    """Each cell holds one sum; inputs come from the left and weights from above, K streams."""

    rows, columns, streamed, name = "m", "n", "k", "output stationary"

    def overhead(self, array: Array) -> int:
        return array.rows + array.columns - 2

    def changeover(self, array: Array) -> int:
        return array.rows

    def parts(self, length: int) -> list[int]:
        return [length]

    def orders(self) -> tuple[str, ...]:
        return "kmn", "knm"


DATAFLOWS = {"ws": WeightStationary(), "os": OutputStationary(), "is": InputStationary()}


@cache
def plan(
    dataflow: Dataflow, array: Array, gemm: Gemm, *, widths: Widths, capacity: Capacity, bits_per_cycle: int
) -> Plan:
    """The tile and loop order of least DRAM traffic among those that take little longer than the fastest.

    DRAM works beside the array; where it needs longer, the array waits. The first tiles are waited for.
    """
    fold, plans = dataflow.fold(array, gemm), []
    for tile in dataflow.tiles(array, gemm):
        bits = {name: prod(tile[a] for a in own) * width for (name, own), width in zip(AXES.items(), _moved(widths))}
        rooms = {name: int(getattr(capacity, name) / 2 // bits[name]) for name in AXES}
        is_one_fold = all(tile[axis] <= fold[axis] for axis in "mnk")
        if not is_one_fold and not all(rooms.values()):
            continue
        part = tile[dataflow.streamed]
        compute, sram = dataflow.compute_cycles(array, gemm, part), dataflow.sram(array, gemm, widths, part)
        for order in dataflow.orders():
            dram = _dram(gemm, _counts(gemm, tile), order, rooms, widths)
            wait = ceil(min(bits["weight"] + bits["input"], dram.weight + dram.input) / bits_per_cycle)
            cycles = max(compute, ceil(dram.total / bits_per_cycle)) + wait if compute else 0
            plans.append(Plan(cycles, compute, sram, dram, order, tile["m"], tile["n"], tile["k"]))
    fastest = min(plan.cycles for plan in plans)
    return min((p for p in plans if p.cycles <= SLACK * fastest), key=lambda p: (p.dram.total, p.cycles))


def reloads(own: str, order: str, folds: dict[str, int], room: int) -> int:
    """How many tiles of an operand come from memory, for one group; `room` is how many its buffer keeps.

    From the innermost loop outwards an operand is kept while all its tiles so far have room; a loop that it does not
    depend on then costs nothing. These are the misses of a buffer that gives up what was used longest ago.
    """
    count, is_kept = 1, room >= 1
    for axis in order:
        if axis in own:
            count *= folds[axis]
            is_kept = is_kept and count <= room
        elif not is_kept:
            count *= folds[axis]
    return count


def _dram(gemm: Gemm, counts: dict[str, int], order: str, rooms: dict[str, int], widths: Widths) -> Traffic:
    """Of tiles in these numbers along each axis, of which buffers keep so many."""
    moved = {}
    for name, own in AXES.items():
        loaded = reloads(own, order, counts, rooms[name])
        moved[name] = _elements(gemm, name) * loaded / max(prod(counts[a] for a in own), 1)
    outputs = _elements(gemm, "output")
    spilled = max(moved["output"] - outputs, 0) * widths.accumulator
    return Traffic(
        moved["weight"] * widths.weight, moved["input"] * widths.input, outputs * widths.output + spilled, spilled
    )


def _moved(widths: Widths) -> tuple[float, float, int]:
    """In the order of AXES."""
    return widths.input, widths.weight, widths.accumulator


def _elements(gemm: Gemm, operand: str) -> int:
    return gemm.groups * prod(_sizes(gemm)[axis] for axis in AXES[operand])


def _counts(gemm: Gemm, tile: Tile) -> dict[str, int]:
    return {axis: -(-size // tile[axis]) for axis, size in _sizes(gemm).items()}


def _multiples(base: int, size: int) -> list[int]:
    """base times 1, 4, 16, ..., and what covers all of it."""
    all_of_it = max(-(-size // base), 1) * base
    powers = range((all_of_it // base).bit_length())
    return sorted({min(base * 4**i, all_of_it) for i in powers} | {all_of_it})


def _sizes(gemm: Gemm) -> dict[str, int]:
    return {"m": gemm.m, "n": gemm.n, "k": gemm.k}
