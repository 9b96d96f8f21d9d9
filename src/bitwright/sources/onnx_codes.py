"""Constants that stand for codes: their levels, scales and zero points, followed through what moves elements."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from onnx import TensorProto
from torch import Tensor

from bitwright.formats import E2M1, E4M3, E5M2, Format, Int
from bitwright.sources.onnx_file import Node
from bitwright.sources.onnx_quantize import QONNX_DOMAINS, quant_levels, spread
from bitwright.sources.onnx_types import integer_range

FLOATS: dict[int, Format] = {TensorProto.FLOAT8E4M3FN: E4M3, TensorProto.FLOAT8E5M2: E5M2, TensorProto.FLOAT4E2M1: E2M1}


@dataclass(frozen=True)
class Codes:
    """value = (levels - zero) · scale; all three have the value's shape, the latter two mostly by repeating."""

    levels: Tensor
    scale: Tensor
    zero: Tensor
    format: Format | None  # of levels; None where only the levels tell it


def format_of(kind: int) -> Format | None:
    """The format of an element type of ONNX, where levels of it are codes."""
    ends = integer_range(kind)
    if ends is None:
        return FLOATS.get(kind)
    bits = (ends[1] - ends[0]).bit_length()
    return Int(bits, signed=ends[0] < 0) if bits <= 16 else None


def codes_of(node: Node, constants: dict[str, Tensor], kinds: dict[str, int]) -> Codes | None:
    """Of the first output of a node whose inputs are constants and whose work is to read codes."""
    x = [constants[i] if i else None for i in node.inputs]
    if node.op == "DequantizeLinear" and node.domain in ("", "com.microsoft"):
        axis, block = node.attributes.get("axis", 1), node.attributes.get("block_size", 0)
        levels, scale, zero = x[0], x[1], x[2] if len(x) > 2 else None
        assert levels is not None, "computed before"
        assert scale is not None, "computed before"
        offset = torch.zeros(()) if zero is None else spread(zero.double(), levels, axis, block)
        kind = kinds.get(node.inputs[0], 0)
        return _like(levels, spread(scale.float(), levels, axis, block), offset, format_of(kind))
    if node.domain in QONNX_DOMAINS and node.op in ("Quant", "IntQuant"):
        levels = quant_levels(*x, **node.attributes)  # type: ignore[arg-type]
        bits = float(x[3].max())  # type: ignore[union-attr]
        whole = Int(int(-(-bits // 1)), bool(node.attributes.get("signed", 1))) if bits <= 32 else None
        return _like(levels, x[1], x[2], whole)  # type: ignore[arg-type]
    if node.domain in QONNX_DOMAINS and node.op == "BipolarQuant":
        return _like(torch.where(x[0] >= 0, 1, -1), x[1], torch.zeros(()), Int(2, narrow=True))  # type: ignore[arg-type,operator]
    if node.op == "Cast" and x[0] is not None and not x[0].is_floating_point() and x[0].dtype is not torch.bool:
        return _like(x[0], torch.ones(()), torch.zeros(()), format_of(kinds.get(node.inputs[0], 0)))
    if (
        node.op == "Gather"
        and x[0] is not None
        and x[0].dim() == 1
        and x[0].dtype is torch.float32
        and x[0].numel() <= 256
    ):
        value = constants[node.outputs[0]]
        return _like(value, torch.ones(()), torch.zeros(()), None)
    return None


def _like(levels: Tensor, scale: Tensor, zero: Tensor, format: Format | None) -> Codes | None:
    try:
        return Codes(levels, scale.float().expand(levels.shape), zero.expand(levels.shape), format)
    except RuntimeError:  # it broadcasts the levels, so they are no codes of single elements
        return None


MOVING = ("Reshape", "Transpose", "Slice", "Squeeze", "Unsqueeze", "Flatten", "Identity")


def carried(
    node: Node, codes: dict[str, Codes], constants: dict[str, Tensor],
    compute: Callable[[Node, Any, list[Tensor | None]], tuple[Any, ...]], scope: Any,
) -> Codes | None:  # fmt: skip
    """Codes after a constant's elements were moved, or all scaled."""
    source = codes.get(node.inputs[0]) if node.inputs else None
    if node.op == "Mul" and source is None and len(node.inputs) > 1:
        source = codes.get(node.inputs[1])
    if source is None:
        return None
    rest = [constants[i] if i else None for i in node.inputs[1:]]
    if node.op in MOVING:
        levels, scale, zero = (compute(node, scope, [t, *rest])[0] for t in (source.levels, source.scale, source.zero))
        return Codes(levels, scale, zero, source.format)
    if node.op == "Mul":
        factor = constants[node.inputs[1] if node.inputs[0] in codes else node.inputs[0]]
        if torch.broadcast_shapes(factor.shape, source.levels.shape) == source.levels.shape:
            return replace(source, scale=source.scale * factor)
    return None
