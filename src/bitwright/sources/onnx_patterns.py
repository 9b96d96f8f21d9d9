"""Groups of nodes written as what bitwright knows: integer operators around constant weights, biases, attention."""

from collections import Counter
from dataclasses import replace
from typing import Any

import torch
from onnx import GraphProto
from torch import Tensor, nn
from torch.nn import functional

from bitwright.sources.onnx_file import Node

OWN = "bitwright"
"""Domain of nodes that stand for a group."""

Constants = dict[str, Tensor]


def written_out(nodes: list[Node], constants: Constants) -> list[Node]:
    """Integer operators with constant weights as dequantized operands, the float operator, and a quantization."""
    made = []
    for node in nodes:
        write = INTEGER.get((node.domain, node.op))
        made += (write(node, constants) if write is not None else None) or [node]
    return made


def beside(value: str, what: str) -> str:
    """A name for what is made on the way to a value; exporters give no such names."""
    return f"{value} ({what})"


def _constant(node: Node, constants: Constants, *places: int) -> bool:
    return all(p < len(node.inputs) and node.inputs[p] in constants for p in places)


def _node(op: str, inputs: tuple[str, ...], output: str, like: Node, **attributes: Any) -> Node:
    return Node(op, "", like.name, inputs, (output,), attributes)


def _conv(node: Node, constants: Constants) -> list[Node] | None:
    if not _constant(node, constants, 1, 3, 4, 6, 7) or constants[node.inputs[1]].numel() != 1:
        return None
    bias = node.inputs[8] if len(node.inputs) > 8 else ""
    if bias and bias not in constants:
        return None
    return _real(node, constants, replace(node, op="Conv", domain=""), (*node.inputs[:8], bias), axis=0)


def _matmul(node: Node, constants: Constants) -> list[Node] | None:
    if not _constant(node, constants, 1, 3, 4, 6, 7) or constants[node.inputs[1]].numel() != 1:
        return None
    if constants[node.inputs[3]].dim() != 2:
        return None
    product = replace(node, op="MatMul", domain="", attributes={})
    return _real(node, constants, product, (*node.inputs[:8], ""), axis=1)


def _gemm(node: Node, constants: Constants) -> list[Node] | None:
    if not _constant(node, constants, 1, 3, 4) or constants[node.inputs[1]].numel() != 1:
        return None
    bias, y_scale, y_zero = (*node.inputs[6:], "", "", "")[:3]
    if bias and bias not in constants:
        return None
    inputs = (*node.inputs[:6], y_scale, y_zero, bias)
    axis = 0 if node.attributes.get("transB") else 1
    return _real(node, constants, replace(node, op="Gemm", domain=""), inputs, axis=axis)


def _real(node: Node, constants: Constants, like: Node, inputs: tuple[str, ...], *, axis: int) -> list[Node]:
    """`like` between what dequantizes its operands and what quantizes its output, where a scale of that is given.

    Inputs are x, w and y, each with scale and zero point but for y, which has those alone, and a bias.
    """
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias = inputs
    at = node.outputs[0]
    real_x, real_w, real_y, real_bias = (beside(at, n) for n in ("x", "w", "y", "bias"))
    if bias:
        unit = constants[x_scale] * constants[w_scale] * node.attributes.get("alpha", 1.0)
        constants[real_bias] = constants[bias].float() * unit.reshape(-1)
    operands = (real_x, real_w, real_bias) if bias else (real_x, real_w)
    made = [
        _node("DequantizeLinear", (x, x_scale, x_zero), real_x, node),
        _node("DequantizeLinear", (w, w_scale, w_zero), real_w, node, axis=axis),
        replace(like, inputs=operands, outputs=(real_y if y_scale else at,)),
    ]
    return [*made, _node("QuantizeLinear", (real_y, y_scale, y_zero), at, node)] if y_scale else made


INTEGER = {("", "QLinearConv"): _conv, ("", "QLinearMatMul"): _matmul, ("com.microsoft", "QGemm"): _gemm}


