"""Finds circuits in one library's rows: the very one, one that takes more formats, or one between points."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from operator import attrgetter
from typing import Any

from bitwright.cost.table_fit import Estimate, Integers, Lines, Points, Polynomial, ratio
from bitwright.cost.table_names import formats_of, integer_of, signed_name
from bitwright.cost.table_need import Need, Outer
from bitwright.cost.table_row import CircuitRow

Measure = Callable[[Any], float]
"""Of a row: what its circuit takes a lane."""

AREA: Measure = lambda row: row.area_um2 / row.shares  # noqa: E731
ENERGY: Measure = lambda row: row.energy_pj / row.shares  # noqa: E731


@dataclass(frozen=True)
class Columns:
    """What a table's rows say besides which circuit they are: figures, how fast it is, and what drove it."""

    measures: tuple[Measure, ...]
    period_ns: Measure = lambda row: 0.0
    """0 where nothing is timed."""
    is_rectified: Callable[[Any], bool] = lambda row: False
    """Whether inputs had no negative values; False where nothing drives it."""


CELLS = Columns((AREA, ENERGY), attrgetter("period_ns"), attrgetter("is_rectified"))
"""Of the table of measured cells."""


@dataclass(frozen=True)
class Found:
    """What a circuit takes a lane, how far that may lie from measured values (1: they are), and which it is."""

    estimates: tuple[Estimate, ...]
    """In the order of the finder's measures."""
    period_ns: float = 0.0
    said: str = ""

    def plus(self, other: "Found", share: float = 1.0) -> "Found":
        """Both, the other in part; a path leads through one of them only."""
        found = tuple(
            Estimate(a.value + b.value * share, max(a.worst_ratio, b.worst_ratio), a.is_measured and b.is_measured)
            for a, b in zip(self.estimates, other.estimates, strict=True)
        )
        return Found(found, max(self.period_ns, other.period_ns), self.said)


