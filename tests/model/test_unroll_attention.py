"""Unrolled nn.MultiheadAttention computes what torch's does, however it is called, in float and under a scheme."""

import copy
import math
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import bitwright
from bitwright.config import from_text
from bitwright.model.attention import Attention
from bitwright.model.layers import FakeQuantizedLayer, QuantizedLayer
from bitwright.model.prepare import calibrate, freeze, prepare
from bitwright.model.task import Batch
from bitwright.model.transform import UnrolledAttention, correct_bias, unroll_attention

WIDTH, SAMPLES, QUERIES, KEYS = 8, 3, 4, 5

DOUBLE = {"rtol": 0, "atol": 1e-11}
"""With u = 2**-53: inputs are below 5 and weights within 1/8, so projections are below 6, with an error of 20·6·u. A
score of 8 products differs by less than 8·36·40·u < 2e-12, what it mixes of values below 6 by 2·6·1e-12 / √8."""

OPTIONS = {
    "samples first": {"num_heads": 2, "batch_first": True},
    "time first": {"num_heads": 2},
    "one head": {"num_heads": 1, "batch_first": True},
    "no bias": {"num_heads": 4, "bias": False, "batch_first": True},
    "other keys": {"num_heads": 2, "kdim": 5, "vdim": 7, "batch_first": True},
    "other values": {"num_heads": 2, "vdim": 7},
}

every_option = pytest.mark.parametrize("options", OPTIONS)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def module_of(options: str = "samples first", **more) -> nn.MultiheadAttention:
    module = nn.MultiheadAttention(WIDTH, **OPTIONS[options], **more, dtype=torch.float64).eval()
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter.uniform_(-1 / 8, 1 / 8, generator=generator(i))
    return module


def inputs(module: nn.MultiheadAttention, samples: int | None = SAMPLES) -> tuple[Tensor, Tensor, Tensor]:
    def made(length: int, width: int) -> Tensor:
        shape = (length,) if samples is None else (samples, length) if module.batch_first else (length, samples)
        return torch.randn(*shape, width, dtype=torch.float64, generator=generator(length * width)).clamp(-5, 5)

    return made(QUERIES, WIDTH), made(KEYS, module.kdim), made(KEYS, module.vdim)


def hiding(*shape: int) -> Tensor:
    """Some keys, never the first."""
    mask = torch.rand(shape, generator=generator()) < 0.4
    mask[..., 0] = False
    return mask


def added(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=generator())


HEADS = 2
MASKS = {
    "none": lambda mask: {},
    "of queries and keys": lambda mask: {"attn_mask": mask(QUERIES, KEYS)},
    "of each head": lambda mask: {"attn_mask": mask(SAMPLES * HEADS, QUERIES, KEYS)},
    "of padding": lambda mask: {"key_padding_mask": mask(SAMPLES, KEYS)},
    "of both": lambda mask: {"attn_mask": mask(QUERIES, KEYS), "key_padding_mask": mask(SAMPLES, KEYS)},
    "of both, each head": lambda mask: {
        "attn_mask": mask(SAMPLES * HEADS, QUERIES, KEYS),
        "key_padding_mask": mask(SAMPLES, KEYS),
    },
}


@every_option
@pytest.mark.parametrize("samples", [SAMPLES, 1, None])
def test_unrolled_attention_is_torchs(options, samples):
    module = module_of(options)
    unrolled = unroll_attention(module)
    assert isinstance(unrolled, UnrolledAttention)
    for wanted in ({"need_weights": False}, {}, {"average_attn_weights": False}):
        arguments = inputs(module, samples)
        torch.testing.assert_close(unrolled(*arguments, **wanted), module(*arguments, **wanted), **DOUBLE)


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("mask", [hiding, added])
@pytest.mark.parametrize("options", ["samples first", "time first", "other keys"])
def test_masks_are_torchs(options, mask, masks):
    module = module_of(options)
    given, arguments = MASKS[masks](mask), inputs(module)
    for need_weights in (True, False):
        found = unroll_attention(module)(*arguments, need_weights=need_weights, **given)
        torch.testing.assert_close(found, module(*arguments, need_weights=need_weights, **given), **DOUBLE)


def test_masks_of_one_sample_are_torchs():
    module = module_of()
    arguments = inputs(module, None)
    for given in ({"key_padding_mask": hiding(KEYS)}, {"attn_mask": hiding(HEADS, QUERIES, KEYS)}):
        torch.testing.assert_close(unroll_attention(module)(*arguments, **given), module(*arguments, **given), **DOUBLE)


@pytest.mark.parametrize("need_weights", [True, False])
def test_a_causal_mask_with_its_hint_is_torchs(need_weights):
    module, x = module_of(), inputs(module_of())[0]
    mask = torch.full((QUERIES, QUERIES), -math.inf, dtype=torch.float64).triu(1)
    given = {"attn_mask": mask, "is_causal": True, "need_weights": need_weights}
    torch.testing.assert_close(unroll_attention(module)(x, x, x, **given), module(x, x, x, **given), **DOUBLE)