def readers(nodes: list[Node], outputs: tuple[str, ...]) -> Counter[str]:
    """How often each value is read, by nodes, graphs inside of them, and as an output."""
    count = Counter(outputs)
    for node in nodes:
        count.update(node.inputs)
        for value in node.attributes.values():
            if isinstance(value, GraphProto):
                count.update(_mentioned(value))
    return count


def _mentioned(graph: GraphProto) -> list[str]:
    inside = [v for n in graph.node for a in n.attribute if a.HasField("g") for v in _mentioned(a.g)]
    return [*(i for n in graph.node for i in n.input), *(o.name for o in graph.output), *inside]


def biased(nodes: list[Node], outputs: tuple[str, ...], constants: Constants) -> list[Node]:
    """A MatMul with a constant whose result alone goes into an addition of a constant vector, as one node."""
    count = readers(nodes, outputs)
    products = {
        n.outputs[0]: n for n in nodes
        if n.op == "MatMul" and not n.domain and count[n.outputs[0]] == 1 and _constant(n, constants, 1)
        and n.inputs[0] not in constants and constants[n.inputs[1]].dim() == 2
        and constants[n.inputs[1]].dtype == torch.float32
    }  # fmt: skip
    joined: dict[str, Node] = {}
    gone: set[str] = set()
    for node in nodes:
        if node.op != "Add" or node.domain:
            continue
        for value, other in (node.inputs, node.inputs[::-1]):
            bias = constants.get(other)
            product = products.get(value)
            if product is None or bias is None or bias.dtype != torch.float32:
                continue
            if tuple(bias.shape) == (constants[product.inputs[1]].shape[1],):
                joined[node.outputs[0]] = replace(product, inputs=(*product.inputs, other), outputs=node.outputs)
                gone.add(value)
    return [joined.get(n.outputs[0], n) for n in nodes if n.outputs[0] not in gone]


class ScaledDotProduct(nn.Module):
    """softmax(q kᵀ · scale + mask) v, whose products bitwright quantizes; k comes transposed."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        return functional.scaled_dot_product_attention(q, k.transpose(-1, -2), v, attn_mask=mask, scale=self.scale)

    def extra_repr(self) -> str:
        return f"scale={self.scale}"


def attended(nodes: list[Node], outputs: tuple[str, ...], constants: Constants) -> list[Node]:
    """MatMul, scale, mask, Softmax over the last axis and MatMul as one node, where nothing else reads between."""
    count, producer = readers(nodes, outputs), {n.outputs[0]: n for n in nodes}
    joined: dict[str, Node] = {}
    for node in nodes:
        softmax = producer.get(node.inputs[0]) if node.op == "MatMul" and len(node.inputs) == 2 else None
        if (
            softmax is None
            or softmax.op != "Softmax"
            or softmax.attributes.get("axis") != -1
            or node.inputs[1] in constants
        ):
            continue
        scale, mask, inner = 1.0, "", softmax.inputs[0]
        between = [softmax.outputs[0], inner]
        step = producer.get(inner)
        if step is not None and step.op == "Add":
            sides = [
                i for i in step.inputs if producer.get(i) is not None and producer[i].op in ("MatMul", "Mul", "Div")
            ]
            if not sides:
                continue
            inner = sides[0]
            mask = next(i for i in (*step.inputs, "") if i != inner)
            between.append(inner)
            step = producer.get(inner)
        if step is not None and step.op in ("Mul", "Div"):
            factor = constants.get(step.inputs[1])
            if factor is None or factor.numel() != 1 or factor.dim() > 1 or factor.dtype != torch.float32:
                continue
            scale = float(factor if step.op == "Mul" else 1 / factor)
            inner = step.inputs[0]
            between.append(inner)
            step = producer.get(inner)
        if step is None or step.op != "MatMul" or len(step.inputs) != 2 or any(i in constants for i in step.inputs):
            continue
        if any(count[v] != 1 for v in between):
            continue
        inputs = (*step.inputs, node.inputs[1], *([mask] if mask else []))
        joined[node.outputs[0]] = Node("Attention", OWN, node.name, inputs, node.outputs, {"scale": scale})
    return [joined.get(n.outputs[0], n) for n in nodes]
