"""Per-layer figures of a calibrated model: noise, clipping, zeros, bits, accumulator widths, pictures of the grids."""

from collections.abc import Iterable
from contextlib import ExitStack
from functools import singledispatch

import numpy as np
import torch
from torch import nn

from bitwright import kernels
from bitwright.formats import Format, Int, Minifloat, Table
from bitwright.model.attention import Attention
from bitwright.model.layers import FakeQuantizedLayer, QuantizedEmbedding, QuantizedLayer
from bitwright.model.prepare import Proof, prove, quantized_weight
from bitwright.model.site import Measurement, Site
from bitwright.model.task import Batch, Task
from bitwright.quantization import Quantizer, Statistics, compressibility
from bitwright.result import LayerResult, Picture
from bitwright.schemes.a2q import L1Bounded
from bitwright.schemes.overq import Overwrite
from bitwright.schemes.term_revealing import TermBudget

FLOAT_BITS = 32.0


@torch.no_grad()
def measure(task: Task, prepared: nn.Module, batches: Iterable[Batch]) -> None:
    """Run batches through the simulated model, filling each layer's `measurement`."""
    sites = [m for m in prepared.modules() if isinstance(m, Site)]
    with ExitStack() as stack:
        for site in sites:
            stack.enter_context(site.measuring())
        for batch in batches:
            task.forward(prepared, batch)


def layer_results(prepared: nn.Module, frozen: nn.Module | None) -> tuple[LayerResult, ...]:
    """One figure set a layer; overflow counts and certificates from the frozen model where there is one."""
    exact = {str(m.name): m for m in (frozen.modules() if frozen else ()) if isinstance(m, QuantizedLayer | Attention)}
    results, tied = [], tied_embeddings(prepared)
    for module in prepared.modules():
        if isinstance(module, FakeQuantizedLayer):
            results.append(_layer(module, exact.get(str(module.name))))
        elif isinstance(module, Attention):
            results.append(_attention(module, exact.get(str(module.name))))
        elif isinstance(module, QuantizedEmbedding):
            results.append(_embedding(module.name, module, is_tied=module in tied))
    return tuple(results)


def model_bits(prepared: nn.Module, layers: tuple[LayerResult, ...]) -> tuple[float, float, int]:
    """Bits a weight (all matrices, float ones at 32), bits an input element, and bytes of the whole model.

    A matrix that several modules use counts once for each way in which it is stored. Inputs count as often as a layer
    is called in a pass.
    """
    stored = {id(m.weight): m for m in prepared.modules() if isinstance(m, FakeQuantizedLayer)}
    tied = tied_embeddings(prepared)
    bits = elements = other = 0.0
    for module in prepared.modules():
        if isinstance(module, QuantizedEmbedding) and module not in tied:
            bits += module.weight.numel() * stored_bits(module.quantized)
            elements += module.weight.numel()
    learned = {id(p) for m in prepared.modules() if isinstance(m, Site) for p in m.scale_parameters()}
    for parameter in prepared.parameters():
        if id(parameter) in learned:
            continue
        layer = stored.get(id(parameter))
        if layer is None and parameter.dim() < 2:
            other += parameter.numel() * FLOAT_BITS
            continue
        bits += parameter.numel() * (FLOAT_BITS if layer is None else weight_bits(layer))
        elements += parameter.numel()
    in_float = {
        id(p): p.numel() for m in prepared.modules() if not isinstance(m, FakeQuantizedLayer)
        for p in m.parameters(recurse=False) if id(p) in stored
    }  # fmt: skip
    bits, elements = bits + FLOAT_BITS * sum(in_float.values()), elements + sum(in_float.values())
    calls = {row.name: row.count for row in prepared.coverage if row.kind != "attention"}  # type: ignore[union-attr]
    moved = [
        (calls.get(r.name, 1) * r.m * r.k * r.groups, FLOAT_BITS if r.input_bits is None else r.input_bits)
        for r in layers if r.m
    ]  # fmt: skip
    inputs = sum(count for count, _ in moved)
    input_bits = sum(count * b for count, b in moved) / inputs if inputs else FLOAT_BITS
    return bits / max(elements, 1), input_bits, round((bits + other) / 8)


def tied_embeddings(prepared: nn.Module) -> set[nn.Module]:
    """Embeddings that stand for what a layer's weight does, as where an output layer shares its table."""
    layers = [m for m in prepared.modules() if isinstance(m, FakeQuantizedLayer) and m.is_resolved]
    embeddings = [m for m in prepared.modules() if isinstance(m, QuantizedEmbedding)]
    return {m for m in embeddings if any(_is_the_same(layer, m) for layer in layers)}


