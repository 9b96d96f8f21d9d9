"""An ONNX file as checked plain values: a damaged or hostile one is refused in one sentence before memory is taken.

Only protocol buffers are parsed. Tensors outside of the file are read from its folder alone, and no tensor is built
whose declared shape does not match the bytes that are stored.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper
from torch import Tensor

LIMIT = 1 << 28
"""Most elements of one tensor that a file may ask for beyond what it stores: 1 GiB in float32."""

LARGEST_FILE = 1 << 31
"""Bytes that a protocol buffer can have."""

LONGEST_PATH = 1000
"""Letters of a path to tensors outside of the file."""

OLDEST = 1
"""Operators of the first opsets that broadcast in their own way are refused by their attributes."""

STANDARD = ("", "ai.onnx")

KINDS: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32, TensorProto.DOUBLE: torch.float64, TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16, TensorProto.BOOL: torch.bool,
    TensorProto.INT8: torch.int8, TensorProto.INT16: torch.int16, TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64, TensorProto.UINT8: torch.uint8, TensorProto.UINT16: torch.uint16,
    TensorProto.UINT32: torch.uint32, TensorProto.UINT64: torch.uint64,
    TensorProto.FLOAT8E4M3FN: torch.float8_e4m3fn, TensorProto.FLOAT8E4M3FNUZ: torch.float8_e4m3fnuz,
    TensorProto.FLOAT8E5M2: torch.float8_e5m2, TensorProto.FLOAT8E5M2FNUZ: torch.float8_e5m2fnuz,
    TensorProto.FLOAT8E8M0: torch.float8_e8m0fnu,
    # carried in the next type that computes
    TensorProto.INT4: torch.int8, TensorProto.UINT4: torch.uint8, TensorProto.INT2: torch.int8,
    TensorProto.UINT2: torch.uint8, TensorProto.FLOAT4E2M1: torch.float32,
}  # fmt: skip
"""The type that carries each of ONNX's."""

BITS: dict[int, int] = {
    TensorProto.INT2: 2, TensorProto.UINT2: 2, TensorProto.INT4: 4, TensorProto.UINT4: 4, TensorProto.FLOAT4E2M1: 4,
}  # fmt: skip
"""Of types that are packed in bytes."""

_LISTS = {"float_data", "int32_data", "int64_data", "double_data", "uint64_data"}


@dataclass(frozen=True)
class Node:
    """An operator with its attributes as numbers, texts, tensors and graphs."""

    op: str
    domain: str
    name: str
    inputs: tuple[str, ...]  # "" where an optional one is left out
    outputs: tuple[str, ...]
    attributes: dict[str, Any]

    def __str__(self) -> str:
        return f"node {self.name or self.outputs[0]!r} ({self.op})"


