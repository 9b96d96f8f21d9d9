"""ONNX's RNN, GRU and LSTM: torch's layers where they say the same, a loop over time where they do not."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bitwright.sources.onnx_math import Operator, hard_sigmoid

Activation = Callable[[Tensor], Tensor]

ACTIVATIONS: dict[str, Activation] = {
    "sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu, "softsign": nn.functional.softsign,
    "softplus": nn.functional.softplus, "hardsigmoid": hard_sigmoid,
}  # fmt: skip

GATES = {"RNN": (0,), "GRU": (1, 0, 2), "LSTM": (0, 2, 3, 1)}
"""Where torch's gates stand among ONNX's: r z n of z r h, i f g o of i o f c."""

DEFAULTS = {"RNN": ("tanh",), "GRU": ("sigmoid", "tanh"), "LSTM": ("sigmoid", "tanh", "tanh")}

DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}


def recurrent(op: str) -> Operator:
    """Outputs: all hidden states [time, directions, batch, hidden], the last ones, and an LSTM's last cells."""

    def compute(
        x: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, lengths: Tensor | None = None,
        hidden: Tensor | None = None, cell: Tensor | None = None, peepholes: Tensor | None = None, *,
        hidden_size: int = 0, direction: str = "forward", layout: int = 0, linear_before_reset: int = 0,
        activations: Sequence[str] | None = None, input_forget: int = 0, clip: float = 0.0, outputs: int,
    ) -> Any:  # fmt: skip
        if input_forget or clip:
            raise ValueError("coupled gates and clipping")
        count, size = DIRECTIONS[direction], r.shape[-1]
        names = [n.lower() for n in activations or DEFAULTS[op] * count]
        if layout:
            x = x.transpose(0, 1)
            hidden, cell = (None if t is None else t.transpose(0, 1) for t in (hidden, cell))
        shape = (count, x.shape[1], size)
        state = [torch.zeros(shape, dtype=x.dtype) if t is None else t for t in (hidden, cell)]
        bias = torch.zeros(count, 2 * w.shape[1], dtype=x.dtype) if b is None else b
        per = len(DEFAULTS[op])
        made = []
        for d in range(count):
            own = [ACTIVATIONS[n] for n in names[d * per : (d + 1) * per]]
            weights = w[d].t(), r[d].t(), bias[d, : w.shape[1]], bias[d, w.shape[1] :]
            step = _STEPS[op](weights, own, linear_before_reset, None if peepholes is None else peepholes[d])
            made.append(_run(x, step, state[0][d], state[1][d], lengths, direction == "reverse" or d == 1))
        y = torch.stack([m[0] for m in made], 1)
        last, cells = (torch.stack([m[i] for m in made]) for i in (1, 2))
        if layout:
            y, last, cells = y.permute(2, 0, 1, 3), last.transpose(0, 1), cells.transpose(0, 1)
        return (y, last, cells)[:outputs] if outputs > 1 else y

    return compute


def _run(
    x: Tensor, step: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]], hidden: Tensor, cell: Tensor,
    lengths: Tensor | None, is_reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    rows: list[Tensor] = [torch.zeros(0)] * len(x)
    for t in reversed(range(len(x))) if is_reverse else range(len(x)):
        h, c = step(x[t], hidden, cell)
        if lengths is None:
            hidden, cell, rows[t] = h, c, h
        else:
            runs = (t < lengths)[:, None]
            hidden, cell = torch.where(runs, h, hidden), torch.where(runs, c, cell)
            rows[t] = torch.where(runs, h, torch.zeros_like(h))
    return (torch.stack(rows) if rows else x.new_zeros(0, *hidden.shape)), hidden, cell


