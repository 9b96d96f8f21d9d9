"""Shifts, packing and the arguments that formats refuse."""

from fractions import Fraction
from math import ceil, floor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitwright.formats import (
    E2M3,
    Int,
    Minifloat,
    Rounding,
    Specials,
    Table,
    pack,
    round_to_integer,
    shift_right,
    unpack,
)
from bitwright.schemes.ant import flint, power_of_two

DETERMINISTIC = [r for r in Rounding if r is not Rounding.STOCHASTIC]


def rounded(value: Fraction, rounding: Rounding) -> int:
    low, high = floor(value), ceil(value)
    if low == high:
        return low
    tie = {
        Rounding.NEAREST_EVEN: low if low % 2 == 0 else high, Rounding.NEAREST_AWAY: high if value > 0 else low,
        Rounding.NEAREST_UP: high, Rounding.NEAREST_ZERO: low if value > 0 else high,
    }  # fmt: skip
    directed = {Rounding.TOWARD_ZERO: low if value > 0 else high, Rounding.FLOOR: low, Rounding.CEILING: high}
    if rounding in directed:
        return directed[rounding]
    if value - low == Fraction(1, 2):
        return tie[rounding]
    return low if value - low < Fraction(1, 2) else high


@pytest.mark.parametrize("rounding", DETERMINISTIC)
@pytest.mark.parametrize("places", [-2, 0, 1, 2, 5])
def test_shifting_right_divides_by_a_power_of_two_and_rounds(rounding, places):
    x = np.arange(-70, 71)
    expected = [rounded(Fraction(int(v)) / Fraction(2) ** places, rounding) for v in x]
    np.testing.assert_array_equal(shift_right(x, places, rounding), expected)


@pytest.mark.parametrize("rounding", DETERMINISTIC)
@given(x=st.integers(-(2**62), 2**62), places=st.integers(1, 61))
def test_shifting_right_is_exact_for_any_int64(rounding, x, places):
    assert int(shift_right(np.asarray([x]), places, rounding)[0]) == rounded(Fraction(x, 2**places), rounding)


@pytest.mark.parametrize("rounding", DETERMINISTIC)
@given(x=st.floats(-1e18, 1e18))
def test_rounding_to_an_integer_equals_exact_rounding(rounding, x):
    assert int(round_to_integer(np.asarray([x]), rounding)[0]) == rounded(Fraction(x), rounding)


@pytest.mark.parametrize("rounding", DETERMINISTIC)
def test_float32_levels_round_as_their_exact_values_do(rounding):
    x = np.ldexp(np.arange(-(2**11), 2**11, 7), 13).astype(np.float32)  # around 2**24, where float32 has no halves
    x = np.concatenate([x, np.nextafter(x, np.float32(0)), x / 8, x / 2**14, np.nextafter(x / 2**14, np.float32(9))])
    expected = [rounded(Fraction(float(v)), rounding) for v in x]
    np.testing.assert_array_equal(round_to_integer(x, rounding), expected)


def test_stochastic_rounding_without_a_generator_is_refused():
    with pytest.raises(ValueError, match="generator="):
        Int(4).encode(np.asarray([0.3]), Rounding.STOCHASTIC)


# [RUN] of compressed-tensors 0.20.0, pack_quantized, in specs/ant_vsquant_and_block_formats.md C4
PACKED = [
    (4, np.arange(-8, 8), [0x76543210, 0xFEDCBA98]),
    (8, np.asarray([-128, -1, 0, 127]), [0xFF807F00]),
    (3, np.arange(32) % 8 - 4, [0x88FAC688, 0xC688FAC6, 0xFAC688FA]),
    (4, np.asarray([1, 2, -3, 4, 5, 6, 7, -8]), [0x0FEDC5A9]),  # zero points
]


@pytest.mark.parametrize(("bits", "values", "words"), PACKED)
def test_integers_with_an_offset_pack_into_the_words_of_compressed_tensors(bits, values, words):
    packed = pack(values + 2 ** (bits - 1), bits)
    np.testing.assert_array_equal(packed.view("<u4"), words)


def test_two_output_rows_share_a_byte_in_modelopt_int4():
    rows = np.asarray([[-8, -7, -1, 0], [7, 6, 1, 2]])
    assert pack(Int(4).encode(rows.T.astype(float)), 4).tobytes().hex() == "78691f20"


def test_four_six_bit_codes_fill_three_bytes():
    c = np.asarray([1, 62, 33, 7])
    word = c[0] | c[1] << 6 | c[2] << 12 | c[3] << 18
    assert pack(c, E2M3.bits).tobytes() == int(word).to_bytes(3, "little")


@pytest.mark.parametrize("codes", [[16], [-1], [0, 99]])
def test_a_code_that_does_not_fit_is_refused(codes):
    with pytest.raises(ValueError, match="4 bits hold 0 to 15"):
        pack(np.asarray(codes), 4)


def test_too_few_bytes_are_refused():
    with pytest.raises(ValueError, match="need 2"):
        unpack(np.zeros(1, np.uint8), 4, 3)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Int(0), "1 to 62"), (lambda: Int(63), "1 to 62"), (lambda: Int(1, narrow=True), "2 or more"),
        (lambda: Minifloat(0, 3), "1 to 8"), (lambda: Minifloat(4, 24), "0 to 23"),
        (lambda: Minifloat(1, 0, specials=Specials.IEEE), "no finite non-zero code"),
        (lambda: Table((1, 2, 3), (0, 0, 0)), "power of two"), (lambda: Table((1, 2), (0,)), "one a code"),
        (lambda: flint(2), "at least 3"), (lambda: flint(1, signed=False), "at least 2"),
        (lambda: power_of_two(1), "at least one bit"),
    ],
)  # fmt: skip
def test_impossible_formats_are_refused_in_one_sentence(make, said):
    with pytest.raises(ValueError, match=said) as caught:
        make()
    assert "\n" not in str(caught.value)
