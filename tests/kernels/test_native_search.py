"""Searches over ranges by the native library find the reference's sums bit for bit, and so its choices."""

import numpy as np
import pytest
import torch

from bitwright import kernels
from bitwright.config import from_text
from bitwright.formats import E4M3, FLOAT32, Int, Rounding
from bitwright.kernels import Unsupported
from bitwright.kernels.native import search as native
from bitwright.kernels.native import statistics as native_statistics
from bitwright.quantization import (
    Deviations,
    MinimumError,
    PerBlock,
    PerRow,
    PerTensor,
    Quantizer,
    Range,
    Scale,
    Statistics,
    Zero,
    count_magnitudes,
    squared_errors,
)
from bitwright.schemes.ant import flint
from bitwright.schemes.overq import Overwrite
from bitwright.schemes.term_revealing import TermBudget

pytestmark = pytest.mark.usefixtures("instructions")

FORMATS = [
    (Int(4), Rounding.NEAREST_EVEN), (Int(8, signed=False), Rounding.NEAREST_EVEN), (flint(4), Rounding.NEAREST_UP),
    (E4M3, Rounding.NEAREST_EVEN), (Overwrite(Int(4, narrow=True), cascade=4), Rounding.NEAREST_AWAY),
    (TermBudget(128, True, 8, 12), Rounding.NEAREST_AWAY), (TermBudget(255, True, 1, 3), Rounding.NEAREST_AWAY),
]  # fmt: skip
SHAPES = [(1, 1), (3, 16), (5, 37), (40, 100), (9000, 1), (2, 9000)]


def values(shape, seed=0):
    return (np.random.default_rng(seed).standard_normal(shape) * 3).astype(np.float32)


def trials(x, share):
    """Ranges from none to beyond the largest magnitude."""
    largest = share.reduce(np.maximum, np.abs(x)).astype(np.float64)
    return [(Range(-largest * f, largest * f),) for f in (0.0, 0.3, 0.777, 1.0, 1.49)]


@pytest.mark.parametrize("share", [PerTensor(), PerRow()], ids=repr)
@pytest.mark.parametrize(("format", "rounding"), FORMATS, ids=repr)
def test_errors_of_cells_are_the_reference_s_bit_for_bit(format, rounding, share):
    quantizer = Quantizer(format, (Scale(share),), rounding)
    for shape in SHAPES:
        x = values(shape)
        found = native.squared_errors(quantizer, torch.from_numpy(x), trials(x, share), share)
        np.testing.assert_array_equal(found, squared_errors(quantizer, x, trials(x, share), share))


def test_stored_scales_and_zero_points_are_the_reference_s():
    x = values((20, 33)) + np.float32(1.5)
    for quantizer in (
        Quantizer(Int(4), (Scale(PerRow(), E4M3),)),
        Quantizer(Int(4, signed=False), (Scale(PerRow(), FLOAT32),), zero=Zero.FITTED),
    ):
        low, high = PerRow().reduce(np.minimum, x), PerRow().reduce(np.maximum, x)
        given = [(Range(np.maximum(low, -m), np.minimum(high, m)),) for m in (0.5, 1.0, 3.0)]
        found = native.squared_errors(quantizer, torch.from_numpy(x), given, PerRow())
        np.testing.assert_array_equal(found, squared_errors(quantizer, x, given, PerRow()))


def test_threads_change_nothing():
    x = values((300, 1000))
    quantizer = Quantizer(flint(4), (Scale(PerTensor()),), Rounding.NEAREST_UP)
    given = trials(x, PerTensor()) * 2
    assert x.size * len(given) >= native.LARGE
    one = native.squared_errors(quantizer, torch.from_numpy(x), given, PerTensor())
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        np.testing.assert_array_equal(native.squared_errors(quantizer, torch.from_numpy(x), given, PerTensor()), one)
    finally:
        torch.set_num_threads(threads)


