"""Weights that learn a direction, a norm and a scale under the bound of their accumulator, with closed-form gradients.

I. Colbert, A. Pappalardo, J. Petri-Koenig, arXiv:2301.13376, arXiv:2308.13504, arXiv:2401.10432; the definition is
`bitwright.quantization.weight_norm`. One scale serves the norm and the output, as the mathematics says.
"""

import math
from collections.abc import Callable
from contextlib import suppress
from functools import singledispatch
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from bitwright import kernels
from bitwright.formats import Format
from bitwright.kernels.native import training as native
from bitwright.model.surrogate import MATRIX, Ranges, Rows
from bitwright.quantization import Range
from bitwright.quantization.project import project_onto_l1_ball
from bitwright.quantization.weight_norm import HAIR, SMALLEST_SCALE, NormBound, shortened
from bitwright.schemes.a2q import L1Bounded

Start = Callable[[Tensor, Tensor, NormBound], tuple[Tensor, Tensor]]
"""First directions [rows, k] and norms [rows, tiles] of float rows [rows, k] whose integers count scales [rows, 1]."""


@singledispatch
def norm_bound(format: Format) -> NormBound | None:
    """The bound that a learned norm keeps under; None for a format that bounds none."""
    return None


@norm_bound.register
def _(format: L1Bounded) -> NormBound:
    both_signs = 2 * format.bound if format.each_sign else format.bound
    return NormBound(format.lane.range[1], both_signs, format.each_sign, format.tile)


def projected(rows: Tensor, scale: Tensor, bound: NormBound) -> tuple[Tensor, Tensor]:
    """The nearest rows within the bound: A2Q+'s initialisation (EP-init), which projects before it centres."""
    tiles, tile = bound.shape(rows.shape[1])
    tiled = _tiled(rows, tiles, tile).double().numpy()
    radius = np.broadcast_to(scale.double().numpy() * bound.norm, tiled.shape[:2])
    nearest = torch.from_numpy(project_onto_l1_ball(tiled, radius))
    norm = np.minimum(np.abs(tiled).sum(2), radius)
    return nearest.flatten(1)[:, : rows.shape[1]].to(rows), torch.from_numpy(norm)


def unchanged(rows: Tensor, scale: Tensor, bound: NormBound) -> tuple[Tensor, Tensor]:
    """The rows as they are, with their own norms: A2Q's initialisation."""
    return rows, _tiled(rows, *bound.shape(rows.shape[1])).double().abs().sum(2)


class LearnedNorm(nn.Module):
    """Norms and scales of a weight's rows, in powers of two; called with the rows, it gives what they represent.

    `log_norm` [rows, tiles] is in real units, `log_scale` [rows, 1] is that of one integer.
    """

    def __init__(self, norm: Tensor, scale: Tensor, bound: NormBound, full_scale: float) -> None:
        super().__init__()
        self.log_norm = nn.Parameter(norm.double().clamp(min=SMALLEST_SCALE).log2().float())
        self.log_scale = nn.Parameter(scale.double().clamp(min=SMALLEST_SCALE).log2().float())
        self.bound, self.full_scale = bound, full_scale

    def forward(self, weight: Tensor, rows: Rows = MATRIX) -> Tensor:
        """Integers times their scale, of a weight that is seen as rows."""
        represented: Tensor = _Normalised.apply(
            weight, self.log_norm, self.log_scale, self.bound, self.full_scale, rows
        )
        return represented

    def real(self, rows: Tensor) -> Tensor:
        """The same before it is truncated and clipped, without a gradient."""
        found = _Levels.of(rows.detach(), self.log_norm.detach(), self.log_scale.detach(), self.bound)
        return (found.level * found.scale[..., None]).flatten(1)[:, : rows.shape[1]].float()

    def ranges(self) -> Ranges:
        """The static range that the scales stand for."""
        magnitude = self._scale().cpu().numpy() * self.full_scale
        return (Range(-magnitude, magnitude),)

    def excess(self) -> Tensor:
        """Σ max(2**t - bound · s, 0): how far norms are beyond what has an effect."""
        return (self.log_norm.exp2() - self.bound.norm * self.log_scale.exp2()).relu().sum()

    def log_excess(self) -> Tensor:
        """Σ max(t - log2(bound · s), 0): the same in the logarithmic domain."""
        return (self.log_norm - math.log2(self.bound.norm) - self.log_scale).relu().sum()

    def _scale(self) -> Tensor:
        return self.log_scale.detach().double().exp2().clamp(min=SMALLEST_SCALE)


class _Levels(NamedTuple):
    """Real-valued integers of tiles [rows, tiles, tile], and what they are made of, in float64."""

    level: Tensor
    v: Tensor
    norm: Tensor  # ‖v‖₁ [rows, tiles]
    slope: Tensor  # level / v [rows, tiles]
    is_free: Tensor  # the bound does not bind [rows, tiles]
    scale: Tensor  # [rows, 1]

    @staticmethod
    def of(rows: Tensor, log_norm: Tensor, log_scale: Tensor, bound: NormBound) -> "_Levels":
        k = rows.shape[1]
        v = _tiled(rows, *bound.shape(k)).double()
        if bound.is_centred:
            v = _centred(v, k)
        scale = log_scale.double().exp2().clamp(min=SMALLEST_SCALE)
        free = log_norm.double().exp2() / scale
        norm = v.abs().sum(2)
        slope = torch.where(norm > 0, free.clamp(max=bound.norm) / norm, 0.0)
        return _Levels(v * slope[..., None], v, norm, slope, free <= bound.norm, scale)


