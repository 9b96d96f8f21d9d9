"""The table of measured circuits: one small Parquet file with a stamp, written by experiments/cost_table.py.

A row is one circuit in one cell library. Nothing here synthesises anything; to read the file, pyarrow is enough.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from bitwright.cost.table_file import TableFile, stamp_of
from bitwright.cost.table_row import CircuitRow

SHIPPED = "cells.parquet"


@dataclass(frozen=True)
class Row(CircuitRow):
    """One circuit in one library: what it takes, and how that was found."""

    library: str
    area_um2: float
    area_ge: float
    flip_flops: int
    period_ns: float
    switching_pj: float
    """Energies are of one cycle, all lanes."""
    internal_pj: float
    clock_pj: float
    leakage_pj: float
    activity: str
    sha256: str
    """Of the circuit's RTLIL."""
    tool: str
    patterns: int
    """How many cases of the mapped netlist were compared with integer arithmetic."""
    is_rectified: bool = False
    """Whether the inputs that drove it have no negative values, and are zero half of the time."""

    @property
    def energy_pj(self) -> float:
        """Of one cycle, all lanes."""
        return self.switching_pj + self.internal_pj + self.clock_pj + self.leakage_pj


@dataclass(frozen=True)
class Origin:
    """A library of the table, and the factor from its energies to Horowitz' 45 nm ones."""

    source: str
    feature_nm: int
    calibration: float
    sha256: str
    """Of its Liberty texts."""


@dataclass(frozen=True)
class CellTable:
    """All rows, what made them, and the libraries that they are in."""

    rows: tuple[Row, ...]
    command: str
    tools: Mapping[str, str]
    origins: Mapping[str, Origin]

    def of(self, library: str) -> tuple[Row, ...]:
        """The rows of one library. ValueError names those at hand."""
        if library not in self.origins:
            raise ValueError(
                f"there is no measured library {library!r}; choose from {', '.join(self.origins)}, or published, "
                f"or measure it: experiments/cost_table.py --liberty FOLDER --only {library}"
            )
        return tuple(row for row in self.rows if row.library == library)

    def about(self) -> dict[str, Any]:
        """What stands in the file beside the rows."""
        origins = {name: asdict(origin) for name, origin in self.origins.items()}
        return {"command": self.command, "tools": dict(self.tools), "origins": origins}


FILE = TableFile("cells", Row, "experiments/cost_table.py", "ask for --library published")


def stamp(table: CellTable) -> str:
    """SHA-256 over all values and what they were made with."""
    return stamp_of(table.about(), table.rows)


def write_table(table: CellTable, path: Path) -> None:
    """The table as a file that carries its stamp."""
    FILE.write(path, table.about(), table.rows)


def read_table(path: Path) -> CellTable:
    """A table that was written so. ValueError where its stamp does not fit its contents."""
    about, rows = FILE.read(path)
    origins = {name: Origin(**values) for name, values in about["origins"].items()}
    return CellTable(rows, about["command"], about["tools"], origins)


@cache
def shipped_table() -> CellTable:
    """The one of this package."""
    with as_file(files("bitwright.cost") / "data" / SHIPPED) as path:
        return read_table(path)
