"""The rounding shifter is `shift_right` of the reference: every value, every number of places, every rounding."""

import itertools

import numpy as np
import pytest

pytest.importorskip("amaranth", reason="circuits need amaranth: pip install 'bitwright[rtl]'")

from bitwright.formats import Rounding, round_to_integer, shift_right
from bitwright.rtl.round import Rounder
from bitwright.testing.rtl import evaluate

CERTAIN = [rounding for rounding in Rounding if rounding is not Rounding.STOCHASTIC]


@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
@pytest.mark.parametrize("rounding", CERTAIN, ids=repr)
def test_every_value_is_rounded_like_the_reference(rounding, signed):
    bits, most = 5, 7
    value = np.arange(2**bits) - (2 ** (bits - 1) if signed else 0)
    value, places = (a.ravel() for a in np.meshgrid(value, np.arange(most + 1)))
    found = evaluate(Rounder(bits, most, rounding, signed), {"value": value, "places": places})["result"]
    expected = [int(shift_right(np.asarray([v]), int(p), rounding)[0]) for v, p in zip(value, places)]
    assert found == expected


class Given(np.random.Generator):
    """A generator of known numbers."""

    def __init__(self, numbers):
        super().__init__(np.random.PCG64(0))
        self.numbers = numbers

    def random(self, shape):
        return self.numbers.reshape(shape)


def test_random_bits_below_the_fraction_round_up():
    cases = np.asarray(list(itertools.product(range(-16, 16), range(4), range(8))))
    value, places, random = cases.T
    inputs = {"value": value, "places": places, "random": random}
    found = evaluate(Rounder(5, 3, Rounding.STOCHASTIC), inputs)["result"]
    expected = round_to_integer(value / 2.0**places, Rounding.STOCHASTIC, Given(random / 8))
    np.testing.assert_array_equal(found, expected)
