"""From a graph of ONNX to a module: constants are computed, products with constant weights become layers."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from onnx import GraphProto
from torch import Tensor, nn

from bitwright.sources.onnx_codes import Codes, carried, codes_of
from bitwright.sources.onnx_file import Node, Program, program
from bitwright.sources.onnx_graph import FAULTS, Graph, Step, choose, loop, reason
from bitwright.sources.onnx_layers import layer_of
from bitwright.sources.onnx_patterns import OWN, attended, biased, written_out
from bitwright.sources.onnx_quantized import Quantizers, frozen
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


def build(graph: GraphProto, scope: Scope, captured: tuple[str, ...] = ()) -> Graph:
    """The module. Operators that are not computed raise one ValueError that names all of them."""
    source = program(graph, scope.folder)
    scope.constants |= source.constants
    scope.budget.left += 8 * sum(t.numel() for t in source.constants.values())
    scope.kinds |= source.kinds
    scope.ranks |= source.ranks
    _require_known(graph, scope.opsets)
    inputs = (*source.inputs, *captured)
    nodes = _folded(written_out(_in_order(source, inputs, scope), scope.constants), scope)
    outputs = source.outputs
    nodes = _needed(attended(biased(nodes, outputs, scope.constants), outputs, scope.constants), outputs)
    module = Graph(inputs, outputs)
    builder = _Builder(module, scope, {o: n for n in nodes for o in n.outputs})
    steps = [step for node in nodes for step in builder.steps(node)]
    module.steps = _released(_read(steps, outputs), outputs)
    used = {i for step in module.steps for i in step.inputs} | set(outputs)
    for name in sorted(used & scope.constants.keys() - set(inputs)):
        module.hold(name, scope.constants[name])
    return module


def _require_known(graph: GraphProto, opsets: Mapping[str, int]) -> None:
    missing = Counter(
        f"{n.domain}.{n.op_type}" if n.domain not in ("", "ai.onnx") else n.op_type for n in _all_nodes(graph)
        if not known_op(n.domain, n.op_type)
    )  # fmt: skip
    if missing:
        names = ", ".join(f"{op} ({count} times)" if count > 1 else op for op, count in sorted(missing.items()))
        raise ValueError(f"the graph has operators that are not read: {names}; compute them before or after the model")


def known_op(domain: str, op: str) -> bool:
    domain = "" if domain == "ai.onnx" else domain
    return op in DOMAINS.get(domain, {}) or (not domain and op in CONTROL)


def _all_nodes(graph: GraphProto) -> Iterable[Any]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _all_nodes(attribute.g)


def _in_order(source: Program, inputs: tuple[str, ...], scope: Scope) -> list[Node]:
    """The nodes, if each value is made once and before it is read."""
    made = {*inputs, *scope.constants}
    for node in source.nodes:
        for name in node.inputs:
            if name and name not in made:
                raise ValueError(f"{node} reads {name!r}, which nothing makes before it; the file is damaged")
        for name in node.outputs:
            if name and (name in made) and name not in scope.constants:
                raise ValueError(f"{node} makes {name!r} a second time; the file is damaged")
        made |= {o for o in node.outputs if o}
    for name in source.outputs:
        if name not in made:
            raise ValueError(f"the output {name!r} is made by no node; the file is damaged")
    return list(source.nodes)


def _folded(nodes: list[Node], scope: Scope) -> list[Node]:
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
        found = codes_of(node, scope.constants, scope.kinds) or carried(node, scope.codes, scope.constants, _computed, scope)
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
        rows = inputs[0].shape[node.attributes.get("axis", 0) if abs(node.attributes.get("axis", 0)) < inputs[0].dim() else 0]
        return inputs[1].numel() * (inputs[0].numel() // max(rows, 1)) <= 2 * total
    if node.op in ("Add", "Sub", "Mul", "Div", "Pow", "Where", "Equal", "Less", "Greater", "And", "Or", "Max", "Min", "Sum",
                   "Quant", "IntQuant", "BipolarQuant", "FloatQuant", "Clip", "PRelu"):  # fmt: skip
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
        kept = {n: v for n, v in node.attributes.items() if n not in OBSOLETE or OBSOLETE[n] not in (None, v) or "axis" in node.attributes}
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
    if node.op in ("Constant",) and not isinstance(node.attributes.get("value", 0), int):
        kind = None
    if node.op in ("Reshape", "Transpose", "Identity", "Slice", "Squeeze", "Unsqueeze", "Flatten", "Concat"):
        kind = kinds.get(node.inputs[0]) if node.inputs else None
    if kind and node.outputs:
        kinds.setdefault(node.outputs[0], kind)
    return node


def _note_rank(node: Node, output: str, scope: Scope) -> None:
    if output in scope.ranks or not node.inputs:
        return
    known = scope.ranks.get(node.inputs[1] if node.op in ("Conv", "ConvTranspose") and len(node.inputs) > 1 else node.inputs[0])
    if node.op in ("Add", "Mul", "Sub", "Div"):
        known = max((scope.ranks.get(i, -1) for i in node.inputs), default=-1)
        known = None if any(i not in scope.ranks for i in node.inputs) else known
    if known is not None and (node.op in SAME_RANK or node.op in ("Conv", "ConvTranspose", "Add", "Mul", "Sub", "Div")):
        scope.ranks[output] = known
    elif node.op in ("Gemm", "Flatten"):
        scope.ranks[output] = 2


def _needed(nodes: list[Node], outputs: tuple[str, ...]) -> list[Node]:
    """Nodes whose values reach an output."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted & set(node.outputs):
            kept.append(node)
            wanted |= set(node.inputs) | set(_free(node))
    return kept[::-1]


