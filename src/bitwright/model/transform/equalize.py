"""Move scale between layers so that quantization meets channels of like range, while the network computes the same.

Where each channel that a layer makes reaches other layers through positively homogeneous functions alone, f(s·x) =
s·f(x) for s > 0, it can be made s times smaller there and read s times larger here. M. Nagel et al., "Data-free
quantization through weight equalization and bias correction", ICCV 2019, arXiv:1906.04721, eq. 9 to 11; behind norms
G. Xiao et al., "SmoothQuant", ICML 2023, arXiv:2211.10438, eq. 4.
Differs from the papers: factors are rounded to powers of two, so that products and sums stay the very same floats; a
ReLU6 keeps its function, with a bound for each channel, where Nagel et al. make it a ReLU.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from bitwright.model.task import Batch
from bitwright.model.transform.channel_paths import LAYERS, Link, find_links, parameter
from bitwright.model.transform.input_moments import Forward, run
from bitwright.model.transform.replaced import replaced
from bitwright.recipe import nearest

TOLERANCE = 1e-5
"""Of the largest output: far above the rounding of float32 sums in another order, far below a wrong factor."""


@dataclass(frozen=True)
class Magnitudes:
    """Largest magnitude of each channel between a source and the layers that read it."""

    weights_before: Float[np.ndarray, " channels"] | None  # that make it; None behind a norm
    weights_after: Float[np.ndarray, " channels"]  # that read it
    values: Float[np.ndarray, " channels"]  # of it, as it is read, over the batches


class Balance(ABC):
    """By how much smaller each channel is made, and how much larger read."""

    @abstractmethod
    def factors(self, found: Magnitudes) -> Float[np.ndarray, " channels"] | None:
        """Factors above 0; any other leaves its channel alone, None all of them."""


@dataclass(frozen=True)
class WeightRanges(Balance):
    """The largest weights that make and that read a channel become equal (Nagel et al., eq. 11). Not behind norms.

    Differs: no channel's values become larger than the largest channel's, where the paper absorbs large biases into the
    next layer (sec. 4.1.3). A channel of small weights and a large bias would set the range of all others.
    """

    def factors(self, found: Magnitudes) -> Float[np.ndarray, " channels"] | None:
        if found.weights_before is None:
            return None
        widest = found.values / max(float(found.values.max()), np.finfo(np.float64).tiny)
        least = np.exp2(np.ceil(np.log2(widest, out=np.full_like(widest, -np.inf), where=widest > 0)))
        wanted = np.sqrt(_ratio(found.weights_before, found.weights_after))
        return np.where(wanted > 0, np.maximum(wanted, least), 0.0)


@dataclass(frozen=True)
class Migration(Balance):
    """Part of the spread of a channel's values moves into the weights that read it (Xiao et al., eq. 4).

    `strength` 0 evens out the weights alone, 1 the values alone.
    """

    strength: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise ValueError(f"Migration: a strength of {self.strength} found; 0 to 1 is possible")

    def factors(self, found: Magnitudes) -> Float[np.ndarray, " channels"] | None:
        after = found.weights_after ** (1 - self.strength)
        return _ratio(found.values**self.strength, after)


@torch.no_grad()
def equalize(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    balance: Balance = WeightRanges(),
    passes: int = 10,
    sources: Collection[str] | None = None,
    forward: Forward | None = None,
) -> nn.Module:
    """A copy of a float model, BatchNorms folded, that computes the same with channels of more equal range.

    The first batch tells what reads each layer's output; see `links` for what was found and why others are left
    alone. All links are balanced `passes` times, or until none changes. `sources` None takes all. A model without a
    link, and one whose outputs the change would move, raise ValueError.
    """
    batches, model = list(batches), copy.deepcopy(model).eval()
    if not batches:
        raise ValueError("the calibration data is empty; give at least one batch")
    before = run(model, batches[0], forward)
    chosen = _chosen(find_links(model, lambda m: run(m, batches[0], forward)), sources)
    model = replaced(model, {id(b.old): b.new for link in chosen for b in link.bounds})
    values = _largest_inputs(model, chosen, batches, forward)
    for _ in range(passes):
        changed = [_balance_(link, values, balance) for link in chosen]
        if not any(changed):
            break
    _require_same(before, run(model, batches[0], forward))
    return model


@torch.no_grad()
def links(model: nn.Module, batches: Iterable[Batch], *, forward: Forward | None = None) -> tuple[Link, ...]:
    """What `equalize` finds: each layer or norm, the layers that alone read its channels, or why there are none."""
    first = next(iter(batches), None)
    if first is None:
        raise ValueError("the calibration data is empty; give at least one batch")
    return find_links(copy.deepcopy(model).eval(), lambda m: run(m, first, forward))


def _chosen(found: tuple[Link, ...], sources: Collection[str] | None) -> list[Link]:
    """The links to balance. A source that was named and is none, or no link at all, raises ValueError."""
    reasons = {link.name: link.refused for link in found}
    names = [name for name, reason in reasons.items() if not reason]
    for name in sources or ():
        if name not in names:
            raise ValueError(
                f"{name!r} cannot be equalized: {reasons.get(name) or 'no such layer' + nearest(name, names)}"
            )
    chosen = [link for link in found if not link.refused and (sources is None or link.name in sources)]
    if not chosen:
        raise ValueError(
            "no layer's output reaches only other layers through ReLU-like functions, so there is nothing to "
            "equalize; fold BatchNorm first, or see links(model, batches) for each layer's reason"
        )
    return chosen


def _balance_(link: Link, values: dict[int, Tensor], balance: Balance) -> bool:
    """Apply one link's factors; whether any of them was not 1."""
    weight = parameter(link.source, "weight")
    channels = len(weight)
    after = torch.stack([_by_channel(_input_magnitudes(layer), channels) for layer in link.sinks]).amax(0)
    seen = torch.stack([_by_channel(values[id(layer)], channels) for layer in link.sinks]).amax(0)
    made = weight.flatten(1).abs().amax(1) if isinstance(link.source, LAYERS) else None
    factors = balance.factors(Magnitudes(None if made is None else _array(made), _array(after), _array(seen)))
    if factors is None:
        return False
    usable = np.isfinite(factors) & (factors > 0)
    exponent = np.rint(np.log2(np.where(usable, factors, 1.0)))
    factor = torch.from_numpy(np.exp2(exponent)).to(weight)
    _divide_outputs_(link.source, factor)
    for bound in link.bounds:
        bound.new.divide_(factor)
    for layer in link.sinks:
        _multiply_inputs_(layer, factor)
        values[id(layer)] = values[id(layer)] / _repeated(factor, len(values[id(layer)]))
    return bool(np.any(exponent != 0))