def _is_the_same(layer: FakeQuantizedLayer, embedding: QuantizedEmbedding) -> bool:
    if layer.weight.shape != embedding.weight.shape:
        return False
    ours, its = layer.weight_quantizer, embedding.weight_quantizer
    if ours is None or ours.format != its.format or [s.format for s in ours.scales] != [s.format for s in its.scales]:
        return False
    return torch.equal(layer.fake_weight().detach(), embedding.weight)


def weight_bits(layer: FakeQuantizedLayer) -> float:
    """Bits an element of a layer's weight, scales counted, padding not."""
    assert layer.weight_quantizer is not None, "resolved before"
    rows = layer.lowering.weight_rows(layer.weight.detach().float(), layer.block)
    scales = layer.weight_quantizer.scales
    side = sum(float(np.prod(s.share.shape(*rows.shape))) * s.format.bits for s in scales)
    return layer.weight_quantizer.format.bits + side / layer.weight.numel()


def is_stored(layer: FakeQuantizedLayer | QuantizedLayer, shape: torch.Size, block: int) -> np.ndarray:
    """Which elements of the weight's rows are weights; the others pad channels to whole blocks."""
    return layer.lowering.weight_rows(torch.ones(shape), block).numpy() != 0


def stored_bits(quantized: "object") -> float:
    """Bits an element of a quantized matrix."""
    q = quantized
    return q.quantizer.bits_per_element(*q.shape)  # type: ignore[attr-defined]


def pictures(prepared: nn.Module, seen: dict[str, object]) -> tuple[Picture, ...]:
    """Weight and input of the largest layer over the grids of their formats."""
    layers = [m for m in prepared.modules() if isinstance(m, FakeQuantizedLayer) and m.is_resolved]
    if not layers:
        return ()
    largest = max(layers, key=lambda m: m.weight.numel())
    rows = largest.lowering.weight_rows(largest.weight.detach().float(), largest.block)
    assert largest.weight_quantizer is not None, "resolved before"
    found = [_picture(largest, "weight", largest.weight_quantizer, rows, largest.weight_ranges)]
    statistics = seen.get(str(largest.name))
    if largest.input_quantizer is not None and isinstance(statistics, Statistics):
        sample = torch.from_numpy(np.ascontiguousarray(statistics.sample, np.float32))
        found.append(_picture(largest, "input", largest.input_quantizer, sample, largest.input_ranges))
    return tuple(p for p in found if p is not None)


def describe(quantizer: Quantizer) -> str:
    """A format in the field's spelling: int4, uint8, E4M3, table of 16 values."""
    return _name(quantizer.format)


@singledispatch
def _name(format: Format) -> str:
    return type(format).__name__


@_name.register
def _(format: Int) -> str:
    return f"{'int' if format.signed else 'uint'}{format.bits}"


@_name.register
def _(format: Minifloat) -> str:
    return f"{'' if format.signed else 'U'}E{format.exponent_bits}M{format.mantissa_bits}"


@_name.register
def _(format: Table) -> str:
    sign = "" if format.bounds().lowest < 0 else "u"
    if all(abs(s) <= 1 for s in format.significands):
        return f"{sign}pot{format.bits}"
    return f"{sign}table{format.bits} (0..{format.full_scale:g})"


@_name.register
def _(format: Overwrite) -> str:
    return f"{_name(format.lane)}, overwriting"


@_name.register
def _(format: TermBudget) -> str:
    magnitude = f"{'±' if format.signed else ''}{format.largest}"
    if format.budget is None:
        return magnitude
    return f"{magnitude}, {format.budget} terms" + (f" of {format.group}" if format.group > 1 else "")


@_name.register
def _(format: L1Bounded) -> str:
    return f"{_name(format.lane)}, sums to {format.bound:.4g}"


def _layer(layer: FakeQuantizedLayer, exact: nn.Module | None) -> LayerResult:
    m = layer.measurement or Measurement()
    shape = layer.sample_shape
    gemm = layer.lowering.gemm(torch.empty(shape), layer.weight) if shape is not None else None
    frozen = exact if isinstance(exact, QuantizedLayer) else layer
    weight = quantized_weight(frozen)
    proof = prove(frozen, weight)
    quantizer, ranges = layer.input_quantizer, layer.input_ranges
    static = ranges[0] if ranges and ranges[0] is not None else None
    input_bits = None
    if quantizer is not None and shape is not None:
        input_bits = quantizer.bits_per_element(*layer.lowering.input_rows(torch.empty(1, *shape[1:])).shape)
    inner = layer.scheme.datapath.inner
    return LayerResult(
        name=str(layer.name), kind=layer.lowering.kind,
        m=gemm.m if gemm else 0, k=gemm.k if gemm else 0, n=gemm.n if gemm else 0, groups=gemm.groups if gemm else 1,
        input_format=None if quantizer is None else describe(quantizer),
        weight_format=describe(layer.weight_quantizer) if layer.weight_quantizer else None,
        input_bits=input_bits, weight_bits=weight_bits(layer),
        input_range=None if static is None else (float(static.low.min()), float(static.high.max())),
        input_sqnr_db=m.input.sqnr_db if quantizer else None,
        weight_sqnr_db=m.weight.sqnr_db, output_sqnr_db=m.output.sqnr_db,
        input_clipped=m.input.fraction(m.input.clipped) if quantizer else None,
        weight_clipped=m.weight.fraction(m.weight.clipped),
        input_zeros=m.input.fraction(m.input.zeros), weight_zeros=m.weight.fraction(m.weight.zeros),
        accumulator_bits_bound=proof.bound, accumulator_bits=_needed(proof),
        accumulator_bits_available=inner.bits if inner.range else None,
        overflows=getattr(exact, "overflows", 0), accumulations=getattr(exact, "accumulations", 0),
        weight_sizes=compressibility(weight, is_stored(layer, layer.weight.shape, layer.block)),
    )  # fmt: skip


