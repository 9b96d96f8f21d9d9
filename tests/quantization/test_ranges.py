"""Statistics and range estimators against brute force and closed forms."""

import numpy as np
import pytest

from bitwright.formats import E8M0, Int, Rounding
from bitwright.quantization import (
    AbsMax,
    Aciq,
    Deviations,
    Entropy,
    MinimumError,
    MovingAverage,
    PerBlock,
    Percentile,
    PerRow,
    PerTensor,
    Quantizer,
    Scale,
    Statistics,
    Zero,
)  # fmt: skip
from bitwright.quantization.ranges import BINS

SIGNED = Int(4, narrow=True)


def quantizer(estimator, format=SIGNED, share=PerTensor(), zero=Zero.FIXED):
    return Quantizer(format, (Scale(share, range=estimator),), zero=zero)


def magnitude(estimator, x, format=SIGNED, share=PerTensor()):
    seen = x if isinstance(x, Statistics) else Statistics.of(x)
    return quantizer(estimator, format, share).estimate(seen)[0].high


def normal(seed=0, shape=(32, 128)):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def in_batches(x, sizes):
    seen = Statistics()
    for part in np.split(x, np.cumsum(sizes)[:-1]):
        seen.update(part)
    return seen


def test_the_largest_magnitude_is_exact_per_tensor_and_per_row():
    x = normal()
    assert magnitude(AbsMax(), x) == np.abs(x).max()
    np.testing.assert_array_equal(magnitude(AbsMax(), x, share=PerRow())[:, 0], np.abs(x).max(1))


@pytest.mark.parametrize("percent", [50.0, 90.0, 99.0, 99.9, 100.0])
def test_a_percentile_of_the_tensor_is_right_to_a_histogram_bin(percent):
    x = normal(1)
    width = np.abs(x).max() / BINS
    # the bin's right edge: at most a bin above any value of that rank, and never below it
    true = np.percentile(np.abs(x), percent, method="inverted_cdf")
    assert 0 <= magnitude(Percentile(percent), x)[0, 0] - true <= width


def test_a_percentile_per_row_is_numpy_s():
    x = normal(2)
    np.testing.assert_allclose(
        magnitude(Percentile(95.0), x, share=PerRow())[:, 0], np.percentile(np.abs(x), 95, axis=1), rtol=1e-6
    )


def test_a_percentile_of_blocks_is_refused():
    with pytest.raises(ValueError, match="only PerTensor and PerRow"):
        magnitude(Percentile(99.0), normal(), share=PerBlock(16))


@pytest.mark.parametrize("percent", [0.0, -1.0, 100.1])
def test_impossible_percentiles_are_refused(percent):
    with pytest.raises(ValueError, match="up to 100"):
        Percentile(percent)


