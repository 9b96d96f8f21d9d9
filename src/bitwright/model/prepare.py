"""prepare → calibrate → (train) → freeze: a float model becomes one that computes as the hardware does.

The model stays an ordinary module throughout; each step returns a copy or fills in what the one before left open.
"""

import copy
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from bitwright import kernels
from bitwright.config import from_text
from bitwright.datapath import Certificate, bits_for, worst_sum
from bitwright.model.attention import Attention, AttentionCaller
from bitwright.model.convolution import Conv
from bitwright.model.inspect import Structure, inspect, kind_of, unsupported_reason
from bitwright.model.layers import FakeQuantizedLayer, QuantizedEmbedding, QuantizedLayer
from bitwright.model.lowering import Linear, Lowering
from bitwright.model.site import Site, naming
from bitwright.model.task import Batch, Inputs, call
from bitwright.model.transform import fold_batchnorm, replaced, unroll
from bitwright.quantization import QuantizedTensor, Statistics
from bitwright.recipe import LayerInfo, Recipe, nearest
from bitwright.result import Coverage
from bitwright.scheme import Scheme

Seen = dict[str, Statistics | dict[str, Statistics]]
"""Calibration statistics by layer name; an attention's by operand."""

M = TypeVar("M", bound=nn.Module)


def prepare(model: nn.Module, recipe: Recipe | Scheme, example: Inputs | None = None) -> nn.Module:
    """A copy whose matched layers simulate their scheme once calibrated.

    One run of the example, a tuple of arguments or a dict of keyword arguments, tells the order of layers and finds
    attention; without it attention stays in float. Modules that hold several products, such as recurrent layers, are
    unrolled first, so that each product is a layer. NaN or infinity in a weight raises ValueError naming the layer.
    """
    recipe = Recipe.uniform(recipe) if isinstance(recipe, Scheme) else recipe
    prepared = unroll(model).eval()
    structure = inspect(prepared, example)
    assigned = recipe.assign(structure.layers)
    coverage = _coverage(prepared, structure, assigned)
    kinds = dict(structure.layers)
    replacements: dict[int, nn.Module] = {}
    for name, scheme in assigned.items():
        if scheme is not None and kinds[name] != "attention" and _unquantizable(kinds[name], scheme) is None:
            layer = prepared.get_submodule(name)
            _require_finite_weight(name, layer)
            replacements[id(layer)] = _replacement(name, layer, scheme)
    for caller, calls in structure.attention.items():
        scheme = assigned.get(f"{caller}.attention" if caller else "attention")
        if scheme is not None and _unquantizable("attention", scheme) is None:
            module = prepared.get_submodule(caller)
            replacements[id(module)] = AttentionCaller(caller, module, [scheme] * calls)
    prepared = replaced(prepared, replacements)
    prepared.coverage = coverage  # type: ignore[assignment]
    prepared.recipe = recipe  # type: ignore[assignment]
    return prepared


@torch.no_grad()
def observe(
    prepared: nn.Module, batches: Iterable[Batch], forward: Callable[[nn.Module, Batch], Any] | None = None
) -> Seen:
    """Statistics of every input, with the network in float. They serve every scheme of the same model."""
    layers = _sites(prepared)
    count = 0
    with ExitStack() as stack:
        for layer in layers.values():
            stack.enter_context(layer.observing())
        for batch in batches:
            count += 1
            (forward or _forward)(prepared, batch)
    if not count:
        raise ValueError("the calibration data is empty; give at least one batch")
    return {name: layer.seen for name, layer in layers.items() if layer.seen is not None}


def calibrate(prepared: M, batches: Iterable[Batch], forward: Callable[[nn.Module, Batch], Any] | None = None) -> M:
    """Fix static ranges and choose formats, in place; returns the model."""
    return resolve(prepared, observe(prepared, batches, forward))


