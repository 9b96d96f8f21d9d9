"""A frozen model as a compressed-tensors checkpoint: what transformers and vLLM load, decoding to the same values.

The weights are the model's own codes, however they were found; inputs are described as the layers quantize them. A
layer that the layout cannot hold is refused by its name. `bitwright.sources.quantized.load` reads such a folder back.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from bitwright import formats
from bitwright.checkpoint.folder import CONFIG, INDEX, TensorFolder, read_config
from bitwright.checkpoint.formats import TOKENS, described, words_down
from bitwright.checkpoint.layouts import Described, read_weight
from bitwright.export.unholdable import Unholdable, require_exact_sums
from bitwright.formats import E2M1, E2M3, E4M3, E8M0, FLOAT32, Int, Rounding
from bitwright.model.attention import Attention
from bitwright.model.layers import FakeQuantizedLayer, QuantizedEmbedding, QuantizedLayer
from bitwright.model.lowering import Linear
from bitwright.quantization import (
    PerBlock,
    PerRow,
    PerTensor,
    PerTile,
    QuantizedTensor,
    Quantizer,
    Range,
    Zero,
)
from bitwright.schemes.mx import RoundedRule
from bitwright.store import write_atomically

TENSORS = "model.safetensors"
SHARD_BYTES = 5 * 10**9
"""Above this, tensors are in several files beside an index."""
ELSEWHERE = "bitwright.export.bundle holds every scheme"

_MX = {E2M1: "mxfp4-pack-quantized", E2M3: "mxfp6-pack-quantized", E4M3: "mxfp8-quantized"}
_MX_KINDS = {"scale_dtype": "torch.uint8", "zp_dtype": "torch.uint8"}
_NV_KINDS = {"scale_dtype": "torch.float8_e4m3fn", "zp_dtype": "torch.float8_e4m3fn"}


@dataclass(frozen=True)
class Placed:
    """One layer: its layout's name, the descriptions of both operands, and its tensors by their last name."""

    layout: str
    weights: dict[str, Any]
    inputs: dict[str, Any] | None
    tensors: dict[str, Tensor]


def write(
    frozen: nn.Module, folder: Path | str, config: Mapping[str, Any] | None = None, *, shard_bytes: int = SHARD_BYTES
) -> Path:
    """Write what `freeze` or `bw.quantize` gave; `config` is config.json's content, by default the model's own.

    Weights that are not quantized are written as they are. A layer whose weight or input the layout cannot express
    raises ValueError with its name and what holds it.
    """
    folder = Path(folder)
    if config is None:
        own: Any = getattr(frozen, "config", None)
        if not hasattr(own, "to_dict"):
            raise ValueError("the model has no config of transformers; give the content of config.json as `config`")
        found = json.loads(own.to_json_string(use_diff=False))
        config = {**found, "architectures": found.get("architectures") or [type(frozen).__name__]}
    layers = placed(frozen)
    if not layers:
        raise ValueError("the model has no quantized layer; give what bitwright.quantize returns")
    if _has_codes_for_outputs(frozen):
        config = {**config, "tie_word_embeddings": False}  # engines would put the embedding in their place
    tensors = {f"{path}.{name}": t for path, one in layers.items() for name, t in one.tensors.items()}
    tensors |= {name: t.detach().cpu().clone().contiguous() for name, t in _rest(frozen, layers).items()}
    names = [n for n, m in frozen.named_modules() if isinstance(m, nn.Linear)]
    described_model = {**config, "quantization_config": configuration(layers, names)}
    folder.mkdir(parents=True, exist_ok=True)
    _write_tensors(tensors, folder, shard_bytes)
    write_atomically(folder / CONFIG, (json.dumps(described_model, indent=2) + "\n").encode())
    return folder


def verify(folder: Path | str, frozen: nn.Module) -> None:
    """Read every layer back and compare it with `frozen`; ValueError where a weight decodes to another value.

    NVFP4's tensor scale is stored inverted, so its weights may differ in the last bit of float32.
    """
    folder = Path(folder)
    tensors, config = TensorFolder(folder), read_config(folder / CONFIG)["quantization_config"]
    by_name = {name: group for group in config["config_groups"].values() for name in group["targets"]}
    for path, layer in quantized_layers(frozen).items():
        weight = layer.quantized_weight()
        group = by_name.get(path) or by_name["Linear"]
        names = [n for n in tensors.entries if n.rpartition(".")[0] == path and not n.endswith(".bias")]
        parts = {n.rpartition(".")[2]: tensors.read(n) for n in names}
        found = read_weight(Described.of(group["weights"], path), parts, weight.shape).decode()
        expected = weight.decode()
        tolerance = 2.0**-23 * np.abs(expected) if "weight_global_scale" in parts else 0
        if (np.abs(found - expected) > tolerance).any():
            raise ValueError(f"{folder}: layer {path} decodes to other values; write it again")


