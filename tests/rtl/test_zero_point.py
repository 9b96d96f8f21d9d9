"""Inputs with a zero point: whole codes are multiplied, and sums start from minus the zero point times Σ weights."""

import numpy as np
import pytest

pytest.importorskip("amaranth", reason="circuits need amaranth: pip install 'bitwright[rtl]'")

from bitwright.datapath import WIDE, Accumulator, Cyclic, Datapath, Overflow
from bitwright.formats import FLOAT32, Int
from bitwright.quantization import PerBlock, PerRow, Quantizer, Scale, Zero
from bitwright.rtl.operand import Sign
from bitwright.rtl.plan import plan, zero_correction
from bitwright.scheme import Scheme
from bitwright.schemes import ant_type, combined, integer
from bitwright.testing.rtl import assert_dot_unit_equals_golden, assert_vector_unit_equals_golden, case
from bitwright.testing.rtl_arrays import assert_array_equals_golden


def asymmetric(weight_bits=4, input_bits=4, datapath=None, **given):
    scheme = integer(weight_bits, input_bits, zero=Zero.FITTED, **given)
    return scheme if datapath is None else combined(scheme, scheme, datapath)


BLOCKS = Scheme(
    Quantizer(Int(4, signed=False), (Scale(PerBlock(8)),), zero=Zero.FITTED), integer(4).weight,
    Datapath(scale_product=FLOAT32),
)  # fmt: skip
SCHEMES = {
    "tensor": asymmetric(), "rows": asymmetric(3, 5, input_share=PerRow(), input_range=None), "blocks": BLOCKS,
    "wraps": asymmetric(accumulator_bits=9, overflow=Overflow.WRAP), "eight": asymmetric(8, 8),
    "tiles": asymmetric(datapath=Datapath(WIDE, Accumulator(Int(10), Overflow.SATURATE), tile=4)),
    "types": combined(asymmetric(), ant_type("flint", 4, 4)),
}  # fmt: skip


@pytest.fixture(scope="module", params=SCHEMES.values(), ids=SCHEMES)
def operands(request):
    found = case(request.param, k=16, columns=4, examples=False)
    assert found.plan.has_zero_point
    assert found.x.zero_points.max() > 0
    return found


def test_dot_unit_gives_the_golden_inner_sum(operands):
    assert_dot_unit_equals_golden(operands)


def test_vector_unit_gives_the_golden_total(operands):
    assert_vector_unit_equals_golden(operands)


def test_array_gives_the_golden_product_when_sums_start_from_the_correction(operands):
    assert_array_equals_golden(operands, 4, 2)


@pytest.mark.parametrize("zero_point", [0, 6, 15])
def test_a_register_holds_every_sum_whatever_the_zero_point_is(zero_point):
    made = plan(asymmetric(4, 4), k=9)
    half = 1 << (made.inner.bits - 1)
    for x in (0, 15):
        for w in (-7, 7):
            assert -half <= 9 * (x - zero_point) * w < half
    # the correction alone may not fit, but the sum that it leads to is right modulo the width
    start = zero_correction(made, np.asarray([zero_point]), np.full((1, 9), 7))[0, 0]
    assert (start + 9 * 15 * 7 - 9 * (15 - zero_point) * 7) % (2 * half) == 0


def test_the_register_has_room_for_both_ends_of_the_zero_point():
    assert plan(integer(1, 1), k=8, sign=Sign.UNSIGNED).inner.bits == 4  # -8 to 0
    assert plan(asymmetric(1, 1), k=8).inner.bits == 5  # -8 to 8


def test_the_file_says_what_sums_start_from():
    made = plan(asymmetric())
    assert made.outside.startswith(
        f"start each sum from, or add to it modulo 2**{made.inner.bits}, minus the inputs' zero"
    )
    assert plan(BLOCKS).outside.startswith(
        "start each tile's sum from minus the inputs' zero point times the sum of its"
    )


def test_registers_that_must_see_the_difference_are_refused():
    with pytest.raises(ValueError, match=r"meet an inner register of Overflow.SATURATE; .* or Zero.FIXED"):
        plan(asymmetric(accumulator_bits=12, overflow=Overflow.SATURATE))
    with pytest.raises(ValueError, match=r"meet an inner register of Cyclic\(slope=1\)"):
        plan(asymmetric(datapath=Datapath(Accumulator(Int(8), Overflow.WRAP, readout=Cyclic()))))
    weights = Scheme(integer(4).input, Quantizer(Int(4, signed=False), (Scale(PerRow()),), zero=Zero.FITTED))
    with pytest.raises(ValueError, match="weights with a zero point found"):
        plan(weights)
