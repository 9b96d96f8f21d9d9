"""Unroll recurrent layers in time, so that their products are ordinary linear layers.

torch's LSTM, GRU and RNN are one call each and keep their products to themselves. Unrolled, each layer and direction
has an input product W_ih x, of all time steps at once, and a recurrent product W_hh h, step by step; the gates between
them are torch's equations. The network computes the same function.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

from bitwright.model.inspect import unsupported_reason
from bitwright.model.transform.replaced import replaced

State = tuple[Tensor, ...]
"""(h,) or, of an LSTM, (h, c)."""

Step = Callable[[Tensor, Tensor, State], State]
"""The next state from the input product, the recurrent product and the last state."""


def unroll_recurrent(model: nn.Module) -> nn.Module:
    """A copy with `UnrolledLayer` and `UnrolledCell` for torch's modules. What `inspect` calls unsupported stays."""
    model = copy.deepcopy(model)
    replacements: dict[int, nn.Module] = {}
    for module in model.modules():
        if isinstance(module, nn.RNNBase) and unsupported_reason(module) is None:
            replacements[id(module)] = UnrolledLayer(module)
        elif isinstance(module, nn.RNNCellBase) and unsupported_reason(module) is None:
            replacements[id(module)] = UnrolledCell(module)
    return replaced(model, replacements)


class UnrolledLayer(nn.Module):
    """An nn.LSTM, nn.GRU or nn.RNN whose products are children, called as the module that it is made of.

    torch's `weight_ih_l0` and `bias_ih_l0` are `ih_l0.weight` and `ih_l0.bias` here; so for `hh`, for `hr` (the
    projection of an LSTM) and for every layer and direction. Fields such as `hidden_size` keep their names. Arguments
    of wrong shapes raise ValueError.
    """

    input_size: int
    hidden_size: int
    num_layers: int
    batch_first: bool
    dropout: float
    bidirectional: bool

    def __init__(self, module: nn.RNNBase) -> None:
        super().__init__()
        self._step, self._kind = _step(module), type(module).__name__
        last = module.proj_size or module.hidden_size
        self._state_sizes = (last, module.hidden_size) if isinstance(module, nn.LSTM) else (last,)
        _take_over(self, module)

    def flatten_parameters(self) -> None:
        """Nothing: there is no joint buffer of weights. Callers of torch's modules ask for it."""

    def forward(
        self, input: Tensor | PackedSequence, hx: Tensor | State | None = None
    ) -> tuple[Tensor | PackedSequence, Tensor | State]:
        state = None if hx is None else _as_tuple(hx)
        if isinstance(input, PackedSequence):
            data, sizes, order, back = input
            start = self._start(data, state, int(sizes[0]))
            x, state = self._layers(data, _ordered(start, order), Packed(tuple(sizes.tolist())))
            return PackedSequence(x, sizes, order, back), _as_given(_ordered(state, back))
        if input.dim() not in (2, 3):
            raise ValueError(f"{self._kind}: the input has {input.dim()} axes; give 2, of one sample, or 3, of several")
        if input.dim() == 2:
            one = None if state is None else tuple(s.unsqueeze(1) for s in state)
            x, state = self._layers(input[None], self._start(input[None], one, 1), Padded())
            return x.squeeze(0), _as_given(tuple(s.squeeze(1) for s in state))
        samples_first = input if self.batch_first else input.transpose(0, 1)
        start = self._start(samples_first, state, len(samples_first))
        x, state = self._layers(samples_first, start, Padded())
        return x if self.batch_first else x.transpose(0, 1).contiguous(), _as_given(state)

    def _start(self, x: Tensor, state: State | None, samples: int) -> State:
        if x.shape[-1] != self.input_size or 0 in x.shape[1:]:
            raise ValueError(
                f"{self._kind}: the input, samples first, has shape {tuple(x.shape)}; give at least one time step of "
                f"{self.input_size} features"
            )
        count = self.num_layers * (2 if self.bidirectional else 1)
        return _checked(state, [(count, samples, size) for size in self._state_sizes], x, self._kind)

    def _layers(self, x: Tensor, first: State, layout: "Layout") -> tuple[Tensor, State]:
        """The output and the last state, each part [layers · directions, samples, size]."""
        directions = ("", "_reverse") if self.bidirectional else ("",)
        last: list[State] = []
        for layer in range(self.num_layers):
            inner = functional.dropout(x, self.dropout, self.training) if layer else x
            outputs = []
            for direction in directions:
                start = tuple(s[len(last)] for s in first)  # its first axis goes through layers and directions
                y, end = self._direction(inner, start, layout, f"l{layer}{direction}")
                outputs.append(y)
                last.append(end)
            x = torch.cat(outputs, -1)
        return x, tuple(torch.stack(parts) for parts in zip(*last, strict=True))

    def _direction(self, x: Tensor, state: State, layout: "Layout", name: str) -> tuple[Tensor, State]:
        recurrent, projection = self.get_submodule(f"hh_{name}"), self._modules.get(f"hr_{name}")
        order = -1 if name.endswith("_reverse") else 1
        outputs = []
        for product in layout.steps(self.get_submodule(f"ih_{name}")(x))[::order]:
            running = tuple(s[: len(product)] for s in state)
            new = self._step(product, recurrent(running[0]), running)
            if projection is not None:
                new = (projection(new[0]), *new[1:])
            outputs.append(new[0])
            state = tuple(_over(n, s) for n, s in zip(new, state, strict=True))
        return layout.join(outputs[::order]), state


