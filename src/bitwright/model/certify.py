"""Accumulator certificates of a whole network: what each layer's register needs, proved from its integers.

Beside the proof stands what data reaches: the smallest and largest complete sums over some samples. Each layer of the
exact model is asked for its product once more with all scales set to one, tile by tile. The sums are exact below 2**24
units, and rounded to 24 significant bits beyond.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from bitwright import kernels
from bitwright.config import from_text
from bitwright.datapath import WIDE, Accumulator, Datapath
from bitwright.datapath.ranges import integers
from bitwright.datapath.widths import Span, certify_sums, check_sums, raw_codes
from bitwright.formats import Bounds
from bitwright.kernels import Operand, Stationary
from bitwright.model.attention import PRODUCTS, Attention
from bitwright.model.certificate import LayerCertificate, ModelCertificate, Placement
from bitwright.model.layers import FakeQuantizedLayer, QuantizedLayer
from bitwright.model.measure import describe, is_stored
from bitwright.model.prepare import calibrate, freeze, is_quantized, prepare
from bitwright.model.site import naming
from bitwright.model.task import Task
from bitwright.model.transform import fold_batchnorm
from bitwright.quantization import QuantizedTensor, zeros_and_entropy
from bitwright.recipe import Recipe
from bitwright.scheme import Scheme

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many samples are done, and how many there are."""


DEFAULT, AS_STORED = "integer(8, 8)", "its own schemes"


def certify_task(
    task: Task,
    scheme: Scheme | Recipe | str | None = None,
    placement: Placement = Placement(),
    *,
    samples: int = 32,
    progress: Progress | None = None,
) -> ModelCertificate:
    """Calibrate and certify a task's network, and run test samples through it. The scheme may be text.

    A network that is quantized already is certified as it is, without a scheme; a float one without is `DEFAULT`'s.
    """
    say = progress or (lambda what, done, total: None)
    model, registers = task.load(), None
    if not is_quantized(model):
        scheme = DEFAULT if scheme is None else scheme
        model, registers = _frozen(task, model, scheme, say)
    elif scheme is not None:
        raise ValueError(f"{task.name} is quantized already, and certified as it is; leave the scheme out")
    layers = certify_model(model, placement, registers)
    say("samples", 0, samples)
    done = 0
    with reaching(model, placement) as reached:
        for batch in task.test(samples):
            task.forward(model, batch)
            done += len(batch.targets)
            say("samples", done, samples)
    said = scheme if isinstance(scheme, str) else AS_STORED if scheme is None else repr(scheme)
    return ModelCertificate(
        task.name, said, placement.tile, placement.is_bias_inside, done,
        tuple(replace(c, reached_low=s.low, reached_high=s.high) if (s := reached.get(c.name)) else c for c in layers),
    )  # fmt: skip


def _frozen(
    task: Task, model: nn.Module, scheme: Scheme | Recipe | str, say: Progress
) -> tuple[nn.Module, dict[str, Datapath]]:
    """The float network under a scheme, and the real datapaths of layers that run on wider ones."""
    recipe = from_text(scheme) if isinstance(scheme, str) else scheme
    calibration = tuple(task.calibration())
    if not calibration:
        raise ValueError(f"{task.name}: the calibration data is empty; give at least one batch")
    example = calibration[0].inputs
    say("calibration", 0, 0)
    prepared = prepare(fold_batchnorm(model, example), recipe, example)
    calibrate(prepared, calibration, lambda model, batch: task.forward(model, batch))
    registers = _widen(prepared)
    return freeze(prepared), registers


def certify_model(
    model: nn.Module, placement: Placement = Placement(), registers: dict[str, Datapath] | None = None
) -> tuple[LayerCertificate, ...]:
    """Certificates of a frozen model's layers; `registers` are the real datapaths of layers that run on others."""
    made = []
    for module in model.modules():
        if isinstance(module, QuantizedLayer):
            with naming(module.name):
                made.append(certify_layer(module, placement, (registers or {}).get(module.name)))
        elif isinstance(module, Attention):
            made += _of_attention(module, (registers or {}).get(module.name, module.scheme.datapath))
    return tuple(made)


