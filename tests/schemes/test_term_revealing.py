"""Term budgets against an oracle in plain Python and the vectors of specs/overq_and_term_revealing.md, part B.

H. T. Kung, B. McDanel, S. Q. Zhang, "Term Revealing", SC 2020, arXiv:2007.06389, and its artifact.
"""

from dataclasses import replace
from fractions import Fraction
from itertools import product

import numpy as np
import pytest

from bitwright.formats import Rounding
from bitwright.quantization import PerBlock, PerTensor, PerTile, Quantizer, Scale, Statistics
from bitwright.schemes.term_revealing import ArtifactGrid, Recoding, TermBudget, stored_bits, term_pairs_bound

HESE, ARTIFACT, NAF, BOOTH, BINARY = (
    Recoding.HESE, Recoding.HESE_ARTIFACT, Recoding.NAF, Recoding.BOOTH, Recoding.BINARY,
)  # fmt: skip


def encoded(values, format: TermBudget) -> np.ndarray:
    return format.encode(np.asarray(values, np.float64), Rounding.NEAREST_AWAY)


def represented(values, format: TermBudget) -> np.ndarray:
    return format.decode(encoded(values, format))


def both_signs(largest: int) -> np.ndarray:
    return np.arange(-largest, largest + 1)


def lcg(count: int, seed: int) -> np.ndarray:
    out = []
    for _ in range(count):
        seed = (1103515245 * seed + 12345) & 0x7FFFFFFF
        out.append(seed >> 16)
    return np.asarray(out)


@pytest.mark.parametrize("recoding", Recoding)
@pytest.mark.parametrize("largest", [1, 5, 127, 128, 255])
def test_codes_are_sign_and_magnitude_and_without_a_budget_stand_for_themselves(recoding, largest):
    format = TermBudget(largest, recoding=recoding)
    values = both_signs(largest)
    codes = encoded(values, format)
    assert format.bits == 1 + largest.bit_length()
    np.testing.assert_array_equal(codes, np.where(values < 0, 1 << largest.bit_length(), 0) | np.abs(values))
    np.testing.assert_array_equal(format.decode(codes), values)
    unsigned = TermBudget(largest, signed=False, recoding=recoding)
    assert unsigned.bits == largest.bit_length()
    np.testing.assert_array_equal(unsigned.decode(np.arange(largest + 1)), np.arange(largest + 1))


def test_magnitudes_round_half_away_from_zero_and_saturate():
    below_half = np.nextafter(np.float32(0.5), np.float32(0))  # one with a half added in float32
    levels = np.asarray([0.5, -0.5, 1.5, 2.5, -2.5, 126.5, -127.5, 1e30, -np.inf, below_half, -below_half], np.float32)
    codes = TermBudget(127).encode(levels, Rounding.NEAREST_AWAY)
    np.testing.assert_array_equal(TermBudget(127).decode(codes), [1, -1, 2, 3, -3, 127, -127, 127, -127, 0, 0])


@pytest.mark.parametrize(
    ("recoding", "value", "truncated"),
    [
        (HESE, 27, [32, 28, 27, 27]), (ARTIFACT, 27, [32, 24, 28, 27]), (BINARY, 27, [16, 24, 26, 27]),
        (HESE, 219, [256, 224, 220, 219]), (ARTIFACT, 219, [256, 192, 224, 216]),
        (HESE, -107, [-128, -112, -108, -107]), (ARTIFACT, -107, [-128, -96, -104, -108]),
    ],
)  # fmt: skip
def test_a_value_at_one_to_four_terms_is_that_of_the_specification(recoding, value, truncated):
    found = [represented([value], TermBudget(255, budget=s, recoding=recoding))[0] for s in (1, 2, 3, 4)]
    assert found == truncated


V = [12, -5, 7, 0, 90, -33, 27, 1]
GROUPS = {
    (BINARY, 8): [12, 0, 0, 0, 88, -32, 24, 0],
    (ARTIFACT, 8): [16, 0, 8, 0, 88, -32, 24, 0],
    (HESE, 8): [12, 0, 8, 0, 88, -32, 32, 0],
    (BINARY, 10): [12, -4, 4, 0, 88, -32, 24, 0],
    (ARTIFACT, 10): [12, -4, 8, 0, 88, -32, 24, 0],
    (HESE, 10): [12, -4, 8, 0, 88, -32, 28, 0],
    (BINARY, 12): [12, -4, 6, 0, 90, -32, 24, 0],
    (ARTIFACT, 12): [12, -4, 8, 0, 90, -32, 28, 0],
    (HESE, 12): [12, -5, 8, 0, 90, -32, 28, 0],
}


