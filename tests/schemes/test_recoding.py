"""Recodings, and the terms that groups keep, against an oracle in plain Python that follows part B of
specs/overq_and_term_revealing.md, and its tables of digits (B2, B12).
"""

from dataclasses import replace
from fractions import Fraction
from functools import cache
from hashlib import sha256
from itertools import product

import numpy as np
import pytest

from bitwright.formats import Rounding
from bitwright.schemes.term_revealing import Recoding, TermBudget

HESE, ARTIFACT, NAF, BOOTH, BINARY = (
    Recoding.HESE, Recoding.HESE_ARTIFACT, Recoding.NAF, Recoding.BOOTH, Recoding.BINARY,
)  # fmt: skip

TWELVE_BITS = np.arange(4096)
BFS_LIMIT = 2**14  # sums of descending ±2**e for values below 2**12 stay within it

# B12: one line a value, `v:±e,±e,…` by descending exponent
TABLE_SHA256 = {
    HESE: "984d9f77f6551ca23e37be59d839efd728a886b87f0eff18caaccf5c5cf44f34",
    NAF: "984d9f77f6551ca23e37be59d839efd728a886b87f0eff18caaccf5c5cf44f34",
    ARTIFACT: "7ff5da1a96d79ee05242476ab5f497c4e40e3ae8e94e0d295474b48f8ad901ab",
    BINARY: "6e925eafbace95fd7dca5034e2513837a9b36de4f7d89ff642faed0686382a5a",
    BOOTH: "c9a7969f1a7c069cbbe8e9fc7f9173c85e334a98b0b225f14fe60bc8857eb1bd",
}

# B12: value: HESE-A, HESE-M, radix-4 Booth
EXAMPLES = {
    11: ("8+4-1", "16-4-1", "16-4-1"),
    23: ("16+8-1", "32-8-1", "16+8-1"),
    27: ("32-8+4-1", "32-4-1", "32-4-1"),
    37: ("32+4+1", "32+4+1", "64-32+4+1"),
    54: ("64-16+8-2", "64-8-2", "64-16+8-2"),
    91: ("64+32-8+4-1", "128-32-4-1", "64+32-4-1"),
    107: ("128-32+8+4-1", "128-16-4-1", "128-16-4-1"),
    127: ("128-1", "128-1", "128-1"),
    171: ("128+32+8+4-1", "256-64-16-4-1", "256-64-16-4-1"),
    219: ("256-64+32-8+4-1", "256-32-4-1", "256-64+32-4-1"),
}

# B2.3: bits: (average, most) of binary, radix-4 Booth, HESE-A and HESE-M; values with A > M; values with A ≠ M
STATISTICS = {
    4: ((2.000, 4), (2.000, 3), (1.750, 3), (1.750, 3), 0, 1),
    5: ((2.500, 5), (2.250, 3), (2.125, 4), (2.094, 3), 1, 4),
    6: ((3.000, 6), (2.750, 4), (2.500, 4), (2.438, 4), 4, 12),
    7: ((3.500, 7), (3.000, 4), (2.875, 5), (2.773, 4), 13, 31),
    8: ((4.000, 8), (3.500, 5), (3.250, 6), (3.109, 5), 35, 75),
    9: ((4.500, 9), (3.750, 5), (3.625, 6), (3.443, 5), 88, 174),
}


def digits_by_exponent(recoding: Recoding, magnitude: int) -> list[tuple[int, int]]:
    """(exponent, digit) of the non-zero digits, largest exponent first."""
    digits = recoding.digits(np.asarray([magnitude]))[0].tolist()
    return [(e, d) for e, d in reversed(list(enumerate(digits))) if d]


def term_counts(recoding: Recoding, magnitude: np.ndarray) -> np.ndarray:
    return np.count_nonzero(recoding.digits(magnitude), axis=-1)


@pytest.mark.parametrize("recoding", TABLE_SHA256)
def test_the_table_of_all_bytes_has_the_hash_of_the_specification(recoding):
    text = ""
    for value in range(256):
        terms = [f"{'+' if d > 0 else '-'}{e}" for e, d in digits_by_exponent(recoding, value)]
        text += f"{value}:{','.join(terms)}\n"
    assert sha256(text.encode()).hexdigest() == TABLE_SHA256[recoding]