@dataclass(frozen=True)
class Finder:
    """The rows of one library, and what is asked of them; of several that would do, the least by the first measure."""

    rows: tuple[CircuitRow, ...]
    columns: Columns = CELLS

    @property
    def nothing(self) -> Found:
        """Wires."""
        return Found(tuple(Estimate(0.0, 1.0, True) for _ in self.columns.measures))

    def element(self, need: Need) -> Found | None:
        """The element of these operands and this register, or the smallest that takes more; integers may be fitted."""
        own = self._elements(need.x_name, need.w_name, need)
        found = self._between(own, self._element_lines, need.register_bits) if own else None
        if found is None:
            found = self._integers(need) or self._larger(need)
        return found

    def collector(self, outer: Outer, x_name: str, w_name: str) -> Found | None:
        """What multiplies a tile's sum by its scales and adds it up."""
        rows = [row for row in self._unit("collector") if row.scales == outer.scales]
        if outer.bits is None:  # a float
            rows = [row for row in rows if (row.x, row.w) == (x_name, w_name)]
            return self._at(rows[0]) if rows else None
        rows = [row for row in rows if row.saturates == outer.saturates]
        same = [row for row in rows if (row.x, row.w) == (x_name, w_name)]
        if same or not rows:
            return self._between(same, self._collector_lines, outer.bits) if same else None
        largest = max(rows, key=self.columns.measures[0])
        widest = [row for row in rows if (row.x, row.w) == (largest.x, largest.w)]
        found = self._between(widest, self._collector_lines, outer.bits)
        return found and self._standing_in(found, rows)

    def vector(self, x_name: str, w_name: str, scales: str) -> Found | None:
        """A lane of a vector unit, whatever its register."""
        rows = [row for row in self._unit("vector") if (row.x, row.w, row.scales) == (x_name, w_name, scales)]
        return self._at(rows[0]) if rows else None

    def pairs(self, x_name: str, w_name: str) -> Found | None:
        """A serial cell: its whole area, and the energy of a pair of terms."""
        names = formats_of(x_name)
        for read, said in ((names, ""), (set(map(signed_name, names)), f", whose inputs may be signed, for {x_name}")):
            rows = [row for row in self._unit("pairs") if row.x in read and row.w == w_name]
            if rows:
                found = self._at(rows[0])
                return replace(found, said=f"{found.said}{said}")
        return None

    def decoder(self, name: str) -> Found | None:
        """Of one row or column, side by side where one for all formats was not measured; integers need none."""
        if integer_of(name):
            return self.nothing
        rows = [row for row in self._unit("decoder") if formats_of(row.x) >= formats_of(name)]
        if rows:
            return self._at(min(rows, key=lambda row: (len(formats_of(row.x)), self.columns.measures[0](row))))
        parts = sorted(formats_of(name))
        found = [self.decoder(part) for part in parts] if len(parts) > 1 else []
        if not found or None in found:
            return None
        return reduce(lambda a, b: a.plus(b), (part for part in found if part), self.nothing)

    def encoder(self, name: str) -> Found | None:
        """Of one column, in one format."""
        rows = [row for row in self._unit("encoder") if row.x == name]
        return self._at(rows[0]) if rows else None

    def requantizer(self, register_bits: int, output_bits: int) -> Found | None:
        """Of one column: to the narrowest measured integer that has as many bits, or the widest."""
        widths = {row.x: width for row in self._unit("requantizer") if (width := (integer_of(row.x) or (0,))[0])}
        if not widths:
            return None
        enough = [name for name, bits in widths.items() if bits >= output_bits]
        name = min(enough, key=widths.__getitem__) if enough else max(widths, key=widths.__getitem__)
        rows = [row for row in self._unit("requantizer") if row.x == name]
        return self._between(rows, self._requantizer_lines, register_bits)

    def fold(self, register_bits: int, slope: int) -> Found | None:
        """Of one column: what a register is read through."""
        rows = [row for row in self._unit("fold") if row.scales == str(slope)]
        return self._between(rows, self._fold_lines, register_bits) if rows else None

    def _elements(self, x_name: str, w_name: str, need: Need) -> list[CircuitRow]:
        rows = [
            row for row in self._unit("element")
            if (row.x, row.w, row.saturates) == (x_name, w_name, need.saturates)
        ]  # fmt: skip
        return [row for row in rows if self.columns.is_rectified(row) == need.is_rectified] or rows

    def _larger(self, need: Need) -> Found | None:
        """The smallest element whose decoders may also read other formats."""
        x, w = formats_of(need.x_name), formats_of(need.w_name)
        names = {
            (row.x, row.w) for row in self._unit("element")
            if formats_of(row.x) >= x and formats_of(row.w) >= w
        }  # fmt: skip
        found = [
            self._between(rows, self._element_lines, need.register_bits)
            for names_of in sorted(names)
            if (rows := self._elements(*names_of, need))
        ]
        known = [each for each in found if each is not None]
        if not known:
            return None
        least = min(known, key=lambda each: each.estimates[0].value)
        return replace(least, said=f"{least.said}, the smallest that reads {need.x_name} × {need.w_name}")

    def _integers(self, need: Need) -> Found | None:
        """An integer multiplier of widths that were not measured."""
        x, w = integer_of(need.x_name), integer_of(need.w_name)
        if x is None or w is None or self._polynomials is None:
            return None
        cell = Integers(x[0], w[0], need.register_bits, need.saturates, need.is_rectified)
        estimates = [polynomial.at(cell) for polynomial in self._polynomials]
        known = tuple(estimate for estimate in estimates if estimate is not None)
        if len(known) < len(estimates):
            return None
        return Found(known, 0.0, f"element {need.x_name} × {need.w_name}, sum of {need.register_bits} bits")

    def _between(self, rows: Sequence[CircuitRow], lines: tuple[Lines, ...], bits: int) -> Found | None:
        """The row of these bits, or what lies between its neighbours."""
        for row in rows:
            if row.register_bits == bits:
                return self._at(row)
        estimates = [
            line.at({row.register_bits: value(row) for row in rows}, bits)
            for line, value in zip(lines, self.columns.measures, strict=True)
        ]
        known = tuple(estimate for estimate in estimates if estimate is not None)
        if len(known) < len(estimates):
            return None
        near = min(rows, key=lambda row: abs(row.register_bits - bits))
        return Found(known, self.columns.period_ns(near), _said(near, bits))

    def _at(self, row: CircuitRow) -> Found:
        """As it was measured."""
        measured = tuple(Estimate(value(row), 1.0, True) for value in self.columns.measures)
        return Found(measured, self.columns.period_ns(row), _said(row, row.register_bits))

    def _standing_in(self, found: Found, rows: Sequence[CircuitRow]) -> Found:
        """The same for a circuit that was not measured, as far off as those of its kind are from each other."""
        estimates = tuple(
            Estimate(own.value, max(own.worst_ratio, ratio(max(map(value, rows)), min(map(value, rows)))))
            for own, value in zip(found.estimates, self.columns.measures, strict=True)
        )
        return replace(found, estimates=estimates)

    def _unit(self, unit: str) -> list[CircuitRow]:
        return self._units.get(unit, [])

    @cached_property
    def _units(self) -> dict[str, list[CircuitRow]]:
        found: dict[str, list[CircuitRow]] = {}
        for row in self.rows:
            found.setdefault(row.unit, []).append(row)
        return found

    @cached_property
    def _element_lines(self) -> tuple[Lines, ...]:
        return lines_of(self._unit("element"), self.columns)

    @cached_property
    def _collector_lines(self) -> tuple[Lines, ...]:
        return lines_of(self._unit("collector"), self.columns)

    @cached_property
    def _requantizer_lines(self) -> tuple[Lines, ...]:
        return lines_of(self._unit("requantizer"), self.columns)

    @cached_property
    def _fold_lines(self) -> tuple[Lines, ...]:
        return lines_of(self._unit("fold"), self.columns)

    @cached_property
    def _polynomials(self) -> tuple[Polynomial, ...] | None:
        return polynomials_of(self._unit("element"), self.columns)