@pytest.mark.parametrize(("recoding", "budget"), GROUPS)
def test_a_group_of_eight_is_that_of_the_specification(recoding, budget):
    found = represented(V, TermBudget(127, group=8, budget=budget, recoding=recoding))
    np.testing.assert_array_equal(found, GROUPS[recoding, budget])


@pytest.mark.parametrize(
    ("recoding", "values", "budget", "expected"),
    [
        (HESE, [1, 1, 1, 1], 2, [1, 1, 0, 0]), (HESE, [-8, 8], 1, [-8, 0]), (HESE, [3, 3], 3, [3, 4]),
        (HESE, [127] * 4, 4, [128] * 4), (BINARY, [64, 3, 14], 4, [64, 2, 12]), (HESE, [64, 3, 14], 4, [64, 4, 14]),
    ],
)  # fmt: skip
def test_of_equal_exponents_the_lowest_lane_wins(recoding, values, budget, expected):
    format = TermBudget(127, group=len(values), budget=budget, recoding=recoding)
    np.testing.assert_array_equal(represented(values, format), expected)


@pytest.mark.parametrize(
    ("bits", "budget", "recoding", "codes", "elements"),
    [
        (8, 12, ARTIFACT, [79, 31, 18, 0, 128, 67, 54, 1], [80, -32, 18, 0, 128, -68, 54, 0]),
        (8, 12, HESE, [79, 31, 18, 0, 128, 67, 54, 1], [79, -32, 18, 0, 128, -68, 54, 0]),
        (9, 14, ARTIFACT, [159, 61, 36, 0, 256, 133, 108, 2], [160, -60, 36, 0, 256, -132, 108, 2]),
        (9, 14, HESE, [159, 61, 36, 0, 256, 133, 108, 2], [159, -60, 36, 0, 256, -132, 108, 2]),
    ],
)
def test_float_weights_become_the_codes_and_values_of_the_artifact(bits, budget, recoding, codes, elements):
    format = TermBudget(2 ** (bits - 1), group=8, budget=budget, recoding=recoding)
    weight = np.asarray([[0.31, -0.12, 0.07, 0, 0.5, -0.26, 0.21, 0.004]], np.float32)
    t = Quantizer(format, (Scale(PerTensor()),), Rounding.NEAREST_AWAY).quantize(weight)
    np.testing.assert_array_equal(t.codes[0, 0] & (2**bits - 1), codes)
    np.testing.assert_array_equal(t.codes[0, 0] >> bits, weight[0] < 0)
    np.testing.assert_array_equal(t.elements()[0, 0], elements)
    np.testing.assert_array_equal(t.decode()[0], np.asarray(elements) * 0.5 / 2 ** (bits - 1))


def pair_coefficients(w, w_format, x, x_format) -> tuple[dict[int, int], int]:
    """Sum of signs at each exponent sum, and the number of term pairs, of one dot product (B5)."""
    sign_w, exponent_w, lane_w = (t[:, None] for t in w_format.terms(encoded(w, w_format)))
    sign_x, exponent_x, lane_x = x_format.terms(encoded(x, x_format))
    meet = (lane_w == lane_x) & (sign_w * sign_x != 0)
    coefficients = np.bincount((exponent_w + exponent_x)[meet], (sign_w * sign_x)[meet])
    return {e: int(c) for e, c in enumerate(coefficients) if c}, np.count_nonzero(meet)


@pytest.mark.parametrize(
    ("budget", "data_terms", "dot", "pairs", "vector"),
    [
        (12, 3, 3484, 21, None),
        (12, 2, 3568, 16, {13: 1, 12: -1, 9: -1, 6: -1, 5: 1, 4: 1}),
        (None, None, 3365, 34, None),
    ],
)
def test_a_dot_product_has_the_pairs_and_coefficients_of_the_specification(budget, data_terms, dot, pairs, vector):
    x = [107, 0, 23, 5, 64, 127, 11, 54]
    w_format, x_format = TermBudget(127, group=8, budget=budget), TermBudget(127, budget=data_terms)
    coefficients, found = pair_coefficients(V, w_format, x, x_format)
    assert found == pairs
    assert sum(c * 2**e for e, c in coefficients.items()) == dot
    assert represented(V, w_format) @ represented(x, x_format) == dot
    assert vector is None or coefficients == vector


