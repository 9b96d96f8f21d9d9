"""ONNX's operators that move, select and make elements, over torch; see `onnx_math` for the convention."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from bitwright.sources.onnx_file import KINDS, require_room
from bitwright.sources.onnx_math import Operator, axis_of, ints, plain


def reshape(
    x: Tensor, sizes: Tensor | None = None, *, shape: Sequence[int] | None = None, allowzero: int = 0
) -> Tensor:
    wanted = ints(sizes if sizes is not None else shape or ())
    if not allowzero:
        wanted = [x.shape[i] if s == 0 else s for i, s in enumerate(wanted)]
    return x.reshape(wanted)


def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    first = axis if axis == x.dim() else axis_of(axis, x.dim())
    return x.reshape(math.prod(x.shape[:first]), math.prod(x.shape[first:]))


def squeeze(x: Tensor, dims: Tensor | None = None, *, axes: Sequence[int] | None = None) -> Tensor:
    if dims is None and axes is None:
        return x.squeeze()
    wanted = {axis_of(a, x.dim()) for a in ints(dims if dims is not None else axes or ())}
    if any(x.shape[a] != 1 for a in wanted):
        raise ValueError(f"axes {sorted(wanted)} of {tuple(x.shape)} are not of size 1")
    return x.reshape([s for i, s in enumerate(x.shape) if i not in wanted])


def unsqueeze(x: Tensor, dims: Tensor | None = None, *, axes: Sequence[int] | None = None) -> Tensor:
    given = ints(dims if dims is not None else axes or ())
    rank = x.dim() + len(given)
    wanted = {axis_of(a, rank) for a in given}
    if len(wanted) != len(given):
        raise ValueError(f"axes {given} name one twice")
    rest = iter(x.shape)
    return x.reshape([1 if i in wanted else next(rest) for i in range(rank)])


def transpose(x: Tensor, *, perm: Sequence[int] | None = None) -> Tensor:
    return x.permute(*(perm if perm is not None else range(x.dim() - 1, -1, -1)))


def concat(*x: Tensor, axis: int = 1) -> Tensor:
    return torch.cat(x, axis_of(axis, x[0].dim()))


def split(x: Tensor, sizes: Tensor | None = None, *, axis: int = 0, split: Sequence[int] | None = None,
          num_outputs: int | None = None, outputs: int) -> tuple[Tensor, ...]:  # fmt: skip
    along = axis_of(axis, x.dim())
    parts = ints(sizes if sizes is not None else split or ())
    if not parts:
        if num_outputs not in (None, outputs):
            raise ValueError(f"{num_outputs} parts for {outputs} outputs")
        each = -(-x.shape[along] // outputs)
        parts = [max(min(each, x.shape[along] - each * i), 0) for i in range(outputs)]
    return x.split(parts, along)


def slices(x: Tensor, low: Tensor | None = None, high: Tensor | None = None, dims: Tensor | None = None,
           by: Tensor | None = None, *, starts: Sequence[int] = (), ends: Sequence[int] = (),
           axes: Sequence[int] | None = None) -> Tensor:  # fmt: skip
    first, last = (ints(t if t is not None else given) for t, given in ((low, starts), (high, ends)))
    given = dims if dims is not None else axes
    along = ints(given) if given is not None else list(range(len(first)))
    strides = ints(by) if by is not None else [1] * len(first)
    for axis, start, end, step in zip(along, first, last, strides, strict=True):
        axis = axis_of(axis, x.dim())
        start, end, step = slice(start, end, step).indices(x.shape[axis])
        if step > 0:
            x = x[(slice(None),) * axis + (slice(start, max(end, start), step),)]
        else:
            x = x.index_select(axis, torch.arange(start, end, step, device=x.device))
    return x


def shape(x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    return torch.tensor(list(x.shape)[slice(start, end)], dtype=torch.int64)


def gather(x: Tensor, index: Tensor, *, axis: int = 0) -> Tensor:
    along = axis_of(axis, x.dim())
    places = _places(index, x.shape[along]).reshape(-1)
    return x.index_select(along, places).reshape((*x.shape[:along], *index.shape, *x.shape[along + 1 :]))


def gather_elements(x: Tensor, index: Tensor, *, axis: int = 0) -> Tensor:
    along = axis_of(axis, x.dim())
    return torch.gather(x, along, _places(index, x.shape[along]))


def gather_nd(x: Tensor, index: Tensor, *, batch_dims: int = 0) -> Tensor:
    lead, depth = index.shape[:batch_dims], index.shape[-1]
    batches = [torch.arange(s).view(*[1] * i, -1, *[1] * (index.dim() - 2 - i)) for i, s in enumerate(lead)]
    places = [_places(index[..., i], x.shape[batch_dims + i]) for i in range(depth)]
    return x[(*batches, *places)]


_REDUCED = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def scatter_elements(x: Tensor, index: Tensor, updates: Tensor, *, axis: int = 0, reduction: str = "none") -> Tensor:
    along = axis_of(axis, x.dim())
    places = _places(index, x.shape[along])
    if reduction == "none":
        return x.scatter(along, places, updates)
    return x.scatter_reduce(along, places, updates, _REDUCED[reduction])


def scatter_nd(x: Tensor, index: Tensor, updates: Tensor, *, reduction: str = "none") -> Tensor:
    depth = index.shape[-1]
    inner = x.shape[depth:]
    flat = torch.zeros(index.shape[:-1], dtype=torch.int64)
    for i in range(depth):
        flat = flat * x.shape[i] + _places(index[..., i], x.shape[i])
    rows = x.reshape(math.prod(x.shape[:depth]), math.prod(inner))
    places = flat.reshape(-1, 1).expand(-1, rows.shape[1])
    y = scatter_elements(rows, places, updates.reshape(-1, rows.shape[1]), reduction=reduction)
    return y.reshape(x.shape)


def expand(x: Tensor, sizes: Tensor) -> Tensor:
    wanted = torch.broadcast_shapes(x.shape, tuple(ints(sizes)))
    return x.expand(require_room(wanted, "Expand"))


def tile(x: Tensor, repeats: Tensor) -> Tensor:
    counts = ints(repeats)
    require_room([s * c for s, c in zip(x.shape, counts, strict=True)], "Tile")
    return x.repeat(counts)


def pad(x: Tensor, widths: Tensor | None = None, filler: Tensor | None = None, axes: Tensor | None = None, /, *,
        mode: str = "constant", pads: Sequence[int] | None = None, value: float = 0.0) -> Tensor:  # fmt: skip
    both = ints(widths if widths is not None else pads or ())
    along = [axis_of(a, x.dim()) for a in ints(axes)] if axes is not None else list(range(x.dim()))
    fill = torch.tensor(value).to(x) if filler is None else filler.flatten()[0]
    for i, axis in enumerate(along):
        before, after = both[i], both[i + len(along)]
        require_room((*x.shape[:axis], max(x.shape[axis] + before + after, 0), *x.shape[axis + 1 :]), "Pad")
        x = _padded(x, axis, before, after, mode, fill)
    return x


def _padded(x: Tensor, axis: int, before: int, after: int, mode: str, fill: Tensor) -> Tensor:
    size = x.shape[axis]
    if before < 0 or after < 0:
        start = max(-before, 0)
        x = x.narrow(axis, start, size - start - max(-after, 0))
        size, before, after = x.shape[axis], max(before, 0), max(after, 0)
    if not before and not after:
        return x
    if mode == "constant":
        around = (fill.expand(*x.shape[:axis], count, *x.shape[axis + 1 :]) for count in (before, after))
        return torch.cat([next(around), x, next(around)], axis)
    place = torch.arange(-before, size + after)
    if mode == "edge":
        place = place.clamp(0, size - 1)
    elif mode == "wrap":
        place = place % size
    elif mode == "reflect":
        period = max(2 * (size - 1), 1)
        place = place % period
        place = torch.where(place < size, place, period - place)
    else:
        raise ValueError(f"padding of mode {mode!r}")
    return x.index_select(axis, place)


def filled(sizes: Tensor, *, value: Tensor | None = None) -> Tensor:
    value = torch.zeros(1) if value is None else value
    return value.reshape(()).expand(require_room(ints(sizes), "ConstantOfShape")).clone()


def numbers(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    first, last, step = (t.item() for t in (start, limit, delta))
    if not step or not all(math.isfinite(v) for v in (first, last, step)):
        raise ValueError(f"a range from {first} to {last} in steps of {step}")
    count = max(math.ceil((last - first) / step), 0)
    require_room((count,), "Range")
    return (first + step * torch.arange(count, dtype=torch.float64 if start.is_floating_point() else None)).to(
        start.dtype
    )


def eye_like(x: Tensor, *, dtype: int | None = None, k: int = 0) -> Tensor:
    rows, columns = x.shape
    one = torch.arange(columns) - torch.arange(rows)[:, None] == k
    return one.to(x.dtype if dtype is None else KINDS[dtype])


def top(x: Tensor, count: Tensor | None = None, *, axis: int = -1, largest: int = 1, sorted: int = 1,
        k: int | None = None) -> tuple[Tensor, Tensor]:  # fmt: skip
    along = axis_of(axis, x.dim())
    wanted = int(count) if count is not None else int(k or 0)
    wide = x.to(torch.int64) if x.dtype in (torch.uint16, torch.uint32, torch.uint64) else x
    # stable, so that the lower index comes first among equals
    order = torch.sort(wide, dim=along, descending=bool(largest), stable=True).indices.narrow(along, 0, wanted)
    return torch.gather(wide, along, order).to(x.dtype), order


def nonzero(x: Tensor) -> Tensor:
    return torch.nonzero(x if x.dim() else x.reshape(1)).t()


def unique(x: Tensor, *, axis: int | None = None, sorted: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows = x.reshape(-1) if axis is None else x
    along = 0 if axis is None else axis_of(axis, x.dim())
    values, inverse, counts = torch.unique(rows, sorted=True, return_inverse=True, return_counts=True, dim=along)
    first = torch.full((len(counts),), len(inverse)).scatter_reduce(0, inverse, torch.arange(len(inverse)), "amin")
    if not sorted:
        order = first.argsort()
        values, counts, first = values.index_select(along, order), counts[order], first[order]
        inverse = order.argsort()[inverse]
    return values, first, inverse, counts


def triangle(x: Tensor, k: Tensor | None = None, *, upper: int = 1) -> Tensor:
    diagonal = 0 if k is None else max(min(int(k), 1 << 40), -(1 << 40))
    rows, columns = x.shape[-2:]
    distance = torch.arange(columns) - torch.arange(rows)[:, None]
    return torch.where(distance >= diagonal if upper else distance <= diagonal, x, torch.zeros_like(x))


def compress(x: Tensor, condition: Tensor, *, axis: int | None = None) -> Tensor:
    rows = x.reshape(-1) if axis is None else x
    along = 0 if axis is None else axis_of(axis, x.dim())
    return rows.index_select(along, torch.nonzero(condition.bool())[:, 0])


def depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    n, c, h, w = x.shape
    if mode == "CRD":
        return functional.pixel_shuffle(x, blocksize)
    y = x.reshape(n, blocksize, blocksize, c // blocksize**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return y.reshape(n, c // blocksize**2, h * blocksize, w * blocksize)


def space_to_depth(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    n, c, h, w = x.shape
    if mode == "CRD":
        return functional.pixel_unshuffle(x, blocksize)
    y = x.reshape(n, c, h // blocksize, blocksize, w // blocksize, blocksize).permute(0, 3, 5, 1, 2, 4)
    return y.reshape(n, c * blocksize**2, h // blocksize, w // blocksize)


def reverse_sequence(x: Tensor, lengths: Tensor, *, batch_axis: int = 1, time_axis: int = 0) -> Tensor:
    y = x.movedim((batch_axis, time_axis), (0, 1))
    time = torch.arange(y.shape[1])
    place = torch.where(time < lengths[:, None], lengths[:, None] - 1 - time, time)
    return y[torch.arange(len(y))[:, None], place].movedim((0, 1), (batch_axis, time_axis))


def dropout(x: Tensor, rate: Tensor | None = None, training: Tensor | None = None, *, seed: int | None = None,
            ratio: float = 0.5, is_test: int = 1, outputs: int) -> Tensor | tuple[Tensor, Tensor]:  # fmt: skip
    """In inference it changes nothing."""
    dropped = ratio if rate is None else float(rate)
    if training is not None and bool(training) and dropped:
        raise ValueError("dropout in training, which is random")
    return x if outputs == 1 else (x, torch.ones_like(x, dtype=torch.bool))


def constant(**values: Any) -> Tensor:
    ((name, value),) = values.items()
    if name == "value":
        return value
    if name in ("value_float", "value_floats"):
        return torch.tensor(value, dtype=torch.float32)
    if name in ("value_int", "value_ints"):
        return torch.tensor(value, dtype=torch.int64)
    raise ValueError(f"a constant given by {name}")


def _places(index: Tensor, size: int) -> Tensor:
    """Indices from the front; one that is not there raises ValueError."""
    if index.numel() and (int(index.min()) < -size or int(index.max()) >= size):
        raise ValueError(f"index {int(index.min())} or {int(index.max())} of {size} elements")
    return torch.where(index < 0, index + size, index).long()


def cut_sequence(x: Tensor, sizes: Tensor | None = None, *, axis: int = 0, keepdims: int = 1) -> list[Tensor]:
    along = axis_of(axis, x.dim())
    if sizes is None:
        return [part if keepdims else part.squeeze(along) for part in x.split(1, along)]
    return list(x.split(ints(sizes) if sizes.dim() else int(sizes), along))


def join_sequence(parts: list[Tensor], *, axis: int, new_axis: int = 0) -> Tensor:
    return torch.stack(parts, axis) if new_axis else torch.cat(parts, axis)


def put_sequence(parts: list[Tensor], x: Tensor, at: Tensor | None = None) -> list[Tensor]:
    place = len(parts) if at is None else int(at)
    return [*parts[:place], x, *parts[place:]]


def drop_sequence(parts: list[Tensor], at: Tensor | None = None) -> list[Tensor]:
    place = range(len(parts))[-1 if at is None else int(at)]
    return parts[:place] + parts[place + 1 :]


SHAPES: dict[str, Operator] = {
    "Identity": lambda x: x, "Constant": constant, "Reshape": reshape, "Flatten": flatten, "Squeeze": squeeze,
    "Unsqueeze": unsqueeze, "Transpose": transpose, "Concat": concat, "Split": split, "Slice": slices, "Shape": shape,
    "Size": lambda x: torch.tensor(x.numel()), "Gather": gather, "GatherElements": gather_elements,
    "GatherND": gather_nd, "ScatterElements": scatter_elements, "Scatter": scatter_elements, "ScatterND": scatter_nd,
    "Expand": expand, "Tile": tile, "Pad": pad, "ConstantOfShape": filled, "Range": numbers, "EyeLike": eye_like,
    "TopK": top, "NonZero": plain(nonzero), "Unique": unique, "Trilu": triangle, "Compress": compress,
    "DepthToSpace": depth_to_space, "SpaceToDepth": space_to_depth, "ReverseSequence": reverse_sequence,
    "Dropout": dropout, "SplitToSequence": cut_sequence, "ConcatFromSequence": join_sequence,
    "SequenceConstruct": lambda *x: list(x), "SequenceAt": lambda parts, at: parts[int(at)],
    "SequenceEmpty": lambda *, dtype=1: [], "SequenceLength": lambda parts: torch.tensor(len(parts)),
    "Optional": lambda x=None, **_: x, "OptionalGetElement": lambda x: x,
    "OptionalHasElement": lambda x=None: torch.tensor(x is not None),
    "SequenceInsert": put_sequence, "SequenceErase": drop_sequence,
}  # fmt: skip
