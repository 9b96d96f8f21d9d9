"""Fold each BatchNorm into the convolution, transposed convolution or linear layer in front of it.

w' = w·γ/σ and b' = (b - μ)·γ/σ + β, σ = sqrt(variance + ε): the network computes the same function.
"""

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from bitwright.model.inspect import TRANSPOSED
from bitwright.model.task import Inputs, call

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
PRODUCERS = (nn.Conv1d, nn.Conv2d, *TRANSPOSED, nn.Linear)


@torch.no_grad()
def fold_batchnorm(model: nn.Module, example: Inputs) -> nn.Module:
    """A copy without the BatchNorms that directly follow a layer. One run of the example tells which follows which."""
    model = copy.deepcopy(model).eval()
    names = {id(module): name for name, module in model.named_modules()}
    for pair in _pairs(model, example):
        rest = _rest(pair)
        if rest is not None:
            _fold(pair.layer, pair.norm)
            parent, _, attribute = names[id(pair.norm)].rpartition(".")
            setattr(model.get_submodule(parent), attribute, rest)
    return model


class Pair(NamedTuple):
    """A layer, the norm that alone reads its output, and what passed between and after them."""

    layer: nn.Module
    norm: nn.Module
    between: Tensor
    after: Tensor


def _rest(pair: Pair) -> nn.Module | None:
    """What stays of a norm: nothing, or what a subclass does after it, such as an activation; None if that fails.

    A subclass is kept with neutral statistics, which must turn folded outputs into what the norm gave.
    """
    if type(pair.norm).forward is nn.BatchNorm2d.forward:
        return nn.Identity()
    neutral = copy.deepcopy(pair.norm)
    neutral.running_mean.zero_()  # type: ignore[operator]
    neutral.running_var.fill_(1 - neutral.eps)  # type: ignore[operator]
    if neutral.weight is not None:
        neutral.weight.fill_(1)  # type: ignore[operator]
        neutral.bias.zero_()  # type: ignore[operator]
    factor, shift = _affine(pair.norm)
    shape = (1, -1, *[1] * (pair.between.dim() - 2))
    folded = pair.between.double() * factor.view(shape) + shift.view(shape)
    found = neutral(folded.to(pair.between.dtype))
    tolerance = 1e-4 * float(pair.after.abs().max())  # far above float32's rounding of one multiply-add
    return neutral if torch.allclose(found, pair.after, rtol=0, atol=tolerance) else None


def _pairs(model: nn.Module, example: Inputs) -> list[Pair]:
    """Layers and norms where nothing but the norm uses the layer's output, and both run exactly once."""
    made: list[tuple[Tensor, nn.Module]] = []  # keeps outputs alive, so identities stay unique
    pairs: list[Pair] = []
    calls: dict[int, int] = {}
    readers = _Readers()

    def seen(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        calls[id(module)] = calls.get(id(module), 0) + 1
        if isinstance(output, Tensor) and _is_affine(module, output):
            made.append((output, module))
            readers.count[id(output)] = 0
        elif isinstance(module, NORMS) and module.running_mean is not None:
            pairs.extend(Pair(layer, module, tensor, output) for tensor, layer in made if tensor is args[0])

    handles = [m.register_forward_hook(seen) for m in model.modules() if isinstance(m, (*PRODUCERS, *NORMS))]
    try:
        with readers:
            results = tree_leaves(call(model, example))
    finally:
        for handle in handles:
            handle.remove()
    return [
        pair
        for pair in pairs
        if calls[id(pair.layer)] == calls[id(pair.norm)] == readers.count[id(pair.between)] == 1
        and not any(pair.between is result for result in results)
    ]


def _is_affine(module: nn.Module, output: Tensor) -> bool:
    """Whether a layer computes what its class does, with a weight that can be set, and with channels on axis 1."""
    is_known = any(isinstance(module, known) and type(module).forward is known.forward for known in PRODUCERS)
    weight = module._parameters.get("weight")
    return is_known and weight is not None and "bias" in module._parameters and output.dim() == weight.dim()


class _Readers(TorchFunctionMode):
    """How many functions that make tensors read each tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[int] = Counter()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(isinstance(value, Tensor) for value in tree_leaves(result)):
            self.count.update({id(value) for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)})
        return result


def _affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Factor and shift of each channel, in float64."""
    mean: Tensor = norm.running_mean.double()  # type: ignore[assignment]
    variance: Tensor = norm.running_var.double()  # type: ignore[assignment]
    factor = torch.rsqrt(variance + norm.eps)  # type: ignore[operator]
    if norm.weight is not None:
        factor = factor * norm.weight.double()  # type: ignore[operator]
    shift = -mean * factor
    return factor, shift + norm.bias.double() if norm.bias is not None else shift  # type: ignore[operator]


def _fold(layer: nn.Module, norm: nn.Module) -> None:
    factor, shift = _affine(norm)
    weight: Tensor = layer.weight  # type: ignore[assignment]
    bias = shift if layer.bias is None else layer.bias.double() * factor + shift  # type: ignore[operator]
    if isinstance(layer, TRANSPOSED):  # its weight is [inputs, outputs of a group, ...]
        grouped = weight.double().unflatten(0, (layer.groups, -1))
        factors = factor.view(layer.groups, 1, -1, *[1] * (weight.dim() - 2))
        scaled = (grouped * factors).flatten(0, 1)
    else:
        scaled = weight.double() * factor.view(-1, *[1] * (weight.dim() - 1))
    layer.weight = nn.Parameter(scaled.to(weight.dtype))
    layer.bias = nn.Parameter(bias.to(weight.dtype))
