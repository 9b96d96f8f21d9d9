"""Fake quantization with a gradient: the kernels' rounding forwards, a differentiable stand-in backwards.

PTQ is QAT with zero steps. Scales that follow the data are constants of a step: their maximum has no gradient.
A learned scale is a step size as in S. Esser et al., "Learned step size quantization", ICLR 2020, arXiv:1902.08153.
"""

import math
from functools import singledispatch
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bitwright import kernels
from bitwright.formats import Format
from bitwright.kernels import Operand
from bitwright.quantization import Quantizer, Range, Scale, ScaleValue, Zero
from bitwright.schemes.overq import Overwrite

Ranges = tuple[Range | None, ...]

SLACK = 1 + 2.0**-20
"""A scale set from a cell's maximum is rounded at most 8 times to 24 bits, so the maximum's level may pass the end."""


@singledispatch
def surrogate(format: Format, level: Tensor, element: Tensor) -> Tensor:
    """What stands in for the rounding of `level` when it is differentiated; `element` is what it was rounded to.

    Unless a format has its own: straight through between the extreme elements, constant beyond.
    """
    bounds = format.bounds()
    return level.clamp(bounds.lowest * SLACK, bounds.highest * SLACK)


@surrogate.register
def _(format: Overwrite, level: Tensor, element: Tensor) -> Tensor:
    """An outlier without a free neighbour saturates where its lane ends."""
    lane, bounds = format.lane.bounds(), format.bounds()
    reach = torch.where(element.abs() > lane.highest, bounds.highest, min(lane.highest, bounds.highest)) * SLACK
    return level.clamp(-reach if bounds.lowest < 0 else torch.zeros_like(reach), reach)


def fake_quantize(
    quantizer: Quantizer, x: Tensor, ranges: Ranges = (), *, step: Tensor | None = None, samples: int = 1
) -> Tensor:
    """decode(quantize(x)) of x [rows, k] float32, bit for bit, with the surrogate's gradient where one is asked for.

    `step` is the learned scale that `ranges` came from (`learned_ranges`), `samples` how many samples x holds.
    """
    learns = step is not None and step.requires_grad
    if not torch.is_grad_enabled() or not (x.requires_grad or learns):
        return kernels.fake_quantize(quantizer, x, ranges)
    return _Straight.apply(x, step, quantizer, ranges, samples)


