"""Which layers alone read the channels that another one makes, and through what: found by one run of the model.

A channel is followed through functions that are known to be positively homogeneous. Each call is tried on channels
scaled by powers of two, which tells where they are in its output, and that its options and other arguments agree.
"""

import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)
NORMS = (nn.LayerNorm, nn.RMSNorm)
FORWARDS = (nn.Linear.forward, nn.Conv1d.forward, nn.Conv2d.forward, nn.LayerNorm.forward, nn.RMSNorm.forward)
"""A subclass that changes its forward is left alone."""

PRODUCTS = (functional.linear, torch.conv1d, torch.conv2d, functional.conv1d, functional.conv2d)

HOMOGENEOUS = {
    functional.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_,
    functional.leaky_relu, functional.prelu, torch.prelu, Tensor.prelu,
    functional.max_pool1d, functional.max_pool2d, functional.avg_pool1d, functional.avg_pool2d,
    functional.adaptive_avg_pool1d, functional.adaptive_avg_pool2d, functional.adaptive_max_pool2d,
    torch.max_pool1d, torch.max_pool2d, torch.avg_pool1d, torch.adaptive_avg_pool1d,
    functional.dropout, functional.dropout1d, functional.dropout2d, functional.pad, functional.interpolate,
    torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze, torch.transpose, torch.permute, torch.movedim,
    Tensor.flatten, Tensor.reshape, Tensor.view, Tensor.squeeze, Tensor.unsqueeze, Tensor.transpose, Tensor.permute,
    Tensor.movedim, Tensor.contiguous, Tensor.clone, Tensor.float, Tensor.to,
    torch.mean, Tensor.mean, torch.sum, Tensor.sum, torch.amax, Tensor.amax,
    torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__, torch.div, Tensor.div, Tensor.__truediv__,
}  # fmt: skip
"""f(s·x) = s·f(x) for s > 0, channel by channel; the last two rows in one argument, and where the trial agrees."""

TRIAL = (0.25, 0.5, 2.0, 4.0)
"""Factors of a trial: powers of two, so that scaled sums are exact."""


class BoundedReLU(nn.Module):
    """min(max(x, 0), bound) with a bound for each channel."""

    bound: Tensor

    def __init__(self, bound: Tensor) -> None:
        super().__init__()
        self.register_buffer("bound", bound)

    def forward(self, x: Tensor) -> Tensor:
        return torch.minimum(functional.relu(x), self.bound)

    def divide_(self, factor: Tensor) -> None:
        """Lower the bound of each channel so many times."""
        self.bound.div_(factor.view(self.bound.shape))


class Bound(NamedTuple):
    """A ReLU6 between the layers of a link, and what takes its place."""

    old: nn.Module
    new: BoundedReLU


@dataclass(frozen=True)
class Link:
    """A layer or norm, and the layers that alone read its channels; none where it is refused."""

    name: str
    source: nn.Module = field(repr=False)
    readers: tuple[str, ...]
    sinks: tuple[nn.Module, ...] = field(repr=False)
    bounds: tuple[Bound, ...] = field(repr=False)
    refused: str = ""


def find_links(model: nn.Module, run: Callable[[nn.Module], Any]) -> tuple[Link, ...]:
    """The links of a model in eval mode, refused ones with their reason, in the order of execution."""
    names = {id(m): name for name, m in model.named_modules()}
    follower = _Follower(names)
    stack = follower.stack

    def enter(module: nn.Module, args: Any) -> None:
        stack.append(module)
        follower.calls[id(module)] += 1

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        stack.pop()
        if type(module).forward in FORWARDS and isinstance(output, Tensor):
            follower.start(module, output)

    handles = [h for m in model.modules() for h in (m.register_forward_pre_hook(enter), m.register_forward_hook(leave))]
    try:
        with follower:
            results = run(model)
    finally:
        for handle in handles:
            handle.remove()
    for result in tree_leaves(results):
        for track in follower.tracks_of(result):
            follower.refuse(track.source, "its channels are an output of the model")
    owners = Counter(id(p) for m in model.modules() for p in m.parameters(recurse=False))
    return tuple(_link(follower, source, names, owners) for source in follower.sources)


