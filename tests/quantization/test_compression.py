"""Sizes of stored codes."""

import numpy as np
import pytest

from bitwright.formats import Int
from bitwright.quantization import (
    PerBlock,
    PerRow,
    PerTensor,
    Quantizer,
    Scale,
    Zero,
    compressibility,
    zeros_and_entropy,
)
from bitwright.result import Compressibility

FOUR = Quantizer(Int(4, narrow=True), (Scale(PerTensor()),))


def sizes(values):
    return compressibility(FOUR.quantize(np.asarray(values, np.float64)))


def test_half_zeros_and_half_ones_have_one_bit_of_entropy_an_element():
    found = sizes([[0.0, 1.0] * 8])
    assert (found.elements, found.zeros, found.packed_bits) == (16, 8, 64)
    assert found.entropy_bits == 16
    assert found.sparsity == 0.5
    assert found.ratio(found.entropy_bits) == 32


def test_the_published_sparsity_has_the_entropy_that_the_specification_derives():
    generator = np.random.default_rng(0)
    found = sizes([generator.permutation([1.0] * 900 + [-1.0] * 900 + [0.0] * 98_200)])
    # 98.2 % zeros and fair signs: h(0.018) + 0.018 bits
    expected = -(0.982 * np.log2(0.982) + 0.018 * np.log2(0.018)) + 0.018
    assert found.entropy_bits / found.elements == pytest.approx(expected)
    assert found.ratio(found.entropy_bits, 8.0) == pytest.approx(54, abs=1)


def test_sparse_sizes_count_non_zero_codes_and_fillers():
    row = np.zeros((1, 600))
    row[0, [0, 1, 599]] = 1
    found = sizes(row)
    assert found.bitmap_bits == 600 + 3 * 4
    assert found.sparse_bits == (3 + 2) * (8 + 4)  # 598 elements on: two fillers of 256


def test_a_constant_matrix_has_no_entropy_and_compresses_well():
    found = sizes(np.ones((64, 64)))
    assert found.entropy_bits == 0
    assert found.lzma_bits < found.packed_bits / 10
    assert found.zlib_bits < found.packed_bits / 10


def test_sizes_of_several_matrices_add_up():
    one, other = sizes([[0.0, 1.0, 1.0]]), sizes([[1.0, -1.0]])
    both = Compressibility.total([one, other])
    assert both.elements == 5
    assert both.entropy_bits == one.entropy_bits + other.entropy_bits


def test_no_compressor_beats_the_entropy_of_independent_codes_by_much():
    found = sizes(np.random.default_rng(0).normal(size=(100, 200)))
    # a compressor may exploit chance patterns and pays for headers; independent codes have none to speak of
    assert found.entropy_bits * 0.97 < min(found.lzma_bits, found.zlib_bits)


def test_scales_count_as_stored():
    blocks = Quantizer(FOUR.format, (Scale(PerRow()), Scale(PerBlock(16), Int(6, signed=False))))
    found = compressibility(blocks.quantize(np.random.default_rng(0).normal(size=(8, 40))))
    assert found.scale_bits == 8 * 32 + 8 * 3 * 6
    assert found.elements == 8 * 40, "the third block has 8 elements of padding"
    assert found.over_packed == (found.packed_bits + 400) / (found.entropy_bits + 400)


def test_zero_points_count_and_their_codes_stand_for_zero():
    fitted = Quantizer(Int(4, signed=False), (Scale(PerRow()),), zero=Zero.FITTED)
    found = compressibility(fitted.quantize(np.array([[-1.0, 0.0, 0.0, 2.0]])))
    assert found.scale_bits == 32 + 4
    assert found.zeros == 2


def test_padding_that_the_caller_names_is_left_out():
    t = FOUR.quantize(np.array([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]]))
    found = compressibility(t, np.array([[True, True, False], [True, True, False]]))
    assert (found.elements, found.zeros, found.packed_bits) == (4, 1, 16)


def test_wide_codes_are_counted_and_compressed_too():
    wide = Quantizer(Int(40), (Scale(PerTensor()),))
    found = compressibility(wide.quantize(np.linspace(-1, 1, 64)[None]))
    assert found.entropy_bits == 64 * 6
    assert found.packed_bits == 64 * 40


def test_of_more_codes_than_the_compressors_are_given_the_sizes_are_in_proportion(monkeypatch):
    t = FOUR.quantize(np.tile(np.random.default_rng(0).normal(size=(1, 100)), (10, 1)))
    monkeypatch.setattr("bitwright.quantization.compression.COMPRESSED", 100)
    one = compressibility(FOUR.quantize(t.decode()[:1]))
    assert compressibility(t).lzma_bits == 10 * one.lzma_bits
    assert compressibility(t).zlib_bits == 10 * one.zlib_bits


def test_zeros_and_entropy_are_those_of_the_sizes():
    t = FOUR.quantize(np.random.default_rng(0).normal(size=(10, 100)))
    # the sizes store the entropy times the count: one rounding each way
    assert zeros_and_entropy(t) == pytest.approx((compressibility(t).sparsity, compressibility(t).entropy), rel=1e-15)
