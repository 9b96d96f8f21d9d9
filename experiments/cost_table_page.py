"""What results/cost_table.md says of the table: what is in it, how libraries differ, how far interpolation is off."""

from collections import Counter
from collections.abc import Callable, Iterable
from itertools import product
from statistics import median

from bitwright.cost.table import CellTable, Row, stamp
from bitwright.cost.table_find import AREA, ENERGY, lines_of, polynomials_of
from bitwright.cost.table_fit import Lines

RATIOS = (
    ("int4 for int8, sums of 24 bits", ("s4", "s4", 24), ("s8", "s8", 24)),
    ("weights of 4 bits, inputs of 8, for int8, sums of 24 bits", ("s8", "s4", 24), ("s8", "s8", 24)),
    ("int2 for int8, sums of 24 bits", ("s2", "s2", 24), ("s8", "s8", 24)),
    ("int8, sum of 16 bits for 32", ("s8", "s8", 16), ("s8", "s8", 32)),
    ("int4, sum of 16 bits for 32", ("s4", "s4", 16), ("s4", "s4", 32)),
    ("flint4 for int4, sums of 21 bits", ("flint4", "flint4", 21), ("s4", "s4", 21)),
    ("E2M1 for int4, sums of 14 bits", ("E2M1", "E2M1", 14), ("s4", "s4", 14)),
    ("OverQ 4 × 8 for u4 × s8, sums of 28 bits", ("overq(u4,r)", "s8", 28), ("u4", "s8", 28)),
)
"""Elements by operands and register, on a line between registers where that one was not measured."""


def page(table: CellTable) -> str:
    libraries = list(table.origins)
    tools = [version if name == "yosys" else f"{name} {version}" for name, version in sorted(table.tools.items())]
    lines = [
        "# Measured cells", "",
        f"Made by `{table.command}` with {', '.join(tools)}. "
        f"{len(table.rows)} circuits, stamp {stamp(table)[:16]}…. Each mapped netlist was compared with integer "
        "arithmetic on the cases that its row names. Energies have zero delay, so no glitches; operands are normal "
        "with a full scale of three standard deviations, weights held. `bitwright cost` answers from this table.", "",
        "| library | nm | circuits | " + " | ".join(UNITS) + " | energy to Horowitz × |",
        "| --- | ---: | ---: |" + " ---: |" * (len(UNITS) + 1),
    ]  # fmt: skip
    for name, origin in table.origins.items():
        rows = table.of(name)
        counts = Counter(row.unit for row in rows)
        cells = " | ".join(str(counts[unit]) for unit in UNITS)
        lines.append(f"| {name} | {origin.feature_nm} | {len(rows)} | {cells} | {origin.calibration:.3f} |")
    lines += [
        "", "## Between the points", "", FITS, "",
        "| library | what | points | between registers | beyond them | integers of any widths |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]  # fmt: skip
    for name in libraries:
        lines += _fit_lines(name, _elements(table.of(name)))
    lines += ["", "## Ratios of area in every library", "", "Of energy in brackets.", ""]
    lines += ["| ratio | " + " | ".join(libraries) + " |", "| --- |" + " ---: |" * len(libraries)]
    for label, one, other in RATIOS:
        lines.append(f"| {label} | " + " | ".join(_ratio(table.of(name), one, other) for name in libraries) + " |")
    lines += ["", "## Gate equivalents against the first library", "", _spread(table), ""]
    return "\n".join([*lines, *_listing(table.of(libraries[0]))]) + "\n"


UNITS = ("element", "collector", "decoder", "encoder", "requantizer", "fold", "vector", "pairs")
FITS = (
    "Largest ratio of a point to its estimate from the others: between registers of one circuit on straight lines; "
    "beyond them from one point by the library's median slope, up to eight bits away; of an integer element, by a "
    "polynomial in both widths and the register."
)


def _fit_lines(name: str, rows: list[Row]) -> list[str]:
    polynomials = polynomials_of(rows)
    fits = [f"{p.worst_ratio:.3f}" for p in polynomials] if polynomials else ["–", "–"]
    return [
        f"| {name} | {what} | {len(rows)} | {line.worst_ratio:.3f} | {line.worst_ratio_of_one:.3f} | {fit} |"
        for what, line, fit in zip(("area", "energy"), lines_of(rows), fits, strict=True)
    ]


def _ratio(rows: tuple[Row, ...], one: tuple[str, str, int], other: tuple[str, str, int]) -> str:
    area, energy = (
        [_element(rows, key, line, value) for key in (one, other)]
        for line, value in zip(lines_of(_elements(rows)), (AREA, ENERGY), strict=True)
    )
    if None in area or None in energy:
        return "–"
    return f"{area[0] / area[1]:.2f} ({energy[0] / energy[1]:.2f})"


def _element(
    rows: tuple[Row, ...], key: tuple[str, str, int], line: Lines, value: Callable[[Row], float]
) -> float | None:
    """At this register, of signed operands where there are such."""
    x, w, bits = key
    same = [row for row in _elements(rows) if (row.x, row.w, row.saturates) == (x, w, False)]
    same = [row for row in same if not row.is_rectified] or same
    found = line.at({row.register_bits: value(row) for row in same}, bits) if same else None
    return found and found.value


def _elements(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row.unit == "element"]


def _spread(table: CellTable) -> str:
    """How much libraries differ in what they make of the same RTL, beyond one factor."""
    first, *others = table.origins
    own = {row.sha256: row.area_ge for row in table.of(first) if row.unit == "element"}
    said = []
    for name in others:
        both = [row.area_ge / own[row.sha256] for row in table.of(name) if row.sha256 in own and row.unit == "element"]
        if both:
            said.append(f"{name} {median(both):.2f} ({min(both):.2f} to {max(both):.2f}, {len(both)} elements)")
    return f"Median ratio of an element's gate equivalents to {first}'s: {'; '.join(said)}." if said else "–"


def _listing(rows: tuple[Row, ...]) -> list[str]:
    """Circuits other than integer elements, in one library."""
    lines = [
        "## Circuits in the first library", "",
        "Integer elements are left out here. Energies are the library's, of a cycle with all lanes.", "",
        "| unit | scheme | x | w | bits | lanes | GE | ns | pJ |",
        "| --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]  # fmt: skip
    for unit, row in product(UNITS, rows):
        if row.unit == unit and not (unit == "element" and row.scheme.startswith("integer")):
            names = " | ".join(name.replace("|", ", ") for name in (row.scheme, row.x, row.w))
            figures = f"{row.area_ge:,.0f} | {row.period_ns:.2f} | {row.energy_pj:.3f}"
            lines.append(f"| {unit} | {names} | {row.register_bits} | {row.lanes} | {figures} |")
    return lines
