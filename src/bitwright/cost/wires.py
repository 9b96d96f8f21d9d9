"""How wide the wires of a scheme's array are: the ranges that circuits are made from, without the circuits."""

from collections.abc import Iterable, Sequence
from math import prod

from bitwright.cost.schedule import Cell
from bitwright.cost.widths import alternatives, cell_for, factors
from bitwright.datapath import bits_for
from bitwright.datapath.widths import Span, data_type_span
from bitwright.formats import Format, Int
from bitwright.gemm import LayerGemm
from bitwright.quantization import Quantizer
from bitwright.result import ArrayWires, Wires
from bitwright.rtl.ranges import bounds, carried, significands, union
from bitwright.scheme import Scheme
from bitwright.schemes.a2q import L1Bounded


def array_wires(work: Iterable[tuple[LayerGemm, Scheme]]) -> ArrayWires:
    """Of an array that serves all of these layers."""
    pairs = [(layer, scheme) for layer, scheme in work if scheme.input is not None]
    if not pairs:
        raise ValueError("no layer to compute; name a network that has matrix products")
    schemes = [scheme for _, scheme in pairs]
    inputs = [q for s in schemes for q in _inputs(s)]
    weights = [q for s in schemes for q in alternatives(s.weight)]
    is_scaled = any(q.scales[-1].share.splits_k for q in (*inputs, *weights))
    blocked = [(layer, s) for layer, s in pairs if is_scaled or s.datapath.tile is not None]
    is_float = any(not s.datapath.outer.is_integer for _, s in blocked)
    return ArrayWires(
        weight=_wires(weights), input=_wires(inputs),
        accumulator=max(factors(scheme, layer).accumulator for layer, scheme in pairs),
        block=min((_block(layer, s) for layer, s in blocked), default=None),
        outer=max((_outer_bits(layer, s) for layer, s in blocked if s.datapath.outer.is_integer), default=None),
        is_outer_float=is_float, is_serial=any(cell_for(scheme) != Cell() for scheme in schemes),
    )  # fmt: skip


def _block(layer: LayerGemm, scheme: Scheme) -> int:
    """Products that the scheme adds before a scale."""
    pairs = [(x, w) for x in _inputs(scheme) for w in alternatives(scheme.weight)]
    return min(scheme.datapath.inner_elements(x, w, layer.gemm.n, layer.gemm.k) for x, w in pairs)


def _outer_bits(layer: LayerGemm, scheme: Scheme) -> int:
    """Of the integer register over blocks: its own width, or one that holds every scaled sum of the formats."""
    datapath, k = scheme.datapath, layer.gemm.k
    if datapath.outer.bits is not None:
        return datapath.outer.bits
    lows, highs = [0], [0]
    for x in _inputs(scheme):
        for w in alternatives(scheme.weight):
            block = datapath.inner_elements(x, w, layer.gemm.n, k)
            span = data_type_span(Span(*x.format.bounds().units), Span(*w.format.bounds().units), block)
            most = _largest_scale(x, w, datapath.scale_product) * -(-k // block)
            lows.append(span.low * most)
            highs.append(span.high * most)
    return bits_for(min(lows), max(highs))


def _largest_scale(x: Quantizer, w: Quantizer, kept: Format | None) -> int:
    """Product of the scales inside the sum, in units of what is kept of it."""
    inside = [scale.format.bounds() for q in (x, w) for scale in q.scales if scale.share.splits_k]
    exact, unit = prod(b.units[1] for b in inside), sum(b.exponent.start for b in inside)
    if kept is None:
        return exact
    places = kept.bounds().exponent.start - unit
    return min((exact >> places if places > 0 else exact << -places) + 1, kept.bounds().units[1])


def _inputs(scheme: Scheme) -> tuple[Quantizer, ...]:
    assert scheme.input is not None, "left out before"
    return alternatives(scheme.input)


def _wires(quantizers: Sequence[Quantizer]) -> Wires:
    formats = list(dict.fromkeys(q.format for q in quantizers))
    moved = union(carried(bounds(format)) for format in formats)
    low, high = significands(moved)
    inside = [scale.format for q in quantizers for scale in q.scales if scale.share.splits_k]
    return Wires(
        code=max(format.bits for format in formats),
        significand=bits_for(low, high) if low < 0 else high.bit_length(),
        exponent=(len(moved.exponent) - 1).bit_length(), back=moved.reach.bit_length(),
        scale=max((format.bits for format in inside), default=0),
        is_decoded=len(formats) > 1 or not isinstance(_stored(formats[0]), Int),
    )  # fmt: skip


def _stored(format: Format) -> Format:
    """What bounds its norm is decoded as its lanes are."""
    return format.lane if isinstance(format, L1Bounded) else format
