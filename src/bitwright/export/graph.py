"""Nodes and initializers that are put in the place of one node of an ONNX graph."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

PACKED = {
    TensorProto.INT2: 2, TensorProto.UINT2: 2, TensorProto.INT4: 4, TensorProto.UINT4: 4, TensorProto.FLOAT4E2M1: 4,
    TensorProto.INT8: 8, TensorProto.UINT8: 8, TensorProto.FLOAT8E4M3FN: 8, TensorProto.FLOAT8E5M2: 8,
    TensorProto.FLOAT8E8M0: 8,
}  # fmt: skip
"""Bits of the types that codes are stored in."""


class Fragment:
    """Collects nodes. Values are known by their names, which begin with the layer's."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.operands: dict[str, str] = {}
        """Values that stand for "input" and "weight" of the layer, to be checked when the file runs."""
        self._known: dict[tuple[Any, ...], str] = {}

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """A node with one output; gives the output's name. `domain` is an attribute like others."""
        output = f"{self.name}/{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=output, **attributes))
        return output

    def constant(self, value: Any, dtype: type = np.float32) -> str:
        """An initializer; equal ones are one."""
        array: np.ndarray = np.asarray(value, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            name = f"{self.name}/constant_{len(self.initializers)}"
            self.initializers.append(numpy_helper.from_array(array, name))
            self._known[key] = name
        return self._known[key]

    def integers(self, label: str, values: np.ndarray, kind: int) -> str:
        """Integers, or codes of a float type, of one of the `PACKED` types: the first in the lowest bits of a byte."""
        bits = PACKED[kind]  # type: ignore[index]
        flat = values.reshape(-1).astype(np.int64) & (2**bits - 1)
        lanes = np.pad(flat, (0, -len(flat) % (8 // bits))).reshape(-1, 8 // bits)
        joined = (lanes << (bits * np.arange(8 // bits))).sum(1)
        name = f"{self.name}/{label}"
        raw = joined.astype(np.uint8).tobytes()
        self.initializers.append(TensorProto(name=name, data_type=kind, dims=list(values.shape), raw_data=raw))
        return name

    def reshape(self, x: str, shape: Sequence[int]) -> str:
        """0 keeps an axis, -1 is what is left."""
        return self.op("Reshape", x, self.constant(shape, np.int64))


def replace(model: onnx.ModelProto, fragments: dict[str, tuple[Fragment, str]]) -> None:
    """Put fragments in the place of nodes, by the name of the node's output; each with the name of its own output."""
    nodes = []
    for node in model.graph.node:
        if node.output[0] not in fragments:
            nodes.append(node)
            continue
        fragment, output = fragments[node.output[0]]
        fragment.nodes.append(helper.make_node("Identity", [output], [node.output[0]], name=f"{fragment.name}/output"))
        nodes += fragment.nodes
        used = {name for n in fragment.nodes for name in n.input}
        model.graph.initializer.extend(i for i in fragment.initializers if i.name in used)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    for i in reversed([i for i, o in enumerate(model.opset_import) if o.domain == "bitwright"]):
        del model.opset_import[i]


def fold_constants(model: onnx.ModelProto) -> None:
    """What standard operators compute of constants and of shapes that are known, as constants; in place.

    Operators of other domains stay, and must keep the shape of their first input.
    """
    known: dict[str, np.ndarray] = {}
    shapes = _shapes(model)
    constants = {i.name: i for i in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        inputs = [name for name in node.input if name]
        if node.op_type == "Shape" and inputs[0] in shapes:
            ends = {a.name: a.i for a in node.attribute}
            sizes = shapes[inputs[0]][ends.get("start", 0) : ends.get("end")]
            known[node.output[0]] = np.array(sizes, np.int64)
        elif inputs and not node.domain and all(name in known or name in constants for name in inputs):
            feeds = {n: known[n] if n in known else numpy_helper.to_array(constants[n]) for n in inputs}
            values: Any = ReferenceEvaluator(node).run(None, feeds)
            known |= zip(node.output, values, strict=True)
        else:
            nodes.append(node)
    used = {name for node in nodes for name in node.input} | {o.name for o in model.graph.output}
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(numpy_helper.from_array(v, name) for name, v in known.items() if name in used)


def _shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    """Of every value whose axes are all of known length."""
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    for node in plain.graph.node:
        if node.domain:
            node.CopyFrom(helper.make_node("Identity", [node.input[0]], [node.output[0]]))
    graph = onnx.shape_inference.infer_shapes(plain, data_prop=True).graph
    found = {}
    for value in (*graph.input, *graph.output, *graph.value_info):
        axes = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(axis.HasField("dim_value") for axis in axes):
            found[value.name] = [axis.dim_value for axis in axes]
    return found
