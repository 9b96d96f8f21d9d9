"""Finds circuits in one library's rows: the very one, one that takes more formats, or one between points."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce

from bitwright.cost.figure import Figure, Fitted, Measured
from bitwright.cost.table import Row
from bitwright.cost.table_fit import Estimate, Integers, Lines, Points, Polynomial
from bitwright.cost.table_names import formats_of, integer_of
from bitwright.cost.table_need import Need, Outer

AREA: Callable[[Row], float] = lambda row: row.area_um2 / (1 if row.unit == "pairs" else row.lanes)  # noqa: E731
ENERGY: Callable[[Row], float] = lambda row: row.energy_pj / (1 if row.unit == "pairs" else row.lanes)  # noqa: E731


@dataclass(frozen=True)
class Found:
    """A circuit's area and energy a lane, how far they may lie from measured ones (1: they are), and which it is."""

    area: Estimate
    energy: Estimate
    period_ns: float = 0.0
    said: str = ""

    def plus(self, other: "Found", share: float = 1.0) -> "Found":
        """Both, the other in part; a path leads through one of them only."""
        area, energy = (
            Estimate(a.value + b.value * share, max(a.worst_ratio, b.worst_ratio))
            for a, b in ((self.area, other.area), (self.energy, other.energy))
        )
        return Found(area, energy, max(self.period_ns, other.period_ns), self.said)

    def standing_in(self, rows: Sequence[Row]) -> "Found":
        """The same for a circuit that was not measured, as far off as those of its kind are from each other."""
        area, energy = (
            Estimate(own.value, max(own.worst_ratio, max(map(value, rows)) / min(map(value, rows))))
            for own, value in ((self.area, AREA), (self.energy, ENERGY))
        )
        return replace(self, area=area, energy=energy)

    def area_um2(self, source: str) -> Figure:
        return _figure(self.area, source)

    def energy_pj(self, source: str, calibration: float) -> Figure:
        return _figure(self.energy, source).times(calibration)


NOTHING = Found(Estimate(0.0, 1.0), Estimate(0.0, 1.0))
"""Wires."""


@dataclass(frozen=True)
class Finder:
    """The rows of one library."""

    rows: tuple[Row, ...]

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
            return found_in(rows[0]) if rows else None
        rows = [row for row in rows if row.saturates == outer.saturates]
        same = [row for row in rows if (row.x, row.w) == (x_name, w_name)]
        if same or not rows:
            return self._between(same, self._collector_lines, outer.bits) if same else None
        found = self._between(_widest(rows), self._collector_lines, outer.bits)
        return found and found.standing_in(rows)

    def vector(self, x_name: str, w_name: str, scales: str) -> Found | None:
        """A lane of a vector unit, whatever its register."""
        rows = [row for row in self._unit("vector") if (row.x, row.w, row.scales) == (x_name, w_name, scales)]
        return found_in(rows[0]) if rows else None

    def pairs(self, x_name: str, w_name: str) -> Found | None:
        """A serial cell: its whole area, and the energy of a pair of terms."""
        rows = [r for r in self._unit("pairs") if formats_of(x_name) & {r.x} and r.w == w_name]
        return found_in(rows[0]) if rows else None

    def decoder(self, name: str) -> Found | None:
        """Of one row or column, side by side where one for all formats was not measured; integers need none."""
        if integer_of(name):
            return NOTHING
        rows = [row for row in self._unit("decoder") if formats_of(row.x) >= formats_of(name)]
        if rows:
            return found_in(min(rows, key=lambda row: (len(formats_of(row.x)), AREA(row))))
        parts = sorted(formats_of(name))
        found = [self.decoder(part) for part in parts] if len(parts) > 1 else []
        if not found or None in found:
            return None
        return reduce(lambda a, b: a.plus(b), (part for part in found if part), NOTHING)

    def encoder(self, name: str) -> Found | None:
        """Of one column, in one format."""
        rows = [row for row in self._unit("encoder") if row.x == name]
        return found_in(rows[0]) if rows else None

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

    def _elements(self, x_name: str, w_name: str, need: Need) -> list[Row]:
        rows = [
            row for row in self._unit("element")
            if (row.x, row.w, row.saturates) == (x_name, w_name, need.saturates)
        ]  # fmt: skip
        return [row for row in rows if row.is_rectified == need.is_rectified] or rows

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
        return min((f for f in found if f is not None), key=lambda f: f.area.value, default=None)

    def _integers(self, need: Need) -> Found | None:
        """An integer multiplier of widths that were not measured."""
        x, w = integer_of(need.x_name), integer_of(need.w_name)
        if x is None or w is None or self._polynomials is None:
            return None
        cell = Integers(x[0], w[0], need.register_bits, need.saturates, need.is_rectified)
        area, energy = (polynomial.at(cell) for polynomial in self._polynomials)
        if area is None or energy is None:
            return None
        return Found(area, energy, 0.0, f"element {need.x_name} × {need.w_name}, sum of {need.register_bits} bits")

    def _between(self, rows: Sequence[Row], lines: "tuple[Lines, Lines]", bits: int) -> Found | None:
        """The row of these bits, or what lies between its neighbours."""
        for row in rows:
            if row.register_bits == bits:
                return found_in(row)
        area, energy = (
            line.at({row.register_bits: value(row) for row in rows}, bits)
            for line, value in zip(lines, (AREA, ENERGY), strict=True)
        )
        if area is None or energy is None:
            return None
        near = min(rows, key=lambda row: abs(row.register_bits - bits))
        return Found(area, energy, near.period_ns, _said(near, bits))

    def _unit(self, unit: str) -> list[Row]:
        return self._units.get(unit, [])

    @cached_property
    def _units(self) -> dict[str, list[Row]]:
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row.unit, []).append(row)
        return found

    @cached_property
    def _element_lines(self) -> tuple[Lines, Lines]:
        return lines_of(self._unit("element"))

    @cached_property
    def _collector_lines(self) -> tuple[Lines, Lines]:
        return lines_of(self._unit("collector"))

    @cached_property
    def _requantizer_lines(self) -> tuple[Lines, Lines]:
        return lines_of(self._unit("requantizer"))

    @cached_property
    def _fold_lines(self) -> tuple[Lines, Lines]:
        return lines_of(self._unit("fold"))

    @cached_property
    def _polynomials(self) -> tuple[Polynomial, Polynomial] | None:
        return polynomials_of(self._unit("element"))


