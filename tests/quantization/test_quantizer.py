"""Quantizers: who shares a scale, how levels of scales follow each other, and where real zero lies."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright.formats import E2M1, E4M3, E8M0, FLOAT32, Int, Rounding, Table, pack
from bitwright.quantization import (
    AbsMax,
    BestOf,
    BySign,
    PerBlock,
    PerColumns,
    PerRow,
    PerTensor,
    PerTile,
    Quantizer,
    Range,
    Scale,
    ScaleValue,
    Statistics,
    Zero,
)  # fmt: skip
from bitwright.testing import matrices, quantizers

GRIDS = [PerTensor(), PerRow(), PerBlock(8), PerColumns(8), PerTile(2, 8), PerTile(3, 64)]


def cells(share, x):
    height, width = share.cell(*x.shape)
    for i in range(-(-x.shape[0] // height)):
        for j in range(-(-x.shape[1] // width)):
            yield (i, j), slice(i * height, (i + 1) * height), slice(j * width, (j + 1) * width)


def normal(seed=0, shape=(5, 37)):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("share", GRIDS, ids=repr)
def test_every_element_belongs_to_the_cell_that_its_scale_comes_from(share):
    x = normal()
    largest = share.reduce(np.maximum, x)
    spread = share.expand(largest, *x.shape)
    assert largest.shape == share.shape(*x.shape)
    for (i, j), rows, columns in cells(share, x):
        assert largest[i, j] == x[rows, columns].max()
        assert np.all(spread[rows, columns] == largest[i, j])


@pytest.mark.parametrize("share", GRIDS, ids=repr)
def test_each_cell_is_quantized_by_its_own_largest_magnitude(share):
    x = normal(1)
    t = Quantizer(Int(4, narrow=True), (Scale(share),)).quantize(x)
    for _, rows, columns in cells(share, x):
        part = x[rows, columns]
        scale = np.abs(part).max() / np.float32(7)
        expected = np.rint(part / scale).astype(np.float64) * np.float64(scale)
        np.testing.assert_array_equal(t.decode()[rows, columns], expected)


def test_a_cut_block_is_padded_with_zeros_that_decode_away():
    t = Quantizer(Int(8), (Scale(PerBlock(16)),)).quantize(normal(2))
    assert t.codes.shape == (5, 3, 16)
    assert not t.codes[:, -1, 5:].any()
    assert t.decode().shape == (5, 37)


@pytest.mark.parametrize("k", [1, 3, 16, 17, 40])
def test_a_ragged_row_is_quantized_as_its_blocks_alone(k):
    x = normal(3, (2, k))
    quantizer = Quantizer(E2M1, (Scale(PerBlock(16)),))
    whole = quantizer.quantize(x).decode()
    parts = [quantizer.quantize(x[:, i : i + 16]).decode() for i in range(0, k, 16)]
    np.testing.assert_array_equal(whole, np.concatenate(parts, 1))


@given(matrices(), quantizers())
@settings(max_examples=100, deadline=None)
def test_shapes_codes_and_bounds_hold_for_any_matrix(x, quantizer):
    t = quantizer.quantize(x)
    assert t.shape == x.shape
    assert t.decode().shape == x.shape
    assert np.isfinite(t.decode()).all()
    assert t.codes.min() >= 0
    assert t.codes.max() < 2**quantizer.format.bits
    for codes, scale in zip(t.scales, quantizer.scales, strict=True):
        assert codes.shape == scale.share.shape(*x.shape)


@given(matrices(), st.sampled_from(GRIDS))
@settings(max_examples=100, deadline=None)
def test_no_element_of_a_symmetric_integer_is_off_by_more_than_half_a_step(x, share):
    t = Quantizer(Int(6, narrow=True), (Scale(share),)).quantize(x)
    step = np.repeat(t.scale(), t.codes.shape[2], 1)[:, : x.shape[1]]
    # float32 rounds the scale and the level once each (2**-24 of 31 steps), subnormal scales by 2**-150
    assert np.all(np.abs(t.decode() - x) <= step * (0.5 + 31 * 2.0**-22) + 32 * 2.0**-149)


@given(matrices())
@settings(max_examples=50, deadline=None)
def test_scaling_by_a_power_of_two_scales_the_result(x):
    x = np.where(np.abs(x) < 1e-30, 0, x).astype(np.float32)
    quantizer = Quantizer(E2M1, (Scale(PerTensor()), Scale(PerBlock(16), E4M3)))
    np.testing.assert_array_equal(quantizer.quantize(x * 8).decode(), quantizer.quantize(x).decode() * 8)


def test_two_levels_of_scales_are_set_from_coarse_to_fine():
    x = normal(4, (3, 32))
    t = Quantizer(Int(4, narrow=True), (Scale(PerRow()), Scale(PerBlock(16), Int(6, signed=False)))).quantize(x)
    for i in range(3):
        coarse = np.abs(x[i]).max() / np.float32(7 * 63)
        assert t.quantizer.scales[0].format.decode(t.scales[0])[i, 0] == coarse
        for j in range(2):
            block = x[i, 16 * j : 16 * j + 16]
            fine = np.rint(np.abs(block).max() / (np.float32(7) * coarse))
            assert t.scales[1][i, j] == fine
            np.testing.assert_array_equal(
                t.elements()[i, j], np.clip(np.rint(block / np.float32(np.float32(fine) * coarse)), -7, 7)
            )


@pytest.mark.parametrize(("divide_by", "element"), [(ScaleValue.STORED, 5), (ScaleValue.IDEAL, 7)])
def test_elements_see_the_stored_or_the_unrounded_scale(divide_by, element):
    scales = (Scale(PerBlock(2), E8M0, Rounding.CEILING),)
    t = Quantizer(Int(4, narrow=True), scales, divide_by=divide_by).quantize(np.asarray([[9.5, 0]]))
    assert t.scale()[0, 0] == 2
    assert t.elements()[0, 0, 0] == element


def test_a_given_range_clips_and_a_missing_one_is_dynamic():
    x = np.asarray([[1.0, 14.0, -3.0, 0.4]])
    quantizer = Quantizer(Int(4, narrow=True), (Scale(PerTensor(), range=AbsMax()),))
    given_range = (Range(np.full((1, 1), -7.0), np.full((1, 1), 7.0)),)
    np.testing.assert_array_equal(quantizer.quantize(x, given_range).decode(), [[1, 7, -3, 0]])
    np.testing.assert_array_equal(quantizer.quantize(x).decode(), quantizer.quantize(x, (None,)).decode())
    assert quantizer.quantize(x).decode()[0, 1] == 14


def test_unsigned_formats_scale_by_the_largest_positive_value_and_flush_negatives():
    t = Quantizer(Int(4, signed=False), (Scale(PerTensor()),)).quantize(np.asarray([[-100.0, 15.0, 3.0]]))
    np.testing.assert_array_equal(t.decode(), [[0, 15, 3]])


@pytest.mark.parametrize("share", [PerTensor(), PerRow(), PerBlock(8), PerTile(2, 8)], ids=repr)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_with_a_fitted_zero_point_real_zero_is_exact(share, bits):
    x = normal(5) + np.float32(0.7)
    x[1, ::3] = 0
    t = Quantizer(Int(bits, signed=False), (Scale(share),), zero=Zero.FITTED).quantize(x)
    assert np.all(t.decode()[1, ::3] == 0)
    # the range is covered: each end is a code, off by the rounding of the level and of the zero point
    step = np.repeat(t.scale(), t.codes.shape[2], 1)[:, : x.shape[1]]
    assert np.all(np.abs(t.decode() - x) <= step * 1.001)
    assert not t.elements()[:, -1, x.shape[1] - (t.codes.shape[1] - 1) * t.codes.shape[2] :].any(), "padding is zero"


@pytest.mark.parametrize("shift", [-9.0, 9.0])
def test_a_one_sided_tensor_still_has_a_code_for_zero(shift):
    x = normal(6) + np.float32(shift)
    t = Quantizer(Int(8, signed=False), (Scale(PerTensor()),), zero=Zero.FITTED).quantize(x)
    assert t.zero_points[0, 0] == (255 if shift < 0 else 0)
    assert np.abs(t.decode() - x).max() <= t.scale()[0, 0]


@pytest.mark.parametrize("quantizer", [
    Quantizer(Int(4), (Scale(PerTensor()),)), Quantizer(E2M1, (Scale(PerBlock(8), E8M0, Rounding.FLOOR,
    full_scale=4.0),)),
    Quantizer(Int(4, signed=False), (Scale(PerRow()),), zero=Zero.FITTED),
])  # fmt: skip
def test_zeros_stay_zeros(quantizer):
    assert not quantizer.quantize(np.zeros((2, 20), np.float32)).decode().any()


def test_stochastic_rounding_is_right_on_average_and_repeats_with_its_seed():
    quantizer = Quantizer(Int(4), (Scale(PerTensor()),), Rounding.STOCHASTIC)
    x = np.full((1, 4096), 3.25)
    x[0, 0] = 7.0
    draws = [quantizer.quantize(x, generator=np.random.default_rng(seed)).decode()[0, 1:] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert np.any(draws[0] != draws[2])
    assert abs(draws[0].mean() - 3.25) < 5 * np.sqrt(0.25 * 0.75 / 4095)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_a_number_is_refused_with_its_index(value):
    x = normal()
    x[2, 30] = value
    with pytest.raises(ValueError, match=r"index \(2, 30\)"):
        Quantizer(Int(8), (Scale(PerTensor()),)).quantize(x)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Quantizer(Int(4), ()), "at least one"),
        (lambda: Quantizer(Int(4), (Scale(PerBlock(8)), Scale(PerTensor()))), "coarse to fine"),
        (lambda: Quantizer(Int(4), (Scale(PerRow()), Scale(PerTensor(), E4M3))), "coarse to fine"),
        (lambda: Quantizer(Int(4), (Scale(PerRow()), Scale(PerColumns(8), E4M3))), "coarse to fine"),
        (lambda: Scale(PerBlock(8), Int(4, signed=False), zero_as=0.125), "does not hold; give 0.0"),
        (lambda: Quantizer(Int(4), (Scale(PerTensor()), Scale(PerBlock(8), FLOAT32))), r"Scale\(largest=\.\.\.\)"),
        (lambda: Quantizer(Int(4), (Scale(PerTensor()),), zero=Zero.FITTED), "unsigned Int"),
        (
            lambda: Quantizer(Int(4, signed=False), (Scale(PerTensor()), Scale(PerBlock(8), E4M3)), zero=Zero.FITTED),
            "exactly one scale",
        ),
        (lambda: PerBlock(0), "at least 1"),
        (lambda: PerColumns(0), "at least 1"),
        (lambda: PerTile(0, 4), "at least 1"),
    ],
)
def test_impossible_quantizers_are_refused_in_one_sentence(make, said):
    with pytest.raises(ValueError, match=said) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_the_best_of_several_has_the_least_error_and_the_first_wins_a_tie():
    x = normal(7)
    coarse, fine = (Quantizer(Int(b), (Scale(PerTensor()),)) for b in (3, 6))
    seen = Statistics.of(x)
    assert BestOf((coarse, fine)).fit(seen) is fine
    twin = Quantizer(Int(6), (Scale(PerTensor()),), Rounding.NEAREST_EVEN)
    assert BestOf((fine, twin)).fit(seen) is fine
    assert fine.fit(seen) is fine


@pytest.mark.parametrize(("low", "signed"), [(0.0, False), (-0.001, True)])
def test_the_sign_of_what_was_seen_chooses(low, signed):
    unsigned, both = (Quantizer(Int(4, signed=s), (Scale(PerTensor()),)) for s in (False, True))
    seen = Statistics.of(np.asarray([[low, 2.0]]))
    assert BySign(unsigned, both).fit(seen) is (both if signed else unsigned)


def test_packed_bytes_are_codes_then_scales_then_zero_points():
    x = normal(8, (2, 24))
    t = Quantizer(Int(4, signed=False), (Scale(PerBlock(8), E8M0, Rounding.CEILING),), zero=Zero.FITTED).quantize(x)
    codes, zero_points = pack(t.codes.reshape(2, 24), 4), pack(t.zero_points, 4)
    assert t.pack() == codes.tobytes() + t.scales[0].astype(np.uint8).tobytes() + zero_points.tobytes()


def test_bits_an_element_count_scales_and_zero_points():
    quantizer = Quantizer(Int(4, signed=False), (Scale(PerBlock(32), E8M0),), zero=Zero.FITTED)
    assert quantizer.bits_per_element(8, 64) == 4 + (8 + 4) / 32


@pytest.mark.parametrize("rows_per_tile", [1, 2, 3, 5])
def test_a_tile_s_scale_serves_all_of_its_rows(rows_per_tile):
    x = normal(9)
    t = Quantizer(Int(8, narrow=True), (Scale(PerTile(rows_per_tile, 16)),)).quantize(x)
    for (i, j), rows, columns in cells(PerTile(rows_per_tile, 16), x):
        expected = np.abs(x[rows, columns]).max() / np.float32(127)
        assert np.all(t.scale()[rows, j] == expected)
        assert t.quantizer.scales[0].format.decode(t.scales[0])[i, j] == expected


@pytest.mark.parametrize("share", [PerRow(), PerBlock(8), PerColumns(8), PerTile(2, 8)], ids=repr)
def test_of_several_full_scales_the_least_error_wins_each_cell(share):
    x = normal(10)
    several = Quantizer(E2M1, (Scale(share, full_scale=(6.0, 4.0)),)).quantize(x).decode()
    alone = [Quantizer(E2M1, (Scale(share, full_scale=v),)).quantize(x).decode() for v in (6.0, 4.0)]
    for _, rows, columns in cells(share, x):
        errors = [np.sum((a[rows, columns] - x[rows, columns]) ** 2) for a in alone]
        np.testing.assert_array_equal(several[rows, columns], alone[int(np.argmin(errors))][rows, columns])


def test_a_binary_codebook_needs_no_zero():
    t = Quantizer(Table((-1, 1), (0, 0)), (Scale(PerRow()),)).quantize(np.asarray([[0.5, -2.0, 1e-20, -1e-20]]))
    np.testing.assert_array_equal(t.decode(), [[2, -2, 2, -2]])
