"""From a graph of ONNX to a module: constants are computed, products with constant weights become layers."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from onnx import GraphProto
from torch import nn

from bitwright.model.layers import QuantizedLayer
from bitwright.sources.onnx_file import Node, Program, program
from bitwright.sources.onnx_fold import Scope, folded, opset_of
from bitwright.sources.onnx_graph import Graph, Step, choose, loop
from bitwright.sources.onnx_integers import rescaled
from bitwright.sources.onnx_layers import layer_of
from bitwright.sources.onnx_patterns import OWN, attended, beside, biased, written_out
from bitwright.sources.onnx_quantized import Quantizers, frozen
from bitwright.sources.onnx_table import CONTROL, DOMAINS, known, options_of


def build(graph: GraphProto, scope: Scope, captured: tuple[str, ...] = ()) -> Graph:
    """The module. Operators that are not computed raise one ValueError that names all of them."""
    source = program(graph, scope.folder)
    scope.constants |= source.constants
    scope.budget.left += 8 * sum(t.numel() for t in source.constants.values())
    scope.kinds |= source.kinds
    scope.ranks |= source.ranks
    _require_known(graph, scope.opsets)
    inputs = (*source.inputs, *captured)
    nodes = rescaled(written_out(_in_order(source, inputs, scope), scope.constants), scope.constants)
    nodes = folded(nodes, scope)
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
        if not known(n.domain, n.op_type)
    )  # fmt: skip
    if missing:
        names = ", ".join(f"{op} ({count} times)" if count > 1 else op for op, count in sorted(missing.items()))
        raise ValueError(f"the graph has operators that are not read: {names}; compute them before or after the model")


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
        if made is None:
            rank = self.scope.ranks.get(node.inputs[0]) if node.inputs else None
            made = layer_of(node, self.scope.constants, rank)
        if made is None:
            return [self._function(node)]
        weights = tuple(i for i in node.inputs if i in self.scope.constants)
        key: object = (type(made.layer), weights, repr(sorted(node.attributes.items())))
        if node.domain == OWN or _frozen_within(made.layer):
            key = made.layer  # attention has no weights, and frozen layers have ranges of their own
        if key not in self.shared:
            self.shared[key] = self._place(made.layer, self._name(node))
        steps, inputs = [], made.inputs
        if made.before is not None:
            padded = beside(node.outputs[0], "before")
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
        # as `choose` deals out what is captured: the then_branch first
        for name, graph in sorted(graphs.items(), reverse=True):
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
            found = (
                re.match(r"([A-Za-z_][\w.]*?)\.weight(_quantized|_q)?$", stored)
                if value in self.scope.constants
                else None
            )
            if found:
                return found[1]
        path = [p for p in node.name.split("/") if p]
        if len(path) > 1 and re.sub(r"(Integer)?(_\d+)?$", "", path[-1]) == node.op:
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
        for inner, frozen_layer in _frozen_within(layer).items():
            frozen_layer.name = f"{path}.{inner}" if inner else path
        return path


def _frozen_within(layer: nn.Module) -> dict[str, QuantizedLayer]:
    """The layer itself, or phases of it; not those of graphs inside, which have their names."""
    if isinstance(layer, Graph):
        return {}
    return {name: m for name, m in layer.named_modules() if isinstance(m, QuantizedLayer)}