def lines_of(rows: Iterable[CircuitRow], columns: Columns = CELLS) -> tuple[Lines, ...]:
    """Each measure over the register, of each circuit."""
    circuits: dict[tuple[object, ...], list[CircuitRow]] = {}
    for row in rows:
        circuits.setdefault((row.x, row.w, row.saturates, row.scales, columns.is_rectified(row)), []).append(row)

    def points(value: Measure) -> tuple[Points, ...]:
        return tuple({row.register_bits: value(row) for row in same} for same in circuits.values())

    return tuple(Lines(points(value)) for value in columns.measures)


def polynomials_of(rows: Iterable[CircuitRow], columns: Columns = CELLS) -> tuple[Polynomial, ...] | None:
    """Each measure of integer elements; None where too few were measured, or some take nothing of it."""
    cells: list[Integers] = []
    integers: list[CircuitRow] = []
    for row in rows:
        x, w = integer_of(row.x), integer_of(row.w)
        if x and w:
            cells.append(Integers(x[0], w[0], row.register_bits, row.saturates, columns.is_rectified(row)))
            integers.append(row)
    values = [tuple(map(value, integers)) for value in columns.measures]
    if len(cells) < 20 or any(min(found) <= 0 for found in values):
        return None
    return tuple(Polynomial(tuple(cells), found) for found in values)


def _said(row: CircuitRow, bits: int) -> str:
    operands = " × ".join(name for name in (row.x, row.w) if name)
    lanes = f", {row.lanes} lanes" if row.lanes > 1 else ""
    unit = "vector unit" if row.unit == "vector" else "serial unit" if row.unit == "pairs" else row.unit
    return f"{unit} {operands}, sum of {bits} bits{lanes}{', saturating' if row.saturates else ''}"