BULK = {
    (8, 12, 3): ({HESE: (-49156, 2011), ARTIFACT: (-55480, 2003), BINARY: (-36080, 2091)}, 2304),
    (8, 16, 3): ({HESE: (-40506, 2680), ARTIFACT: (-43318, 2681), BINARY: (-36792, 2781)}, 3072),
    (16, 24, 2): ({HESE: (-53684, 1481), ARTIFACT: (-48584, 1481), BINARY: (-41168, 1485)}, 1536),
    (1, 2, 2): ({HESE: (-41069, 1896), ARTIFACT: (-19797, 1896), BINARY: (-22748, 1896)}, 2048),
}


@pytest.mark.parametrize(("group", "budget", "data_terms"), BULK)
def test_a_long_dot_product_has_the_value_pairs_and_bound_of_the_specification(group, budget, data_terms):
    w, x = lcg(512, 1) % 255 - 127, lcg(512, 7) % 128
    assert w @ x == -37185
    table, bound = BULK[group, budget, data_terms]
    for recoding, (dot, pairs) in table.items():
        w_format = TermBudget(127, group=group, budget=budget, recoding=recoding)
        x_format = TermBudget(127, signed=False, budget=data_terms, recoding=recoding)
        coefficients, found = pair_coefficients(w, w_format, x, x_format)
        assert (represented(w, w_format) @ represented(x, x_format), found) == (dot, pairs)
        assert sum(c * 2**e for e, c in coefficients.items()) == dot
        assert max(coefficients) <= 14  # two seven-bit magnitudes: fifteen coefficients in hardware
    assert bound == term_pairs_bound(
        512, group=group, budget=budget, data_terms=data_terms, weight_bits=8, data_bits=8
    )  # fmt: skip


@pytest.mark.parametrize("recoding", Recoding)
def test_a_group_never_has_more_term_pairs_than_its_budget_times_the_data_terms(recoding):
    generator = np.random.default_rng(3)
    w_format = TermBudget(127, group=8, budget=10, recoding=recoding)
    x_format = TermBudget(127, signed=False, budget=2, recoding=recoding)
    for w, x in zip(generator.integers(-127, 128, (200, 8)), generator.integers(0, 128, (200, 8))):
        assert pair_coefficients(w, w_format, x, x_format)[1] <= 20


@pytest.mark.parametrize("recoding", Recoding)
def test_codes_read_at_another_budget_are_those_of_quantizing_at_that_budget(recoding):
    x = np.random.default_rng(5).normal(size=(6, 40)).astype(np.float32)
    wide = Quantizer(TermBudget(128, group=8, recoding=recoding), (Scale(PerTensor()),), Rounding.NEAREST_AWAY)
    stored = wide.quantize(x)
    for budget in (1, 2, 8, 12, 16, 23):
        narrow = replace(wide, format=replace(wide.format, budget=budget))
        fresh = narrow.quantize(x)
        np.testing.assert_array_equal(stored.codes, fresh.codes)
        np.testing.assert_array_equal(replace(stored, quantizer=narrow).decode(), fresh.decode())


@pytest.mark.parametrize("recoding", [r for r in Recoding if r is not BOOTH])
@pytest.mark.parametrize("largest", [1, 11, 100, 120, 127, 128, 255])
def test_requantizing_a_truncated_value_changes_nothing(recoding, largest):
    most = np.count_nonzero(recoding.digits(np.arange(largest + 1)), axis=-1).max()
    for budget in range(1, most + 1):
        format = TermBudget(largest, budget=budget, recoding=recoding)
        once = represented(both_signs(largest), format)
        np.testing.assert_array_equal(represented(once, format), once)


@pytest.mark.parametrize(
    ("recoding", "largest"),
    [*product([HESE, NAF, BINARY], [11, 100, 127, 128]), (ARTIFACT, 128), (ARTIFACT, 256)],
)
def test_requantizing_a_truncated_group_changes_nothing(recoding, largest):
    values = np.random.default_rng(6).integers(-largest, largest + 1, (500, 8))
    for budget in (1, 2, 5, 8, 12, 16):
        format = TermBudget(largest, group=8, budget=budget, recoding=recoding)
        once = represented(values, format)
        np.testing.assert_array_equal(represented(once, format), once)


def test_a_truncated_artifact_group_that_saturates_can_change_again():
    # 28 is 32 - 8 + 4 of 27, but 32 - 4 by itself; so a term is left for 31 = 32 - 1, to which 32 saturates
    format = TermBudget(31, group=2, budget=4, recoding=ARTIFACT)
    np.testing.assert_array_equal(represented([27, 28], format), [28, 32])
    np.testing.assert_array_equal(represented([28, 32], format), [28, 31])


