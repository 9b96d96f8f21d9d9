"""Stored sizes of a network's weights under one or more schemes of every family."""

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.model.certify import certify_model
from bitwright.model.measure import layer_results
from bitwright.model.prepare import calibrate, freeze, prepare

SCHEMES = (
    "integer(8, 8)", "integer(2, 2)", "vs_quant(4, 4, 4, 4)", "vs_quant_chip()", "ant(4, 4)", "minifloat(4, 3)",
    "mxint8()", "mxfp4()", "nvfp4(four_over_six=True)", "overq(4, 4)", "term_revealing()",
    "combined(overq(4), term_revealing())", "a2q(4, 8, 14)", "a2q(4, 8, 14, tile=8)",
)  # fmt: skip


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=3), nn.Flatten(), nn.Linear(24, 5))
    return nn.Sequential(*layers), bw.Batch((torch.randn(4, 3, 6, 6),), torch.zeros(4))


@pytest.fixture(scope="module", params=SCHEMES)
def prepared(request, network):
    model, batch = network
    return calibrate(prepare(model, bw.from_text(request.param), batch.inputs), [batch])


def test_packed_codes_and_scales_are_the_bits_that_a_weight_takes(prepared):
    for layer in layer_results(prepared, None):
        sizes = layer.weight_sizes
        assert sizes.elements == prepared.get_submodule(layer.name).weight.numel()
        assert (sizes.packed_bits + sizes.scale_bits) / sizes.elements == pytest.approx(layer.weight_bits, rel=1e-12)
        assert sizes.entropy_bits <= sizes.packed_bits


def test_zeros_are_those_of_the_weights_that_the_network_computes_with(prepared):
    for layer in layer_results(prepared, None):
        weight = prepared.get_submodule(layer.name).fake_weight()
        assert layer.weight_sizes.zeros == int((weight == 0).sum())


def test_frozen_and_simulated_layers_have_the_same_sizes(prepared):
    simulated, frozen = layer_results(prepared, None), layer_results(prepared, freeze(prepared))
    assert [layer.weight_sizes for layer in simulated] == [layer.weight_sizes for layer in frozen]


def test_certificates_state_the_same_zeros_and_entropy(prepared):
    stated = certify_model(freeze(prepared))
    for layer, certificate in zip(layer_results(prepared, None), stated, strict=True):
        assert certificate.weight_zeros == layer.weight_sizes.sparsity
        assert certificate.weight_entropy == pytest.approx(layer.weight_sizes.entropy, abs=1e-6)  # six decimals
