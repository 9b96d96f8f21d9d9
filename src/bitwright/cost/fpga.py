"""Schemes on FPGAs: look-up tables, flip-flops and multiplier blocks of an array, from a table of counted circuits.

experiments/fpga_table.py counts them with yosys, unplaced. Nothing here runs it: to read the table, pyarrow is enough.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from bitwright.cost.figure import Figure
from bitwright.cost.mac import added
from bitwright.cost.table_array import NoCell, TableArray, Work, serving
from bitwright.cost.table_file import TableFile
from bitwright.cost.table_find import Columns, Finder, Found, Measure
from bitwright.cost.table_row import CircuitRow

RESOURCES = {"luts": "LUT", "flip_flops": "FF", "carries": "carry", "blocks": "DSP", "memories": "BRAM"}
"""Columns of the table, and what they are called in short."""


@dataclass(frozen=True)
class Part:
    """A family's block memory, as its maker describes it, for buffers that hold so many bits."""

    title: str
    memory: str
    memory_bits: int
    source: str


FAMILIES = {
    "ice40": Part("Lattice iCE40", "SB_RAM40", 4096, "Lattice FPGA-DS-02029"),
    "ecp5": Part("Lattice ECP5", "DP16KD", 16384, "Lattice FPGA-TN-02204"),
    "xc7": Part("Xilinx 7", "RAMB36E1", 32768, "Xilinx UG473"),
}


def is_family(name: str) -> bool:
    """Whether a library is an FPGA's."""
    return name in FAMILIES


@dataclass(frozen=True)
class FpgaRow(CircuitRow):
    """One circuit on one family: the family's cells that it takes. Nothing is timed, no operands drive it."""

    family: str
    luts: int
    flip_flops: int
    """Outside of blocks, which have registers of their own."""
    carries: int
    """A carry cell serves 1 bit (ice40), 2 (ecp5) or 4 (xc7)."""
    blocks: int
    """Multipliers."""
    memories: int
    sha256: str
    """Of the circuit's RTLIL."""
    tool: str


@dataclass(frozen=True)
class FpgaTable:
    """All rows, and what made them."""

    rows: tuple[FpgaRow, ...]
    command: str
    tools: Mapping[str, str]

    def about(self) -> dict[str, Any]:
        """What stands in the file beside the rows."""
        return {"command": self.command, "tools": dict(self.tools)}


FILE = TableFile("FPGA counts", FpgaRow, "experiments/fpga_table.py", "name a library of cells")


def write_fpga_table(table: FpgaTable, path: Path) -> None:
    """The table as a file that carries its stamp."""
    FILE.write(path, table.about(), table.rows)


@cache
def shipped_fpga_table() -> FpgaTable:
    """The one of this package."""
    with as_file(files("bitwright.cost") / "data" / "fpga.parquet") as path:
        about, rows = FILE.read(path)
    return FpgaTable(rows, **about)


@dataclass(frozen=True)
class Counts:
    """Figures by resource: of a cell, of what stands at each row, and at each column."""

    cell: Mapping[str, Figure]
    row: Mapping[str, Figure]
    column: Mapping[str, Figure]
    remarks: tuple[str, ...] = field(default=())

    def array(self, rows: int, columns: int) -> dict[str, Figure]:
        """Of an array with its edge."""
        return {
            name: added(
                self.cell[name].times(rows * columns), self.row[name].times(rows), self.column[name].times(columns)
            )
            for name in RESOURCES
        }


def count_cells(work: Work, family: str, table: FpgaTable | None = None) -> Counts:
    """Of the cells that serve these layers. ValueError where a layer's operands were not counted."""
    table = table or shipped_fpga_table()
    rows = tuple(row for row in table.rows if row.family == family)
    array = TableArray(Finder(rows, COUNTS))
    try:
        parts = serving(work, array.element)
    except NoCell as unknown:
        raise ValueError(
            f"no circuit for {unknown} was counted on {family}; count it by experiments/fpga_table.py, or ask for a "
            "library of cells"
        ) from None
    source = f"{family}, {rows[0].tool}, not placed"
    cell, row, column = (_figures(p, source) for p in (parts.cell, parts.input, parts.weight.plus(parts.output)))
    first, *others = parts.remarks
    return Counts(cell, row, column, (f"{first}, {family}", *others))


def _measure(name: str) -> Measure:
    return lambda row: getattr(row, name) / row.shares


COUNTS = Columns(tuple(map(_measure, RESOURCES)))


def _figures(found: Found, source: str) -> dict[str, Figure]:
    return {name: each.figure(source) for name, each in zip(RESOURCES, found.estimates, strict=True)}
