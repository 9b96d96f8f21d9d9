"""The products of a network: shapes, how often each is called, and the schemes that layers have."""

import pytest

from bitwright.config import from_text
from bitwright.gemm import Gemm
from bitwright.model.products import products
from bitwright.model.zoo import TASKS


@pytest.fixture(scope="module")
def digits():
    return products(TASKS["digits"], from_text("kept_ends(ant(4, 4), integer(8, 8))"))


def test_a_network_of_convolutions_has_the_shapes_of_its_layers(digits):
    shapes = {layer.name: layer.gemm for layer, _ in digits.layers}
    assert shapes["stem.0"] == Gemm(64, 9, 16)
    assert shapes["blocks.1.0"] == Gemm(64, 9, 1, groups=16)
    assert shapes["head"] == Gemm(1, 32, 10)


def test_each_layer_has_the_scheme_of_its_rule_with_the_format_that_calibration_chose(digits):
    schemes = {layer.name: scheme for layer, scheme in digits.layers}
    bits = {name: scheme.weight.format.bits for name, scheme in schemes.items()}
    assert (bits["stem.0"], bits["blocks.0.body.0"], bits["head"]) == (8, 4, 8)


def test_what_has_no_product_is_named_together_by_reason(digits):
    assert digits.left_out == ("17 modules (Identity, ReLU, AdaptiveAvgPool2d): no matrix product",)


def test_both_products_of_attention_are_there_and_of_activations():
    found = products(TASKS["pydoc"], from_text("integer(8, 8)"))
    attention = [layer for layer, _ in found.layers if layer.is_of_activations]
    assert attention
    assert {layer.name.split()[-1] for layer in attention} == {"scores", "mixed"}
    scores, mixed = attention[0].gemm, attention[1].gemm
    assert (scores.n, scores.groups) == (mixed.k, mixed.groups)