@every_option
def test_gradients_are_torchs(options):
    module = module_of(options)
    unrolled = unroll_attention(module)
    for attention in (module, unrolled):
        attention(*inputs(module), need_weights=False)[0].square().sum().backward()
    weights = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
    packed = module.in_proj_weight
    expected = [w.grad for w in weights] if packed is None else packed.grad.chunk(3)
    for name, gradient in zip(("query", "key", "value"), expected, strict=True):
        # sums over 12 outputs, each with up to 10 times the error of an output
        torch.testing.assert_close(unrolled.get_submodule(name).weight.grad, gradient, rtol=0, atol=2e-9)
    torch.testing.assert_close(unrolled.out_proj.weight.grad, module.out_proj.weight.grad, rtol=0, atol=2e-9)


def test_dropout_falls_on_probabilities_in_training_only():
    module = module_of(dropout=1.0)
    unrolled, arguments = unroll_attention(module), inputs(module)
    for training in (True, False):  # all of it dropped: nothing is left to chance
        found = unrolled.train(training)(*arguments, need_weights=False)
        torch.testing.assert_close(found, module.train(training)(*arguments, need_weights=False), **DOUBLE)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_unrolled_attention_can_be_copied_and_pickled(duplicate):
    unrolled, arguments = unroll_attention(module_of()), inputs(module_of())
    assert torch.equal(duplicate(unrolled)(*arguments)[0], unrolled(*arguments)[0])


def test_fields_modes_and_what_learns_are_kept():
    module = module_of("other keys", dropout=0.25).train()
    module.in_proj_bias.requires_grad_(False)
    unrolled = unroll_attention(module)
    for field in ("embed_dim", "num_heads", "head_dim", "kdim", "vdim", "dropout", "batch_first", "training"):
        assert getattr(unrolled, field) == getattr(module, field)
    assert unrolled.query.weight.requires_grad
    assert not unrolled.query.bias.requires_grad
    assert all(part.training for part in unrolled.modules())
    still = unroll_attention(module_of().requires_grad_(False))
    assert not any(parameter.requires_grad for parameter in still.parameters())
    assert not any(part.training for part in still.modules())


def test_a_shared_module_stays_shared_and_the_callers_is_left_as_it_was():
    module = module_of()
    model = nn.ModuleDict({"a": module, "b": nn.Sequential(module)})
    unrolled = unroll_attention(model)
    assert unrolled["a"] is unrolled["b"][0]
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        for parameter in unrolled.parameters():
            parameter.zero_()
    assert model["a"] is module
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


# Errors


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"attn_mask": hiding(KEYS, QUERIES)}, r"attn_mask has shape \(5, 4\); give \(4, 5\) or \(6, 4, 5\)"),
        ({"key_padding_mask": hiding(KEYS, SAMPLES)}, r"key_padding_mask has shape \(5, 3\); give \(3, 5\)"),
        ({"is_causal": True}, "is_causal says what attn_mask is, but there is none"),
    ],
)
def test_wrong_masks_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        unroll_attention(module_of())(*inputs(module_of()), **given)


def test_an_input_of_other_axes_is_named():
    x = torch.zeros(1, 2, 3, WIDTH, dtype=torch.float64)
    with pytest.raises(ValueError, match="the query has 4 axes; give 2, of one sample, or 3"):
        unroll_attention(module_of())(x, x, x)


class Doubled(nn.MultiheadAttention):
    def forward(self, *args, **kwargs):
        y, weights = super().forward(*args, **kwargs)
        return 2 * y, weights


class Renamed(nn.MultiheadAttention):
    """Keeps the forward of its class."""


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Doubled(8, 2), "Doubled changes the forward of its class"),
        (lambda: nn.MultiheadAttention(8, 2, add_bias_kv=True), "add_bias_kv"),
        (lambda: nn.MultiheadAttention(8, 2, add_zero_attn=True), "add_zero_attn"),
        (
            lambda: parametrizations.weight_norm(nn.MultiheadAttention(8, 2), "in_proj_weight"),
            "its in_proj_weight is computed",
        ),
    ],
)
def test_what_cannot_be_unrolled_is_left_alone_and_named_with_the_reason(make, reason):
    model = nn.ModuleDict({"odd": make(), "known": Renamed(8, 2)})
    kind = type(model["odd"])
    prepared = prepare(model, from_text("integer(8, 8)"))
    rows = {row.name: row for row in prepared.coverage}
    assert type(prepared["odd"]) is kind
    assert rows["odd"].status == "unsupported"
    assert reason in rows["odd"].reason
    assert rows["known.query"].status == rows["known.out_proj"].status == "quantized"


