"""One graph serves every scheme of a network, and no other network."""

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.export import Tracing

pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxscript", reason="needs the extra onnx")

pytestmark = pytest.mark.filterwarnings("ignore")  # of the converter

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4, elementwise_affine=True), nn.Linear(4, 2)).eval()


def traced(calls, monkeypatch):
    from bitwright.export import trace as module

    once = module.trace
    monkeypatch.setattr(module, "trace", lambda *a, **k: calls.append(a) or once(*a, **k))
    return once


def test_schemes_share_a_graph_equal_to_their_own(monkeypatch):
    calls, trace = [], Tracing()
    once = traced(calls, monkeypatch)
    for text in ("integer(8, 8)", "nvfp4()", "overq(4, 8)"):
        frozen = bw.quantize(network(), text, [X])
        assert trace(frozen, (X,)) == once(frozen, (X,))
    assert len(calls) == 1


def test_other_weights_outside_of_quantized_layers_other_inputs_and_other_layers_are_another_graph(monkeypatch):
    calls, trace = [], Tracing()
    traced(calls, monkeypatch)
    shifted = network()
    shifted[1].weight.data += 1
    skipping = bw.Recipe((bw.Rule("2", None), bw.Rule("*", bw.schemes.integer(8, 8))))
    for model, text, x in (
        (network(), "integer(8, 8)", X), (shifted, "integer(8, 8)", X), (network(), "integer(8, 8)", X[:1]),
        (network(), skipping, X),
    ):  # fmt: skip
        trace(bw.quantize(model, text, [X]), (x,))
    assert len(calls) == 4
