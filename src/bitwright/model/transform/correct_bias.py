"""Take what quantization adds to the mean of each output channel off the bias.

M. Nagel et al., "Data-free quantization through weight equalization and bias correction", ICCV 2019, arXiv:1906.04721,
sec. 4.2 and appendix D: the empirical form, layer after layer, so that each correction sees those before it.
"""

import copy
from collections.abc import Iterable
from functools import singledispatch

import torch
from torch import Tensor, nn

from bitwright.model.convolution import Conv
from bitwright.model.layers import FakeQuantizedLayer
from bitwright.model.lowering import Linear, Lowering
from bitwright.model.site import naming
from bitwright.model.task import Batch
from bitwright.model.transform.input_moments import Forward, collecting, layers_in_order, run
from bitwright.model.transform.unroll import unroll


@torch.no_grad()
def correct_bias(
    prepared: nn.Module, float_model: nn.Module, batches: Iterable[Batch], *, forward: Forward | None = None
) -> nn.Module:
    """A copy whose layers have the mean outputs of the float model that was prepared, channel by channel.

    Comes last, after the weights are chosen. A layer without a bias gets one.
    """
    batches, model = list(batches), copy.deepcopy(prepared)
    original = unroll(float_model).eval()
    there = dict(original.named_modules(remove_duplicate=False))
    for layer in layers_in_order(model, batches, forward):
        with naming(layer.name):
            if layer.name not in there:
                raise ValueError("the float model has no such layer; give the one that was prepared")
            wanted = _mean_output(original, there[layer.name], batches, forward, layer)
            shift = wanted - _mean_output(model, layer, batches, forward, layer)
        bias = shift if layer.bias is None else layer.bias.detach().double() + shift
        layer.bias = nn.Parameter(bias.to(layer.weight.dtype), requires_grad=False)
    return model


def _mean_output(
    model: nn.Module, module: nn.Module, batches: list[Batch], forward: Forward | None, like: FakeQuantizedLayer
) -> Tensor:
    """Mean of each output channel over the batches."""
    total, count = torch.zeros(like.weight.shape[0], dtype=torch.double, device=like.weight.device), 0
    for batch in batches:
        outputs: list[Tensor] = []
        with collecting(module, outputs, outputs=True):
            run(model, batch, forward)
        for y in outputs:
            rows = output_rows(like.lowering, y.double())
            total, count = total + rows.sum(0), count + len(rows)
    if not count:
        raise ValueError("no calibration data reached this layer; pass batches that run through it")
    return total / count


@singledispatch
def output_rows(lowering: Lowering, y: Tensor) -> Tensor:
    """Outputs as rows [places, channels]."""
    raise NotImplementedError(f"{lowering}: which axis of its output holds the channels is not known")


@output_rows.register
def _(lowering: Linear, y: Tensor) -> Tensor:
    return y.flatten(0, -2)


@output_rows.register
def _(lowering: Conv, y: Tensor) -> Tensor:
    return y.movedim(1, -1).flatten(0, -2)
