"""From a scheme to what its circuits need: operands, registers, scales. Everything else is generic in these values."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Int as Ints
from jaxtyping import Shaped

from bitwright.datapath import Aligned, Datapath, Overflow, bits_for
from bitwright.formats import Int, Minifloat
from bitwright.quantization import Quantizer
from bitwright.rtl.accumulate import Register, register_for
from bitwright.rtl.float_register import FLOAT64_BITS, float_register
from bitwright.rtl.operand import Operand, Sign, choices, has_zero_point, operand
from bitwright.rtl.outer import FloatOuter, Outer
from bitwright.rtl.ranges import products, worst_sum_of
from bitwright.rtl.scale import FloatScale, ScaleFormat, ScaleProduct
from bitwright.rtl.term import significands
from bitwright.scheme import Scheme

LONGEST = 4096
"""Products in the longest sum, where nobody says: it sizes registers that have no width of their own."""

MANY_ROWS = 2**20


@dataclass(frozen=True)
class Plan:
    """What the circuits of a scheme have in common."""

    x: Operand
    w: Operand
    products: int | None  # of one inner sum; None where it runs over all of K
    k: int  # longest sum
    inner: Register
    outer: Outer | FloatOuter | None
    outside: str  # what a user of the circuit still has to do with its result
    has_zero_point: bool = False  # inputs' codes are multiplied as they are; sums start from `zero_correction`

    @property
    def unit(self) -> int:
        """Inner sums count 2**unit."""
        return self.x.bounds.exponent.start + self.w.bounds.exponent.start

    def elementwise(self) -> "Plan":
        """The same with weights that are stored one element a code."""
        return replace(self, w=self.w.elementwise())

    @cached_property
    def product(self) -> tuple[int, int]:
        """Extreme products of two terms, in units of 2**unit."""
        extremes = []
        for bounds in (self.x.bounds, self.w.bounds):
            top = bounds.exponent[-1] - bounds.exponent.start
            extremes.append([s << top for s in significands(bounds)])
        products = [a * b for a in extremes[0] for b in extremes[1]]
        return min(products), max(products)

    @property
    def addend_width(self) -> int:
        """Bits of a product on its way into the inner register."""
        return self.inner.width(*self.product)


def plan(scheme: Scheme, *, k: int = LONGEST, sign: Sign = Sign.BOTH) -> Plan:
    """What circuits of a scheme need, for sums of up to k products. ValueError where no circuit computes it."""
    if scheme.input is None:
        raise ValueError("the scheme leaves inputs in float, so there is no integer circuit; give it input bits")
    if k < 1:
        raise ValueError(f"sums of {k} products found; at least one is needed")
    x, w, datapath = operand(scheme.input, sign), operand(scheme.weight), scheme.datapath
    is_shifted = _is_shifted(scheme, sign)
    _require_integer(datapath)
    pairs = [(a, b) for a in choices(scheme.input, sign) for b in choices(scheme.weight)]
    lengths = {datapath.inner_elements(a, b, MANY_ROWS, k) for a, b in pairs}
    if len(lengths) > 1:
        raise ValueError(f"the formats of one operand sum {sorted(lengths)} products at a time; give them one block")
    length = lengths.pop()
    is_scaled = any(q.scales[-1].share.splits_k for pair in pairs for q in pair)
    has_outer = datapath.tile is not None or is_scaled
    worst = worst_sum_of(x.formats, w.formats, length, is_shifted=is_shifted)
    inner = register_for(datapath.inner, worst, f"a sum of {products(length)}")
    _require_one_unit(datapath, x, w)
    correction = "minus the inputs' zero point times the sum of its weights; "
    if not has_outer:
        before = f"start each sum from, or add to it modulo 2**{inner.bits}, {correction}" if is_shifted else ""
        total = "each sum" if inner.readout is None else f"what {inner.readout} reads of each sum"
        outside = f"{before}multiply {total} by 2**unit and the scales of its row and column"
        return Plan(x, w, None, k, inner, None, outside, is_shifted)
    before = f"start each tile's sum from {correction}" if is_shifted else ""
    formats = _block_scale([a for a, _ in pairs]), _block_scale([b for _, b in pairs])
    tiles = -(-k // length)
    if datapath.outer.is_integer:
        outer: Outer | FloatOuter = _integer_outer(datapath, formats, _reads(inner, worst), tiles)
        outside = "multiply each total by 2**unit and the scales shared along K"
    else:
        unit = x.bounds.exponent.start + w.bounds.exponent.start
        outer = _float_outer(datapath, formats, _reads(inner, worst), tiles, unit)
        outside = "multiply each total by the scales shared along K"
    return Plan(x, w, length, k, inner, outer, before + outside, is_shifted)


def zero_correction(
    plan: Plan, zero_points: Ints[np.ndarray, " m"], weights: Shaped[np.ndarray, "n tile"]
) -> Shaped[np.ndarray, "m n"]:
    """Where the register of each sum starts: -zero point · Σ weights, in units of 2**plan.unit, modulo its width.

    Σ (x - z)·w = Σ x·w - z·Σ w. Weights are integers in units of 2**plan.w.bounds.exponent.start, of one tile where
    sums run over tiles. A constant where weights and zero point are; it may wrap where the sum in the end does not.
    """
    exact = -zero_points.astype(object)[:, None] * weights.astype(object).sum(1)[None]
    half = 1 << (plan.inner.bits - 1) if plan.inner.is_signed else 0
    return (exact + half) % (1 << plan.inner.bits) - half


def for_array(made: Plan, rows: int) -> Plan:
    """The plan of an array whose columns add `rows` products at a time. ValueError where the scheme forbids that."""
    if made.products is not None and made.products % rows:
        raise ValueError(
            f"tiles of {made.products} products do not split over {rows} rows; "
            f"choose a divisor of {made.products} for the rows"
        )
    group = neighbours(made)
    if rows % group:
        raise ValueError(
            f"inputs use digits or terms of neighbours within {group} lanes, {rows} rows found; choose a multiple of "
            f"{group} rows, or a scheme whose tile is {rows}"
        )
    if made.w.bounds.reach:
        raise ValueError("stationary weights hold digits of neighbours; give that format to the inputs")
    return made.elementwise()


def neighbours(made: Plan) -> int:
    """Lanes that a decoder of inputs sees together: rows of an array come in multiples of it."""
    return (made.products or made.k) if made.x.bounds.reach and made.x.run == 1 else made.x.run


def _is_shifted(scheme: Scheme, sign: Sign) -> bool:
    """Whether inputs have a zero point. ValueError where no circuit can take it off."""
    if has_zero_point(scheme.weight):
        raise ValueError("weights with a zero point found; use Zero.FIXED for them, only inputs may have one")
    if scheme.input is None or not has_zero_point(scheme.input, sign):
        return False
    inner = scheme.datapath.inner
    if (inner.overflow is Overflow.SATURATE and inner.range is not None) or inner.readout is not None:
        what = inner.readout or inner.overflow
        raise ValueError(
            f"inputs with a zero point meet an inner register of {what}; circuits take the zero point off a sum of "
            "whole codes, so use Overflow.FORBID or Overflow.WRAP, or Zero.FIXED"
        )
    return True


def _require_integer(datapath: Datapath) -> None:
    if not datapath.inner.is_integer:
        raise ValueError(f"no circuit for an inner register of {datapath.inner.format}; use integers, or inner=WIDE")
    if isinstance(datapath.product, Aligned):
        raise ValueError(f"no circuit for {datapath.product} products; leave `product` out for exact sums")


def _require_one_unit(datapath: Datapath, x: Operand, w: Operand) -> None:
    for operands in (x, w):
        units = {format.bounds().exponent.start for format in operands.formats}
        if len(units) > 1 and datapath.inner.format is not None:
            raise ValueError(
                f"formats that count units of 2**{sorted(units)} meet in a register of {datapath.inner.bits} bits; "
                "leave its width open"
            )


def _reads(inner: Register, worst: tuple[int, int]) -> tuple[int, int]:
    """Extreme tile sums that are read from a register."""
    wraps = inner.low is None and bits_for(*worst) > inner.bits
    if inner.readout is None and not wraps:
        return worst
    width = inner.read_shape.width
    return (-(1 << (width - 1)), (1 << (width - 1)) - 1) if inner.is_signed else (0, (1 << width) - 1)


def _integer_outer(
    datapath: Datapath, formats: tuple[ScaleFormat | None, ScaleFormat | None], read: tuple[int, int], tiles: int
) -> Outer:
    product = datapath.scale_product
    if product is not None and not isinstance(product, Int):
        raise ValueError(f"an integer outer accumulator needs an integer scale product, {product} found; use Int")
    scale = ScaleProduct(*formats, product, datapath.scale_rounding)
    if product is None and any(isinstance(format, Minifloat) for format in formats):
        exact = f"scale_product=Int({scale.highest.bit_length()}, signed=False, exponent={scale.exponent})"
        raise ValueError(
            f"an integer outer accumulator needs integer scales, {formats[0]} and {formats[1]} found; "
            f"use {exact if scale.highest < 2**62 else 'a scale_product of Int'}, or a float accumulator"
        )
    total = min(read[0], 0) * scale.highest * tiles, max(read[1], 0) * scale.highest * tiles
    return Outer(register_for(datapath.outer, total, f"a sum of {tiles} scaled tiles"), scale, read)


def _float_outer(
    datapath: Datapath, formats: tuple[ScaleFormat | None, ScaleFormat | None], read: tuple[int, int],
    tiles: int, unit: int,
) -> FloatOuter:  # fmt: skip
    scale = FloatScale(*formats, datapath.scale_product, datapath.scale_rounding)
    if scale.significand.bit_length() > FLOAT64_BITS:
        raise ValueError(
            f"scale products of {scale.significand.bit_length()} bits found, and the definition has float64's "
            f"{FLOAT64_BITS}; round them by a scale_product"
        )
    largest = max(-read[0], read[1])
    register = float_register(datapath.outer, largest * scale.largest * 2.0**unit, tiles)
    return FloatOuter(register, scale, read, unit)


def _block_scale(quantizers: list[Quantizer]) -> ScaleFormat | None:
    """The format of scales that vary along K."""
    inside = {tuple(s.format for s in q.scales if s.share.splits_k) for q in quantizers}
    if inside == {()}:
        return None
    formats = inside.pop()
    if inside or len(formats) > 1 or not isinstance(formats[0], ScaleFormat):
        raise ValueError(
            "circuits multiply by one level of scales along K, an Int or a Minifloat; leave out the others"
        )
    return formats[0]
