"""MX: blocks of 32 that share a power-of-two scale.

Open Compute Project, "OCP Microscaling Formats (MX) Specification", v1.0, 2023; arXiv:2310.10537.
Differs from the specification: the scale rule is a parameter, as three public implementations differ; E8M0's smallest
code stands for an all-zero block.
"""

from dataclasses import dataclass

from bitwright.datapath import WIDE, Accumulator, Datapath
from bitwright.formats import (
    E2M1,
    E2M3,
    E3M2,
    E4M3,
    E5M2,
    E8M0,
    FLOAT32,
    MXINT8_ELEMENT,
    Format,
    Minifloat,
    Rounding,
)  # fmt: skip
from bitwright.quantization import PerBlock, Quantizer, Scale
from bitwright.scheme import Scheme

SOURCE = "OCP Microscaling Formats v1.0, 2023; arXiv:2310.10537"

_LARGEST_EXPONENT = {E4M3: 8, E5M2: 15, E3M2: 4, E2M3: 2, E2M1: 2, MXINT8_ELEMENT: 0}


@dataclass(frozen=True)
class OcpRule:
    """2**(floor(log2 A) - emax): the specification and microxcaling. Large block maxima saturate."""

    def scale(self, element: Format, share: PerBlock) -> Scale:
        return Scale(share, E8M0, Rounding.FLOOR, full_scale=2.0 ** _LARGEST_EXPONENT[element])


@dataclass(frozen=True)
class CeilingRule:
    """2**ceil(log2(A / largest element)): NVIDIA ModelOpt. Nothing saturates."""

    def scale(self, element: Format, share: PerBlock) -> Scale:
        return Scale(share, E8M0, Rounding.CEILING)


@dataclass(frozen=True)
class RoundedRule:
    """2**(floor(log2 A') - emax), A' = A rounded to the element's mantissa: compressed-tensors.

    For 8-bit elements that library rounds to one mantissa bit, for FP6 to three.
    """

    def scale(self, element: Format, share: PerBlock) -> Scale:
        mantissa_bits = 3 if element.bits == 6 else 1
        rounded = Minifloat(8, mantissa_bits)
        return Scale(
            share, E8M0, Rounding.FLOOR, full_scale=2.0 ** _LARGEST_EXPONENT[element], magnitude_format=rounded
        )


Rule = OcpRule | CeilingRule | RoundedRule


def mx(element: Format, rule: Rule, rounding: Rounding, block: int, weight_only: bool) -> Scheme:
    """Both operands in blocks of one element format; block sums exact, float32 across blocks."""
    quantizer = Quantizer(element, (rule.scale(element, PerBlock(block)),), rounding)
    datapath = Datapath(inner=WIDE, outer=Accumulator(FLOAT32))
    return Scheme(None if weight_only else quantizer, quantizer, datapath, SOURCE)


def mxfp4(
    rule: Rule = OcpRule(), rounding: Rounding = Rounding.NEAREST_EVEN, *, block: int = 32, weight_only: bool = False
) -> Scheme:
    """E2M1 elements: 4.25 bits an element."""
    return mx(E2M1, rule, rounding, block, weight_only)


def mxfp6(
    element: Format = E2M3, rule: Rule = OcpRule(), rounding: Rounding = Rounding.NEAREST_EVEN, *,
    block: int = 32, weight_only: bool = False,
) -> Scheme:  # fmt: skip
    """E2M3 or E3M2 elements: 6.25 bits an element."""
    return mx(_one_of(element, (E2M3, E3M2)), rule, rounding, block, weight_only)


def mxfp8(
    element: Format = E4M3, rule: Rule = OcpRule(), rounding: Rounding = Rounding.NEAREST_EVEN, *,
    block: int = 32, weight_only: bool = False,
) -> Scheme:  # fmt: skip
    """E4M3 or E5M2 elements: 8.25 bits an element."""
    return mx(_one_of(element, (E4M3, E5M2)), rule, rounding, block, weight_only)


def mxint8(
    rule: Rule = OcpRule(), rounding: Rounding = Rounding.NEAREST_EVEN, *, block: int = 32, weight_only: bool = False
) -> Scheme:
    """Two's complement elements with six fraction bits; the most negative code is not used, as in microxcaling."""
    return mx(MXINT8_ELEMENT, rule, rounding, block, weight_only)


def _one_of(element: Format, allowed: tuple[Format, ...]) -> Format:
    if element not in allowed:
        raise ValueError(f"mx: element {element} found; allowed here are {' and '.join(map(repr, allowed))}")
    return element