def test_a_truncated_booth_value_can_be_recoded_with_more_terms():
    format = TermBudget(127, budget=1, recoding=BOOTH)
    np.testing.assert_array_equal(represented([31, 32, 64], format), [32, 64, 64])  # 32 - 1 and 64 - 32


# B5, B6: products in M (P pointwise, D depthwise or squeeze-and-excite), then term pairs as printed
RESNET, VGG, LSTM, MLP = 1_695_547_392, 15_259_926_528, 350 * 33278 * 650, 784 * 512 + 512 * 512 + 512 * 10
MOBILENET_P, MOBILENET_D, EFFICIENT_P, EFFICIENT_D = 267_939_840, 20_716_416, 338_537_472, 627_200
CNN_BUDGETS, WIDE_BUDGETS, MLP_BUDGETS = range(8, 17, 2), range(12, 25, 4), range(6, 15, 2)
PLAIN = {  # data bits, M, 16-bit D, weight bits, unit, printed
    "ResNet-18": (8, RESNET, 0, range(5, 10), 1e9, "67.8 81.4 95.0 108.5 122.1"),
    "VGG-16": (8, VGG, 0, range(5, 10), 1e9, "610 732 855 977 1099"),
    "MobileNet-v2": (9, MOBILENET_P, 0, range(6, 10), 1e9, "14.5 16.9 19.3 21.7"),
    "EfficientNet-b0": (9, EFFICIENT_P, EFFICIENT_D, range(6, 10), 1e9, "18.4 21.4 24.5 27.5"),
    "MLP": (6, MLP, 0, range(2, 7), 1e6, "8.02 12.04 16.05 20.06 24.07"),
    "LSTM": (8, LSTM, 0, range(5, 10), 1e9, "303 363 424 485 545"),
}
REVEALED = {  # (model, data terms): data bits, M, 16-term D, group, budgets, unit, printed
    ("ResNet-18", 2): (8, RESNET, 0, 8, CNN_BUDGETS, 1e9, "3.39 4.24 5.09 5.93 6.78"),
    ("ResNet-18", 3): (8, RESNET, 0, 8, CNN_BUDGETS, 1e9, "5.09 6.36 7.63 8.90 10.17"),
    ("VGG-16", 2): (8, VGG, 0, 8, CNN_BUDGETS, 1e9, "30.5 38.1 45.8 53.4 61.0"),
    ("VGG-16", 3): (8, VGG, 0, 8, CNN_BUDGETS, 1e9, "45.8 57.2 68.7 80.1 91.6"),
    ("MobileNet-v2", 2): (9, MOBILENET_P, MOBILENET_D, 8, WIDE_BUDGETS, 1e9, "1.47 1.73 2.00 2.27"),
    ("MobileNet-v2", 3): (9, MOBILENET_P, MOBILENET_D, 8, WIDE_BUDGETS, 1e9, "2.20 2.60 3.00 3.41"),
    ("MobileNet-v2", 4): (9, MOBILENET_P, MOBILENET_D, 8, WIDE_BUDGETS, 1e9, "2.93 3.47 4.01 4.54"),
    ("EfficientNet-b0", 2): (9, EFFICIENT_P, EFFICIENT_D, 8, WIDE_BUDGETS, 1e9, "1.04 1.37 1.71 2.05"),
    ("EfficientNet-b0", 3): (9, EFFICIENT_P, EFFICIENT_D, 8, WIDE_BUDGETS, 1e9, "1.55 2.06 2.57 3.08"),
    ("EfficientNet-b0", 4): (9, EFFICIENT_P, EFFICIENT_D, 8, WIDE_BUDGETS, 1e9, "2.07 2.75 3.43 4.10"),
    ("MLP", 6): (6, MLP, 0, 16, MLP_BUDGETS, 1e6, "1.50 2.01 2.51 3.01 3.51"),
    ("LSTM", 8): (8, LSTM, 0, 8, (8, *WIDE_BUDGETS), 1e9, "60.6 90.8 121.1 151.4 181.7"),
}


def assert_prints_as(count: float, unit: float, printed: str) -> None:
    assert f"{count / unit:.{len(printed.partition('.')[2])}f}" == printed


