"""Inference with weights of 4-bit codes on a CPU: linear layers that hold nothing but codes and multiply them packed.

A packed layer decodes in registers, so that a product reads an eighth of the memory that float32 weights take. Under a
scheme that leaves inputs in float its result is the float product of the decoded weight; under one that quantizes
them it is the datapath's, bit for bit.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bitwright import kernels
from bitwright.config import from_text
from bitwright.datapath import Datapath
from bitwright.kernels import PackedWeight, Unsupported
from bitwright.model.inspect import inspect
from bitwright.model.layers import QuantizedLayer
from bitwright.model.lowering import Linear
from bitwright.model.site import naming
from bitwright.model.surrogate import Ranges
from bitwright.model.transform.replaced import replaced
from bitwright.quantization import Quantizer, Statistics
from bitwright.recipe import Recipe
from bitwright.result import Coverage
from bitwright.scheme import Scheme


@dataclass(frozen=True)
class PackedScheme:
    """What a packed layer does with its inputs: None leaves them in float."""

    input: Quantizer | None
    ranges: Ranges  # static ones of the input
    datapath: Datapath


class PackedLinear(nn.Module):
    """y = x @ w.T + bias, for inference. Its state are codes: two weights a byte, scales in their stored formats."""

    codes: Tensor
    bias: Tensor | None

    def __init__(self, weight: PackedWeight, bias: Tensor | None, scheme: PackedScheme) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.rows, weight.k
        self.weight_quantizer, self.scheme = weight.quantizer, scheme
        self.register_buffer("codes", weight.codes)
        for i, codes in enumerate(weight.scales):
            self.register_buffer(f"scales_{i}", codes)
        self.register_buffer("bias", None if bias is None else bias.detach().float().clone())
        self.name = ""
        self._products: dict[Any, Callable[..., Tensor]] = {}
        self.register_load_state_dict_post_hook(_forget)

    def forget(self) -> None:
        """Drop what was derived from the codes."""
        self._products = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_products": {}}  # pointers mean nothing in a copy

    def weight(self) -> PackedWeight:
        """The codes as the kernels take them; `weight().quantized().decode()` is the real matrix."""
        scales = tuple(getattr(self, f"scales_{i}") for i in range(len(self.weight_quantizer.scales)))
        return PackedWeight(self.codes, scales, self.out_features, self.in_features, self.weight_quantizer)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        if {x.device.type, self.codes.device.type} != {"cpu"}:
            raise ValueError(
                f"layer {self.name}: input on {x.device}, codes on {self.codes.device}; packed layers run on CPUs"
            )
        rows = x.reshape(-1, x.shape[-1])
        with naming(self.name):
            y = self._product()(rows)
        return y.view(*x.shape[:-1], self.out_features).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, weight={self.weight_quantizer}, input={self.scheme.input}"

    def _product(self) -> Callable[..., Tensor]:
        """What multiplies, kept as long as the codes stay where they are."""
        key = (kernels.allowed(), self.codes.data_ptr(), None if self.bias is None else self.bias.data_ptr())
        if key not in self._products:
            if self.bias is not None and self.bias.dtype != torch.float32:
                self.bias = self.bias.float()  # a model cast to half precision keeps its codes, and biases in float32
                return self._product()
            quantizer = self.scheme.input
            self._products = {
                key: kernels.packed_linear(self.weight(), self.bias)
                if quantizer is None
                else kernels.packed_layer(self.scheme.datapath, quantizer, self.scheme.ranges, self.weight(), self.bias)
            }
        return self._products[key]


def pack_linear(model: nn.Module, scheme: Scheme | Recipe | str | None = None) -> nn.Module:
    """A model for inference with a `PackedLinear` for each nn.Linear that the scheme or recipe names.

    Without a scheme the model is a frozen one, as `quantize` returns it, whose linear layers are packed as they are.
    The result shares every other parameter with it. `coverage` says of each layer what became of it. A scheme whose
    inputs need calibration raises ValueError; so does a weight whose codes have more than 4 bits.
    """
    packed = copy.deepcopy(model, {id(t): t for t in (*model.parameters(), *model.buffers())}).eval()
    if scheme is None:
        made, coverage = _of_frozen(packed)
    else:
        made, coverage = _of_float(packed, from_text(scheme) if isinstance(scheme, str) else scheme)
    packed = replaced(packed, made)
    packed.coverage = coverage  # type: ignore[assignment]
    return packed


def _forget(layer: PackedLinear, keys: object) -> None:
    layer.forget()


def _of_frozen(model: nn.Module) -> tuple[dict[int, nn.Module], tuple[Coverage, ...]]:
    made: dict[int, nn.Module] = {}
    coverage = []
    for name, layer in model.named_modules():
        if not isinstance(layer, QuantizedLayer):
            continue
        why = "" if isinstance(layer.lowering, Linear) else "only linear layers are packed"
        try:
            if not why:
                scheme = PackedScheme(layer.input_quantizer, layer.input_ranges, layer.scheme.datapath)
                packed = PackedLinear(PackedWeight.of(layer.quantized_weight()), layer.bias, scheme)
                packed.name, made[id(layer)] = layer.name, packed
        except Unsupported as reason:
            why = str(reason)
        coverage.append(Coverage(name, layer.lowering.kind, "float" if why else "quantized", why, 1))
    if not made:
        raise ValueError(
            "no frozen linear layer of 4-bit codes was found; "
            "pass a scheme, as pack_linear(model, 'nvfp4(weight_only=True)')"
        )
    return made, tuple(coverage)


def _of_float(model: nn.Module, scheme: Scheme | Recipe) -> tuple[dict[int, nn.Module], tuple[Coverage, ...]]:
    recipe = Recipe.uniform(scheme) if isinstance(scheme, Scheme) else scheme
    layers = inspect(model).layers
    assigned = recipe.assign(layers)
    made: dict[int, nn.Module] = {}
    coverage = []
    for layer in layers:
        chosen = assigned.get(layer.name)
        module = None if layer.kind == "attention" else model.get_submodule(layer.name)
        why = "no rule names it, or keeps it in float" if chosen is None else ""
        if not why and not isinstance(module, nn.Linear):
            why = "only linear layers are packed"
        if not why and id(module) not in made:
            assert chosen is not None, "asked before"
            with naming(layer.name):
                made[id(module)] = _packed(module, chosen)  # type: ignore[arg-type]  # asked before
                made[id(module)].name = layer.name  # type: ignore[assignment]
        coverage.append(Coverage(layer.name, layer.kind, "float" if why else "quantized", why, 1))
    return made, tuple(coverage)


@torch.no_grad()
def _packed(layer: nn.Linear, scheme: Scheme) -> PackedLinear:
    quantizer = scheme.input
    if quantizer is not None and not (
        isinstance(quantizer, Quantizer) and all(scale.range is None for scale in quantizer.scales)
    ):
        raise ValueError(
            "this scheme's input ranges come from calibration; quantize the model first, as "
            "pack_linear(quantize(model, scheme, calibration)), or leave inputs in float or their ranges dynamic"
        )
    weight = layer.weight.detach().float()
    lowered = Linear().fit_weight(scheme.weight, weight)
    ranges: Ranges = ()
    if isinstance(lowered, Quantizer) and all(scale.range is None for scale in lowered.scales):
        fitted = lowered  # nothing to choose
    else:
        seen = Statistics.of(weight.numpy())
        fitted = lowered.fit(seen, kernels.squared_errors)
        ranges = fitted.estimate(seen, kernels.squared_errors)
    try:
        packed = PackedWeight.quantize(fitted, weight, kernels.quantize(fitted, weight, ranges))
    except Unsupported:
        try:
            packed = PackedWeight.of(fitted.quantize(weight.numpy(), ranges))
        except Unsupported as reason:
            raise ValueError(f"{reason}; choose a weight format of at most 4 bits such as nvfp4's") from None
    return PackedLinear(packed, layer.bias, PackedScheme(quantizer, (), scheme.datapath))
