"""Area and energy of what an array repeats: synthesised cells, or published multipliers where none is at hand.

Energies: M. Horowitz, "Computing's energy problem (and what we can do about it)", ISSCC 2014, fig. 1.1.9, 45 nm, 0.9 V.
Areas: the figures that W. Dally shows beside them, synthesised for TSMC 45 nm; J. Hennessy and D. Patterson, "Computer
Architecture", 6th ed., fig. 1.13, prints them too. Between the published widths a power law runs through both.
Registers, decoders, shifters and multiplexers are not in them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, log

from bitwright.cost.figure import Cited, Figure, Fitted, Measured

SOURCE = "Horowitz, ISSCC 2014, fig. 1.1.9, 45 nm"
AREA_SOURCE = "Dally, TSMC 45 nm, as in Hennessy and Patterson, 6th ed., fig. 1.13"
ADD_PJ, MULTIPLY_PJ = {8: 0.03, 32: 0.1}, {8: 0.2, 32: 3.1}
ADD_UM2, MULTIPLY_UM2 = {8: 36.0, 32: 137.0}, {8: 282.0, 32: 3495.0}

WORST_RATIO = 1.2
"""There are two points only. Against another table, from 8x8+24 to 4x4+16 bits: 2.6 here, 3.1 in Aladdin's at 45 nm."""


@dataclass(frozen=True)
class Edge:
    """What stands around an array: decoders of inputs a row and of weights a column, and what encodes outputs."""

    row_um2: Figure
    column_um2: Figure
    input_pj: Figure
    """Of each input that enters."""
    weight_pj: Figure
    output_pj: Figure
    """Of each output that leaves, complete."""


@dataclass(frozen=True)
class Mac:
    """Area of a cell, all its lanes, and energy of one operation: a multiply-accumulate, or a pair of terms."""

    area_um2: Figure
    energy_pj: Figure
    edge: Edge | None = None
    calibration: float = 1.0
    """What the library's energies were multiplied by, to add up with those of memories."""
    feature_nm: int | None = None
    """Of the library that the area is in."""
    period_ns: float = 0.0
    """Of the slowest path, as far as it is known."""
    remarks: tuple[str, ...] = ()
    """What a reader of the figures must know: what they leave out, what stands in for what."""
    serves_all: bool = True
    """Whether it computes every layer that it was found for."""

    @property
    def clock_mhz(self) -> float:
        """What its slowest path allows, as far as that is known."""
        return 1000 / self.period_ns if self.period_ns else inf


def slower_than(clock_mhz: float) -> str:
    """What is said of cells that are."""
    return f"slower than the {clock_mhz:g} MHz asked for, unless pipelined"


def published_mac(weight_bits: int, input_bits: int, accumulator_bits: int) -> Mac:
    """An integer multiplier of these operands and an adder as wide as the accumulator."""
    side = (weight_bits * input_bits) ** 0.5
    return Mac(
        added(_at(MULTIPLY_UM2, side, AREA_SOURCE), _at(ADD_UM2, accumulator_bits, AREA_SOURCE)),
        added(_at(MULTIPLY_PJ, side, SOURCE), _at(ADD_PJ, accumulator_bits, SOURCE)),
    )


def added(*figures: Figure) -> Figure:
    """A sum of figures that are parts of one circuit: no better than the least certain of them."""
    parts = [figure for figure in figures if figure.value] or list(figures[:1])
    value = sum(figure.value for figure in parts)
    sources = "; ".join(dict.fromkeys(figure.source for figure in parts))
    fitted = [figure for figure in parts if isinstance(figure, Fitted)]
    if fitted:
        return Fitted(value, _fitted_sources(parts, sources), max(figure.worst_ratio for figure in fitted))
    if all(isinstance(figure, Measured) for figure in parts):
        return Measured(value, sources)
    return Cited(value, sources)


def _fitted_sources(parts: Sequence[Figure], sources: str) -> str:
    """Where a fit follows a source, that is said once."""
    fits = [part.source for part in parts if isinstance(part, Fitted)]
    others = [part.source for part in parts if not any(part.source in fit for fit in fits)]
    return "; ".join(dict.fromkeys([*fits, *others])) or sources


def _at(points: dict[int, float], bits: float | int, source: str) -> Figure:
    """Through both published points; a product of unequal operands counts as a square one of equal size."""
    if bits in points:
        return Cited(points[int(bits)], source)
    (low, first), (high, last) = points.items()
    return Fitted(first * (bits / low) ** (log(last / first) / log(high / low)), f"after {source}", WORST_RATIO)