def _needed(proof: Proof) -> int | None:
    if proof.certificate is None:
        return None
    outer = proof.certificate.outer_bits
    return proof.certificate.inner_bits if outer is None else max(outer, proof.certificate.inner_bits)


def _attention(layer: Attention, exact: nn.Module | None) -> LayerResult:
    m = layer.measurement or Measurement()
    gemm = layer.gemms[0] if layer.gemms else None
    quantizers, inner = layer.quantizers, layer.scheme.datapath.inner
    needed = max((bits for bits in layer.sum_bits() if bits is not None), default=None) if inner.is_integer else None
    return LayerResult(
        name=str(layer.name), kind="attention",
        m=gemm.m if gemm else 0, k=gemm.k if gemm else 0, n=gemm.n if gemm else 0, groups=gemm.groups if gemm else 1,
        input_format=describe(quantizers["query"]), weight_format=describe(quantizers["key"]),
        input_bits=quantizers["query"].bits_per_element(gemm.m * gemm.groups, gemm.k) if gemm else None,
        weight_bits=quantizers["key"].bits_per_element(gemm.n * gemm.groups, gemm.k) if gemm else None,
        input_range=None, input_sqnr_db=m.input.sqnr_db, weight_sqnr_db=m.weight.sqnr_db,
        output_sqnr_db=m.output.sqnr_db, input_clipped=None, weight_clipped=None,
        input_zeros=m.input.fraction(m.input.zeros), weight_zeros=m.weight.fraction(m.weight.zeros),
        accumulator_bits_bound=needed, accumulator_bits=needed,
        accumulator_bits_available=inner.bits if inner.range else None,
        overflows=getattr(exact, "overflows", 0), accumulations=getattr(exact, "accumulations", 0),
    )  # fmt: skip


def _embedding(name: str, layer: QuantizedEmbedding, *, is_tied: bool) -> LayerResult:
    m = layer.measurement
    rows, k = layer.weight.shape
    return LayerResult(
        name=name, kind="Embedding", m=0, k=k, n=rows, groups=1, input_format=None,
        weight_format=describe(layer.weight_quantizer), input_bits=None, weight_bits=stored_bits(layer.quantized),
        input_range=None, input_sqnr_db=None, weight_sqnr_db=m.sqnr_db, output_sqnr_db=None, input_clipped=None,
        weight_clipped=None, input_zeros=None, weight_zeros=m.fraction(m.zeros), accumulator_bits_bound=None,
        accumulator_bits=None, accumulator_bits_available=None, overflows=0, accumulations=0,
        weight_sizes=None if is_tied else compressibility(layer.quantized),  # counted with the layer
    )  # fmt: skip


def _picture(
    layer: FakeQuantizedLayer, operand: str, quantizer: Quantizer, rows: torch.Tensor, ranges: object
) -> Picture | None:
    scalar = quantizer.format.alone()
    if scalar.bits > 8:
        return None
    codes = np.arange(2**scalar.bits)[:, None]
    grid = np.unique(scalar.decode(codes[~scalar.is_reserved(codes)][:, None]))
    represented = kernels.quantize(quantizer, rows, ranges)  # type: ignore[arg-type]
    scale = represented.outside if represented.inside is None else represented.inside * represented.outside
    block = represented.elements.shape[2]
    padded = torch.nn.functional.pad(rows, (0, -rows.shape[1] % block)).view(len(rows), -1, block)
    levels = (padded / scale.unsqueeze(-1).clamp(min=1e-30)).double().flatten().numpy()
    edge = 1.15 * float(np.abs(grid).max())
    low = -edge if grid[0] < 0 else 0.0
    counts, edges = np.histogram(np.clip(levels, low, edge), 121, (low, edge))
    return Picture(
        str(layer.name),
        operand,
        describe(quantizer),
        tuple(map(float, edges)),
        tuple(map(int, counts)),
        tuple(map(float, grid)),
    )
