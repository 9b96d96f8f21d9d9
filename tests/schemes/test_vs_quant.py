"""VS-Quant by hand (specs/ant_vsquant_and_block_formats.md, B1.1) and the product rounding of its chip (B3)."""

from dataclasses import replace

import numpy as np
import pytest

from bitwright.datapath import Accumulator, Overflow
from bitwright.formats import Int, Rounding
from bitwright.quantization import Statistics
from bitwright.schemes import vs_quant, vs_quant_chip

B = ((7 * np.arange(32) % 32) - 15.5) / 8
W = np.concatenate([B.reshape(2, 16), B.reshape(2, 16)[::-1] * 0.25], axis=1)
A = np.abs(W)[::-1]
FIRST = [-7, -4, -1, 2, 6, -6, -2, 1, 4, 7, -4, -1, 2, 5, -6, -3]
SECOND = [0, 4, 7, -5, -2, 2, 5, -7, -4, 0, 3, 7, -6, -2, 1, 5]
GAMMA_ROUNDING = 2.0**-23  # coarse scales are stored in float32; the specification computes in float64


def weight(**arguments):
    return vs_quant(**arguments).weight.quantize(W)


def activation(**arguments):
    seen = Statistics.of(A)
    quantizer = vs_quant(**arguments).input.fit(seen)
    return quantizer.quantize(A, quantizer.estimate(seen))


def test_weight_elements_see_the_unrounded_scale():
    np.testing.assert_array_equal(weight().elements(), [[FIRST, SECOND], [SECOND, FIRST]])


@pytest.mark.parametrize(
    ("bits", "scale_bits", "codes"),
    [(4, 4, [[15, 4], [15, 4]]), (4, 6, [[63, 15], [63, 17]]), (8, 10, [[1023, 239], [1023, 273]])],
)
def test_weight_scale_codes(bits, scale_bits, codes):
    t = weight(weight_bits=bits, weight_scale_bits=scale_bits)
    np.testing.assert_array_equal(t.scales[1], codes)


def test_coarse_weight_scales():
    coarse = weight().quantizer.scales[0].format.decode(weight().scales[0])
    np.testing.assert_allclose(coarse[:, 0], [0.0184523810, 0.0172619048], rtol=GAMMA_ROUNDING, atol=5e-11)


def test_single_level_scales():
    t = weight(weight_scale_bits=None, input_scale_bits=None)
    expected = [[0.276785714, 0.0647321429], [0.258928571, 0.0691964286]]
    np.testing.assert_allclose(t.scale(), expected, rtol=GAMMA_ROUNDING, atol=5e-10)


def test_activations_use_all_codes_of_an_unsigned_format():
    t = activation(input_scale_bits=6)
    assert t.quantizer.format == Int(4, signed=False)
    row = [
        [1, 8, 15, 11, 4, 4, 11, 15, 8, 1, 7, 14, 12, 5, 3, 10],
        [15, 8, 1, 5, 12, 12, 5, 1, 8, 15, 9, 2, 4, 11, 13, 6],
    ]
    np.testing.assert_array_equal(t.elements(), [row, row[::-1]])
    np.testing.assert_array_equal(t.scales[1], [[59, 16], [63, 15]])
    coarse = t.quantizer.scales[0].format.decode(t.scales[0])
    np.testing.assert_allclose(coarse, [[0.00205026455]], rtol=GAMMA_ROUNDING, atol=5e-12)


def test_integer_dot_products_of_vectors():
    # the specification's labels "[k][t][j]" and "(t=0), (t=1)" have j and t exchanged: its accumulators need [k][j][t]
    dots = np.einsum("ktv,jtv->kjt", weight().elements(), activation(input_scale_bits=6).elements())
    np.testing.assert_array_equal(dots, [[[-41, 38], [-71, 90]], [[90, -71], [38, -41]]])


def test_products_of_vector_scales():
    w, a = weight().scales[1], activation(input_scale_bits=6).scales[1]
    np.testing.assert_array_equal(w[:, None] * a[None], [[[885, 64], [945, 60]]] * 2)