SCHEMES = [
    "ant(4, 4)", "ant(3, 3)", "ant(4, 8, types=('int', 'pot', 'flint', 'float'))", "overq()",
    "integer(4, 4, input_range=MinimumError())", "integer(8, 8, input_range=Deviations())", "term_revealing()",
    "a2q()", "wrapnet()", "vs_quant(4, 4)",
]  # fmt: skip


@pytest.mark.parametrize("text", SCHEMES)
def test_formats_and_ranges_chosen_with_kernels_are_the_reference_s(text):
    scheme = from_text(text)
    x = values((50, 24))
    x[:, 3] *= 5
    for chosen, data in ((scheme.input, np.maximum(x, 0)), (scheme.input, x), (scheme.weight, x)):
        seen = Statistics.of(data)
        expected, found = chosen.fit(seen), chosen.fit(seen, kernels.squared_errors)
        assert found == expected
        for here, there in zip(found.estimate(seen, kernels.squared_errors), expected.estimate(seen), strict=True):
            if there is not None:
                np.testing.assert_array_equal(here, there)


@pytest.mark.parametrize("estimator", [MinimumError(50, 120, 5), Deviations()], ids=repr)
@pytest.mark.parametrize("names", [("native",), ("torch",), ("reference",)])
def test_every_implementation_finds_the_same_sums(estimator, names):
    quantizer = Quantizer(flint(4), (Scale(PerTensor(), range=estimator),), Rounding.NEAREST_UP)
    seen = Statistics.of(values((30, 20)))
    with kernels.only(*names):
        found = quantizer.estimate(seen, kernels.squared_errors)[0]
    np.testing.assert_array_equal(found.high, quantizer.estimate(seen)[0].high)


def test_scales_that_divide_rows_are_left_to_the_others():
    x = values((4, 32))
    quantizer = Quantizer(Int(4), (Scale(PerBlock(16)),))
    with pytest.raises(Unsupported):
        native.squared_errors(quantizer, torch.from_numpy(x), trials(x, PerBlock(16)), PerBlock(16))
    found = kernels.squared_errors(quantizer, x, trials(x, PerBlock(16)), PerBlock(16))
    np.testing.assert_array_equal(found, squared_errors(quantizer, x, trials(x, PerBlock(16)), PerBlock(16)))


def test_a_value_that_is_not_finite_is_named():
    x = values((4, 32))
    x[2, 5] = np.nan
    quantizer = Quantizer(Int(4), (Scale(PerTensor()),))
    with pytest.raises(ValueError, match=r"\(2, 5\)"):
        kernels.squared_errors(quantizer, x, [(Range(-np.ones((1, 1)), np.ones((1, 1))),)], PerTensor())


@pytest.mark.parametrize("shape", [(1, 1), (3, 17), (70, 100), (5000, 1), (64, 9000)])
def test_statistics_of_batches_are_the_reference_s_bit_for_bit(shape):
    found, expected = Statistics(passes=kernels.PASSES), Statistics()
    generator = np.random.default_rng(0)
    for scale in (0.0, 1.0, 0.01, 300.0):
        batch = (generator.standard_normal(shape) * scale).astype(np.float32)
        batch[generator.random(shape) < 0.3] = 0
        batch[:, ::7] = np.round(batch[:, ::7])
        for seen in (found, expected):
            seen.update(batch)
    for name in ("low", "high", "count", "zeros", "total", "total_magnitude", "total_square", "width"):
        assert getattr(found, name) == getattr(expected, name), name
    assert found.batch_magnitudes == expected.batch_magnitudes
    np.testing.assert_array_equal(found.counts, expected.counts)
    np.testing.assert_array_equal(found.sample, expected.sample)


def test_bins_hold_their_lower_edges_and_the_last_what_lies_beyond():
    x = np.float32([[0, 0.5, 0.75, -1.0, 1023.5, 1024.0, 5000.0, 1e-45]])
    expected = np.bincount([0, 1, 1, 2, 2047, 2047, 2047, 0], minlength=2048)
    for count in (native_statistics.count_magnitudes, count_magnitudes):
        np.testing.assert_array_equal(count(x, 0.5), expected)
