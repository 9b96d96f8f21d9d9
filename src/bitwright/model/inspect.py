"""What a model consists of, from one run of an example: order of layers, attention, products outside of layers."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from bitwright.model.task import Inputs, call
from bitwright.recipe import LayerInfo

QUANTIZABLE: dict[type[nn.Module], str] = {
    nn.Linear: "Linear",
    nn.Conv1d: "Conv1d",
    nn.Conv2d: "Conv2d",
    nn.Embedding: "Embedding",
}

RECURRENT = (nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell, nn.RNNCell)
"""Their products are hidden in one call; `unroll_recurrent` makes linear layers of them."""

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d)
"""Several products of different K in one call; `unroll_transposed` makes convolutions of them."""

UNSUPPORTED: dict[type[nn.Module], str] = {
    nn.ConvTranspose3d: "three-dimensional transposed convolutions are not quantized",
    nn.Conv3d: "three-dimensional convolutions are not quantized",
    nn.Bilinear: "bilinear layers are not quantized",
    nn.EmbeddingBag: "bags of embeddings are not quantized",
}

PRODUCT_FUNCTIONS: dict[Callable[..., Any], str] = {
    torch.matmul: "matmul", torch.bmm: "bmm", torch.mm: "mm", torch.einsum: "einsum", torch.baddbmm: "baddbmm",
    torch.Tensor.matmul: "matmul", torch.Tensor.__matmul__: "matmul", torch.Tensor.bmm: "bmm", torch.Tensor.mm: "mm",
    torch.Tensor.__rmatmul__: "matmul", torch.Tensor.baddbmm: "baddbmm", torch.addmm: "addmm",
    torch.Tensor.addmm: "addmm",
    torch.addbmm: "addbmm", torch.Tensor.addbmm: "addbmm", torch.mv: "mv", torch.Tensor.mv: "mv", torch.addmv: "addmv",
    torch.dot: "dot", torch.Tensor.dot: "dot", torch.inner: "inner", torch.Tensor.inner: "inner",
    torch.tensordot: "tensordot", torch.chain_matmul: "chain_matmul", torch.linalg.multi_dot: "multi_dot",
    torch.linalg.matmul: "matmul", torch.linalg.vecdot: "vecdot", functional.linear: "linear",
    functional.conv1d: "conv1d", functional.conv2d: "conv2d", functional.conv3d: "conv3d",
    functional.conv_transpose1d: "conv_transpose1d", functional.conv_transpose2d: "conv_transpose2d",
    functional.conv_transpose3d: "conv_transpose3d", functional.bilinear: "bilinear",
    functional.multi_head_attention_forward: "multi_head_attention",
}  # fmt: skip


@dataclass
class Structure:
    """Layers in the order of execution (of definition without an example), and what else multiplies."""

    layers: list[LayerInfo] = field(default_factory=list)
    attention: dict[str, int] = field(default_factory=dict)  # calling module -> calls a pass
    functions: dict[tuple[str, str], int] = field(default_factory=dict)  # (module, function) -> calls a pass
    calls: Counter[str] = field(default_factory=Counter)
    is_traced: bool = False


def kind_of(module: nn.Module) -> str | None:
    """The kind of a layer that can be quantized. Subclasses count only if they keep the forward of their class."""
    for known, kind in QUANTIZABLE.items():
        if isinstance(module, known) and type(module).forward is known.forward:
            return kind
    return None


def unsupported_reason(module: nn.Module) -> str | None:
    """Why a layer with weights of its own is left alone, if it is one that multiplies."""
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return _recurrent_reason(module)
    if isinstance(module, TRANSPOSED):
        return _transposed_reason(module)
    if isinstance(module, nn.MultiheadAttention):
        return _attention_reason(module)
    if isinstance(module, nn.TransformerEncoderLayer):
        return _encoder_reason(module)
    for known, reason in UNSUPPORTED.items():
        if isinstance(module, known):
            return reason
    if any(isinstance(module, known) for known in QUANTIZABLE):
        return f"{type(module).__name__} changes the forward of its class"
    own = list(module.parameters(recurse=False))
    if any(p.dim() >= 2 for p in own) and not list(module.children()):
        return f"{type(module).__name__} is not a layer that bitwright knows"
    return None


def _recurrent_reason(module: nn.RNNBase | nn.RNNCellBase) -> str | None:
    name = type(module).__name__
    known = next((c for c in RECURRENT if isinstance(module, c)), None)
    if known is None:
        return f"{name} is not a recurrent layer that bitwright knows"
    if type(module).forward is not known.forward:
        return f"{name} changes the forward of its class"
    cell = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    expected = [n for layer in module._all_weights for n in layer] if isinstance(module, nn.RNNBase) else cell
    return _computed_reason(module, expected)


def _transposed_reason(module: nn.ConvTranspose1d | nn.ConvTranspose2d) -> str | None:
    name = type(module).__name__
    if not any(type(module).forward is known.forward for known in TRANSPOSED):
        return f"{name} changes the forward of its class"
    return _computed_reason(module, ("weight", "bias"))


def _attention_reason(module: nn.MultiheadAttention) -> str | None:
    if type(module).forward is not nn.MultiheadAttention.forward:
        return f"{type(module).__name__} changes the forward of its class"
    if module.bias_k is not None or module.add_zero_attn:
        return "it adds keys and values of its own (add_bias_kv, add_zero_attn), which are not quantized"
    return _computed_reason(
        module, ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight", "in_proj_bias")
    )


def _encoder_reason(module: nn.TransformerEncoderLayer) -> str | None:
    known = nn.TransformerEncoderLayer
    changed = next(
        (n for n in ("forward", "_sa_block", "_ff_block") if getattr(type(module), n) is not getattr(known, n)), None
    )
    if changed is not None:
        return (
            f"{type(module).__name__} changes the {changed} of its class, which may read weights of its layers directly"
        )
    reason = unsupported_reason(module.self_attn)
    return None if reason is None else f"of its attention: {reason}"


def _computed_reason(module: nn.Module, expected: Sequence[str]) -> str | None:
    computed = next((n for n in expected if n not in module._parameters), None)
    if computed is not None:
        return f"its {computed} is computed from other parameters; make it a parameter of its own first"
    return None


@torch.no_grad()
def inspect(model: nn.Module, example: Inputs | None = None) -> Structure:
    """The structure of a model. Without an example attention and functional products stay unseen."""
    inside = inside_opaque(model)
    named = {
        id(m): LayerInfo(name, kind)
        for name, m in model.named_modules()
        if (kind := kind_of(m)) is not None and name not in inside
    }
    if example is None:
        return Structure(layers=list(named.values()))
    structure = Structure(is_traced=True)
    names = {id(m): name for name, m in model.named_modules()}
    stack: list[nn.Module] = []
    recorder = _Recorder(structure, stack, names)

    def enter(module: nn.Module, args: Any) -> None:
        stack.append(module)
        structure.calls[names[id(module)]] += 1
        layer = named.get(id(module))
        if layer is not None and layer not in structure.layers:
            structure.layers.append(layer)

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        stack.pop()

    handles = [h for m in model.modules() for h in (m.register_forward_pre_hook(enter), m.register_forward_hook(leave))]
    try:
        with recorder:
            call(model, example)
    finally:
        for handle in handles:
            handle.remove()
    # a module that runs several times a pass calls the same attention each time
    structure.attention = {n: -(-count // max(structure.calls[n], 1)) for n, count in structure.attention.items()}
    structure.layers += [layer for layer in named.values() if layer not in structure.layers]
    structure.layers += [LayerInfo(_attention_name(n), "attention") for n in structure.attention]
    return structure


class _Recorder(TorchFunctionMode):
    """Notes which module calls which product."""

    def __init__(self, structure: Structure, stack: list[nn.Module], names: dict[int, str]) -> None:
        super().__init__()
        self.structure, self.stack, self.names = structure, stack, names

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        caller = self.stack[-1] if self.stack else None
        name = self.names[id(caller)] if caller is not None else ""
        if func is functional.scaled_dot_product_attention:
            self.structure.attention[name] = self.structure.attention.get(name, 0) + 1
        elif func in PRODUCT_FUNCTIONS and (caller is None or kind_of(caller) is None):
            key = (name, PRODUCT_FUNCTIONS[func])
            self.structure.functions[key] = self.structure.functions.get(key, 0) + 1
        return func(*args, **(kwargs or {}))


def _attention_name(caller: str) -> str:
    return f"{caller}.attention" if caller else "attention"


def inside_opaque(model: nn.Module) -> set[str]:
    """Names of modules inside modules that read their children's weights directly."""
    opaque = [
        name for name, m in model.named_modules() if isinstance(m, nn.MultiheadAttention | nn.TransformerEncoderLayer)
    ]
    starts = [f"{name}." if name else "" for name in opaque]
    return {name for name, _ in model.named_modules() if name and any(name.startswith(start) for start in starts)}
