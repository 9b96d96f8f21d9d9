"""Which registers a network's layers fit, by their shapes alone."""

from dataclasses import replace

import pytest

from bitwright.config import from_text
from bitwright.cost.widths import require_fit
from bitwright.gemm import Gemm, LayerGemm
from bitwright.schemes import CATALOGUE

LAYER = LayerGemm("fc", Gemm(m=4, k=256, n=8))


def fit(scheme, *layers):
    require_fit([(layer, from_text(scheme)) for layer in layers or (LAYER,)])


@pytest.mark.parametrize(("k", "bits"), [(1, 16), (2, 17), (4, 18), (256, 24)])
def test_the_least_register_is_what_the_sentence_says(k, bits):
    layer = replace(LAYER, gemm=replace(LAYER.gemm, k=k))
    fit(f"integer(8, 8, accumulator_bits={bits})", layer)
    with pytest.raises(
        ValueError, match=rf"layer fc \(K = {k}\): a sum of {k} products? needs a {bits}-bit acc.* widen"
    ):
        fit(f"integer(8, 8, accumulator_bits={bits - 1})", layer)


@pytest.mark.parametrize("overflow", ["WRAP", "SATURATE"])
def test_a_register_that_may_overflow_is_nobodys_fault(overflow):
    fit(f"integer(8, 8, accumulator_bits=12, overflow=Overflow.{overflow})")


def test_weights_of_bounded_norm_fit_at_any_length_and_two_activations_do_not():
    long = LayerGemm("long", Gemm(4, 10**6, 8))
    fit("a2q(8, 8, 16)", long)
    with pytest.raises(ValueError, match=r"layer scores \(K = 64\): a sum of 64 products needs a 22-bit"):
        fit("a2q(8, 8, 16)", long, LayerGemm("scores", Gemm(4, 64, 4), is_of_activations=True))


def test_a_tile_or_block_is_the_sum_that_has_to_fit():
    fit("vs_quant_chip()", LayerGemm("long", Gemm(4, 10**6, 8)))
    with pytest.raises(ValueError, match=r"layer fc \(K = 256\): a sum of 128 products"):
        fit("a2q(8, 8, 16, tile=128)", replace(LAYER, is_of_activations=True))


def test_the_layer_that_needs_the_widest_is_named():
    wider = LayerGemm("wider", Gemm(4, 4096, 8))
    with pytest.raises(ValueError, match=r"layer wider .*28-bit"):
        fit("integer(8, 8, accumulator_bits=16)", LAYER, wider)


@pytest.mark.parametrize("scheme", [factory() for factory in CATALOGUE], ids=[f.__name__ for f in CATALOGUE])
def test_every_scheme_of_the_catalogue_fits_stored_weights(scheme):
    require_fit([(LAYER, scheme)])
