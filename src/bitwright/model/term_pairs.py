"""How many products of single terms a network takes: by the paper's bound, bit by bit, and as they really occur.

A product costs the terms of the weight times the terms of the input. Summed over a layer that is the layer itself on
the term counts of its operands; and as outputs are only added up, on the weight's counts summed over outputs.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from bitwright.formats import Format, Int
from bitwright.model.layers import FakeQuantizedLayer, Ranges
from bitwright.model.lowering import Gemm
from bitwright.model.task import Batch, Task
from bitwright.model.watch import watch
from bitwright.quantization import Quantizer
from bitwright.result import TermPairs
from bitwright.schemes.term_revealing import TermBudget, term_pairs_bound

AT_A_TIME = 1 << 20
"""Input elements that are encoded at a time, whole rows at least."""


@dataclass
class _Count:
    """Totals over the calls of one layer."""

    macs: int = 0
    pairs: float = 0.0  # a whole number, exact below 2**53


def term_pairs(task: Task, prepared: nn.Module, batch: Batch) -> tuple[TermPairs, ...]:
    """Each layer's figures where some format has terms, or where all are plain integers; empty for other schemes.

    Layers with an operand in float, and attention, are left out.
    """
    layers = [m for m in prepared.modules() if isinstance(m, FakeQuantizedLayer) and m.input_quantizer is not None]
    quantizers = [q for layer in layers for q in (layer.input_quantizer, layer.weight_quantizer) if q is not None]
    if not any(isinstance(q.format, TermBudget) for q in quantizers) and not all(map(_is_plain, quantizers)):
        return ()
    totals = {layer: _Count() for layer in layers}
    weights = {layer: _weight_terms(layer) for layer in layers}

    def see(layer: FakeQuantizedLayer, x: Tensor) -> None:
        gemm = layer.lowering.gemm(x, layer.weight)
        rows = gemm.m * (len(x) if x.dim() > 1 else 1)
        totals[layer].macs += rows * gemm.k * gemm.n * gemm.groups
        totals[layer].pairs += _count(layer, x, weights[layer], replace(gemm, m=rows))

    watch(task, prepared, layers, batch, see)
    samples = len(batch.targets)
    return tuple(_figures(layer, totals[layer], samples) for layer in layers)


def magnitude_bits(format: Format) -> int:
    """Bits of a multiplier that takes this operand bit by bit: of its largest significand, without sign."""
    return format.largest.bit_length() if isinstance(format, TermBudget) else format.bounds().significand.bit_length()


def _count(layer: FakeQuantizedLayer, x: Tensor, weight_terms: Tensor, gemm: Gemm) -> float:
    """Term pairs of one call, whose product has the shape of `gemm`: each of its m rows meets every weight once."""
    quantizer = layer.input_quantizer
    assert quantizer is not None, "quantized input"
    if not isinstance(quantizer.format, TermBudget):
        return float(gemm.m * magnitude_bits(quantizer.format) * int(weight_terms.sum()))
    rows = layer.lowering.input_rows(x).float().numpy()
    terms = _input_terms(quantizer, quantizer.format, rows, layer.input_ranges)
    over_outputs = weight_terms.unflatten(0, (gemm.groups, -1)).sum(1)
    pairs = layer.lowering.forward(layer.lowering.input_from_rows(torch.from_numpy(terms), x), over_outputs)
    return float(pairs.sum())


def _figures(layer: FakeQuantizedLayer, total: _Count, samples: int) -> TermPairs:
    data, weight = _formats(layer)
    data_bits, weight_bits = magnitude_bits(data), magnitude_bits(weight)
    group, budget = (weight.group, weight.budget) if isinstance(weight, TermBudget) else (1, None)
    bound = term_pairs_bound(
        total.macs,
        group=group,
        budget=budget,
        data_terms=data.budget if isinstance(data, TermBudget) else None,
        weight_bits=weight_bits,
        data_bits=data_bits,
    )
    return TermPairs(
        str(layer.name),
        macs=total.macs / samples,
        bit_serial=data_bits * weight_bits * total.macs / samples,
        bound=bound / samples,
        counted=total.pairs / samples,
        has_terms=isinstance(data, TermBudget) or isinstance(weight, TermBudget),
    )


def _is_plain(quantizer: Quantizer) -> bool:
    """Integers whose scales stay out of the sum."""
    return isinstance(quantizer.format, Int) and not any(scale.share.splits_k for scale in quantizer.scales)


def _weight_terms(layer: FakeQuantizedLayer) -> Tensor:
    """What each weight costs, in the weight's shape."""
    quantizer = layer.weight_quantizer
    assert quantizer is not None, "resolved before"
    if not isinstance(quantizer.format, TermBudget):
        return torch.full(layer.weight.shape, magnitude_bits(quantizer.format), dtype=torch.float64)
    rows = layer.source_rows().detach().numpy()
    codes = _flat_codes(quantizer, rows, layer.weight_ranges)
    counts = torch.from_numpy(quantizer.format.term_counts(codes)).double()
    return layer.lowering.weight_from_rows(counts, layer.weight.shape, layer.block)


def _input_terms(quantizer: Quantizer, format: TermBudget, rows: np.ndarray, ranges: Ranges) -> np.ndarray:
    """What each input costs [rows, k]."""
    if format.group > 1:
        return format.term_counts(_flat_codes(quantizer, rows, ranges)).astype(np.float64)
    of_code = format.term_counts(np.arange(2**format.bits)[:, None])[:, 0].astype(np.float64)
    is_static = len(ranges) == len(quantizer.scales) and None not in ranges
    step = max(AT_A_TIME // max(rows.shape[1], 1), 1) if is_static else len(rows)
    parts = [of_code[_flat_codes(quantizer, rows[i : i + step], ranges)] for i in range(0, len(rows), step)]
    return np.concatenate(parts)


def _flat_codes(quantizer: Quantizer, rows: np.ndarray, ranges: Ranges) -> np.ndarray:
    """Codes [rows, k] without padding."""
    return quantizer.quantize(rows, ranges).codes.reshape(len(rows), -1)[:, : rows.shape[1]]


def _formats(layer: FakeQuantizedLayer) -> tuple[Format, Format]:
    """Of input and weight."""
    assert layer.input_quantizer is not None, "quantized input"
    assert layer.weight_quantizer is not None, "resolved before"
    return layer.input_quantizer.format, layer.weight_quantizer.format
