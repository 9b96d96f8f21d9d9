"""Models of other libraries, built small in memory: keyword inputs, outputs that are no tensors."""

import numpy as np
import pytest
import torch
from torch import nn

from bitwright.config import from_text
from bitwright.model.attention import Attention
from bitwright.model.layers import FakeQuantizedLayer, QuantizedLayer
from bitwright.model.prepare import calibrate, freeze, prepare, quantize
from bitwright.model.task import Batch
from bitwright.model.transform import fold_batchnorm

transformers = pytest.importorskip("transformers")

LENGTH = 12


def llama() -> nn.Module:
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, attn_implementation="sdpa",
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def bert() -> nn.Module:
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=32, attn_implementation="sdpa",
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


MODELS = {"llama": llama, "bert": bert}
every_model = pytest.mark.parametrize("name", MODELS)


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[name]().requires_grad_(False).eval()


def tokens(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(2, LENGTH, dtype=torch.long)
    mask[1, -3:] = 0  # the second text is shorter
    return {"input_ids": torch.randint(50, (2, LENGTH), generator=generator), "attention_mask": mask}


def calibrated(name: str, scheme: str = "integer(8, 8)") -> nn.Module:
    prepared = prepare(made(name), from_text(scheme), tokens())
    return calibrate(prepared, [Batch(tokens(), torch.empty(0))])


@every_model
def test_keyword_inputs_find_every_layer_and_its_attention(name):
    prepared = calibrated(name)
    rows = {row.name: row for row in prepared.coverage}
    attention = [row for row in rows.values() if row.kind == "attention"]
    assert [row.status for row in attention] == ["quantized", "quantized"]
    assert len([m for m in prepared.modules() if isinstance(m, Attention)]) == 2
    for layer, module in made(name).named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            assert rows[layer].status == "quantized", layer
        elif not list(module.children()):
            assert layer in rows


@every_model
@pytest.mark.parametrize("scheme", ["integer(8, 8)", "vs_quant(4, 4)", "mxfp4()"])
def test_a_frozen_model_answers_in_its_own_output_class(name, scheme):
    prepared = calibrated(name, scheme)
    frozen = freeze(prepared)
    assert not [m for m in frozen.modules() if isinstance(m, nn.Linear | FakeQuantizedLayer)]
    expected, simulated, exact = (m(**tokens(1)) for m in (made(name), prepared, frozen))
    assert type(exact) is type(expected)
    assert exact.logits.isfinite().all()
    # layers agree to float rounding, and a rounding that tips over moves a hidden value by one step of its format
    step = 0.02 if scheme == "integer(8, 8)" else 0.2
    torch.testing.assert_close(exact.logits, simulated.logits, rtol=0, atol=step)


@every_model
def test_eight_bits_stay_near_the_float_model(name):
    exact, expected = freeze(calibrated(name))(**tokens(1)).logits, made(name)(**tokens(1)).logits
    assert (exact - expected).square().mean() < 0.01 * expected.square().mean()


def test_positional_inputs_give_the_same_as_keywords():
    inputs = tokens()
    by_keyword = quantize(made("bert"), from_text("mxfp4()"), [inputs])
    by_position = quantize(made("bert"), from_text("mxfp4()"), [tuple(inputs.values())])
    np.testing.assert_array_equal(by_keyword(**tokens(1)).logits.numpy(), by_position(**tokens(1)).logits.numpy())


def test_calibration_reads_every_layer_by_its_own_name():
    frozen = freeze(calibrated("llama"))
    names = {m.name for m in frozen.modules() if isinstance(m, QuantizedLayer)}
    assert "model.layers.0.self_attn.q_proj" in names
    assert "lm_head" in names


def test_a_timm_network_is_quantized_as_a_whole():
    timm = pytest.importorskip("timm", reason="timm needs torchvision, which is not installed", exc_type=ImportError)
    torch.manual_seed(0)
    model = timm.create_model("test_vit", pretrained=False).eval().requires_grad_(False)
    x = torch.randn(1, *model.default_cfg["input_size"])
    folded = fold_batchnorm(model, (x,))
    prepared = calibrate(prepare(folded, from_text("integer(8, 8)"), (x,)), [Batch((x,), torch.empty(0))])
    assert [row for row in prepared.coverage if row.kind == "attention" and row.status == "quantized"]
    assert freeze(prepared)(x).isfinite().all()
