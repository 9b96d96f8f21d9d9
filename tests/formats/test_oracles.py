"""The named formats against independent implementations: ml_dtypes, gfloat, and IEEE casts of NumPy."""

import ml_dtypes
import numpy as np
import pytest
from gfloat import RoundMode, decode_ndarray, round_ndarray
from gfloat import formats as oracle

from bitwright.formats import (
    BFLOAT16,
    E2M1,
    E2M3,
    E3M2,
    E4M3,
    E5M2,
    E8M0,
    FLOAT16,
    FLOAT32,
    MXINT8_ELEMENT,
    Int,
    Rounding,
)

DTYPES = {
    E2M1: ml_dtypes.float4_e2m1fn, E2M3: ml_dtypes.float6_e2m3fn, E3M2: ml_dtypes.float6_e3m2fn,
    E4M3: ml_dtypes.float8_e4m3fn, E5M2: ml_dtypes.float8_e5m2, E8M0: ml_dtypes.float8_e8m0fnu,
    BFLOAT16: ml_dtypes.bfloat16, FLOAT16: np.float16,
}  # fmt: skip
INFOS = {
    E2M1: oracle.format_info_ocp_e2m1, E2M3: oracle.format_info_ocp_e2m3, E3M2: oracle.format_info_ocp_e3m2,
    E4M3: oracle.format_info_ocp_e4m3, E5M2: oracle.format_info_ocp_e5m2, E8M0: oracle.format_info_ocp_e8m0,
    BFLOAT16: oracle.format_info_bfloat16, FLOAT16: oracle.format_info_binary16, Int(8,
    exponent=-6): oracle.format_info_ocp_int8,
}  # fmt: skip
MODES = {
    Rounding.NEAREST_EVEN: RoundMode.TiesToEven, Rounding.NEAREST_AWAY: RoundMode.TiesToAway,
    Rounding.TOWARD_ZERO: RoundMode.TowardZero, Rounding.FLOOR: RoundMode.TowardNegative,
    Rounding.CEILING: RoundMode.TowardPositive,
}  # fmt: skip


def numbers(format):
    codes = np.arange(2**format.bits)
    return codes[~format.is_reserved(codes)]


def probes(format):
    """All values, all midpoints, and the float32 neighbours of both, within the range and without -0."""
    grid = np.unique(format.decode(numbers(format)))
    level = np.concatenate([grid, (grid[1:] + grid[:-1]) / 2]).astype(np.float32)
    level = np.concatenate([level, np.nextafter(level, np.float32(np.inf)), np.nextafter(level, np.float32(-np.inf))])
    return np.unique(level[(level >= grid[0]) & (level <= grid[-1])] + np.float32(0))


@pytest.mark.parametrize("format", DTYPES, ids=repr)
def test_all_codes_decode_as_in_ml_dtypes(format):
    codes = numbers(format)
    stored = codes.astype(np.uint8 if format.bits <= 8 else np.uint16).view(DTYPES[format])
    np.testing.assert_array_equal(format.decode(codes), stored.astype(np.float64))


@pytest.mark.parametrize("format", DTYPES, ids=repr)
def test_reserved_codes_are_those_that_ml_dtypes_has_no_number_for(format):
    codes = np.arange(2**format.bits)
    stored = codes.astype(np.uint8 if format.bits <= 8 else np.uint16).view(DTYPES[format])
    np.testing.assert_array_equal(format.is_reserved(codes), ~np.isfinite(stored.astype(np.float32)))


@pytest.mark.parametrize("format", DTYPES, ids=repr)
def test_all_values_midpoints_and_float32_neighbours_encode_as_in_ml_dtypes(format):
    level = probes(format)
    # two differences: without mantissa bits ml_dtypes sends every tie up (gfloat, below, to the even code as here), and
    # every float32 subnormal above 2**-127 too
    level = level[(level == level[0]) | (np.abs(level) >= 2.0**-126) | (level == 0)]
    rounding = Rounding.NEAREST_UP if format is E8M0 else Rounding.NEAREST_EVEN
    cast = level.astype(DTYPES[format])  # from float32: ml_dtypes casts float64 by way of float32, which rounds twice
    codes = cast.view(np.uint8 if format.bits <= 8 else np.uint16)
    np.testing.assert_array_equal(format.encode(level, rounding), codes)


@pytest.mark.parametrize("format", INFOS, ids=repr)
def test_all_codes_decode_as_in_gfloat(format):
    codes = numbers(format)
    np.testing.assert_array_equal(format.decode(codes), decode_ndarray(INFOS[format], codes))


@pytest.mark.parametrize("rounding", MODES)
@pytest.mark.parametrize("format", INFOS, ids=repr)
def test_all_midpoints_and_float32_neighbours_round_as_in_gfloat(format, rounding):
    level = probes(format).astype(np.float64)
    expected = round_ndarray(INFOS[format], level, MODES[rounding], sat=True)
    np.testing.assert_array_equal(format.decode(format.encode(level, rounding)), expected)


def test_float32_encodes_any_float64_as_a_cast_does():
    generator = np.random.default_rng(0)
    level = np.ldexp(generator.normal(size=5000), generator.integers(-155, 126, 5000))
    halves = level.astype(np.float32).astype(np.float64)
    middle = (halves + np.nextafter(halves.astype(np.float32), np.float32(np.inf))) / 2
    level = np.concatenate([level, middle])
    np.testing.assert_array_equal(FLOAT32.decode(FLOAT32.encode(level)), level.astype(np.float32).astype(np.float64))


def test_float32_codes_are_the_bits_of_a_float32():
    level = np.random.default_rng(1).normal(size=100).astype(np.float32)
    np.testing.assert_array_equal(FLOAT32.encode(level), level.view(np.uint32))


def test_mxint8_spans_plus_and_minus_127_of_64():
    assert (MXINT8_ELEMENT.bounds().lowest, MXINT8_ELEMENT.bounds().highest) == (-127 / 64, 127 / 64)


@pytest.mark.parametrize(
    ("format", "largest", "smallest"),
    [(E2M1, 6, 0.5), (E2M3, 7.5, 0.125), (E3M2, 28, 0.0625), (E4M3, 448, 2.0**-9), (E5M2, 57344, 2.0**-16), (E8M0,
    2.0**127, 2.0**-127)],
    ids=repr,
)  # fmt: skip
def test_extremes_are_those_of_the_specification(format, largest, smallest):
    values = format.decode(numbers(format))
    assert (format.full_scale, values.max(), values[values > 0].min()) == (largest, largest, smallest)


def test_e2m1_values_are_in_code_order():
    half = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    np.testing.assert_array_equal(E2M1.decode(np.arange(16)), half + [-v for v in half])


def test_small_negative_levels_keep_their_sign_bit_and_both_zeros_are_code_zero():
    np.testing.assert_array_equal(E2M1.encode(np.asarray([-0.1, -0.0, 0.0, 0.1])), [8, 0, 0, 0])


@pytest.mark.parametrize("code", [0x7F, 0xFF])
def test_decoding_a_nan_code_is_refused(code):
    with pytest.raises(ValueError, match="no number"):
        E4M3.decode(np.asarray([code]))
