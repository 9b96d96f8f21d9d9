"""Small arrays compute whole matrix products: skew, loading of weights, folds along K and over outputs, cycles."""

import pytest

pytest.importorskip("amaranth", reason="circuits need amaranth: pip install 'bitwright[rtl]'")

from bitwright.datapath import WIDE, Accumulator, Datapath, Overflow
from bitwright.formats import Int
from bitwright.rtl.operand import Sign
from bitwright.rtl.plan import plan
from bitwright.rtl.systolic import WeightStationary
from bitwright.schemes import (
    a2q,
    ant_type,
    combined,
    integer,
    nvfp4,
    overq,
    overq_on,
    term_revealing,
    vs_quant,
    wrapnet,
)  # fmt: skip
from bitwright.testing.rtl import case
from bitwright.testing.rtl_arrays import assert_array_equals_golden

SCHEMES = [
    integer(4, 4), integer(4, 4, accumulator_bits=9, overflow=Overflow.WRAP), ant_type("flint"), nvfp4(),
    vs_quant(4, 4, vector=8, scale_product=Int(4, signed=False, exponent=4)), overq(4, 4, tile=4),
    overq(3, 4, tile=4, precision_overwrite=True, signed=True), overq_on(vs_quant(4, 4, vector=4)),
    term_revealing(5, 5, group=4, budget=6), a2q(4, 4, 10, tile=8), wrapnet(),
    combined(integer(4, 4), integer(4, 4), Datapath(WIDE, Accumulator(Int(9), Overflow.SATURATE), tile=4)),
]  # fmt: skip


def has_neighbours(scheme):
    return plan(scheme, k=64, sign=Sign.UNSIGNED).x.bounds.reach > 0


@pytest.mark.parametrize(("rows", "columns"), [(4, 3), (2, 2)])
@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: s.source.split(",")[0])
def test_array_computes_the_golden_product_in_the_stated_cycles(scheme, rows, columns):
    products = plan(scheme, k=64).products or 4
    operands = case(scheme, k=2 * products, columns=6, signed_input=not has_neighbours(scheme), examples=False)
    if operands.plan.x.bounds.reach and rows < 4:
        pytest.skip("digits of neighbours need a whole tile of rows")
    assert_array_equals_golden(operands, rows, columns)


def test_one_multiplier_is_an_array():
    assert_array_equals_golden(case(integer(4, 4), k=3, columns=4), 1, 1)


def test_rows_that_do_not_divide_a_block_are_refused():
    with pytest.raises(ValueError, match="tiles of 16 products do not split over 5 rows; choose a divisor of 16"):
        WeightStationary(plan(nvfp4()), 5, 2)


def test_rows_that_cut_a_tile_of_neighbours_are_refused():
    with pytest.raises(ValueError, match=r"within 128 lanes, 16 rows found; .* or a scheme whose tile is 16"):
        WeightStationary(plan(overq(4)), 16, 2)


def test_an_array_without_rows_is_refused():
    with pytest.raises(ValueError, match="0 rows and 2 columns found; each is at least 1"):
        WeightStationary(plan(integer()), 0, 2)