def parameter(module: nn.Module, name: str) -> nn.Parameter:
    """A parameter that a followed module has."""
    found = module._parameters[name]
    assert found is not None, "only modules with a weight of their own are followed"
    return found


class _Track(NamedTuple):
    """Where the channels of a source are in a tensor."""

    source: nn.Module
    axis: int  # counted from the start
    repeats: int  # elements along the axis for each channel


class _Follower(TorchFunctionMode):
    """Follows the channels of every source through the functions that read them."""

    def __init__(self, names: dict[int, str]) -> None:
        super().__init__()
        self.names, self.stack = names, list[nn.Module]()
        self.calls: Counter[int] = Counter()
        self.sources: list[nn.Module] = []
        self.sinks: dict[int, list[nn.Module]] = {}
        self.bounds: dict[int, list[Bound]] = {}
        self.refused: dict[int, str] = {}
        self._tracks: dict[tuple[int, int], tuple[weakref.ref[Tensor], tuple[_Track, ...]]] = {}

    def start(self, source: nn.Module, output: Tensor) -> None:
        """Follow a source's output, which has just been made."""
        weight = source._parameters.get("weight")
        if id(source) in self.sinks or output.is_inference() or weight is None:
            return
        if isinstance(source, NORMS) and weight.dim() > 1:
            return
        axis = output.dim() - max(weight.dim() - 1, 1)
        self.sources.append(source)
        self.sinks[id(source)], self.bounds[id(source)] = [], []
        self._follow(output, (*self.tracks_of(output), _Track(source, axis, 1)))

    def refuse(self, source: nn.Module, reason: str) -> None:
        self.refused.setdefault(id(source), reason)

    def tracks_of(self, value: Any) -> tuple[_Track, ...]:
        """Tracks in a tensor as it is now: what is written in place makes another one of it."""
        if not isinstance(value, Tensor) or value.is_inference():
            return ()
        reference, tracks = self._tracks.get((id(value), value._version), (None, ()))
        return tracks if reference is not None and reference() is value else ()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        read = [(value, track) for value in tree_leaves((args, kwargs)) for track in self.tracks_of(value)]
        arguments = (args, kwargs) if not read else tree_map(_copied, (args, kwargs))  # it may write in place
        result = func(*args, **kwargs)
        if not read or not any(isinstance(value, Tensor) for value in tree_leaves(result)):
            return result
        often = Counter(id(track.source) for _, track in read)
        originals = tree_leaves((args, kwargs))
        found = []
        for value, track in read:
            position = next(i for i, other in enumerate(originals) if other is value)
            if often[id(track.source)] > 1:
                self.refuse(track.source, f"{_name(func)} reads its channels more than once")
            elif (onward := self._through(func, arguments, position, track, result)) is not None:
                found.append(onward)
        if found:
            self._follow(result, tuple(found))
        return result

    def _through(
        self, func: Callable[..., Any], arguments: Any, position: int, track: _Track, result: Any
    ) -> _Track | None:
        """Where the channels are after a call; None where they end in a layer, or the source is refused."""
        x = tree_leaves(arguments)[position]
        reader = self.stack[-1] if self.stack else None
        if func in PRODUCTS and reader is not None and isinstance(reader, LAYERS) and position == 0:
            self._arrive(reader, x, track)
            return None
        if func is functional.hardtanh and type(reader) is nn.ReLU6 and isinstance(result, Tensor):
            bound = torch.full((x.shape[track.axis] // track.repeats,), 6.0, dtype=x.dtype, device=x.device)
            if track.repeats == 1:
                shaped = bound.view(-1, *[1] * (x.dim() - 1 - track.axis))
                self.bounds[id(track.source)].append(Bound(reader, BoundedReLU(shaped)))
                return track
        if func not in HOMOGENEOUS or not isinstance(result, Tensor):
            self.refuse(track.source, f"{_name(func)} reads its channels and does not keep their scale")
            return None
        onward = _tried(func, arguments, position, track, result)
        if onward is None:
            self.refuse(track.source, f"{_name(func)} mixes its channels, or does not keep their scale")
        return onward

    def _arrive(self, layer: nn.Module, x: Tensor, track: _Track) -> None:
        linear, weight = isinstance(layer, nn.Linear), layer._parameters.get("weight")
        if weight is None:
            self.refuse(track.source, f"{self.names[id(layer)]} computes its weight from other parameters")
        elif type(layer).forward not in FORWARDS:
            self.refuse(track.source, f"{self.names[id(layer)]} is a layer of a kind that is not known")
        elif track.axis != x.dim() - (weight.dim() - 1):
            self.refuse(track.source, f"{self.names[id(layer)]} multiplies along another axis than its channels")
        elif track.repeats > 1 and not linear:
            self.refuse(track.source, f"{self.names[id(layer)]} reads its flattened channels")
        else:
            self.sinks[id(track.source)].append(layer)

    def _follow(self, value: Any, tracks: tuple[_Track, ...]) -> None:
        self._tracks[id(value), value._version] = weakref.ref(value), tracks


def _tried(func: Callable[..., Any], arguments: Any, position: int, track: _Track, result: Tensor) -> _Track | None:
    """Where channels are in the result of a call, found by calling again with channels that are larger and smaller."""
    leaves = tree_leaves(arguments)
    x = leaves[position]
    channels = x.shape[track.axis] // track.repeats
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor(TRIAL)[torch.randint(len(TRIAL), (channels,), generator=generator)].to(x)
    scaled = x * scale.repeat_interleave(track.repeats).view(-1, *[1] * (x.dim() - 1 - track.axis))
    args, kwargs = tree_map(lambda leaf: scaled if leaf is x else _copied(leaf), arguments)
    found = func(*args, **kwargs)
    for axis in sorted(range(result.dim()), key=lambda axis: axis != track.axis):
        repeats, rest = divmod(result.shape[axis], channels)
        if rest or not repeats:
            continue
        expected = result * scale.repeat_interleave(repeats).view(-1, *[1] * (result.dim() - 1 - axis))
        if torch.equal(found, expected):
            return track._replace(axis=axis, repeats=repeats)
    return None


def _link(follower: _Follower, source: nn.Module, names: dict[int, str], owners: Counter[int]) -> Link:
    sinks = tuple(follower.sinks[id(source)])
    reason = follower.refused.get(id(source), "")
    for module in (source, *sinks):
        if not reason and follower.calls[id(module)] > 1:
            reason = f"{names[id(module)]} runs {follower.calls[id(module)]} times"
        if not reason and any(owners[id(p)] > 1 for p in module.parameters(recurse=False)):
            reason = f"{names[id(module)]} shares its weight with another layer"
    for bound in follower.bounds[id(source)]:
        if not reason and follower.calls[id(bound.old)] > 1:
            reason = f"{names[id(bound.old)]} runs {follower.calls[id(bound.old)]} times"
    if not reason and not sinks:
        reason = "no layer reads its channels"
    if not reason and len(parameter(source, "weight")) == 1:
        reason = "it has one channel only"
    link = Link(
        names[id(source)], source, tuple(names[id(m)] for m in sinks), sinks, tuple(follower.bounds[id(source)])
    )
    return link if not reason else replace(link, readers=(), sinks=(), bounds=(), refused=reason)


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) and not isinstance(value, nn.Parameter) else value


def _name(func: Callable[..., Any]) -> str:
    return getattr(func, "__name__", str(func))