def lines_of(rows: Iterable[Row]) -> tuple[Lines, Lines]:
    """Area and energy over the register, of each circuit."""
    circuits: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        circuits.setdefault((row.x, row.w, row.saturates, row.scales, row.is_rectified), []).append(row)

    def points(value: Callable[[Row], float]) -> tuple[Points, ...]:
        return tuple({row.register_bits: value(row) for row in same} for same in circuits.values())

    return Lines(points(AREA)), Lines(points(ENERGY))


def polynomials_of(rows: Iterable[Row]) -> tuple[Polynomial, Polynomial] | None:
    """Area and energy of integer elements; None where too few were measured."""
    cells, areas, energies = [], [], []
    for row in rows:
        x, w = integer_of(row.x), integer_of(row.w)
        if x and w:
            cells.append(Integers(x[0], w[0], row.register_bits, row.saturates, row.is_rectified))
            areas.append(AREA(row))
            energies.append(ENERGY(row))
    if len(cells) < 20:
        return None
    return Polynomial(tuple(cells), tuple(areas)), Polynomial(tuple(cells), tuple(energies))


def found_in(row: Row) -> Found:
    """As it was measured."""
    return Found(Estimate(AREA(row), 1.0), Estimate(ENERGY(row), 1.0), row.period_ns, _said(row, row.register_bits))


def _said(row: Row, bits: int) -> str:
    operands = " × ".join(name for name in (row.x, row.w) if name)
    lanes = f", {row.lanes} lanes" if row.lanes > 1 else ""
    unit = "vector unit" if row.unit == "vector" else "serial unit" if row.unit == "pairs" else row.unit
    return f"{unit} {operands}, sum of {bits} bits{lanes}{', saturating' if row.saturates else ''}"


def _widest(rows: list[Row]) -> list[Row]:
    """Those of one circuit: the one of most area."""
    if not rows:
        return rows
    largest = max(rows, key=AREA)
    return [row for row in rows if (row.x, row.w) == (largest.x, largest.w)]


def _figure(estimate: Estimate, source: str) -> Figure:
    if estimate.worst_ratio == 1.0:
        return Measured(estimate.value, source)
    return Fitted(estimate.value, f"{source}, between points", estimate.worst_ratio)
