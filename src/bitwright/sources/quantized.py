"""Models that were quantized elsewhere, as they are: the folder's own codes and scales in a frozen model.

Read are compressed-tensors (every layout that `bitwright quantize` writes), NVIDIA Model Optimizer's NVFP4 and FP8,
GPTQ and AWQ. The architecture is transformers' own for the folder's config.json; no code of the folder runs, and only
safetensors are read.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bitwright.checkpoint.folder import CONFIG, TensorFolder, read_config
from bitwright.checkpoint.layouts import Raw, values_of
from bitwright.datapath import WIDE, Accumulator, Datapath
from bitwright.formats import FLOAT32
from bitwright.model.layers import FakeQuantizedLayer, QuantizedLayer
from bitwright.model.lowering import Linear
from bitwright.model.prepare import prove
from bitwright.model.site import naming
from bitwright.model.transform import replaced
from bitwright.scheme import Scheme
from bitwright.sources.quantized_layouts import Awq, CompressedTensors, Gptq, Layout, ModelOpt, Stored

LAYOUTS: dict[str, Callable[[Mapping[str, Any], TensorFolder], Layout]] = {
    "compressed-tensors": CompressedTensors, "modelopt": ModelOpt, "gptq": Gptq, "awq": Awq,
}  # fmt: skip
"""By `quant_method` of config.json."""

DATAPATH = Datapath(inner=WIDE, outer=Accumulator(FLOAT32))
"""Exact sums of a block, float32 across blocks: the files say how numbers are stored, not how they are summed."""


def load(folder: Path | str) -> nn.Module:
    """The folder's model, frozen, every quantized layer with exactly the codes and scales that are stored.

    Inputs are quantized as the folder says: not at all, from each input, or with stored scales. What is not quantized
    is in float32. A folder that is damaged, of another layout, or of pickles raises ValueError.
    """
    folder = Path(folder)
    method, config = _description(folder)
    tensors = TensorFolder(folder)
    layout = LAYOUTS[method](config, tensors)
    model = architecture(folder, len(tensors.entries))
    linears = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    quantized = {name: m for name, m in linears.items() if layout.holds(name)}
    if not quantized:
        raise ValueError(f"{folder}: no layer of {type(model).__name__} is stored quantized; its names differ")
    inside = {n for name in quantized for n in layout.names(name)}
    _fill_(model, folder, {n: tensors.read(n) for n in tensors.entries if n not in inside})
    replacements: dict[int, nn.Module] = {}
    for name, linear in quantized.items():
        shape = linear.out_features, linear.in_features
        replacements[id(linear)] = _layer(name, linear, layout.read(name, shape))
    frozen = replaced(model, replacements).eval()
    lost = [n for n, p in frozen.named_parameters() if p.is_meta]
    if lost:
        raise ValueError(f"{folder} has no {', '.join(lost[:3])}; fetch the whole model")
    return frozen


class Reordered(nn.Module):
    """A layer whose weight's columns are stored in another order: its input is put into that order."""

    order: Tensor

    def __init__(self, layer: QuantizedLayer, order: np.ndarray) -> None:
        super().__init__()
        self.layer = layer
        self.register_buffer("order", torch.from_numpy(order))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x[..., self.order])


class _Unfilled(TorchFunctionMode):
    """Tensors that nothing is computed for, which are parameters, take no memory."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        where = {"device": "meta"} if function is torch.empty else {}
        return function(*args, **{**(kwargs or {}), **where})


def _description(folder: Path) -> tuple[str, dict[str, Any]]:
    """The method's name, and what the folder says of it."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; give that of a quantized model")
    found = read_config(folder / CONFIG).get("quantization_config")
    if found is None and (folder / "hf_quant_config.json").is_file():
        found = {"quant_method": "modelopt"} | read_config(folder / "hf_quant_config.json")
    if not isinstance(found, dict):
        raise ValueError(f"{folder} is not quantized: its config.json has no quantization_config")
    method = str(found.get("quant_method"))
    if method not in LAYOUTS:
        raise ValueError(f"{folder} is quantized by {method!r}; read are {', '.join(LAYOUTS)}")
    return method, found


def architecture(folder: Path, tensors: int) -> nn.Module:
    """The model of config.json with its weights yet to come."""
    try:
        import transformers
        from transformers.initialization import no_init_weights
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{error.name} is not installed, which knows the architectures; pip install 'bitwright[trainers]'"
        ) from None
    try:
        config = transformers.AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
        names = config.architectures or [""]
        layers = getattr(config, "num_hidden_layers", 0)
        if isinstance(layers, int) and layers > tensors:
            raise ValueError(f"{layers} layers for {tensors} tensors")
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        made = getattr(transformers, str(names[0]), None)
        if not (isinstance(made, type) and issubclass(made, transformers.PreTrainedModel)):
            raise ValueError(f"architecture {names[0]!r} is none of transformers'")
        with _Unfilled(), no_init_weights():
            model: nn.Module = made(config)
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RuntimeError, MemoryError) as error:
        sentence = " ".join(str(error).split())[:200]
        raise ValueError(f"{folder}: config.json describes no model that can be built ({sentence})") from None
    return model


def _fill_(model: nn.Module, folder: Path, stored: Mapping[str, Raw]) -> None:
    """Parameters and buffers that are not quantized, in float32."""
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    state = {}
    for name, raw in stored.items():
        if name not in own:
            if name.rpartition(".")[2] in ("k_scale", "v_scale", "inv_freq"):  # of caches, and what is computed
                continue
            raise ValueError(f"{folder}: {type(model).__name__} has no {name}; it is of another architecture")
        if raw.dtype not in ("F32", "BF16", "F16"):
            raise ValueError(f"{name}: {raw.dtype} found where floats are due; the layer is not one that is read here")
        values = values_of(raw.require((raw.dtype,), tuple(own[name].shape)), raw)
        state[name] = torch.from_numpy(values.astype(np.float32))
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()  # type: ignore[operator]  # a transformers model


def _layer(name: str, linear: nn.Linear, stored: Stored) -> nn.Module:
    with naming(name):
        source = FakeQuantizedLayer(linear, Linear(), Scheme(stored.input, stored.weight.quantizer, DATAPATH))
        source.name, source.weight_quantizer, source.input_quantizer = name, stored.weight.quantizer, stored.input
        certificate = None
        if stored.input is not None:
            source.pin("input", stored.ranges)
            certificate = prove(source, stored.weight).certificate
        layer = QuantizedLayer(source, stored.weight, certificate)
    return layer if stored.order is None else Reordered(layer, stored.order)