def _divide_outputs_(source: nn.Module, factor: Tensor) -> None:
    """Make each channel so much smaller. Weight and bias of layers and of affine norms begin with the channels."""
    weight = parameter(source, "weight")
    weight.div_(factor.view(-1, *[1] * (weight.dim() - 1)))
    if source._parameters.get("bias") is not None:
        parameter(source, "bias").div_(factor)


def _multiply_inputs_(layer: nn.Module, factor: Tensor) -> None:
    """Read each channel so much larger; of a flattened image all pixels of it."""
    grouped = _grouped(layer)
    channels = grouped.shape[0] * grouped.shape[2]
    larger = grouped * _repeated(factor, channels).view(grouped.shape[0], 1, -1, 1)
    weight = parameter(layer, "weight")
    weight.copy_(larger.view(weight.shape))


def _input_magnitudes(layer: nn.Module) -> Tensor:
    """Largest |w| of each input channel."""
    return _grouped(layer).abs().amax((1, 3)).flatten()


def _grouped(layer: nn.Module) -> Tensor:
    """The weight as [groups, outputs, inputs, taps], outputs and inputs of one group."""
    weight, groups = parameter(layer, "weight"), int(getattr(layer, "groups", 1))
    return weight.reshape(groups, len(weight) // groups, weight.shape[1], -1)


def _repeated(factor: Tensor, inputs: int) -> Tensor:
    return factor.repeat_interleave(inputs // len(factor))


def _by_channel(magnitudes: Tensor, channels: int) -> Tensor:
    """Of inputs that are pixels of flattened channels the largest of each."""
    return magnitudes.view(channels, -1).amax(1)


def _largest_inputs(
    model: nn.Module, chosen: Collection[Link], batches: Iterable[Batch], forward: Forward | None
) -> dict[int, Tensor]:
    """Largest |x| of each input channel of every layer that reads a link, by the layer's id."""
    layers = {id(layer): layer for link in chosen for layer in link.sinks}
    largest: dict[int, Tensor] = {}

    def note(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        axis = 1 - parameter(module, "weight").dim()
        seen = args[0].abs().movedim(axis, 0).flatten(1).amax(1)
        largest[id(module)] = torch.maximum(largest.get(id(module), seen), seen)

    handles = [layer.register_forward_pre_hook(note) for layer in layers.values()]
    try:
        for batch in batches:
            run(model, batch, forward)
    finally:
        for handle in handles:
            handle.remove()
    return largest


def _require_same(before: object, after: object) -> None:
    pairs = zip(tree_leaves(before), tree_leaves(after), strict=True)
    for old, new in [(a, b) for a, b in pairs if isinstance(a, Tensor) and a.is_floating_point() and a.numel()]:
        difference = float((old - new).abs().max()) / max(float(old.abs().max()), 1e-30)
        if not difference <= TOLERANCE:
            raise ValueError(
                f"equalizing moved an output by {difference:.1e} of the largest: something reads a layer's weight or "
                "output where no function of torch shows it; name the layers to equalize in `sources`"
            )


def _ratio(a: Float[np.ndarray, " channels"], b: Float[np.ndarray, " channels"]) -> Float[np.ndarray, " channels"]:
    """a / b, and 0 where b is: such a channel is left alone."""
    return np.divide(a, b, out=np.zeros_like(a), where=b > 0)


def _array(x: Tensor) -> Float[np.ndarray, " channels"]:
    return x.double().cpu().numpy()
