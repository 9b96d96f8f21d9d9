"""VS-Quant's post-processing unit is its integer reference, which is the quantizer's but for exact ties."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("amaranth", reason="circuits need amaranth: pip install 'bitwright[rtl]'")

from bitwright.datapath import Requantize
from bitwright.formats import Int, Rounding
from bitwright.quantization import Range, ScaleValue
from bitwright.rtl.vector_quantizer import TIE_IS_UP, VectorQuantizer, quantize_vectors
from bitwright.schemes import integer, nvfp4, vs_quant, vs_quant_chip
from bitwright.testing.rtl import evaluate

SIGNS = ["unsigned", "signed"]


def quantizer_of(sign, scheme):
    return getattr(scheme.input, sign)


def factor_for(quantizer, requantize, coarse):
    """Of integers that count ones."""
    return requantize.fixed_point(1 / (quantizer.format.full_scale * coarse))


def assert_unit_equals_reference(quantizer, x, values, coarse):
    unit = VectorQuantizer(quantizer, x)
    factor = factor_for(quantizer, unit.requantizer.requantize, coarse)
    steps = np.concatenate([values, values[:1]])
    inputs = {f"x_{i}": steps[:, i] for i in range(unit.lanes)}
    inputs["multiplier"] = np.full(len(steps), factor.multiplier)
    inputs["shift"] = np.full(len(steps), factor.shift - unit.requantizer.shifts.start)
    found = evaluate(unit, inputs, clocked=True)
    codes, scales = quantize_vectors(quantizer, unit.requantizer.requantize, factor, values)
    np.testing.assert_array_equal(np.stack([found[f"code_{i}"][1:] for i in range(unit.lanes)], 1), codes)
    np.testing.assert_array_equal(found["scale"][1:], scales)


def vectors(x, lanes, count):
    """Of all sizes, one of zeros, one of the extremes, and one of ties."""
    generator = np.random.default_rng(0)
    values = generator.laplace(0, 1, (count, lanes)) * 2 ** generator.uniform(0, x.bits - 2, (count, 1))
    values = np.clip(values.round().astype(int), *x.range)
    values[0], values[1], values[2] = (
        0,
        np.resize(x.range, lanes),
        np.resize([14 * 30, 7 * 30, 21 * 10, 45, -75], lanes),
    )
    return values


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("rounding", TIE_IS_UP, ids=repr)
def test_the_unit_computes_its_integer_reference(sign, rounding):
    quantizer = replace(quantizer_of(sign, vs_quant(4, 4, vector=4)), rounding=rounding)
    x = Int(10)
    assert_unit_equals_reference(quantizer, x, vectors(x, 4, 120), coarse=4.3)


@pytest.mark.parametrize("sign", SIGNS)
def test_the_chips_vectors_of_64(sign):
    x = Int(12)
    assert_unit_equals_reference(quantizer_of(sign, vs_quant_chip()), x, vectors(x, 64, 5), coarse=0.6)


def reference_and_quantizer(sign, largest, requantize, coarse):
    """Vectors of all integers up to the largest: both ways to quantize them, and which quotients are ties."""
    quantizer = quantizer_of(sign, vs_quant(4, 4, 8, 8, vector=largest + 1))
    x = np.arange(largest + 1)[None] * (1 if sign == "unsigned" else np.where(np.arange(largest + 1) % 2, -1, 1))
    full = int(quantizer.format.full_scale)
    span = np.full((1, 1), coarse * full * 255.0)
    golden = quantizer.quantize(x.astype(float), (Range(-span, span),))
    codes, scales = quantize_vectors(quantizer, requantize, factor_for(quantizer, requantize, coarse), x)
    is_tie = 2 * full * np.abs(x[0]) % (2 * largest) == largest
    return codes[0], scales[0], golden.codes[0, 0], golden.scales[-1][0, 0], is_tie


@pytest.mark.parametrize("sign", SIGNS)
def test_elements_are_the_quantizers_wherever_the_quotient_is_no_tie(sign):
    for largest in [*range(1, 64), 105, 210, 255, 511, 1023]:
        codes, _, golden, _, is_tie = reference_and_quantizer(sign, largest, Requantize(16), 1.0)
        np.testing.assert_array_equal(codes[~is_tie], golden[~is_tie])
        bits = 4
        apart = (codes - golden + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)
        assert np.all(np.abs(apart) <= 1)


@pytest.mark.parametrize("sign", SIGNS)
def test_scale_codes_are_the_quantizers_beyond_the_factors_error(sign):
    requantize, coarse = Requantize(16), 0.37
    full = int(quantizer_of(sign, vs_quant_chip()).format.full_scale)
    beyond = 0
    for largest in range(1, 1500, 13):
        _, scale, _, golden, _ = reference_and_quantizer(sign, largest, requantize, coarse)
        ideal = largest / (full * coarse)
        error = ideal * 2.0**-15 + 1e-12  # of a multiplier of 15 bits, and of a float64 quotient
        if abs(ideal % 1 - 0.5) > error:
            beyond += 1
            assert scale == golden
    assert beyond > 100


@pytest.mark.parametrize(
    ("quantizer", "words"),
    [(integer(4, 4).input.signed, "elements found|finest of"), (nvfp4().input, "elements found"),
     (replace(vs_quant().input.signed, divide_by=ScaleValue.STORED), "unrounded scale"),
     (replace(vs_quant().input.signed, rounding=Rounding.FLOOR), "choose from")],
    ids=["one level", "format", "stored scale", "rounding"],
)  # fmt: skip
def test_what_the_unit_does_not_compute_is_refused(quantizer, words):
    with pytest.raises(ValueError, match=words):
        VectorQuantizer(quantizer, Int(8))
