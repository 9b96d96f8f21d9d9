"""Training with registers that wrap: fewer sums that overflow, by the inputs' step before and by a penalty during it.

    choose_steps(prepared, batches)
    train(prepared, batches, Training(epochs=15), loss=OverflowPenalty(0.1))

R. Ni et al., ICLR 2021, arXiv:2007.13242. Both act on layers whose inner register has a readout; the others stay.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bitwright.model.layers import FakeQuantizedLayer
from bitwright.model.register import overflow
from bitwright.model.task import Batch, call
from bitwright.model.train import Loss, cross_entropy
from bitwright.quantization import Range

FINER = 2.0**0.25
"""Ratio of one step that is tried to the one before."""

WIDEST = 2.0**16
"""Largest ratio of a chosen step to the calibrated one."""


@dataclass(frozen=True)
class OverflowPenalty:
    """A loss, and `weight` times how far sums overflow: max(|z| - 2**(bits - 1), 0), a mean over each layer's sums.

    The layers' means are added, which the paper leaves open as far as we know it.
    """

    weight: float = 0.1
    loss: Loss = cross_entropy

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        with overflows(model) as seen:
            value = self.loss(model, batch)
        return value + self.weight * torch.stack([o.mean() for found in seen.values() for o in found]).sum()


@contextmanager
def overflows(model: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """How far the sums of each forward pass overflow, with a gradient, by the layer's place in the module tree."""
    seen: dict[str, list[Tensor]] = {name: [] for name in _wrapping(model)}

    def watch(found: list[Tensor]) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda module, arguments: found.append(overflow(*arguments))

    with ExitStack() as stack:
        for name, layer in _wrapping(model).items():
            stack.callback(layer.readout.register_forward_pre_hook(watch(seen[name])).remove)
        yield seen


@dataclass(frozen=True)
class ChosenStep:
    """The input's step of one layer, and the share of its sums that overflow on the calibration batches."""

    layer: str
    ratio: float  # to the calibrated step
    before: float
    after: float


@torch.no_grad()
def choose_steps(prepared: nn.Module, batches: Iterable[Batch], share: float = 0.05) -> tuple[ChosenStep, ...]:
    """Widen static input ranges, in place, until at most this share of each layer's sums overflows.

    The narrowest such range among the calibrated one times powers of 2**(1/4). Layers are taken in order, each with the
    inputs that those before it make with their chosen steps, so that the model runs once a layer.
    """
    if not 0 <= share < 1:
        raise ValueError(f"choose_steps: a share of {share} found; it is at least 0 and below 1")
    kept = list(batches)
    if not kept:
        raise ValueError("choose_steps: the calibration data is empty; give at least one batch")
    layers = _wrapping(prepared)
    learned = [name for name, layer in layers.items() if "input" in layer.steps]
    if learned:
        raise ValueError(
            f"choose_steps: the input's range of {learned[0]} is learned already; choose steps before that"
        )
    ordered = _in_order(prepared, layers, kept[0])
    return tuple(_choose(prepared, name, layers[name], kept, share) for name in ordered)


def _wrapping(model: nn.Module) -> dict[str, FakeQuantizedLayer]:
    """Layers whose inner register is read through a function. None at all is an error."""
    layers = {
        name: m
        for name, m in model.named_modules()
        if isinstance(m, FakeQuantizedLayer) and m.scheme.input is not None and m.scheme.datapath.inner.readout
    }
    if not layers:
        raise ValueError(
            "no layer has an accumulator with a readout; prepare the model with a scheme such as wrapnet()"
        )
    return layers


def _choose(
    prepared: nn.Module, name: str, layer: FakeQuantizedLayer, batches: Sequence[Batch], share: float
) -> ChosenStep:
    inputs = _inputs(prepared, layer, batches)
    calibrated = layer.calibrated["input"]
    assert all(isinstance(r, Range) for r in calibrated), "asked by the layer's own forward"
    ratio = 1.0
    before = after = _share(layer, inputs)
    while after > share:
        ratio *= FINER
        if ratio > WIDEST:
            raise ValueError(
                f"layer {name}: {100 * after:.1f} % of its sums overflow at any step; widen the accumulator"
            )
        layer.pin("input", tuple(Range(r.low * ratio, r.high * ratio) for r in calibrated if r is not None))
        after = _share(layer, inputs)
    return ChosenStep(name, ratio, before, after)


def _share(layer: FakeQuantizedLayer, inputs: Sequence[Tensor]) -> float:
    """Part of the layer's sums that no integer of its register is."""
    outside = count = 0

    def see(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        nonlocal outside, count
        y, unit, register = arguments
        z = (y.float() / unit).round()
        outside += int(((z < -register.half) | (z >= register.half)).sum())
        count += z.numel()

    handle = layer.readout.register_forward_pre_hook(see)
    try:
        for x in inputs:
            layer(x)
    finally:
        handle.remove()
    return outside / max(count, 1)


def _inputs(prepared: nn.Module, layer: FakeQuantizedLayer, batches: Sequence[Batch]) -> list[Tensor]:
    found: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda module, arguments: found.append(arguments[0]))
    try:
        for batch in batches:
            call(prepared, batch.inputs)
    finally:
        handle.remove()
    return found


def _in_order(prepared: nn.Module, layers: dict[str, FakeQuantizedLayer], batch: Batch) -> list[str]:
    """Layers in the order of execution; one that does not run is left out."""
    order: list[str] = []
    with ExitStack() as stack:
        for name, layer in layers.items():
            note = layer.register_forward_pre_hook(lambda module, arguments, name=name: order.append(name))
            stack.callback(note.remove)
        call(prepared, batch.inputs)
    return list(dict.fromkeys(order))
