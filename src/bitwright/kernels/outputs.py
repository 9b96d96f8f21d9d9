"""Products that are one exact float sum a dot product: which they are, and the way of their sums to float32 outputs.

Block scales are multiplied in beforehand where that leaves integers, so that any order of additions gives the same sum:
a GEMM or a convolution of floats does the work. Everything else is `bitwright.kernels.matmul`'s.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bitwright.datapath import Datapath, Overflow
from bitwright.formats import FLOAT32, Rounding
from bitwright.kernels import native
from bitwright.kernels.dispatch import allows, matmul
from bitwright.kernels.matmul import Stationary, are_tiles_free, is_one_integer_sum, settle
from bitwright.kernels.native import Window
from bitwright.kernels.operand import Operand
from bitwright.kernels.rounding import Unsupported
from bitwright.kernels.whole import whole_products
from bitwright.quantization import Zero

CHUNK = 1 << 18
"""Elements of an operand that are widened to float64 at a time."""


@dataclass(frozen=True)
class OneSum:
    """How a product is one float sum: the type that holds every partial sum exactly, and what the registers say."""

    carrier: torch.dtype
    bound: float  # of every partial sum, in units
    unit: int
    tile: int | None
    must_settle: bool  # the inner register may overflow, or is read through a function


def outputs(datapath: Datapath, x: Operand, w: Stationary, out: Tensor, bias: Tensor | None = None) -> tuple[int, int]:
    """`matmul` in float32, plus a bias [n], into the contiguous matrix `out`; overflowed sums, and sums in all."""
    one = one_sum(datapath, x, w) if allows("torch") else None
    if one is None:
        values, overflows, accumulations = matmul(datapath, x, w)
        rescale(values, values.new_ones(1, 1), values.new_ones(values.shape[1], 1), bias, out=out)
        return overflows, accumulations
    overflows = 0
    for part, sums in product(one, x, w, out):
        overflows += read_out(datapath, one, sums, (x.outside[part], w.operand.outside), out[part], bias)
    return overflows, out.numel() * sums_each(one, x, w.operand, w.operand.k)


def read_out(
    datapath: Datapath, one: OneSum, sums: Tensor, scales: tuple[Tensor, Tensor], out: Tensor, bias: Tensor | None
) -> int:
    """Sums [m, n] as the inner register is read, under scales of rows and columns, into `out`; and how many left it."""
    read, overflows = settled(datapath, one, sums)
    rescale(read, *scales, bias, out=out)
    return overflows


def rescale(
    sums: Tensor, of_rows: Tensor, of_columns: Tensor, bias: Tensor | None = None, *, out: Tensor | None = None
) -> Tensor:
    """Sums [m, n] · of_rows [m or 1, 1] · of_columns [n, 1] in float64, rounded to float32, plus a bias [n] in float32.

    Goes into `out` where given, a contiguous float32 matrix, or `sums` itself.
    """
    out = torch.empty(sums.shape, dtype=torch.float32, device=sums.device) if out is None else out
    if allows("native"):
        try:
            return native.rescale(sums, of_rows, of_columns, bias, out)
        except Unsupported:
            pass  # torch is next, and not slow
    out.copy_(sums.double() * of_rows * of_columns.T)
    return out if bias is None else out.add_(bias)


def depthwise(
    x: Tensor, weight: Tensor, out: Tensor, stride: tuple[int, int], dilation: tuple[int, int], corner: tuple[int, int]
) -> Tensor:
    """Sums over the taps of each channel, in their order: `native.depthwise`. Otherwise raises `Unsupported`."""
    if not allows("native"):
        raise Unsupported("channels alone without the native library")
    return native.depthwise(x, weight, out, stride, dilation, corner)


def depthwise_scaled(
    datapath: Datapath, x: Operand, image: tuple[int, int, int], w: Operand, window: Window, out: Tensor
) -> int:
    """Scaled sums over the taps of each channel in an integer register: `native.depthwise_scaled`, or `Unsupported`."""
    if not allows("native"):
        raise Unsupported("channels alone without the native library")
    return native.depthwise_scaled(datapath, x, image, w, window, out)


def one_sum(datapath: Datapath, x: Operand, w: Stationary) -> OneSum | None:
    """None where a register's steps matter, or no float type holds the sums."""
    inner, tile = datapath.inner, datapath.tile
    if inner.range is None and inner.format is not None:
        return None
    if tile is not None:
        if not are_tiles_free(datapath, x, w):
            return None
        inner = Datapath().inner
    if x.inside is None and w.operand.inside is None:
        limit = None if inner.range is None else min(-inner.range[0], inner.range[1])
        bound = _reach(x) * w.norm
        if bound >= 2**24 or (limit is not None and bound > limit):  # what the elements at hold may still fit
            bound = x.largest * w.norm
        may_overflow = limit is not None and bound > limit
        if may_overflow and inner.overflow is Overflow.SATURATE:
            return None
        must_settle = may_overflow or inner.readout is not None
    else:
        if not is_one_integer_sum(datapath, x, w):
            return None
        bound, must_settle = _scaled_reach(x) * w.scaled_norm, False
        if bound >= 2**24:
            bound = x.largest_scaled * w.scaled_norm
    if bound >= 2**53:
        return None
    carrier = torch.float32 if bound < 2**24 else torch.float64
    return OneSum(carrier, bound, x.unit + w.operand.unit, tile, must_settle)


