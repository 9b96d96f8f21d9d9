"""Quantization of float32 matrices in torch: the scale loop and the rounding, equal to the reference bit for bit."""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from bitwright.formats import FLOAT32, Format, Rounding
from bitwright.kernels.operand import Operand
from bitwright.kernels.rounding import Unsupported, round_to
from bitwright.quantization import Granularity, Quantizer, Range, Scale, ScaleValue, Zero, sum_cells

CHUNK = 1 << 18
"""Elements worked on at a time, so that temporaries stay in cache and are recycled."""

RoundTo = Callable[[Format, Tensor, Rounding], Tensor]
"""Values of levels, as `round_to` gives them."""


def quantize(
    quantizer: Quantizer, x: Tensor, ranges: tuple[Range | None, ...] = (), to_values: RoundTo = round_to
) -> Operand:
    """Quantize float32 x [rows, k]. Raises `Unsupported` for what this kernel does not take."""
    rows, k = x.shape
    scales = quantizer.scales
    if sum(s.share.splits_k for s in scales) > 1:
        raise Unsupported("more than one level of scales varies along K")
    block = quantizer.block(rows, k)
    padded = torch.nn.functional.pad(x, (0, -k % block)) if k % block else x
    given = [*ranges, *[None] * (len(scales) - len(ranges))]
    spans = spans_of(quantizer, x.shape, padded, scales, given)
    found = [_encode(quantizer, padded, k, spans, given[0], value, to_values) for value in quantizer.candidates()]
    return found[0] if len(found) == 1 else _least_error(x, found)


def spans_of(
    quantizer: Quantizer, shape: torch.Size, padded: Tensor, scales: Sequence[Scale], given: Sequence[Range | None]
) -> list[Tensor]:
    """What each of these levels must cover: its given range, or the extremes of the matrix, padded to whole blocks.

    One row for all, or one each: rows that share a scale have equal ones.
    """
    spans = [_span(quantizer, shape, padded, s, r) for s, r in zip(scales, given, strict=True)]
    return [_each_row(span, s.share, shape) for span, s in zip(spans, scales, strict=True)]


def _each_row(cells: Tensor, share: Granularity, shape: torch.Size) -> Tensor:
    """A row of cells for each row of the matrix, where tiles hold several but not all."""
    rows, k = shape
    height, _ = share.cell(rows, k)
    return cells.repeat_interleave(height, 0)[:rows] if 1 < height < rows else cells


def _span(quantizer: Quantizer, shape: torch.Size, padded: Tensor, scale: Scale, given: Range | None) -> Tensor:
    if given is not None:
        covered = given.magnitude if quantizer.zero is Zero.FIXED else given.high.clip(min=0) - given.low.clip(max=0)
        return torch.from_numpy(covered).to(padded.device, torch.float32)
    if quantizer.zero is Zero.FITTED:
        raise Unsupported("a zero point from the input at hand")
    is_signed = quantizer.format.bounds().lowest < 0
    return _reduce(padded, shape, scale.share, is_signed)


def _reduce(padded: Tensor, shape: torch.Size, share: Granularity, is_signed: bool) -> Tensor:
    """Largest magnitude of each cell; for unsigned formats the largest positive value."""
    rows, k = shape
    height, width = share.cell(rows, k)
    if width < k and padded.shape[1] % width == 0:
        columns = padded.view(rows, -1, width)
    elif width >= k:
        columns = padded.view(rows, 1, -1)
    else:
        raise Unsupported("a block that does not divide the finest one")
    largest = columns.amax(2)
    if is_signed:
        largest = torch.maximum(largest, columns.amin(2).neg_())
    largest = largest.clamp_(min=0)
    if height == 1:
        return largest
    if height >= rows:
        return largest.amax(0, keepdim=True)
    return torch.nn.functional.pad(largest, (0, 0, 0, -rows % height)).unflatten(0, (-1, height)).amax(1)