def _rnn(weights: Any, f: list[Activation], _: int, __: Tensor | None) -> Any:
    w, r, wb, rb = weights

    def step(x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        return f[0](x @ w + wb + h @ r + rb), c

    return step


def _gru(weights: Any, f: list[Activation], linear_before_reset: int, __: Tensor | None) -> Any:
    w, r, wb, rb = weights

    def step(x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        wz, wr, wh = (x @ w + wb).chunk(3, -1)
        rz, rr, rh = (h @ r + rb).chunk(3, -1)
        z, reset = f[0](wz + rz), f[0](wr + rr)
        if not linear_before_reset:
            n = len(h[0])
            rh = (reset * h) @ r[:, 2 * n :] + rb[2 * n :]
            return (1 - z) * f[1](wh + rh) + z * h, c
        return (1 - z) * f[1](wh + reset * rh) + z * h, c

    return step


def _lstm(weights: Any, f: list[Activation], _: int, peepholes: Tensor | None) -> Any:
    w, r, wb, rb = weights
    pi, po, pf = (0, 0, 0) if peepholes is None else peepholes.chunk(3)

    def step(x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        i, o, forget, g = (x @ w + wb + h @ r + rb).chunk(4, -1)
        i, forget = f[0](i + pi * c), f[0](forget + pf * c)
        c = forget * c + i * f[1](g)
        return f[0](o + po * c) * f[2](c), c

    return step


_STEPS = {"RNN": _rnn, "GRU": _gru, "LSTM": _lstm}


class Recurrent(nn.Module):
    """A recurrent layer of torch with ONNX's shapes: hidden states [time, directions, batch, hidden]."""

    def __init__(self, layer: nn.RNNBase, is_reverse: bool, outputs: int) -> None:
        super().__init__()
        self.layer, self.is_reverse, self.outputs = layer, is_reverse, outputs

    def forward(self, x: Tensor, *initial: Tensor) -> Any:
        x = x.flip(0) if self.is_reverse else x
        state = None if not initial else initial if isinstance(self.layer, nn.LSTM) else initial[0]
        y, last = self.layer(x, state)
        y = y.flip(0) if self.is_reverse else y
        directions = 2 if self.layer.bidirectional else 1
        y = y.unflatten(-1, (directions, -1)).transpose(1, 2)
        last = last if isinstance(last, tuple) else (last,)
        return (y, *last)[: self.outputs] if self.outputs > 1 else y


def as_torch(op: str, found: Sequence[Tensor | None], attributes: dict[str, Any], outputs: int) -> Recurrent | None:
    """The layer of constant weights (w, r, b); None where torch's says something else."""
    w, r, b = found
    names = [a.lower() for a in attributes.get("activations") or ()]
    direction = attributes.get("direction", "forward")
    count = DIRECTIONS.get(direction, 0)
    is_relu = op == "RNN" and bool(names) and set(names) == {"relu"}
    if w is None or r is None or not count or (names and names != [*DEFAULTS[op]] * count and not is_relu):
        return None
    if any(attributes.get(n) for n in ("layout", "clip", "input_forget")):
        return None
    if op == "GRU" and not attributes.get("linear_before_reset"):
        return None
    gates, size = len(GATES[op]), r.shape[-1]
    if w.dim() != 3 or w.shape[:2] != (count, gates * size) or r.shape != (count, gates * size, size) or not w.numel():
        return None
    if b is not None and b.shape != (count, 2 * gates * size):
        return None
    kinds: dict[str, Any] = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}
    options = {"nonlinearity": "relu" if is_relu else "tanh"} if op == "RNN" else {}
    layer = kinds[op](w.shape[2], size, bias=b is not None, bidirectional=count == 2, **options)
    order = GATES[op]

    def turned(t: Tensor) -> nn.Parameter:
        parts = t.chunk(gates)
        return nn.Parameter(torch.cat([parts[i] for i in order]).contiguous())

    for d, suffix in enumerate(("", "_reverse")[:count]):
        setattr(layer, f"weight_ih_l0{suffix}", turned(w[d]))
        setattr(layer, f"weight_hh_l0{suffix}", turned(r[d]))
        if b is not None:
            setattr(layer, f"bias_ih_l0{suffix}", turned(b[d, : gates * size]))
            setattr(layer, f"bias_hh_l0{suffix}", turned(b[d, gates * size :]))
    return Recurrent(layer, direction == "reverse", outputs)


RECURRENT: dict[str, Operator] = {op: recurrent(op) for op in GATES}
