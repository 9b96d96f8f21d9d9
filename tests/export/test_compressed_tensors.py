"""Frozen models leave as checkpoints that transformers loads, with the same values."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.datapath import Accumulator, Datapath, Overflow
from bitwright.export import compressed_tensors as target
from bitwright.formats import E4M3, Int, Rounding
from bitwright.model.layers import QuantizedLayer
from bitwright.quantization import PerBlock, PerRow, PerTensor, PerTile, Quantizer, Scale, Zero
from bitwright.recipe import Recipe, Rule
from bitwright.scheme import Scheme
from bitwright.schemes import integer, minifloat, mxfp4, mxfp6, mxfp8, nvfp4
from bitwright.schemes.mx import RoundedRule

transformers = pytest.importorskip("transformers")
pytest.importorskip("compressed_tensors")
pytestmark = pytest.mark.filterwarnings("ignore")  # those of the libraries that read

DYNAMIC = Quantizer(Int(8), (Scale(PerRow(), full_scale=127.5),))
ROUNDED = RoundedRule()
STORED = [
    *(integer(bits, None, weight_share=share) for bits in (2, 3, 4, 8) for share in (PerRow(), PerBlock(32))),
    integer(4, None, weight_share=PerTensor()),
    integer(8, 8), integer(8, 8, zero=Zero.FITTED), Scheme(DYNAMIC, integer(4, None).weight),
    minifloat(), minifloat(weight_share=PerTile(32, 32)), minifloat(weight_share=PerTensor(), weight_only=True),
    minifloat(input_share=PerRow(), input_range=None), nvfp4(), nvfp4(weight_only=True),
    mxfp4(weight_only=True), mxfp6(weight_only=True), mxfp8(weight_only=True),
    mxfp4(ROUNDED), mxfp8(rule=ROUNDED),
    bw.Scheme(mxfp8(rule=ROUNDED).input, mxfp6().weight),
]  # fmt: skip
TOKENS = torch.arange(1, 17)[None]


def only_projections(scheme):
    return Recipe((Rule("re:.*proj", scheme),))


@pytest.fixture(scope="module")
def llama():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=64, max_position_embeddings=64, attention_bias=True,
    )  # fmt: skip
    config.architectures = ["LlamaForCausalLM"]
    return transformers.LlamaForCausalLM(config).eval()


def quantized(model, scheme):
    return bw.quantize(model, only_projections(scheme), [{"input_ids": TOKENS}])


@pytest.mark.parametrize("scheme", STORED, ids=lambda s: repr(s)[:70])
def test_what_is_written_decodes_to_the_same_values(llama, tmp_path, scheme):
    frozen = quantized(llama, scheme)
    target.write(frozen, tmp_path / "out")
    target.verify(tmp_path / "out", frozen)


@pytest.mark.parametrize("scheme", STORED, ids=lambda s: repr(s)[:70])
def test_what_is_read_back_computes_the_same(llama, tmp_path, scheme):
    from bitwright.sources.quantized import load

    frozen = quantized(llama, scheme)
    again = load(target.write(frozen, tmp_path / "out"))
    with torch.no_grad():
        expected, found = frozen(TOKENS).logits, again(TOKENS).logits
    # inputs of narrow integers never meet the lowest code in calibration; NVFP4's tensor scale is inverted
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-2 if scheme.input is not None else 1e-5)


@pytest.mark.parametrize("scheme", STORED, ids=lambda s: repr(s)[:70])
def test_transformers_computes_each_layer_from_the_same_integers(llama, tmp_path, scheme):
    from bitwright.export.compressed_tensors_run import compare

    frozen = quantized(llama, scheme)
    found = compare(target.write(frozen, tmp_path / "out"), frozen, {"input_ids": TOKENS})
    assert found.layers < 1e-6
    assert found.output < (1e-5 if scheme.input is None else 2e-2)  # a last bit may move an input across a threshold


def test_above_a_size_there_are_several_files_and_an_index(llama, tmp_path):
    from bitwright.sources.quantized import load

    frozen = quantized(llama, integer(4, None))
    target.write(frozen, tmp_path / "out", shard_bytes=20_000)
    files = {f.name: f.stat().st_size for f in (tmp_path / "out").glob("*.safetensors")}
    assert sorted(files) == [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    assert max(files.values()) < 20_000 + 5_000  # and the header
    target.verify(tmp_path / "out", frozen)
    whole = transformers.CompressedTensorsConfig(run_compressed=False)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", quantization_config=whole).eval()
    with torch.no_grad():
        expected, found = frozen(TOKENS).logits, nn.Module.float(theirs)(TOKENS).logits
        again = load(tmp_path / "out")(TOKENS).logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(again, expected, rtol=1e-5, atol=1e-5)


def test_files_of_an_earlier_run_are_not_read_for_ours(llama, tmp_path):
    for shard_bytes in (20_000, 10**9, 20_000):
        frozen = quantized(llama, integer(4 if shard_bytes == 20_000 else 8, None))
        target.verify(target.write(frozen, tmp_path / "out", shard_bytes=shard_bytes), frozen)
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_layers_of_several_schemes_are_grouped_by_name(llama, tmp_path):
    recipe = Recipe((Rule("re:.*mlp.*proj", mxfp4(weight_only=True)), Rule("re:.*q_proj", integer(3, None))))
    frozen = bw.quantize(llama, recipe, [{"input_ids": TOKENS}])
    target.verify(target.write(frozen, tmp_path / "out"), frozen)
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert config["format"] == "mixed-precision"
    assert "model.layers.0.self_attn.q_proj" in config["config_groups"]["group_0"]["targets"]
    assert {"lm_head", "model.layers.0.self_attn.o_proj"} <= set(config["ignore"])


@pytest.mark.parametrize(
    "scheme",
    [
        bw.schemes.ant(4, 4), bw.schemes.vs_quant(4, 8), integer(8, 8, input_share=PerRow(), input_range=None),
        nvfp4(four_over_six=True), integer(12, None), mxfp8(E4M3), bw.schemes.overq(4, 8), bw.schemes.wrapnet(),
        bw.Scheme(replace(DYNAMIC, rounding=Rounding.FLOOR), integer(4, None).weight),
        replace(integer(4, 4), datapath=Datapath(inner=Accumulator(Int(8), Overflow.WRAP))),
    ],
    ids=lambda s: repr(s)[:70],
)  # fmt: skip
def test_what_the_layout_cannot_hold_is_refused_by_layer_and_way_out(llama, tmp_path, scheme):
    frozen = quantized(llama, scheme)
    with pytest.raises(ValueError, match=r"layer model\.layers\.0\.\S+: compressed-tensors does not hold .*bundle"):
        target.write(frozen, tmp_path / "out")


@pytest.mark.parametrize("scheme", [nvfp4(weight_only=True), mxfp4(weight_only=True)], ids=["nvfp4", "mxfp4"])
def test_rows_that_are_no_whole_number_of_blocks_are_refused(tmp_path, scheme):
    config = transformers.LlamaConfig(
        hidden_size=64, intermediate_size=172, num_hidden_layers=1, num_attention_heads=4, vocab_size=64
    )
    frozen = quantized(transformers.LlamaForCausalLM(config).eval(), scheme)
    with pytest.raises(ValueError, match=r"down_proj: compressed-tensors does not hold 172 weights a row in .*bundle"):
        target.write(frozen, tmp_path / "out")


def test_other_layers_are_refused_by_name(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 4))
    frozen = bw.quantize(model, integer(8, 8), [torch.randn(2, 3, 4, 4)])
    with pytest.raises(ValueError, match="layer 0: compressed-tensors does not hold a Conv2d"):
        target.write(frozen, tmp_path / "out", {})


def test_a_weight_that_was_changed_is_found(llama, tmp_path):
    frozen = quantized(llama, integer(4, None))
    target.write(frozen, tmp_path / "out")
    layer = next(m for m in frozen.modules() if isinstance(m, QuantizedLayer))
    layer.codes[0, 0, 0] ^= 1
    with pytest.raises(ValueError, match=r"q_proj decodes to other values"):
        target.verify(tmp_path / "out", frozen)


def test_zero_points_go_through(llama, tmp_path):
    from bitwright.checkpoint import Integers, quantize_checkpoint
    from bitwright.sources.quantized import load

    llama.save_pretrained(tmp_path / "float")
    quantize_checkpoint(tmp_path / "float", tmp_path / "in", Integers(4, 32, has_zero_points=True))
    frozen = load(tmp_path / "in")
    target.verify(target.write(frozen, tmp_path / "out"), frozen)
    again = load(tmp_path / "out")
    for a, b in zip(frozen.modules(), again.modules(), strict=True):
        if isinstance(a, QuantizedLayer):
            assert torch.equal(a.codes, b.codes)
            assert torch.equal(a.zero_points, b.zero_points)
