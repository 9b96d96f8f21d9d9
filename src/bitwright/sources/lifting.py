"""Programs of `torch.export` as modules: products with parameters become layers again, so that they can be quantized.

An exported graph calls `aten.linear`, `aten.conv2d` and others with parameters as arguments. Each such call becomes an
`nn.Linear`, `nn.Conv1d`, `nn.Conv2d`, transposed convolution, `nn.BatchNorm` or `nn.Embedding`, under the name that its
module had. A weight that several calls share is one layer, called several times.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

aten = torch.ops.aten


def lift(module: fx.GraphModule) -> fx.GraphModule:
    """The same function, in place, with layers; calls whose weight is computed stay as they are."""
    layers: dict[tuple[Any, ...], nn.Module] = {}
    calls: dict[tuple[Any, ...], list[fx.Node]] = {}
    for node in list(module.graph.nodes):
        if node.op == "call_function" and node.target in LAYERS:
            found = LAYERS[node.target](_Call(module, node))
            if found is not None:
                layer, key = found
                layers.setdefault(key, layer)
                calls.setdefault(key, []).append(_call_in_place_of(node))
        elif node.op == "call_function":
            node.target = FUNCTIONS.get(node.target, node.target)
    for node in reversed(module.graph.nodes):
        if node.op == "get_attr" and not node.users:
            module.graph.erase_node(node)
    _drop_unused(module)
    for key, layer in layers.items():
        name = _free_name(module, calls[key][0])
        module.add_submodule(name, layer)
        for node in calls[key]:
            node.target = name
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()
    return module


def _call_in_place_of(node: fx.Node) -> fx.Node:
    """A call of a layer whose name is not chosen yet."""
    inputs = INPUTS.get(node.target, "input")
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    given = dict(zip(names, node.args)) | dict(node.kwargs)
    with node.graph.inserting_after(node):
        call = node.graph.create_node("call_module", "", (given[inputs],), {}, node.name)
    call.meta = dict(node.meta)
    node.replace_all_uses_with(call)
    node.graph.erase_node(node)
    return call


class _Call:
    """A call's arguments by the names of its operator's schema, with parameters fetched."""

    def __init__(self, module: fx.GraphModule, node: fx.Node) -> None:
        schema = node.target._schema.arguments  # type: ignore[union-attr]
        given = dict(zip((a.name for a in schema), node.args)) | dict(node.kwargs)
        self.given = {a.name: given.get(a.name, a.default_value) for a in schema}
        self.module = module
        value = self.given.get("input")
        self.rank = getattr(value.meta.get("val"), "ndim", None) if isinstance(value, fx.Node) else None

    def tensor(self, name: str) -> Tensor | None:
        """A parameter or buffer; None where it is computed or absent."""
        value = self.given[name]
        if not isinstance(value, fx.Node) or value.op != "get_attr":
            return None
        found = _attribute(self.module, str(value.target))
        return found if isinstance(found, Tensor) else None

    def is_fixed(self, *names: str) -> bool:
        """Are these parameters, or absent?"""
        return all(self.given[name] is None or self.tensor(name) is not None for name in names)

    def key(self, *names: str) -> tuple[Any, ...]:
        """Equal where two calls use the same layer."""
        return tuple(str(self.given[name]) for name in names)


Layer = tuple[nn.Module, tuple[Any, ...]]


def _linear(call: _Call) -> Layer | None:
    weight = call.tensor("weight")
    if weight is None or weight.dim() != 2 or not call.is_fixed("bias"):
        return None
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=call.given["bias"] is not None, device="meta")
    return _filled(layer, call, "weight", "bias"), ("linear", *call.key("weight", "bias"))


def _addmm(call: _Call) -> Layer | None:
    """bias + x @ weight, the weight stored as [inputs, outputs] or as a transposed view."""
    weight, bias = call.tensor("mat2"), call.tensor("self")
    if weight is None or bias is None or bias.dim() != 1 or (call.given["beta"], call.given["alpha"]) != (1, 1):
        return None
    layer = nn.Linear(weight.shape[0], weight.shape[1], device="meta")
    layer.weight = nn.Parameter(weight.detach().t().contiguous(), requires_grad=False)
    layer.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return layer, ("addmm", *call.key("mat2", "self"))


CONVOLUTIONS = {False: (nn.Conv1d, nn.Conv2d), True: (nn.ConvTranspose1d, nn.ConvTranspose2d)}


def _convolution(call: _Call) -> Layer | None:
    weight, given = call.tensor("weight"), call.given
    if weight is None or weight.dim() not in (3, 4) or not call.is_fixed("bias"):
        return None
    axes = weight.dim() - 2
    is_transposed = "output_padding" in given and bool(given.get("transposed", True))
    groups = given["groups"]
    options: dict[str, Any] = {
        "stride": _each(given["stride"], axes),
        "padding": given["padding"] if isinstance(given["padding"], str) else _each(given["padding"], axes),
        "dilation": _each(given["dilation"], axes), "groups": groups, "bias": given["bias"] is not None,
    }  # fmt: skip
    if is_transposed:
        options["output_padding"] = _each(given["output_padding"], axes)
        channels = weight.shape[0], weight.shape[1] * groups
    else:
        channels = weight.shape[1] * groups, weight.shape[0]
    layer = CONVOLUTIONS[is_transposed][axes - 1](*channels, tuple(weight.shape[2:]), device="meta", **options)
    key = ("convolution", is_transposed, *call.key("weight", "bias"), *map(str, options.values()))
    return _filled(layer, call, "weight", "bias"), key


NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def _batch_norm(call: _Call) -> Layer | None:
    mean = call.tensor("running_mean")
    is_training = bool(call.given.get("training", False))
    names = ("weight", "bias", "running_mean", "running_var")
    if mean is None or is_training or call.rank not in NORMS or not call.is_fixed(*names):
        return None
    layer = NORMS[call.rank](len(mean), eps=call.given["eps"], affine=call.given["weight"] is not None, device="meta")
    layer.num_batches_tracked = None
    return _filled(layer, call, *names).eval(), ("norm", call.rank, call.given["eps"], *call.key(*names))


def _embedding(call: _Call) -> Layer | None:
    weight = call.tensor("weight")
    if weight is None or weight.dim() != 2:
        return None
    return _filled(nn.Embedding(weight.shape[0], weight.shape[1], device="meta"), call, "weight"), (
        "embedding",
        *call.key("weight"),
    )


LAYERS: dict[Any, Callable[[_Call], Layer | None]] = {
    aten.linear.default: _linear,
    aten.addmm.default: _addmm,
    aten.conv1d.default: _convolution, aten.conv1d.padding: _convolution,
    aten.conv2d.default: _convolution, aten.conv2d.padding: _convolution,
    aten.convolution.default: _convolution,
    aten.conv_transpose1d.default: _convolution, aten.conv_transpose2d.input: _convolution,
    aten.batch_norm.default: _batch_norm,
    aten._native_batch_norm_legit_no_training.default: _batch_norm,
    aten.embedding.default: _embedding,
}  # fmt: skip


INPUTS: dict[Any, str] = {aten.embedding.default: "indices", aten.addmm.default: "mat1"}
"""Arguments that are no parameter, where they are not called `input`."""

FUNCTIONS: dict[Any, Callable[..., Any]] = {
    aten.scaled_dot_product_attention.default: nn.functional.scaled_dot_product_attention,
    aten.matmul.default: torch.matmul, aten.bmm.default: torch.bmm, aten.mm.default: torch.mm,
}  # fmt: skip
"""Products of two activations, as those who look for them know them."""


def _filled(layer: nn.Module, call: _Call, *names: str) -> nn.Module:
    for name in names:
        value = call.tensor(name)
        if value is not None:
            value = value.detach()
            is_buffer = name.startswith("running")
            setattr(layer, name, value if is_buffer else nn.Parameter(value, requires_grad=False))
    return layer


def _each(value: Any, axes: int) -> tuple[int, ...]:
    values = [value] if isinstance(value, int) else list(value)
    return tuple(values * axes if len(values) == 1 else values)


def _free_name(module: nn.Module, node: fx.Node) -> str:
    """Where its module was, or beside it where something else stands there."""
    stack = node.meta.get("nn_module_stack") or {}
    path = next(reversed([str(path) for path, _ in stack.values()]), "") if stack else ""
    is_plain = bool(path) and all(part.isidentifier() or part.isdecimal() for part in path.split("."))
    base = path if is_plain else node.name
    name, number = base, 1
    while not _is_free(module, name):
        name, number = f"{base}_{number}", number + 1
    return name


def _is_free(module: nn.Module, name: str) -> bool:
    """Nothing has this name, or only a container that is empty since its parameters belong to a layer."""
    found = _attribute(module, name)
    return found is None or (isinstance(found, nn.Module) and not (list(found.children()) or found.state_dict()))


def _attribute(module: nn.Module, name: str) -> Any:
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
        if found is None:
            return None
    return found


def _drop_unused(module: fx.GraphModule) -> None:
    """Parameters and buffers that no node reads."""
    read = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    tensors = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    for name, _ in tensors:
        if name not in read:
            owner, _, last = name.rpartition(".")
            delattr(module.get_submodule(owner), last)