def resolve(prepared: M, seen: Seen) -> M:
    """`calibrate` from statistics that were observed before."""
    recipe: Recipe = prepared.recipe  # type: ignore[assignment]
    for name, layer in _sites(prepared).items():
        with naming(name):
            layer.resolve(seen.get(name))
    if recipe.promotion is not None:
        promotion = recipe.promotion
        layers = {n: m for n, m in _sites(prepared).items() if isinstance(m, FakeQuantizedLayer)}
        for always in promotion.always:
            if always not in layers:
                raise ValueError(
                    f"the promotion always names {always!r}, which is no quantized layer{nearest(always, layers)}"
                )
        ranked = sorted(layers, key=lambda n: (n not in promotion.always, -_error(layers[n], seen[n])))
        for name in ranked[: promotion.layers]:
            layers[name].scheme = promotion.scheme
            layers[name].resolve(seen.get(name))  # type: ignore[arg-type]
    return prepared


def freeze(prepared: nn.Module) -> nn.Module:
    """A copy with weights as codes, computing through each scheme's datapath.

    A register that forbids overflow and is too narrow for these weights raises ValueError naming the layer.
    """
    frozen = copy.deepcopy(prepared)
    replacements: dict[int, nn.Module] = {}
    for layer in frozen.modules():
        if isinstance(layer, FakeQuantizedLayer):
            if not layer.is_resolved:
                raise ValueError("the model is not calibrated; call calibrate before freeze")
            with naming(layer.name):
                replacements[id(layer)] = freeze_layer(layer)
        elif isinstance(layer, Attention):
            layer.is_exact = True
    return replaced(frozen, replacements)


def is_quantized(model: nn.Module) -> bool:
    """Whether it has frozen layers, as a model that came in with codes and scales of its own."""
    return any(isinstance(module, QuantizedLayer) for module in model.modules())


def quantize(
    model: nn.Module,
    scheme: Scheme | Recipe | str,
    calibration: Iterable[Batch] | Iterable[Inputs] | Iterable[torch.Tensor],
) -> nn.Module:
    """The steps in one call: fold BatchNorm, prepare, calibrate, freeze. The scheme may be text: "vs_quant(4, 8)".

    Calibration batches are `Batch`es, tensors, or the arguments of a call: a tuple, or a dict by keyword.
    """
    batches = [
        b if isinstance(b, Batch) else Batch(b if isinstance(b, tuple | dict) else (b,), torch.empty(0))
        for b in calibration
    ]
    if not batches:
        raise ValueError("the calibration data is empty; give at least one batch")
    example = batches[0].inputs
    scheme = from_text(scheme) if isinstance(scheme, str) else scheme
    return freeze(calibrate(prepare(fold_batchnorm(model, example), scheme, example), batches))


@dataclass(frozen=True)
class Proof:
    """Accumulator widths of one layer: from its formats alone, and from its weights."""

    bound: int | None
    certificate: Certificate | None


def prove(layer: FakeQuantizedLayer | QuantizedLayer, weight: QuantizedTensor | None = None) -> Proof:
    """What accumulator does this layer need? None where inputs stay in float. Its weight is derived if not given."""
    quantizer = layer.input_quantizer
    if quantizer is None:
        return Proof(None, None)
    weight = quantized_weight(layer) if weight is None else weight
    bounds = quantizer.element_bounds(layer.input_ranges)
    datapath = layer.scheme.datapath
    shape = layer.weight.shape if isinstance(layer, FakeQuantizedLayer) else layer.weight_shape
    fitted = layer.lowering.along_k(quantizer, shape)
    certificate = datapath.certify(weight, fitted, bounds)
    elements = datapath.inner_elements(fitted, weight.quantizer, *weight.shape)
    return Proof(bits_for(*worst_sum(bounds, weight.quantizer.format.bounds(), elements)), certificate)


