"""How one operand is represented: a format, and who shares which scales."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from bitwright.formats import Bounds, Format, Int, Rounding
from bitwright.quantization.ranges import Statistics
from bitwright.quantization.scale import Range, Scale, ScaleValue, set_scales
from bitwright.quantization.squared_error import SquaredErrors, squared_errors, sum_cells, sum_last
from bitwright.quantization.tensor import QuantizedTensor


class Zero(Enum):
    """Where real zero lies among the codes."""

    FIXED = "at code 0, or in the middle of a signed format"
    FITTED = "at a zero point chosen with the scale (asymmetric quantization)"

    def __repr__(self) -> str:
        return f"Zero.{self.name}"


@dataclass(frozen=True)
class Quantizer:
    """x ≈ element(codes) · product of scales. Arithmetic on x is in x's own float type, in the order written here."""

    format: Format
    scales: tuple[Scale, ...]  # coarse to fine
    rounding: Rounding = Rounding.NEAREST_EVEN
    divide_by: ScaleValue = ScaleValue.STORED
    zero: Zero = Zero.FIXED

    def __post_init__(self) -> None:
        if not self.scales:
            raise ValueError("Quantizer: no scale found; give at least one, such as Scale(PerTensor())")
        shares = [s.share for s in self.scales]
        for coarse, fine in pairwise(shares):
            if any(a < b for a, b in zip(coarse.cell(2**40, 2**40), fine.cell(2**40, 2**40), strict=True)):
                raise ValueError(
                    f"Quantizer: {fine} found under {coarse}; scales go from coarse to fine, and each cell lies in a "
                    "coarser one: give PerTensor before PerRow before blocks"
                )
        for finer in self.scales[1:]:
            if finer.room > 2**32:
                raise ValueError(
                    f"Quantizer: {finer.format} "
                    "has no useful largest value under a coarser scale; set Scale(largest=...)"
                )
        share = self.scales[-1].share
        size = share.cell(2**40, 2**40)[1] if share.splits_k else 0
        if size % self.format.run:
            raise ValueError(
                f"Quantizer: {self.format} looks at runs of {self.format.run} elements, which do not divide "
                f"the block of {size} that shares a scale; choose a divisor"
            )
        if self.zero is Zero.FITTED and not (
            isinstance(self.format, Int)
            and not self.format.signed
            and not self.format.exponent
            and len(self.scales) == 1
        ):
            raise ValueError(
                "Quantizer: a fitted zero point needs an unsigned Int format in units of 1 and exactly one scale"
            )

    def quantize(
        self,
        x: Float[np.ndarray, "rows k"],
        ranges: tuple[Range | None, ...] = (),
        generator: np.random.Generator | None = None,
    ) -> QuantizedTensor:
        """Set the scales, then encode. `ranges` are the calibrated ones, level by level; None or missing is dynamic.

        NaN or infinity in x raises ValueError naming its index.
        """
        refuse_non_finite(x)
        found = self.find_ranges(x, ranges)
        spans = [self._span(r, x.dtype) for r in found]
        candidates = [self._encode(x, spans, found[0], full_scale, generator) for full_scale in self.candidates()]
        if len(candidates) == 1:
            return candidates[0]
        return _least_error(x, candidates)

    def find_ranges(self, x: Float[np.ndarray, "rows k"], ranges: tuple[Range | None, ...]) -> list[Range]:
        """The range of each level: the given one, or the extremes of x."""
        given = [*ranges, *[None] * (len(self.scales) - len(ranges))]
        return [r or self._extremes(x, scale) for r, scale in zip(given, self.scales, strict=True)]

    def fit(self, seen: Statistics, errors: SquaredErrors = squared_errors) -> "Quantizer":
        """This quantizer: nothing to choose. See `BestOf` and `BySign`."""
        return self

    def estimate(self, seen: Statistics, errors: SquaredErrors = squared_errors) -> tuple[Range | None, ...]:
        """Ranges of the levels that have an estimator, coarse to fine; None where the range is dynamic."""
        ranges: list[Range | None] = []
        for i, scale in enumerate(self.scales):
            if scale.range is None:
                ranges.append(None)
                continue

            def wrong(
                magnitudes: Sequence[np.ndarray], level: int = i, known: tuple[Range | None, ...] = tuple(ranges)
            ) -> np.ndarray:
                scale = self.scales[level]
                trials = [(*known, self._range(seen, magnitude, scale)) for magnitude in magnitudes]
                return errors(self, seen.sample, trials, scale.share)

            magnitude = scale.range.magnitude(seen, scale.share, self.format, wrong)
            ranges.append(self._range(seen, magnitude, scale))
        return tuple(ranges)

    def bits_per_element(self, rows: int, k: int) -> float:
        """Stored bits an element: the code, and its part of every scale and zero point. MXFP4: 4.25."""
        cells = [float(np.prod(s.share.shape(rows, k))) for s in self.scales]
        side = sum(count * s.format.bits for count, s in zip(cells, self.scales, strict=True))
        if self.zero is Zero.FITTED:
            side += cells[0] * self.format.bits
        return self.format.bits + side / (rows * k)

    def element_bounds(self, ranges: tuple[Range | None, ...]) -> Bounds:
        """Of elements, the level of real zero taken off; where its range follows the data, that may be any code."""
        bounds = self.format.bounds()
        if self.zero is Zero.FIXED:
            return bounds
        zeros = self.fixed_zeros(ranges)
        low, high = (bounds.lowest, bounds.highest) if zeros is None else (float(zeros.min()), float(zeros.max()))
        return bounds._replace(lowest=bounds.lowest - high, highest=bounds.highest - low)

    def fixed_zeros(self, ranges: tuple[Range | None, ...]) -> Float[np.ndarray, "down across"] | None:
        """Levels of real zero that static ranges set; None where there are none, or they follow the data."""
        if self.zero is Zero.FIXED or not ranges or ranges[0] is None:
            return None
        zeros = self.quantize(np.zeros((1, 1), np.float32), ranges).zero_points
        assert zeros is not None, "fitted"
        return self.format.decode(zeros)

    def block(self, rows: int, k: int) -> int:
        """Elements along K that share the finest scale."""
        return self.scales[-1].share.cell(rows, k)[1]

    @property
    def alignment(self) -> int:
        """Channels of a weight are padded to a multiple of this: elements that a scale or the format ties together."""
        return getattr(self.scales[-1].share, "size", self.format.run)

    def alone(self) -> "Quantizer":
        """The same for elements that have no neighbours in their dot product."""
        return replace(self, format=self.format.alone())

    def candidates(self) -> tuple[float, ...]:
        """Levels that a block's magnitude may map to; more than one where the least error chooses (four-over-six)."""
        value = self.scales[-1].full_scale
        return value if isinstance(value, tuple) else (self.format.full_scale if value is None else value,)

    def full_scales(self, candidate: float) -> tuple[float, ...]:
        """The level that each scale's magnitude maps to: coarse scales are the same for every candidate."""
        return (*[self.candidates()[0]] * (len(self.scales) - 1), candidate)

    def _extremes(self, x: np.ndarray, scale: Scale) -> Range:
        if self.zero is Zero.FITTED:
            return Range(scale.share.reduce(np.minimum, x), scale.share.reduce(np.maximum, x))
        magnitude = scale.share.reduce(np.maximum, np.abs(x) if self._is_signed() else np.maximum(x, 0))
        return Range(-magnitude, magnitude)

    def _is_signed(self) -> bool:
        return self.format.bounds().lowest < 0

    def _range(self, seen: Statistics, magnitude: np.ndarray, scale: Scale) -> Range:
        if self.zero is Zero.FIXED:
            return Range(-magnitude, magnitude)
        low, high = seen.extremes(scale.share)
        return Range(np.maximum(low, -magnitude), np.minimum(high, magnitude))

    def _span(self, range: Range, dtype: np.dtype) -> np.ndarray:
        if self.zero is Zero.FIXED:
            return range.magnitude.astype(dtype)
        return (np.maximum(range.high, 0) - np.minimum(range.low, 0)).astype(dtype)

    def _encode(
        self, x: np.ndarray, spans: list[np.ndarray], coarsest: Range, full_scale: float,
        generator: np.random.Generator | None,
    ) -> QuantizedTensor:  # fmt: skip
        codes, product = set_scales(self.scales, spans, self.full_scales(full_scale), x.shape)
        finest = self.scales[-1].share
        divisor = product if self.divide_by is ScaleValue.STORED else spans[-1] / x.dtype.type(full_scale)
        divisor = finest.expand(divisor, *x.shape)
        with np.errstate(over="ignore"):  # an infinite level saturates like any other
            level = np.divide(x, divisor, out=np.zeros_like(x), where=divisor > 0)
        zero_points = None
        if self.zero is Zero.FITTED:
            low = np.minimum(coarsest.low, 0).astype(x.dtype)
            offset = np.divide(-low, product, out=np.zeros_like(product), where=product > 0)
            zero_points = self.format.encode(offset, Rounding.NEAREST_EVEN)
            # rounded before the shift: real zero must land exactly on its code
            level = np.rint(level) + finest.expand(zero_points, *x.shape)
        block = self.block(*x.shape)
        padding = -x.shape[1] % block
        if padding:
            rows, k = x.shape
            level = np.pad(level, ((0, 0), (0, padding)))
            if zero_points is not None:
                level[:, k:] = finest.expand(zero_points, rows, k + padding)[:, k:]
        level = level.reshape(x.shape[0], level.shape[1] // block, block)
        return QuantizedTensor(
            self.format.encode(level, self.rounding, generator), tuple(codes), zero_points, x.shape[1], self
        )


@dataclass(frozen=True)
class BestOf:
    """Of several quantizers the one with the least squared error on the sample; the first of equals (ANT)."""

    quantizers: tuple["Quantizer", ...]

    @property
    def alignment(self) -> int:
        return math.lcm(*(q.alignment for q in self.quantizers))

    def fit(self, seen: Statistics, errors: SquaredErrors = squared_errors) -> Quantizer:
        def error(quantizer: Quantizer) -> float:
            found = quantizer.estimate(seen, errors)
            return float(sum_last(errors(quantizer, seen.sample, [found], quantizer.scales[0].share).ravel()))

        return self.quantizers[0] if len(self.quantizers) == 1 else min(self.quantizers, key=error)


@dataclass(frozen=True)
class BySign:
    """One choice for tensors without negative values, one for the others."""

    unsigned: "Quantizer | BestOf"
    signed: "Quantizer | BestOf"

    @property
    def alignment(self) -> int:
        return math.lcm(self.unsigned.alignment, self.signed.alignment)

    def fit(self, seen: Statistics, errors: SquaredErrors = squared_errors) -> Quantizer:
        chosen = self.signed if seen.low < 0 else self.unsigned
        return chosen.fit(seen, errors)


AnyQuantizer = Quantizer | BestOf | BySign


def fake_quantize(quantizer: Quantizer, x: np.ndarray, ranges: tuple[Range | None, ...] = ()) -> np.ndarray:
    """decode(quantize(x)) by the reference."""
    return quantizer.quantize(x, ranges).decode()


def refuse_non_finite(x: np.ndarray) -> None:
    """ValueError for the first NaN or infinity of x, with its index."""
    if not np.isfinite(x).all():
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(x))[0])
        raise ValueError(f"the value at index {index} is {x[index]}; only finite numbers can be quantized")


def _least_error(x: np.ndarray, candidates: list[QuantizedTensor]) -> QuantizedTensor:
    """Per finest cell the candidate that decodes closest to x; the first of equals."""
    quantizer = candidates[0].quantizer
    finest = quantizer.scales[-1].share
    errors = np.stack([sum_cells(finest, (c.decode() - x) ** 2) for c in candidates])
    best = errors.argmin(0)
    height, _ = finest.cell(*x.shape)
    down = np.arange(len(x)) // height
    per_block = np.broadcast_to(best[down], candidates[0].codes.shape[:2])
    codes = np.take_along_axis(np.stack([c.codes for c in candidates]), per_block[None, ..., None], 0)[0]
    fine = np.take_along_axis(np.stack([c.scales[-1] for c in candidates]), best[None], 0)[0]
    return replace(candidates[0], codes=codes, scales=(*candidates[0].scales[:-1], fine))
