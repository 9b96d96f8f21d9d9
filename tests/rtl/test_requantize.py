"""The requantization unit is `Requantize.apply`, in every rounding, at ties and at the ends."""

import numpy as np
import pytest

pytest.importorskip("amaranth", reason="circuits need amaranth: pip install 'bitwright[rtl]'")

from bitwright.datapath import DOUBLE_ROUNDING, SINGLE_ROUNDING, FixedPoint, Requantize
from bitwright.formats import Int, Rounding
from bitwright.rtl.requantize import Requantizer
from bitwright.testing.rtl import evaluate

CERTAIN = [rounding for rounding in Rounding if rounding is not Rounding.STOCHASTIC]


def assert_equal(unit, accumulator, multiplier, shift, zero_point):
    inputs = {"accumulator": accumulator, "multiplier": multiplier, "zero_point": zero_point}
    found = evaluate(unit, inputs | {"shift": shift - unit.shifts.start})["result"]
    expected = [
        int(unit.requantize.apply(np.asarray([a]), FixedPoint(int(n), int(s)), unit.output, int(z))[0])
        for a, n, s, z in zip(accumulator, multiplier, shift, zero_point)
    ]
    mask = 2**unit.output.bits - 1
    assert found == [value & mask for value in expected]


@pytest.mark.parametrize("first", [None, Rounding.NEAREST_UP], ids=repr)
@pytest.mark.parametrize("rounding", CERTAIN, ids=repr)
def test_every_accumulator_multiplier_and_shift_of_a_small_unit(rounding, first):
    unit = Requantizer(Requantize(3, rounding, first), Int(3), accumulator_bits=5)
    accumulator, multiplier, shift = (
        a.ravel() for a in np.meshgrid(np.arange(-16, 16), np.arange(2, 4), np.asarray(unit.shifts))
    )
    assert_equal(unit, accumulator, multiplier, shift, np.resize([0, 1, -3], len(shift)))


@pytest.mark.parametrize("rule", [SINGLE_ROUNDING, DOUBLE_ROUNDING], ids=["single", "double"])
@pytest.mark.parametrize("output", [Int(8), Int(8, signed=False), Int(4, narrow=True)], ids=repr)
def test_rules_of_runtimes_at_random_values_ties_and_ends(rule, output):
    unit = Requantizer(rule, output)
    generator = np.random.default_rng(0)
    count = 60
    accumulator = (generator.choice([-1, 1], count) * 2 ** generator.uniform(0, 31, count)).astype(np.int64)
    multiplier = generator.integers(2**30, 2**31, count)
    shift = generator.integers(30, 60, count)
    # ties: odd multiples of one half at every stage
    accumulator[: count // 2] |= 1
    multiplier[: count // 2] = 2**30
    shift[: count // 2] = generator.integers(30, 40, count // 2)
    accumulator[:4], accumulator[4:8] = 2**31 - 1, -(2**31)
    multiplier[:8:2] = 2**31 - 1
    shift[:8] = [30, 30, 31, 62, 30, 30, 31, 62]
    zero_point = generator.integers(output.range[0], output.range[1] + 1, count)
    assert_equal(unit, accumulator, multiplier, shift, zero_point)


@pytest.mark.parametrize("rounding", CERTAIN, ids=repr)
def test_random_accumulators_of_twelve_bits(rounding):
    unit = Requantizer(Requantize(8, rounding), Int(8), accumulator_bits=12)
    generator = np.random.default_rng(0)
    count = 200
    accumulator, multiplier = generator.integers(-2048, 2048, count), generator.integers(64, 128, count)
    shift, zero_point = generator.integers(6, 21, count), generator.integers(-128, 128, count)
    assert_equal(unit, accumulator, multiplier, shift, zero_point)


def test_beyond_the_last_shift_nothing_changes():
    unit = Requantizer(Requantize(4), Int(3), accumulator_bits=5)
    value = np.arange(-16, 16)
    last, beyond = (unit.requantize.apply(value, FixedPoint(7, s), Int(3)) for s in (unit.shifts[-1], 80))
    np.testing.assert_array_equal(last, beyond)
