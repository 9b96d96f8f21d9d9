"""ANT against the grids, tables and runs of its artifact (specs/ant_vsquant_and_block_formats.md, system A)."""

import numpy as np
import pytest

from bitwright.formats import Int, Rounding
from bitwright.quantization import PerRow, PerTensor, Quantizer, Scale, Statistics
from bitwright.schemes import ant, ant_type
from bitwright.schemes.ant import TYPES, flint, float_type, power_of_two

CODE_ORDERED_FLINT = {
    2: [0, 1, 4, 2],
    3: [0, 1, 2, 3, 16, 8, 4, 6],
    4: [*range(8), 64, 32, 16, 24, 8, 10, 12, 14],
    5: [*range(16), 256, 128, 64, 96, 32, 40, 48, 56, 16, 18, 20, 22, 24, 26, 28, 30],
}


@pytest.mark.parametrize("bits", CODE_ORDERED_FLINT)
def test_flint_codes_stand_for_the_values_of_the_table(bits):
    np.testing.assert_array_equal(flint(bits, signed=False).values, CODE_ORDERED_FLINT[bits])


def float_based_value(code: int, bits: int) -> float:
    """The paper's float-based decoder: exponent with bias 1 and a mantissa of b - 1 bits."""
    if code == 0:
        return 0.0
    m, r = code >> (bits - 1), code & (2 ** (bits - 1) - 1)
    zeros = bits - 1 - r.bit_length()
    exponent = bits + zeros if m else bits - 1 - zeros
    mantissa = (r << (zeros + 1)) % 2 ** (bits - 1)
    return 2.0 ** (exponent - 1) * (1 + mantissa / 2 ** (bits - 1))


@pytest.mark.parametrize("bits", range(2, 9))
def test_both_flint_decoders_agree_on_all_codes(bits):
    expected = [float_based_value(code, bits) for code in range(2**bits)]
    np.testing.assert_array_equal(flint(bits, signed=False).values, expected)


def first_one_encode(value: int, bits: int) -> int:
    exponent = value.bit_length() - 1
    if exponent <= bits - 2:
        return value
    if exponent == 2 * (bits - 1):
        return 2 ** (bits - 1)
    mantissa_bits = bits - 2 - (exponent - (bits - 1))
    return 2 ** (bits - 1) | 2**mantissa_bits | (value - 2**exponent) >> (exponent - mantissa_bits)


@pytest.mark.parametrize("bits", range(2, 9))
def test_flint_encodes_grid_values_as_the_first_one_encoder_does(bits):
    values = flint(bits, signed=False).values
    np.testing.assert_array_equal(
        flint(bits, signed=False).encode(values), [first_one_encode(int(v), bits) for v in values]
    )


@pytest.mark.parametrize(
    ("bits", "base", "exponent"), [(3, 6, 4), (4, 14, 6), (5, 30, 8), (6, 62, 10), (7, 126, 12), (8, 254, 14)]
)
def test_flint_bounds_are_the_widths_of_the_decoder(bits, base, exponent):
    bounds = flint(bits, signed=False).bounds()
    # the largest code-ordered base of the decoder has its values below 2**(b-1) in it
    assert (bounds.significand, bounds.exponent[-1]) == (base, exponent)


@pytest.mark.parametrize(
    ("format", "grid"),
    [
        (flint(4), [0, 1, 2, 3, 4, 6, 8, 16]),
        (flint(5), [*range(9), 10, 12, 14, 16, 24, 32, 64]),
        (flint(3), [0, 1, 2, 4]),
        (power_of_two(4), [0, *(2**i for i in range(7))]),
        (float_type(4), [0, *(2**i for i in range(7))]),
        (float_type(4, exponent_bits=2), [0, 1, 2, 3, 4, 6, 8, 12]),
    ],
    ids=repr,
)
def test_signed_grids_are_those_of_the_artifact(format, grid):
    values = np.unique(format.decode(np.arange(2**format.bits)))
    unit = values[values > 0].min()
    np.testing.assert_array_equal(values / unit, [-v for v in grid[:0:-1]] + grid)


