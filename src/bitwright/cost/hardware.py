"""An accelerator from words, as a command line has them."""

import re
from typing import TypeVar

from bitwright.cost.accelerator import Accelerator
from bitwright.cost.cacti import CactiSram
from bitwright.cost.memory import DRAM_PJ_PER_BIT, Dram, Sram
from bitwright.cost.schedule import DATAFLOWS

T = TypeVar("T")

WORD_BITS = 128
LARGEST_BANK = 1024  # KB


def accelerator(
    array: str = "32x32", dataflow: str = "ws", buffers: str = "128,128,128", dram: str = "lpddr4", *,
    dram_bits: int = 256, clock_mhz: float = 500.0, memory: type[Sram] | type[CactiSram] = Sram,
) -> Accelerator:  # fmt: skip
    """`array` is rows x columns, `buffers` KB for weights, inputs and sums, beyond 1 MB in banks of as much."""
    found = re.fullmatch(r"(\d+)x(\d+)", array)
    if not found:
        raise ValueError(f"an array of {array!r} found; write rows and columns as 32x32")
    rows, columns = int(found[1]), int(found[2])
    if not rows or not columns:
        raise ValueError(f"an array of {array!r} has no cells; write rows and columns as 32x32")
    try:
        sizes = [float(text) for text in buffers.split(",")]
    except ValueError:
        sizes = []
    if len(sizes) != 3 or not all(0 < size < float("inf") for size in sizes):
        raise ValueError(f"buffers of {buffers!r} found; write three sizes in KB, as 128,128,128")
    weight, inputs, output = (memory(size, WORD_BITS, banks=int(-(-size // LARGEST_BANK))) for size in sizes)
    return Accelerator(
        rows, columns, _one_of(DATAFLOWS, dataflow, "dataflow"), weight, inputs, output,
        Dram(_one_of(DRAM_PJ_PER_BIT, dram, "memory"), dram_bits), clock_mhz,
    )  # fmt: skip


def _one_of(choices: dict[str, T], name: str, what: str) -> T:
    if name not in choices:
        raise ValueError(f"there is no {what} {name!r}; choose from {', '.join(choices)}")
    return choices[name]