@pytest.mark.parametrize("model", PLAIN)
def test_plain_quantization_has_the_printed_term_pairs(model):
    data_bits, macs, wide_macs, weight_bits, unit, printed = PLAIN[model]
    for bits, text in zip(weight_bits, printed.split(), strict=True):
        plain = {"group": 1, "data_terms": data_bits, "data_bits": data_bits}
        count = term_pairs_bound(macs, budget=bits, weight_bits=bits, **plain)
        assert count == data_bits * bits * macs
        unlimited = {**plain, "data_terms": None}
        assert count == term_pairs_bound(macs, budget=None, weight_bits=bits, **unlimited)
        assert_prints_as(count + term_pairs_bound(wide_macs, budget=16, weight_bits=16, **plain), unit, text)


@pytest.mark.parametrize(("model", "terms"), REVEALED)
def test_term_revealing_has_the_printed_term_pairs(model, terms):
    data_bits, macs, wide_macs, group, budgets, unit, printed = REVEALED[model, terms]
    for budget, text in zip(budgets, printed.split(), strict=True):
        data = {"data_terms": terms, "data_bits": data_bits}
        count = term_pairs_bound(macs, group=group, budget=budget, weight_bits=8, **data)
        assert count == Fraction(terms * budget, group) * macs
        wide = term_pairs_bound(wide_macs, group=1, budget=16, weight_bits=16, **data)
        assert wide == terms * 16 * wide_macs
        assert_prints_as(count + wide, unit, text)


def test_term_pairs_are_bounded_by_the_bits_of_each_operand():
    more_than_bits = {"budget": 20, "data_terms": 12, "weight_bits": 8, "data_bits": 6}
    assert term_pairs_bound(10, group=1, **more_than_bits) == 10 * 8 * 6
    assert term_pairs_bound(10, group=8, **more_than_bits) == 10 * 2.5 * 6


@pytest.mark.parametrize(("weight_bits", "bits_per_term"), [(1, 2), (4, 4), (5, 5), (7, 5), (8, 5), (9, 6), (16, 6)])
@pytest.mark.parametrize("recoding", Recoding)
def test_storage_is_exponent_sign_and_barrier_of_each_artifact_term_of_the_truncated_values(
    weight_bits, bits_per_term, recoding
):
    format = TermBudget(127, group=16, budget=20, recoding=recoding)
    values = np.random.default_rng(8).integers(-127, 128, (5, 64))
    truncated = np.abs(represented(values, format)).astype(np.int64)
    kept = np.count_nonzero(ARTIFACT.digits(truncated))
    assert stored_bits(encoded(values, format), format, weight_bits) == bits_per_term * kept


@pytest.mark.parametrize(
    ("bits", "data_terms", "artifact", "minimal"),
    [(8, 8, 1, 1), (8, 3, 3, 1), (8, 2, 3, 3), (9, 3, 3, 1), (6, 6, 2, 2)],
)
def test_the_calibration_grid_chooses_the_scales_of_the_artifact(bits, data_terms, artifact, minimal):
    i = np.arange(20000)
    x = np.where(np.sin(1.7 * i) > 0, 3 * np.abs(np.sin(i)), 0).astype(np.float32)[None]
    for recoding, index in ((ARTIFACT, artifact), (HESE, minimal)):
        budget = data_terms if data_terms < bits else None  # as many terms as bits are all of them
        format = TermBudget(2**bits - 1, budget=budget, recoding=recoding)
        data = Quantizer(format, (Scale(PerTensor(), range=ArtifactGrid()),), Rounding.NEAREST_AWAY)
        (range_,) = data.estimate(Statistics.of(x))
        scale = np.float32(np.linspace(1e-8, 50, 2048)[index])  # a float32 in the artifact
        assert np.float32(range_.magnitude[0, 0] / format.full_scale) == scale
        t = data.quantize(x, (range_,))
        np.testing.assert_array_equal(t.scale()[:, 0], scale)


@pytest.mark.parametrize(("count", "seed"), [(2, 26), (3, 21), (5, 26)])  # at the centres of bins another scale wins
def test_the_calibration_grid_measures_at_points_from_end_to_end(count, seed):
    x = np.clip(np.random.default_rng(seed).normal(size=(1, count)) * 20, -49, 49)
    data = Quantizer(TermBudget(255), (Scale(PerTensor(), range=ArtifactGrid()),), Rounding.NEAREST_AWAY)
    scales = np.linspace(1e-8, 50, 2048)
    points = np.linspace(-50, 50, 8192)[np.floor((x + 50) * 81.92).astype(int)].T
    error = ((represented(points / scales, data.format) * scales - points) ** 2).sum(0)
    chosen = data.estimate(Statistics.of(x))[0].magnitude[0, 0] / 255
    assert np.float32(chosen) == np.float32(scales[error.argmin()])