def _write_tensors(tensors: Mapping[str, Tensor], folder: Path, shard_bytes: int) -> None:
    """One file, or several of at most so many bytes beside their index; a single larger tensor has its own."""
    shards: list[dict[str, Tensor]] = [{}]
    for name, tensor in tensors.items():
        if shards[-1] and sum(t.nbytes for t in shards[-1].values()) + tensor.nbytes > shard_bytes:
            shards.append({})
        shards[-1][name] = tensor
    width = f"{len(shards):05}"
    names = (
        [TENSORS] if len(shards) == 1 else [f"model-{i:05}-of-{width}.safetensors" for i in range(1, len(shards) + 1)]
    )
    for name, shard in zip(names, shards, strict=True):
        write_atomically(folder / name, save(shard, {"format": "pt"}))
    earlier = {*folder.glob("model-*-of-*.safetensors"), folder / TENSORS, folder / INDEX}
    for path in earlier - {folder / name for name in names}:  # they would be read beside ours
        path.unlink(missing_ok=True)
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(t.nbytes for t in tensors.values())},
            "weight_map": {n: name for name, shard in zip(names, shards, strict=True) for n in shard},
        }
        write_atomically(folder / INDEX, (json.dumps(index, indent=2) + "\n").encode())


def placed(frozen: nn.Module) -> dict[str, Placed]:
    """Every quantized layer by path. What no layout holds raises ValueError."""
    return {path: _placed(path, layer) for path, layer in quantized_layers(frozen).items()}


def quantized_layers(frozen: nn.Module) -> dict[str, QuantizedLayer]:
    """By path. What is no linear layer raises ValueError."""
    found = {}
    for path, module in frozen.named_modules(remove_duplicate=False):
        if isinstance(module, FakeQuantizedLayer):
            raise ValueError(f"layer {path} is not frozen; call bitwright.model.prepare.freeze before it is written")
        if isinstance(module, QuantizedEmbedding | Attention):
            what = "an embedding" if isinstance(module, QuantizedEmbedding) else "the products of attention"
            raise _refusal(path, f"{what} quantized")
        if isinstance(module, QuantizedLayer):
            if not isinstance(module.lowering, Linear):
                raise _refusal(path, f"a {module.lowering.kind}")
            try:
                require_exact_sums(module)
            except Unholdable as reason:
                raise _refusal(path, str(reason)) from None
            found[path] = module
    return found


def _refusal(path: str, what: str) -> ValueError:
    return ValueError(f"layer {path}: compressed-tensors does not hold {what}; {ELSEWHERE}")


def _placed(path: str, layer: QuantizedLayer) -> Placed:
    weight = layer.quantized_weight()
    if weight.quantizer.format in (E2M1, E2M3, E4M3):
        layout, weights, tensors = _floats(path, weight)
    else:
        layout, weights, tensors = _integers(path, weight)
    inputs: dict[str, Any] | None = None
    more: dict[str, Tensor] = {}
    if layer.input_quantizer is not None:
        inputs, more = _inputs(path, layer.input_quantizer, layer.input_ranges)
    if layer.bias is not None:
        more["bias"] = layer.bias.detach().cpu().clone()
    return Placed(layout, weights, inputs, tensors | more)


