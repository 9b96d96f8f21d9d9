"""Products of language models from their descriptions: as many multiplications as the models have weights."""

import json
import struct

import pytest

from bitwright.cost.gemm import Transformer, read_config, read_header, transformer
from bitwright.gemm import Gemm, LayerGemm

LLAMA2_7B = {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
             "num_attention_heads": 32, "vocab_size": 32000}  # fmt: skip
LLAMA3_8B = {**LLAMA2_7B, "intermediate_size": 14336, "num_key_value_heads": 8, "vocab_size": 128256}
GPT2 = {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 50257, "n_inner": None}


@pytest.mark.parametrize(
    ("config", "weights"),
    [
        (LLAMA2_7B, 6738415616 - 32000 * 4096 - 65 * 4096),  # parameters less the embedding and the norms
        (LLAMA3_8B, 8030261248 - 128256 * 4096 - 65 * 4096),
        (GPT2, 12 * 12 * 768**2 + 50257 * 768),
    ],
)
def test_a_token_meets_every_weight_once(config, weights):
    products = transformer(config).products(tokens=1, context=100)
    assert sum(layer.macs for layer in products if not layer.is_of_activations) == weights


@pytest.mark.parametrize("shared", [1, 4])
def test_attention_has_as_many_products_however_heads_share_keys(shared):
    model = Transformer(64, 1, 8, 8 // shared, 8, 256, True, 100)
    products = [layer for layer in model.products(tokens=5, context=7) if layer.is_of_activations]
    assert [layer.macs for layer in products] == [8 * 5 * 7 * 8] * 2


def test_experts_are_used_by_every_token_as_often_as_the_configuration_says():
    plain = transformer(LLAMA3_8B).products(3)
    mixed = transformer({**LLAMA3_8B, "num_experts_per_tok": 2}).products(3)
    rows = {layer.name: layer.gemm.m for layer in mixed}
    assert rows["layers.0.gate"] == rows["layers.0.down"] == 6
    assert rows["layers.0.query"] == plain[0].gemm.m == 3


def test_a_configuration_file_is_read(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA2_7B))
    assert read_config(path) == transformer(LLAMA2_7B)


def test_only_the_header_of_a_weight_file_is_read(tmp_path):
    header = json.dumps({
        "__metadata__": {"format": "pt"}, "embed.weight": {"dtype": "F32", "shape": [100, 8], "data_offsets": [0, 0]},
        "up.weight": {"dtype": "F32", "shape": [32, 8], "data_offsets": [0, 0]},
        "norm.weight": {"dtype": "F32", "shape": [8], "data_offsets": [0, 0]},
    }).encode()  # fmt: skip
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    assert read_header(path, tokens=5) == (LayerGemm("up", Gemm(5, 8, 32)),)


def _written(path, data):
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("config.json", b"{", "is no JSON"),
        ("config.json", b"[]", "holds no JSON object"),
        ("config.json", b'{"hidden_size": 8}', "no num_hidden_layers and no num_attention_heads and no vocab_size"),
        ("model.safetensors", b"abc", "has no header of a safetensors file"),
        ("model.safetensors", struct.pack("<Q", 4) + b"abcd", "has no header of a safetensors file"),
        ("model.safetensors", struct.pack("<Q", 33) + b'{"conv.weight":{"shape":[1,1,1]}}', "conv.weight has 3 axes"),
        ("model.safetensors", struct.pack("<Q", 2) + b"{}", "has no matrix"),
    ],
)
def test_a_file_that_says_no_sizes_is_refused(tmp_path, name, data, sentence):
    path = _written(tmp_path / name, data)
    with pytest.raises(ValueError, match=sentence):
        read_config(path) if name == "config.json" else read_header(path, 1)


def test_heads_that_do_not_share_keys_evenly_are_refused():
    with pytest.raises(ValueError, match="12 heads do not share 5 pairs of key and value evenly"):
        transformer({**GPT2, "num_key_value_heads": 5})


def test_a_size_below_one_is_refused():
    with pytest.raises(ValueError, match="the configuration has num_attention_heads of 0; give at least 1"):
        transformer({**GPT2, "n_head": 0})


def test_a_batch_adds_rows_to_weights_and_products_to_attention():
    weights, attention = LayerGemm("w", Gemm(4, 8, 2)), LayerGemm("a", Gemm(4, 8, 4, 3), is_of_activations=True)
    assert weights.batched(5).gemm == Gemm(20, 8, 2)
    assert attention.batched(5).gemm == Gemm(4, 8, 4, 15)
    assert weights.batched(5).macs == 5 * weights.macs
