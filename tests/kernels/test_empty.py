"""Matrices of no rows or no columns are quantized, packed and multiplied like any other, by every implementation."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bitwright import kernels
from bitwright.config import from_text
from bitwright.kernels import Operand, Stationary
from bitwright.kernels.dispatch import IMPLEMENTATIONS

sys.path.insert(0, str(Path(__file__).parent))
from catalogue import SCHEMES, choices, quantizers

EMPTY = [(0, 5), (3, 0), (0, 0), (0, 70)]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS[1:])
@pytest.mark.parametrize("text", SCHEMES)
@pytest.mark.filterwarnings("error")
def test_a_matrix_without_elements_becomes_one_of_its_shape(text, implementation):
    for quantizer in quantizers(from_text(text)):
        for shape in EMPTY:
            x = torch.empty(shape)
            with kernels.only(implementation, "reference"):
                found = kernels.quantize(quantizer, x)
                assert kernels.fake_quantize(quantizer, x).shape == shape
                assert kernels.fake_quantize(quantizer, x, out=x) is x
                if not quantizer.format.bounds().reach:
                    assert kernels.unpack(kernels.pack(quantizer, x)).shape == shape
            assert found.decode().shape == shape
            assert found.decode_exactly().shape == shape


@pytest.mark.parametrize("text", SCHEMES)
def test_the_reference_quantizes_decodes_and_packs_no_elements(text):
    for quantizer in quantizers(from_text(text)):
        for shape in EMPTY:
            made = quantizer.quantize(np.zeros(shape, np.float32))
            assert made.shape == shape
            assert made.decode().shape == shape
            assert isinstance(made.pack(), bytes)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS[1:])
@pytest.mark.parametrize("text", SCHEMES)
@pytest.mark.filterwarnings("error")
def test_products_of_no_rows_are_empty_and_those_of_no_columns_zero(text, implementation):
    scheme = from_text(text)
    weight = choices(scheme.weight)[0]
    for of_input in choices(scheme.input) or [weight]:
        for m, n, k in [(0, 3, 5), (3, 0, 5), (3, 4, 0), (0, 0, 0), (0, 3, 70)]:
            a, b = (q.quantize(np.zeros((r, k), np.float32)) for q, r in ((of_input, m), (weight, n)))
            expected = scheme.datapath.matmul(a, b)
            with kernels.only(implementation, "reference"):
                found = kernels.matmul(scheme.datapath, Operand.of(a), Stationary(Operand.of(b)))
            np.testing.assert_array_equal(found[0].numpy(), np.zeros((m, n)))
            np.testing.assert_array_equal(expected.values, np.zeros((m, n)))
            assert found[1:] == (0, m * n)
            if m * n:
                assert (expected.overflows, expected.accumulations) == found[1:]
