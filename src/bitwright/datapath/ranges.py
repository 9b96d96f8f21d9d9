"""How wide must an accumulator be? From the formats alone, and from the very codes of a weight."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped

from bitwright.formats import Bounds
from bitwright.quantization import QuantizedTensor


def worst_sum(x: Bounds, w: Bounds, k: int) -> tuple[int, int]:
    """Extreme sums of k products, in units of 2**(x.exponent.start + w.exponent.start).

    Also bounds every partial sum in any order, as zero lies between the extremes. Uses the norms that a format
    promises (Colbert et al., arXiv:2301.13376, eq. 8, and of each sign arXiv:2401.10432).
    """
    (x_low, x_high), (w_low, w_high) = x.units, w.units
    products = [a * b for a in (x_low, x_high) for b in (w_low, w_high)]
    low, high = k * min(0, *products), k * max(0, *products)
    limits = []
    if w.norm1 is not None:
        limits.append(_in_units(w.norm1, w) * max(abs(x_low), abs(x_high)))
    if w.norm1_of_sign is not None:  # positive weights meet one end of the inputs, negative ones the other
        limits.append(_in_units(w.norm1_of_sign, w) * (max(x_high, 0) - min(x_low, 0)))
    return max([low, *(-limit for limit in limits)]), min([high, *limits])


def _in_units(norm: float, bounds: Bounds) -> int:
    return int(np.floor(np.ldexp(norm, -bounds.exponent.start)))


def bits_for(low: int, high: int) -> int:
    """Width of the smallest two's complement register that holds every integer from low to high."""
    return max((-low - 1).bit_length() if low < 0 else 0, high.bit_length() if high > 0 else 0) + 1


@dataclass(frozen=True)
class Certificate:
    """Exact extreme sums of these weights over all inputs: a proof, not a sample."""

    inner_low: int
    inner_high: int
    outer_low: int | None  # sums of scaled block sums; None when the outer accumulator is a float or unused
    outer_high: int | None

    @property
    def inner_bits(self) -> int:
        return bits_for(self.inner_low, self.inner_high)

    @property
    def outer_bits(self) -> int | None:
        return None if self.outer_low is None or self.outer_high is None else bits_for(self.outer_low, self.outer_high)


def integers(w: QuantizedTensor) -> Shaped[np.ndarray, "rows blocks block"]:
    """Elements as integers in units of 2**exponent.start; Python integers where int64 may not hold a product sum."""
    bounds = w.quantizer.format.bounds()
    units = np.ldexp(w.elements(), -bounds.exponent.start)
    largest = max(abs(u) for u in bounds.units)
    return units.astype(np.int64) if largest < 2**24 else np.vectorize(int, otypes=[object])(units)


def certify(
    w: QuantizedTensor, x: Bounds, tile: int, scale: Shaped[np.ndarray, "rows tiles"] | None = None
) -> Certificate:
    """Extreme inner sums over tiles of `tile` elements of K, for any input within the bounds x.

    With `scale`, the largest integer that multiplies each tile sum, also the extremes of the outer sum.
    """
    x_low, x_high = x.units
    weights = tiles(integers(w), w.k, tile)
    positive, negative = (f(weights, 0).sum(2).astype(object) for f in (np.maximum, np.minimum))
    high, low = positive * x_high + negative * x_low, positive * x_low + negative * x_high
    outer_low = outer_high = None
    if scale is not None:
        factor = np.vectorize(int, otypes=[object])(scale)
        outer_low, outer_high = int((low * factor).sum(1).min()), int((high * factor).sum(1).max())
    return Certificate(int(low.min()), int(high.max()), outer_low, outer_high)


def tiles(
    elements: Shaped[np.ndarray, "rows blocks block"], k: int, tile: int
) -> Shaped[np.ndarray, "rows tiles tile"]:
    """The same elements in tiles of K, zero-padded."""
    rows, blocks, block = elements.shape
    flat = elements.reshape(rows, blocks * block)[:, :k]
    padding = np.zeros((rows, -k % tile), flat.dtype)
    return np.concatenate([flat, padding], 1).reshape(rows, -(-k // tile), tile)
