"""Widths of an array's wires equal those of the circuits."""

import pytest

from bitwright.comparison import DEFAULT_SCHEMES
from bitwright.config import from_text
from bitwright.cost.wires import array_wires
from bitwright.gemm import Gemm, LayerGemm
from bitwright.scheme import Scheme
from bitwright.schemes import CATALOGUE

MORE = (
    "a2q(4, 4, 14)", "overq(4, 8, precision_overwrite=True)",
    "vs_quant(4, 4, scale_product=Int(6, signed=False, exponent=2))",
)  # fmt: skip
TEXTS = dict.fromkeys([*DEFAULT_SCHEMES, *(f"{make.__name__}()" for make in CATALOGUE), *MORE])


def layer(k: int) -> LayerGemm:
    return LayerGemm("layer", Gemm(8, k, 8))


@pytest.mark.parametrize("text", [text for text in TEXTS if isinstance(from_text(text), Scheme)])
def test_wires_are_as_wide_as_those_of_the_circuit(text):
    plans, terms = pytest.importorskip("bitwright.rtl.plan"), pytest.importorskip("bitwright.rtl.term")
    scheme = from_text(text)
    made = plans.plan(scheme, k=4096).elementwise()
    wires = array_wires([(layer(4096), scheme)])
    for found, operand in ((wires.input, made.x), (wires.weight, made.w)):
        widths = {part: shape.width for part, shape in terms.term_shapes(operand.bounds).items()}
        assert (found.significand, found.exponent, found.back) == (
            widths["significand"], widths.get("exponent", 0), widths.get("back", 0),
        )  # fmt: skip
    assert wires.accumulator == made.inner.bits
    if not wires.is_outer_float:
        assert wires.outer == (made.outer and made.outer.register.bits)


def test_an_array_for_two_layers_is_as_wide_as_the_wider_one():
    narrow, wide = from_text("integer(4, 4)"), from_text("integer(8, 8)")
    both, alone = array_wires([(layer(64), narrow), (layer(64), wide)]), array_wires([(layer(64), wide)])
    assert (both.accumulator, both.input.significand) == (alone.accumulator, alone.input.significand)
    assert both.weight.is_decoded > alone.weight.is_decoded
    assert array_wires([(layer(64), wide)]).accumulator < array_wires([(layer(640), wide)]).accumulator


def test_no_layer_is_told():
    with pytest.raises(ValueError, match="no layer"):
        array_wires([])
