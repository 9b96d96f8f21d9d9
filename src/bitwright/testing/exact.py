"""The exact product of two quantized matrices, and the error that a datapath's stated roundings allow."""

from fractions import Fraction

import numpy as np

from bitwright.datapath import Datapath
from bitwright.formats import Int, Minifloat
from bitwright.quantization import QuantizedTensor
from bitwright.testing.operands import Operands

U64 = Fraction(1, 2**53)
"""Unit roundoff of float64."""


def exact_product(datapath: Datapath, both: Operands) -> tuple[np.ndarray, np.ndarray]:
    """The product in fractions, and how far the datapath's stated roundings may lie from it."""
    x, w, k = both.x, both.w, both.x.k
    exact = np.empty((len(x.codes), len(w.codes)), object)
    tolerance = exact.copy()
    x_values, w_values = _fractions(x), _fractions(w)
    tile = datapath.inner_elements(x.quantizer, w.quantizer, *w.shape)
    is_scaled_inside = any(t.quantizer.scales[-1].share.splits_k for t in (x, w))
    has_outer = -(-k // tile) > 1 or datapath.tile is not None or is_scaled_inside
    for i, x_row in enumerate(x_values):
        for j, w_row in enumerate(w_values):
            products = [a * b for a, b in zip(x_row, w_row, strict=True)]
            sums = [abs(sum(products[start : start + tile], Fraction(0))) for start in range(0, k, tile)]
            exact[i, j] = sum(products)
            tolerance[i, j] = _tolerance(datapath, both, (i, j), sums) if has_outer else 4 * U64 * abs(exact[i, j])
    return exact, tolerance


def _tolerance(datapath: Datapath, both: Operands, at: tuple[int, int], sums: list[Fraction]) -> Fraction:
    """Error bound of T scaled tile sums that are rounded, added in order, and scaled twice in float64.

    A float register with unit roundoff u rounds each addend once (u·|addend|) and each of T running sums (u·Σ|addend|,
    to first order; one more term covers the rest). Scale products rounded to a format add their own error.
    """
    magnitude = sum(sums, Fraction(0))
    error = 4 * U64 * magnitude  # two coarse factors, the total's conversion, and one product of coarse levels
    if not datapath.outer.is_integer:
        assert isinstance(datapath.outer.format, Minifloat), "a float register"
        roundoff = Fraction(1, 2 ** (datapath.outer.format.mantissa_bits + 1))
        error += (len(sums) + 2) * roundoff * magnitude * 2
        error += len(sums) * Fraction(1, 2**149) * _outside(both, at)  # subnormal addends round by a fixed step
    product_format = datapath.scale_product
    if isinstance(product_format, Minifloat):
        error += magnitude * Fraction(1, 2**product_format.mantissa_bits)
    elif isinstance(product_format, Int):
        # every product of scales is off by at most half a step, or by what saturation cuts (one step at most)
        step = Fraction(2) ** product_format.exponent
        error += step * sum((s / p for s, p in zip(sums, _scale_products(both, at, len(sums))) if p), Fraction(0))
    return error


def _outside(both: Operands, at: tuple[int, int]) -> Fraction:
    """A factor no smaller than the coarse scales of row and column."""
    return Fraction(float(both.x.scale()[at[0]].max())) * Fraction(float(both.w.scale()[at[1]].max())) + 1


def _scale_products(both: Operands, at: tuple[int, int], tiles: int) -> list[Fraction]:
    """Product of the operands' stored block scales, one a tile."""

    def inner(t: QuantizedTensor, row: int) -> list[Fraction]:
        scale = t.quantizer.scales[-1]
        if not scale.share.splits_k:
            return [Fraction(1)] * tiles
        stored = scale.format.decode(t.scales[-1])
        return [Fraction(float(v)) for v in stored[row if len(stored) > 1 else 0]]

    return [a * b for a, b in zip(inner(both.x, at[0]), inner(both.w, at[1]), strict=True)]


def _fractions(t: QuantizedTensor) -> list[list[Fraction]]:
    """The matrix that the codes stand for, from elements and stored scales, without rounding."""
    elements = t.elements().reshape(len(t.codes), -1)[:, : t.k]
    rows = [[Fraction(v) for v in row] for row in elements.tolist()]
    for scale, codes in zip(t.quantizer.scales, t.scales, strict=True):
        factor = scale.share.expand(scale.format.decode(codes), *t.shape).tolist()
        rows = [[v * Fraction(f) for v, f in zip(row, line)] for row, line in zip(rows, factor)]
    return rows