def _integers(path: str, weight: QuantizedTensor) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    """Any format whose elements are integers of its own width, under scales whose product float32 holds."""
    quantizer, bits, (rows, k) = weight.quantizer, weight.quantizer.format.bits, weight.shape
    bounds, block = quantizer.format.bounds(), weight.codes.shape[2]
    half = 2 ** (bits - 1) if bits < 60 else 0
    unit = 2.0**bounds.exponent.start
    scale = (weight.scale() * unit).astype(np.float32)
    if not 2 <= bits <= 8 or bounds.reach or (block < k and k % block):
        raise _refusal(path, f"{quantizer.format} in groups of {block}")
    if (scale != weight.scale() * unit).any():
        raise _refusal(path, "products of scales that float32 does not hold")
    levels = quantizer.format.decode(weight.codes).reshape(rows, -1)[:, :k] / unit
    zero = None
    if bounds.lowest >= 0:  # unsigned, around a zero point
        stored_zero = np.zeros((1, 1)) if weight.zero_points is None else quantizer.format.decode(weight.zero_points)
        zero = quantizer.scales[0].share.expand(stored_zero, rows, k)[:, ::block].astype(np.int64)
        levels = levels - half
    if (np.rint(levels) != levels).any() or levels.min() < -half or levels.max() >= half:
        raise _refusal(path, f"the elements of {quantizer.format}, which are no integers of {bits} bits")
    share = {"strategy": "channel"} if block >= k else {"strategy": "group", "group_size": block}
    codes = formats.pack(levels.astype(np.int64) + half, bits)
    codes = np.pad(codes, ((0, 0), (0, -codes.shape[1] % 4)))
    tensors = {
        "weight_packed": torch.from_numpy(np.ascontiguousarray(codes).view(np.int32)),
        "weight_scale": torch.from_numpy(np.ascontiguousarray(scale)),
        "weight_shape": torch.tensor(weight.shape),
    }
    if zero is not None:
        tensors["weight_zero_point"] = torch.from_numpy(words_down(zero, bits).view(np.int32))
    return "pack-quantized", described(bits, "int", share, symmetric=zero is None), tensors


def _floats(path: str, weight: QuantizedTensor) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    element, scales, (rows, k) = weight.quantizer.format, weight.quantizer.scales, weight.shape
    share = scales[-1].share
    codes = formats.pack(weight.codes.reshape(rows, -1)[:, :k], element.bits)
    stored = torch.from_numpy(codes).view(torch.float8_e4m3fn) if element == E4M3 else torch.from_numpy(codes)
    part = {"weight" if element == E4M3 else "weight_packed": stored}
    if len(scales) == 1 and scales[0].format == E8M0 and share == PerBlock(32) and k % 32 == 0:
        part["weight_scale"] = torch.from_numpy(weight.scales[0].astype(np.uint8))
        how = {"strategy": "group", "group_size": 32}
        return _MX[element], described(element.bits, "float", how) | _MX_KINDS, part  # type: ignore[index]
    is_nvfp4 = [s.share for s in scales] == [PerTensor(), PerBlock(16)] and scales[-1].format == E4M3
    if element == E2M1 and is_nvfp4 and k % 16 == 0:
        fine = torch.from_numpy(weight.scales[1].astype(np.uint8)).view(torch.float8_e4m3fn)
        coarse = np.float32(scales[0].format.decode(weight.scales[0]).item())
        part |= {"weight_scale": fine, "weight_global_scale": torch.tensor([_inverse(coarse)])}
        how = {"strategy": "tensor_group", "group_size": 16}
        return "nvfp4-pack-quantized", described(4, "float", how) | _NV_KINDS, part
    if element == E4M3 and len(scales) == 1 and isinstance(share, PerRow | PerTensor | PerTile):
        value = scales[0].format.decode(weight.scales[0])
        if (value.astype(np.float32) != value).any():
            raise _refusal(path, "scales that float32 does not hold")
        part["weight_scale"] = torch.from_numpy(value.astype(np.float32))
        if isinstance(share, PerTensor):
            part["weight_scale"] = part["weight_scale"].reshape(1)
        how = {"strategy": "tensor"} if isinstance(share, PerTensor) else {"strategy": "channel"}
        if isinstance(share, PerTile):
            how = {"strategy": "block", "block_structure": [share.rows, share.columns]}
        return "float-quantized", described(8, "float", how), part
    raise _refusal(path, f"{k} weights a row in {element} under {' × '.join(f'{s.format} {s.share}' for s in scales)}")