@pytest.mark.parametrize(
    ("format", "grid"),
    [
        (power_of_two(4, signed=False), [0, *(2**i for i in range(15))]),
        (float_type(4, signed=False), [0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192]),
        (float_type(4, signed=False, exponent_bits=2), [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28]),
    ],
    ids=repr,
)
def test_unsigned_grids_are_those_of_the_artifact(format, grid):
    values = np.unique(format.decode(np.arange(16)))
    np.testing.assert_array_equal(values / values[values > 0].min(), grid)


def test_the_signed_four_bit_float_type_is_the_power_of_two_type():
    a, b = (np.unique(f.decode(np.arange(16))) for f in (float_type(4), power_of_two(4)))
    np.testing.assert_array_equal(a / a.max(), b / b.max())


def test_four_bit_significands_fit_the_five_bit_base_of_the_processing_element():
    for name, signed in [(n, s) for n in TYPES for s in (True, False)]:
        assert TYPES[name](4, signed).bounds().significand <= 15


def test_flint_ties_go_to_the_larger_value():
    quantizer = Quantizer(flint(4, signed=False), (Scale(PerTensor()),), Rounding.NEAREST_UP)
    x = np.asarray([[0.5, 1.5, 9, 11, 15, 20, 28, 48, 100, 7.5]])
    clipped = np.minimum(x, 64.0)  # α = 64
    represented = quantizer.quantize(np.append(clipped, 64.0)[None]).decode()[0, :-1]
    np.testing.assert_array_equal(represented, [1, 2, 10, 12, 16, 24, 32, 64, 64, 8])


DIRECT = [0.03, -0.11, 0.26, -0.48, 0.52, -0.77, 0.9, 1.3, -1.6, 2.2, -3.1, 4, 0, 0.07, -0.2, 0.35]


@pytest.mark.parametrize(
    ("format", "represented"),
    [
        (flint(4), [0, 0, 0.25, -0.5, 0.5, -0.75, 1, 1.5, -1.5, 2, -4, 4, 0, 0, -0.25, 0.25]),
        (power_of_two(4), [0, -0.125, 0.25, -0.5, 0.5, -1, 1, 1, -2, 2, -4, 4, 0, 0.0625, -0.25, 0.25]),
    ],
    ids=["flint", "pot"],
)
def test_direct_quantization_gives_the_values_of_the_artifact(format, represented):
    quantizer = Quantizer(format, (Scale(PerTensor()),), Rounding.NEAREST_UP)
    np.testing.assert_array_equal(quantizer.quantize(np.asarray([DIRECT])).decode()[0], represented)


def test_direct_quantization_to_integers_gives_the_codes_of_the_artifact():
    t = Quantizer(Int(4), (Scale(PerTensor()),), Rounding.NEAREST_UP).quantize(np.asarray([DIRECT]))
    np.testing.assert_array_equal(t.elements()[0, 0], [0, 0, 0, -1, 1, -1, 2, 2, -3, 4, -5, 7, 0, 0, 0, 1])


U = ((((7919 * np.arange(1024)) % 1021) - 510) / 510).astype(np.float64)
A31 = {
    "u": (U, {"int": (0.0014833, 0.92), "flint": (0.0069759, 1.49), "pot": (0.0084472, 0.84)}, "int", 0.92),
    "u/(1.05-|u|)": (
        U / (1.05 - abs(U)), {"int": (0.402086, 0.79), "flint": (0.440076, 0.87), "pot": (0.529386, 0.85)}, "int", 15.8,
    ),
    "u/(1.02-|u|)": (
        U / (1.02 - abs(U)), {"int": (1.80157, 0.80), "flint": (1.47698, 0.87), "pot": (1.57655, 0.91)}, "flint", 43.5,
    ),
    "u/(1.01-|u|)": (
        U / (1.01 - abs(U)), {"int": (5.00399, 0.82), "flint": (3.65911, 0.90), "pot": (3.46221, 0.91)}, "pot", 91,
    ),
    "|u|^3": (
        abs(U) ** 3,
        {"int": (0.00028648, 0.96), "flint": (0.0026313, 1.49), "pot": (0.0040195, 0.84), "float": (0.0011653,
        1.37)}, "int", 0.96,
    ),
    "|u|/(1.002-|u|)": (
        abs(U) / (1.002 - abs(U)),
        {"int": (17.1331, 0.98), "flint": (3.52648, 0.99), "pot": (7.87579, 1.01), "float": (1.7207, 1.01)}, "flint",
        495,
    ),
}  # fmt: skip
PAIRS = [(name, type) for name, (_, types, _, _) in A31.items() for type in types]