@pytest.mark.parametrize("within", [lambda layer: layer, nn.Sequential])
def test_the_attention_of_an_encoder_layer_that_reads_it_directly_stays(within):
    model = within(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)).eval().requires_grad_(False)
    x = torch.randn(2, 3, 8, generator=generator())
    assert torch.equal(unroll_attention(model)(x), model(x))


# Under a scheme


class Mixer(nn.Module):
    """Self-attention and attention to a memory."""

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.other = nn.MultiheadAttention(WIDTH, 4, kdim=6, vdim=6, batch_first=True)
        self.output = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        x = x + self.own(x, x, x, need_weights=False)[0]
        return self.output(self.other(x, memory, memory, need_weights=False)[0])


def mixer() -> nn.Module:
    torch.manual_seed(0)
    return Mixer().requires_grad_(False).eval()


def data(seed: int) -> tuple[Tensor, Tensor]:
    made = generator(seed)
    return torch.randn(2, QUERIES, WIDTH, generator=made), torch.randn(2, KEYS, 6, generator=made)


def calibrated(scheme: str) -> nn.Module:
    return calibrate(prepare(mixer(), from_text(scheme), data(1)), [Batch(data(1), torch.empty(0))])


def test_coverage_names_projections_and_attention():
    rows = {r.name: (r.kind, r.status) for r in calibrated("integer(8, 8)").coverage}
    linear = [f"{a}.{p}" for a in ("own", "other") for p in ("query", "key", "value", "out_proj")]
    assert rows == dict.fromkeys([*linear, "output"], ("Linear", "quantized")) | dict.fromkeys(
        ["own.attention", "other.attention"], ("attention", "quantized")
    )


def test_attention_weights_that_are_asked_for_are_named_as_a_product_in_float():
    x = torch.randn(2, QUERIES, WIDTH, generator=generator())
    rows = prepare(nn.MultiheadAttention(WIDTH, 2), from_text("integer(8, 8)"), (x, x, x)).coverage
    assert [(r.name, r.kind) for r in rows if r.status == "unsupported"] == [("(model)", "matmul")]


@pytest.mark.parametrize("scheme", ["integer(8, 8)", "integer(8, 8, zero=Zero.FITTED)", "vs_quant(4, 8)", "nvfp4()"])
def test_every_simulated_product_equals_the_exact_one_to_float_rounding(scheme):
    fake = calibrated(scheme)
    frozen = freeze(fake)
    exact_layers = {m.name: m for m in frozen.modules() if isinstance(m, QuantizedLayer | Attention)}
    compared = set()

    def compare(site: FakeQuantizedLayer | Attention, args, simulated: Tensor) -> None:
        compared.add(site.name)
        exact = exact_layers[site.name](*args)
        # float32 sums of at most 8 products: 16·u relative to sums of magnitudes below 40, through a softmax of 1
        assert (simulated - exact).abs().max() < 16 * 2.0**-24 * 40

    for module in fake.modules():
        if isinstance(module, FakeQuantizedLayer | Attention):
            module.register_forward_hook(compare)
    fake(*data(1))
    assert compared == set(exact_layers)


def test_a_model_of_eight_bits_stays_near_the_float_model():
    frozen, expected = bitwright.quantize(mixer(), "integer(8, 8)", calibration=[data(1), data(2)]), mixer()(*data(2))
    assert (frozen(*data(2)) - expected).square().mean() < 1e-3 * expected.square().mean()  # 30 dB


def test_a_transformer_decoder_is_quantized_as_a_whole():
    torch.manual_seed(0)
    layer = nn.TransformerDecoderLayer(WIDTH, 2, 16, batch_first=True)
    model = nn.TransformerDecoder(layer, 2).requires_grad_(False).eval()
    x, memory = torch.randn(2, QUERIES, WIDTH), torch.randn(2, KEYS, WIDTH)
    mask = nn.Transformer.generate_square_subsequent_mask(QUERIES)
    arguments = {"tgt": x, "memory": memory, "tgt_mask": mask}
    prepared = prepare(model, from_text("integer(8, 8)"), arguments)
    counts = [r.kind for r in prepared.coverage if r.status == "quantized"]
    assert not [r for r in prepared.coverage if r.status == "unsupported"]
    assert (counts.count("Linear"), counts.count("attention")) == (2 * (4 + 4 + 2), 4)
    frozen, expected = freeze(calibrate(prepared, [Batch(arguments, torch.empty(0))])), model(**arguments)
    assert (frozen(**arguments) - expected).square().mean() < 1e-2 * expected.square().mean()  # 20 dB, two layers


def test_biases_of_projections_can_be_corrected():
    corrected = correct_bias(calibrated("integer(4, 4)"), mixer(), [Batch(data(1), torch.empty(0))])
    means = [model(*data(1)).mean((0, 1)) for model in (corrected, mixer())]
    # the last layer's own mean is exact but for float32 sums of under 100 values of about 1
    torch.testing.assert_close(means[0], means[1], rtol=0, atol=1e-5)