def _inputs(
    path: str, quantizer: Quantizer, ranges: tuple[Range | None, ...]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """How the layout describes an input, and its stored scale and zero point."""
    element, fine = quantizer.format, quantizer.scales[-1]
    is_float, is_static = element in (E2M1, E2M3, E4M3), bool(ranges) and ranges[0] is not None
    kind, bits = "float" if is_float else "int", element.bits
    if not is_float and not (isinstance(element, Int) and bits <= 8 and not element.exponent):
        raise _refusal(path, f"an input in {element}")
    if quantizer.rounding is not Rounding.NEAREST_EVEN:
        raise _refusal(path, f"an input rounded by {quantizer.rounding}, where engines round ties to even")
    is_symmetric = is_float or bool(element.bounds().lowest < 0)
    if len(quantizer.scales) == 2 and element == E2M1 and fine.share == PerBlock(16) and is_static:
        if quantizer.candidates() != (6.0,) or fine.room != E4M3.full_scale:
            raise _refusal(path, "an input with four-over-six")
        coarse = _step(quantizer, ranges)[0]
        how = {"strategy": "tensor_group", "group_size": 16}
        local = described(4, "float", how) | _NV_KINDS | {"dynamic": "local"}
        return local, {"input_global_scale": torch.tensor([_inverse(coarse)])}
    if len(quantizer.scales) == 1 and is_static and fine.share == PerTensor() and fine.format == FLOAT32:
        step, zero = _step(quantizer, ranges)
        stored = {"input_scale": torch.tensor([step])}
        if not is_symmetric:
            stored["input_zero_point"] = torch.tensor([zero - 2 ** (bits - 1)], dtype=torch.int8)
        return described(bits, kind, {"strategy": "tensor"}, symmetric=is_symmetric), stored
    if is_float and quantizer == Quantizer(element, (RoundedRule().scale(element, PerBlock(32)),)):
        how = {"strategy": "group", "group_size": 32}
        return described(bits, "float", how, dynamic=True) | _MX_KINDS, {}
    is_full = fine.full_scale is None if is_float or not is_symmetric else fine.full_scale == (2**bits - 1) / 2
    if len(quantizer.scales) == 1 and not is_static and fine.format == FLOAT32 and is_full:
        is_fitted = quantizer.zero is Zero.FITTED
        if fine.share == PerRow() and (is_symmetric or is_fitted):
            return described(bits, kind, TOKENS, symmetric=is_symmetric, dynamic=True), {}
        if isinstance(fine.share, PerBlock) and is_float:
            how = {"strategy": "group", "group_size": fine.share.size}
            return described(bits, kind, how, dynamic=True), {}
    scales = ", ".join(f"{s.format} {s.share} of full scale {s.full_scale}" for s in quantizer.scales)
    raise _refusal(path, f"an input in {element} with {scales}")


def _step(quantizer: Quantizer, ranges: tuple[Range | None, ...]) -> tuple[np.float32, int]:
    """The static scale and the code of zero."""
    found = quantizer.quantize(np.zeros((1, 1), np.float32), ranges)
    zero = 0 if found.zero_points is None else int(found.zero_points.item())
    return np.float32(quantizer.scales[0].format.decode(found.scales[0]).item()), zero


def _inverse(scale: np.float32) -> np.float32:
    """The float32 whose reciprocal is nearest to a scale."""
    near = np.float32(1) / scale
    tries = [near, np.nextafter(near, np.float32(0)), np.nextafter(near, np.float32(np.inf))]
    return min(tries, key=lambda x: abs(float(np.float32(1) / x) - float(scale)))


def _has_codes_for_outputs(frozen: nn.Module) -> bool:
    """Whether a model of transformers has its output layer quantized, whose weight may have been the embedding's."""
    outputs: Any = getattr(frozen, "get_output_embeddings", lambda: None)
    return isinstance(outputs(), QuantizedLayer)


def _rest(frozen: nn.Module, layers: Mapping[str, Placed]) -> dict[str, Tensor]:
    """State that belongs to no quantized layer."""
    return {n: t for n, t in frozen.state_dict().items() if n.rpartition(".")[0] not in layers}


def configuration(layers: Mapping[str, Placed], floats: list[str]) -> dict[str, Any]:
    """One group for layers that are alike; they are named where there are several groups."""
    groups: dict[str, list[str]] = {}
    for path, one in layers.items():
        key = json.dumps([one.layout, one.weights, one.inputs])
        groups.setdefault(key, []).append(path)
    described_groups = {}
    for i, (key, paths) in enumerate(groups.items()):
        layout, weights, inputs = json.loads(key)
        described_groups[f"group_{i}"] = {
            "targets": ["Linear"] if len(groups) == 1 else paths, "weights": weights, "input_activations": inputs,
            "output_activations": None, "format": layout,
        }  # fmt: skip
    layouts = {one.layout for one in layers.values()}
    return {
        "quant_method": "compressed-tensors", "format": "mixed-precision" if len(layouts) > 1 else layouts.pop(),
        "quantization_status": "compressed", "config_groups": described_groups, "ignore": sorted(floats),
        "kv_cache_scheme": None, "global_compression_ratio": None,
    }  # fmt: skip