@pytest.mark.parametrize("value", EXAMPLES)
def test_digits_are_those_of_the_example_table(value):
    for recoding, expected in zip((ARTIFACT, HESE, BOOTH), EXAMPLES[value]):
        written = "".join(f"{d * 2**e:+d}" for e, d in digits_by_exponent(recoding, value))
        assert written.removeprefix("+") == expected


@pytest.mark.parametrize("recoding", Recoding)
def test_digits_of_all_twelve_bit_magnitudes_sum_to_the_magnitude(recoding):
    digits = recoding.digits(TWELVE_BITS)
    assert digits.dtype == np.int8
    assert set(np.unique(digits).tolist()) <= {-1, 0, 1}
    np.testing.assert_array_equal((digits * 2 ** np.arange(digits.shape[-1])).sum(-1), TWELVE_BITS)


@pytest.mark.parametrize("recoding", Recoding)
def test_digits_of_wide_magnitudes_sum_to_the_magnitude(recoding):
    magnitude = np.append(np.random.default_rng(0).integers(0, 2**24, (9, 7)), np.full((1, 7), 2**24 - 1), axis=0)
    digits = recoding.digits(magnitude)
    assert digits.shape[:-1] == magnitude.shape
    np.testing.assert_array_equal((digits * 2 ** np.arange(digits.shape[-1])).sum(-1), magnitude)


def test_hese_is_the_non_adjacent_form_of_every_twelve_bit_magnitude():
    """3n without carries: where 3n and n differ there is a digit, negative where n has the bit (Prodinger 2000)."""
    n = TWELVE_BITS
    exponents = np.arange(13)
    positive = (3 * n & ~n)[:, None] >> (exponents + 1) & 1
    negative = (n & ~(3 * n))[:, None] >> (exponents + 1) & 1
    for recoding in (HESE, NAF):
        digits = recoding.digits(n)
        assert not digits[:, 13:].any()
        np.testing.assert_array_equal(digits[:, :13], positive - negative)


@pytest.mark.parametrize("bits", range(1, 13))
def test_hese_is_non_adjacent_with_exponents_up_to_the_width(bits):
    digits = HESE.digits(np.arange(2**bits)) != 0
    assert not (digits[:, 1:] & digits[:, :-1]).any()
    assert not digits[:, bits + 1 :].any()
    assert digits.sum(-1).max() == (bits + 2) // 2  # ⌈(n+1)/2⌉


def test_no_sum_of_powers_of_two_has_fewer_terms_than_hese():
    """Breadth-first search from zero over ±2**e."""
    fewest = np.full(2 * BFS_LIMIT + 1, -1)
    reached = np.zeros(2 * BFS_LIMIT + 1, bool)
    reached[BFS_LIMIT] = True
    for terms in range(8):
        fewest[reached & (fewest < 0)] = terms
        further = reached.copy()
        for step in 2 ** np.arange(14):
            further[step:] |= reached[:-step]
            further[:-step] |= reached[step:]
        reached = further
    np.testing.assert_array_equal(term_counts(HESE, TWELVE_BITS), fewest[BFS_LIMIT : BFS_LIMIT + 4096])


@pytest.mark.parametrize("bits", STATISTICS)
def test_term_counts_have_the_statistics_of_the_specification(bits):
    values = np.arange(2**bits)
    *expected, more, different = STATISTICS[bits]
    order = (BINARY, BOOTH, ARTIFACT, HESE)
    for recoding, (average, most) in zip(order, expected):
        counts = term_counts(recoding, values)
        # half a unit of the last printed digit; a margin for the decimal's own rounding, as 2.4375 is printed 2.438
        assert abs(counts.mean() - average) <= 0.0005 + 1e-9
        assert counts.max() == most
    artifact, minimal = (r.digits(values) for r in (ARTIFACT, HESE))
    assert np.count_nonzero(np.count_nonzero(artifact, -1) > np.count_nonzero(minimal, -1)) == more
    width = max(artifact.shape[-1], minimal.shape[-1])
    artifact, minimal = (np.pad(d, ((0, 0), (0, width - d.shape[-1]))) for d in (artifact, minimal))
    assert np.count_nonzero((artifact != minimal).any(-1)) == different