class _Straight(torch.autograd.Function):
    """scale · (soft + (element - soft).detach()) with soft = surrogate(x / scale), forwards in the kernels' own order.

    A surrogate never mixes blocks, so the scale cancels in the gradient of x. That of a learned scale is
    element - level · soft'(level) (LSQ, eq. 3) times LSQ's 1/sqrt(N·Qp), where N elements of a sample share the step.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor | None, quantizer: Quantizer, ranges: Ranges, samples: int) -> Tensor:
        operand = kernels.quantize(quantizer, x, ranges)
        scale = _divisor(quantizer, x, ranges, operand) if step is None else _each_row(step, len(x))
        ctx.save_for_backward(x, operand.elements, scale, step)
        ctx.quantizer, ctx.ranges, ctx.samples = quantizer, ranges, samples
        return operand.decode()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, elements, scale, step = ctx.saved_tensors
        quantizer: Quantizer = ctx.quantizer
        gradient = _in_blocks(gradient, elements)
        scale = torch.where(scale > 0, scale, 1.0)[..., None]  # an all-zero cell must be able to leave zero
        zero = _zero_point(quantizer, x, ctx.ranges)
        with torch.enable_grad():
            level = (_in_blocks(x, elements) / scale + zero).requires_grad_()
            soft = surrogate(quantizer.format, level, elements + zero)
        (through,) = torch.autograd.grad(soft, level, gradient)
        of_x = through.flatten(1)[:, : x.shape[1]] if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return of_x, None, None, None, None
        sharing = x.numel() / (ctx.samples * step.numel())
        factor = 1 / math.sqrt(max(sharing * quantizer.format.bounds().highest, 1))
        of_scale = gradient * elements - level.detach() * through
        return of_x, factor * _of_cells(of_scale.sum(2), step.shape), None, None, None


def can_learn(quantizer: Quantizer, ranges: Ranges) -> bool:
    """Whether there is one static scale, a float32 with no rule of its own: what a learned step stands for."""
    if len(quantizer.scales) != 1 or not ranges or ranges[0] is None:
        return False
    scale = quantizer.scales[0]
    is_plain = scale == Scale(scale.share, range=scale.range)
    return is_plain and quantizer.zero is Zero.FIXED and bool((ranges[0].magnitude > 0).all())


def first_step(quantizer: Quantizer, ranges: Ranges) -> torch.nn.Parameter:
    """The step size of a static range. Differs from LSQ: its first value is the calibrated one."""
    assert can_learn(quantizer, ranges), "asked before"
    magnitude = ranges[0].magnitude  # type: ignore[union-attr]  # asked before
    return torch.nn.Parameter(torch.from_numpy(magnitude / quantizer.format.full_scale).float())


def learned_ranges(quantizer: Quantizer, step: Tensor) -> Ranges:
    """The range that a step size stands for. One that is not above zero raises ValueError."""
    value = step.detach().double().cpu().numpy()
    if not (value > 0).all():
        raise ValueError(
            f"a learned step size is {value.min():.3g}, and must stay above zero; "
            "lower the learning rate, and apply no weight decay to steps"
        )
    magnitude = value * quantizer.format.full_scale
    return (Range(-magnitude, magnitude),)


def _in_blocks(x: Tensor, elements: Tensor) -> Tensor:
    """x [rows, k] as [rows, blocks, block]."""
    padding = elements.shape[1] * elements.shape[2] - x.shape[1]
    return (torch.nn.functional.pad(x, (0, padding)) if padding else x).reshape(elements.shape)


def _divisor(quantizer: Quantizer, x: Tensor, ranges: Ranges, operand: Operand) -> Tensor:
    """What each block was divided by [rows or 1, blocks or 1]."""
    if quantizer.divide_by is ScaleValue.STORED:
        outside = operand.outside.float()
        return outside if operand.inside is None else operand.inside * outside
    share, rows = quantizer.scales[-1].share, len(x)
    given = ranges[-1] if len(ranges) == len(quantizer.scales) else None
    if given is not None:
        magnitude = torch.from_numpy(given.magnitude).float().to(x.device)
    else:
        blocks = _in_blocks(x, operand.elements)
        largest = (blocks.abs() if quantizer.format.bounds().lowest < 0 else blocks.clamp(min=0)).amax(2)
        height, _ = share.cell(rows, operand.k)
        magnitude = torch.nn.functional.pad(largest, (0, 0, 0, -rows % height)).unflatten(0, (-1, height)).amax(1)
    return _each_row(magnitude, rows) / quantizer.candidates()[0]


def _each_row(cells: Tensor, rows: int) -> Tensor:
    """Cells [down, across] at every row [rows or 1, across]."""
    down = len(cells)
    return cells if down in (1, rows) else cells.repeat_interleave(-(-rows // down), 0)[:rows]


def _of_cells(blocks: Tensor, cells: torch.Size) -> Tensor:
    """Sums of [rows, blocks] over each cell."""
    rows, (down, across) = len(blocks), cells
    height = -(-rows // down)
    blocks = torch.nn.functional.pad(blocks, (0, 0, 0, -rows % height)).unflatten(0, (down, height)).sum(1)
    return blocks.sum(1, keepdim=True) if across == 1 else blocks


def _zero_point(quantizer: Quantizer, x: Tensor, ranges: Ranges) -> float | Tensor:
    """Code of real zero, to be added to elements [rows, blocks, block]."""
    if quantizer.zero is Zero.FIXED:
        return 0.0
    is_static = bool(ranges) and ranges[0] is not None
    codes = quantizer.quantize(np.zeros((1, 1), np.float32) if is_static else x.cpu().numpy(), ranges).zero_points
    assert codes is not None, "fitted"
    return _each_row(torch.from_numpy(quantizer.format.decode(codes)).float().to(x.device), len(x))[..., None]
