"""Encoders of fixed-point levels give the reference's codes: every level, ties and both ends included."""

import numpy as np
import pytest

pytest.importorskip("amaranth", reason="circuits need amaranth: pip install 'bitwright[rtl]'")

from amaranth.hdl import Const, Module

from bitwright.formats import E2M1, E2M3, E4M3, E8M0, Int, Minifloat, Rounding, Table
from bitwright.rtl.encode import Encoder, compared, encode, first_levels
from bitwright.rtl.unit import Unit
from bitwright.schemes.ant import flint, float_type, power_of_two
from bitwright.schemes.overq import Overwrite
from bitwright.schemes.wrapnet import BINARY
from bitwright.testing.rtl import evaluate

CERTAIN = [rounding for rounding in Rounding if rounding is not Rounding.STOCHASTIC]
NEAREST = [Rounding.NEAREST_EVEN, Rounding.NEAREST_UP]


def every_level(level):
    return np.arange(level.range[0], level.range[1] + 1)


def assert_encoder_equals_reference(format, level, rounding):
    values = every_level(level)
    found = evaluate(Encoder(format, level, rounding), {"level_0": values})["code_0"]
    np.testing.assert_array_equal(found, format.encode(np.ldexp(values.astype(float), level.exponent), rounding))


INTEGERS = [
    (Int(4), Int(8, exponent=-2)), (Int(4, signed=False), Int(8, exponent=-2)), (Int(4, narrow=True), Int(7)),
    (Int(3, signed=False, exponent=-1), Int(6, signed=False, exponent=-3)), (Int(6, exponent=-3), Int(4)),
    (Int(1), Int(4, exponent=-1)), (Int(2, exponent=5), Int(5)),
]  # fmt: skip


@pytest.mark.parametrize("rounding", CERTAIN, ids=repr)
@pytest.mark.parametrize(("format", "level"), INTEGERS, ids=repr)
def test_integers_are_rounded_and_clipped(format, level, rounding):
    assert_encoder_equals_reference(format, level, rounding)


COMPARED = [
    (E2M1, Int(7, exponent=-3)), (E2M3, Int(7, exponent=-3)), (E4M3, Int(8, exponent=-3)), (E8M0, Int(7, exponent=-3)),
    (Minifloat(2, 2, signed=False), Int(7, exponent=-3)), (Minifloat(3, 1, subnormal=False), Int(7, exponent=-2)),
    (float_type(4), Int(8, exponent=-1)), (power_of_two(4), Int(9, exponent=-1)),
    (power_of_two(3, False), Int(8, exponent=-1)), (BINARY, Int(4, exponent=-1)),
    (Table((0, 3, -5, 7), (2, 0, 1, -1)), Int(8, exponent=-2)),
]  # fmt: skip


@pytest.mark.parametrize("rounding", NEAREST, ids=repr)
@pytest.mark.parametrize(("format", "level"), COMPARED, ids=repr)
def test_comparators_give_the_nearest_code_of_every_level(format, level, rounding):
    assert_encoder_equals_reference(format, level, rounding)


@pytest.mark.parametrize("rounding", CERTAIN, ids=repr)
def test_comparators_take_every_rounding(rounding):
    assert_encoder_equals_reference(E2M1, Int(6, exponent=-2), rounding)


FLINT = [
    (flint(4), Int(9, exponent=-3)), (flint(4, False), Int(10, signed=False, exponent=-3)),
    (flint(3, False), Int(6, exponent=-1)), (flint(5), Int(8)), (flint(5), Int(6, exponent=2)),
    (flint(4, False), Int(4, signed=False)), (flint(6), Int(9, exponent=2)),
]  # fmt: skip


@pytest.mark.parametrize("rounding", CERTAIN, ids=repr)
@pytest.mark.parametrize(("format", "level"), FLINT, ids=["4s", "4u", "3u", "5s", "5s-coarse", "4u-short", "6s"])
def test_flints_leading_one_finds_the_code_of_every_level(format, level, rounding):
    assert_encoder_equals_reference(format, level, rounding)


class Compared(Unit):
    """Flint by comparators."""

    def __init__(self, format, level, rounding):
        self.values = format, level, rounding
        super().__init__(Encoder(format, level, rounding).signature.members, format, level, rounding)

    def elaborate(self, platform):
        m = Module()
        format, level, rounding = self.values
        m.d.comb += self.code_0.eq(compared(format, m, "found", self.level_0, level, rounding))
        return m


@pytest.mark.parametrize("format", [flint(4), flint(4, False), flint(5)], ids=["4s", "4u", "5s"])
def test_flint_by_its_leading_one_is_flint_by_comparators(format):
    level = Int(9, exponent=-1)
    circuits = (unit(format, level, Rounding.NEAREST_EVEN) for unit in (Encoder, Compared))
    by_leading_one, by_comparators = (evaluate(c, {"level_0": every_level(level)}) for c in circuits)
    assert by_leading_one == by_comparators


def test_first_levels_are_one_a_code_and_ascend():
    found = first_levels(E2M1, Int(8, exponent=-4), Rounding.NEAREST_EVEN)
    levels, codes = zip(*found)
    assert list(levels) == sorted(set(levels))
    assert len(set(codes)) == len(codes) == 16  # -0 is written for small negative levels


def test_formats_that_have_no_encoder_say_so():
    m = Module()
    m._MustUse__silence = True
    for format, rounding, words in [
        (Overwrite(Int(4, signed=False)), Rounding.NEAREST_UP, "register one"),
        (Table(tuple(range(512)), (0,) * 512), Rounding.NEAREST_UP, "at most 256 codes"),
        (E2M1, Rounding.STOCHASTIC, "random bits"),
        (BINARY, Rounding.TOWARD_ZERO, "no zero"),
    ]:
        with pytest.raises(ValueError, match=words):
            encode(format, m, "x", Const(0, 8), Int(8), rounding)