def _encode(
    quantizer: Quantizer, padded: Tensor, k: int, spans: list[Tensor], coarsest: Range | None, full_scale: float,
    to_values: RoundTo,
) -> Operand:  # fmt: skip
    rows, block = len(padded), quantizer.block(len(padded), k)
    values, product = coarse_scales(quantizer.scales, spans, tops(quantizer, full_scale))
    divisor = product if quantizer.divide_by is ScaleValue.STORED else divided(spans[-1], full_scale)
    offset = None
    if quantizer.zero is Zero.FITTED:
        assert coarsest is not None, "dynamic zero points are refused before"
        height, _ = quantizer.scales[0].share.cell(rows, k)
        if 1 < height < rows:
            coarsest = Range(*(np.repeat(end, height, axis=0)[:rows] for end in (coarsest.low, coarsest.high)))
        offset = zero_points(quantizer, coarsest, product)
    blocks = padded.view(rows, -1, block)
    elements = torch.empty_like(blocks)
    step = max(rows, 1) if padded.is_cuda or torch.compiler.is_compiling() else max(CHUNK // max(padded.shape[1], 1), 1)
    for start in range(0, rows, step):
        part = slice(start, min(start + step, rows))
        by = divisor[part] if len(divisor) > 1 else divisor
        level = blocks[part] / by[..., None]
        if torch.compiler.is_compiling() or not bool((by > 0).all()):
            level = torch.where(by[..., None] > 0, level, 0.0)
        if offset is None:
            elements[part] = to_values(quantizer.format, level, quantizer.rounding)
        else:
            zero = offset[part, :, None] if len(offset) > 1 else offset[..., None]
            elements[part] = round_to(quantizer.format, level.round_().add_(zero), quantizer.rounding).sub_(zero)
    inside = None
    outside = torch.ones(1, 1, dtype=torch.float64, device=padded.device)
    for scale, value in zip(quantizer.scales, values, strict=True):
        if scale.share.splits_k:
            inside = value.expand(rows, -1) if len(value) == 1 else value
        else:
            outside = value.double() * outside
    return Operand(elements, inside, outside.expand(rows, 1), k, quantizer)


def divided(x: Tensor, by: float) -> Tensor:
    """x / by: on a GPU torch multiplies by a number's reciprocal, which rounds twice, but divides by a tensor."""
    return x / (x.new_full((1, 1), by) if x.is_cuda else by)


def zero_points(quantizer: Quantizer, range: Range, scale: Tensor) -> Tensor:
    """The level that real zero becomes."""
    low = torch.from_numpy(range.low.clip(max=0)).to(scale.device, torch.float32)
    return round_to(quantizer.format, torch.where(scale > 0, -low / scale, 0.0), Rounding.NEAREST_EVEN)


@lru_cache(maxsize=256)
def tops(quantizer: Quantizer, full_scale: float) -> tuple[float, ...]:
    """What each scale's magnitude is divided by: the level it maps to, times what finer scales can add."""
    rooms = [scale.room for scale in quantizer.scales]
    levels = quantizer.full_scales(full_scale)
    return tuple(level * float(np.prod(rooms[i + 1 :])) for i, level in enumerate(levels))


def coarse_scales(
    scales: tuple[Scale, ...], spans: Sequence[Tensor], tops: tuple[float, ...]
) -> tuple[list[Tensor], Tensor]:
    """Stored scale values of the coarsest levels, one for each span, and their product.

    See bitwright.quantization.scale.set_scales.
    """
    values: list[Tensor] = []
    taken = spans[0].new_ones(1, 1) if spans else torch.ones(1, 1)
    for scale, span, top in zip(scales, spans, tops, strict=False):
        if scale.magnitude_format is not None:
            span = _round_magnitude(span, scale.magnitude_format.mantissa_bits)  # type: ignore[attr-defined]
        divisor = taken * torch.tensor(top, dtype=torch.float32)
        ideal = torch.where(divisor > 0, span / divisor, 0.0)
        if scale.smallest:
            ideal = torch.where(ideal > 0, ideal.clamp(min=scale.smallest), ideal)
        value = ideal if scale.format == FLOAT32 else round_to(scale.format, ideal, scale.rounding)
        if scale.zero_as is not None:
            value = torch.where(value == 0, scale.zero_as, value)
        values.append(value)
        taken = value * taken
    return values, taken


def _round_magnitude(x: Tensor, mantissa_bits: int) -> Tensor:
    """Normal float32 values rounded to fewer mantissa bits, ties away."""
    shift = 23 - mantissa_bits
    bits = x.view(torch.int32) + (1 << (shift - 1))
    return (bits.bitwise_right_shift(shift) << shift).view(torch.float32)


def _least_error(x: Tensor, candidates: list[Operand]) -> Operand:
    first = candidates[0]
    elements, inside = first.elements, first.inside
    if inside is None:
        raise Unsupported("several full scales for a whole row")
    finest = first.quantizer.scales[-1].share
    best = _each_row(torch.stack([_squared_error(c, x) for c in candidates]).argmin(0), finest, x.shape)
    for i, c in enumerate(candidates[1:], 1):
        assert c.inside is not None, "candidates differ in their full scale only"
        elements = torch.where((best == i)[..., None], c.elements, elements)
        inside = torch.where(best == i, c.inside, inside)
    return Operand(elements, inside, first.outside, first.k, first.quantizer)


def _squared_error(operand: Operand, x: Tensor) -> Tensor:
    """Squared error of each cell of the finest scale, by the reference's own sums, so that near ties fall alike."""
    assert operand.inside is not None, "a scale that varies along K"
    wrong = (operand.decode_exactly() - x).square()
    finest = operand.quantizer.scales[-1].share
    if not torch.compiler.is_compiling():
        return torch.from_numpy(sum_cells(finest, wrong.cpu().numpy())).to(x.device)
    if 1 < finest.cell(*x.shape)[0] < len(x):
        raise Unsupported("several full scales for tiles of rows, compiled")
    padded = torch.nn.functional.pad(wrong, (0, -operand.k % operand.elements.shape[2]))
    errors = padded.view(operand.elements.shape).sum(2)
    return errors if finest.cell(*x.shape)[0] == 1 else errors.sum(0, keepdim=True)
