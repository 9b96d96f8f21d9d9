"""Circuits of every scheme equal the golden model bit for bit."""

import pytest

pytest.importorskip("amaranth", reason="circuits need amaranth: pip install 'bitwright[rtl]'")

from bitwright.datapath import WIDE, Accumulator, Datapath, Overflow
from bitwright.formats import E2M3, E3M2, E5M2, FLOAT32, Int, Minifloat, Rounding
from bitwright.quantization import PerBlock, PerRow, PerTensor, Quantizer, Scale, ScaleValue
from bitwright.scheme import Scheme
from bitwright.schemes import (
    CATALOGUE,
    a2q,
    ant,
    ant_type,
    combined,
    integer,
    minifloat,
    mxfp4,
    mxfp6,
    mxfp8,
    mxint8,
    nvfp4,
    overq,
    overq_on,
    term_revealing,
    vs_quant,
    vs_quant_chip,
    wrapnet,
)  # fmt: skip
from bitwright.schemes.term_revealing import Recoding
from bitwright.testing.rtl import assert_dot_unit_equals_golden, assert_vector_unit_equals_golden, case
from bitwright.testing.rtl_contract import RtlContract

SCHEMES = {
    "integer": [integer(4, 4), integer(8, 8), integer(2, 5), integer(1, 1)],
    "vs_quant": [vs_quant(4, 4), vs_quant(4, 4, vector=8, scale_product=Int(4, signed=False, exponent=4)),
                 vs_quant(3, 6, None, None, vector=8)],
    "vs_quant_chip": [vs_quant_chip()],
    "ant": [ant(4, 4), ant(3, 3, ("pot", "float"))],
    "ant_type": [ant_type("flint"), ant_type("pot", 4, 3)],
    "minifloat": [minifloat(), minifloat(5, 2), minifloat(3, 0)],
    "mxfp4": [mxfp4(block=8)], "mxfp6": [mxfp6(E2M3, block=8), mxfp6(E3M2, block=8)],
    "mxfp8": [mxfp8(block=8), mxfp8(E5M2, block=8)], "mxint8": [mxint8(block=8)], "nvfp4": [nvfp4()],
    "overq": [overq(4, 4, tile=8), overq(3, 4, tile=8, precision_overwrite=True, cascade=2), overq(4, 4, tile=8,
              range_overwrite=False, precision_overwrite=True), overq(3, 3, tile=8, signed=True)],
    "overq_on": [overq_on(vs_quant(4, 4, vector=8)), overq_on(ant_type("flint", 4, 4), cascade=1, tile=8)],
    "term_revealing": [term_revealing(5, 4, group=2, budget=3, data_terms=2),
                       term_revealing(5, 5, recoding=Recoding.BOOTH, budget=None)],
    "a2q": [a2q(4, 4, 9), a2q(4, 4, 10, tile=8), a2q(4, 4, 10, each_sign=False)],
    "combined": [combined(overq(4, tile=8), ant(4, 4)), combined(mxfp4(block=8), term_revealing(5, group=4, budget=6))],
    "wrapnet": [wrapnet(), wrapnet(1, 4, 6, slope=3)],
}  # fmt: skip
CASES = [pytest.param(scheme, id=f"{name}-{i}") for name, found in SCHEMES.items() for i, scheme in enumerate(found)]


def test_every_scheme_of_the_catalogue_is_here():
    assert {factory.__name__ for factory in CATALOGUE} <= set(SCHEMES)


class TestCircuits(RtlContract):
    @pytest.fixture(params=CASES)
    def scheme(self, request):
        return request.param


@pytest.mark.parametrize("bits", [7, 12])
@pytest.mark.parametrize("overflow", [Overflow.WRAP, Overflow.SATURATE])
def test_inner_register_wraps_or_saturates_after_every_product(bits, overflow):
    scheme = integer(4, 4, accumulator_bits=bits, overflow=overflow)
    for signed_input in (True, False):
        assert_dot_unit_equals_golden(case(scheme, k=12, signed_input=signed_input))


BIT, POWERS = Int(1, signed=False), Minifloat(2, 0, signed=False)


@pytest.mark.parametrize("outer", [WIDE, Accumulator(FLOAT32)], ids=["integer", "float"])
@pytest.mark.parametrize(
    ("stored", "product"),
    [(BIT, None), (POWERS, None), (Int(4, signed=False), Int(4, signed=False, exponent=8)),
     (Int(4, signed=False), Int(1, signed=False, exponent=5)), (Int(4, signed=False), POWERS)],
    ids=str,
)  # fmt: skip
def test_scales_whose_largest_significand_is_one_may_still_be_zero(stored, product, outer):
    if outer is WIDE and POWERS in (stored if product is None else product,):
        pytest.skip("an integer register takes integer scales")
    operands = (
        Quantizer(Int(4), (Scale(share), Scale(PerBlock(2), stored)), divide_by=ScaleValue.IDEAL)
        for share in (PerTensor(), PerRow())
    )
    scheme = Scheme(*operands, Datapath(outer=outer, scale_product=product))
    assert_vector_unit_equals_golden(case(scheme, k=4, signed_input=False))


@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("overflow", [Overflow.WRAP, Overflow.SATURATE])
def test_outer_register_wraps_or_saturates_after_every_tile(bits, overflow):
    base = integer(4, 4)
    scheme = combined(base, base, Datapath(WIDE, Accumulator(Int(bits), overflow), tile=4))
    assert_vector_unit_equals_golden(case(scheme, k=24, signed_input=False))


@pytest.mark.parametrize("rounding", [r for r in Rounding if r is not Rounding.STOCHASTIC])
def test_scale_products_round_as_the_golden_model(rounding):
    base = vs_quant(3, 3, 4, 4, vector=4)
    datapath = Datapath(
        outer=WIDE, scale_product=Int(5, signed=False, exponent=2), scale_rounding=rounding
    )  # fmt: skip
    assert_vector_unit_equals_golden(case(combined(base, base, datapath), k=64))


def test_forbidden_overflow_names_the_width_that_would_do():
    with pytest.raises(ValueError, match="a sum of 100 products needs a 15-bit accumulator, 12 bits found"):
        case(integer(4, 4, accumulator_bits=12), k=100)


def test_float_registers_are_refused():
    base = integer(4, 4)
    scheme = combined(base, base, Datapath(inner=Accumulator(FLOAT32)))
    with pytest.raises(ValueError, match="no circuit for an inner register of"):
        case(scheme, k=16)
