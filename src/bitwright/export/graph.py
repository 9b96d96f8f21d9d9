"""Nodes and initializers that are put in the place of one node of an ONNX graph."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

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
