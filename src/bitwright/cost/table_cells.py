"""Cells of a scheme from the table of measured circuits: measured where it has them, else fitted, else published.

Energies are scaled to those of M. Horowitz, ISSCC 2014, so that they add up with memories that are built on them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

from bitwright.cost.figure import Figure
from bitwright.cost.fpga import is_family
from bitwright.cost.mac import Edge, Mac
from bitwright.cost.table import CellTable, Origin, shipped_table
from bitwright.cost.table_array import NoCell, Parts, TableArray, Work, serving
from bitwright.cost.table_find import Finder, Found
from bitwright.cost.table_need import Need
from bitwright.cost.widths import widest_mac

Cells = Callable[[Work], Mac]

DEFAULT, PUBLISHED = "generic45", "published"


def cells_of(library: str, *, has_vectors: bool = False) -> Cells:
    """By the name that a command line has: `published`, or a library of the table."""
    if library == PUBLISHED:
        return widest_mac
    if is_family(library):
        raise ValueError(
            f"{library} is a family of FPGAs, which has look-up tables, no areas and energies; ask `bitwright cost` "
            "for its counts, or name a library of cells"
        )
    return measured_vectors(library) if has_vectors else measured_cells(library)


def measured_cells(library: str = DEFAULT, table: CellTable | None = None) -> Cells:
    """Elements of a systolic array, for `pricing.price`. ValueError for a library that the table has not."""
    found = _library(library, table) if table else _shipped(library)
    return lambda work: found.mac(work, is_vector=False)


def measured_vectors(library: str = DEFAULT, table: CellTable | None = None) -> Cells:
    """A lane of vector units of 16 or 32, which share one register, scale hardware and decoders included."""
    found = _library(library, table) if table else _shipped(library)
    return lambda work: found.mac(work, is_vector=True)


@cache
def _shipped(library: str) -> "_Library":
    return _library(library, shipped_table())


def _library(library: str, table: CellTable) -> "_Library":
    rows = table.of(library)
    tool = rows[0].tool if rows else ""
    array, source = TableArray(Finder(rows)), f"{library}, {tool}, zero-delay activity"
    return _Library(cache(array.element), cache(array.lane), table.origins[library], library, source)


@dataclass(frozen=True)
class _Library:
    """One library's circuits as cells of an array, with what their figures are of."""

    element: Callable[[Need], Parts | None]
    lane: Callable[[Need], Parts | None]
    origin: Origin
    name: str
    source: str

    def mac(self, work: Work, *, is_vector: bool) -> Mac:
        """Of the cell that serves all layers; published ones where the table has none."""
        published = widest_mac(work)  # refuses what has no layers
        try:
            return self._mac(serving(work, self.lane if is_vector else self.element))
        except NoCell as unknown:
            said = f"no measured cell for {unknown}: published multipliers, not to be compared with measured cells"
            return replace(published, remarks=(said,))

    def _mac(self, parts: Parts) -> Mac:
        factor = self.origin.calibration
        all_parts = parts.cell, parts.input, parts.weight, parts.output
        cell, x, w, output = (_energy_pj(part, f"{self.source}, × {factor:.2g}", factor) for part in all_parts)
        column = parts.weight.plus(parts.output)
        edge = Edge(self._area_um2(parts.input), self._area_um2(column), x, w, output)
        first, *others = parts.remarks
        said = (f"{first}, {self.name}", *others)
        return Mac(
            self._area_um2(parts.cell),
            cell,
            edge,
            factor,
            self.origin.feature_nm,
            parts.cell.period_ns,
            said,
            parts.serves_all,
        )

    def _area_um2(self, found: Found) -> Figure:
        area, _ = found.estimates
        return area.figure(self.source)


def _energy_pj(found: Found, source: str, calibration: float) -> Figure:
    _, energy = found.estimates
    return energy.figure(source).times(calibration)