def quantized_weight(layer: FakeQuantizedLayer | QuantizedLayer) -> QuantizedTensor:
    """The codes and scale codes of a layer's weight."""
    if isinstance(layer, QuantizedLayer):
        return layer.quantized_weight()
    assert layer.weight_quantizer is not None, "resolved before"
    rows = layer.source_rows().detach()
    return layer.weight_quantizer.quantize(rows.numpy(), layer.weight_ranges)


def freeze_layer(layer: FakeQuantizedLayer) -> QuantizedLayer:
    """A calibrated layer alone, as `freeze` makes it."""
    weight = quantized_weight(layer)
    certificate = None
    if layer.input_quantizer is not None:
        certificate = prove(layer, weight).certificate
        assert certificate is not None, "quantized input"
        layer.scheme.datapath.require_fit(certificate)
    return QuantizedLayer(layer, weight, certificate)


def _forward(model: nn.Module, batch: Batch) -> Any:
    return call(model, batch.inputs)


def _replacement(name: str, layer: nn.Module, scheme: Scheme) -> nn.Module:
    made: FakeQuantizedLayer | QuantizedEmbedding
    with naming(name):
        if isinstance(layer, nn.Embedding):
            made = QuantizedEmbedding(layer, scheme)
        else:
            lowering: Lowering = Linear() if isinstance(layer, nn.Linear) else Conv.of(layer)  # type: ignore[arg-type]
            made = FakeQuantizedLayer(layer, lowering, scheme)
    made.name = name
    return made


def _unquantizable(kind: str, scheme: Scheme) -> str | None:
    return scheme.float_attention if kind == "attention" else None


def _error(layer: FakeQuantizedLayer, seen: Any) -> float:
    """Mean squared error of the weight plus that of the input's sample."""
    weight = (layer.weight.detach() - layer.fake_weight()).square().mean().item()
    if layer.input_quantizer is None:
        return weight
    wrong = kernels.represent(layer.input_quantizer, seen.sample, layer.input_ranges) - seen.sample
    return weight + float(np.square(wrong).mean())


def _sites(model: nn.Module) -> dict[str, Site]:
    return {m.name: m for _, m in model.named_modules() if isinstance(m, Site)}


def _coverage(model: nn.Module, structure: Structure, assigned: dict[str, Scheme | None]) -> tuple[Coverage, ...]:
    rows = []
    for layer in structure.layers:
        count = max(
            structure.calls[layer.name] if layer.kind != "attention" else structure.attention[_caller(layer)], 1
        )
        scheme = assigned.get(layer.name)
        why = "no rule names it" if layer.name not in assigned else "its rule keeps it in float"
        if scheme is not None:
            why = _unquantizable(layer.kind, scheme) or ""
        rows.append(Coverage(layer.name, layer.kind, "float" if why else "quantized", why, count))
    for name, module in model.named_modules():
        reason = unsupported_reason(module) if kind_of(module) is None else None
        if reason is not None:
            rows.append(Coverage(name, type(module).__name__, "unsupported", reason, max(structure.calls[name], 1)))
        elif kind_of(module) is None and not list(module.children()) and name:
            rows.append(
                Coverage(name, type(module).__name__, "float", "no matrix product", max(structure.calls[name], 1))
            )
    for (name, function), count in structure.functions.items():
        rows.append(Coverage(name or "(model)", function, "unsupported", "a product outside of a layer", count))
    if not structure.is_traced:
        rows.append(Coverage("(model)", "attention", "float", "no example input was given to look for it"))
    return tuple(rows)


def _caller(layer: LayerInfo) -> str:
    return layer.name.removesuffix("attention").removesuffix(".")


def _require_finite_weight(name: str, layer: nn.Module) -> None:
    for parameter, value in layer.named_parameters(recurse=False):
        if not bool(torch.isfinite(value).all()):
            index = tuple(torch.nonzero(~torch.isfinite(value))[0].tolist())
            raise ValueError(
                f"layer {name}: {parameter}[{', '.join(map(str, index))}] is {value[index].item()}; "
                "only finite weights can be quantized"
            )
