"""Sizes of stored codes."""

import numpy as np
import pytest

from bitwright.formats import Int
from bitwright.quantization import Compressibility, PerTensor, Quantizer, Scale

FOUR = Quantizer(Int(4, narrow=True), (Scale(PerTensor()),))


def sizes(values):
    return Compressibility.of(FOUR.quantize(np.asarray(values, np.float64)))


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
    assert found.compressed_bits < found.packed_bits / 10


def test_sizes_of_several_matrices_add_up():
    one, other = sizes([[0.0, 1.0, 1.0]]), sizes([[1.0, -1.0]])
    both = Compressibility.total([one, other])
    assert both.elements == 5
    assert both.entropy_bits == one.entropy_bits + other.entropy_bits


def test_no_compressor_beats_the_entropy_of_independent_codes_by_much():
    found = sizes(np.random.default_rng(0).normal(size=(100, 200)))
    # LZMA may exploit chance patterns and pays for headers; independent codes have none to speak of
    assert found.entropy_bits * 0.97 < found.compressed_bits