@pytest.mark.parametrize("share", [PerTensor(), PerRow(), PerBlock(16)])
def test_the_minimum_error_is_the_first_of_all_trials(share):
    x = np.random.default_rng(3).standard_t(3, (4, 48)).astype(np.float32)
    estimator = MinimumError(20, 120, 5)
    found = magnitude(estimator, x, share=share)
    height, width = share.cell(*x.shape)
    for i in range(found.shape[0]):
        for j in range(found.shape[1]):
            cell = x[i * height : (i + 1) * height, j * width : (j + 1) * width].astype(np.float64)
            errors = []
            for percent in range(20, 120, 5):
                scale = np.float32(np.float32(np.abs(cell).max() * (percent / 100)) / np.float32(7))
                level = np.clip(np.rint((cell.astype(np.float32) / scale).astype(np.float64)), -7, 7)
                errors.append(np.sum((level * np.float64(scale) - cell) ** 2))
            # sums in another order: two trials may tie to rounding, and then either is the least
            chosen = round(found[i, j] / np.abs(cell).max() * 100)
            assert errors[(chosen - 20) // 5] <= min(errors) * (1 + 1e-12)


def test_of_equal_errors_the_first_wins():
    rounded_up = Quantizer(SIGNED, (Scale(PerTensor(), E8M0, Rounding.CEILING, range=MinimumError(75, 101)),))
    seen = Statistics.of(np.asarray([[7.0, -3.2, 1.4]]))  # every trial is stored as the scale 1
    assert rounded_up.estimate(seen)[0].high == 5.25


def test_a_tensor_of_zeros_has_magnitude_zero():
    assert magnitude(MinimumError(50, 120, 10), np.zeros((2, 8), np.float32)) == 0


def test_deviations_choose_the_count_of_least_error():
    x = np.random.default_rng(4).laplace(size=(16, 64)).astype(np.float32)
    found = magnitude(Deviations(), x)[0, 0]
    trials = [
        min(abs(x.mean(dtype=np.float64)) + n * x.std(dtype=np.float64), np.abs(x).max()) for n in Deviations().counts
    ]

    def error(trial):
        scale = np.float32(np.float32(trial) / np.float32(7))
        return np.sum((np.clip(np.rint(x / scale), -7, 7) * np.float64(scale) - x) ** 2)

    assert found == pytest.approx(min(trials, key=error), rel=1e-6)


@pytest.mark.parametrize(("bits", "ratio"), [(2, 2.83), (3, 3.89), (4, 5.03)])
def test_aciq_clips_a_laplace_distribution_where_the_paper_does(bits, ratio):
    x = np.random.default_rng(5).laplace(size=(64, 256)).astype(np.float32)
    found = magnitude(Aciq(), x, Int(bits))[0, 0]
    assert found / np.abs(x).mean(dtype=np.float64) == pytest.approx(
        ratio, abs=0.01
    )  # two decimals, which the paper cuts (3.897)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_aciq_balances_clipping_and_rounding_noise(bits):
    x = np.random.default_rng(5).laplace(size=(64, 256)).astype(np.float32) / 100
    x[0, 0] = 10  # far enough for any clipping
    alpha = magnitude(Aciq(), x, Int(bits))[0, 0] / np.abs(x).mean(dtype=np.float64)
    assert 2 * np.exp(-alpha) == pytest.approx(2 / 3 * alpha * 4.0**-bits, rel=1e-9)


def test_zeros_of_a_relu_do_not_move_the_clip_of_aciq():
    x = np.abs(np.random.default_rng(0).laplace(size=(64, 64)))
    with_zeros = np.concatenate([x, np.zeros_like(x)])
    assert magnitude(Aciq(), with_zeros, Int(4, signed=False)) == magnitude(Aciq(), x, Int(4, signed=False))


def test_aciq_gives_values_without_a_sign_one_bit_more():
    x = np.abs(np.random.default_rng(6).laplace(size=(64, 256))).astype(np.float32)
    assert magnitude(Aciq(), x, Int(3, signed=False)) == magnitude(Aciq(), np.concatenate([x, -x]), Int(4))


def entropy_by_hand(counts, levels, stride):
    """Migacz's procedure, written out: merge the kept bins into levels, spread them over the occupied ones, compare."""
    counts = [float(c) for c in counts]
    counts[0] = counts[1]
    best, least = None, np.inf
    for stop in [*range(128, BINS, stride), BINS]:
        kept = counts[:stop]
        reference = [*kept[:-1], kept[-1] + sum(counts[stop:])]
        spread = [0.0] * stop
        for level in range(levels):
            bins = [i for i in range(stop) if i * levels // stop == level]
            occupied = [i for i in bins if kept[i] > 0]
            for i in occupied:
                spread[i] = sum(kept[j] for j in bins) / len(occupied)
        p, q = np.asarray(reference) / sum(reference), np.asarray(spread) / sum(spread)
        if np.any((p > 0) & (q == 0)):
            q = np.maximum(q, 1e-12)
        divergence = sum(a * np.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)
        if divergence <= least:
            best, least = stop, divergence
    return best


@pytest.mark.parametrize("seed", range(2))
def test_entropy_keeps_the_bins_of_least_divergence(seed):
    x = np.random.default_rng(seed).laplace(size=(64, 256)).astype(np.float32)
    seen = Statistics.of(x)
    stop = entropy_by_hand(seen.counts, 8, 64)
    assert magnitude(Entropy(stride=64), seen, Int(4))[0, 0] == stop * seen.width
    assert stop < BINS


@pytest.mark.parametrize("estimator", [MovingAverage(), Aciq(), Entropy(), Deviations()])
def test_estimators_of_one_distribution_refuse_rows(estimator):
    with pytest.raises(ValueError, match="needs PerTensor"):
        magnitude(estimator, normal(), share=PerRow())


def test_a_moving_average_starts_at_the_first_batch_and_depends_on_the_order():
    x = normal(7, (30, 16))
    a, b, c = (float(np.abs(part).max()) for part in np.split(x, 3))
    found = magnitude(MovingAverage(0.8), in_batches(x, [10, 10, 10]))[0, 0]
    assert found == pytest.approx(0.8 * (0.8 * a + 0.2 * b) + 0.2 * c, rel=1e-12)


@pytest.mark.parametrize("sizes", [[60], [10, 50], [1] * 60, [20, 20, 20]])
def test_extremes_moments_and_counts_do_not_depend_on_batches(sizes):
    x = normal(8, (60, 32))
    seen = in_batches(x, sizes)
    assert (seen.low, seen.high, seen.count, seen.magnitude) == (x.min(), x.max(), x.size, np.abs(x).max())
    assert seen.mean == pytest.approx(x.mean(dtype=np.float64), rel=1e-12, abs=1e-15)
    # the difference of two float64 sums of 1920 squares
    assert seen.deviation == pytest.approx(x.std(dtype=np.float64), rel=1e-12)
    assert seen.counts.sum() == x.size


def test_rows_that_fit_are_all_in_the_sample_in_order():
    x = normal(9, (60, 32))
    np.testing.assert_array_equal(in_batches(x, [7, 13, 40]).sample, x)


def test_the_histogram_of_growing_batches_counts_every_value_in_its_bin():
    x = np.sort(np.abs(normal(10, (64, 64))).reshape(-1)).reshape(64, 64)
    seen = in_batches(x, [16] * 4)
    index = np.minimum((x.astype(np.float64) / seen.width).astype(int), BINS - 1)
    expected = np.bincount(index.reshape(-1), minlength=BINS)
    # a value within float rounding of an edge may fall on its other side
    assert np.abs(np.cumsum(seen.counts) - np.cumsum(expected)).max() <= 1
    assert seen.width * BINS >= seen.magnitude > seen.width * BINS / 2


def test_zeros_before_the_first_value_are_counted():
    seen = Statistics()
    for batch in (np.zeros((2, 8), np.float32), np.zeros((3, 8), np.float32), np.ones((1, 8), np.float32)):
        seen.update(batch)
    assert (seen.counts[0], seen.counts[-1]) == (40, 8)


def test_an_empty_batch_changes_nothing():
    seen = Statistics.of(np.ones((1, 4), np.float32))
    seen.update(np.zeros((0, 4), np.float32))
    assert (seen.count, len(seen.batch_magnitudes)) == (4, 1)


@pytest.mark.filterwarnings("ignore:underflow")
def test_the_smallest_float_can_be_calibrated_on():
    seen = Statistics.of(np.asarray([[5e-324, 0.0]]))
    assert seen.counts.sum() == 2


def test_memory_is_bounded_whatever_streams_through():
    seen = Statistics(sample_elements=1024)
    for seed in range(50):
        seen.update(normal(seed, (64, 32)))
    assert seen.sample.shape == (32, 32)
    assert seen.counts.shape == (BINS,)


def test_every_row_has_the_same_chance_to_be_in_the_sample():
    times = np.zeros(40)
    for seed in range(400):
        seen = Statistics(sample_elements=10 * 4, seed=seed)
        rows = np.repeat(np.arange(40, dtype=np.float32)[:, None], 4, 1)
        for part in np.split(rows, [3, 11, 12, 30]):
            seen.update(part)
        times[seen.sample[:, 0].astype(int)] += 1
    # each row is kept with probability 1/4; 5 standard deviations of 400 draws miss once in 40 000 for 40 rows
    assert np.abs(times - 100).max() < 5 * np.sqrt(400 * 0.25 * 0.75)


def test_rows_of_another_length_start_a_new_sample_with_equal_chances():
    times = np.zeros(20)
    for seed in range(300):
        seen = Statistics(sample_elements=8 * 4, seed=seed)
        seen.update(np.zeros((500, 2), np.float32))
        seen.update(np.repeat(np.arange(20, dtype=np.float32)[:, None], 4, 1))
        times[seen.sample[:, 0].astype(int)] += 1
    assert np.abs(times - 120).max() < 5 * np.sqrt(300 * 0.4 * 0.6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_a_number_is_refused_with_its_place(value):
    x = normal()
    x[3, 5] = value
    with pytest.raises(ValueError, match=r"\(3, 5\)"):
        Statistics().update(x)
