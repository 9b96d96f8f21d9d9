"""Where a scale's range comes from: statistics of the data, and the estimators that read them.

Statistics are gathered in bounded memory, so a calibration set of any size streams through.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from bitwright.formats import Format
from bitwright.quantization.granularity import Granularity, PerTensor
from bitwright.quantization.squared_error import sum_last

BINS = 2048
"""Bins of |x|; as many as NVIDIA's calibrators use."""

Error = Callable[[Sequence[np.ndarray]], np.ndarray]
"""Squared error [trials, down, across] of each cell when the cells have each of these magnitudes."""


class Summary(NamedTuple):
    """Extremes and sums of a batch, in float64 and in the order of `sum_last`."""

    low: float
    high: float
    zeros: int
    total: float
    total_magnitude: float
    total_square: float


def summarize(x: Float[np.ndarray, "rows k"]) -> Summary:
    """One batch, which must not be empty."""
    values = x.astype(np.float64).ravel()
    sums = (float(sum_last(y)) for y in (values, np.abs(values), np.square(values)))
    return Summary(float(x.min()), float(x.max()), int(x.size - np.count_nonzero(x)), *sums)


def count_magnitudes(x: Float[np.ndarray, "rows k"], width: float) -> Int[np.ndarray, " bins"]:
    """How many |x| lie in each bin of this width; the last takes what lies beyond, the first all if the width is 0."""
    position = np.abs(x.astype(np.float64)).ravel() / width if width else np.zeros(x.size)
    return np.bincount(np.minimum(position, BINS - 1).astype(np.int64), minlength=BINS)


@dataclass(frozen=True)
class Passes:
    """What looks at every value of a batch: the functions above, or kernels equal to them."""

    summarize: Callable[[np.ndarray], Summary] = summarize
    count_magnitudes: Callable[[np.ndarray, float], np.ndarray] = count_magnitudes


