"""What of a graph depends on no input is computed once, with the codes that constants stand for kept beside them.

Nothing is computed whose result is much larger than what the file stores.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bitwright.sources.onnx_codes import Codes, carried, codes_of
from bitwright.sources.onnx_file import Node
from bitwright.sources.onnx_graph import FAULTS, reason
from bitwright.sources.onnx_table import CONTROL, DOMAINS, options_of

SAME_RANK = {
    "Relu", "Clip", "Sigmoid", "Tanh", "LeakyRelu", "Identity", "MaxPool", "AveragePool", "BatchNormalization", "Pad",
    "Dropout", "QuantizeLinear", "DequantizeLinear", "GlobalAveragePool", "Cast", "Elu", "HardSwish", "LRN", "Quant",
    "PRelu", "Softmax", "Concat",
}  # fmt: skip
"""Operators whose output has as many axes as their first input."""

GROWING = {"ConstantOfShape", "Expand", "Tile", "Range", "Pad", "Resize", "Upsample", "OneHot", "AffineGrid", "EyeLike",
           "Einsum", "MatMul", "Gemm", "ConvTranspose", "GridSample", "DepthToSpace", "Loop", "If", "Conv"}  # fmt: skip
"""Operators whose output may be far larger than their inputs; computed at once only from few elements."""

BROADCAST = {
    "Add", "Sub", "Mul", "Div", "Pow", "Mod", "Where", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual",
    "And", "Or", "Xor", "Max", "Min", "Sum", "Mean", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Clip",
    "PRelu", "Quant", "IntQuant", "BipolarQuant", "FloatQuant", "Trunc",
}  # fmt: skip

FEW = 1 << 12
SPARE = 1 << 26
"""Elements that constants may have beyond what the file stores."""


@dataclass
class Budget:
    """Elements that may still be computed while the model is built."""

    left: int = SPARE


@dataclass
class Scope:
    """What is known of a graph's values while it is built."""

    opsets: Mapping[str, int]
    folder: Path | None
    constants: dict[str, Tensor] = field(default_factory=dict)
    codes: dict[str, Codes] = field(default_factory=dict)  # of constants that are quantized
    origin: dict[str, str] = field(default_factory=dict)  # of a computed constant: the stored one
    kinds: dict[str, int] = field(default_factory=dict)
    ranks: dict[str, int] = field(default_factory=dict)
    budget: Budget = field(default_factory=Budget)

    def inner(self) -> "Scope":
        return replace(self, constants=dict(self.constants), codes=dict(self.codes), origin=dict(self.origin),
                       kinds=dict(self.kinds), ranks=dict(self.ranks))  # fmt: skip


def folded(nodes: list[Node], scope: Scope) -> list[Node]:
    """Nodes that depend on inputs; the others are computed now, their codes kept beside their values."""
    rest = []
    for node in nodes:
        node = _typed(node, scope.kinds)
        for output in node.outputs[:1]:
            _note_rank(node, output, scope)
        if node.op in CONTROL or not all(i in scope.constants for i in node.inputs if i) or not _is_small(node, scope):
            rest.append(node)
            continue
        values = _computed(node, scope)
        scope.budget.left -= sum(v.numel() for v in values if isinstance(v, Tensor))
        for name, value in zip(node.outputs, values, strict=False):
            if isinstance(value, Tensor) and name:
                scope.constants[name] = value
                stored = next((i for i in node.inputs if i in scope.constants), name)
                scope.origin[name] = scope.origin.get(stored, stored)
                scope.ranks[name] = value.dim()
        if not all(isinstance(v, Tensor) for v in values):
            rest.append(node)
            continue
        found = codes_of(node, scope.constants, scope.kinds) or carried(
            node, scope.codes, scope.constants, _computed, scope
        )
        if found is not None:
            scope.codes[node.outputs[0]] = found
    return rest


def _computed(node: Node, scope: Scope, inputs: list[Tensor | None] | None = None) -> tuple[Any, ...]:
    function = DOMAINS[node.domain][node.op]
    given = [scope.constants[i] if i else None for i in node.inputs] if inputs is None else inputs
    while given and given[-1] is None:
        given.pop()
    try:
        options = options_of(function, node.attributes, len(given), len(node.outputs), opset_of(node, scope))
        with torch.no_grad():
            made = function(*given, **options)
    except (*FAULTS, ValueError) as error:
        raise ValueError(f"{node}: {reason(error)}") from None
    return tuple(made) if isinstance(made, tuple) else (made,)


