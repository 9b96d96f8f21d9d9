"""ANT's analytic accelerator simulator: cycles and energy of a layer from its shape, over all tilings and loop orders.

C. Guo et al., "ANT: exploiting adaptive numerical data type for low-bit deep neural network quantization", MICRO 2022;
artifact clevercool/ANT-Quantization@bc84067, ant_simulator, which descends from BitFusion's (H. Sharma et al., ISCA
2018).
It is kept as it is so that the published figures come out. What a reader should know: kernels count as square, of their
height (1x7 as 1x1, 7x1 as 7x7); buffers' leakage steers the choice of a tiling but is no part of the energy; a reused
output tile does not count as resident when the first fill is timed; products of attention are left out.
For estimates of one's own there is `estimate`; this module reproduces a paper.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from itertools import permutations
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from jaxtyping import Int as Ints

OUTPUT_BITS = 16
BITS_PER_CYCLE = 1024  # of the memory interface
WEIGHT_SRAM, INPUT_SRAM, OUTPUT_SRAM = (kilobytes * 8192 for kilobytes in (128, 256, 128))  # bits

# CACTI at 28 nm, nJ a bit: bitfusion/sram/cacti_sweep.csv; banks of 4 KB, 8 KB and 128 bytes
WEIGHT_READ, WEIGHT_WRITE = 0.0168924 / 512, 0.0203422 / 512
INPUT_READ, INPUT_WRITE = 0.0177688 / 512, 0.0248866 / 512
OUTPUT_READ, OUTPUT_WRITE = 0.000294945 / 32, 0.000415925 / 32
SRAM_LEAKAGE = (2.96594 * 32 + 5.4983 * 32 + 0.127708 * 1024) * 1e6 / 5e8  # nJ a cycle at 500 MHz
SEARCH_STATIC, SEARCH_READ, SEARCH_WRITE = 3838.05 / 500_000, 1.18294 / 1024, 1.47797 / 1024
STATIC, DRAM_READ, DRAM_WRITE = 484.615 / 500, 0.644304 / 1024, 0.784104 / 1024  # nJ a cycle, nJ a bit

Tiles = Ints[np.ndarray, " tiles"]


class Shape(NamedTuple):
    """A layer: kernel height, output width and height, channels, and images (or tokens, with kernel and output 1)."""

    kernel: int
    output: int
    inputs: int
    outputs: int
    batch: int


@dataclass(frozen=True)
class Processor:
    """Leakage and dynamic energy of one processing element, nW at 500 MHz; results/systolic_array_synth.csv."""

    widest_bits: int
    narrowest_bits: int
    leakage_nw: float
    dynamic_nw: float


FUSED_8_4 = Processor(8, 4, 64_314.0, 279_960.0)
FIXED_6 = Processor(6, 6, 28_458.0, 123_882.0)


class TileCounts(NamedTuple):
    """Candidate tilings: how many tiles, and rows, reduction and outputs of one."""

    number: Tiles
    rows: Tiles
    reduction: Tiles
    outputs: Tiles


class Flow(ABC):
    """What stays in the array."""

    @abstractmethod
    def cycles(self, rows: int, columns: int, tiles: TileCounts) -> Tiles:
        """Cycles of arithmetic on an array of so many elements."""

    @abstractmethod
    def sram_nj(self, tiles: TileCounts, bits: int, results: Tiles) -> Float[np.ndarray, " tiles"]:
        """Energy of the array's buffer accesses, with `results` bits of outputs that leave."""


class OutputStationary(Flow):
    def cycles(self, rows: int, columns: int, tiles: TileCounts) -> Tiles:
        spatial = _ceil(tiles.rows, rows) * _ceil(tiles.outputs, columns)
        return tiles.number * spatial * tiles.reduction

    def sram_nj(self, tiles: TileCounts, bits: int, results: Tiles) -> Float[np.ndarray, " tiles"]:
        partial = tiles.number * tiles.outputs * tiles.rows
        operand = partial * tiles.reduction * bits
        written = partial * OUTPUT_BITS
        return operand * (INPUT_READ + WEIGHT_READ) + (results + written) * OUTPUT_READ + written * OUTPUT_WRITE


class WeightStationary(Flow):
    def cycles(self, rows: int, columns: int, tiles: TileCounts) -> Tiles:
        spatial = _ceil(tiles.outputs, columns) * _ceil(tiles.reduction, rows)
        return tiles.number * tiles.rows * spatial

    def sram_nj(self, tiles: TileCounts, bits: int, results: Tiles) -> Float[np.ndarray, " tiles"]:
        weights = tiles.number * tiles.reduction * tiles.outputs
        moved = weights * tiles.rows * OUTPUT_BITS
        reads = weights * tiles.rows * bits * INPUT_READ + weights * bits * WEIGHT_READ
        return reads + (results + moved) * OUTPUT_READ + moved * OUTPUT_WRITE


