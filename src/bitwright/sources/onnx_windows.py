"""ONNX's convolutions, poolings and normalizations over torch; see `onnx_math` for the convention."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from bitwright.sources.onnx_file import require_room
from bitwright.sources.onnx_math import Operator, axis_of

AUTO_PADS = ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER", "")
"""What the attribute may say; the last as the first."""

CONV = (functional.conv1d, functional.conv2d, functional.conv3d)
TRANSPOSED = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)
MAX = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)


def for_axes(functions: Sequence[Any], rank: int, what: str) -> Any:
    """The function for so many spatial axes; ValueError where torch has none."""
    if not 1 <= rank <= len(functions):
        raise ValueError(f"{what} over {rank} axes; 1 to {len(functions)} are computed")
    return functions[rank - 1]


def paddings(sizes: Sequence[int], kernel: Sequence[int], *, strides: Sequence[int] | None = None,
             dilations: Sequence[int] | None = None, pads: Sequence[int] | None = None,
             auto_pad: str = "NOTSET") -> list[tuple[int, int]]:  # fmt: skip
    """Zeros before and after, axis by axis."""
    rank = len(kernel)
    if auto_pad not in AUTO_PADS:
        raise ValueError(f"auto_pad {auto_pad[:40]!r} is none of {', '.join(AUTO_PADS[:-1])}")
    if auto_pad in ("NOTSET", "VALID", ""):
        given = list(pads or [0] * 2 * rank) if auto_pad != "VALID" else [0] * 2 * rank
        if len(given) != 2 * rank:
            raise ValueError(f"{len(given)} pads found for {rank} axes; each has one before and one after")
        return list(zip(given[:rank], given[rank:], strict=True))
    found = []
    for size, k, s, d in zip(sizes, kernel, strides or [1] * rank, dilations or [1] * rank, strict=True):
        _require_steps((s,))
        total = max((-(-size // s) - 1) * s + d * (k - 1) + 1 - size, 0)
        small = total // 2
        found.append((small, total - small) if auto_pad == "SAME_UPPER" else (total - small, small))
    return found


def flat_pads(pads: Sequence[tuple[int, int]]) -> list[int]:
    """As torch wants them, last axis first."""
    return [v for pair in reversed(pads) for v in pair]


def padded(x: Tensor, around: Sequence[tuple[int, int]], value: float = 0.0) -> Tensor:
    """The last axes with so many values before and after; ValueError where no memory holds that."""
    sizes = [n + low + high for n, (low, high) in zip(x.shape[2:], around, strict=True)]
    require_room([*x.shape[:2], *sizes], "padding")
    return functional.pad(x, flat_pads(around), value=value)


def _require_steps(strides: Sequence[int]) -> None:
    if min(strides, default=1) < 1:
        raise ValueError(f"strides {tuple(strides)} found; windows move by 1 or more")


def pad_same(x: Tensor, *, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int],
             auto_pad: str) -> Tensor:  # fmt: skip
    """Zeros so that an output has ceil(size / stride) elements."""
    return padded(x, paddings(x.shape[2:], kernel, strides=strides, dilations=dilations, auto_pad=auto_pad))


def conv(x: Tensor, w: Tensor, b: Tensor | None = None, *, group: int = 1, kernel_shape: Sequence[int] = (),
         strides: Sequence[int] | None = None, dilations: Sequence[int] | None = None,
         pads: Sequence[int] | None = None, auto_pad: str = "NOTSET") -> Tensor:  # fmt: skip
    rank = x.dim() - 2
    kernel = tuple(w.shape[2:])
    around = paddings(x.shape[2:], kernel, strides=strides, dilations=dilations, pads=pads, auto_pad=auto_pad)
    function = for_axes(CONV, rank, "a convolution")
    ones = [1] * rank
    return function(
        padded(x, around), w, b, stride=tuple(strides or ones), dilation=tuple(dilations or ones), groups=group
    )


def conv_transpose(
    x: Tensor, w: Tensor, b: Tensor | None = None, *, group: int = 1, kernel_shape: Sequence[int] = (),
    strides: Sequence[int] | None = None, dilations: Sequence[int] | None = None, pads: Sequence[int] | None = None,
    output_padding: Sequence[int] | None = None, output_shape: Sequence[int] | None = None, auto_pad: str = "NOTSET",
) -> Tensor:  # fmt: skip
    rank = x.dim() - 2
    step, apart = tuple(strides or [1] * rank), tuple(dilations or [1] * rank)
    extra = list(output_padding or [0] * rank)
    sizes = [(n - 1) * s + (k - 1) * d + 1 for n, s, k, d in zip(x.shape[2:], step, w.shape[2:], apart, strict=True)]
    require_room([x.shape[0], w.shape[1] * group, *sizes], "ConvTranspose")
    if output_shape is not None or auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        wanted = list(output_shape or [n * s for n, s in zip(x.shape[2:], step, strict=True)])[-rank:]
        cut = [full + e - n for full, e, n in zip(sizes, extra, wanted, strict=True)]
        around = [(c - c // 2, c // 2) if auto_pad != "SAME_UPPER" else (c // 2, c - c // 2) for c in cut]
    else:
        around = paddings(sizes, w.shape[2:], pads=pads, auto_pad=auto_pad)
    full = for_axes(TRANSPOSED, rank, "a transposed convolution")(x, w, None, stride=step, dilation=apart, groups=group)
    y = padded(full, [(-low, e - high) for (low, high), e in zip(around, extra, strict=True)])
    return y if b is None else y + b.view(-1, *[1] * rank)


def _pooled(x: Tensor, kernel: Sequence[int], options: dict[str, Any]) -> tuple[list[tuple[int, int]], list[int]]:
    """Padding on both sides, with what a rounded-up size reads beyond, and the declared padding after."""
    rank = len(kernel)
    strides, dilations = options.get("strides") or [1] * rank, options.get("dilations") or [1] * rank
    require_room(kernel, "a window")
    _require_steps(strides)
    declared = paddings(x.shape[2:], kernel, strides=strides, dilations=dilations, pads=options.get("pads"),
                        auto_pad=options.get("auto_pad", "NOTSET"))  # fmt: skip
    found = []
    for size, k, s, d, (low, high) in zip(x.shape[2:], kernel, strides, dilations, declared, strict=True):
        room = size + low + high - d * (k - 1) - 1
        count = (-(-room // s) if options.get("ceil_mode") else room // s) + 1
        if options.get("ceil_mode") and (count - 1) * s >= size + low:
            count -= 1  # a window starts inside
        found.append(
            (low, max((count - 1) * s + d * (k - 1) + 1 - size - low, high if not options.get("ceil_mode") else 0))
        )
    return found, [high for _, high in declared]


def max_pool(x: Tensor, *, kernel_shape: Sequence[int], storage_order: int = 0, outputs: int,
             **options: Any) -> Tensor | tuple[Tensor, Tensor]:  # fmt: skip
    rank = len(kernel_shape)
    around, _ = _pooled(x, kernel_shape, options)
    real = x if x.is_floating_point() else x.double()
    wide = padded(real, around, -math.inf)
    ones = (1,) * rank
    y, index = for_axes(MAX, rank, "a pooling")(
        wide, tuple(kernel_shape), tuple(options.get("strides") or ones), 0,
        tuple(options.get("dilations") or ones), return_indices=True,
    ) if outputs > 1 else (for_axes(MAX, rank, "a pooling")(
        wide, tuple(kernel_shape), tuple(options.get("strides") or ones), 0, tuple(options.get("dilations") or ones)
    ), None)  # fmt: skip
    if index is None:
        return y.to(x.dtype)
    return y.to(x.dtype), _flat_index(index, x, wide, [low for low, _ in around], storage_order)


def _flat_index(index: Tensor, x: Tensor, wide: Tensor, before: Sequence[int], storage_order: int) -> Tensor:
    places: list[Tensor] = []
    rest = index
    for size in reversed(wide.shape[2:]):
        places.insert(0, rest % size)
        rest = rest // size
    places = [p - low for p, low in zip(places, before, strict=True)]
    sizes = list(x.shape[2:])
    if storage_order:
        places, sizes = places[::-1], sizes[::-1]
    flat = torch.zeros_like(index)
    for place, size in zip(places, sizes, strict=True):
        flat = flat * size + place
    planes = torch.arange(x.shape[0] * x.shape[1]).view(*x.shape[:2], *[1] * len(sizes))
    return flat + planes * math.prod(sizes)


def _window_sums(x: Tensor, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> Tensor:
    flat = x.reshape(-1, 1, *x.shape[2:])
    ones = torch.ones(1, 1, *kernel, dtype=x.dtype)
    y = for_axes(CONV, len(kernel), "a pooling")(flat, ones, stride=tuple(strides), dilation=tuple(dilations))
    return y.reshape(*x.shape[:2], *y.shape[2:])


def average_pool(x: Tensor, *, kernel_shape: Sequence[int], count_include_pad: int = 0, **options: Any) -> Tensor:
    rank = len(kernel_shape)
    around, after = _pooled(x, kernel_shape, options)
    strides, dilations = options.get("strides") or [1] * rank, options.get("dilations") or [1] * rank
    counted = torch.ones(1, 1, *x.shape[2:], dtype=x.dtype)
    if count_include_pad:
        counted = padded(counted, [(b[0], min(a, b[1])) for b, a in zip(around, after, strict=True)], 1.0)
        rest = [(0, b[1] - min(a, b[1])) for b, a in zip(around, after, strict=True)]
    else:
        rest = around
    counts = _window_sums(padded(counted, rest), kernel_shape, strides, dilations)
    return _window_sums(padded(x, around), kernel_shape, strides, dilations) / counts


def lp_pool(x: Tensor, *, kernel_shape: Sequence[int], p: int = 2, **options: Any) -> Tensor:
    rank = len(kernel_shape)
    around, _ = _pooled(x, kernel_shape, options)
    sums = _window_sums(
        padded(x.abs() ** p, around),
        kernel_shape,
        options.get("strides") or [1] * rank,
        options.get("dilations") or [1] * rank,
    )
    return sums ** (1 / p)


def global_average(x: Tensor) -> Tensor:
    return x.mean(list(range(2, x.dim())), keepdim=True)


def global_max(x: Tensor) -> Tensor:
    return x.amax(list(range(2, x.dim())), keepdim=True)


def global_lp(x: Tensor, *, p: int = 2) -> Tensor:
    return (x.abs() ** p).sum(list(range(2, x.dim())), keepdim=True) ** (1 / p)


def batch_norm(x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor, *, epsilon: float = 1e-5,
               momentum: float = 0.9, training_mode: int = 0, spatial: int = 1) -> Tensor:  # fmt: skip
    if training_mode or not spatial:
        raise ValueError("a batch normalization in training or not over channels")
    return functional.batch_norm(x, mean.to(x), variance.to(x), scale.to(x), shift.to(x), eps=epsilon)


def instance_norm(x: Tensor, scale: Tensor, shift: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    # one group a channel, as torch's own refuses planes of one element
    return torch.group_norm(x, x.shape[1], scale, shift, epsilon)


def layer_norm(x: Tensor, scale: Tensor, shift: Tensor | None = None, *, axis: int = -1, epsilon: float = 1e-5,
               stash_type: int = 1, outputs: int) -> Tensor | tuple[Tensor, ...]:  # fmt: skip
    along = list(range(axis_of(axis, x.dim()), x.dim()))
    y = x.float() if x.dtype.itemsize < 4 else x
    mean = y.mean(along, keepdim=True)
    inverse = torch.rsqrt((y - mean).square().mean(along, keepdim=True) + epsilon)
    z = ((y - mean) * inverse).to(x.dtype) * scale
    z = z if shift is None else z + shift
    return z if outputs == 1 else (z, mean, inverse)


def rms_norm(x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1) -> Tensor:
    along = list(range(axis_of(axis, x.dim()), x.dim()))
    y = x.float() if x.dtype.itemsize < 4 else x
    return (y * torch.rsqrt(y.square().mean(along, keepdim=True) + epsilon)).to(x.dtype) * scale


def group_norm(x: Tensor, scale: Tensor, shift: Tensor, *, num_groups: int, epsilon: float = 1e-5,
               stash_type: int = 1, opset: int) -> Tensor:  # fmt: skip
    if opset < 21:  # one value a group
        scale, shift = (t.repeat_interleave(x.shape[1] // num_groups) for t in (scale, shift))
    return torch.group_norm(x, num_groups, scale, shift, epsilon)


def local_response(x: Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> Tensor:
    require_room([x.numel() // max(x.shape[1], 1), x.shape[1] + size - 1, size], "LRN")
    squares = functional.pad(x.square().movedim(1, -1), ((size - 1) // 2, size - 1 - (size - 1) // 2))
    sums = squares.unfold(-1, size, 1).sum(-1).movedim(-1, 1)
    return x / (bias + alpha / size * sums) ** beta


def lp_norm(x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    norm = torch.linalg.vector_norm(x, p, axis_of(axis, x.dim()), keepdim=True)
    return torch.where(norm == 0, torch.zeros_like(x), x / norm)


def mean_variance_norm(x: Tensor, *, axes: Sequence[int] = (0, 2, 3)) -> Tensor:
    rest = x - x.mean(list(axes), keepdim=True)
    return rest / (rest.square().mean(list(axes), keepdim=True).sqrt() + 1e-9)


def grid_sample(x: Tensor, grid: Tensor, *, mode: str = "linear", padding_mode: str = "zeros",
                align_corners: int = 0) -> Tensor:  # fmt: skip
    names = {"linear": "bilinear", "cubic": "bicubic"}
    return functional.grid_sample(x, grid, names.get(mode, mode), padding_mode, bool(align_corners))


def affine_grid(theta: Tensor, size: Tensor, *, align_corners: int = 0) -> Tensor:
    return functional.affine_grid(theta, list(require_room(size.tolist(), "AffineGrid")), bool(align_corners))


WINDOWS: dict[str, Operator] = {
    "Conv": conv, "ConvTranspose": conv_transpose, "MaxPool": max_pool, "AveragePool": average_pool, "LpPool": lp_pool,
    "GlobalAveragePool": global_average, "GlobalMaxPool": global_max, "GlobalLpPool": global_lp,
    "BatchNormalization": batch_norm, "InstanceNormalization": instance_norm, "LayerNormalization": layer_norm,
    "RMSNormalization": rms_norm, "GroupNormalization": group_norm, "LRN": local_response,
    "LpNormalization": lp_norm, "MeanVarianceNormalization": mean_variance_norm, "GridSample": grid_sample,
    "AffineGrid": affine_grid,
}  # fmt: skip
