"""Fake quantization with a gradient: the kernels' rounding forwards, a differentiable stand-in backwards.

PTQ is QAT with zero steps. Scales that follow the data are constants of a step: their maximum has no gradient.
A learned scale is a step size as in S. Esser et al., "Learned step size quantization", ICLR 2020, arXiv:1902.08153.
"""

import math
from collections.abc import Callable
from contextlib import suppress
from functools import singledispatch
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bitwright import kernels
from bitwright.formats import Format
from bitwright.kernels import Operand
from bitwright.kernels.native import training as native
from bitwright.kernels.quantize import divided
from bitwright.quantization import Quantizer, Range, Scale, ScaleValue, Zero
from bitwright.schemes.overq import Overwrite

Ranges = tuple[Range | None, ...]

SLACK = 1 + 2.0**-20
"""A scale set from a cell's maximum is rounded at most 8 times to 24 bits, so the maximum's level may pass the end."""


Reach = tuple[float, float] | tuple[Tensor, Tensor]
"""Levels between which a gradient passes."""


@singledispatch
def reach(format: Format, element: Tensor) -> Reach:
    """Where levels that were rounded to `element` saturate; at the extreme elements unless a format has its own."""
    bounds = format.bounds()
    return bounds.lowest * SLACK, bounds.highest * SLACK


@reach.register
def _(format: Overwrite, element: Tensor) -> Reach:
    """An outlier without a free neighbour saturates where its lane ends."""
    lane, bounds = format.lane.bounds(), format.bounds()
    highest = torch.where(element.abs() > lane.highest, bounds.highest, min(lane.highest, bounds.highest)) * SLACK
    return -highest if bounds.lowest < 0 else torch.zeros_like(highest), highest


def surrogate(format: Format, level: Tensor, element: Tensor) -> Tensor:
    """What stands in for the rounding of `level` to `element` when it is differentiated: straight within reach."""
    return level.clamp(*reach(format, element))


class Rows(NamedTuple):
    """How a tensor is seen as the rows [rows, k] that are quantized, and rows as a tensor of the second's shape."""

    of: Callable[[Tensor], Tensor]
    back: Callable[[Tensor, Tensor], Tensor]


MATRIX = Rows(lambda x: x, lambda rows, like: rows)


class FakeQuantizer:
    """decode(quantize(x)) in float32, bit for bit, with the surrogate's gradient where one is asked for.

    Of one quantizer and its static ranges; what no step changes is found once.
    """

    def __init__(self, quantizer: Quantizer, ranges: Ranges = ()) -> None:
        self.quantizer, self.ranges = quantizer, ranges
        self._highest = quantizer.format.bounds().highest
        self._native: native.Integers | None = None
        limits = reach(quantizer.format, torch.empty(0))
        if not isinstance(limits[0], Tensor):
            with suppress(kernels.Unsupported):  # the formula in torch takes all
                self._native = native.Integers(quantizer, ranges, limits)

    @property
    def is_elementwise(self) -> bool:
        """Whether an element has one value wherever in its row it lies."""
        return self._native is not None and not self._native.splits_k

    def __call__(self, x: Tensor, rows: Rows = MATRIX, *, step: Tensor | None = None, samples: int = 1) -> Tensor:
        """`step` is the learned scale, if there is one, `samples` how many samples x holds."""
        if not x.numel():
            return x
        if self._native is not None and kernels.allows("native") and not torch.compiler.is_compiling():
            try:
                fused: Tensor = _Fused.apply(x, step, self._native, rows, self._factor(x, step, samples))
                return fused
            except (kernels.Unsupported, native.NotFinite, native.NotPositive):
                pass  # the formula in torch takes it, or says what is wrong with it
        ranges = self.ranges if step is None else learned_ranges(self.quantizer, step)
        matrix = rows.of(x).float()
        if torch.is_grad_enabled() and (x.requires_grad or (step is not None and step.requires_grad)):
            matrix = _Straight.apply(matrix, step, self.quantizer, ranges, self._factor(x, step, samples))
        else:
            matrix = kernels.fake_quantize(self.quantizer, matrix, ranges)
        return rows.back(matrix, x).to(x.dtype)

    def _factor(self, x: Tensor, step: Tensor | None, samples: int) -> float:
        """LSQ's 1/sqrt(N·Qp), where N elements of a sample share a step."""
        if step is None:
            return 1.0
        sharing = x.numel() / (samples * step.numel())
        return 1 / math.sqrt(max(sharing * self._highest, 1))


def fake_quantize(
    quantizer: Quantizer, x: Tensor, ranges: Ranges = (), *, step: Tensor | None = None, samples: int = 1
) -> Tensor:
    """`FakeQuantizer` on x [rows, k] float32. `step` is the learned scale that `ranges` came from, `samples` how many
    samples x holds.
    """
    return FakeQuantizer(quantizer, ranges)(x, step=step, samples=samples)


