"""Area and energy of a multiplier with its accumulator, from published constants until a synthesised one is at hand.

Energies: M. Horowitz, "Computing's energy problem (and what we can do about it)", ISSCC 2014, fig. 1.1.9, 45 nm, 0.9 V;
areas as quoted beside them by V. Sze et al., Proc. IEEE 105(12), 2017, arXiv:1703.09039. Between the published widths a
power law runs through both. Registers, decoders, shifters and multiplexers are not in it.
"""

from dataclasses import dataclass
from math import log

from bitwright.cost.figure import Cited, Figure, Fitted

SOURCE = "Horowitz, ISSCC 2014, fig. 1.1.9, 45 nm"
AREA_SOURCE = "Sze et al., Proc. IEEE 2017, 45 nm"
ADD_PJ, MULTIPLY_PJ = {8: 0.03, 32: 0.1}, {8: 0.2, 32: 3.1}
ADD_UM2, MULTIPLY_UM2 = {8: 36.0, 32: 137.0}, {8: 282.0, 32: 3495.0}

WORST_RATIO = 1.2
"""There are two points only. Against another table, from 8x8+24 to 4x4+16 bits: 2.6 here, 3.1 in Aladdin's at 45 nm."""


@dataclass(frozen=True)
class Mac:
    """Area of a cell, all its lanes, and energy of one operation: a multiply-accumulate, or a pair of terms."""

    area_um2: Figure
    energy_pj: Figure


def published_mac(weight_bits: int, input_bits: int, accumulator_bits: int) -> Mac:
    """An integer multiplier of these operands and an adder as wide as the accumulator."""
    side = (weight_bits * input_bits) ** 0.5
    return Mac(
        _sum(_at(MULTIPLY_UM2, side, AREA_SOURCE), _at(ADD_UM2, accumulator_bits, AREA_SOURCE)),
        _sum(_at(MULTIPLY_PJ, side, SOURCE), _at(ADD_PJ, accumulator_bits, SOURCE)),
    )


def _at(points: dict[int, float], bits: float | int, source: str) -> Figure:
    """Through both published points; a product of unequal operands counts as a square one of equal size."""
    if bits in points:
        return Cited(points[int(bits)], source)
    (low, first), (high, last) = points.items()
    return Fitted(first * (bits / low) ** (log(last / first) / log(high / low)), f"after {source}", WORST_RATIO)


def _sum(a: Figure, b: Figure) -> Figure:
    """Of two figures of one source; cited only where both are."""
    if isinstance(a, Cited) and isinstance(b, Cited):
        return Cited(a.value + b.value, a.source)
    source = a.source if isinstance(a, Fitted) else b.source
    return Fitted(a.value + b.value, source, WORST_RATIO)
