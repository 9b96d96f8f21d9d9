"""Nodes with constant weights as torch's layers, so that they are found, folded and quantized like any other."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bitwright.sources.onnx_file import Node
from bitwright.sources.onnx_math import Operator
from bitwright.sources.onnx_patterns import OWN, ScaledDotProduct
from bitwright.sources.onnx_recurrent import RECURRENT, as_torch
from bitwright.sources.onnx_windows import flat_pads, pad_same, paddings

WIDEST_PAD = 1 << 12
"""Zeros on a side that a layer is made with."""

Constants = dict[str, Tensor]

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


@dataclass(frozen=True)
class Made:
    """A layer, the values that it reads, and what is done to the first of them before."""

    layer: nn.Module
    inputs: tuple[str, ...]
    before: Operator | None = None
    options: dict[str, Any] = field(default_factory=dict)


def layer_of(node: Node, constants: Constants, rank: int | None) -> Made | None:
    """The layer that computes a node; None where torch has none, or its weights are no constants."""
    make = LAYERS.get((node.domain, node.op))
    if make is None or any(t.dtype != torch.float32 for t in _parameters(node, constants)):
        return None
    return make(node, constants, rank)


def _parameters(node: Node, constants: Constants) -> list[Tensor]:
    """The constants that a layer would hold: of a Gather the table, of others all but the first input."""
    held = node.inputs[:1] if node.op == "Gather" else node.inputs[1:]
    return [constants[i] for i in held if i in constants]


def _known(node: Node, constants: Constants, places: Sequence[int]) -> bool:
    """Whether these inputs are constants or left out."""
    return all(p >= len(node.inputs) or not node.inputs[p] or node.inputs[p] in constants for p in places)


def _parameter(node: Node, constants: Constants, place: int) -> Tensor | None:
    name = node.inputs[place] if place < len(node.inputs) else ""
    return constants[name].detach().clone() if name else None


def _filled(layer: nn.Module, weight: Tensor, bias: Tensor | None) -> nn.Module:
    layer.weight = nn.Parameter(weight.contiguous())
    layer.bias = None if bias is None else nn.Parameter(bias.contiguous())  # type: ignore[assignment]
    return layer


def convolution(node: Node, constants: Constants, rank: int | None) -> Made | None:
    weight, bias = None, None
    if node.inputs[1:2] and node.inputs[1] in constants and _known(node, constants, (2,)):
        weight, bias = _parameter(node, constants, 1), _parameter(node, constants, 2)
    if weight is None or not 3 <= weight.dim() <= 5 or not weight.numel() or bad_bias(bias, len(weight)):
        return None
    options = node.attributes
    axes, kernel = weight.dim() - 2, tuple(weight.shape[2:])
    strides, dilations = (tuple(options.get(n) or [1] * axes) for n in ("strides", "dilations"))
    groups = options.get("group", 1)
    if groups < 1 or len(weight) % groups or len(strides) != axes or len(dilations) != axes:
        return None
    auto = options.get("auto_pad", "NOTSET")
    around: list[tuple[int, int]] = [(0, 0)] * axes
    before: Operator | None = None
    arguments: dict[str, Any] = {}
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        before = pad_same
        arguments = {"kernel": kernel, "strides": strides, "dilations": dilations, "auto_pad": auto}
    else:
        around = paddings((), kernel, pads=options.get("pads"), auto_pad=auto)
        if len(around) != axes or any(not 0 <= v <= WIDEST_PAD for pair in around for v in pair):
            return None  # the operator asks for room first
        if any(low != high for low, high in around):
            before, arguments, around = functional.pad, {"pad": flat_pads(around)}, [(0, 0)] * axes
    layer = CONVS[axes - 1](
        weight.shape[1] * groups, len(weight), kernel, strides, tuple(a for a, _ in around), dilations, groups,  # type: ignore[arg-type]
        bias=bias is not None, device="meta",
    )  # fmt: skip
    return Made(_filled(layer, weight, bias), node.inputs[:1], before, arguments)


def bad_bias(bias: Tensor | None, outputs: int) -> bool:
    return bias is not None and tuple(bias.shape) != (outputs,)


def transposed(node: Node, constants: Constants, rank: int | None) -> Made | None:
    if not (node.inputs[1:2] and node.inputs[1] in constants and _known(node, constants, (2,))):
        return None
    options = node.attributes
    weight, bias = _parameter(node, constants, 1), _parameter(node, constants, 2)
    assert weight is not None, "asked before"
    axes, groups = weight.dim() - 2, options.get("group", 1)
    if (
        not 1 <= axes <= 3
        or not weight.numel()
        or groups < 1
        or "output_shape" in options
        or bad_bias(bias, weight.shape[1] * groups)
    ):
        return None
    if options.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return None
    around = paddings((), weight.shape[2:], pads=options.get("pads"), auto_pad=options.get("auto_pad", "NOTSET"))
    if len(around) != axes or any(low != high or low < 0 for low, high in around):
        return None
    strides, dilations, extra = (
        tuple(options.get(n) or [v] * axes) for n, v in (("strides", 1), ("dilations", 1), ("output_padding", 0))
    )
    if any(e >= max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True)) or len(weight) % groups:
        return None
    layer = TRANSPOSED[axes - 1](
        len(weight), weight.shape[1] * groups, tuple(weight.shape[2:]), strides, tuple(a for a, _ in around), extra,  # type: ignore[arg-type]
        groups, bias is not None, dilations, device="meta",
    )  # fmt: skip
    return Made(_filled(layer, weight, bias), node.inputs[:1])


def gemm(node: Node, constants: Constants, rank: int | None) -> Made | None:
    options = node.attributes
    if (
        options.get("transA")
        or len(node.inputs) < 2
        or node.inputs[1] not in constants
        or not _known(node, constants, (2,))
    ):
        return None
    weight, bias = _parameter(node, constants, 1), _parameter(node, constants, 2)
    assert weight is not None, "asked before"
    if weight.dim() != 2 or not weight.numel():
        return None
    weight = weight if options.get("transB") else weight.t()
    if options.get("alpha", 1.0) != 1:
        weight = weight * options["alpha"]
    if bias is not None:
        if bias.numel() not in (1, len(weight)) or (bias.dim() and bias.numel() != bias.shape[-1]):
            return None
        bias = (bias.reshape(-1) * options.get("beta", 1.0)).expand(len(weight))
    return Made(_linear(weight, bias), node.inputs[:1])


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Module:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    return _filled(layer, weight, bias)


def product(node: Node, constants: Constants, rank: int | None) -> Made | None:
    """A MatMul with a constant on its right; joined with an addition, where the third input is a bias."""
    if len(node.inputs) < 2 or node.inputs[0] in constants or node.inputs[1] not in constants:
        return None
    weight = constants[node.inputs[1]]
    if weight.dim() != 2 or not weight.numel():
        return None
    bias = _parameter(node, constants, 2)
    return Made(_linear(weight.detach().clone().t(), None if bias is None else bias.reshape(-1)), node.inputs[:1])


def batch_norm(node: Node, constants: Constants, rank: int | None) -> Made | None:
    if rank not in NORMS or not _known(node, constants, (1, 2, 3, 4)) or len(node.outputs) > 1:
        return None
    if len(node.inputs) != 5 or node.attributes.get("training_mode") or not node.attributes.get("spatial", 1):
        return None
    scale, shift, mean, variance = (constants[i].detach().clone() for i in node.inputs[1:])
    if any(t.dim() != 1 or t.shape != scale.shape for t in (scale, shift, mean, variance)):
        return None
    layer = NORMS[rank](len(scale), eps=node.attributes.get("epsilon", 1e-5))
    _filled(layer, scale, shift)
    layer.running_mean.copy_(mean)  # type: ignore[union-attr]
    layer.running_var.copy_(variance)  # type: ignore[union-attr]
    return Made(layer, node.inputs[:1])


def layer_norm(node: Node, constants: Constants, rank: int | None) -> Made | None:
    if node.attributes.get("axis", -1) != -1 or len(node.outputs) > 1 or not _known(node, constants, (1, 2)):
        return None
    scale, shift = _parameter(node, constants, 1), _parameter(node, constants, 2)
    # one value may stand for all of an axis whose size is not known here
    if scale is None or scale.dim() != 1 or len(scale) == 1 or bad_bias(shift, len(scale)):
        return None
    layer = nn.LayerNorm(len(scale), node.attributes.get("epsilon", 1e-5), bias=shift is not None)
    return Made(_filled(layer, scale, shift), node.inputs[:1])


def embedding(node: Node, constants: Constants, rank: int | None) -> Made | None:
    if (
        node.attributes.get("axis", 0)
        or len(node.inputs) < 2
        or node.inputs[0] not in constants
        or node.inputs[1] in constants
    ):
        return None
    table = constants[node.inputs[0]]
    if table.dim() != 2 or not table.numel():
        return None
    layer = nn.Embedding(table.shape[0], table.shape[1], _weight=table.detach().clone())
    return Made(layer, node.inputs[1:2], from_front, {"size": len(table)})


def attention(node: Node, constants: Constants, rank: int | None) -> Made | None:
    return Made(ScaledDotProduct(node.attributes["scale"]), node.inputs)


def recurrent(node: Node, constants: Constants, rank: int | None) -> Made | None:
    """Without lengths or peepholes, whose inputs come after the initial states."""
    inputs = (*node.inputs, *[""] * (8 - len(node.inputs)))
    if inputs[4] or inputs[7] or not _known(node, constants, (1, 2, 3)):
        return None
    states = tuple(i for i in inputs[5:7] if i)
    if node.op == "LSTM" and len(states) == 1:
        return None
    weights = [constants[i] if i else None for i in inputs[1:4]]
    layer = as_torch(node.op, weights, node.attributes, len(node.outputs))
    return None if layer is None else Made(layer, (inputs[0], *states))


def from_front(index: Tensor, *, size: int) -> Tensor:
    """Indices that count from the end, counted from the front."""
    return torch.where(index < 0, index + size, index).long()


LAYERS = {
    ("", "Conv"): convolution, ("", "ConvTranspose"): transposed, ("", "Gemm"): gemm, ("", "MatMul"): product,
    ("", "BatchNormalization"): batch_norm, ("", "LayerNormalization"): layer_norm, ("", "Gather"): embedding,
    (OWN, "Attention"): attention, **{("", op): recurrent for op in RECURRENT},
}  # fmt: skip
