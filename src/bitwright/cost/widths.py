"""What a scheme's operands take in storage, in a multiplier and in an accumulator."""

from collections.abc import Iterable
from typing import NamedTuple

from bitwright.cost.estimate import Job
from bitwright.cost.mac import Mac, published_mac
from bitwright.cost.schedule import Cell, Widths, term_serial
from bitwright.datapath import bits_for
from bitwright.datapath.widths import Span, data_type_span
from bitwright.formats import Format
from bitwright.gemm import LayerGemm
from bitwright.quantization import AnyQuantizer, BestOf, BySign, Quantizer
from bitwright.quantization.quantizer import Zero
from bitwright.rtl.ranges import products, require_width, worst_sum_of
from bitwright.scheme import Scheme
from bitwright.schemes.term_revealing import TermBudget

FLOAT_SUM_BITS = 32
"""Of a register that holds floats, or sums that scales have multiplied."""


class Factors(NamedTuple):
    """Bits of a multiplier's operands and of its accumulator."""

    weight: int
    input: int
    accumulator: int


def alternatives(quantizer: AnyQuantizer) -> tuple[Quantizer, ...]:
    """All that it may choose."""
    if isinstance(quantizer, BySign):
        return (*alternatives(quantizer.unsigned), *alternatives(quantizer.signed))
    return quantizer.quantizers if isinstance(quantizer, BestOf) else (quantizer,)


def storage(scheme: Scheme, layer: LayerGemm) -> Widths:
    """Bits of what moves for a layer, scales and side bits counted; of alternatives the widest.

    Sums move in the register that holds all of K: the outer one where scales vary along K.
    """
    inputs, gemm = _inputs(scheme), layer.gemm
    right = inputs if layer.is_of_activations else alternatives(scheme.weight)
    stored = max(q.bits_per_element(gemm.m, gemm.k) for q in inputs)
    outer = scheme.datapath.outer
    sums = factors(scheme, layer).accumulator
    if _is_scaled_inside((*inputs, *right)):
        sums = outer.bits or FLOAT_SUM_BITS
    return Widths(max(q.bits_per_element(gemm.n, gemm.k) for q in right), stored, sums, stored)


def factors(scheme: Scheme, layer: LayerGemm) -> Factors:
    """Of the multiplier that fits every alternative, and of the register behind it, that sums a block or all of K.

    A given register has its width; one that is as wide as needed holds every sum of the formats.
    """
    inputs, gemm = _inputs(scheme), layer.gemm
    right = inputs if layer.is_of_activations else alternatives(scheme.weight)
    inner = scheme.datapath.inner
    if inner.bits is not None:
        accumulator = inner.bits
    else:
        pairs = [(x, w, min(x.block(gemm.m, gemm.k), w.block(gemm.n, gemm.k))) for x in inputs for w in right]
        accumulator = max(data_type_span(_span(x), _span(w), block).bits for x, w, block in pairs)
    return Factors(max(map(_significand_bits, right)), max(map(_significand_bits, inputs)), accumulator)


def require_fit(work: Iterable[tuple[LayerGemm, Scheme]]) -> None:
    """ValueError where an inner register forbids overflow and some weights of these formats would overflow it.

    Names the layer that needs the widest. What a format promises of its weights' norms counts; whoever has the weights
    may know better, and asks `Datapath.require_fit`.
    """
    sums = [(layer, scheme, *_worst_sum(layer, scheme)) for layer, scheme in work if scheme.datapath.inner.range]
    for layer, scheme, length, worst in sorted(sums, key=lambda found: -bits_for(*found[3])):
        what = f"layer {layer.name} (K = {layer.gemm.k}): a sum of {products(length)}"
        require_width(scheme.datapath.inner, worst, what)


def _worst_sum(layer: LayerGemm, scheme: Scheme) -> tuple[int, tuple[int, int]]:
    """Products of an inner sum, and its extremes."""
    inputs, right, gemm = _inputs(scheme), stationary(scheme, layer), layer.gemm
    blocks = [q.block(rows, gemm.k) for side, rows in ((inputs, gemm.m), (right, gemm.n)) for q in side]
    length = min(*blocks, scheme.datapath.tile or gemm.k)
    is_shifted = any(q.zero is Zero.FITTED for q in inputs)
    return length, worst_sum_of([q.format for q in inputs], [q.format for q in right], length, is_shifted=is_shifted)


def stationary(scheme: Scheme, layer: LayerGemm) -> tuple[Quantizer, ...]:
    """The weights'; of two activations the second one's, which has either sign."""
    if not layer.is_of_activations:
        return alternatives(scheme.weight)
    inputs = _inputs(scheme)
    return tuple(q for q in inputs if q.format.bounds().lowest < 0) or inputs


def cell_for(scheme: Scheme) -> Cell:
    """Serial in the terms that Term Revealing keeps, else a multiplier. Where no budget is given, all terms count."""
    weights = [q.format for q in alternatives(scheme.weight) if isinstance(q.format, TermBudget)]
    if not weights:
        return Cell()
    data_terms = max(_terms(q.format) for q in _inputs(scheme))
    group = max(w.group for w in weights)
    return term_serial(
        group=group, budget=max(w.budget or w.group * w.most_terms for w in weights), data_terms=data_terms
    )


def job(layer: LayerGemm, scheme: Scheme) -> Job:
    """The layer under the scheme."""
    return Job(layer, storage(scheme, layer), cell_for(scheme))


def widest_mac(work: Iterable[tuple[LayerGemm, Scheme]]) -> Mac:
    """Published integer multiplier and adder that serve all of these layers, without the scheme's other hardware."""
    found = [factors(scheme, layer) for layer, scheme in work]
    if not found:
        raise ValueError("no layer to compute; name a network that has matrix products")
    return published_mac(*(max(column) for column in zip(*found, strict=True)))


def _terms(format: Format) -> int:
    """Of an input: those that it keeps, or all its bits."""
    if isinstance(format, TermBudget):
        return format.budget or format.most_terms
    return format.bounds().significand.bit_length()


def _inputs(scheme: Scheme) -> tuple[Quantizer, ...]:
    if scheme.input is None:
        raise ValueError(
            "the scheme leaves inputs in float, which an integer array does not multiply; give it input bits"
        )
    return alternatives(scheme.input)


def _is_scaled_inside(quantizers: tuple[Quantizer, ...]) -> bool:
    return any(q.scales[-1].share.splits_k for q in quantizers)


def _span(quantizer: Quantizer) -> Span:
    return Span(*quantizer.format.bounds().units)


def _significand_bits(quantizer: Quantizer) -> int:
    """Of one term, with its sign where elements have one; the lowest of two's complement needs no bit of its own."""
    bounds = quantizer.format.bounds()
    return min(bounds.significand.bit_length() + (bounds.lowest < 0), quantizer.format.bits)