def _free(node: Node) -> tuple[str, ...]:
    """Values of the graph outside that the graphs inside a node read."""
    found: dict[str, None] = {}
    for value in node.attributes.values():
        if isinstance(value, GraphProto):
            found |= dict.fromkeys(free_values(value))
    return tuple(found)


def free_values(graph: GraphProto) -> list[str]:
    made = {*(i.name for i in graph.input), *(t.name for t in graph.initializer)}
    found: dict[str, None] = {}
    for node in graph.node:
        inside = [v for a in node.attribute if a.HasField("g") for v in free_values(a.g)]
        found |= {name: None for name in (*node.input, *inside) if name and name not in made}
        made |= set(node.output)
    found |= {o.name: None for o in graph.output if o.name not in made}
    return list(found)


def _read(steps: list[Step], outputs: tuple[str, ...]) -> list[Step]:
    """Steps whose values are read; a layer may have taken over what some did."""
    wanted, kept = set(outputs), []
    for step in reversed(steps):
        if wanted & set(step.outputs):
            kept.append(step)
            wanted |= set(step.inputs)
    return kept[::-1]


def _released(steps: list[Step], outputs: tuple[str, ...]) -> tuple[Step, ...]:
    kept, made = set(outputs), []
    for step in reversed(steps):
        last = tuple(dict.fromkeys(v for v in (*step.inputs, *step.outputs) if v and v not in kept))
        kept |= set(last)
        made.append(replace(step, last=last))
    return tuple(made[::-1])


class _Builder:
    """Makes steps of nodes, and places layers in the module under the names that the file gives them."""

    def __init__(self, module: Graph, scope: Scope, producer: dict[str, Node]) -> None:
        self.module, self.scope, self.producer = module, scope, producer
        self.shared: dict[object, str] = {}
        self.quantizers = Quantizers(producer, scope.constants, scope.kinds)

    def steps(self, node: Node) -> list[Step]:
        if node.op in CONTROL and not node.domain:
            return [self._control(node)]
        made = frozen(node, self.scope.constants, self.scope.codes, self.quantizers)
        made = made or layer_of(node, self.scope.constants, self.scope.ranks.get(node.inputs[0]) if node.inputs else None)
        if made is None:
            return [self._function(node)]
        key = (node.op, made.inputs if node.domain == OWN else (), tuple(i for i in node.inputs if i in self.scope.constants),
               repr(sorted(node.attributes.items())), str(made.layer))  # fmt: skip
        if key not in self.shared:
            self.shared[key] = self._place(made.layer, self._name(node))
        steps, inputs = [], made.inputs
        if made.before is not None:
            padded = f"{node.outputs[0]}/before"
            steps.append(Step(str(node), inputs[:1], (padded,), made.before, attributes=made.options))
            inputs = (padded, *inputs[1:])
        return [*steps, Step(str(node), inputs, node.outputs, path=self.shared[key])]

    def _function(self, node: Node) -> Step:
        function = DOMAINS[node.domain][node.op]
        given = len(node.inputs)
        while given and not node.inputs[given - 1]:
            given -= 1
        try:
            options = options_of(function, node.attributes, given, len(node.outputs), opset_of(node, self.scope))
        except ValueError as error:
            raise ValueError(f"{node}: {error}") from None
        return Step(str(node), node.inputs, node.outputs, function, attributes=options)

    def _control(self, node: Node) -> Step:
        graphs = {name: v for name, v in node.attributes.items() if isinstance(v, GraphProto)}
        if set(graphs) != ({"then_branch", "else_branch"} if node.op == "If" else {"body"}):
            raise ValueError(f"{node} lacks its graphs; the file is damaged")
        inputs, bodies = list(node.inputs), {}
        for name, graph in graphs.items():
            captured = tuple(v for v in free_values(graph) if v not in self.scope.constants)
            inner = self.scope.inner()
            bodies[name] = self._place(build(graph, inner, captured), f"{self._name(node)}.{name}")
            inputs += captured
        if node.op == "If":
            return Step(str(node), tuple(inputs), node.outputs, choose, bodies=bodies)
        inputs = [*node.inputs[:2], *[""] * (2 - len(node.inputs)), *inputs[2:]]
        return Step(str(node), tuple(inputs), node.outputs, loop, bodies=bodies,
                    attributes={"carried": max(len(node.inputs) - 2, 0)})  # fmt: skip

    def _name(self, node: Node) -> str:
        """The name of the module that a weight was exported from, if it shows; else the node's."""
        for value in node.inputs:
            stored = self.scope.origin.get(value, value)
            found = re.match(r"([A-Za-z_][\w.]*?)\.weight(_quantized|_q)?$", stored) if value in self.scope.constants else None
            if found:
                return found[1]
        path = [p for p in node.name.split("/") if p]
        if len(path) > 1 and re.sub(r"_\d+$", "", path[-1]) == node.op:
            path = path[:-1]
        return ".".join(path) or f"{node.op.lower()}_{node.outputs[0]}"

    def _place(self, layer: nn.Module, wanted: str) -> str:
        parts = [re.sub(r"\W", "_", p) for p in wanted.split(".") if p] or ["layer"]
        parent: nn.Module = self.module
        for i, part in enumerate(parts[:-1]):
            child = parent._modules.get(part)
            if child is None and not hasattr(parent, part):
                child = nn.Module()
                parent.add_module(part, child)
            if child is None or type(child) is not nn.Module:  # a layer, or a name of torch's
                parts = [*parts[:i], "_".join(parts[i:])]
                break
            parent = child
        name, count = parts[-1], 1
        while hasattr(parent, name):
            count += 1
            name = f"{parts[-1]}_{count}"
        parent.add_module(name, layer)
        path = ".".join([*parts[:-1], name])
        if hasattr(layer, "name"):
            layer.name = path
        return path