def calibrated(scheme, x):
    """Fitted quantizer, its range estimate, and the represented values."""
    seen = Statistics.of(x)
    quantizer = scheme.input.fit(seen)
    ranges = quantizer.estimate(seen)
    return quantizer, ranges, quantizer.quantize(x, ranges).decode()


def half_a_digit(value: float) -> float:
    """Half a unit of the last printed digit."""
    return 0.5 * 10.0 ** -len(f"{value}".split(".")[1])


@pytest.mark.parametrize(("name", "type"), PAIRS)
def test_squared_errors_and_ratios_of_each_type_are_those_of_the_artifact(name, type):
    values, types, _, _ = A31[name]
    x = values.astype(np.float32)[None]
    _, ranges, represented = calibrated(ant_type(type), x)
    error, ratio = types[type]
    assert np.mean((represented - x) ** 2) == pytest.approx(error, abs=half_a_digit(error))
    assert ranges[0].high[0, 0] / np.abs(x).max() == pytest.approx(ratio, rel=1e-12)


@pytest.mark.parametrize("name", A31)
def test_the_type_and_the_clipping_are_those_of_the_artifact(name):
    values, _, type, alpha = A31[name]
    x = values.astype(np.float32)[None]
    quantizer, ranges, _ = calibrated(ant(), x)
    assert quantizer.format == TYPES[type](4, bool(x.min() < 0))
    assert ranges[0].high[0, 0] == pytest.approx(alpha, rel=1e-6)  # float32 rounds the largest value


@pytest.mark.parametrize(
    ("type", "error", "ratio"), [("int", 0.0227, 0.96), ("flint", 0.0411, 0.90), ("pot", 0.0503, 0.91)]
)
def test_the_clipping_search_on_a_short_row_is_that_of_the_artifact(type, error, ratio):
    x = np.asarray([DIRECT], np.float32)
    _, ranges, represented = calibrated(ant_type(type), x)
    assert np.mean((represented - x) ** 2) == pytest.approx(error, abs=0.00005)
    assert ranges[0].high[0, 0] == pytest.approx(4 * ratio, rel=1e-12)


def test_weights_choose_one_type_and_a_clipping_for_each_row():
    x = np.asarray(DIRECT, np.float32)
    weight = np.stack([x, x**3, x / 2])
    seen = Statistics.of(weight)
    sums = {}
    for type in ("int", "flint", "pot"):
        quantizer = ant_type(type).weight.fit(seen)
        represented = quantizer.quantize(weight, quantizer.estimate(seen)).decode()
        sums[type] = float(np.mean((represented - weight) ** 2, axis=1).sum())
    # float32 squares in the artifact: six digits are printed, the last one may differ by one
    assert sums == pytest.approx({"int": 1.672234, "flint": 0.620740, "pot": 0.800110}, abs=1.5e-6)
    chosen = ant().weight.fit(seen)
    assert chosen.format == flint(4)
    np.testing.assert_allclose(chosen.estimate(seen)[0].high[:, 0], [3.6, 62.72, 1.8], rtol=1e-12)


def test_wide_types_are_integers_from_ratio_95():
    scheme = ant(8, 8)
    assert {q.format for q in scheme.weight.quantizers} == {Int(8)}
    assert scheme.weight.quantizers[0].scales == (Scale(PerRow(), range=scheme.weight.quantizers[0].scales[0].range),)
    assert scheme.weight.quantizers[0].scales[0].range.lowest == 95


@pytest.mark.parametrize("types", [(), ("int", "posit")])
def test_an_unknown_type_is_refused_with_the_known_ones(types):
    with pytest.raises(ValueError, match="choose from"):
        ant(types=types)