class UnrolledCell(nn.Module):
    """An nn.LSTMCell, nn.GRUCell or nn.RNNCell whose products are children: torch's `weight_ih` is `ih.weight` here."""

    input_size: int
    hidden_size: int

    def __init__(self, module: nn.RNNCellBase) -> None:
        super().__init__()
        self._step, self._kind = _step(module), type(module).__name__
        self._state_sizes = (module.hidden_size,) * (2 if isinstance(module, nn.LSTMCell) else 1)
        _take_over(self, module)

    def forward(self, input: Tensor, hx: Tensor | State | None = None) -> Tensor | State:
        if input.dim() not in (1, 2) or input.shape[-1] != self.input_size:
            raise ValueError(
                f"{self._kind}: the input has shape {tuple(input.shape)}; give [features] or [samples, features] with "
                f"{self.input_size} features"
            )
        shapes = [(*input.shape[:-1], size) for size in self._state_sizes]
        state = _checked(None if hx is None else _as_tuple(hx), shapes, input, self._kind)
        x, running = (input, state) if input.dim() == 2 else (input[None], tuple(s[None] for s in state))
        new = self._step(self.get_submodule("ih")(x), self.get_submodule("hh")(running[0]), running)
        return _as_given(new if input.dim() == 2 else tuple(s.squeeze(0) for s in new))


class Layout(ABC):
    """How time steps lie in a tensor whose last axis is features."""

    @abstractmethod
    def steps(self, x: Tensor) -> Sequence[Tensor]:
        """[samples, features] of each time step; only the first samples where the others have ended."""

    @abstractmethod
    def join(self, steps: list[Tensor]) -> Tensor:
        """What `steps` took apart."""


@dataclass(frozen=True)
class Padded(Layout):
    """[samples, time, features]."""

    def steps(self, x: Tensor) -> Sequence[Tensor]:
        return x.unbind(1)

    def join(self, steps: list[Tensor]) -> Tensor:
        return torch.stack(steps, 1)


@dataclass(frozen=True)
class Packed(Layout):
    """Time steps one after the other, each of as many samples as are that long: never more than the step before."""

    sizes: tuple[int, ...]

    def steps(self, x: Tensor) -> Sequence[Tensor]:
        return x.split(list(self.sizes))

    def join(self, steps: list[Tensor]) -> Tensor:
        return torch.cat(steps)


def _lstm(x: Tensor, h: Tensor, state: State) -> State:
    i, f, g, o = (x + h).chunk(4, -1)
    cell = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell


def _gru(x: Tensor, h: Tensor, state: State) -> State:
    (xr, xz, xn), (hr, hz, hn) = x.chunk(3, -1), h.chunk(3, -1)
    new = (xn + (xr + hr).sigmoid() * hn).tanh()
    return (new + (xz + hz).sigmoid() * (state[0] - new),)


def _tanh(x: Tensor, h: Tensor, state: State) -> State:
    return ((x + h).tanh(),)


def _relu(x: Tensor, h: Tensor, state: State) -> State:
    return ((x + h).relu(),)


def _step(module: nn.Module) -> Step:
    if isinstance(module, nn.LSTM | nn.LSTMCell):
        return _lstm
    if isinstance(module, nn.GRU | nn.GRUCell):
        return _gru
    return _relu if module.nonlinearity == "relu" else _tanh


def _products(module: nn.Module) -> list[str]:
    """The module's products as torch names their weights, less `weight_`."""
    if not isinstance(module, nn.RNNBase):
        return ["ih", "hh"]
    parts = ("ih", "hh", "hr") if module.proj_size else ("ih", "hh")
    ends = ("", "_reverse") if module.bidirectional else ("",)
    return [f"{p}_l{layer}{end}" for layer in range(module.num_layers) for end in ends for p in parts]


def _take_over(unrolled: nn.Module, module: nn.Module) -> None:
    """Give the unrolled module the fields of the other, its parameters as linear layers, and its mode."""
    for field, value in vars(module).items():
        if not field.startswith("_"):
            setattr(unrolled, field, value)
    for name in _products(module):
        weight, bias = getattr(module, f"weight_{name}"), getattr(module, f"bias_{name}", None)
        linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
        linear.weight = weight
        linear.register_parameter("bias", bias)
        unrolled.add_module(name, linear)
    unrolled.train(module.training)


def _checked(state: State | None, shapes: Sequence[tuple[int, ...]], x: Tensor, kind: str) -> State:
    """The initial state, zeros where there is none. ValueError where its shapes are others."""
    if state is None:
        return tuple(x.new_zeros(shape) for shape in shapes)
    found = [tuple(s.shape) for s in state]
    if found != list(shapes):
        raise ValueError(
            f"{kind}: the initial state has shapes {', '.join(map(str, found))}; this input needs "
            f"{', '.join(map(str, shapes))}"
        )
    return state


def _as_tuple(hx: Any) -> State:
    return (hx,) if isinstance(hx, Tensor) else tuple(hx)


def _as_given(state: State) -> Tensor | State:
    """As torch passes states: a tensor, or the pair of an LSTM."""
    return state[0] if len(state) == 1 else state


def _ordered(state: State, order: Tensor | None) -> State:
    return state if order is None else tuple(s.index_select(1, order) for s in state)


def _over(new: Tensor, old: Tensor) -> Tensor:
    """The new state of the first samples; those that have ended, or have not begun, keep the old one."""
    return new if len(new) == len(old) else torch.cat([new, old[len(new) :]])