class Statistics:
    """What calibration keeps of a tensor: extremes, moments, a histogram of |x|, and whole rows as a sample."""

    def __init__(self, sample_elements: int = 1 << 17, seed: int = 0, passes: Passes = Passes()) -> None:
        self.low, self.high, self.count, self.zeros = np.inf, -np.inf, 0, 0
        self.total = self.total_magnitude = self.total_square = 0.0
        self.batch_magnitudes: list[float] = []
        self.counts = np.zeros(BINS, np.int64)
        self.width = 0.0  # of a bin; grows by doubling, so old counts merge pairwise
        self.sample = np.zeros((0, 0), np.float32)
        self._sample_elements, self._rows_seen = sample_elements, 0
        self._generator, self._passes = np.random.default_rng(seed), passes

    @staticmethod
    def of(x: Float[np.ndarray, "rows k"], passes: Passes = Passes()) -> "Statistics":
        """Statistics of a tensor that is wholly at hand: the sample is the tensor."""
        seen = Statistics(x.size, passes=passes)
        seen.update(x)
        return seen

    def update(self, x: Float[np.ndarray, "rows k"]) -> None:
        """Take in one batch. NaN or infinity raises ValueError."""
        if not x.size:
            return
        found = self._passes.summarize(x)
        if not np.isfinite(found.total_magnitude):
            _refuse_non_finite(x)
        self.low, self.high = min(self.low, found.low), max(self.high, found.high)
        self.count += x.size
        self.zeros += found.zeros
        self.total += found.total
        self.total_magnitude += found.total_magnitude
        self.total_square += found.total_square
        self.batch_magnitudes.append(max(abs(found.low), abs(found.high)))
        self._fill_histogram(x)
        self._keep_rows(x)

    @property
    def magnitude(self) -> float:
        return max(abs(self.low), abs(self.high)) if self.count else 0.0

    @property
    def mean(self) -> float:
        return self.total / self.count

    @property
    def deviation(self) -> float:
        return float(np.sqrt(max(self.total_square / self.count - self.mean**2, 0.0)))

    def extremes(self, share: Granularity) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest value of each cell: of everything seen, or of the sample's own rows and blocks."""
        if isinstance(share, PerTensor):
            return np.full((1, 1), self.low), np.full((1, 1), self.high)
        return share.reduce(np.minimum, self.sample), share.reduce(np.maximum, self.sample)

    def magnitudes(self, share: Granularity) -> Float[np.ndarray, "down across"]:
        low, high = self.extremes(share)
        return np.maximum(np.abs(low), np.abs(high)).astype(np.float64)

    def _fill_histogram(self, x: np.ndarray) -> None:
        largest = self.batch_magnitudes[-1]
        if self.width == 0.0 and largest > 0:
            self.width = max(largest / BINS, np.finfo(np.float64).tiny)  # zero would never grow
            self.counts[0] = self.count - x.size  # all zeros so far
        while largest > self.width * BINS:
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(1), np.zeros(BINS // 2, np.int64)])
            self.width *= 2
        self.counts += self._passes.count_magnitudes(x, self.width)

    def _keep_rows(self, x: np.ndarray) -> None:
        """Reservoir sampling: every row seen has the same chance to be in the sample."""
        capacity = max(self._sample_elements // x.shape[1], 1)
        if self.sample.shape[1] != x.shape[1]:
            self.sample, self._rows_seen = np.zeros((0, x.shape[1]), x.dtype), 0
        free = capacity - len(self.sample)
        self.sample = np.concatenate([self.sample, x[:free]])
        late = x[max(free, 0) :]
        if len(late):
            position = self._rows_seen + max(free, 0) + np.arange(len(late))
            slot = (self._generator.random(len(late)) * (position + 1)).astype(np.int64)
            kept = slot < capacity
            self.sample[slot[kept]] = late[kept]
        self._rows_seen += len(x)


class RangeEstimator(ABC):
    """How a static range is found."""

    @abstractmethod
    def magnitude(
        self, seen: Statistics, share: Granularity, format: Format, error: Error
    ) -> Float[np.ndarray, "down across"]:
        """Magnitude that the full scale stands for, one a cell."""


@dataclass(frozen=True)
class AbsMax(RangeEstimator):
    """The largest magnitude seen."""

    def magnitude(self, seen: Statistics, share: Granularity, format: Format, error: Error) -> np.ndarray:
        return seen.magnitudes(share)


@dataclass(frozen=True)
class MovingAverage(RangeEstimator):
    """Exponential average of each batch's largest magnitude (Jacob et al., CVPR 2018, sec. 3.1)."""

    momentum: float = 0.9

    def magnitude(self, seen: Statistics, share: Granularity, format: Format, error: Error) -> np.ndarray:
        _require_per_tensor(self, share)
        average = seen.batch_magnitudes[0]
        for value in seen.batch_magnitudes[1:]:
            average = self.momentum * average + (1 - self.momentum) * value
        return np.full((1, 1), average)


@dataclass(frozen=True)
class Percentile(RangeEstimator):
    """Magnitude below which `percent` of the values lie; from the histogram where one range serves the tensor."""

    percent: float = 99.99

    def __post_init__(self) -> None:
        if not 0 < self.percent <= 100:
            raise ValueError(f"Percentile: {self.percent} found; above 0 and up to 100 are possible")

    def magnitude(self, seen: Statistics, share: Granularity, format: Format, error: Error) -> np.ndarray:
        if not isinstance(share, PerTensor):
            height, width = share.cell(*seen.sample.shape)
            if height != 1 or width != seen.sample.shape[1]:
                raise ValueError(f"Percentile: {share} found; only PerTensor and PerRow have enough values for a tail")
            return np.percentile(np.abs(seen.sample), self.percent, axis=1, keepdims=True).astype(np.float64)
        below = np.cumsum(seen.counts) / max(seen.count, 1)
        bin = int(np.searchsorted(below, self.percent / 100))
        return np.full((1, 1), min((bin + 1) * seen.width, seen.magnitude))


@dataclass(frozen=True)
class MinimumError(RangeEstimator):
    """Least squared error over magnitudes (i/100)·largest, lowest ≤ i < highest; the first of equals.

    The defaults are ANT's (ratios 0.75 to 1.49); ratios above 1 widen the range.
    """

    lowest: int = 75
    highest: int = 150
    step: int = 1

    def magnitude(self, seen: Statistics, share: Granularity, format: Format, error: Error) -> np.ndarray:
        factors = [percent / 100 for percent in range(self.lowest, self.highest, self.step)]
        return _least_error(seen, share, error, factors)


@dataclass(frozen=True)
class MinimumErrorByOctave(RangeEstimator):
    """Least squared error over magnitudes 2**i·largest, lowest ≤ i ≤ highest in steps of an octave's `parts`.

    For formats whose best range may lie far beyond the largest value, as that of integers with a bounded norm.
    """

    lowest: int = -1
    highest: int = 6
    parts: int = 4

    def magnitude(self, seen: Statistics, share: Granularity, format: Format, error: Error) -> np.ndarray:
        count = (self.highest - self.lowest) * self.parts
        return _least_error(seen, share, error, [2.0 ** (self.lowest + i / self.parts) for i in range(count + 1)])


@dataclass(frozen=True)
class Deviations(RangeEstimator):
    """Mean + n standard deviations, with the n of least squared error among `counts` (OverQ's sweep)."""

    counts: tuple[float, ...] = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0)

    def magnitude(self, seen: Statistics, share: Granularity, format: Format, error: Error) -> np.ndarray:
        _require_per_tensor(self, share)
        trials = [np.full((1, 1), min(abs(seen.mean) + n * seen.deviation, seen.magnitude)) for n in self.counts]
        return trials[int(error(trials)[:, 0, 0].argmin())]


@dataclass(frozen=True)
class Aciq(RangeEstimator):
    """Clipping that is optimal for a Laplace distribution (Banner et al., NeurIPS 2019, arXiv:1810.05723, eq. 6).

    For values without a sign the same step serves half the range, which is one bit more of resolution, and zeros, which
    a ReLU makes of the other half, do not count.
    """

    def magnitude(self, seen: Statistics, share: Granularity, format: Format, error: Error) -> np.ndarray:
        _require_per_tensor(self, share)
        is_half = seen.low >= 0
        bits = format.bits + is_half
        counted = seen.count - seen.zeros if is_half else seen.count
        spread = seen.total_magnitude / max(counted, 1)  # the Laplace parameter b of |x| about zero
        return np.full((1, 1), min(spread * _laplace_clip(bits), seen.magnitude))


@dataclass(frozen=True)
class Entropy(RangeEstimator):
    """The clipping whose quantized histogram of |x| keeps most information: least KL divergence, from 128 bins up.

    S. Migacz, "8-bit inference with TensorRT", GTC 2017; the last of equals, as NVIDIA's library does.
    """

    stride: int = 8

    def magnitude(self, seen: Statistics, share: Granularity, format: Format, error: Error) -> np.ndarray:
        _require_per_tensor(self, share)
        levels = 2 ** (format.bits - (format.bounds().lowest < 0))
        counts = seen.counts.astype(np.float64)
        counts[0] = counts[1]  # the zeros of a ReLU would drown the rest
        stops = [*range(128, BINS, self.stride), BINS]
        divergence = [_clipping_divergence(counts, stop, levels) for stop in stops]
        best = len(stops) - 1 - int(np.argmin(divergence[::-1]))
        return np.full((1, 1), stops[best] * seen.width)


def _clipping_divergence(counts: Float[np.ndarray, " bins"], stop: int, levels: int) -> float:
    kept = counts[:stop].copy()
    clipped = kept.copy()
    clipped[-1] += counts[stop:].sum()
    level: Int[np.ndarray, " stop"] = np.minimum(np.arange(stop) * levels // stop, levels - 1)
    occupied = kept > 0
    mass = np.bincount(level, kept, levels)
    share = mass / np.maximum(np.bincount(level, occupied, levels), 1)
    coarse = np.where(occupied, share[level], 0.0)
    if clipped.sum() == 0 or coarse.sum() == 0:
        return np.inf
    p, q = clipped / clipped.sum(), coarse / coarse.sum()
    if np.any((p > 0) & (q == 0)):
        q = np.maximum(q, 1e-12)
    inside = p > 0
    return float(np.sum(p[inside] * np.log(p[inside] / q[inside])))


def _laplace_clip(bits: int) -> float:
    """α/b with 2·exp(-α/b) = (2/3)·(α/b)·4**-bits: clipping and rounding noise balance. By bisection."""
    low, high = 0.0, 100.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if np.exp(-middle) > middle / 3 * 4.0**-bits else (low, middle)
    return middle


def _least_error(seen: Statistics, share: Granularity, error: Error, factors: Sequence[float]) -> np.ndarray:
    """Of the largest magnitude times each factor the one of least error; the first of equals."""
    largest = share.reduce(np.maximum, np.abs(seen.sample)).astype(np.float64)
    trials = [largest * factor for factor in factors]
    best = error(trials).argmin(0)
    return np.take_along_axis(np.stack(trials), best[None], 0)[0]


def _refuse_non_finite(x: np.ndarray) -> None:
    if not np.isfinite(x).all():
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(x))[0])
        raise ValueError(f"the value at row, column {index} is {x[index]}; only finite numbers can be calibrated on")


def _require_per_tensor(estimator: RangeEstimator, share: Granularity) -> None:
    if not isinstance(share, PerTensor):
        raise ValueError(
            f"{estimator}: {share} found; this estimator needs PerTensor, others take AbsMax or MinimumError"
        )
