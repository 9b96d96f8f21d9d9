"""The matrix products of a network with the scheme of each: what a circuit is asked to compute."""

from collections import Counter
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bitwright.gemm import LayerGemm
from bitwright.model.attention import Attention
from bitwright.model.inspect import kind_of
from bitwright.model.layers import FakeQuantizedLayer, QuantizedLayer
from bitwright.model.prepare import calibrate, prepare, prove
from bitwright.model.site import naming
from bitwright.model.task import Inputs, Task, call
from bitwright.model.transform import fold_batchnorm
from bitwright.model.watch import watch
from bitwright.recipe import Recipe
from bitwright.result import Coverage
from bitwright.scheme import Scheme


class Products(NamedTuple):
    """Layers with their schemes, whose formats calibration has chosen, and names of what stays in float."""

    layers: tuple[tuple[LayerGemm, Scheme], ...]
    left_out: tuple[str, ...]


def products(task: Task, recipe: Recipe | Scheme) -> Products:
    """Shapes of one sample's products. Formats are chosen on the first sample of the calibration data.

    A register that forbids overflow and is too narrow for a layer's weights raises ValueError naming the layer.
    """
    batch = next(iter(task.calibration()), None)
    if batch is None:
        raise ValueError(f"{task.name}: the calibration data is empty; give at least one batch")
    batch = batch.first(1)
    prepared = prepare(fold_batchnorm(task.load(), batch.inputs), recipe, batch.inputs)
    calibrate(prepared, [batch], task.forward)
    calls: Counter[tuple[LayerGemm, Scheme]] = Counter()
    layers = [m for m in prepared.modules() if isinstance(m, FakeQuantizedLayer)]
    for layer in layers:
        _require_fit(layer)

    def see(layer: FakeQuantizedLayer, x: Tensor) -> None:
        assert layer.weight_quantizer is not None, "resolved before"
        scheme = replace(layer.scheme, input=layer.input_quantizer, weight=layer.weight_quantizer, examples=())
        calls[LayerGemm(str(layer.name), layer.lowering.gemm(x, layer.weight)), scheme] += 1

    watch(task, prepared, layers, batch, see)
    for module in prepared.modules():
        if isinstance(module, Attention) and module.gemms is not None:
            for gemm, what in zip(module.gemms, ("scores", "mixed"), strict=True):
                calls[LayerGemm(f"{module.name} {what}", gemm, is_of_activations=True), module.scheme] += 1
    return Products(tuple((replace(layer, calls=n), scheme) for (layer, scheme), n in calls.items()), _left(prepared))


@torch.no_grad()
def stored_products(frozen: nn.Module, inputs: Inputs) -> Products:
    """Of a model that is quantized already, such as an imported one: its frozen layers, under the schemes they have."""
    calls: Counter[tuple[LayerGemm, Scheme]] = Counter()

    def see(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, QuantizedLayer), "hooked below"
        gemm = layer.lowering.gemm(given[0][:1], torch.empty(layer.weight_shape))
        calls[LayerGemm(layer.name, gemm), layer.scheme] += 1

    hooks = [m.register_forward_pre_hook(see) for m in frozen.modules() if isinstance(m, QuantizedLayer)]
    if not hooks:
        raise ValueError("the model has no quantized layer; give a scheme with it, as for any float model")
    try:
        call(frozen, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    floats = [
        Coverage(n, kind_of(m) or "", "float", "stored in float", 1) for n, m in frozen.named_modules() if kind_of(m)
    ]
    left = (f"{_listed(floats)}: stored in float",) if floats else ()
    return Products(tuple((replace(layer, calls=n), scheme) for (layer, scheme), n in calls.items()), left)


def _require_fit(layer: FakeQuantizedLayer) -> None:
    datapath = layer.scheme.datapath
    if datapath.inner.range is None and datapath.outer.range is None:
        return  # as wide as needed, and no weight has to be looked at
    with naming(f"{layer.name} (K = {layer.weight.shape[1:].numel()})"):
        certificate = prove(layer).certificate
        if certificate is not None:
            datapath.require_fit(certificate)


def _left(prepared: nn.Module) -> tuple[str, ...]:
    """What has no scheme, together by reason."""
    coverage: tuple[Coverage, ...] = prepared.coverage  # type: ignore[assignment]
    by_reason: dict[str, list[Coverage]] = {}
    for entry in coverage:
        if entry.status != "quantized":
            by_reason.setdefault(entry.reason, []).append(entry)
    return tuple(f"{_listed(entries)}: {reason}" for reason, entries in by_reason.items())


def _listed(entries: list[Coverage]) -> str:
    if len(entries) <= 3:
        return ", ".join(f"{entry.name} ({entry.kind})" for entry in entries)
    return f"{len(entries)} modules ({', '.join(dict.fromkeys(entry.kind for entry in entries))})"
