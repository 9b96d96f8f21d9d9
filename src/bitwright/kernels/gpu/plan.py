"""What kernels that quantize in one pass are given: everything but where the results go."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bitwright.kernels.quantize import coarse_scales, divided, spans_of, tops, zero_points
from bitwright.kernels.rounding import Unsupported
from bitwright.quantization import Quantizer, Range, ScaleValue, Zero


@dataclass(frozen=True)
class Plan:
    """Scales of tensors and rows are found; those of blocks, one level at most, are found on the way."""

    x: Tensor  # float32 [rows, k], contiguous
    quantizer: Quantizer
    block: int  # elements of a scale along K, or 0
    coarse: Tensor  # float32 [rows or 1, 1]: product of the scales that do not vary along K, which divides
    outside: Tensor  # float64, same shape: what multiplies
    zero: Tensor | None  # float32, same shape: the level of real zero
    coarse_levels: int  # scales behind `outside`: of one, float32 holds it


def plan(quantizer: Quantizer, x: Tensor, ranges: tuple[Range | None, ...]) -> Plan:
    """Raises `Unsupported` for scales that one pass does not find."""
    rows, k = x.shape
    if len(quantizer.candidates()) > 1:
        raise Unsupported("several full scales")
    x = x.contiguous()
    scales = quantizer.scales
    finest = scales[-1]
    block = quantizer.block(rows, k) if finest.share.splits_k else 0
    outer = scales[:-1] if block else scales
    if any(s.share.splits_k for s in outer) or any(1 < s.share.cell(rows, k)[0] < rows for s in scales):
        raise Unsupported("scales of tiles")
    if block and (finest.share.cell(rows, k)[0] > 1 or (len(ranges) == len(scales) and ranges[-1] is not None)):
        raise Unsupported("scales of columns, or of fixed blocks")
    given = [*ranges, *[None] * (len(outer) - len(ranges))][: len(outer)]
    spans = spans_of(quantizer, x.shape, x, outer, given)
    full_scale = quantizer.candidates()[0]
    values, product = coarse_scales(scales, spans, tops(quantizer, full_scale))
    is_ideal = quantizer.divide_by is ScaleValue.IDEAL
    divisor = (divided(spans[-1], full_scale) if is_ideal and not block else product).to(x.device)
    outside = torch.ones(1, 1, dtype=torch.float64, device=x.device)
    for value in values:
        outside = value.double() * outside
    shared = max(len(divisor), len(outside))
    zero = None
    if quantizer.zero is Zero.FITTED:
        assert given[0] is not None, "dynamic zero points are refused before"
        zero = zero_points(quantizer, given[0], product).expand(shared, 1).contiguous()
    return Plan(
        x, quantizer, block, divisor.expand(shared, 1).contiguous(), outside.expand(shared, 1).contiguous(), zero,
        len(values),
    )  # fmt: skip
