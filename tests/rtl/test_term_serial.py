"""The term-serial unit computes the kept terms' dot product, in as many clocks as there are pairs of terms."""

import itertools

import numpy as np
import pytest

pytest.importorskip("amaranth", reason="circuits need amaranth: pip install 'bitwright[rtl]'")

from bitwright.rtl.term_serial import CoefficientSum, ShiftSum, TermSerialDot
from bitwright.schemes.term_revealing import Recoding, TermBudget
from bitwright.testing.rtl import evaluate

SUMS = [CoefficientSum, ShiftSum]


def assert_dots_equal_reference(x, w, x_codes, w_codes, sums, *, groups=1):
    """Rows of codes, `groups` of them to a sum."""
    lanes = x_codes.shape[1]
    pairs = (x.term_counts(x_codes) * w.term_counts(w_codes)).sum(1)
    at = np.concatenate([[0], np.cumsum(pairs + 1)])  # a clock to load, one a pair
    inputs = {"load": np.zeros(at[-1] + 1, int), "first": np.zeros(at[-1] + 1, int)}
    inputs["load"][at[:-1]] = 1
    inputs["first"][at[:-1:groups]] = 1
    for name, codes in (("x", x_codes), ("w", w_codes)):
        for lane in range(lanes):
            # what stands at the ports while it is busy does not matter
            inputs[f"{name}_{lane}"] = np.concatenate([np.repeat(codes[:, lane], pairs + 1), [0]])
    found = evaluate(TermSerialDot(x, w, lanes, lanes * groups, sums), inputs, clocked=True)
    np.testing.assert_array_equal(found["busy"], np.append(1 - inputs["load"][:-1], 0))
    dots = (x.decode(x_codes) * w.decode(w_codes)).sum(1).reshape(-1, groups)
    np.testing.assert_array_equal(np.asarray(found["total"])[at[1:]].reshape(-1, groups), np.cumsum(dots, 1))


@pytest.mark.parametrize("sums", SUMS)
def test_all_products_of_small_elements(sums):
    x, w = TermBudget(7, False, 1, 2), TermBudget(4, True, 1, None, Recoding.BINARY)
    codes = np.asarray([c for c in itertools.product(range(8), range(13)) if not w.is_reserved(np.asarray([c[1]]))[0]])
    assert_dots_equal_reference(x, w, codes[:, :1], codes[:, 1:], sums)


@pytest.mark.parametrize("sums", SUMS)
@pytest.mark.parametrize("recoding", [Recoding.HESE, Recoding.BINARY], ids=repr)
def test_groups_of_eight_weights_and_their_inputs(recoding, sums):
    x, w = TermBudget(255, False, 1, 3, recoding), TermBudget(128, True, 8, 12, recoding)
    generator = np.random.default_rng(0)
    x_codes = x.encode(np.maximum(generator.normal(0, 80, (6, 8)), 0))
    w_codes = w.encode(generator.normal(0, 40, (6, 8)))
    x_codes[0] = w_codes[1] = 0
    assert_dots_equal_reference(x, w, x_codes, w_codes, sums, groups=3)


@pytest.mark.parametrize("sums", SUMS)
def test_the_largest_sums_fit(sums):
    x, w = TermBudget(15, True, 1, None), TermBudget(15, True, 2, None)
    low, high = x.encode(np.asarray([-15.0, 15.0]))
    signs = np.asarray([[low, low], [high, high]])
    assert_dots_equal_reference(x, w, np.repeat(signs, 8, 0), np.tile(np.repeat(signs, 4, 0), (2, 1)), sums, groups=4)


def test_inputs_that_share_a_budget_may_have_no_terms_left():
    x, w = TermBudget(15, False, 2, 1), TermBudget(15, True, 2, 3)
    generator = np.random.default_rng(0)
    x_codes, w_codes = generator.integers(0, 16, (20, 2)), w.encode(generator.uniform(-15, 15, (20, 2)))
    assert_dots_equal_reference(x, w, x_codes, w_codes, CoefficientSum)


def test_lanes_are_whole_groups():
    with pytest.raises(ValueError, match="use a multiple"):
        TermSerialDot(TermBudget(15), TermBudget(15, True, 4, 3), 6, 6)
