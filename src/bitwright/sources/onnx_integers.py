"""Integer products whose sums are rescaled, as dequantized operands of the float operator.

A product is MatMulInteger or ConvInteger of an input that was quantized just before, by a DynamicQuantizeLinear or a
static QuantizeLinear, with a constant; its sums are cast and multiplied by the product of both scales.
"""

from dataclasses import dataclass, replace

import torch
from onnx import TensorProto
from torch import Tensor

from bitwright.sources.onnx_file import Node
from bitwright.sources.onnx_patterns import Constants, beside

FLOAT_OPERATORS = {"MatMulInteger": ("MatMul", 1), "ConvInteger": ("Conv", 0)}
"""What computes the same of floats, and the axis of the weight whose scales it has."""


@dataclass(frozen=True)
class _Rescaled:
    """A product, the node that quantized its input, and the values that its sums are multiplied by."""

    product: Node
    origin: Node
    factor: str


def rescaled(nodes: list[Node], constants: Constants) -> list[Node]:
    """The nodes with each such group written as a float product of dequantized operands."""
    producer = {o: n for n in nodes for o in n.outputs}
    made = []
    for node in nodes:
        found = _found(node, producer, constants) if node.op == "Mul" and not node.domain else None
        scale = None if found is None else _weight_scale(found, producer, constants)
        if found is None or scale is None:
            made.append(node)
            continue
        made += _written(node, found, scale, constants)
    return made


def _found(node: Node, producer: dict[str, Node], constants: Constants) -> _Rescaled | None:
    for value, factor in (node.inputs, node.inputs[::-1]):
        cast = producer.get(value)
        if cast is None or cast.op != "Cast" or cast.attributes.get("to") != TensorProto.FLOAT:
            continue
        product = producer.get(cast.inputs[0])
        if product is None or product.domain or product.op not in FLOAT_OPERATORS or product.inputs[1] not in constants:
            continue
        codes, zero = product.inputs[0], (*product.inputs, "", "")[2]
        origin = producer.get(codes)
        if origin is None or origin.domain or any(i and i not in constants for i in product.inputs[3:]):
            continue
        if origin.op == "DynamicQuantizeLinear" and zero == origin.outputs[2]:
            return _Rescaled(product, origin, factor)
        if origin.op == "QuantizeLinear" and zero == (*origin.inputs, "", "")[2] and origin.inputs[1] in constants:
            return _Rescaled(product, origin, factor)
    return None


def _weight_scale(found: _Rescaled, producer: dict[str, Node], constants: Constants) -> Tensor | None:
    """The scales of the weight, one or one an output; None where the factor is no product with the input's scale."""
    if found.origin.op == "QuantizeLinear":
        return _quotient(constants.get(found.factor), constants[found.origin.inputs[1]])
    scale = found.origin.outputs[1]
    if found.factor == scale:
        return torch.ones(())
    product = producer.get(found.factor)
    if product is None or product.op != "Mul" or scale not in product.inputs:
        return None
    other = product.inputs[1 - product.inputs.index(scale)]
    return _flat(constants.get(other))


def _flat(scale: Tensor | None) -> Tensor | None:
    if scale is None or scale.dtype != torch.float32:
        return None
    return scale.reshape(()) if scale.numel() == 1 else scale.reshape(-1)


def _quotient(factor: Tensor | None, scale: Tensor) -> Tensor | None:
    """The float32 whose product with the scale is the factor, to the bit."""
    flat = _flat(factor)
    if flat is None or scale.numel() != 1 or not float(scale) > 0:
        return None
    near = flat / scale.reshape(())
    for way in (0.0, float("inf"), -float("inf")):
        tried = torch.nextafter(near, torch.full_like(near, way)) if way else near
        near = torch.where(tried * scale.reshape(()) == flat, tried, near)
    return near if torch.equal(near * scale.reshape(()), flat) else None


def _written(node: Node, found: _Rescaled, scale: Tensor, constants: Constants) -> list[Node]:
    product, at = found.product, node.outputs[0]
    op, axis = FLOAT_OPERATORS[product.op]
    codes, weight, zero = product.inputs[0], product.inputs[1], product.inputs[3:]
    constants[beside(at, "scale")] = scale
    given = found.origin.outputs if found.origin.op == "DynamicQuantizeLinear" else (codes, *found.origin.inputs[1:])
    return [
        Node("DequantizeLinear", "", product.name, given, (beside(at, "x"),), {}),
        Node(
            "DequantizeLinear",
            "",
            product.name,
            (weight, beside(at, "scale"), *zero),
            (beside(at, "weight"),),
            {"axis": axis},
        ),
        replace(product, op=op, inputs=(beside(at, "x"), beside(at, "weight")), outputs=node.outputs),
    ]