@dataclass(frozen=True)
class Program:
    """A graph: nodes in their order, constants, and the types that are declared."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    constants: dict[str, Tensor] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)  # of ONNX, by value
    ranks: dict[str, int] = field(default_factory=dict)


def read(path: Path) -> ModelProto:
    """The file as a message. What is no ONNX model raises ValueError."""
    if not path.is_file():
        raise ValueError(f"{path} is no file; give the path of an ONNX model")
    size = path.stat().st_size
    if size > LARGEST_FILE:
        raise ValueError(
            f"{path} has {size} bytes; a model's file has at most {LARGEST_FILE}, its tensors stand beside it"
        )
    try:
        model = ModelProto.FromString(path.read_bytes())
    except DecodeError:
        raise ValueError(f"{path} is no ONNX model, or a damaged one: its bytes are not its protocol buffer") from None
    if not model.ir_version or not model.opset_import or not model.HasField("graph"):
        raise ValueError(f"{path} is no ONNX model, or a part of one: version, operator sets and a graph are needed")
    if not _has_texts(model):
        raise ValueError(f"{path} has names that are no text in UTF-8; the file is damaged")
    return model


def _has_texts(message: Message) -> bool:
    """Whether all that should be text is; protocol buffers give bytes otherwise."""
    for descriptor, value in message.ListFields():
        values = value if descriptor.is_repeated else [value]
        if descriptor.type == descriptor.TYPE_STRING and not all(isinstance(v, str) for v in values):
            return False
        if descriptor.type == descriptor.TYPE_MESSAGE and not all(_has_texts(v) for v in values):
            return False
    return True


def opsets(model: ModelProto) -> dict[str, int]:
    """Version of each domain. One that is too old or unknown raises ValueError."""
    found = {("" if o.domain in STANDARD else o.domain): o.version for o in model.opset_import}
    newest = onnx.defs.onnx_opset_version()
    version = found.setdefault("", newest)
    if not OLDEST <= version <= newest:
        raise ValueError(
            f"the file uses operators of opset {version}; {OLDEST} to {newest} are read, so convert it with "
            "onnx.version_converter" + (" or install a newer onnx" if version > newest else "")
        )
    return found


def program(graph: GraphProto, folder: Path | None) -> Program:
    """A graph's values, each defined once and before it is read. `folder` None allows no tensors in other files."""
    if graph.sparse_initializer:
        raise ValueError("the graph has sparse initializers, which are not read; store them dense")
    constants = {t.name: tensor(t, folder) for t in graph.initializer}
    kinds = {t.name: t.data_type for t in graph.initializer}
    ranks = {t.name: len(t.dims) for t in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.HasField("tensor_type"):
            kinds[value.name] = value.type.tensor_type.elem_type
            if value.type.tensor_type.HasField("shape"):
                ranks[value.name] = len(value.type.tensor_type.shape.dim)
    kinds |= {n.output[0]: a.t.data_type for n in graph.node if n.op_type == "Constant" and n.output
              for a in n.attribute if a.name == "value"}  # fmt: skip
    inputs = tuple(i.name for i in graph.input if i.name not in constants)
    nodes = tuple(node(n, folder) for n in graph.node)
    outputs = tuple(o.name for o in graph.output)
    if not outputs:
        raise ValueError("the graph has no outputs; the file is a part of a model")
    return Program(inputs, outputs, nodes, constants, kinds, ranks)


def node(proto: NodeProto, folder: Path | None) -> Node:
    if not proto.op_type or not any(proto.output):
        raise ValueError(f"node {proto.name!r} has no operator or no output; the file is damaged")
    domain = "" if proto.domain in STANDARD else proto.domain
    found = {a.name: _value(a, folder) for a in proto.attribute if not a.ref_attr_name}
    return Node(proto.op_type, domain, proto.name, tuple(proto.input), tuple(proto.output), found)


def tensor(proto: TensorProto, folder: Path | None) -> Tensor:
    """A stored tensor. Other bytes than its shape needs, strings, and data outside of the folder raise ValueError."""
    kind = KINDS.get(proto.data_type)
    if kind is None:
        raise ValueError(f"tensor {proto.name!r} holds {kind_name(proto.data_type)}, which cannot be computed with")
    shape = tuple(proto.dims)
    if any(d < 0 for d in shape) or proto.HasField("segment"):
        raise ValueError(f"tensor {proto.name!r} has the shape {shape}, which no tensor has; the file is damaged")
    count, bits = math.prod(shape), BITS.get(proto.data_type, kind.itemsize * 8)
    if proto.data_location == TensorProto.EXTERNAL:
        proto = _with_data(proto, -(-count * bits // 8), folder)
    stored = len(proto.raw_data) * 8 // bits if proto.HasField("raw_data") else _listed(proto, bits)
    if stored < count or (proto.HasField("raw_data") and len(proto.raw_data) != -(-count * bits // 8)):
        raise ValueError(
            f"tensor {proto.name!r} declares the shape {shape} of {kind_name(proto.data_type)} and stores {stored} "
            "of its elements; the file is damaged"
        )
    try:
        return _as_torch(numpy_helper.to_array(proto), kind).reshape(shape)
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:
        raise ValueError(f"tensor {proto.name!r} cannot be read: {_first_line(error)}") from None


def require_room(shape: Iterable[int], what: str) -> tuple[int, ...]:
    """A shape that a file asks for; ValueError where it is larger than any activation that fits."""
    sizes = tuple(int(s) for s in shape)
    if any(s < 0 for s in sizes) or math.prod(sizes) > LIMIT:
        raise ValueError(f"{what} asks for the shape {sizes}; at most {LIMIT} elements are given to one tensor")
    return sizes


def graphs(model: GraphProto) -> Iterator[GraphProto]:
    """A graph and all graphs inside its nodes."""
    yield model
    for n in model.node:
        for attribute in n.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from graphs(inner)


def kind_name(kind: int) -> str:
    """ONNX's name of an element type."""
    return TensorProto.DataType.Name(kind).lower() if kind in TensorProto.DataType.values() else f"type {kind}"


def _value(attribute: AttributeProto, folder: Path | None) -> Any:
    match attribute.type:
        case AttributeProto.FLOAT:
            return attribute.f
        case AttributeProto.INT:
            return attribute.i
        case AttributeProto.STRING:
            return attribute.s.decode(errors="replace")
        case AttributeProto.TENSOR:
            return tensor(attribute.t, folder)
        case AttributeProto.GRAPH:
            return attribute.g
        case AttributeProto.FLOATS:
            return tuple(attribute.floats)
        case AttributeProto.INTS:
            return tuple(attribute.ints)
        case AttributeProto.STRINGS:
            return tuple(s.decode(errors="replace") for s in attribute.strings)
    raise ValueError(f"attribute {attribute.name!r} has a type that is not read: {attribute.type}")


def _listed(proto: TensorProto, bits: int) -> int:
    """Elements in the field that holds them where there are no raw bytes."""
    counts = [len(getattr(proto, name)) for name in _LISTS if len(getattr(proto, name))]
    if not counts:
        return 0
    # the field of 32 bits holds packed pairs and quarters as bytes
    return counts[0] * (8 // bits if bits < 8 else 1)


def _with_data(proto: TensorProto, size: int, folder: Path | None) -> TensorProto:
    """The tensor with its bytes, from a file below the folder."""
    entries = {e.key: e.value for e in proto.external_data}
    location, what = entries.get("location", ""), f"tensor {proto.name!r}"
    if folder is None:
        raise ValueError(f"{what} is stored in another file; give the model by its path")
    if len(location) > LONGEST_PATH or "\0" in location:
        raise ValueError(f"{what} is stored in {location[:40]!r}…, which no file can be called; the model is damaged")
    base = folder.resolve()
    file = (base / location).resolve()
    if not location or not file.is_relative_to(base) or Path(location).is_absolute():
        raise ValueError(f"{what} is stored in {location!r}, which is not in the folder of the model; move it there")
    if not file.is_file():
        raise ValueError(f"{what} is stored in {location!r}, which is no file beside the model")
    offset, length = (
        _natural(entries.get(key, default), what) for key, default in (("offset", "0"), ("length", str(size)))
    )
    if length != size or offset + length > file.stat().st_size:
        raise ValueError(
            f"{what} needs {size} bytes, and {location!r} gives {length} at {offset} of {file.stat().st_size}"
        )
    found = TensorProto(name=proto.name, data_type=proto.data_type, dims=proto.dims)
    found.raw_data = np.fromfile(file, np.uint8, size, offset=offset).tobytes()
    return found


def _natural(text: str, what: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ValueError(f"{what} stands at {text[:40]!r} of another file; that is no number of bytes")
    return int(text)


def _as_torch(array: np.ndarray, kind: torch.dtype) -> Tensor:
    array = np.ascontiguousarray(array)
    if array.dtype.kind == "V" or array.dtype.name.startswith(
        ("float8", "bfloat16", "float4", "int4", "uint4", "int2", "uint2")
    ):
        if kind.itemsize == array.dtype.itemsize and array.dtype.name.startswith(("float8", "bfloat16")):
            return torch.from_numpy(array.view(f"u{kind.itemsize}").copy()).view(kind)
        array = array.astype(np.float32)
    return torch.from_numpy(array.copy()).to(kind)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
