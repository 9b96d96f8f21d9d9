"""Every decoder gives the terms of the reference, on all codes that stand for a number."""

import itertools

import numpy as np
import pytest

pytest.importorskip("amaranth", reason="circuits need amaranth: pip install 'bitwright[rtl]'")

from amaranth.hdl import Module

from bitwright.formats import (
    E2M1,
    E2M3,
    E3M2,
    E4M3,
    E5M2,
    E8M0,
    MXINT8_ELEMENT,
    Bounds,
    Format,
    Int,
    Minifloat,
    Rounding,
    Table,
    Terms,
)  # fmt: skip
from bitwright.rtl.decode import decode
from bitwright.schemes.a2q import L1Bounded
from bitwright.schemes.ant import flint, float_type, power_of_two
from bitwright.schemes.overq import Overwrite
from bitwright.schemes.term_revealing import Recoding, TermBudget
from bitwright.schemes.wrapnet import BINARY
from bitwright.testing.rtl import assert_decoder_equals_terms

SCALAR = [
    Int(1), Int(1, signed=False), Int(4), Int(4, narrow=True), Int(8), Int(5, signed=False), Int(6, exponent=-3),
    MXINT8_ELEMENT, E2M1, E2M3, E3M2, E4M3, E5M2, E8M0, Minifloat(2, 2, signed=False), Minifloat(3, 0),
    Minifloat(1, 3), Minifloat(3, 1, subnormal=False), BINARY, Table((0, 3, -5, 7), (2, 0, 1, -1)),
    *(family(bits, signed) for family in (flint, power_of_two) for bits in (3, 4, 5) for signed in (True, False)),
    flint(2, False), flint(8), float_type(4), float_type(4, False), L1Bounded(Int(4, narrow=True), 9.5),
    *(TermBudget(largest, signed, 1, budget, recoding)
      for recoding in Recoding for largest, signed, budget in ((15, False, None), (16, True, 2), (23, True, 1))),
    TermBudget(128, True, 1, None), TermBudget(255, False, 1, 3),
]  # fmt: skip


@pytest.mark.parametrize("format", SCALAR, ids=repr)
def test_scalar_decoder_gives_the_terms_of_all_codes(format):
    codes = np.arange(2**format.bits)
    assert_decoder_equals_terms(format, codes[~format.is_reserved(codes)][:, None])


OVERWRITTEN = [
    Overwrite(lane, cascade=2, range_overwrite=in_range, precision_overwrite=precise)
    for lane in (Int(2, signed=False), Int(2, narrow=True))
    for in_range, precise in ((True, False), (True, True), (False, True))
] + [Overwrite(flint(3, False)), Overwrite(E2M1, cascade=3), Overwrite(Int(1, signed=False), cascade=2, tile=2)]


@pytest.mark.parametrize("format", OVERWRITTEN, ids=repr)
def test_overwritten_lanes_give_digits_of_the_lane_before(format):
    lanes = 4 if format.bits < 3 else 3 if format.bits < 5 else 2
    codes = np.asarray(list(itertools.product(range(2**format.bits), repeat=lanes)))
    codes = codes[~format.is_reserved(codes).any(1)]
    assert_decoder_equals_terms(format, codes[:: max(1, len(codes) // 4096)])


@pytest.mark.parametrize(
    "format",
    [TermBudget(3, True, 3, 2), TermBudget(2, True, 4, 3), TermBudget(7, False, 2, 2, Recoding.BOOTH),
     TermBudget(4, True, 2, 3, Recoding.BINARY)],
    ids=repr,
)  # fmt: skip
def test_a_group_keeps_its_largest_terms_first_lanes_first(format):
    codes = np.asarray(list(itertools.product(range(2**format.bits), repeat=format.group)))
    assert_decoder_equals_terms(format, codes[~format.is_reserved(codes).any(1)])


def test_two_groups_have_a_budget_each():
    format = TermBudget(31, True, 4, 5)
    generator = np.random.default_rng(0)
    codes = format.encode(generator.normal(0, 12, (40, 8)))
    assert_decoder_equals_terms(format, codes)


class Pairs(Format):
    """Two digits a code, of which no decoder knows: 3 bits of significand, one bit worth 2**5."""

    bits = 4
    full_scale = 39.0

    def encode(self, x, rounding=Rounding.NEAREST_EVEN, generator=None):
        raise NotImplementedError

    def terms(self, codes):
        significand = np.stack([codes & 7, codes >> 3], -1).reshape(*codes.shape[:-1], -1)
        exponent = np.broadcast_to([0, 5], (*codes.shape, 2)).reshape(significand.shape)
        return Terms(significand, exponent, np.broadcast_to(np.arange(codes.shape[-1]).repeat(2), significand.shape))

    def bounds(self):
        return Bounds(7, range(6), 0.0, 39.0, per_lane=2)


def test_a_scalar_format_of_your_own_is_read_from_a_memory():
    assert_decoder_equals_terms(Pairs(), np.arange(16).reshape(8, 2))


def test_a_format_without_a_decoder_says_how_to_give_it_one():
    module = Module()
    module._MustUse__silence = True
    with pytest.raises(ValueError, match="register one"):
        decode.dispatch(object)(Int(20), module, [])