@pytest.mark.parametrize(
    ("recoding", "bits", "histogram"),
    [
        (HESE, 7, [1, 7, 36, 60, 24]),
        (HESE, 8, [1, 8, 49, 110, 80, 8]),
        (ARTIFACT, 8, [1, 8, 49, 90, 85, 22, 1]),
        (BINARY, 8, [1, 8, 28, 56, 70, 56, 28, 8, 1]),
    ],
)
def test_histograms_of_term_counts_are_those_of_the_specification(recoding, bits, histogram):
    assert np.bincount(term_counts(recoding, np.arange(2**bits))).tolist() == histogram


@pytest.mark.parametrize(
    ("recoding", "is_within"),
    [
        (HESE, lambda residual, unit: 3 * residual <= unit),
        (ARTIFACT, lambda residual, unit: 2 * residual < unit),
        (BINARY, lambda residual, unit: residual < unit),
    ],
)
def test_what_is_left_after_the_largest_terms_is_within_the_bound_of_the_recoding(recoding, is_within):
    """B2.3: a third, a half and one of the last kept term."""
    digits = recoding.digits(TWELVE_BITS).astype(np.int64)
    for exponent in range(digits.shape[-1]):
        ends_here = digits[:, exponent] != 0
        residual = np.abs((digits[:, :exponent] * 2 ** np.arange(exponent)).sum(-1))
        assert is_within(residual[ends_here], 2**exponent).all()


def test_radix_4_booth_has_at_most_one_digit_at_each_two_bits():
    digits = BOOTH.digits(TWELVE_BITS)
    digits = np.pad(digits, ((0, 0), (0, digits.shape[-1] % 2))) != 0
    assert not (digits[:, 0::2] & digits[:, 1::2]).any()


# B2.1: (mode, b1, b0) -> (digit, next mode)
WINDOW = {
    (0, 0, 0): (0, 0), (0, 0, 1): (1, 0), (0, 1, 0): (0, 0), (0, 1, 1): (-1, 1),
    (1, 0, 0): (1, 0), (1, 0, 1): (0, 1), (1, 1, 0): (-1, 1), (1, 1, 1): (0, 1),
}  # fmt: skip


def hese(v: int) -> list[tuple[int, int]]:
    out, mode = [], 0
    for i in range(v.bit_length() + 1):
        digit, mode = WINDOW[mode, v >> (i + 1) & 1, v >> i & 1]
        out += [(digit, i)] if digit else []
    return out[::-1]


def hese_artifact(v: int) -> list[tuple[int, int]]:
    meaning = {0b010: (1, 0), 0b011: (1, 1), 0b110: (-1, 0)}
    windows = [(meaning.get(2 * v >> i & 7), i) for i in range(v.bit_length(), -1, -1)]
    return [(m[0], i + m[1]) for m, i in windows if m]


