"""Every format of the core keeps the laws."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright.formats import (
    BFLOAT16,
    E2M1,
    E2M3,
    E3M2,
    E4M3,
    E5M2,
    E8M0,
    FLOAT16,
    FLOAT32,
    MXINT8_ELEMENT,
    Int,
    Minifloat,
    Specials,
    Table,
)  # fmt: skip
from bitwright.schemes.a2q import L1Bounded
from bitwright.schemes.ant import flint, float_type, power_of_two
from bitwright.schemes.overq import Overwrite, Pick
from bitwright.schemes.term_revealing import Recoding, TermBudget
from bitwright.testing import FormatContract, formats, levels, roundings

FORMATS = [
    Int(1), Int(1, signed=False), Int(2), Int(2, narrow=True), Int(4), Int(4, signed=False), Int(8, narrow=True),
    Int(8, exponent=3),
    Int(8, signed=False, exponent=-5), Int(13), Int(24, signed=False), Int(32), Int(53),
    E2M1, E2M3, E3M2, E4M3, E5M2, E8M0, FLOAT16, BFLOAT16, FLOAT32, MXINT8_ELEMENT,
    Minifloat(1, 2), Minifloat(3, 0), Minifloat(2, 0, signed=False), Minifloat(4, 0, specials=Specials.NAN),
    Minifloat(3, 4, signed=False, specials=Specials.IEEE), Minifloat(2, 3, bias=-3), Minifloat(4, 3, subnormal=False,
    signed=False),
    Minifloat(5, 10, bias=20, specials=Specials.NAN), Minifloat(4, 1, bias=8, specials=Specials.IEEE),
    *[flint(b, signed) for b in (3, 4, 5, 8) for signed in (True, False)], flint(2, signed=False),
    *[power_of_two(b, signed) for b in (2, 4, 5) for signed in (True, False)],
    *[float_type(b, signed) for b in (3, 4, 6) for signed in (True, False)],
    Table((-1, 1), (0, 0)), Table((0, 1, -3, 9), (0, 2, 0, 1)), Table((1, 9, 0, 0), (0, 0, 0, 0)),
    Overwrite(Int(4, signed=False)), Overwrite(Int(4, signed=False), cascade=4, tile=16, pick=Pick.LARGEST),
    Overwrite(Int(4, signed=False), cascade=3, precision_overwrite=True), Overwrite(Int(3, narrow=True), cascade=2),
    Overwrite(Int(5, narrow=True), precision_overwrite=True), Overwrite(flint(4, signed=False), cascade=2),
    Overwrite(Int(4, signed=False), range_overwrite=False, precision_overwrite=True), Overwrite(flint(4), cascade=8),
    *[TermBudget(128, group=8, budget=12, recoding=r) for r in Recoding if r is not Recoding.BOOTH],
    L1Bounded(Int(4, narrow=True), 40.5), L1Bounded(Int(8, narrow=True), 300.0, each_sign=True, tile=8),
    TermBudget(255, signed=False, budget=3), TermBudget(15), TermBudget(127, group=4, budget=3),
]  # fmt: skip


class TestCore(FormatContract):
    @pytest.fixture(params=FORMATS, ids=repr)
    def format(self, request):
        return request.param


# beartype picks the elements of a tuple that it checks at random
@given(formats(), st.lists(levels(), min_size=1, max_size=20), roundings())
@settings(max_examples=200, deadline=None)
def test_encoding_any_level_gives_a_fixed_point_of_encoding(format, values, rounding):
    once = format.decode(format.encode(np.asarray(values), rounding))
    np.testing.assert_array_equal(format.decode(format.encode(once, rounding)), once)
