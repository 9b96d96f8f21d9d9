"""The law of circuits as a pytest class: subclass it and give it a fixture. Needs amaranth.

class TestMyScheme(RtlContract):
    @pytest.fixture(params=[my_scheme(4)], ids=repr)
    def scheme(self, request):
        return request.param
"""

from math import lcm

import pytest

from bitwright.rtl.operand import Sign
from bitwright.rtl.plan import plan
from bitwright.scheme import Scheme
from bitwright.testing.rtl import Case, assert_dot_unit_equals_golden, assert_vector_unit_equals_golden, case
from bitwright.testing.rtl_arrays import assert_array_equals_golden


class RtlContract:
    """Circuits equal the golden model bit for bit: random operands, extreme ones, the source's examples.

    Override the fixture `scheme`. Blocks, and the tiles that formats look at, should be of 16 elements or fewer: a
    simulated clock of a wide circuit takes long. Dot units see inputs of either sign, the others none below zero.
    """

    @pytest.fixture
    def scheme(self) -> Scheme:
        raise NotImplementedError(f"{type(self).__name__}: override the fixture `scheme`")

    def test_dot_unit_gives_the_golden_inner_sum(self, scheme: Scheme) -> None:
        assert_dot_unit_equals_golden(_case(scheme, Sign.SIGNED))

    def test_vector_unit_gives_the_golden_total(self, scheme: Scheme) -> None:
        assert_vector_unit_equals_golden(_case(scheme, Sign.UNSIGNED))

    def test_array_computes_the_golden_product_in_the_stated_cycles(self, scheme: Scheme) -> None:
        made = plan(scheme, k=64)
        rows = _lanes(scheme) if made.x.bounds.reach else made.x.run if made.x.run > 1 else 4
        assert_array_equals_golden(_case(scheme, Sign.UNSIGNED, columns=4, examples=False), rows, 2)


def _lanes(scheme: Scheme) -> int:
    made = plan(scheme, k=64)
    return made.products or lcm(8, made.x.run, made.w.run)


def _case(scheme: Scheme, sign: Sign, *, columns: int = 5, examples: bool = True) -> Case:
    """Two tiles, or sums of eight products or more where there are none."""
    k = _lanes(scheme) * (2 if plan(scheme, k=64).products else 1)
    return case(scheme, k=k, signed_input=sign is Sign.SIGNED, columns=columns, examples=examples)
