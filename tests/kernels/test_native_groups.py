"""Group formats by the native library equal the reference bit for bit, for every set of instructions."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright import kernels
from bitwright.config import from_text
from bitwright.formats import E2M1, Int, Rounding
from bitwright.kernels import Unsupported
from bitwright.kernels.native import groups as native
from bitwright.quantization import PerRow, PerTensor, Quantizer, Range, Scale, Statistics
from bitwright.schemes.ant import flint
from bitwright.schemes.overq import Overwrite, Pick
from bitwright.schemes.term_revealing import Recoding, TermBudget

pytestmark = pytest.mark.usefixtures("instructions")

U4 = Int(4, signed=False)
LANES = [U4, Int(4, narrow=True), Int(2, signed=False), Int(8, signed=False), flint(4, False), flint(4), E2M1]
KINDS = [(1, False), (4, False), (200, False), (4, True), (0, True)]
"""Cascades, 0 without range overwriting, and whether fractions are kept."""

GROUPS = [(1, 1), (1, 3), (1, None), (3, 2), (8, 12), (16, 1), (16, 24), (32, 48), (40, 30), (200, 100), (4, None)]
"""Elements that share a budget, and its terms."""

WIDTHS = (1, 7, 64, 130, 1030)


def levels(format, k, seed=0):
    """Gaussian levels with zeros, ties, outliers, denormals and the largest float32."""
    generator = np.random.default_rng(seed)
    alone = format.alone()
    x = (generator.standard_normal((5, k)) * alone.full_scale * 0.6).astype(np.float32)
    kind = generator.random(x.shape)
    x[kind < 0.3] = 0
    x[(kind > 0.5) & (kind < 0.8)] = np.round(x[(kind > 0.5) & (kind < 0.8)] * 2) / 2
    x[kind > 0.96] *= 10
    x[kind > 0.985] = generator.choice(np.float32([1e-45, -1e-40, 1e6, -1e16, 3e38]), x.shape)[kind > 0.985]
    return np.abs(x) if format.bounds().lowest == 0 else x


def check(format, rounding, x):
    found = native.round_levels(format, torch.from_numpy(x), rounding).numpy()
    np.testing.assert_array_equal(found, format.decode(format.encode(x, rounding)))


def overwriting(lane):
    """Every kind of overwriting that the lane takes."""
    return [
        Overwrite(lane, bool(cascade), max(cascade, 1), fractions, pick, tile)
        for (cascade, fractions), pick, tile in product(KINDS, Pick, [None, 1, 16, 128])
        if isinstance(lane, Int) or not fractions
    ]


@pytest.mark.parametrize("lane", LANES, ids=repr)
def test_overwritten_lanes_are_the_reference_s(lane):
    for i, format in enumerate(overwriting(lane)):
        rounding = (Rounding.NEAREST_UP, Rounding.NEAREST_AWAY, Rounding.NEAREST_EVEN)[i % 3]
        check(format, rounding, levels(format, 130, seed=i))


@pytest.mark.parametrize("rounding", native.ROUNDINGS)
@pytest.mark.parametrize("k", WIDTHS)
@pytest.mark.parametrize(
    "format", [Overwrite(U4, cascade=4, precision_overwrite=True), TermBudget(128, True, 16, 24)], ids=repr
)
def test_every_rounding_and_width_is_the_reference_s(format, rounding, k):
    check(format, rounding, levels(format, k))


@pytest.mark.parametrize("largest", [7, 128, 255, 1000])
@pytest.mark.parametrize("recoding", Recoding)
def test_the_kept_terms_are_the_reference_s(recoding, largest):
    most = TermBudget(largest, recoding=recoding).most_terms
    for i, (group, budget) in enumerate(GROUPS):
        format = TermBudget(largest, i % 2 == 0, group, budget and min(budget, group * most), recoding)
        check(format, Rounding.NEAREST_AWAY, levels(format, 130))


def test_all_pairs_of_magnitudes_keep_the_reference_s_terms():
    format = TermBudget(128, True, 2, 3)
    pairs = np.stack(np.meshgrid(np.arange(-128, 129), np.arange(129)), -1).reshape(-1, 2).astype(np.float32)
    check(format, Rounding.NEAREST_AWAY, pairs)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from([0, 1, 3, 14.5, 15.5, 16, 200, 300]), min_size=1, max_size=150),
    st.sampled_from(overwriting(U4)),
)
def test_any_pattern_of_zeros_and_outliers_is_the_reference_s(pattern, format):
    check(format, Rounding.NEAREST_UP, np.asarray([pattern, pattern[::-1]], np.float32))


SCHEMES = [
    "overq()", "overq(4, precision_overwrite=True, signed=True)", "overq(3, pick=Pick.LARGEST, tile=None)",
    "overq_on(signed=True)", "overq_on(nvfp4(), signed=True)", "term_revealing()", "term_revealing(quirks=True)",
]  # fmt: skip


@pytest.mark.parametrize("text", SCHEMES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 37), (40, 150)])
def test_schemes_decode_to_what_the_reference_does(text, shape):
    scheme = from_text(text)
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * 3
    for quantizer, values in ((scheme.input, x), (scheme.input, x.relu()), (scheme.weight, x)):
        seen = Statistics.of(values.numpy())
        fitted = quantizer.fit(seen, kernels.squared_errors)
        ranges = fitted.estimate(seen, kernels.squared_errors)
        with kernels.only("reference"):
            expected = kernels.fake_quantize(fitted, values, ranges)
        with kernels.only("native"):
            found = kernels.fake_quantize(fitted, values, ranges)
        assert torch.equal(found, expected)


def tensor_scale(format, magnitude=1.0, rounding=Rounding.NEAREST_UP):
    return Quantizer(format, (Scale(PerTensor()),), rounding), (
        Range(np.full((1, 1), -magnitude), np.full((1, 1), magnitude)),
    )


@pytest.mark.parametrize("format", [Overwrite(U4, cascade=4), TermBudget(255, False, 8, 12)], ids=repr)
def test_a_matrix_in_pieces_in_place_and_in_threads_is_the_same(format):
    quantizer, ranges = tensor_scale(format)
    x = torch.rand(3, 5, 40).mul_(3)[:, 1:4].reshape(9, 40)
    expected = native.fake_quantize(quantizer, x.contiguous(), ranges)
    strided = torch.cat([x, x], 1)[:, :40]
    assert not strided.is_contiguous()
    assert torch.equal(native.fake_quantize(quantizer, strided, ranges), expected)
    large = x.repeat(1 + native.LARGE // x.numel(), 1)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(native.fake_quantize(quantizer, large, ranges), expected.repeat(len(large) // 9, 1))
    finally:
        torch.set_num_threads(threads)
    assert native.fake_quantize(quantizer, x, ranges, x) is x
    assert torch.equal(x, expected)


def test_rows_have_scales_of_their_own_and_rows_of_zeros_stay_zero():
    quantizer = Quantizer(TermBudget(128, True, 8, 12), (Scale(PerRow()),), Rounding.NEAREST_AWAY)
    x = torch.randn(6, 20) * torch.tensor([0.0, 1e-30, 1e-3, 1, 1e5, 1e30])[:, None]
    with kernels.only("reference"):
        expected = kernels.fake_quantize(quantizer, x)
    assert torch.equal(native.fake_quantize(quantizer, x), expected)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("text", ["overq()", "overq_on()", "term_revealing()"])
def test_what_is_not_finite_is_refused_with_its_place(text, wrong):
    quantizer = from_text(text).input.fit(Statistics.of(np.ones((1, 8), np.float32)))
    ranges = quantizer.estimate(Statistics.of(np.ones((1, 8), np.float32)))
    x = torch.ones(3, 80)
    x[1, 70] = wrong
    with pytest.raises(ValueError, match=r"row, column \(1, 70\)"):
        kernels.fake_quantize(quantizer, x, ranges)


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("format", [Overwrite(U4), TermBudget(255, False, 8, 12)], ids=repr)
def test_a_negative_level_without_a_sign_is_refused(format, in_place):
    quantizer, ranges = tensor_scale(format)
    x = torch.ones(2, 9)
    x[1, 3] = -0.5
    with pytest.raises(ValueError, match="negative"):
        kernels.fake_quantize(quantizer, x, ranges, out=x if in_place else None)


@pytest.mark.parametrize(
    "format",
    [Overwrite(Int(4, signed=False, exponent=1)), Overwrite(Int(16, signed=False)), TermBudget(65535)],
    ids=repr,
)
def test_what_the_library_does_not_take_is_left_to_torch(format):
    with pytest.raises(Unsupported):
        native.round_levels(format, torch.ones(1, 4), Rounding.NEAREST_UP)