def sum_in_order(datapath: Datapath, x: Operand, w: Stationary) -> OneSum | None:
    """The same of channels alone under scales of their own, each tap a block: for loops that add in the taps' order.

    None unless float32 holds each product of scaled elements, so that an addition rounds as the outer register does.
    """
    if x.inside is None:
        return None
    outer, inner = datapath.outer, datapath.inner
    rounds = outer.format == FLOAT32 and outer.rounding is Rounding.NEAREST_EVEN
    if not rounds or (inner.format, inner.readout, datapath.scale_product, datapath.tile) != (None,) * 4:
        return None
    spans = _span(x), _span(w.operand)
    if spans[0].bits + spans[1].bits > 24:
        return None
    # far from subnormal numbers and from infinity
    smallest = min(*(s.smallest for s in spans), spans[0].smallest * spans[1].smallest)
    if smallest < 2.0**-100 or spans[0].largest * spans[1].largest > 2.0**100:
        return None
    return OneSum(torch.float32, 2.0**24, x.unit + w.operand.unit, None, False)


class _Span(NamedTuple):
    """Of an operand's elements times their scales: significant bits, and bounds on magnitudes other than zero."""

    bits: int
    smallest: float
    largest: float


def _span(operand: Operand) -> _Span:
    bounds = operand.quantizer.format.bounds()
    is_plain = bounds.per_lane == 1 and bounds.reach == 0
    bits = (bounds.significand if is_plain else round(_reach(operand))).bit_length()
    smallest, largest = 2.0**operand.unit, _reach(operand) * 2.0**operand.unit
    if operand.inside is None:
        return _Span(bits, smallest, largest)
    scale = operand.quantizer.scales[-1].format.bounds()
    is_moderate = scale.exponent.start >= -40 and scale.highest <= 2.0**40
    low, high = (2.0**scale.exponent.start, scale.highest) if is_moderate else _extremes(operand.inside)
    return _Span(bits + scale.significand.bit_length(), smallest * low, largest * high)


def _extremes(inside: Tensor) -> tuple[float, float]:
    """Smallest value above zero, and largest; of all zeros 1."""
    if not inside.numel():
        return 1.0, 1.0
    low, high = float(torch.where(inside > 0, inside, torch.inf).min()), float(inside.max())
    return (low, high) if high > 0 else (1.0, 1.0)


def product(one: OneSum, x: Operand, w: Stationary, out: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Sums x @ w.T by runs of rows [m, n], in their carrier; of float32 they lie in `out`, the float32 outputs."""
    rows, weight = x.scaled.flatten(1), w.scaled
    k = min(rows.shape[1], weight.shape[1])  # one may be padded further
    rows, weight = rows[:, :k], weight[:, :k]
    if one.carrier == torch.float32:
        with whole_products(rows):
            sums = torch.mm(rows, weight.T, out=out)
        yield slice(None), sums
        return
    weight = w.wide[:, :k]
    step = max(CHUNK // max(k, 1), 1)
    sums = torch.empty(min(step, len(rows)), len(weight), dtype=torch.float64, device=rows.device)
    for start in range(0, len(rows), step):
        part = rows[start : start + step].double()
        yield slice(start, start + step), torch.mm(part, weight.T, out=sums[: len(part)])


def digits(one: OneSum, x: Operand, w: Stationary) -> list[tuple[float, Tensor]]:
    """x's scaled elements as a sum of factors times tensors, whose sums with w float32 holds; one of 1 where x's do.

    Empty where more than three were needed.
    """
    if one.carrier == torch.float32:
        return [(1.0, x.scaled)]
    largest = (2**24 - 1) / max(w.scaled_norm, 1.0)  # of a digit, in units
    if largest < 4:
        return []
    base = 2.0 ** math.floor(math.log2(largest))
    found: list[tuple[float, Tensor]] = []
    rest, factor = x.scaled, 1.0
    while x.largest_scaled > factor * largest:
        if len(found) == 2:
            return []
        high = (rest / (base * 2.0**x.unit)).trunc_().mul_(2.0**x.unit)
        found.append((factor, rest - base * high))
        rest, factor = high, factor * base
    return [*found, (factor, rest)]


def settled(datapath: Datapath, one: OneSum, sums: Tensor) -> tuple[Tensor, int]:
    """Sums as the inner register is read, and how many left it."""
    inner = datapath.inner
    if not one.must_settle:
        return sums, 0
    if inner.readout is None and inner.range is not None and sums.numel():
        low, high = sums.aminmax()
        unit = 2.0**one.unit
        if inner.range[0] * unit <= float(low) and float(high) <= inner.range[1] * unit:
            return sums, 0
    return settle(inner, sums.double(), one.bound, one.unit)


def sums_each(one: OneSum, x: Operand, w: Operand, k: int, taps: int = 1) -> int:
    """Sums that registers hold on the way to one output of `k` products, a row of w being so many taps of x."""
    if one.tile is not None:
        return -(-k // one.tile) + 1
    counts = [taps * x.elements.shape[1]] if x.inside is not None else []
    counts += [w.elements.shape[1]] if w.inside is not None else []
    return min(max(counts), k) + 1 if counts else 1


def _reach(x: Operand) -> float:
    """Bound on |element| by the format alone, in units."""
    low, high = x.quantizer.format.bounds().units
    return float(high - low if x.quantizer.zero is Zero.FITTED else max(high, -low))


def _scaled_reach(x: Operand) -> float:
    return _reach(x) * (1.0 if x.inside is None else x.quantizer.scales[-1].format.full_scale)
