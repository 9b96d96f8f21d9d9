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


def _constant(node: Node, constants: Constants, *places: int) -> bool:
    return all(p < len(node.inputs) and node.inputs[p] in constants for p in places)


def _node(op: str, inputs: tuple[str, ...], output: str, like: Node, **attributes: Any) -> Node:
    return Node(op, "", like.name, inputs, (output,), attributes)


def _conv(node: Node, constants: Constants) -> list[Node] | None:
    if not _constant(node, constants, 1, 3, 4, 6, 7) or constants[node.inputs[1]].numel() != 1:
        return None
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, *bias = node.inputs
    if bias and bias[0] not in constants:
        return None
    at = node.outputs[0]
    inputs: tuple[str, ...] = (f"{at}/x", f"{w}/real")
    if bias and bias[0]:
        constants[f"{at}/bias"] = constants[bias[0]].float() * (constants[x_scale] * constants[w_scale]).reshape(-1)
        inputs = (*inputs, f"{at}/bias")
    return [
        _node("DequantizeLinear", (x, x_scale, x_zero), f"{at}/x", node),
        _node("DequantizeLinear", (w, w_scale, w_zero), f"{w}/real", node, axis=0),
        replace(node, op="Conv", domain="", inputs=inputs, outputs=(f"{at}/y",)),
        _node("QuantizeLinear", (f"{at}/y", y_scale, y_zero), at, node),
    ]


def _matmul(node: Node, constants: Constants) -> list[Node] | None:
    if not _constant(node, constants, 1, 3, 4, 6, 7) or constants[node.inputs[1]].numel() != 1:
        return None
    if constants[node.inputs[3]].dim() != 2:
        return None
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = node.inputs[:8]
    at = node.outputs[0]
    return [
        _node("DequantizeLinear", (a, a_scale, a_zero), f"{at}/x", node),
        _node("DequantizeLinear", (b, b_scale, b_zero), f"{b}/real", node, axis=1),
        replace(node, op="MatMul", domain="", inputs=(f"{at}/x", f"{b}/real"), outputs=(f"{at}/y",), attributes={}),
        _node("QuantizeLinear", (f"{at}/y", y_scale, y_zero), at, node),
    ]


def _gemm(node: Node, constants: Constants) -> list[Node] | None:
    if not _constant(node, constants, 1, 3, 4) or constants[node.inputs[1]].numel() != 1:
        return None
    a, a_scale, a_zero, b, b_scale, b_zero, *rest = node.inputs
    at = node.outputs[0]
    inputs: tuple[str, ...] = (f"{at}/x", f"{b}/real")
    alpha = node.attributes.get("alpha", 1.0)
    if rest and rest[0]:
        if rest[0] not in constants:
            return None
        constants[f"{at}/bias"] = constants[rest[0]].float() * (
            constants[a_scale] * constants[b_scale] * alpha
        ).reshape(-1)
        inputs = (*inputs, f"{at}/bias")
    is_quantized = len(rest) > 2
    made = [
        _node("DequantizeLinear", (a, a_scale, a_zero), f"{at}/x", node),
        _node(
            "DequantizeLinear", (b, b_scale, b_zero), f"{b}/real", node, axis=0 if node.attributes.get("transB") else 1
        ),
        replace(node, op="Gemm", domain="", inputs=inputs, outputs=(f"{at}/y" if is_quantized else at,)),
    ]
    return [*made, _node("QuantizeLinear", (f"{at}/y", rest[1], rest[2]), at, node)] if is_quantized else made


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
            scale = float(factor) if step.op == "Mul" else 1 / float(factor)
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