class _Normalised(torch.autograd.Function):
    """Forwards as the definition, in float64; backwards straight through the truncation, and not through clipping.

    With G the gradient, m whether a level is not clipped, n = ‖v‖₁: dv = s·g·(G·m/n - sign(v)·Σ(G·m·v)/n²); where the
    bound binds, dt = 0 and dd = ln2·s·Σ(G·q), else dt = ln2·s·Σ(G·m·y) and dd = ln2·s·Σ(G·(q - m·y)).
    """

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, log_norm: Tensor, log_scale: Tensor, bound: NormBound, full_scale: float, rows: Rows
    ) -> Tensor:
        v = rows.of(weight).float().contiguous()
        scale = log_scale.double().exp2().clamp(min=SMALLEST_SCALE)
        stored = (scale * full_scale).float() / float(np.float32(full_scale))  # as a quantizer stores the range
        ctx.rows, ctx.bound = rows, bound
        found = None
        if kernels.allows("native") and not torch.compiler.is_compiling():
            with suppress(kernels.Unsupported):
                norm = log_norm.double().exp2().contiguous()
                found = native.represent_norms(native.NormedRows(v, norm, scale, stored, bound))
        ctx.is_native = found is not None
        if found is not None:
            ctx.save_for_backward(v, norm, scale, stored)
        else:
            levels = _Levels.of(v, log_norm, log_scale, bound)
            whole = (levels.level * HAIR).trunc_()
            integers = _within(whole.clamp(-bound.largest, bound.largest), bound)
            ctx.save_for_backward(levels.v, levels.level, integers, levels.norm, stored)
            ctx.is_open = whole.abs_() <= bound.largest
            ctx.slope, ctx.is_free, ctx.k = levels.slope, levels.is_free, v.shape[1]
            found = integers.flatten(1)[:, : v.shape[1]].float() * stored
        return rows.back(found, weight).to(weight.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        upstream = ctx.rows.of(gradient).float()
        if ctx.is_native:
            v, norm, scale, stored = ctx.saved_tensors
            weights = native.NormedRows(v, norm, scale, stored, ctx.bound)
            of_v, of_norm, of_scale = native.gradients_of_norms(weights, upstream)
        else:
            of_v, of_norm, of_scale = _gradients(ctx, upstream)
        return ctx.rows.back(of_v, gradient).to(gradient.dtype), of_norm, of_scale, None, None, None


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of the rows, of the logarithms of norms and of those of scales."""
    v, level, integers, norm, stored = ctx.saved_tensors
    tiles, tile = v.shape[1:]
    through = _tiled(gradient, tiles, tile).double()
    total = (through * integers).sum(2)
    through = through * ctx.is_open
    along = torch.where(norm > 0, (through * v).sum(2) / norm, 0.0)
    of_v = ctx.slope[..., None] * (through - v.sign() * along[..., None])
    of_v = torch.where((norm > 0)[..., None], of_v, through) * stored.double()[..., None]
    if ctx.bound.is_centred:
        of_v = _centred(of_v, ctx.k)
    of_norm = torch.where(ctx.is_free, (through * level).sum(2), 0.0)
    unit = math.log(2) * stored.double()
    of_scale = ((total - of_norm) * unit).sum(1, keepdim=True)
    return of_v.flatten(1)[:, : ctx.k].float(), (of_norm * unit).float(), of_scale.float()


def _tiled(rows: Tensor, tiles: int, tile: int) -> Tensor:
    padding = tiles * tile - rows.shape[1]
    return (nn.functional.pad(rows, (0, padding)) if padding else rows).reshape(len(rows), tiles, tile)


def _centred(v: Tensor, k: int) -> Tensor:
    """Each tile without its mean; zeros that pad the last one stay."""
    tiles, tile = v.shape[1:]
    if tiles * tile == k:
        return v - v.mean(2, keepdim=True)
    is_real = (torch.arange(tiles * tile) < k).view(tiles, tile)
    mean = v.sum(2, keepdim=True) / is_real.sum(1)[:, None]
    return torch.where(is_real, v - mean, 0.0)


def _within(whole: Tensor, bound: NormBound) -> Tensor:
    """`shortened`, where there is something to shorten."""
    limit = math.floor(bound.norm / 2) if bound.is_centred else math.floor(bound.norm)
    parts = (whole.clamp(min=0), whole.clamp(max=0)) if bound.is_centred else (whole,)
    if all(bool((part.abs().sum(2) <= limit).all()) for part in parts):
        return whole
    return torch.from_numpy(shortened(whole.numpy(), bound))
