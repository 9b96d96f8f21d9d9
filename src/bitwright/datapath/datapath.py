"""What the hardware computes: integer sums inside a block, times block scales, summed over blocks.

Which scales sit inside the sum is derived: a level shared along all of K leaves it, a block level stays in it.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

from bitwright.datapath.accumulator import WIDE, Accumulator, Overflow
from bitwright.datapath.ranges import Certificate, certify, integers, tiles
from bitwright.formats import FLOAT32, Bounds, Format, Int, Rounding
from bitwright.quantization import QuantizedTensor, Quantizer
from bitwright.quantization.scale import scale_product


class Product(NamedTuple):
    """A matrix product and what its accumulators went through."""

    values: Float[np.ndarray, "m n"]
    overflows: int  # register results that overflow made different from the exact sum
    accumulations: int  # sums in all, inner and outer


class Lanes(NamedTuple):
    """What reaches the multipliers: rows of integers in tiles of K, with the scales inside and outside of the sum."""

    integers: Shaped[np.ndarray, "rows tiles tile"]  # int64, or Python integers where products may not fit
    inside: Float[np.ndarray, "rows tiles"]  # scales that vary along K; ones where there are none
    outside: Float[np.ndarray, "rows 1"]  # product of the scales that do not
    unit: int  # an integer counts 2**unit
    is_scaled_inside: bool


@dataclass(frozen=True)
class Aligned:
    """Products of one tile on a common exponent: each keeps `bits` bits, from the leading bit of the largest downwards.

    Bits beyond are cut off, toward -infinity as a shift of two's complement cuts them. The 14 bits that users report of
    FP8 products on NVIDIA's Hopper: DeepSeek-AI, arXiv:2412.19437, sec. 3.5.2, there of 32 products, whose sum a
    register of as many bits adds. Differs from it where that is not published: the largest product is taken as it is,
    not by its operands' exponents, and the register's own exponent does not shift the products.
    """

    bits: int = 14

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 40:
            raise ValueError(f"Aligned: {self.bits} bits found; 1 to 40 are possible")

    def cut(self, products: Float[np.ndarray, "m n k"]) -> Float[np.ndarray, "m n k"]:
        """What is left of whole products."""
        _, exponent = np.frexp(np.abs(products).max(2, keepdims=True))
        step = np.ldexp(1.0, np.maximum(exponent - self.bits, 0))
        return np.floor(products / step) * step


@dataclass(frozen=True)
class Datapath:
    """Arithmetic of one dot product.

    inner         sums products over one tile of K, in order
    outer         sums tile results, times block scales, over all of K; a float or an integer register. It is there
                  where a tile is given or a scale varies along K
    tile          elements in one inner sum; divides the finest block; None is the whole block
    scale_product format that the product of the operands' block scales is rounded to; None keeps it exact
    product       format that a float inner register's products are rounded to, by that register's rounding; None keeps
                  them exact, so that only sums are rounded (fused multiply-add); `Aligned` cuts those of a tile

    Saturation per product: `Datapath(Accumulator(Int(16), Overflow.SATURATE))`; per tile, whose own sum is exact:
    `Datapath(WIDE, Accumulator(Int(16), Overflow.SATURATE), tile=64)`.
    """

    inner: Accumulator = WIDE
    outer: Accumulator = Accumulator(FLOAT32)
    tile: int | None = None
    scale_product: Format | None = None
    scale_rounding: Rounding = Rounding.NEAREST_EVEN
    product: Format | Aligned | None = None

    def __post_init__(self) -> None:
        if isinstance(self.product, Aligned) and (
            self.tile is None or self.inner.format is not None or self.outer.is_integer
        ):
            raise ValueError(
                f"Datapath: {self.product} products are summed exactly, tile by tile, into a float register; "
                "give a tile, leave `inner` wide, and choose a float for `outer`"
            )
        if self.outer.readout is not None:
            raise ValueError(f"Datapath: {self.outer.readout} reads the inner register only; leave it out of `outer`")

    def inner_elements(self, x: Quantizer, w: Quantizer, rows: int, k: int) -> int:
        """Length of one inner sum for operands of these quantizers."""
        if x.format.bounds().reach and w.format.bounds().reach:
            raise ValueError(
                "both operands hold digits of neighbours, but a multiplier selects a neighbour of one operand only; "
                "give the stationary one a format without"
            )
        block, larger = sorted((x.block(rows, k), w.block(rows, k)))
        if larger % block and larger < k:
            raise ValueError(f"blocks of {larger} and {block} elements meet in one product; one must divide the other")
        if self.tile is None:
            return block
        if block % self.tile and block < k:
            raise ValueError(f"a tile of {self.tile} elements does not divide the block of {block}; choose a divisor")
        return min(self.tile, block)

    def certify(self, w: QuantizedTensor, x: Quantizer, x_bounds: Bounds) -> Certificate:
        """Extreme sums of these weights over all inputs that x can produce."""
        tile = self.inner_elements(x, w.quantizer, *w.shape)
        tile_count = -(-w.k // tile)
        x_splits, w_splits = x.scales[-1].share.splits_k, w.quantizer.scales[-1].share.splits_k
        if not self.outer.is_integer or not self._has_outer(tile_count, is_scaled_inside=x_splits or w_splits):
            return certify(w, x_bounds, tile)
        largest = x.scales[-1].format.full_scale if x_splits else 1.0
        inside, _ = _split_scales(w, tile_count, tile)
        scales = [self._block_scale(np.asarray([largest]), column)[0][0] for column in inside.T]
        return certify(w, x_bounds, tile, np.stack(scales, 1))

    def require_fit(self, certificate: Certificate) -> None:
        """ValueError if a register that forbids overflow is narrower than the certificate asks."""
        needs = {"inner": (self.inner, certificate.inner_bits), "outer": (self.outer, certificate.outer_bits)}
        for name, (accumulator, needed) in needs.items():
            have = accumulator.bits if accumulator.range else None
            if accumulator.overflow is Overflow.FORBID and have is not None and needed is not None and needed > have:
                raise ValueError(
                    f"these weights need a {needed}-bit {name} accumulator, the datapath has {have}; "
                    "widen it, or choose Overflow.WRAP or Overflow.SATURATE"
                )

    def matmul(self, x: QuantizedTensor, w: QuantizedTensor) -> Product:
        """x @ w.T as the hardware computes it: the definition that kernels and circuits equal bit for bit."""
        assert x.k == w.k, "both operands have the same K"
        tile = self.inner_elements(x.quantizer, w.quantizer, *w.shape)
        return self.multiply(lanes(x, tile), lanes(w, tile))

    def multiply(self, x: Lanes, w: Lanes) -> Product:
        """Products of two sets of rows.

        Tile sums are exact integers in the inner accumulator. Each is multiplied by the (rounded) product of block
        scales, rounded once to a float outer accumulator's format, and added there. Coarse scales multiply the total
        in float64, input first.
        """
        m, n, tile_count = len(x.integers), len(w.integers), x.integers.shape[1]
        unit = x.unit + w.unit
        if not tile_count:
            return Product(np.zeros((m, n)), 0, m * n)
        if not self._has_outer(tile_count, is_scaled_inside=x.is_scaled_inside or w.is_scaled_inside):
            total, overflows = self._inner_sum(x.integers[:, 0], w.integers[:, 0], unit)
            values = np.ldexp(total.astype(np.float64), unit) * x.outside * w.outside.T
            return Product(values, overflows, m * n)
        total = np.zeros((m, n), np.int64 if self.outer.is_integer else np.float64)
        exact, overflows, scale_unit = total, 0, 0
        for i in range(tile_count):
            partial, count = self._inner_sum(x.integers[:, i], w.integers[:, i], unit)
            scale, scale_unit = self._block_scale(x.inside[:, i], w.inside[:, i])
            addend = self._scaled(partial, scale, unit)
            total, exact, overflows = self.outer.add(total, addend), exact + addend, overflows + count
        if self.outer.range is not None:
            overflows += int((total != exact).sum())
        exponent = unit + scale_unit if self.outer.is_integer else 0
        values = np.ldexp(total.astype(np.float64), exponent) * x.outside * w.outside.T
        return Product(values, overflows, m * n * (tile_count + 1))

    def _has_outer(self, tile_count: int, *, is_scaled_inside: bool) -> bool:
        return tile_count > 1 or self.tile is not None or is_scaled_inside

    def _inner_sum(
        self, a: Shaped[np.ndarray, "m k"], b: Shaped[np.ndarray, "n k"], unit: int
    ) -> tuple[np.ndarray, int]:
        """What is read after all steps, in units of 2**unit, and how many sums overflow changed.

        Step by step only where its limits matter.
        """
        wide = object if a.dtype == object or b.dtype == object else np.int64
        a, b = a.astype(wide), b.astype(wide)
        if isinstance(self.product, Aligned):
            return self.product.cut((a[:, None] * b[None]).astype(np.float64)).sum(2), 0  # few bits: exact
        exact = a @ b.T
        if self.inner.format is None:
            return exact, 0
        if not self.inner.is_integer:
            total = np.zeros(exact.shape)
            for i in range(a.shape[1]):
                product = np.ldexp((a[:, i, None] * b[None, :, i]).astype(np.float64), unit)
                if self.product is not None:
                    product = self.product.decode(self.product.encode(product, self.inner.rounding))
                total = self.inner.add(total, product)
            return np.ldexp(total, -unit), 0
        total = np.zeros_like(exact)
        for i in range(a.shape[1]):
            total = self.inner.add(total, a[:, i, None] * b[None, :, i])
        return self.inner.read(total), int((total != exact).sum())

    def _block_scale(self, a: Float[np.ndarray, " m"], b: Float[np.ndarray, " n"]) -> tuple[np.ndarray, int]:
        """Product of block scales and the exponent of its unit in an integer accumulator."""
        product = a[:, None] * b[None, :]
        if self.scale_product is None:
            return product, 0
        rounded = self.scale_product.decode(self.scale_product.encode(product, self.scale_rounding))
        unit = self.scale_product.exponent if isinstance(self.scale_product, Int) else 0
        return np.ldexp(rounded, -unit) if self.outer.is_integer else rounded, unit if self.outer.is_integer else 0

    def _scaled(self, partial: np.ndarray, scale: Float[np.ndarray, "m n"], unit: int) -> np.ndarray:
        if self.outer.is_integer:
            integer = scale.astype(np.int64)
            if np.any(integer != scale):
                raise ValueError(
                    "an integer outer accumulator needs integer block scales; store them as Int, or use a float one"
                )
            if float(np.abs(partial).max(initial=0)) * float(integer.max(initial=0)) >= 2**48:  # sums may leave int64
                partial = partial.astype(object)
            return partial * integer
        # float64 holds the product exactly as long as block sum and scale together have 53 significant bits
        value = np.ldexp(partial.astype(np.float64), unit) * scale
        return self.outer.round(value)


def lanes(t: QuantizedTensor, tile: int) -> Lanes:
    """The rows of a quantized matrix in tiles of K."""
    integer_tiles = tiles(integers(t), t.k, tile)
    inside, outside = _split_scales(t, integer_tiles.shape[1], tile)
    return Lanes(
        integer_tiles,
        inside,
        outside,
        t.quantizer.format.bounds().exponent.start,
        t.quantizer.scales[-1].share.splits_k,
    )


def _split_scales(
    t: QuantizedTensor, tiles: int, tile: int
) -> tuple[Float[np.ndarray, "rows tiles"], Float[np.ndarray, "rows 1"]]:
    """Scales that vary along K, one a tile, and the product of those that do not, one a row."""
    rows, k = t.shape
    scales = t.quantizer.scales
    coarse = sum(not s.share.splits_k for s in scales)  # they come first
    inside = np.ones((rows, k))
    for scale, codes in zip(scales[coarse:], t.scales[coarse:], strict=True):
        inside = inside * scale.share.expand(scale.format.decode(codes), rows, k)
    outside = scale_product(scales[:coarse], t.scales[:coarse], t.shape)
    if coarse:
        outside = scales[coarse - 1].share.expand(outside, rows, 1)
    return inside[:, ::tile][:, :tiles], np.broadcast_to(outside, (rows, 1))
