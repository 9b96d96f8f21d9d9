"""Energy and area of buffers and of DRAM.

Buffers come from a table of CACTI runs at 45 and 22 nm, interpolated in logarithms of capacity and word; DRAM from
constants. Leakage is left out of both.
"""

import json
from bisect import bisect_right
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import product
from math import exp, log
from typing import Any

from bitwright.cost.figure import Cited, Figure, Fitted

WORST_RATIO = {"area_um2": 1.24, "read_pj": 1.29, "write_pj": 1.21}
"""Each point from its neighbours of half and twice the capacity; median ratios are 1.06, 1.10 and 1.06 at most."""


@dataclass(frozen=True)
class Sram:
    """A buffer of equal banks that are read and written a word at a time."""

    kilobytes: float | int
    word_bits: int = 64
    banks: int = 1
    node_nm: int = 45

    def __post_init__(self) -> None:
        if self.node_nm not in _nodes():
            raise ValueError(
                f"Sram: a node of {self.node_nm} nm found; the table has {', '.join(map(str, _nodes()))} nm"
            )
        table = _table(self.node_nm)
        bank, (least, most) = self.kilobytes / self.banks, (table.kilobytes[0], table.kilobytes[-1])
        if not least <= bank <= most:
            raise ValueError(
                f"Sram: banks of {bank:g} KB found; the table has {least:g} to {most:g} KB, so choose another number "
                "of banks"
            )
        if not table.words[0] <= self.word_bits <= table.words[-1]:
            raise ValueError(
                f"Sram: words of {self.word_bits} bits found; the table has {table.words[0]:g} to {table.words[-1]:g}, "
                "so choose another word"
            )

    @property
    def bits(self) -> float:
        """Capacity."""
        return self.kilobytes * 8192.0

    @property
    def area_um2(self) -> Fitted:
        return self._interpolated("area_um2").times(self.banks)

    @property
    def read_pj_per_bit(self) -> Fitted:
        return self._interpolated("read_pj").times(1 / self.word_bits)

    @property
    def write_pj_per_bit(self) -> Fitted:
        return self._interpolated("write_pj").times(1 / self.word_bits)

    def _interpolated(self, column: str) -> Fitted:
        table = _table(self.node_nm)
        value = table.at(column, self.kilobytes / self.banks, float(self.word_bits))
        return Fitted(value, f"{table.source}, {self.node_nm} nm, interpolated", WORST_RATIO[column])


@dataclass(frozen=True)
class Dram:
    """Memory outside: energy of a bit moved either way, and bits that move in a cycle of the array."""

    pj_per_bit: Figure
    bits_per_cycle: int = 256

    def __post_init__(self) -> None:
        if self.bits_per_cycle < 1:
            raise ValueError(f"Dram: {self.bits_per_cycle} bits a cycle found; at least 1 is needed")


_HWCOMPONENTS = "constant of hwcomponents 1.0.114"
LPDDR4 = Cited(8.0, f"LPDDR4, {_HWCOMPONENTS}")
HBM2 = Cited(6.25, f"HBM2, {_HWCOMPONENTS}")
DDR3 = Cited(70.0, f"DDR3, {_HWCOMPONENTS}")
DRAM_PJ_PER_BIT = {"lpddr4": LPDDR4, "hbm2": HBM2, "ddr3": DDR3}


@dataclass(frozen=True)
class _Table:
    """Points of one node on a grid."""

    source: str
    kilobytes: tuple[float, ...]
    words: tuple[float, ...]
    values: dict[tuple[str, float, float], float]

    def at(self, column: str, kilobytes: float, word_bits: float) -> float:
        """Bilinear in logarithms; the point itself on the grid."""
        along = _weights(self.kilobytes, kilobytes), _weights(self.words, word_bits)
        corners = product(*along)
        return exp(sum(a * b * log(self.values[column, k, w]) for (k, a), (w, b) in corners))


def _weights(grid: tuple[float, ...], x: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """The grid's points beside x with the weights that they have at x."""
    i = min(bisect_right(grid, x), len(grid) - 1)
    part = log(x / grid[i - 1]) / log(grid[i] / grid[i - 1])
    return (grid[i - 1], 1 - part), (grid[i], part)


@cache
def _table(node_nm: int) -> _Table:
    stored = _stored()
    columns = stored["columns"]
    points = [dict(zip(columns, map(float, point), strict=True)) for point in stored["points"] if point[0] == node_nm]
    kilobytes, words = (tuple(sorted({p[name] for p in points})) for name in ("kilobytes", "word_bits"))
    values = {(name, p["kilobytes"], p["word_bits"]): p[name] for p in points for name in WORST_RATIO}
    return _Table(stored["source"], kilobytes, words, values)


@cache
def _nodes() -> tuple[int, ...]:
    return tuple(sorted({point[0] for point in _stored()["points"]}))


@cache
def _stored() -> dict[str, Any]:
    return json.loads((files("bitwright.cost") / "sram.json").read_text())