def opset_of(node: Node, scope: Scope) -> int:
    return scope.opsets.get(node.domain, 1)


def _is_small(node: Node, scope: Scope) -> bool:
    """Whether the result cannot be much larger than what the file stores."""
    inputs = [scope.constants[i] for i in node.inputs if i]
    total = sum(t.numel() for t in inputs)
    if total > scope.budget.left:
        return False
    if node.op in ("ConstantOfShape", "Expand", "Tile", "Range", "OneHot", "Pad", "Resize", "Upsample", "AffineGrid"):
        return _asked(node, inputs) <= scope.budget.left
    if total <= FEW:
        return True
    if node.op in GROWING:
        return False
    if node.op in ("Gather", "GatherND") and inputs[0].dim():
        axis = node.attributes.get("axis", 0)
        rows = inputs[0].shape[axis if abs(axis) < inputs[0].dim() else 0]
        return inputs[1].numel() * (inputs[0].numel() // max(rows, 1)) <= 2 * total
    if node.op in BROADCAST:
        try:
            shape = torch.broadcast_shapes(*(t.shape for t in inputs))
        except RuntimeError:
            return False
        return shape.numel() <= total
    return True


def _asked(node: Node, inputs: list[Tensor]) -> float:
    """An upper bound of the elements of an output whose shape is a value; infinite where it is not worth a look."""
    if node.op in ("ConstantOfShape", "Expand", "Tile") and inputs[-1].numel() <= 64:
        product = 1.0
        for size in inputs[-1].flatten().tolist():
            product *= max(abs(size), 1)
        return product * (max(inputs[0].numel(), 1) if node.op != "ConstantOfShape" else 1)
    if node.op == "Range" and len(inputs) == 3 and all(t.numel() == 1 for t in inputs) and inputs[2].item():
        return abs((inputs[1].item() - inputs[0].item()) / inputs[2].item())
    return float("inf")


OBSOLETE = {"consumed_inputs": None, "is_test": 1, "broadcast": 1}
"""Attributes of old versions, at the value that says what newer versions do by themselves."""


def _typed(node: Node, kinds: dict[str, int]) -> Node:
    """Types that a carrier does not show, written as attributes; obsolete attributes left out."""
    if OBSOLETE.keys() & node.attributes.keys():
        kept = {
            n: v
            for n, v in node.attributes.items()
            if n not in OBSOLETE or OBSOLETE[n] not in (None, v) or "axis" in node.attributes
        }
        node = replace(node, attributes=kept)
    if node.op == "QuantizeLinear" and not node.attributes.get("output_dtype") and len(node.inputs) > 2:
        kind = kinds.get(node.inputs[2])
        if kind:
            node = replace(node, attributes={**node.attributes, "output_dtype": kind})
    if node.op == "CastLike" and len(node.inputs) > 1:
        kind = kinds.get(node.inputs[1])
        if kind:
            node = replace(node, op="Cast", inputs=node.inputs[:1], attributes={**node.attributes, "to": kind})
    kind = {"Cast": node.attributes.get("to"), "QuantizeLinear": node.attributes.get("output_dtype")}.get(node.op)
    if node.op in ("Reshape", "Transpose", "Identity", "Slice", "Squeeze", "Unsqueeze", "Flatten", "Concat"):
        kind = kinds.get(node.inputs[0]) if node.inputs else None
    if kind and node.outputs:
        kinds.setdefault(node.outputs[0], kind)
    return node


def _note_rank(node: Node, output: str, scope: Scope) -> None:
    if output in scope.ranks or not node.inputs:
        return
    known = scope.ranks.get(
        node.inputs[1] if node.op in ("Conv", "ConvTranspose") and len(node.inputs) > 1 else node.inputs[0]
    )
    if node.op in ("Add", "Mul", "Sub", "Div"):
        known = max((scope.ranks.get(i, -1) for i in node.inputs), default=-1)
        known = None if any(i not in scope.ranks for i in node.inputs) else known
    if known is not None and (node.op in SAME_RANK or node.op in ("Conv", "ConvTranspose", "Add", "Mul", "Sub", "Div")):
        scope.ranks[output] = known
    elif node.op in ("Gemm", "Flatten"):
        scope.ranks[output] = 2
