"""Learned step sizes: both directions of `bitwright.model.surrogate.fake_quantize` in one pass each.

The gradient of x is the surrogate's, bit for bit. That of the step is a sum over many elements, made in float64 and in
a fixed order, which is not the order of torch's sum.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from bitwright.kernels.gpu.launch import OPTIONS, refuse
from bitwright.kernels.gpu.rounding import Values, ladder, value_of
from bitwright.kernels.native.scalars import element
from bitwright.kernels.rounding import Unsupported
from bitwright.quantization import Quantizer, Zero

TILE = 1024


def backward(
    quantizer: Quantizer, x: Tensor, scale: Tensor, gradient: Tensor, limits: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Gradients of float32 x [rows, k], and per row of its step [rows or 1, 1], before LSQ's factor.

    `scale` [rows or 1, 1] is the learned step, and `limits` the levels between which the surrogate is straight through.
    Elements are rounded again rather than kept. Raises `Unsupported` for what these kernels do not take.
    """
    refuse(x)
    if quantizer.zero is not Zero.FIXED or scale.dim() != 2 or scale.shape[1] != 1 or len(scale) not in (1, len(x)):
        raise Unsupported("steps of blocks, or zero points")
    made = element(quantizer.format, quantizer.rounding)
    rows, k = x.shape
    is_shared = len(scale) == 1
    if is_shared:
        rows, k = 1, x.numel()
    across = triton.cdiv(k, TILE)
    of_x = torch.empty_like(x, memory_format=torch.contiguous_format)
    partial = torch.empty(rows, across, dtype=torch.float64, device=x.device)
    _backward[(rows * across,)](
        x.contiguous(), gradient.contiguous(), scale.contiguous(), of_x, partial, k, across, *limits,
        *Values.of(made), ladder(quantizer.format, quantizer.rounding, x.device),
        KIND=made.kind, ROUNDING=made.rounding, COUNT=made.count, INWARD=made.inward, TILE=TILE, **OPTIONS,
    )  # fmt: skip
    return of_x, partial.sum(1, keepdim=True).float()


@triton.jit
@no_type_check  # Triton reads the source
def _backward(
    x, gradient, scale, of_x, partial, k, across, first, last,
    lowest, highest, unit, inverse, mantissa, smallest, table,
    KIND: tl.constexpr, ROUNDING: tl.constexpr, COUNT: tl.constexpr, INWARD: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """TILE columns of a row."""
    program = tl.program_id(0).to(tl.int64)
    row = program // across
    column = (program % across) * TILE + tl.arange(0, TILE)
    at = row * k + column
    level = tl.load(x + at, mask=column < k, other=0.0)
    arriving = tl.load(gradient + at, mask=column < k, other=0.0)
    by = tl.load(scale + row) + tl.zeros_like(level)
    level = tl.div_rn(level, by)
    through = tl.where((level >= first) & (level <= last), arriving, 0.0)
    value = value_of(level, lowest, highest, unit, inverse, mantissa, smallest, table, KIND, ROUNDING, COUNT, INWARD)
    tl.store(of_x + at, through, mask=column < k)
    of_scale = (arriving * value).to(tl.float64) - (level * through).to(tl.float64)
    tl.store(partial + program, tl.sum(of_scale))