def certify_layer(
    layer: QuantizedLayer, placement: Placement = Placement(), register: Datapath | None = None
) -> LayerCertificate:
    """The certificate of a frozen layer, for the register that its scheme has or for another."""
    datapath = register or layer.scheme.datapath
    inner = datapath.inner
    quantizer, weight = layer.input_quantizer, layer.quantized_weight()
    unit = weight.quantizer.format.bounds().exponent.start
    zeros, entropy = zeros_and_entropy(weight, is_stored(layer, layer.weight_shape, layer.weight_quantizer.alignment))
    blank = LayerCertificate(
        name=str(layer.name), kind=layer.lowering.kind, k=layer.weight_shape[1:].numel(),
        unit=unit, input_format=None if quantizer is None else describe(quantizer),
        weight_format=describe(layer.weight_quantizer), available_bits=inner.bits if inner.range else None,
        outer_available_bits=datapath.outer.bits if datapath.outer.range else None,
        outer_overflow=datapath.outer.overflow.name if datapath.outer.range else None,
        overflow=inner.overflow.name, bias="none" if layer.bias is None else "outside",
        # rounded, so that a certificate checked on another machine does not fail by a logarithm's last digit
        weight_zeros=zeros, weight_entropy=round(entropy, 6),
    )  # fmt: skip
    if quantizer is None:
        return replace(blank, note="float accumulator: the input stays in float")
    if not inner.is_integer:
        return replace(blank, note=f"float accumulator: {inner.format}")
    bounds = quantizer.element_bounds(layer.input_ranges)
    whole = _rows_of(weight)
    constant = _constant(layer, bounds) if placement.is_bias_inside and layer.bias is not None else None
    tile = _tile(layer, datapath, placement)
    is_tiled = tile < whole.shape[1]
    span, format_span = _with_zero(bounds), _with_zero(weight.quantizer.format.bounds())
    sums = certify_sums(whole, span, w=format_span, constant=None if is_tiled else constant, tile=tile)
    outer: tuple[int | None, int | None] = (None, None)
    if _is_scaled_inside(layer):
        fitted = layer.lowering.along_k(quantizer, layer.weight_shape)
        proof = replace(datapath, tile=placement.tile or datapath.tile).certify(weight, fitted, bounds)
        outer = proof.outer_low, proof.outer_high
    elif is_tiled:
        total = certify_sums(whole, span, w=format_span, constant=constant)
        outer = total.low, total.high
    return replace(
        blank, unit=unit + bounds.exponent.start, sums=sums, outer_low=outer[0], outer_high=outer[1],
        bias="inside" if constant is not None else blank.bias,
        raw_code_bits=_raw_code_bits(layer, whole, constant) if not is_tiled else None,
    )  # fmt: skip


def verify_certificate(model: nn.Module, certificate: ModelCertificate) -> None:
    """ValueError naming the first layer and statement of a certificate that a frozen model does not bear out."""
    layers = {m.name: m for m in model.modules() if isinstance(m, QuantizedLayer)}
    for stated in certificate.layers:
        if stated.sums is None:
            continue
        if stated.name not in layers:
            raise ValueError(f"the certificate has a layer {stated.name} that the model has not; certify it anew")
        layer = layers[stated.name]
        with naming(layer.name):
            found = certify_layer(layer, certificate.placement)
            constant = None
            if stated.bias == "inside" and found.sums is not None and found.sums.tiles == 1:
                assert layer.input_quantizer is not None, "quantized input"
                constant = _constant(layer, layer.input_quantizer.element_bounds(layer.input_ranges))
            check_sums(_rows_of(layer.quantized_weight()), stated.sums, constant)
            for name in [f.name for f in fields(found) if not f.name.startswith("reached")]:
                if getattr(found, name) != getattr(stated, name):
                    raise ValueError(
                        f"the certificate states {name} = {getattr(stated, name)}, the model has {getattr(found, name)}"
                    )
    missing = [name for name in layers if name not in {c.name for c in certificate.layers}]
    if missing:
        raise ValueError(f"the certificate says nothing of layer {missing[0]}; certify the model anew")


@contextmanager
def reaching(model: nn.Module, placement: Placement = Placement()) -> Iterator[dict[str, Span]]:
    """Forward passes note each layer's extreme sums by its name."""
    seen: dict[str, Span] = {}

    def note(layer: QuantizedLayer, arguments: tuple[Tensor, ...]) -> None:
        with naming(layer.name):
            for low, high in _tile_extremes(layer, arguments[0], placement):
                so_far = seen.get(layer.name, Span(low, high))
                seen[layer.name] = Span(min(low, so_far.low), max(high, so_far.high))

    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, QuantizedLayer) and module.input_quantizer is not None:
                hook: Any = module.register_forward_pre_hook(note)
                stack.callback(hook.remove)
        yield seen


@torch.no_grad()
def _tile_extremes(layer: QuantizedLayer, x: Tensor, placement: Placement) -> Iterator[Span]:
    """Smallest and largest sum of each tile of K: the product with all other weights zero and every scale one."""
    assert layer.input_quantizer is not None, "quantized input"
    rows = layer.lowering.input_rows(x.float()).contiguous()
    bare = without_scales(kernels.quantize(layer.input_quantizer, rows, layer.input_ranges))
    weight = layer.stationary()
    elements = without_scales(weight.operand).elements
    bounds = layer.input_quantizer.element_bounds(layer.input_ranges)
    tile = _tile(layer, layer.scheme.datapath, placement)
    unit = bare.unit + weight.operand.unit
    inside = placement.is_bias_inside and layer.bias is not None and tile >= weight.operand.k
    constant = torch.from_numpy(_constant(layer, bounds).astype(np.float64)) if inside else None
    for start in range(0, weight.operand.k, tile):
        part = torch.zeros_like(elements)
        part[..., start : start + tile] = elements[..., start : start + tile]
        w = Stationary(replace(without_scales(weight.operand), elements=part), weight.kernel)
        sums = layer.lowering.exact(Datapath(inner=WIDE), bare, x, w).values.double() * 2.0**-unit
        low, high = layer.lowering.add_bias(sums, constant).aminmax()
        yield Span(round(float(low)), round(float(high)))