def unscaled(t):
    """The same codes with coarse scales of one, so that a product is the accumulator."""
    one = t.quantizer.scales[0].format.encode(np.ones(t.scales[0].shape))
    return replace(t, scales=(one, *t.scales[1:]))


def test_accumulators_hold_the_integers_of_the_specification():
    scheme = vs_quant(4, 4, 4, 6)
    product = scheme.datapath.matmul(unscaled(activation(input_scale_bits=6)), unscaled(weight()))
    assert product.overflows == 0
    np.testing.assert_array_equal(product.values.T, [[-33853, -61695], [75106, 33450]])


def test_results_are_those_of_the_specification():
    scheme = vs_quant(4, 4, 4, 6)
    y = scheme.datapath.matmul(activation(input_scale_bits=6), weight()).values.T
    expected = [[-1.2807356, -2.3340614], [2.6581119, 1.1838447]]
    np.testing.assert_allclose(y, expected, rtol=2 * GAMMA_ROUNDING, atol=5e-8)


def test_float_results_of_the_specification_belong_to_the_same_operands():
    np.testing.assert_allclose(W @ A.T, [[-1.2817383, -2.4682617], [2.4682617, 1.2817383]], atol=5e-8)


@pytest.mark.parametrize(
    ("input_scale", "weight_scale", "product"), [(255, 255, 254), (128, 128, 64), (200, 3, 2), (15, 4, 0)]
)
def test_the_chip_keeps_the_upper_eight_bits_of_a_scale_product(input_scale, weight_scale, product):
    datapath = vs_quant_chip().datapath
    level = np.asarray([float(input_scale * weight_scale)])
    assert datapath.scale_product.encode(level, datapath.scale_rounding) == product
    assert datapath.scale_rounding is Rounding.NEAREST_UP
    assert product == min((input_scale * weight_scale + 128) >> 8, 255)


def test_the_chip_saturates_its_sum_after_every_vector():
    scheme = vs_quant_chip()
    generator = np.random.default_rng(0)
    x, w = (
        np.abs(generator.normal(size=(3, 640))).astype(np.float32),
        np.abs(generator.normal(size=(4, 640))).astype(np.float32),
    )
    w[:, 320:] *= -1  # up to the limit, then back: the order matters
    seen = Statistics.of(x)
    quantizer = scheme.input.fit(seen)
    a, b = unscaled(quantizer.quantize(x, quantizer.estimate(seen))), unscaled(scheme.weight.quantize(w))
    datapath = replace(scheme.datapath, outer=Accumulator(Int(20), Overflow.SATURATE))
    expected, changed = np.zeros((3, 4)), 0
    for i in range(3):
        for j in range(4):
            total = exact = 0
            for t in range(10):
                dot = sum(int(p) * int(q) for p, q in zip(a.elements()[i, t], b.elements()[j, t], strict=True))
                scale = min((int(a.scales[1][i, t]) * int(b.scales[1][j, t]) + 128) >> 8, 255)
                total, exact = min(max(total + dot * scale, -(2**19)), 2**19 - 1), exact + dot * scale
            expected[i, j], changed = total * 256, changed + (total != exact)
    product = datapath.matmul(a, b)
    np.testing.assert_array_equal(product.values, expected)
    assert (product.overflows, product.accumulations) == (changed, 3 * 4 * 11)
    assert changed > 0


def test_a_vector_whose_scale_rounds_to_zero_is_flushed():
    x = np.ones((1, 32), np.float32)
    x[0, 16:] = 1 / 31  # under half a step of a 4-bit scale
    np.testing.assert_array_equal(vs_quant().weight.quantize(x).decode()[0, 16:], 0)


def test_zero_vectors_have_scale_code_and_elements_zero():
    t = vs_quant().weight.quantize(np.zeros((2, 32), np.float32))
    assert not t.codes.any()
    assert not t.scales[1].any()


@pytest.mark.parametrize(("arguments", "bits"), [({}, 4.25), ({"weight_scale_bits": 6}, 4.375)])
def test_storage_is_the_paper_s_without_the_coarse_scale(arguments, bits):
    quantizer = vs_quant(**arguments).weight
    rows, k = 64, 4096
    assert quantizer.bits_per_element(rows, k) == bits + 32 / k
