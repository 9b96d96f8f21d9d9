"""ONNX's Resize over torch: each axis is a product with a matrix of weights, made from the operator's definition."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bitwright.sources.onnx_file import require_room
from bitwright.sources.onnx_math import Operator, axis_of, ints

Region = tuple[float, float]


def resize(
    x: Tensor, roi: Tensor | None = None, scales: Tensor | None = None, sizes: Tensor | None = None, *,
    axes: Sequence[int] | None = None, mode: str = "nearest", coordinate_transformation_mode: str = "half_pixel",
    nearest_mode: str = "round_prefer_floor", cubic_coeff_a: float = -0.75, exclude_outside: int = 0,
    extrapolation_value: float = 0.0, antialias: int = 0, keep_aspect_ratio_policy: str = "stretch", opset: int,
) -> Tensor:  # fmt: skip
    if opset < 11:  # the second input was the scales, and positions were not centred
        roi, scales, coordinate_transformation_mode, nearest_mode = None, roi, "asymmetric", "floor"
    along = [axis_of(a, x.dim()) for a in axes] if axes is not None else list(range(x.dim()))
    factors, wanted = _extents([x.shape[a] for a in along], scales, sizes, keep_aspect_ratio_policy)
    require_room([*(s for i, s in enumerate(x.shape) if i not in along), *wanted], "Resize")
    regions = roi.flatten().tolist() if roi is not None and roi.numel() else [0.0] * len(along) + [1.0] * len(along)
    outside = torch.zeros(())
    y = x if x.is_floating_point() or mode == "nearest" else x.float()
    for i, axis in enumerate(along):
        if factors[i] == 1 and wanted[i] == x.shape[axis] and coordinate_transformation_mode != "tf_crop_and_resize":
            continue
        size = x.shape[axis]
        places = _places(
            coordinate_transformation_mode, size, wanted[i], factors[i], (regions[i], regions[i + len(along)])
        )
        if mode == "nearest":
            y = y.index_select(axis, _nearest(places, nearest_mode).clamp(0, size - 1).long())
        else:
            narrow = min(factors[i], 1.0) if antialias else 1.0
            matrix = _weights(places, size, mode, cubic_coeff_a, bool(exclude_outside), narrow)
            y = (y.movedim(axis, -1).double() @ matrix.t()).movedim(-1, axis)
        if coordinate_transformation_mode == "tf_crop_and_resize":
            is_out = ((places < 0) | (places > size - 1)).view(-1, *[1] * (x.dim() - 1 - axis))
            outside = outside + is_out
    y = torch.where(outside > 0, torch.tensor(extrapolation_value, dtype=y.dtype), y) if outside.dim() else y
    return y.to(x.dtype)


def upsample(x: Tensor, factors: Tensor | None = None, *, scales: Sequence[float] | None = None,
             mode: str = "nearest") -> Tensor:  # fmt: skip
    by = torch.tensor(list(scales or ())) if factors is None else factors
    return resize(x, by, mode=mode, opset=10)


def _extents(
    sizes: list[int], scales: Tensor | None, wanted: Tensor | None, policy: str
) -> tuple[list[float], list[int]]:
    if wanted is None or not wanted.numel():
        factors = [float(s) for s in scales.flatten().tolist()] if scales is not None else []
        if len(factors) != len(sizes) or not all(0 < f < 1e6 for f in factors):
            raise ValueError(f"scales {factors[:8]} for {len(sizes)} axes")
        return factors, [math.floor(s * f) for s, f in zip(sizes, factors, strict=True)]
    ends = ints(wanted)
    if policy == "stretch":
        return [e / max(s, 1) for s, e in zip(sizes, ends, strict=True)], ends
    choose = min if policy == "not_larger" else max
    factor = choose(e / max(s, 1) for s, e in zip(sizes, ends, strict=True))
    return [factor] * len(sizes), [math.floor(factor * s + 0.5) for s in sizes]


def _places(mode: str, size: int, count: int, factor: float, region: Region) -> Tensor:
    """Where each output reads the input."""
    at = torch.arange(count, dtype=torch.float64)
    match mode:
        case "asymmetric":
            return at / factor
        case "half_pixel":
            return (at + 0.5) / factor - 0.5
        case "pytorch_half_pixel":
            return (at + 0.5) / factor - 0.5 if count > 1 else torch.zeros(1, dtype=torch.float64)
        case "half_pixel_symmetric":
            return size / 2 * (1 - count / (factor * size)) + (at + 0.5) / factor - 0.5
        case "align_corners":
            # by the length before it is rounded down, as onnx.reference has it
            return at * (size - 1) / (factor * size - 1) if count > 1 else torch.zeros(count, dtype=torch.float64)
        case "tf_crop_and_resize":
            low, high = region
            if count > 1:
                return low * (size - 1) + at * (high - low) * (size - 1) / (count - 1)
            return torch.full((count,), 0.5 * (low + high) * (size - 1), dtype=torch.float64)
    raise ValueError(f"positions of mode {mode!r}")


def _nearest(places: Tensor, mode: str) -> Tensor:
    match mode:
        case "round_prefer_floor":
            return torch.ceil(places - 0.5)
        case "round_prefer_ceil":
            return torch.floor(places + 0.5)
        case "floor":
            return torch.floor(places)
        case "ceil":
            return torch.ceil(places)
    raise ValueError(f"rounding of mode {mode!r}")


def _weights(places: Tensor, size: int, mode: str, a: float, is_inside: bool, narrow: float) -> Tensor:
    """[outputs, size]: taps beyond the ends count for the ends, or for nothing where only those inside count."""
    if mode not in ("linear", "cubic"):
        raise ValueError(f"interpolation of mode {mode!r}")
    support = 1 if mode == "linear" else 2
    first = math.floor(-support / narrow) + 1
    taps = torch.arange(first, 2 - first)
    base = torch.floor(places)
    distance = (taps - (places - base)[:, None]) * narrow
    weight = _triangle(distance) if mode == "linear" else _cubic(distance, a)
    index = base.long()[:, None] + taps
    if is_inside:
        weight = torch.where((index >= 0) & (index < size), weight, torch.zeros_like(weight))
    if is_inside or narrow < 1:
        weight = weight / weight.sum(1, keepdim=True)
    require_room((len(places), size), "Resize")
    return torch.zeros(len(places), size, dtype=torch.float64).scatter_add(1, index.clamp(0, size - 1), weight)


def _triangle(distance: Tensor) -> Tensor:
    return (1 - distance.abs()).clamp(min=0)


def _cubic(distance: Tensor, a: float) -> Tensor:
    """R. Keys, "Cubic convolution interpolation for digital image processing", IEEE TASSP 1981, eq. 15."""
    d = distance.abs()
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * (d**3 - 5 * d**2 + 8 * d - 4)
    return torch.where(d <= 1, near, torch.where(d < 2, far, torch.zeros_like(d)))


RESIZE: dict[str, Operator] = {"Resize": resize, "Upsample": upsample}
