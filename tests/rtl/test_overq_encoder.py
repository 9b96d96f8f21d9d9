"""OverQ's encoder in gates is `Overwrite.encode`."""

import itertools

import numpy as np
import pytest

pytest.importorskip("amaranth", reason="circuits need amaranth: pip install 'bitwright[rtl]'")

from bitwright.formats import E2M1, Int, Rounding
from bitwright.rtl.overq_encoder import OverwriteEncoder
from bitwright.schemes.overq import Overwrite, Pick
from bitwright.testing.rtl import evaluate

KINDS = [{}, {"precision_overwrite": True}, {"range_overwrite": False, "precision_overwrite": True}]


def assert_encoder_equals_reference(format, level, values, rounding=Rounding.NEAREST_UP):
    lanes = values.shape[1]
    found = evaluate(
        OverwriteEncoder(format, level, lanes, rounding), {f"level_{i}": values[:, i] for i in range(lanes)}
    )
    codes = np.stack([found[f"code_{i}"] for i in range(lanes)], 1)
    np.testing.assert_array_equal(codes, format.encode(np.ldexp(values.astype(float), level.exponent), rounding))


@pytest.mark.parametrize("kind", KINDS, ids=["range", "both", "precision"])
@pytest.mark.parametrize("pick", Pick, ids=repr)
@pytest.mark.parametrize("cascade", [1, 2, 3])
def test_all_levels_of_four_lanes_of_one_bit(kind, cascade, pick):
    values = np.asarray(list(itertools.product(range(5), repeat=4)))
    format = Overwrite(Int(1, signed=False), cascade=cascade, pick=pick, **kind)
    assert_encoder_equals_reference(format, Int(3, signed=False), values)


@pytest.mark.parametrize("kind", KINDS, ids=["range", "both", "precision"])
@pytest.mark.parametrize("lane", [Int(2, signed=False), Int(2, narrow=True)], ids=repr)
def test_all_levels_of_two_lanes_with_fractions(lane, kind):
    level = Int(6 - (not lane.signed), lane.signed, exponent=-2)
    every = np.arange(level.range[0], level.range[1] + 1)
    assert_encoder_equals_reference(
        Overwrite(lane, **kind), level, np.asarray(list(itertools.product(every[:: 1 + lane.signed], every[::2])))
    )


@pytest.mark.parametrize("rounding", [r for r in Rounding if r is not Rounding.STOCHASTIC], ids=repr)
@pytest.mark.parametrize("lane", [Int(3, signed=False, exponent=1), Int(3, narrow=True)], ids=repr)
def test_a_value_before_a_zero_keeps_its_fraction_under_every_rounding(lane, rounding):
    level = Int(8 - (not lane.signed), lane.signed, exponent=lane.exponent - 4)
    every = np.arange(level.range[0], level.range[1] + 1)
    values = np.stack([every, np.zeros_like(every)], 1)
    assert_encoder_equals_reference(Overwrite(lane, precision_overwrite=True), level, values, rounding)


@pytest.mark.parametrize("kind", KINDS, ids=["range", "both", "precision"])
@pytest.mark.parametrize(
    ("lane", "pick", "tile"),
    [(Int(4, signed=False), Pick.LEFTMOST, None), (Int(4, signed=False), Pick.LARGEST, 8),
     (Int(4, narrow=True), Pick.LEFTMOST, 8)],
    ids=["leftmost", "largest-tiles", "signed-tiles"],
)  # fmt: skip
def test_sixteen_lanes_of_four_bits_with_zeros_and_outliers(lane, pick, tile, kind):
    level = Int(9 + lane.signed, lane.signed, exponent=-1)
    generator = np.random.default_rng(0)
    values = generator.laplace(0, 8, (40, 16)).round().astype(int)
    values = np.clip(values if lane.signed else np.abs(values), *level.range)
    values[generator.random(values.shape) < 0.4] = 0
    values[0], values[1] = level.range[1], level.range[0]  # nothing but outliers, nothing else
    values[2] = np.where(np.arange(16) % 5 == 4, 0, level.range[1])
    assert_encoder_equals_reference(Overwrite(lane, cascade=4, pick=pick, tile=tile, **kind), level, values)


def test_levels_of_less_than_a_lanes_unit_are_not_needed():
    values = np.asarray(list(itertools.product(range(8), repeat=2)))
    lane = Int(2, signed=False, exponent=-1)  # a level is two of the lane's units
    assert_encoder_equals_reference(Overwrite(lane, precision_overwrite=True), Int(3, signed=False), values)


@pytest.mark.parametrize(
    ("format", "level", "words"),
    [(Overwrite(E2M1), Int(4), "Int lanes"), (Overwrite(Int(4, signed=False)), Int(8), "unsigned too")],
    ids=["lanes", "signs"],
)
def test_what_it_does_not_encode_is_refused(format, level, words):
    with pytest.raises(ValueError, match=words):
        OverwriteEncoder(format, level, 4)
