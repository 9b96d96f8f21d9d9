"""Calls of functions written out: a model's own, and standard operators that the standard itself composes of others."""

from collections.abc import Callable, Iterator

import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto

MOST_NODES = 1 << 17
"""Nodes that a model may have once its functions are written out."""

MOST_DEPTH = 32
"""Functions that may call each other."""

Known = Callable[[str, str], bool]
"""Whether an operator of a domain is computed as it is."""


def inline(model: ModelProto, known: Known, opset: int) -> GraphProto:
    """The graph without calls. Functions that call themselves raise ValueError."""
    functions = {(f.domain, f.name, f.overload): f for f in model.functions}
    return _Inliner(functions, known, opset).graph(model.graph, {})


class _Inliner:
    def __init__(self, functions: dict[tuple[str, str, str], FunctionProto], known: Known, opset: int) -> None:
        self.functions, self.known, self.opset = functions, known, opset
        self.count = 0
        self.kinds: dict[str, onnx.TypeProto] = {}

    def graph(self, source: GraphProto, names: dict[str, str], depth: int = 0) -> GraphProto:
        result = GraphProto()
        result.CopyFrom(source)
        del result.node[:]
        for value in (*source.input, *source.output, *source.value_info):
            self.kinds[value.name] = value.type
        for tensor in source.initializer:
            self.kinds[tensor.name] = onnx.helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
        for node in source.node:
            result.node.extend(self.nodes(node, depth))
        return result

    def nodes(self, node: NodeProto, depth: int) -> Iterator[NodeProto]:
        self.count += 1
        if self.count > MOST_NODES or depth > MOST_DEPTH:
            raise ValueError(
                f"the file's functions give more than {MOST_NODES} nodes or call each other {MOST_DEPTH} times deep; "
                "a model that runs has fewer"
            )
        body = self._body(node)
        if body is None:
            made = NodeProto()
            made.CopyFrom(node)
            for attribute in made.attribute:
                if attribute.HasField("g"):
                    attribute.g.CopyFrom(self.graph(attribute.g, {}, depth + 1))
            yield made
            return
        for inner in self._called(body, node):
            yield from self.nodes(inner, depth + 1)

    def _body(self, node: NodeProto) -> FunctionProto | None:
        own = self.functions.get((node.domain, node.op_type, node.overload))
        domain = "" if node.domain == "ai.onnx" else node.domain
        if own is not None or domain or self.known(domain, node.op_type):
            return own
        try:
            schema = onnx.defs.get_schema(node.op_type, self.opset, domain)
        except onnx.defs.SchemaError:
            return None
        try:
            if schema.has_function:  # type: ignore[attr-defined]
                found = schema.get_function_with_opset_version(self.opset)  # type: ignore[attr-defined]
            elif schema.has_context_dependent_function:  # type: ignore[attr-defined]
                kinds = [self.kinds.get(i, onnx.TypeProto()).SerializeToString() for i in node.input]
                found = schema.get_context_dependent_function_with_opset_version(  # type: ignore[attr-defined]
                    self.opset, node.SerializeToString(), kinds
                )
            else:
                return None
        except (RuntimeError, onnx.defs.SchemaError):  # it needs types that are not declared
            return None
        body = FunctionProto()
        body.ParseFromString(found)
        for name, attribute in schema.attributes.items():
            if attribute.default_value.name:
                body.attribute_proto.add().CopyFrom(attribute.default_value)
                body.attribute_proto[-1].name = name
        return body if body.node else None

    def _called(self, body: FunctionProto, call: NodeProto) -> list[NodeProto]:
        prefix = f"{call.name or call.op_type}.{self.count}."
        names = dict(zip(body.input, [*call.input, *[""] * len(body.input)], strict=False))
        names |= {inside: outside for inside, outside in zip(body.output, call.output, strict=False) if outside}
        given = {a.name: a for a in body.attribute_proto} | {a.name: a for a in call.attribute}
        return [_renamed(node, names, prefix, given) for node in body.node]


def _renamed(node: NodeProto, names: dict[str, str], prefix: str, given: dict[str, AttributeProto]) -> NodeProto:
    """A function's node where it is called: values under their names outside, attributes as the call gives them."""

    def name(value: str) -> str:
        return names.get(value, f"{prefix}{value}") if value else ""

    made = NodeProto(op_type=node.op_type, domain=node.domain, name=f"{prefix}{node.name or node.op_type}")
    made.input.extend(name(i) for i in node.input)
    made.output.extend(name(o) for o in node.output)
    for attribute in node.attribute:
        source = given.get(attribute.ref_attr_name) if attribute.ref_attr_name else attribute
        if source is None:
            continue  # left out by the call, so the operator's own default holds
        copy = made.attribute.add()
        copy.CopyFrom(source)
        copy.name = attribute.name
        if copy.HasField("g"):
            _rename_inside(copy.g, names, prefix, given)
    return made


def _rename_inside(graph: GraphProto, names: dict[str, str], prefix: str, given: dict[str, AttributeProto]) -> None:
    nodes = [_renamed(n, names, prefix, given) for n in graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = names.get(value.name, f"{prefix}{value.name}")
