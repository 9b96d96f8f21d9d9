"""Requantization against gemmlowp's formulas, written again in Python integers, and against exact fractions."""

from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitwright.datapath import DOUBLE_ROUNDING, SINGLE_ROUNDING, FixedPoint, Requantize
from bitwright.formats import Int, Rounding

WIDE = Int(33)
ACCUMULATORS = st.integers(-(2**31), 2**31 - 1)
FACTORS = st.floats(2.0**-30, 1.999, allow_nan=False)


def saturating_rounding_doubling_high_mul(a: int, b: int) -> int:
    """gemmlowp/fixedpoint.h."""
    if a == b == -(2**31):
        return 2**31 - 1
    product = a * b
    nudged = product + (2**30 if product >= 0 else 1 - 2**30)
    return abs(nudged) // 2**31 * (1 if nudged >= 0 else -1)  # C's division truncates


def rounding_divide_by_pot(x: int, exponent: int) -> int:
    """gemmlowp/fixedpoint.h."""
    mask = 2**exponent - 1
    return (x >> exponent) + ((x & mask) > (mask >> 1) + (x < 0))


def tflite_double_rounding(x: int, multiplier: int, shift: int) -> int:
    """tensorflow/lite/kernels/internal/common.h: MultiplyByQuantizedMultiplier before single rounding."""
    left, right = max(shift, 0), max(-shift, 0)
    return rounding_divide_by_pot(saturating_rounding_doubling_high_mul(x * 2**left, multiplier), right)


def tflite_single_rounding(x: int, multiplier: int, shift: int) -> int:
    """The same function under TFLITE_SINGLE_ROUNDING: add half, shift."""
    total = 31 - shift
    return (x * multiplier + 2 ** (total - 1)) >> total


def apply(variant, accumulator, factor):
    return int(variant.apply(np.asarray([accumulator]), variant.fixed_point(factor), WIDE)[0])


@pytest.mark.parametrize(
    ("variant", "formula"),
    [(DOUBLE_ROUNDING, tflite_double_rounding), (SINGLE_ROUNDING, tflite_single_rounding)],
    ids=["double", "single"],
)
class TestTflite:
    @given(accumulator=ACCUMULATORS, factor=st.floats(2.0**-30, 0.9999))
    def test_factors_below_one_give_tflite_s_integers(self, variant, formula, accumulator, factor):
        multiplier, shift = variant.fixed_point(factor)
        assert apply(variant, accumulator, factor) == formula(accumulator, multiplier, 31 - shift)

    @given(accumulator=st.integers(-(2**30), 2**30 - 1), factor=st.floats(1.0, 1.999))
    def test_factors_from_one_to_two_give_tflite_s_integers(self, variant, formula, accumulator, factor):
        multiplier, shift = variant.fixed_point(factor)
        assert apply(variant, accumulator, factor) == formula(accumulator, multiplier, 31 - shift)

    @pytest.mark.parametrize("sign", [1, -1])
    def test_ties_are_broken_as_in_tflite(self, variant, formula, sign):
        factor = FixedPoint(2**30, 33)  # one eighth
        accumulator = sign * np.arange(64)
        expected = [formula(int(a), 2**30, -2) for a in accumulator]
        np.testing.assert_array_equal(variant.apply(accumulator, factor, WIDE), expected)


def test_the_two_variants_differ_in_a_last_bit_somewhere():
    accumulator, factor = np.arange(-200, 200), SINGLE_ROUNDING.fixed_point(0.3)
    one, two = (v.apply(accumulator, factor, WIDE) for v in (SINGLE_ROUNDING, DOUBLE_ROUNDING))
    assert 0 < np.abs(one - two).max() <= 1


@given(accumulator=ACCUMULATORS, factor=FACTORS, bits=st.integers(2, 32))
def test_a_single_shift_is_the_exact_product_rounded(accumulator, factor, bits):
    variant = Requantize(multiplier_bits=bits)
    multiplier, shift = variant.fixed_point(factor)
    exact = Fraction(accumulator) * multiplier / Fraction(2) ** shift
    assert apply(variant, accumulator, factor) == floor(exact + Fraction(1, 2))


@given(factor=st.floats(2.0**-60, 1.999), bits=st.integers(2, 32))
def test_a_fixed_point_factor_is_normalized_and_nearest(factor, bits):
    multiplier, shift = Requantize(multiplier_bits=bits).fixed_point(factor)
    assert 2 ** (bits - 2) <= multiplier < 2 ** (bits - 1)
    error = abs(Fraction(multiplier) / Fraction(2) ** shift - Fraction(factor))
    assert error <= Fraction(1, 2) / Fraction(2) ** shift


@pytest.mark.parametrize(
    ("factor", "accumulator", "result"),
    [(2.0**-40, 2**30, 0), (2.0**-40, -(2**30), 0), (2.0**-31, 2**30, 1), (2.0**-31, -(2**30), 0)],
)
def test_very_small_factors_round_to_zero_with_ties_up(factor, accumulator, result):
    assert apply(SINGLE_ROUNDING, accumulator, factor) == result


@pytest.mark.parametrize(("rounding", "result"), [(Rounding.FLOOR, [-1, 0, 0]), (Rounding.CEILING, [0, 0, 1])])
def test_directed_roundings_of_tiny_products_keep_their_sign(rounding, result):
    variant = Requantize(rounding=rounding)
    factor = variant.fixed_point(2.0**-45)
    np.testing.assert_array_equal(variant.apply(np.asarray([-9, 0, 9]), factor, WIDE), result)


def test_the_zero_point_is_added_before_clipping():
    factor = SINGLE_ROUNDING.fixed_point(0.5)
    found = SINGLE_ROUNDING.apply(np.asarray([-300, -20, 0, 100, 600]), factor, Int(8, signed=False), zero_point=10)
    np.testing.assert_array_equal(found, [0, 0, 10, 60, 255])


@pytest.mark.parametrize("factor", [0.0, -0.5, 2.0])
def test_factors_that_do_not_fit_are_refused(factor):
    with pytest.raises(ValueError, match="between 0 and 2"):
        SINGLE_ROUNDING.fixed_point(factor)


@pytest.mark.parametrize("bits", [1, 33])
def test_multipliers_that_do_not_fit_are_refused(bits):
    with pytest.raises(ValueError, match="2 to 32"):
        Requantize(multiplier_bits=bits)