class _Fused(torch.autograd.Function):
    """`_Straight` in one pass of the native library each way, and none backwards where nothing is out of reach."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, step: Tensor | None, integers: native.Integers, rows: Rows, factor: float
    ) -> Tensor:
        matrix = rows.of(x).float().contiguous()
        found, is_clipped = integers.forward(matrix, step)
        ctx.is_identity = step is None and not is_clipped
        if not ctx.is_identity:
            ctx.save_for_backward(matrix, step)
        ctx.integers, ctx.rows, ctx.factor = integers, rows, factor
        return rows.back(found, x).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.is_identity:
            return gradient, None, None, None, None
        (matrix, step), (needs_x, needs_step, *_) = ctx.saved_tensors, ctx.needs_input_grad
        upstream = ctx.rows.of(gradient).float().contiguous()
        factor = ctx.factor if needs_step else None
        of_x, of_step = ctx.integers.backward(matrix, upstream, step, of_x=needs_x, factor=factor)
        of_x = None if of_x is None else ctx.rows.back(of_x, gradient).to(gradient.dtype)
        return of_x, of_step, None, None, None


class _Straight(torch.autograd.Function):
    """scale · (soft + (element - soft).detach()) with soft = surrogate(x / scale), forwards in the kernels' own order.

    A surrogate never mixes blocks, so the scale cancels in the gradient of x. That of a learned scale is a factor times
    Σ gradient · (element - level), of saturated levels Σ gradient · element (LSQ, eq. 3): terms in float32, added in
    float64 and rounded once, so that two orders of adding differ by a last bit at most.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, step: Tensor | None, quantizer: Quantizer, ranges: Ranges, factor: float
    ) -> Tensor:
        operand = kernels.quantize(quantizer, x, ranges)
        scale = _divisor(quantizer, x, ranges, operand) if step is None else _each_row(step, len(x))
        ctx.save_for_backward(x, operand.elements, scale, step)
        ctx.quantizer, ctx.ranges, ctx.factor = quantizer, ranges, factor
        return operand.decode()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, elements, scale, step = ctx.saved_tensors
        zero = _zero_point(ctx.quantizer, x, ctx.ranges)
        limits = reach(ctx.quantizer.format, elements if zero is None else elements + zero[..., None])
        factor = ctx.factor if ctx.needs_input_grad[1] else None
        of_step: Tensor | None
        try:
            if not kernels.allows("native") or torch.compiler.is_compiling() or isinstance(limits[0], Tensor):
                raise kernels.Unsupported("levels that saturate each at its own")
            if factor is not None and step.shape != scale.shape:
                raise kernels.Unsupported("steps of several rows")
            of_x, of_step = native.straight_through(
                x, gradient, elements, scale, zero, limits,
                of_x=ctx.needs_input_grad[0], factor=factor,
            )  # fmt: skip
        except kernels.Unsupported:
            of_x, sums = _gradients(x, elements, scale, zero, limits, gradient, step)
            of_step = None if sums is None else (sums * ctx.factor).float()
        return of_x, of_step if ctx.needs_input_grad[1] else None, None, None, None


def _gradients(
    x: Tensor,
    elements: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    limits: Reach,
    gradient: Tensor,
    step: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """Of x, and what each step's is a multiple of, in float64."""
    gradient = _in_blocks(gradient, elements)
    scale = torch.where(scale > 0, scale, 1.0)[..., None]  # an all-zero cell must be able to leave zero
    level = _in_blocks(x, elements) / scale
    if zero is not None:
        level = level + zero[..., None]
    is_open = (level >= limits[0]) & (level <= limits[1])
    of_x = torch.where(is_open, gradient, 0.0).flatten(1)[:, : x.shape[1]]
    if step is None:
        return of_x, None
    terms = gradient * (elements - torch.where(is_open, level, 0.0))
    return of_x, _of_cells(terms.sum(2, dtype=torch.float64), step.shape)


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
        magnitude = torch.from_numpy(given.magnitude).to(x.device, torch.float32)
    else:
        blocks = _in_blocks(x, operand.elements)
        largest = (blocks.abs() if quantizer.format.bounds().lowest < 0 else blocks.clamp(min=0)).amax(2)
        height, _ = share.cell(rows, operand.k)
        magnitude = torch.nn.functional.pad(largest, (0, 0, 0, -rows % height)).unflatten(0, (-1, height)).amax(1)
    return divided(_each_row(magnitude, rows), quantizer.candidates()[0])


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


def _zero_point(quantizer: Quantizer, x: Tensor, ranges: Ranges) -> Tensor | None:
    """Code of real zero [rows or 1, 1]; None where it is 0."""
    if quantizer.zero is Zero.FIXED:
        return None
    is_static = bool(ranges) and ranges[0] is not None
    codes = quantizer.quantize(np.zeros((1, 1), np.float32) if is_static else x.cpu().numpy(), ranges).zero_points
    assert codes is not None, "fitted"
    return _each_row(torch.from_numpy(quantizer.format.decode(codes)).to(x.device, torch.float32), len(x))