def test_the_calibration_grid_drops_what_lies_beyond_it_and_takes_the_first_of_equals():
    data = Quantizer(TermBudget(15), (Scale(PerTensor(), range=ArtifactGrid()),), Rounding.NEAREST_AWAY)
    (range_,) = data.estimate(Statistics.of(np.asarray([[60.0, -70.0]])))
    assert np.float32(range_.magnitude[0, 0] / 15) == np.float32(1e-8)


# B6: (group, budget): mean squared error over mean square, of binary, HESE-A and HESE-M
RELATIVE_ERROR = {
    (1, 1): (0.0940, 0.0386, 0.0534), (2, 2): (0.0712, 0.0338, 0.0422), (8, 8): (0.0452, 0.0220, 0.0239),
    (32, 32): (0.0380, 0.0183, 0.0183), (8, 10): (0.0212, 0.0088, 0.0091), (8, 12): (0.0106, 0.0035, 0.0032),
    (8, 16): (0.0021, 0.00048, 0.00041), (32, 48): (0.0075, 0.0025, 0.0024),
}  # fmt: skip


@pytest.mark.parametrize(("group", "budget"), RELATIVE_ERROR)
def test_gaussian_weights_have_the_relative_error_of_the_specification(group, budget):
    sigmas = np.clip(np.random.default_rng(9).normal(size=(32768 // group, group)), -5, 5)
    levels = np.rint(sigmas * 127 / 5)
    for recoding, printed in zip((BINARY, ARTIFACT, HESE), RELATIVE_ERROR[group, budget]):
        wrong = represented(levels, TermBudget(127, group=group, budget=budget, recoding=recoding)) - levels
        noise, power = (wrong**2).sum(1), (levels**2).sum(1)
        ratio = noise.sum() / power.sum()
        # five standard errors of a ratio of means over independent groups (delta method); √2, as the table is a sample
        # too, taken to be as large as ours; and half a unit of the last printed digit, the fourth or the fifth
        deviation = np.std(noise - ratio * power) / np.sqrt(len(noise)) / power.mean()
        digit = 1e-5 if printed < 0.001 else 1e-4
        assert abs(ratio - printed) < 5 * np.sqrt(2) * deviation + digit / 2


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ({"budget": 0}, "0"), ({"budget": -1}, "-1"), ({"group": 0}, "0"), ({"group": -3}, "-3"),
        ({"budget": 5}, "5"), ({"group": 8, "budget": 33}, "33"), ({"budget": 8, "recoding": BINARY}, "8"),
        ({"budget": 6, "recoding": ARTIFACT}, "6"), ({"budget": 5, "recoding": BOOTH}, "5"),
    ],
)  # fmt: skip
def test_an_impossible_group_or_budget_is_refused_with_the_value_found(arguments, found):
    with pytest.raises(ValueError, match=f"(^|[^0-9-]){found}([^0-9]|$)"):
        TermBudget(127, **arguments)


@pytest.mark.parametrize(("recoding", "most"), [(HESE, 4), (NAF, 4), (ARTIFACT, 5), (BOOTH, 4), (BINARY, 7)])
def test_a_budget_of_all_terms_is_lossless(recoding, most):
    format = TermBudget(127, group=2, budget=2 * most, recoding=recoding)
    values = np.stack(np.meshgrid(both_signs(127), both_signs(127)), axis=-1)
    np.testing.assert_array_equal(represented(values, format), values)


def test_a_negative_level_in_an_unsigned_format_is_refused():
    with pytest.raises(ValueError, match="-3"):
        TermBudget(127, signed=False).encode(np.asarray([[1.0, -3.0]]), Rounding.NEAREST_AWAY)


def test_nan_is_refused_with_its_index():
    with pytest.raises(ValueError, match=r"\(0, 1\)"):
        TermBudget(127, group=2, budget=3).encode(np.asarray([[1.0, np.nan]]), Rounding.NEAREST_AWAY)


@pytest.mark.parametrize("share", [PerBlock(12), PerBlock(4), PerTile(2, 12)])
def test_a_group_that_does_not_divide_the_block_of_a_scale_is_refused(share):
    with pytest.raises(ValueError, match="8"):
        Quantizer(TermBudget(7, group=8, budget=12), (Scale(share),), Rounding.NEAREST_AWAY)
