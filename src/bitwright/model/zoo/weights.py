"""Trained tensors from safetensors files, under the names that the networks of the zoo use.

A conversion is a function from the tensors of the files and the empty model to the model's state; loading is strict.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

State = dict[str, Tensor]
Conversion = Callable[[State, nn.Module], State]


def load_weights_(model: nn.Module, files: Sequence[Path], convert: Conversion) -> nn.Module:
    """The model with the files' tensors, in eval mode."""
    tensors = read_tensors(files)
    try:
        model.load_state_dict(convert(tensors, model), strict=True)
    except (RuntimeError, ValueError, LookupError) as error:
        names = ", ".join(map(str, files))
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{names}: the tensors do not fit {type(model).__name__} ({reason}); fetch the file again"
        ) from error
    return model.eval()


def read_tensors(files: Sequence[Path]) -> State:
    """All tensors in float32; one of a later file replaces its namesake of an earlier one."""
    tensors: State = {}
    for file in files:
        try:
            tensors |= {name: tensor.float() for name, tensor in load_file(file).items()}
        except SafetensorError as error:
            raise ValueError(f"{file} is not a whole safetensors file ({error}); fetch it again") from error
    return tensors


def unchanged(tensors: State, model: nn.Module) -> State:
    """The files' own names."""
    return tensors


@dataclass(frozen=True)
class Renamed:
    """Names after these (pattern, replacement) substitutions, in order."""

    substitutions: tuple[tuple[str, str], ...]

    def __call__(self, tensors: State, model: nn.Module) -> State:
        return {self.rename(name): tensor for name, tensor in tensors.items()}

    def rename(self, name: str) -> str:
        for pattern, replacement in self.substitutions:
            name = re.sub(pattern, replacement, name)
        return name


@dataclass(frozen=True)
class InOrder:
    """The n-th layer of a kind in the files is the n-th such module; a file's layer is its kind, then `_<number>`."""

    kinds: tuple[tuple[str, Callable[[nn.Module], bool]], ...]

    def __call__(self, tensors: State, model: nn.Module) -> State:
        layers = sorted({name.rpartition(".")[0] for name in tensors}, key=numbered)
        modules: dict[str, str] = {}
        for kind, is_kind in self.kinds:
            of_kind = [name for name, module in model.named_modules() if is_kind(module)]
            modules |= zip((layer for layer in layers if numbered(layer)[0] == kind), of_kind, strict=True)
        return {rename_layer(name, modules): tensor for name, tensor in tensors.items()}


def numbered(layer: str) -> tuple[str, int]:
    """Kind and number: Keras leaves the first of a kind without one."""
    kind, _, number = layer.rpartition("_")
    return (kind, int(number)) if number.isdigit() else (layer, 0)


def rename_layer(name: str, modules: dict[str, str]) -> str:
    layer, _, parameter = name.rpartition(".")
    return f"{modules[layer]}.{parameter}"


def is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear)


def is_batch_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.BatchNorm2d)


def is_convolution(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d)


def is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups > 1


def is_full_convolution(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups == 1


ONNX_ORDER = InOrder((("conv", is_convolution), ("gemm", is_linear)))

KERAS_ORDER = InOrder(
    (
        ("conv2d", is_full_convolution),
        ("depthwise_conv2d", is_depthwise),
        ("batch_normalization", is_batch_norm),
        ("dense", is_linear),
    )
)

EFFICIENTNET_NAMES = Renamed(
    (
        (r"^_conv_(stem|head)", r"\1.conv"),
        (r"^_bn0", "stem.bn"),
        (r"^_bn1", "head.bn"),
        (r"^_fc", "classifier"),
        (r"^_blocks\.(\d+)\._(expand|depthwise|project)_conv", r"blocks.\1.body.\2.conv"),
        (r"^_blocks\.(\d+)\._bn0", r"blocks.\1.body.expand.bn"),
        (r"^_blocks\.(\d+)\._bn1", r"blocks.\1.body.depthwise.bn"),
        (r"^_blocks\.(\d+)\._bn2", r"blocks.\1.body.project.bn"),
    )
)

BERT_NAMES = Renamed(
    (
        (r"^embeddings\.(word|position)_embeddings", r"encoder.\1s"),
        (r"^embeddings\.token_type_embeddings", "encoder.segments"),
        (r"^embeddings\.LayerNorm", "encoder.norm"),
        (r"^encoder\.layer\.(\d+)", r"encoder.layers.\1"),
        (r"\.attention\.self\.", "."),
        (r"\.attention\.output\.dense", ".attention_output"),
        (r"\.attention\.output\.LayerNorm", ".attention_norm"),
        (r"\.intermediate\.dense", ".expand"),
        (r"\.output\.dense", ".contract"),
        (r"\.output\.LayerNorm", ".norm"),
    )
)


def tied_output(tensors: State, model: nn.Module) -> State:
    """The output matrix is the embedding's."""
    return tensors | {"output.weight": tensors["tok_embeddings.weight"]}


def tensorflow_lstm(tensors: State, model: nn.Module) -> State:
    """BasicLSTM kernels [input + hidden, gates i j f o], forget bias 1 not yet added, to torch's rows i f g o."""
    state = {
        "embedding.weight": tensors["embedding"],
        "output.weight": tensors["rnnlm/softmax_w"].T,
        "output.bias": tensors["rnnlm/softmax_b"],
    }
    for layer in range(2):
        cell = f"rnnlm/multi_rnn_cell/cell_{layer}/basic_lstm_cell"
        kernel, bias = torch_gates(tensors[f"{cell}/kernel"].T), torch_gates(tensors[f"{cell}/bias"])
        hidden = kernel.shape[0] // 4
        bias[hidden : 2 * hidden] += 1.0
        state[f"lstm.weight_ih_l{layer}"] = kernel[:, :-hidden]
        state[f"lstm.weight_hh_l{layer}"] = kernel[:, -hidden:]
        state[f"lstm.bias_ih_l{layer}"] = bias
        state[f"lstm.bias_hh_l{layer}"] = torch.zeros_like(bias)
    return state


def torch_gates(rows: Tensor) -> Tensor:
    """Rows of the gates i j f o in the order i f j o."""
    i, j, f, o = rows.chunk(4)
    return torch.cat((i, f, j, o))
