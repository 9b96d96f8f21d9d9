"""Outlier channel splitting: the input channels with the largest values become two that share them.

R. Zhao et al., "Improving neural network quantization without retraining using outlier channel splitting", ICML 2019,
arXiv:1901.09504, and the authors' code (github.com/cornell-zhang/dnn-quant-ocs). The float function stays, as
w·x = w₁·x + w₂·x where w₁ + w₂ = w, and w·x = w·(x/2) + w·(x/2); the range that quantization must cover shrinks.
"""

import copy
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bitwright.model.task import Batch, call
from bitwright.model.transform.replaced import replaced
from bitwright.quantization import PerRow, PerTensor
from bitwright.recipe import nearest

FORWARDS = (nn.Linear.forward, nn.Conv1d.forward, nn.Conv2d.forward)
"""What the layers compute whose channels can be split; a subclass that changes its forward is left alone."""

OPAQUE = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
"""Modules that read the weights of their layers directly."""


class SplitInput(nn.Module):
    """A layer behind the input channels that it reads: `source` says which one each is, `factor` what part of it."""

    source: Tensor
    factor: Tensor

    def __init__(self, layer: nn.Module, source: Int[np.ndarray, " wide"], factor: Float[np.ndarray, " wide"]) -> None:
        super().__init__()
        weight: Tensor = layer.weight  # type: ignore[assignment]
        self.axis = _channel_axis(weight)
        self.register_buffer("source", torch.from_numpy(source).to(weight.device))
        self.register_buffer("factor", torch.from_numpy(factor).to(weight).view(-1, *[1] * (weight.dim() - 2)))
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.index_select(self.axis, self.source) * self.factor)


def splittable(model: nn.Module) -> tuple[str, ...]:
    """Names of the layers whose channels can be split, in order of definition: Linear, Conv1d, Conv2d of one group."""
    inside = {id(layer) for module in model.modules() if isinstance(module, OPAQUE) for layer in module.modules()}
    return tuple(
        name
        for name, module in model.named_modules()
        if type(module).forward in FORWARDS and getattr(module, "groups", 1) == 1 and id(module) not in inside
    )


def split_weight_channels(
    model: nn.Module,
    ratio: float,
    bits: int,
    *,
    layers: Collection[str] | None = None,
    share: PerTensor | PerRow = PerTensor(),
) -> nn.Module:
    """A copy where ceil(ratio · channels) splits a layer lower the weights' largest magnitude.

    Each split takes the channel with the largest |w|, copies included (of equals the last, as the authors' sort
    does), and makes it w/2 - step/4 and w/2 + step/4, whose codes add up to the code of w; a zero makes two zeros.
    The step is max|w| / (2**(bits - 1) - 1) over those that `share` it, after a first pass without step/4.
    `layers` None splits all that can be. Differs from the paper: there a whole tensor shares the step, as by default.
    """
    if bits < 2:
        raise ValueError(f"split_weight_channels: {bits} bits hold no positive weight; give at least 2")

    def split(name: str, layer: nn.Module) -> nn.Module:
        weight: Tensor = layer.weight  # type: ignore[assignment]
        values = weight.detach().double().cpu().numpy().reshape(*weight.shape[:2], -1)
        if not np.isfinite(values).all():
            raise ValueError(f"layer {name}: its weight is not finite; only finite weights can be split")
        splits = _count(ratio, values.shape[1])
        halved, _ = _split(values, splits, step=np.zeros((1, 1)))
        largest = share.reduce(np.maximum, np.abs(halved).reshape(len(halved), -1))
        wide, source = _split(values, splits, step=largest / (2 ** (bits - 1) - 1))
        shape = (len(wide), len(source), *weight.shape[2:])
        _widen_(layer, torch.from_numpy(wide).view(shape).to(weight))
        return SplitInput(layer, source, np.ones(len(source)))

    return _replace(model, ratio, layers, split)


