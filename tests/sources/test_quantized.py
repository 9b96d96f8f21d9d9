"""Folders quantized elsewhere become frozen models with exactly the stored codes and scales."""

import contextlib
import json

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from bitwright.checkpoint import NAMED, Float8, Integers, Mx, quantize_checkpoint
from bitwright.checkpoint.codes import round_to
from bitwright.formats import E4M3
from bitwright.model.layers import QuantizedLayer
from bitwright.quantization import PerTensor, PerTile, Zero
from bitwright.sources.quantized import Reordered, load

pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore")  # those of the libraries that write and read

FORMATS = [
    *(make(False) for make in NAMED.values()), *(Integers(bits) for bits in range(2, 9)), Integers(4, None, True),
    Integers(5, 32, True), Integers(8, None, has_inputs=True), Integers(8, None, True, has_inputs=True),
    Integers(4, 32, has_inputs=True), Float8(has_inputs=True), Float8(PerTensor(), has_inputs=True),
    Float8(PerTile(128, 128), has_inputs=True), Mx(E4M3, has_inputs=True), NAMED["mxfp4"](True),
]  # fmt: skip
TOKENS = torch.arange(1, 17)[None]


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A tiny model in float32, saved by transformers."""
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=128, intermediate_size=256, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=64, max_position_embeddings=64, attention_bias=True,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    folder = tmp_path_factory.mktemp("llama")
    model.save_pretrained(folder)
    return model, folder


def quantized_layers(model):
    return {m.name: m for m in model.modules() if isinstance(m, QuantizedLayer)}


def decompressed(folder):
    """Weights by module, as compressed-tensors decodes them."""
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig

    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    scheme = QuantizationConfig.model_validate(config).config_groups["group_0"]
    compressor = BaseCompressor.get_value_from_registry(config["format"])
    stored = load_file(folder / "model.safetensors")
    modules = {n.removesuffix(".weight_scale") for n in stored if n.endswith(".weight_scale")}
    return {
        m: compressor.decompress({n.rpartition(".")[2]: t for n, t in stored.items() if n.startswith(f"{m}.")}, scheme)[
            "weight"
        ]
        for m in modules
    }


@pytest.mark.parametrize("format", FORMATS, ids=repr)
def test_weights_decode_to_what_compressed_tensors_decodes(llama, tmp_path, format):
    _, folder = llama
    quantize_checkpoint(folder, tmp_path / "out", format)
    layers, expected = quantized_layers(load(tmp_path / "out")), decompressed(tmp_path / "out")
    assert set(layers) == set(expected)
    for name, layer in layers.items():
        peer, ours = expected[name], layer.quantized_weight().decode().astype(np.float32)
        if peer.dtype == torch.bfloat16:
            # the library divides by NVFP4's tensor scale, engines multiply by its reciprocal: bfloat16's step apart
            tolerance = 2.0**-7 if "nvfp4" in format.config()["format"] else 0
            np.testing.assert_allclose(round_to(ours, "BF16"), peer.float().numpy(), rtol=tolerance, atol=0)
        else:
            np.testing.assert_array_equal(ours, peer.numpy())


@pytest.mark.parametrize("format", [f for f in FORMATS if not getattr(f, "has_zero_points", False)], ids=repr)
def test_logits_are_those_of_transformers(llama, tmp_path, format):
    import transformers

    has_inputs = format.config()["input_activations"] is not None
    if has_inputs and isinstance(format, Mx):
        pytest.skip("transformers decodes these weights to bfloat16 and multiplies them by float32")
    _, folder = llama
    quantize_checkpoint(folder, tmp_path / "out", format)
    more = {} if has_inputs else {"quantization_config": transformers.CompressedTensorsConfig(run_compressed=False)}
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", **more).eval()
    torch.nn.Module.float(theirs)  # weights of small floats are decoded to bfloat16
    with torch.no_grad():
        found, expected = load(tmp_path / "out")(TOKENS).logits, theirs(TOKENS).logits
    # weights alone differ by float32's sums, NVFP4's by bfloat16; an input on the edge of two codes may fall otherwise
    tolerance = 2e-2 if has_inputs else 5e-3 if "nvfp4" in format.config()["format"] else 1e-5
    assert (found - expected).abs().max() < tolerance * expected.abs().max()


@pytest.mark.parametrize("format", [f for f in FORMATS if f.config()["input_activations"]], ids=repr)
def test_inputs_are_represented_as_compressed_tensors_represents_them(llama, tmp_path, format):
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize
    from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp

    quantize_checkpoint(llama[1], tmp_path / "out", format)
    x = torch.randn(9, 256) * torch.exp2(torch.arange(-4, 5))[:, None]
    x[1] = 0
    x[2] = x[2].abs()
    args = QuantizationArgs(**format.config()["input_activations"])
    scale, zero = compute_dynamic_scales_and_zp(x[None], args, None)
    expected = fake_quantize(x[None], scale, zero, args)[0]
    for layer in quantized_layers(load(tmp_path / "out")).values():
        found = layer.input_quantizer.quantize(x.numpy(), layer.input_ranges).decode().astype(np.float32)
        np.testing.assert_array_equal(found, expected.numpy())


def put(words, index, bits, value):
    """Bit by bit into a row of 32-bit words."""
    for i in range(bits):
        place = index * bits + i
        words[place // 32] |= (int(value) >> i & 1) << (place % 32)


def packed(codes, bits):
    """Rows of codes to rows of int32."""
    words = [[0] * (codes.shape[1] * bits // 32) for _ in codes]
    for row, out in zip(codes, words, strict=True):
        for i, code in enumerate(row):
            put(out, i, bits, code)
    return torch.from_numpy(np.array(words, np.uint64).astype(np.uint32).view(np.int32))


def relabelled(llama, tmp_path, quantization, stored_of):
    """The tiny model with each Linear but lm_head replaced by what `stored_of` gives; expected weights by module."""
    _, folder = llama
    stored, expected = {}, {}
    rng = np.random.default_rng(0)
    for name, tensor in load_file(folder / "model.safetensors").items():
        if name.endswith("proj.weight"):
            module = name.removesuffix(".weight")
            parts, expected[module] = stored_of(tensor.shape, rng)
            stored |= {f"{module}.{part}": value.contiguous() for part, value in parts.items()}
        else:
            stored[name] = tensor
    out = tmp_path / "out"
    out.mkdir()
    save_file(stored, out / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text()) | quantization
    (out / "config.json").write_text(json.dumps(config))
    return out, expected


@pytest.mark.parametrize("is_symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("version", ["gptq", "gptq_v2"])
def test_gptq_decodes_as_its_layout_says(llama, tmp_path, version, bits, is_symmetric):
    def stored_of(shape, rng):
        (rows, k), group = shape, 64
        codes = rng.integers(0, 2**bits, (rows, k))
        zero = (
            np.full((k // group, rows), 2 ** (bits - 1))
            if is_symmetric
            else rng.integers(1, 2**bits, (k // group, rows))
        )
        scale = rng.random((k // group, rows)).astype(np.float16) + np.float16(0.01)
        column = rng.permutation(k) // group  # as with desc_act
        expected = (codes - zero[column].T) * scale[column].T.astype(np.float64)
        return {
            "qweight": packed(codes, bits).T, "qzeros": packed(zero - (version == "gptq"), bits),
            "scales": torch.from_numpy(scale), "g_idx": torch.from_numpy(column.astype(np.int32)),
        }, expected  # fmt: skip

    config = {"quant_method": "gptq", "bits": bits, "group_size": 64, "desc_act": True, "checkpoint_format": version}
    out, expected = relabelled(llama, tmp_path, {"quantization_config": config}, stored_of)
    model = load(out)
    reordered = {m.layer.name: m for m in model.modules() if isinstance(m, Reordered)}
    assert set(reordered) == set(expected)
    for name, module in reordered.items():
        weight = module.layer.quantized_weight()
        assert (weight.quantizer.zero is Zero.FIXED) == is_symmetric
        np.testing.assert_array_equal(weight.decode(), expected[name][:, module.order])
        x = torch.eye(module.layer.k)
        torch.testing.assert_close(
            module(x).T - bias(module.layer), torch.from_numpy(expected[name]).float(), rtol=0, atol=1e-6
        )


@pytest.mark.parametrize("is_moved", [True, False])
def test_columns_that_compressed_tensors_grouped_by_activation_have_their_groups_scale(llama, tmp_path, is_moved):
    quantize_checkpoint(llama[1], tmp_path / "out", Integers(4, 32))
    plain = {n: m.quantized_weight().decode() for n, m in quantized_layers(load(tmp_path / "out")).items()}
    path = tmp_path / "out" / "model.safetensors"
    stored, column = load_file(path), {}
    for name, weight in plain.items():
        k = weight.shape[1]
        moved = torch.randperm(k, generator=torch.Generator().manual_seed(1))
        column[name] = (moved // 32).int() if is_moved else torch.full((k,), -1, dtype=torch.int32)
        stored[f"{name}.weight_g_idx"] = column[name]
    save_file(stored, path, {"format": "pt"})
    model = load(tmp_path / "out")
    layers = {(m.layer.name if isinstance(m, Reordered) else m.name): m for m in model.modules()
              if isinstance(m, Reordered if is_moved else QuantizedLayer)}  # fmt: skip
    assert set(layers) == set(plain)
    for name, layer in layers.items():
        k = plain[name].shape[1]
        scale = stored[f"{name}.weight_scale"].double()
        levels = torch.from_numpy(plain[name]).double() / scale.repeat_interleave(32, 1)
        group = column[name].long() if is_moved else torch.arange(k) // 32
        inner = layer.layer if is_moved else layer
        found = layer(torch.eye(k)).T - bias(inner)
        torch.testing.assert_close(found.double(), levels * scale[:, group], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["pre_quant_scale", "weight_rotation"])
def test_a_tensor_that_would_change_a_layer_is_not_left_out_silently(llama, tmp_path, name):
    quantize_checkpoint(llama[1], tmp_path / "out", Integers())
    path = tmp_path / "out" / "model.safetensors"
    stored = load_file(path)
    save_file(stored | {f"model.layers.0.self_attn.q_proj.{name}": torch.ones(128)}, path, {"format": "pt"})
    with pytest.raises(ValueError, match=f"q_proj has {name}, which is not read here"):
        load(tmp_path / "out")


def test_groups_other_than_config_json_says_are_refused(llama, tmp_path):
    def stored_of(shape, rng):
        rows = shape[0]
        return {
            "qweight": packed(np.zeros(shape, np.int64), 4).T, "qzeros": packed(np.full((2, rows), 7), 4),
            "scales": torch.ones(2, rows, dtype=torch.float16),
        }, None  # fmt: skip

    config = {"quant_method": "gptq", "bits": 4, "group_size": 100}
    out, _ = relabelled(llama, tmp_path, {"quantization_config": config}, stored_of)
    with pytest.raises(ValueError, match="scales of 2 groups found, 256 columns in groups of 100"):
        load(out)


def bias(layer):
    return 0 if layer.bias is None else layer.bias[:, None]


def test_awq_decodes_as_its_layout_says(llama, tmp_path):
    def interleaved(codes):
        """Column 0, 2, 4, 6, 1, 3, 5, 7 of each eight, from the lowest four bits of a word on."""
        out = np.zeros((len(codes), codes.shape[1] // 8), np.uint64)
        for column in range(codes.shape[1]):
            place = [0, 4, 1, 5, 2, 6, 3, 7][column % 8]
            out[:, column // 8] |= codes[:, column].astype(np.uint64) << np.uint64(4 * place)
        return torch.from_numpy(out.astype(np.uint32).view(np.int32))

    def stored_of(shape, rng):
        (rows, k), group = shape, 32
        codes, zero = rng.integers(0, 16, (rows, k)), rng.integers(0, 16, (k // group, rows))
        scale = rng.random((k // group, rows)).astype(np.float16) + np.float16(0.01)
        column = np.arange(k) // group
        expected = (codes - zero[column].T) * scale[column].T.astype(np.float64)
        parts = {"qweight": interleaved(codes.T), "qzeros": interleaved(zero), "scales": torch.from_numpy(scale)}
        return parts, expected

    config = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}
    out, expected = relabelled(llama, tmp_path, {"quantization_config": config}, stored_of)
    layers = quantized_layers(load(out))
    assert set(layers) == set(expected)
    for name, layer in layers.items():
        np.testing.assert_array_equal(layer.quantized_weight().decode(), expected[name])


E2M1_VALUES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])


@pytest.mark.parametrize("is_separate", [True, False])
def test_model_optimizers_nvfp4_decodes_as_its_layout_says(llama, tmp_path, is_separate):
    def stored_of(shape, rng):
        (rows, k), codes = shape, rng.integers(0, 16, shape)
        scale = torch.from_numpy(rng.uniform(0.1, 400, (rows, k // 16)).astype(np.float32)).to(torch.float8_e4m3fn)
        second = torch.tensor(np.float32(rng.uniform(1e-4, 1e-3)))
        values = E2M1_VALUES[codes].reshape(rows, -1, 16) * scale.double().numpy()[..., None]
        expected = (values * second.double().item()).reshape(rows, k)
        bytes_ = torch.from_numpy((codes[:, ::2] | codes[:, 1::2] << 4).astype(np.uint8))
        parts = {"weight": bytes_, "weight_scale": scale, "weight_scale_2": second}
        return parts | {"input_scale": torch.tensor(np.float32(rng.uniform(1e-3, 1e-2)))}, expected

    described = {"quantization": {"quant_algo": "NVFP4", "group_size": 16, "exclude_modules": ["lm_head"]}}
    config = {"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}}
    out, expected = relabelled(llama, tmp_path, {} if is_separate else config, stored_of)
    if is_separate:
        (out / "hf_quant_config.json").write_text(json.dumps({"producer": {"name": "modelopt"}} | described))
    layers = quantized_layers(load(out))
    assert set(layers) == set(expected)
    stored = load_file(out / "model.safetensors")
    for name, layer in layers.items():
        np.testing.assert_array_equal(layer.quantized_weight().decode(), expected[name])
        x = layer.input_quantizer.quantize(np.ones((1, layer.k), np.float32), layer.input_ranges)
        found = layer.input_quantizer.scales[0].format.decode(x.scales[0]).item()
        np.testing.assert_allclose(found, stored[f"{name}.input_scale"].item(), rtol=2**-23)


def test_a_frozen_folder_is_certified_by_its_own_codes(llama, tmp_path):
    quantize_checkpoint(llama[1], tmp_path / "out", Integers(4, None, has_inputs=True))
    for layer in quantized_layers(load(tmp_path / "out")).values():
        codes = layer.quantized_weight().elements().astype(np.int64)[:, 0]
        low, high = np.minimum(codes, 0).sum(1), np.maximum(codes, 0).sum(1)
        assert layer.certificate.inner_high == (127 * high - 128 * low).max()
        assert layer.certificate.inner_low == (127 * low - 128 * high).min()


@pytest.mark.parametrize("format", [Integers(4, 32, True), Integers(8, None, True, has_inputs=True)], ids=repr)
def test_weights_with_zero_points_are_multiplied_as_the_reference_does(llama, tmp_path, format):
    quantize_checkpoint(llama[1], tmp_path / "out", format)
    x = torch.randn(5, 128)
    for layer in quantized_layers(load(tmp_path / "out")).values():
        if layer.k != 128:
            continue
        weight = layer.quantized_weight()
        if layer.input_quantizer is None:
            expected = x.double().numpy() @ weight.decode().T
            np.testing.assert_allclose((layer(x).T - bias(layer)).T, expected, atol=1e-4)
        else:
            quantized = layer.input_quantizer.quantize(x.numpy(), layer.input_ranges)
            expected = layer.scheme.datapath.matmul(quantized, weight).values
            found = layer.sums(x).values
            np.testing.assert_array_equal(found, expected.astype(np.float32))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        ("pickle", "a pickle"), ("escape", "only .safetensors files beside it"), ("missing", "is not there"),
        ("method", "quantized by 'bitsandbytes'"), ("float", "is not quantized"), ("shape", "weight_packed: I32"),
        ("dtype", "weight_scale: F64"), ("lost", "has no weight"), ("json", "not JSON"),
        ("architecture", "none of transformers'"), ("wide", "describes no model|found"), ("nan", "NaN or infinite"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said_in_one_sentence(llama, tmp_path, damage, sentence):
    out = tmp_path / "out"
    quantize_checkpoint(llama[1], out, Integers())
    path, index, config = out / "model.safetensors", out / "model.safetensors.index.json", out / "config.json"
    tensors, described = load_file(path), json.loads(config.read_text())
    name = "model.layers.0.self_attn.q_proj.weight_packed"
    if damage == "pickle":
        path.rename(out / "pytorch_model.bin")
    elif damage in ("escape", "missing"):
        file = "../model.safetensors" if damage == "escape" else "model-2.safetensors"
        index.write_text(json.dumps({"weight_map": {name: file}}))
    elif damage == "method":
        described["quantization_config"]["quant_method"] = "bitsandbytes"
    elif damage == "float":
        del described["quantization_config"]
    elif damage == "shape":
        tensors[name] = tensors[name][:, 1:].contiguous()
    elif damage == "dtype":
        scale = name.replace("packed", "scale")
        tensors[scale] = tensors[scale].double()
    elif damage == "lost":
        del tensors[name]
    elif damage == "architecture":
        described["architectures"] = ["os"]
    elif damage == "wide":
        described["hidden_size"] = 1 << 40
    elif damage == "nan":
        tensors[name.replace("packed", "scale")][0] = float("nan")
    config.write_text("{" if damage == "json" else json.dumps(described))
    if path.exists():
        save_file(tensors, path)
    with pytest.raises(ValueError, match=sentence) as error:
        load(out)
    assert "\n" not in str(error.value)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused_and_nothing_else(tiny, data):
    """Flips, cuts and insertions in headers and configurations."""
    folder, contents = tiny
    name = data.draw(st.sampled_from(sorted(contents)))
    content = bytearray(contents[name])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, min(len(content), 3000) - 1))
        content[place] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    try:
        (folder / name).write_bytes(content)
        with contextlib.suppress(ValueError):
            load(folder)
    finally:
        (folder / name).write_bytes(contents[name])


@pytest.fixture(scope="module")
def tiny(llama, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "out"
    quantize_checkpoint(llama[1], folder, NAMED["fp8"](True))
    return folder, {name: (folder / name).read_bytes() for name in ("config.json", "model.safetensors")}
