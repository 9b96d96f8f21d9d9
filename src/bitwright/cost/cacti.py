"""Buffers by runs of CACTI, for sizes, words and nodes that the shipped table has not.

Through the package hwcomponents-cacti (Python 3.12 or newer), which brings CACTI's source and a program built from it;
where that program does not start, `make clean && make opt` in its folder builds another.
"""

import importlib.metadata
from dataclasses import dataclass
from functools import cache

from bitwright.cost.figure import Cited


@dataclass(frozen=True)
class CactiSram:
    """A buffer of equal banks, read and written a word at a time, as `memory.Sram`. ImportError without CACTI."""

    kilobytes: float | int
    word_bits: int = 64
    banks: int = 1
    node_nm: int = 45

    @property
    def bits(self) -> float:
        """Capacity."""
        return self.kilobytes * 8192.0

    @property
    def area_um2(self) -> Cited:
        return self._figure(0).times(self.banks)

    @property
    def read_pj_per_bit(self) -> Cited:
        return self._figure(1).times(1 / self.word_bits)

    @property
    def write_pj_per_bit(self) -> Cited:
        return self._figure(2).times(1 / self.word_bits)

    def _figure(self, which: int) -> Cited:
        words = round(self.kilobytes * 8192 / self.banks / self.word_bits)
        return Cited(_run(words, self.word_bits, self.node_nm)[which], f"CACTI, {_package()}, {self.node_nm} nm")


@cache
def _run(words: int, word_bits: int, node_nm: int) -> tuple[float, float, float]:
    """µm², pJ of a word read, pJ of a word written, of one bank."""
    try:
        from hwcomponents_cacti import SRAM
    except ImportError:
        raise ImportError(
            "CACTI is not installed; use the shipped table, or with Python 3.12 or newer pip install 'bitwright[cacti]'"
        ) from None
    bank = SRAM(tech_node=node_nm * 1e-9, width=word_bits, depth=words, size=words * word_bits)
    return bank.area * 1e12, bank.read().energy * 1e12, bank.write().energy * 1e12  # from m² and J


@cache
def _package() -> str:
    return f"hwcomponents-cacti {importlib.metadata.version('hwcomponents-cacti')}"
