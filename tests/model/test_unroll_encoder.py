"""Unrolled nn.TransformerEncoderLayer computes what torch's does, in float and under a scheme."""

import copy

import pytest
import torch
from torch import Tensor, nn

import bitwright
from bitwright.config import from_text
from bitwright.model.prepare import prepare
from bitwright.model.transform import UnrolledEncoderLayer, unroll, unroll_encoder

WIDTH, SAMPLES, LENGTH = 8, 3, 5
HIDDEN = torch.tensor([[False] * 5, [False] * 4 + [True], [False] * 2 + [True] * 3])

OPTIONS = {
    "samples first": {"batch_first": True},
    "time first": {},
    "norm first": {"batch_first": True, "norm_first": True},
    "gelu, no bias": {"batch_first": True, "activation": "gelu", "bias": False},
    "activation of its own": {"batch_first": True, "activation": nn.SiLU()},
}

every_option = pytest.mark.parametrize("options", OPTIONS)

CLOSE = {"rtol": 0, "atol": 1e-10}
"""Sums of under 50 products below 10 in float64, through a norm whose standard deviation is above 0.1."""


def layer_of(options: str = "samples first", make=nn.TransformerEncoderLayer, dtype=torch.float64) -> nn.Module:
    torch.manual_seed(0)
    return make(WIDTH, 2, 16, **OPTIONS[options], dtype=dtype).eval()


def random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def inputs(options: str) -> Tensor:
    shape = (SAMPLES, LENGTH) if "batch_first" in OPTIONS[options] else (LENGTH, SAMPLES)
    return random(*shape, WIDTH)


@pytest.mark.parametrize("takes_apart", [unroll_encoder, unroll])
@every_option
def test_an_unrolled_layer_is_torchs(options, takes_apart):
    layer, x = layer_of(options), inputs(options)
    unrolled = takes_apart(layer)
    assert isinstance(unrolled, UnrolledEncoderLayer)
    causal = nn.Transformer.generate_square_subsequent_mask(LENGTH, dtype=torch.float64)
    for given in ({}, {"src_mask": causal}, {"src_mask": causal, "is_causal": True}, {"src_mask": causal < 0}):
        torch.testing.assert_close(unrolled(x, **given), layer(x, **given), **CLOSE)
    torch.testing.assert_close(unrolled(inputs("samples first")[0]), layer(inputs("samples first")[0]), **CLOSE)


@every_option
def test_places_that_are_not_hidden_are_torchs(options):
    layer, x = layer_of(options), inputs(options)
    found, expected = (m(x, src_key_padding_mask=HIDDEN) for m in (unroll(layer), layer))
    seen = ~HIDDEN if layer.self_attn.batch_first else ~HIDDEN.T
    torch.testing.assert_close(found[seen], expected[seen], **CLOSE)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_an_encoder_of_several_layers_is_torchs_where_nothing_is_hidden():
    encoder = nn.TransformerEncoder(layer_of(), 2, nn.LayerNorm(WIDTH, dtype=torch.float64)).eval()
    encoder.requires_grad_(False)  # or torch does not pack the samples
    x = random(SAMPLES, LENGTH, WIDTH)
    found, expected = (m(x, src_key_padding_mask=HIDDEN) for m in (unroll(encoder), encoder))
    torch.testing.assert_close(found[~HIDDEN], expected[~HIDDEN], **CLOSE)
    assert encoder.use_nested_tensor


def test_a_layer_in_training_drops_and_learns_as_torchs():
    layer = layer_of().train()
    unrolled = unroll_encoder(layer)
    for module in (layer, unrolled):
        torch.manual_seed(1)
        module(inputs("samples first")).pow(3).sum().backward()
    gradients = {name: p.grad for name, p in layer.named_parameters()}
    assert gradients.keys() == dict(unrolled.named_parameters()).keys()
    for name, parameter in unrolled.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=0, atol=1e-9)


def test_the_callers_model_is_left_as_it_was():
    model = nn.TransformerEncoder(layer_of(), 2)
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        for parameter in unroll(model).parameters():
            parameter.zero_()
    assert type(model.layers[0]) is nn.TransformerEncoderLayer
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


class OwnFeedForward(nn.TransformerEncoderLayer):
    def _ff_block(self, x: Tensor) -> Tensor:
        return 2 * super()._ff_block(x)


def with_keys_of_its_own() -> nn.Module:
    layer = layer_of()
    layer.self_attn.add_zero_attn = True
    return layer


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: layer_of(make=OwnFeedForward), "OwnFeedForward changes the _ff_block of its class"),
        (with_keys_of_its_own, "of its attention: it adds keys and values of its own"),
    ],
)
def test_what_cannot_be_unrolled_is_left_alone_and_named_with_the_reason(make, reason):
    model = nn.ModuleDict({"odd": make(), "known": layer_of()})
    prepared = prepare(model, from_text("integer(8, 8)"))
    rows = {row.name: row for row in prepared.coverage}
    x = inputs("samples first")
    assert torch.equal(prepared["odd"](x), model["odd"](x))
    assert rows["odd"].status == "unsupported"
    assert reason in rows["odd"].reason
    assert rows["known.self_attn.query"].status == rows["known.linear2"].status == "quantized"


def test_a_transformer_is_quantized_as_a_whole():
    torch.manual_seed(0)
    model = nn.Transformer(WIDTH, 2, 2, 2, 16, batch_first=True).requires_grad_(False).eval()
    arguments = {"src": random(2, 6, WIDTH).float(), "tgt": random(2, 4, WIDTH).float()}
    frozen = bitwright.quantize(model, "integer(8, 8)", calibration=[arguments])
    kinds = [row.kind for row in frozen.coverage if row.status == "quantized"]
    assert not [row for row in frozen.coverage if row.status == "unsupported"]
    assert (kinds.count("Linear"), kinds.count("attention")) == (2 * (4 + 2) + 2 * (4 + 4 + 2), 2 + 4)
    expected = model(**arguments)
    assert (frozen(**arguments) - expected).square().mean() < 1e-2 * expected.square().mean()  # 20 dB, four layers
