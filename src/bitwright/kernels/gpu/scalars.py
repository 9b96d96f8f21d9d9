"""Quantization to scalar formats in one pass: scales of blocks, levels, rounding and decoding of a tile at a time.

What is rounded to what is described once for the native library (`NativeFormat`) and read here again.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from bitwright.kernels.gpu.groups import round_to
from bitwright.kernels.gpu.launch import OPTIONS, refuse
from bitwright.kernels.gpu.plan import Plan, plan
from bitwright.kernels.gpu.rounding import (
    INTEGERS,
    SAME,
    SYMMETRIC,
    Values,
    clip,
    ladder,
    nearest_even,
    to_tiny_steps,
    value_of,
)
from bitwright.kernels.native.scalars import NotFinite, element, stored_scale
from bitwright.kernels.operand import Operand, rounds_once
from bitwright.kernels.quantize import quantize as quantize_by_torch
from bitwright.kernels.rounding import Unsupported
from bitwright.quantization import Quantizer, Range, ScaleValue

TILE = 1024
"""Elements of one program."""
LONGEST_BLOCK = 1 << 14


def quantize(quantizer: Quantizer, x: Tensor, ranges: tuple[Range | None, ...] = ()) -> Operand:
    """Quantize float32 x [rows, k]. Raises `Unsupported` for what these kernels do not take, or `NotFinite`.

    Scales that one pass does not find, and all of group formats, are torch's on the same device.
    """
    refuse(x)
    try:
        found = _plan(quantizer, x, ranges)
    except Unsupported:
        if not bool(torch.isfinite(x.sum(dtype=torch.float64))):
            raise NotFinite from None
        return quantize_by_torch(quantizer, x, ranges, to_values=round_to)
    rows, block = len(x), quantizer.block(*x.shape)
    blocks = -(-x.shape[1] // block)
    elements = torch.empty(rows, blocks, block, device=x.device)
    inside = torch.empty(rows, blocks, device=x.device) if found.block else None
    _run(found, elements, blocks * block, inside, is_decoded=False)
    return Operand(elements, inside, found.outside.expand(rows, 1), x.shape[1], quantizer)


def fake_quantize(
    quantizer: Quantizer, x: Tensor, ranges: tuple[Range | None, ...] = (), out: Tensor | None = None
) -> Tensor:
    """decode(quantize(x)) in float32, into `out` where given; it may be x."""
    if not rounds_once(quantizer):
        raise Unsupported("elements times scales of more than 24 bits")
    found = _plan(quantizer, x, ranges)
    out = torch.empty(x.shape, device=x.device) if out is None else out
    if not out.is_inference():
        torch.autograd.graph.increment_version(out)  # autograd does not see what a kernel writes
    _run(found, out, x.shape[1], None, is_decoded=True)
    return out


def _plan(quantizer: Quantizer, x: Tensor, ranges: tuple[Range | None, ...]) -> Plan:
    refuse(x)
    if x.dtype != torch.float32:
        raise Unsupported(f"{x.dtype}")
    element(quantizer.format, quantizer.rounding)  # what is not taken is known before anything is computed
    found = plan(quantizer, x, ranges)
    if found.block > LONGEST_BLOCK:
        raise Unsupported(f"blocks of {found.block} elements")
    return found


def _run(job: Plan, out: Tensor, pitch: int, inside: Tensor | None, *, is_decoded: bool) -> None:
    quantizer, (rows, k) = job.quantizer, job.x.shape
    made = element(quantizer.format, quantizer.rounding)
    flag = torch.zeros(1, dtype=torch.int32, device=job.x.device)
    is_shared = len(job.coarse) == 1
    common = {
        **Values.of(made)._asdict(), "table": ladder(quantizer.format, quantizer.rounding, job.x.device),
        "KIND": made.kind, "ROUNDING": made.rounding, "COUNT": made.count, "INWARD": made.inward,
        "DECODED": is_decoded, "IN_DOUBLE": job.coarse_levels > 1, "SHARED": is_shared, **OPTIONS,
    }  # fmt: skip
    if not job.block:
        if is_shared and pitch == k:
            rows, k, pitch = 1, rows * k, rows * k
        zero = job.coarse if job.zero is None else job.zero
        across = triton.cdiv(pitch, TILE)
        _rows[(rows * across,)](
            job.x, out, job.coarse, zero, job.outside, flag, k, pitch, across,
            HAS_ZERO=job.zero is not None, TILE=TILE, **common,
        )  # fmt: skip
    else:
        scale = quantizer.scales[-1]
        stored = stored_scale(scale.format, scale.rounding)
        if stored.kind == int(SYMMETRIC) or (stored.kind == int(INTEGERS) and stored.rounding):
            raise Unsupported(f"scales of {scale.format} under {scale.rounding}")
        width = triton.next_power_of_2(job.block)
        blocks = -(-k // job.block)
        magnitude = scale.magnitude_format
        _blocks[(triton.cdiv(rows * blocks, max(TILE // width, 1)),)](
            job.x, out, job.coarse, job.outside, out if inside is None else inside, flag, k, pitch, blocks,
            rows * blocks, job.block, quantizer.candidates()[0], scale.smallest, scale.zero_as or 0.0,
            *Values.of(stored),
            HAS_INSIDE=inside is not None, SCALE_KIND=stored.kind, SCALE_ROUNDING=stored.rounding,
            SHIFT=0 if magnitude is None else 23 - magnitude.mantissa_bits,  # type: ignore[attr-defined]
            IDEAL=quantizer.divide_by is ScaleValue.IDEAL, SIGNED=quantizer.format.bounds().lowest < 0,
            COUNT_OF_BLOCKS=max(TILE // width, 1), WIDTH=width, **common,
        )  # fmt: skip
    if int(flag):
        raise NotFinite


@triton.jit
@no_type_check  # Triton reads the source
def _decoded(value, inside, outside, IN_DOUBLE: tl.constexpr):
    """A value times its scales, rounded once to float32 after the scale inside."""
    value = value * inside
    if IN_DOUBLE:
        return (value.to(tl.float64) * outside).to(tl.float32)
    return value * outside.to(tl.float32)


@triton.jit
@no_type_check
def _mark_what_is_not_finite(x, flag):
    is_bad = (x.to(tl.int32, bitcast=True) & 0x7FFFFFFF) >= 0x7F800000
    tl.store(flag, 1, mask=tl.max(is_bad.to(tl.int32)) > 0)


@triton.jit
@no_type_check
def _rows(
    x, out, coarse, zero, outside, flag, k, pitch, across,
    lowest, highest, unit, inverse, mantissa, smallest, table,
    KIND: tl.constexpr, ROUNDING: tl.constexpr, COUNT: tl.constexpr, INWARD: tl.constexpr, HAS_ZERO: tl.constexpr,
    DECODED: tl.constexpr, IN_DOUBLE: tl.constexpr, SHARED: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Rows under one scale each, or all under one: TILE columns of a row."""
    program = tl.program_id(0).to(tl.int64)
    row = program // across
    column = (program % across) * TILE + tl.arange(0, TILE)
    level = tl.load(x + row * k + column, mask=column < k, other=0.0)
    _mark_what_is_not_finite(level, flag)
    cell = row * (0 if SHARED else 1)
    by = tl.load(coarse + cell) + tl.zeros_like(level)
    level = tl.div_rn(level, tl.where(by > 0.0, by, 1.0))
    if HAS_ZERO:  # the level is rounded before the shift, so that real zero lands on its code
        shift = tl.load(zero + cell)
        value = clip(nearest_even(level) + shift, lowest, highest) - shift
    else:
        value = value_of(
            level, lowest, highest, unit, inverse, mantissa, smallest, table, KIND, ROUNDING, COUNT, INWARD
        )
    if DECODED:
        value = _decoded(value, 1.0, tl.load(outside + cell), IN_DOUBLE)
    value = tl.where((by > 0.0) & (column < k), value, 0.0)
    tl.store(out + row * pitch + column, value, mask=column < pitch)