def booth(v: int) -> list[tuple[int, int]]:
    digit = [0, 1, 1, 2, -2, -1, -1, 0]
    parts = [(digit[2 * v >> 2 * i & 7], 2 * i) for i in range(v.bit_length() // 2, -1, -1)]
    return [(1 if d > 0 else -1, e + abs(d) // 2) for d, e in parts if d]


def binary(v: int) -> list[tuple[int, int]]:
    return [(1, i) for i in range(v.bit_length(), -1, -1) if v >> i & 1]


RECODE = {HESE: hese, NAF: hese, ARTIFACT: hese_artifact, BOOTH: booth, BINARY: binary}


@cache
def recoded(recoding: Recoding, value: int) -> tuple[tuple[int, int], ...]:
    """(sign, exponent) of the terms of a signed integer, largest first."""
    return tuple((s if value >= 0 else -s, e) for s, e in RECODE[recoding](abs(value)))


def kept_by_rounds(lanes, budget):
    """B3: in every round the largest head term wins, on equal exponents that of the lowest lane."""
    heads, kept = [0] * len(lanes), []
    for _ in range(budget):
        best = None
        for lane, terms in enumerate(lanes):
            if heads[lane] < len(terms) and (best is None or terms[heads[lane]][1] > lanes[best][heads[best]][1]):
                best = lane
        if best is None:
            break
        sign, exponent = lanes[best][heads[best]]
        kept.append((exponent, best, sign))
        heads[best] += 1
    return kept


def kept_by_sorting(lanes, budget):
    flat = [(e, lane, s) for lane, terms in enumerate(lanes) for s, e in terms]
    return sorted(flat, key=lambda term: -term[0])[:budget]


def kept_by_waterline(lanes, budget):
    kept = []
    for exponent in range(16, -1, -1):
        for lane, terms in enumerate(lanes):
            kept += [(e, lane, s) for s, e in terms if e == exponent and len(kept) < budget]
    return kept


def oracle(values, format: TermBudget) -> list[int]:
    """One row of integers as the format represents it."""
    out = [0] * len(values)
    for start in range(0, len(values), format.group):
        lanes = [recoded(format.recoding, int(v)) for v in values[start : start + format.group]]
        for exponent, lane, sign in kept_by_sorting(lanes, format.budget):
            out[start + lane] += sign << exponent
    return out


def encoded(values, format: TermBudget) -> np.ndarray:
    return format.encode(np.asarray(values, np.float64), Rounding.NEAREST_AWAY)


def represented(values, format: TermBudget) -> np.ndarray:
    return format.decode(encoded(values, format))


def kept_terms(codes: np.ndarray, format: TermBudget) -> list[tuple[int, int, int]]:
    """(exponent, lane, sign) of the non-zero terms of one row of codes, group by group in order of rank."""
    significand, exponent, source = format.terms(codes)
    found = [(e, lane, s) for s, e, lane in zip(significand.tolist(), exponent.tolist(), source.tolist()) if s]
    return sorted(found, key=lambda term: (term[1] // format.group, -term[0], term[1]))


def most_terms(recoding: Recoding, largest: int) -> int:
    return max(len(recoded(recoding, v)) for v in range(largest + 1))


def test_digits_of_all_twelve_bit_magnitudes_are_those_of_the_oracle():
    for recoding in Recoding:
        digits = recoding.digits(np.arange(4096))
        for value, row in enumerate(digits.tolist()):
            assert [(d, e) for e, d in enumerate(row) if d][::-1] == list(recoded(recoding, value))


# (group, budget): groups, 20 000 in all
MIXTURE = {
    (1, 2): 4000, (2, 2): 4000, (3, 4): 4000, (4, 6): 3000, (8, 8): 2000, (8, 12): 2000, (16, 24): 800, (32, 40): 200,
}  # fmt: skip


@pytest.mark.parametrize("recoding", Recoding)
def test_rounds_sorting_the_waterline_and_the_format_keep_the_same_terms(recoding):
    generator = np.random.default_rng(20)
    for (group, budget), count in MIXTURE.items():
        format = TermBudget(255, group=group, budget=budget, recoding=recoding)
        width = 2.0 ** generator.integers(1, 10, (count, 1))  # some groups have fewer terms than the budget
        values = np.clip(np.rint(generator.normal(size=(count, group)) * width), -255, 255).astype(int)
        expected = []
        for row in values.tolist():
            lanes = [recoded(recoding, v) for v in row]
            kept = kept_by_rounds(lanes, budget)
            assert kept == kept_by_sorting(lanes, budget) == kept_by_waterline(lanes, budget)
            sums = [0] * group
            for exponent, lane, sign in kept:
                sums[lane] += sign << exponent
            expected.append(sums)
        np.testing.assert_array_equal(represented(values, format), expected)
        first = kept_by_sorting([recoded(recoding, v) for v in values[0].tolist()], budget)
        assert kept_terms(encoded(values[0], format), format) == first


@pytest.mark.parametrize("recoding", Recoding)
def test_a_smaller_budget_keeps_the_first_terms_of_a_larger_one(recoding):
    format = TermBudget(127, group=4, recoding=recoding)
    for row in np.random.default_rng(4).integers(-127, 128, (50, 4)):
        codes = encoded(row, format)
        longest = kept_terms(codes, format)
        for budget in range(1, 4 * most_terms(recoding, 127) + 1):
            assert kept_terms(codes, replace(format, budget=budget)) == longest[:budget]


@pytest.mark.parametrize("recoding", Recoding)
@pytest.mark.parametrize("k", [3, 8, 13, 24])
def test_a_short_last_group_is_one_padded_with_zero_lanes(recoding, k):
    format = TermBudget(127, group=8, budget=6, recoding=recoding)
    values = np.random.default_rng(k).integers(-127, 128, (2, 30, k))
    padded = np.pad(values, ((0, 0), (0, 0), (0, -k % 8)))
    found = represented(values, format)
    np.testing.assert_array_equal(found, represented(padded, format)[..., :k])
    np.testing.assert_array_equal(found, [[oracle(row, format) for row in plane] for plane in values])


SMALL = [(1, largest) for largest in (1, 2, 5, 7, 10, 11, 31, 100, 127, 128, 255)] + [(2, 11), (2, 16), (3, 7)]


def all_groups(group: int, largest: int, recoding: Recoding):
    """Every row of magnitudes, and under every budget the unsigned format and what it keeps of each row."""
    rows = list(product(range(largest + 1), repeat=group))
    lanes = [[recoded(recoding, v) for v in row] for row in rows]
    for budget in (*range(1, group * most_terms(recoding, largest) + 1), None):
        format = TermBudget(largest, False, group, budget, recoding)
        yield np.asarray(rows), format, [kept_by_sorting(row, budget) for row in lanes]


@pytest.mark.parametrize("recoding", Recoding)
@pytest.mark.parametrize(("group", "largest"), SMALL)
def test_the_lowest_and_highest_element_are_the_extremes_of_all_groups(recoding, group, largest):
    for rows, format, _ in all_groups(group, largest, recoding):
        expected = np.asarray([oracle(row, format) for row in rows])
        np.testing.assert_array_equal(represented(rows, format), expected)
        signed = replace(format, signed=True).bounds()
        assert (format.bounds().lowest, format.bounds().highest) == (0, expected.max())
        assert (signed.lowest, signed.highest) == (-expected.max(), expected.max())


@pytest.mark.parametrize("recoding", Recoding)
@pytest.mark.parametrize(("group", "largest"), SMALL)
def test_bounds_of_terms_are_those_of_all_groups(recoding, group, largest):
    for _, format, kept in all_groups(group, largest, recoding):
        bounds, exponents = format.bounds(), [e for terms in kept for e, _, _ in terms]
        assert bounds.exponent == range(min(exponents), max(exponents) + 1)
        assert bounds.per_lane == max(sum(t[1] == lane for t in terms) for terms in kept for lane in range(group))
        assert (bounds.significand, bounds.reach) == (1, 0)


@pytest.mark.parametrize(("budget", "highest"), [(8, 128), (12, 128), (32, 127), (None, 127)])
def test_truncation_lifts_the_highest_element_above_the_largest_magnitude(budget, highest):
    bounds = TermBudget(127, group=8, budget=budget).bounds()
    assert (bounds.lowest, bounds.highest) == (-highest, highest)


@pytest.mark.parametrize(("recoding", "limit"), [(HESE, Fraction(4, 3)), (ARTIFACT, Fraction(3, 2)), (BINARY, 2)])
def test_what_a_group_drops_of_a_value_is_bounded_by_its_largest_dropped_term(recoding, limit):
    """B2.3, B3: the first dropped term, and after it less than a third, a half or one of it."""
    format = TermBudget(127, group=8, budget=8, recoding=recoding)
    values = np.random.default_rng(7).integers(-127, 128, (400, 8))
    for row, found in zip(values, represented(values, format)):
        dropped = kept_by_sorting([recoded(recoding, v) for v in row.tolist()], None)[8:]
        assert dropped
        assert np.abs(row - found).max() < limit * 2 ** dropped[0][0]