def without_scales(operand: Operand) -> Operand:
    flat = operand.flat()[:, : operand.k].unsqueeze(1)
    return replace(operand, elements=flat, inside=None, outside=torch.ones_like(operand.outside))


def _widen(prepared: nn.Module) -> dict[str, Datapath]:
    """Integer registers as wide as needed, in place, so that sums are seen before they overflow; gives the old ones."""
    old = {}
    for layer in prepared.modules():
        if isinstance(layer, FakeQuantizedLayer | Attention):
            datapath = old[str(layer.name)] = layer.scheme.datapath
            wide = replace(datapath, inner=_wide(datapath.inner), outer=_wide(datapath.outer))
            layer.scheme = replace(layer.scheme, datapath=wide)
    return old


def _wide(accumulator: Accumulator) -> Accumulator:
    return WIDE if accumulator.is_integer else accumulator


def _rows_of(weight: QuantizedTensor) -> Shaped[np.ndarray, "rows k"]:
    return integers(weight).reshape(len(weight.codes), -1)[:, : weight.k]


def _with_zero(bounds: Bounds) -> Span:
    """Elements in units, and the zero of padding."""
    low, high = bounds.units
    return Span(min(low, 0), max(high, 0))


def _tile(layer: QuantizedLayer, datapath: Datapath, placement: Placement) -> int:
    assert layer.input_quantizer is not None, "quantized input"
    fitted = layer.lowering.along_k(layer.input_quantizer, layer.weight_shape)
    placed = replace(datapath, tile=placement.tile or datapath.tile)
    return min(placed.inner_elements(fitted, layer.weight_quantizer, len(layer.codes), layer.k), layer.k)


def _is_scaled_inside(layer: QuantizedLayer) -> bool:
    assert layer.input_quantizer is not None, "quantized input"
    quantizers = (layer.lowering.along_k(layer.input_quantizer, layer.weight_shape), layer.weight_quantizer)
    return any(q.scales[-1].share.splits_k for q in quantizers)


def _constant(layer: QuantizedLayer, bounds: Bounds) -> Shaped[np.ndarray, " rows"]:
    """The bias in units of the sums, to nearest."""
    assert layer.bias is not None, "asked for where there is one"
    assert layer.input_quantizer is not None, "quantized input"
    if _is_scaled_inside(layer):
        raise ValueError("scales vary along K, so no integer sum has the bias's unit; leave the bias outside")
    if not layer.input_ranges or any(r is None for r in layer.input_ranges):
        raise ValueError("the input's scale follows each input, so the bias is no fixed integer; leave it outside")
    one = torch.zeros(1, layer.input_quantizer.alignment)
    x_scale = float(kernels.quantize(layer.input_quantizer, one, layer.input_ranges).outside[0, 0])
    w = layer.stationary().operand
    unit = 2.0 ** (bounds.exponent.start + w.unit)
    steps = layer.bias.double().cpu().numpy() / (x_scale * np.broadcast_to(w.outside.numpy()[:, 0], w.rows) * unit)
    return np.rint(steps).astype(object).astype(int)


def _raw_code_bits(
    layer: QuantizedLayer, weights: Shaped[np.ndarray, "rows k"], constant: Shaped[np.ndarray, " rows"] | None
) -> int | None:
    """Width with raw unsigned codes in the products; None where inputs have no zero point, or no fixed one."""
    assert layer.input_quantizer is not None, "quantized input"
    format, zeros = layer.input_quantizer.format, layer.input_quantizer.fixed_zeros(layer.input_ranges)
    if zeros is None:
        return None
    raw = raw_codes(weights, format.bits, int(zeros.max()))
    held = raw.correction if constant is None else raw.correction + constant
    return certify_sums(weights, raw.x, constant=held).exact_bits


def _of_attention(module: Attention, datapath: Datapath) -> list[LayerCertificate]:
    """Products of two activations: the formats alone say what they need."""
    made = []
    for i, (names, bits) in enumerate(zip(PRODUCTS, module.sum_bits(), strict=True)):
        if not module.quantizers:
            continue
        formats = [describe(module.quantizers[name]) for name in names]
        inner = datapath.inner
        widest = "" if bits is None else f"; the formats ask for {bits} bits"
        made.append(
            LayerCertificate(
                name=f"{module.name} {' × '.join(names)}", kind="attention", k=module.gemms[i].k if module.gemms else 0,
                unit=0, input_format=formats[0], weight_format=formats[1],
                available_bits=inner.bits if inner.range else None, outer_available_bits=None,
                overflow=inner.overflow.name, bias="none", format_bits=bits,
                note=f"no fixed operand: both are activations{widest}",
            )
        )  # fmt: skip
    return made