@torch.no_grad()
def input_magnitudes(
    model: nn.Module, batches: Iterable[Batch], forward: Callable[[nn.Module, Batch], Any] | None = None
) -> dict[str, Float[np.ndarray, " channels"]]:
    """Largest |x| of each input channel over the batches, for every splittable layer that they reach, by name."""
    model = copy.deepcopy(model).eval()
    largest: dict[str, Tensor] = {}

    def note(name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        axis = _channel_axis(module.weight)  # type: ignore[arg-type]
        x = args[0].abs().movedim(axis, 0).flatten(1).double()
        if x.numel():
            seen = x.amax(1)
            largest[name] = torch.maximum(largest.get(name, seen), seen)

    for name in splittable(model):
        model.get_submodule(name).register_forward_pre_hook(partial(note, name))
    for batch in batches:
        call(model, batch.inputs) if forward is None else forward(model, batch)
    if not largest:
        raise ValueError("input_magnitudes: no batch reached a layer; give one that runs through a splittable layer")
    for name, seen in largest.items():
        if not bool(seen.isfinite().all()):
            raise ValueError(f"layer {name}: an input is not finite; only finite numbers can be calibrated on")
    return {name: seen.cpu().numpy() for name, seen in largest.items()}


def split_input_channels(
    model: nn.Module,
    ratio: float,
    magnitudes: Mapping[str, Float[np.ndarray, " channels"]],
    *,
    layers: Collection[str] | None = None,
) -> nn.Module:
    """A copy where ceil(ratio · channels) splits a layer lower the largest magnitude of its input.

    Each split takes the channel with the largest of `input_magnitudes`, copies included, and reads it twice at half
    its value, with its weights twice. `layers` None splits those that have magnitudes. Differs from the paper's
    grid-aware parts x/2 ± step/4: those make zeros negative, so inputs behind a ReLU would need a sign bit.
    """

    def split(name: str, layer: nn.Module) -> nn.Module:
        weight: Tensor = layer.weight  # type: ignore[assignment]
        channels = weight.shape[1]
        seen = magnitudes.get(name)
        if seen is None:
            raise ValueError(f"layer {name}: no magnitudes given for it; gather them with input_magnitudes")
        if len(seen) != channels:
            raise ValueError(
                f"layer {name}: {len(seen)} magnitudes found for {channels} channels; gather them on this very model"
            )
        source, factor = _halve(seen, _count(ratio, channels))
        _widen_(layer, weight.detach()[:, torch.from_numpy(source).to(weight.device)])
        return SplitInput(layer, source, factor)

    return _replace(model, ratio, magnitudes.keys() if layers is None else layers, split)


def _replace(
    model: nn.Module, ratio: float, layers: Collection[str] | None, split: Callable[[str, nn.Module], nn.Module]
) -> nn.Module:
    """A copy of the model with each named layer replaced by what `split` makes of it."""
    if not 0 <= ratio <= 1:
        raise ValueError(f"a ratio of {ratio} found; the part of the channels to split lies between 0 and 1")
    possible = splittable(model)
    for name in layers or ():
        if name not in possible:
            raise ValueError(
                f"{name!r} cannot be split; only a Linear, Conv1d or Conv2d of one group can{nearest(name, possible)}"
            )
    model = copy.deepcopy(model).eval()
    if ratio == 0:
        return model
    chosen = {name: model.get_submodule(name) for name in (possible if layers is None else layers)}
    made = {id(layer): split(name, layer).eval() for name, layer in chosen.items()}
    return replaced(model, made)


def _count(ratio: float, channels: int) -> int:
    """Splits of a layer."""
    return math.ceil(ratio * channels)


def _split(
    weight: Float[np.ndarray, "n channels taps"], splits: int, step: Float[np.ndarray, "rows 1"]
) -> tuple[Float[np.ndarray, "n wide taps"], Int[np.ndarray, " wide"]]:
    """The weight with split channels, new ones at the end, and the channel that each comes from."""
    channels = weight.shape[1]
    wide = np.concatenate([weight, np.zeros((len(weight), splits, weight.shape[2]))], 1)
    source = np.arange(channels + splits)
    largest = np.abs(wide).max((0, 2))
    for new in range(channels, channels + splits):
        old = _last_largest(largest[:new])
        whole = wide[:, old]
        quarter = np.where(whole == 0, 0, step / 4)
        wide[:, old], wide[:, new] = whole / 2 - quarter, whole / 2 + quarter
        source[new] = source[old]
        largest[[old, new]] = np.abs(wide[:, [old, new]]).max((0, 2))
    return wide, source


def _halve(
    magnitudes: Float[np.ndarray, " channels"], splits: int
) -> tuple[Int[np.ndarray, " wide"], Float[np.ndarray, " wide"]]:
    """The channel that each comes from, new ones at the end, and the part of it that it carries."""
    channels = len(magnitudes)
    source, factor = np.arange(channels + splits), np.ones(channels + splits)
    for new in range(channels, channels + splits):
        old = _last_largest(magnitudes[source[:new]] * factor[:new])
        source[new] = source[old]
        factor[[old, new]] = factor[old] / 2
    return source, factor


def _last_largest(values: Float[np.ndarray, " channels"]) -> int:
    return len(values) - 1 - int(np.argmax(values[::-1]))


def _widen_(layer: nn.Module, weight: Tensor) -> None:
    """Give a layer a weight of other input channels."""
    layer.weight = nn.Parameter(weight, requires_grad=layer.weight.requires_grad)  # type: ignore[arg-type]
    setattr(layer, "in_features" if isinstance(layer, nn.Linear) else "in_channels", weight.shape[1])


def _channel_axis(weight: Tensor) -> int:
    """Axis of the channels in the input of a layer with this weight, counted from the end."""
    return 1 - weight.dim()
