"""Second moments of what reaches a layer's weights, gathered from calibration batches."""

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from bitwright import kernels
from bitwright.model.attention import Attention
from bitwright.model.convolution import Conv
from bitwright.model.layers import FakeQuantizedLayer
from bitwright.model.lowering import Linear, Lowering
from bitwright.model.task import Batch, call

Forward = Callable[[nn.Module, Batch], Any]


@dataclass(frozen=True)
class Moments:
    """Σ over all products of a layer, one matrix a group: x̂ is the quantized input, x the float network's."""

    quantized: Float[np.ndarray, "groups k k"]  # Σ x̂ x̂ᵀ
    crossed: Float[np.ndarray, "groups k k"] | None  # Σ x̂ xᵀ


def layers_in_order(model: nn.Module, batches: Iterable[Batch], forward: Forward | None) -> list[FakeQuantizedLayer]:
    """Calibrated layers as the first batch runs through them; those that it does not reach come last."""
    layers = [m for m in model.modules() if isinstance(m, FakeQuantizedLayer)]
    found: dict[int, FakeQuantizedLayer] = {}
    handles = [m.register_forward_pre_hook(lambda m, args: found.setdefault(id(m), m) and None) for m in layers]
    try:
        for batch in batches:
            run(model, batch, forward)
            break
        else:
            raise ValueError("the calibration data is empty; give at least one batch")
    finally:
        for handle in handles:
            handle.remove()
    return [*found.values(), *[m for m in layers if id(m) not in found]]


def in_float(prepared: nn.Module) -> nn.Module:
    """A copy of a prepared model that computes in float, as before calibration."""
    model = copy.deepcopy(prepared)
    for module in model.modules():
        if isinstance(module, FakeQuantizedLayer):
            module.weight_quantizer = None
        elif isinstance(module, Attention):
            module.quantizers = {}
    return model


@torch.no_grad()
def input_moments(
    model: nn.Module,
    layer: FakeQuantizedLayer,
    batches: Iterable[Batch],
    reference: tuple[nn.Module, FakeQuantizedLayer] | None = None,
    forward: Forward | None = None,
) -> Moments:
    """Moments of one layer's quantized inputs; crossed with those of the same layer in a reference model."""
    quantized: Tensor | float = 0.0
    crossed: Tensor | float = 0.0
    for batch in batches:
        inputs = _inputs(model, layer, batch, forward)
        exact = inputs if reference is None else _inputs(*reference, batch, forward)
        for x, original in zip(inputs, exact, strict=True):
            rows = _rows(layer, quantized_input(layer, x))
            quantized = quantized + rows.mT @ rows
            if reference is not None:
                crossed = crossed + rows.mT @ _rows(layer, original)
    if not isinstance(quantized, Tensor):
        raise ValueError("no calibration data reached this layer; pass batches that run through it")
    return Moments(quantized.numpy(), crossed.numpy() if isinstance(crossed, Tensor) else None)


def quantized_input(layer: FakeQuantizedLayer, x: Tensor) -> Tensor:
    """What the layer makes of its input before it multiplies."""
    if layer.input_quantizer is None:
        return x
    rows = kernels.fake_quantize(layer.input_quantizer, layer.lowering.input_rows(x).float(), layer.input_ranges)
    return layer.lowering.input_from_rows(rows, x)


def run(model: nn.Module, batch: Batch, forward: Forward | None) -> Any:
    return call(model, batch.inputs) if forward is None else forward(model, batch)


@contextmanager
def collecting(layer: nn.Module, values: list[Tensor], *, outputs: bool = False) -> Iterator[None]:
    """While it lasts, each call of the layer adds its first argument, or its output, to `values`."""
    if outputs:
        handle = layer.register_forward_hook(lambda m, args, output: values.append(output))
    else:
        handle = layer.register_forward_pre_hook(lambda m, args: values.append(args[0]))
    try:
        yield
    finally:
        handle.remove()


def _inputs(model: nn.Module, layer: FakeQuantizedLayer, batch: Batch, forward: Forward | None) -> list[Tensor]:
    seen: list[Tensor] = []
    with collecting(layer, seen):
        run(model, batch, forward)
    return seen


def _rows(layer: FakeQuantizedLayer, x: Tensor) -> Tensor:
    """Inputs of each dot product in the order of a weight row [groups, products, K]."""
    met = patches(layer.lowering, x.double(), layer.weight.shape)
    return torch.stack([layer.lowering.weight_rows(group, layer.block) for group in met])


@singledispatch
def patches(lowering: Lowering, x: Tensor, shape: torch.Size) -> Tensor:
    """The inputs that meet a weight of this shape, shaped like it: [groups, products, *shape[1:]]."""
    raise NotImplementedError(f"{lowering}: its inputs cannot be laid out along K")


@patches.register
def _(lowering: Linear, x: Tensor, shape: torch.Size) -> Tensor:
    return x.reshape(1, -1, shape[1])


@patches.register
def _(lowering: Conv, x: Tensor, shape: torch.Size) -> Tensor:
    image = x if x.dim() == 4 else x.unsqueeze(2)
    height, width = (1, *shape[2:])[-2:]
    padded = functional.pad(image, lowering.padding)
    columns = functional.unfold(padded, (height, width), lowering.dilation, 0, lowering.stride)
    grouped = columns.unflatten(1, (lowering.groups, -1)).permute(1, 0, 3, 2)  # [groups, images, places, K]
    return grouped.reshape(lowering.groups, -1, *shape[1:])
