"""A format: representable values and their codes, seen by hardware as terms.

A stored code contributes *terms* `significand · 2**exponent` to one *source* element; that is what a multiplier array
sees. Decoding, exact dot products, wire widths and accumulator proofs all follow from terms and their static bounds.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from bitwright.formats.rounding import Rounding


class Terms(NamedTuple):
    """Multiplier operands: element[source] = Σ significand · 2**exponent over its terms."""

    significand: Int[np.ndarray, "*rows terms"]
    exponent: Int[np.ndarray, "*rows terms"]
    source: Int[np.ndarray, "*rows terms"]  # index along K


class Bounds(NamedTuple):
    """Static ranges of a format's terms and elements. Sizes wires, carriers and accumulators."""

    significand: int  # largest magnitude of one term's significand
    exponent: range  # of terms; exponent.start is the weight of the unit that every element is a multiple of
    lowest: float  # extreme element values
    highest: float
    reach: int = 0  # furthest source, in lanes back
    per_lane: int = 1  # terms from one code
    norm1: float | None = None  # guaranteed bound on Σ|element| of a row, or of each tile that the format cuts it into
    norm1_of_sign: float | None = None  # the same of the positive elements alone, and of the negative ones

    @property
    def units(self) -> tuple[int, int]:
        """Extreme elements as integers, in units of 2**exponent.start."""
        return _exact_integer(self.lowest, self.exponent.start), _exact_integer(self.highest, self.exponent.start)


class Format(ABC):
    """Representable values and their codes. Scalar formats act elementwise; group formats look along the last axis.

    `full_scale` is the level that scaling maps a block's largest magnitude to; `bits` counts side bits too.
    """

    bits: int

    @property
    @abstractmethod
    def full_scale(self) -> float: ...

    @property
    def run(self) -> int:
        """Neighbours along the last axis that must lie in one block of scales; 1 for scalar formats."""
        return 1

    def alone(self) -> "Format":
        """The format of an element without neighbours in its dot product (a depthwise convolution's channels)."""
        return self

    @abstractmethod
    def encode(
        self,
        x: Float[np.ndarray, "*rows k"],
        rounding: Rounding = Rounding.NEAREST_EVEN,
        generator: np.random.Generator | None = None,
    ) -> Int[np.ndarray, "*rows k"]:
        """Codes of the levels x. Saturates; a NaN raises ValueError."""

    @abstractmethod
    def terms(self, codes: Int[np.ndarray, "*rows k"]) -> Terms: ...

    @abstractmethod
    def bounds(self) -> Bounds: ...

    def is_reserved(self, codes: Int[np.ndarray, "*rows k"]) -> Bool[np.ndarray, "*rows k"]:
        """Codes that stand for no number (NaN, infinity, what a narrow Int leaves out): never written by `encode`."""
        return np.zeros(codes.shape, bool)

    def decode(self, codes: Int[np.ndarray, "*rows k"]) -> Float[np.ndarray, "*rows k"]:
        """Elements of the codes: the sum of their terms. Reserved codes raise ValueError."""
        if np.any(self.is_reserved(codes)):
            raise ValueError(f"{self}: some codes stand for no number (NaN, infinity, unused) and cannot be decoded")
        significand, exponent, source = self.terms(codes)
        values = np.ldexp(significand.astype(np.float64), exponent)
        if source.shape == codes.shape and self.bounds().reach == 0:  # one term a lane, each its own
            return values
        k = codes.shape[-1]
        row = np.arange(codes.size // max(k, 1)).reshape(*codes.shape[:-1], 1)
        # sums of dyadic numbers of few bits are exact in any order
        sums = np.bincount((row * k + source).ravel(), values.ravel(), codes.size)
        return sums.reshape(codes.shape).astype(np.float64, copy=False)  # of nothing at all it counts in integers


def own_lane(shape: tuple[int, ...]) -> Int[np.ndarray, "*rows k"]:
    """Sources of a format whose every code stands for its own element."""
    return np.broadcast_to(np.arange(shape[-1]) if shape else np.asarray(0), shape)


def refuse_nan(x: Shaped[np.ndarray, "*shape"], format: Format) -> None:
    """ValueError for the first NaN of x, with its index."""
    if np.isnan(x).any():
        index = tuple(int(i) for i in np.argwhere(np.isnan(x))[0])
        raise ValueError(f"{format}: the value at index {index} is NaN, which has no code; find the layer that made it")


def _exact_integer(value: float, exponent: int) -> int:
    numerator, denominator = float(value).as_integer_ratio()
    shifted = numerator << -exponent if exponent < 0 else numerator
    divisor = denominator << exponent if exponent > 0 else denominator
    assert shifted % divisor == 0, "an element is a multiple of the format's unit"
    return shifted // divisor