@dataclass(frozen=True)
class Design:
    """An array of processing elements and how data move through it."""

    rows: int
    columns: int
    processor: Processor = FUSED_8_4
    flow: Flow = OutputStationary()

    @property
    def leakage_nj(self) -> float:
        """A cycle."""
        return self.processor.leakage_nw * self.rows * self.columns / 5e8

    @property
    def dynamic_nj(self) -> float:
        """A cycle that computes."""
        return self.processor.dynamic_nw * self.rows * self.columns / 5e8


class Run(NamedTuple):
    """What a layer takes. Energies in nJ."""

    cycles: int
    stall: int
    static_nj: float
    dram_nj: float
    buffer_nj: float
    core_nj: float

    @property
    def energy_nj(self) -> float:
        return self.static_nj + self.dram_nj + self.buffer_nj + self.core_nj


@cache
def simulate(design: Design, shape: Shape, bits: int) -> Run:
    """The tiling and loop order of fewest cycles, then of least energy, with both operands of so many bits."""
    fold = design.processor.widest_bits // max(bits, design.processor.narrowest_bits)
    flow = design.flow
    b, o, ic, oc = (axis.ravel() for axis in np.meshgrid(*map(_sizes, _axes(shape)), indexing="ij"))
    area = shape.kernel**2
    high, wide = design.rows * fold, design.columns * fold
    weight = _ceil(area * ic, high) * high * oc * bits
    inputs = o**2 * _ceil(area * ic, wide) * wide * b * bits
    fits = (2 * weight <= WEIGHT_SRAM) & (2 * inputs <= INPUT_SRAM)
    b, o, ic, oc, weight, inputs = (a[fits] for a in (b, o, ic, oc, weight, inputs))
    counts = {"b": _ceil(shape.batch, b), "w": _ceil(shape.output, o), "h": _ceil(shape.output, o),
              "i": _ceil(shape.inputs, ic), "o": _ceil(shape.outputs, oc)}  # fmt: skip
    tiles = TileCounts(np.prod(list(counts.values()), axis=0), b * o**2, area * ic, oc)
    compute = flow.cycles(high, wide, tiles)
    best: tuple[int, float, Run] | None = None
    for order in _ORDERS:
        w, w_held = _traffic(order, counts, weight, "io", WEIGHT_SRAM)
        a, a_held = _traffic(order, counts, inputs, "bwhi", INPUT_SRAM)
        r, r_held = _traffic(order, counts, o**2 * oc * b * OUTPUT_BITS, "bwho", OUTPUT_SRAM, held_after=0)
        latency = _ceil(w_held + a_held, BITS_PER_CYCLE) + _ceil(r_held, BITS_PER_CYCLE)
        moved = _ceil(w + a + r - w_held - a_held - r_held, BITS_PER_CYCLE)
        stall = np.maximum(0, moved - compute) + latency
        cycles = compute + stall
        fewest = np.flatnonzero(cycles == cycles.min())
        buffer = flow.sram_nj(tiles, bits, r) + w * WEIGHT_WRITE + a * INPUT_WRITE
        core = cycles * design.leakage_nj + compute * design.dynamic_nj
        memory = (w + a) * SEARCH_READ + r * SEARCH_WRITE
        searched = (cycles * (SRAM_LEAKAGE + SEARCH_STATIC) + core + buffer + memory)[fewest]
        i = fewest[searched.argmin()]
        if best is None or (cycles[i], searched.min()) < best[:2]:
            dram = (w[i] + a[i]) * DRAM_READ + r[i] * DRAM_WRITE
            run = Run(int(cycles[i]), int(stall[i]), float(cycles[i] * STATIC), float(dram), float(buffer[i]),
                      float(core[i]))  # fmt: skip
            best = int(cycles[i]), float(searched.min()), run
    assert best is not None, "a tile of one element fits"
    return best[2]


# width and height of the output count alike, so orders that differ only there are one
_ORDERS = tuple(order for order in permutations("bwhio") if order.index("w") < order.index("h"))


def _traffic(
    order: tuple[str, ...], counts: dict[str, Tiles], first: Tiles, own: str, sram: int, held_after: int | None = None
) -> tuple[Tiles, Tiles]:
    """Bits moved, and bits held at once, of an operand whose tile has `first` bits and depends on the loops in `own`.

    From the innermost loop outwards an operand is kept while all that it needs fits into half its buffer. `held_after`
    stands for what is held once more than the first tile is kept.
    """
    moved, held = first, first
    is_kept = np.ones(len(first), bool)
    for loop in order:
        if loop in own:
            moved = moved * counts[loop]
            is_kept &= 2 * moved <= sram
            held = np.where(is_kept, moved if held_after is None else held_after, held)
        else:
            moved = np.where(is_kept, moved, moved * counts[loop])
    return moved, held


def _axes(shape: Shape) -> tuple[int, int, int, int]:
    return shape.batch, shape.output, shape.inputs, shape.outputs


def _sizes(whole: int) -> list[int]:
    """Tile sizes along an axis: powers of two, and the whole."""
    return sorted({min(2**i, whole) for i in range((whole - 1).bit_length() + 1)})


def _ceil(a: Tiles | int, b: Tiles | int) -> Tiles:
    return -(-a // b)  # type: ignore[return-value]
