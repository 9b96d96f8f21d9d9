"""Fold each BatchNorm into the convolution or linear layer in front of it.

w' = w·γ/σ and b' = (b - μ)·γ/σ + β, σ = sqrt(variance + ε): the network computes the same function.
"""

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from bitwright.model.task import Inputs, call

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
PRODUCERS = (nn.Conv1d, nn.Conv2d, nn.Linear)


@torch.no_grad()
def fold_batchnorm(model: nn.Module, example: Inputs) -> nn.Module:
    """A copy without the BatchNorms that directly follow a layer. One run of the example tells which follows which."""
    model = copy.deepcopy(model).eval()
    names = {id(module): name for name, module in model.named_modules()}
    for producer, norm in _pairs(model, example):
        _fold(producer, norm)
        parent, _, attribute = names[id(norm)].rpartition(".")
        setattr(model.get_submodule(parent), attribute, nn.Identity())
    return model


def _pairs(model: nn.Module, example: Inputs) -> list[tuple[nn.Module, nn.Module]]:
    """(layer, norm) where nothing but the norm uses the layer's output, and both run exactly once."""
    made: list[tuple[Tensor, nn.Module]] = []  # keeps outputs alive, so identities stay unique
    pairs: list[tuple[Tensor, nn.Module, nn.Module]] = []
    calls: dict[int, int] = {}
    readers = _Readers()

    def seen(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        calls[id(module)] = calls.get(id(module), 0) + 1
        if isinstance(module, PRODUCERS) and isinstance(output, Tensor):
            made.append((output, module))
            readers.count[id(output)] = 0
        elif isinstance(module, NORMS) and module.running_mean is not None:
            pairs.extend((tensor, layer, module) for tensor, layer in made if tensor is args[0])

    handles = [m.register_forward_hook(seen) for m in model.modules() if isinstance(m, (*PRODUCERS, *NORMS))]
    try:
        with readers:
            results = tree_leaves(call(model, example))
    finally:
        for handle in handles:
            handle.remove()
    return [
        (layer, norm)
        for tensor, layer, norm in pairs
        if calls[id(layer)] == calls[id(norm)] == readers.count[id(tensor)] == 1
        and not any(tensor is result for result in results)
    ]


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


def _fold(layer: nn.Module, norm: nn.Module) -> None:
    mean, variance = norm.running_mean.double(), norm.running_var.double()
    factor = torch.rsqrt(variance + norm.eps)  # type: ignore[operator]
    if norm.weight is not None:
        factor = factor * norm.weight.double()  # type: ignore[operator]
    bias = layer.bias.double() if layer.bias is not None else torch.zeros_like(mean)
    bias = (bias - mean) * factor + (norm.bias.double() if norm.bias is not None else 0)  # type: ignore[operator]
    weight: Tensor = layer.weight  # type: ignore[assignment]
    layer.weight = nn.Parameter((weight.double() * factor.view(-1, *[1] * (weight.dim() - 1))).to(weight.dtype))
    layer.bias = nn.Parameter(bias.to(weight.dtype))