@triton.jit
@no_type_check
def _stored(
    span, divisor, least, zero_as, lowest, highest, unit, inverse, mantissa, smallest,
    KIND: tl.constexpr, ROUNDING: tl.constexpr, SHIFT: tl.constexpr,
):  # fmt: skip
    """The scale that is kept for a block of this largest magnitude. See bitwright.quantization.scale.set_scales."""
    if SHIFT:  # to fewer mantissa bits, ties away
        span = (((span.to(tl.int32, bitcast=True) + (1 << (SHIFT - 1))) >> SHIFT) << SHIFT).to(tl.float32, bitcast=True)
    ideal = tl.where(divisor > 0.0, tl.div_rn(span, tl.where(divisor > 0.0, divisor, 1.0)), 0.0)
    ideal = tl.where((ideal > 0.0) & (ideal < least), least, ideal)
    if KIND == SAME:
        stored = ideal
    elif KIND == INTEGERS:
        stored = nearest_even(clip(ideal * inverse, lowest, highest)) * unit
    else:
        stored = to_tiny_steps(ideal, lowest, highest, mantissa, smallest, ROUNDING)
    return tl.where(stored == 0.0, zero_as, stored)


@triton.jit
@no_type_check
def _blocks(
    x, out, coarse, outside, inside, flag, k, pitch, blocks, count, block, full_scale, least, zero_as,
    s_lowest, s_highest, s_unit, s_inverse, s_mantissa, s_smallest,
    lowest, highest, unit, inverse, mantissa, smallest, table,
    HAS_INSIDE: tl.constexpr, SCALE_KIND: tl.constexpr, SCALE_ROUNDING: tl.constexpr, SHIFT: tl.constexpr,
    IDEAL: tl.constexpr, SIGNED: tl.constexpr, COUNT_OF_BLOCKS: tl.constexpr, WIDTH: tl.constexpr,
    KIND: tl.constexpr, ROUNDING: tl.constexpr, COUNT: tl.constexpr, INWARD: tl.constexpr,
    DECODED: tl.constexpr, IN_DOUBLE: tl.constexpr, SHARED: tl.constexpr,
):  # fmt: skip
    """Blocks whose scales come from their own largest magnitudes: COUNT_OF_BLOCKS of them, of all rows in a row."""
    index = tl.program_id(0).to(tl.int64) * COUNT_OF_BLOCKS + tl.arange(0, COUNT_OF_BLOCKS)
    is_block = index < count
    row, place = index // blocks, index % blocks
    lane = tl.arange(0, WIDTH)
    column = place[:, None] * block + lane[None, :]
    is_mine = is_block[:, None] & (lane < block)[None, :]
    level = tl.load(x + row[:, None] * k + column, mask=is_mine & (column < k), other=0.0)
    _mark_what_is_not_finite(level, flag)
    span = tl.max(tl.abs(level) if SIGNED else tl.where(level > 0.0, level, 0.0), axis=1)
    cell = row * (0 if SHARED else 1)
    taken = tl.load(coarse + cell, mask=is_block, other=1.0)
    scale = _stored(
        span, taken * full_scale, least, zero_as, s_lowest, s_highest, s_unit, s_inverse, s_mantissa, s_smallest,
        SCALE_KIND, SCALE_ROUNDING, SHIFT,
    )  # fmt: skip
    if HAS_INSIDE:
        tl.store(inside + index, scale, mask=is_block)
    by = tl.div_rn(span, full_scale + tl.zeros_like(span)) if IDEAL else scale * taken
    by = by[:, None] + tl.zeros_like(level)
    level = tl.div_rn(level, tl.where(by > 0.0, by, 1.0))
    value = value_of(level, lowest, highest, unit, inverse, mantissa, smallest, table, KIND, ROUNDING, COUNT, INWARD)
    if DECODED:
        factor = tl.load(outside + cell, mask=is_block, other=1.0)[:, None]
        value = _decoded(value, scale[:, None], factor, IN_DOUBLE)
    value = tl.where((by > 0.0) & (column < k), value, 0.0)
    tl.store(out + row[:, None] * pitch + column, value, mask=is_mine & (column < pitch))
