"""GPT-2's Conv1D, a linear layer whose weight is stored transposed, is one of torch's and quantized as such."""

import copy

import pytest
import torch
from torch import nn

from bitwright.config import from_text
from bitwright.model.prepare import prepare, quantize
from bitwright.model.transform import untranspose_linear

transformers = pytest.importorskip("transformers")
Conv1D = pytest.importorskip("transformers.pytorch_utils").Conv1D


class Doubled(Conv1D):
    def forward(self, x):
        return 2 * super().forward(x)


class Renamed(Conv1D):
    """Keeps the forward of its class."""


def layer_of(make=Conv1D) -> nn.Module:
    torch.manual_seed(0)
    layer = make(5, 3).double()
    nn.init.normal_(layer.bias)
    return layer


def gpt2() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=50, n_positions=32, n_embd=32, n_layer=2, n_head=4, attn_implementation="sdpa"
    )
    return transformers.GPT2LMHeadModel(config).requires_grad_(False).eval()


def tokens(seed: int) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.randint(50, (2, 12), generator=torch.Generator().manual_seed(seed))}


@pytest.mark.parametrize("make", [Conv1D, Renamed])
def test_an_untransposed_layer_computes_and_learns_the_same(make):
    layer, x = layer_of(make), torch.randn(2, 4, 3, dtype=torch.float64)
    linear = untranspose_linear(layer)
    assert type(linear) is nn.Linear
    for module in (layer, linear):
        module(x).square().sum().backward()
    close = {"rtol": 0, "atol": 1e-13}  # sums of 3 products, and of 8 gradients, below 10
    torch.testing.assert_close(linear(x), layer(x), **close)
    torch.testing.assert_close(linear.weight.grad, layer.weight.grad.T, **close)
    torch.testing.assert_close(linear.bias.grad, layer.bias.grad, **close)


def test_a_shared_layer_stays_shared_and_the_callers_model_is_left_as_it_was():
    layer = layer_of()
    model = nn.ModuleDict({"a": layer, "b": nn.Sequential(layer)}).requires_grad_(False).eval()
    before = copy.deepcopy(model.state_dict())
    linear = untranspose_linear(model)
    assert linear["a"] is linear["b"][0]
    assert not linear["a"].training
    assert not any(p.requires_grad for p in linear.parameters())
    for parameter in linear.parameters():
        parameter.zero_()
    assert model["a"] is layer
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_a_subclass_with_another_forward_is_left_alone_and_named():
    prepared = prepare(nn.ModuleDict({"odd": Doubled(5, 3), "known": Conv1D(5, 3)}), from_text("integer(8, 8)"))
    rows = {row.name: row for row in prepared.coverage}
    assert isinstance(prepared["odd"], Doubled)
    assert (rows["odd"].status, rows["odd"].reason) == ("unsupported", "Doubled is not a layer that bitwright knows")
    assert (rows["known"].kind, rows["known"].status) == ("Linear", "quantized")


def test_gpt2_is_quantized_as_a_whole_and_stays_near_the_float_model():
    model = gpt2()
    frozen = quantize(model, "integer(8, 8)", calibration=[tokens(1), tokens(2)])
    kinds = [row.kind for row in frozen.coverage if row.status == "quantized"]
    assert not [row for row in frozen.coverage if row.status == "unsupported"]
    assert (kinds.count("Linear"), kinds.count("attention")) == (2 * 4 + 1, 2)
    error = (frozen(**tokens(2)).logits - model(**tokens(2)).logits).square().mean()
    assert error < 1e-2 * model(**tokens(2)).logits.square().mean()  # 20 dB, two blocks
