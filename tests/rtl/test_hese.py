"""Term Revealing's encoders give the reference's digits and keep the terms that it keeps."""

import itertools

import numpy as np
import pytest

pytest.importorskip("amaranth", reason="circuits need amaranth: pip install 'bitwright[rtl]'")

from bitwright.rtl.hese import SerialRecoder, TermEncoder, TermSelector
from bitwright.schemes.term_revealing import Recoding, TermBudget
from bitwright.testing.rtl import evaluate


@pytest.mark.parametrize("recoding", Recoding, ids=repr)
def test_all_bytes_become_the_references_powers_of_two(recoding):
    magnitude = np.arange(256)
    found = evaluate(TermEncoder(TermBudget(255, False, 1, None, recoding)), {"code_0": magnitude})
    plus, minus = recoding.masks(magnitude)
    np.testing.assert_array_equal(found["plus_0"], plus)
    np.testing.assert_array_equal(found["minus_0"], minus)


@pytest.mark.parametrize("recode", [1, 0], ids=["HESE", "as they are"])
def test_a_stream_of_bits_becomes_the_digits_of_all_bytes(recode):
    bits, magnitude = 8, np.random.default_rng(0).permutation(256)
    stream = (magnitude[:, None] >> np.arange(bits + 1) & 1).ravel()
    before = [1, 1, 1]  # whatever its registers hold at power-up
    inputs = {
        "bit": np.concatenate([before, stream, [0]]),
        "first": np.concatenate([[0, 0, 0], np.tile(np.arange(bits + 1) == 0, 256), [1]]),
        "recode": np.full(len(before) + stream.size + 1, recode),
    }
    found = evaluate(SerialRecoder(), inputs, clocked=True)
    is_term, is_negative = (np.asarray(found[name][len(before) + 1 :]) for name in ("is_term", "is_negative"))
    digits = is_term * (1 - 2 * is_negative)
    expected = (Recoding.HESE if recode else Recoding.BINARY).digits(magnitude)
    np.testing.assert_array_equal(digits.reshape(256, bits + 1), expected)


def kept_by_stream(format, codes, budget):
    """Masks of the terms that a selector keeps, a group a row."""
    exponents = len(format.bounds().exponent)
    plus, minus = format.recoding.masks(codes & (2 ** format.largest.bit_length() - 1))
    falling = np.arange(exponents)[::-1]
    terms = (plus | minus)[:, None, :] >> falling[:, None] & 1
    steps = terms.reshape(-1, format.group)
    inputs = {f"term_{lane}": steps[:, lane] for lane in range(format.group)}
    first = np.tile(falling == exponents - 1, len(codes))
    inputs |= {"first": first, "budget": np.where(first, budget, 0)}
    found = evaluate(TermSelector(format.group, exponents), inputs, clocked=True)
    kept = np.stack([found[f"kept_{lane}"] for lane in range(format.group)], 1).reshape(terms.shape)
    return (kept << falling[:, None]).sum(1)


@pytest.mark.parametrize("budget", [1, 2, 5, 12])
def test_a_stream_keeps_the_largest_terms_of_each_group(budget):
    format = TermBudget(128, True, 8, budget)
    codes = format.encode(np.random.default_rng(0).normal(0, 50, (12, 8)))
    plus, minus = format.kept(codes)
    np.testing.assert_array_equal(kept_by_stream(format, codes, budget), plus | minus)


def test_every_group_of_two_lanes_keeps_its_largest_terms():
    format = TermBudget(7, False, 2, 2)
    codes = np.asarray(list(itertools.product(range(8), repeat=2)))
    plus, minus = format.kept(codes)
    np.testing.assert_array_equal(kept_by_stream(format, codes, 2), plus | minus)


def test_the_largest_budget_keeps_all_terms():
    format = TermBudget(15, False, 3, None)
    codes = np.asarray(list(itertools.product(range(0, 16, 3), repeat=3)))
    plus, minus = format.kept(codes)
    most = format.group * len(format.bounds().exponent)
    np.testing.assert_array_equal(kept_by_stream(format, codes, most), plus | minus)


def test_one_lane_is_the_truncator_of_data_terms():
    format = TermBudget(255, False, 1, 3)
    codes = np.arange(0, 256, 3)[:, None]
    plus, minus = format.kept(codes)
    np.testing.assert_array_equal(kept_by_stream(format, codes, 3), plus | minus)
