"""ONNX's arithmetic, comparisons, activations and reductions over torch, one function an operator.

Inputs come in the operator's order, None where an optional one is left out; attributes by their names, with their
defaults. A function that computes differently by version takes `opset`. https://onnx.ai/onnx/operators
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from bitwright.sources.onnx_file import KINDS, require_room
from bitwright.sources.onnx_types import narrowed

Operator = Callable[..., Any]

_WIDE = (torch.uint16, torch.uint32, torch.uint64)


def plain(function: Operator) -> Operator:
    """An operator without attributes. What torch does not compute in wide unsigned integers goes through int64."""

    def compute(*x: Any) -> Any:
        if not any(isinstance(t, Tensor) and t.dtype in _WIDE for t in x):
            return function(*x)
        kind = next(t.dtype for t in x if isinstance(t, Tensor) and t.dtype in _WIDE)
        y = function(*[t.to(torch.int64) if isinstance(t, Tensor) and t.dtype in _WIDE else t for t in x])
        return y.to(kind) if y.dtype == torch.int64 else y

    return compute


def ints(value: Tensor | Sequence[int]) -> list[int]:
    """Sizes, axes or counts, from an attribute or a tensor."""
    return [int(v) for v in (value.flatten().tolist() if isinstance(value, Tensor) else value)]


def axis_of(axis: int, rank: int) -> int:
    """The axis counted from the front; one that is not there raises ValueError."""
    if not -rank <= axis < max(rank, 1):
        raise ValueError(f"axis {axis} of a tensor with {rank} axes")
    return axis % max(rank, 1)


def divide(a: Tensor, b: Tensor) -> Tensor:
    return torch.true_divide(a, b) if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def power(a: Tensor, b: Tensor) -> Tensor:
    if a.is_floating_point():
        return torch.pow(a, b.to(a.dtype))
    return torch.pow(a.double(), b.double()).to(a.dtype) if b.is_floating_point() else torch.pow(a, b.to(a.dtype))


def modulo(a: Tensor, b: Tensor, *, fmod: int = 0) -> Tensor:
    return plain(torch.fmod if fmod else torch.remainder)(a, b)


def shift(a: Tensor, b: Tensor, *, direction: str) -> Tensor:
    """By a negative count or by all bits nothing stays, but a negative number's sign to the right."""
    bits = a.dtype.itemsize * 8
    if a.dtype == torch.uint64:  # torch shifts signed numbers
        value, by = (t.view(torch.int64) for t in (a.contiguous(), b.contiguous()))
    else:
        value, by = a.to(torch.int64), b.to(torch.int64)
    inside = (by >= 0) & (by < bits)
    count = by.clamp(0, bits - 1)
    if direction == "LEFT":
        return torch.where(inside, value << count, 0).to(a.dtype)
    moved = value >> count
    if a.dtype == torch.uint64:
        moved = moved & ~(-1 << (63 - count) << 1)
    return torch.where(inside, moved, torch.where(value < 0, -1, 0) if a.dtype.is_signed else 0).to(a.dtype)


def clip(x: Tensor, low: Tensor | None = None, high: Tensor | None = None, *, min: float | None = None,
         max: float | None = None) -> Tensor:  # fmt: skip
    low, high = (torch.tensor(v, dtype=x.dtype) if t is None and v is not None else t
                 for t, v in ((low, min), (high, max)))  # fmt: skip
    y = x if low is None else plain(torch.maximum)(x, low.to(x))
    return y if high is None else plain(torch.minimum)(y, high.to(x))


def is_infinite(x: Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    infinite = torch.isinf(x.float())
    return infinite & (((x < 0) & bool(detect_negative)) | ((x > 0) & bool(detect_positive)))


def cast(x: Tensor, *, to: int, saturate: int = 1, round_mode: str = "up") -> Tensor:
    if to not in KINDS or round_mode != "up":
        raise ValueError(f"a cast to type {to} with rounding {round_mode!r}, which is not read")
    return narrowed(x, to, bool(saturate))


def cast_like(x: Tensor, like: Tensor, *, saturate: int = 1, round_mode: str = "up") -> Tensor:
    """Where the type was not declared: that which carries it."""
    return narrowed(x, next(kind for kind, carrier in KINDS.items() if carrier is like.dtype), bool(saturate))


def gemm(a: Tensor, b: Tensor, c: Tensor | None = None, *, alpha: float = 1.0, beta: float = 1.0, transA: int = 0,
         transB: int = 0) -> Tensor:  # fmt: skip
    y = (a.t() if transA else a) @ (b.t() if transB else b)
    y = y if alpha == 1 else (y * alpha).to(y.dtype)
    return y if c is None else y + (c if beta == 1 else (c * beta).to(c.dtype))


def einsum(*x: Tensor, equation: str) -> Tensor:
    require_room(torch.einsum(equation, *(t.to("meta") for t in x)).shape, "Einsum")
    return torch.einsum(equation, *x)


def cumulative(function: Operator, neutral: int) -> Operator:
    def compute(x: Tensor, axis: Tensor, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
        along = axis_of(int(axis), x.dim())
        y = x.flip(along) if reverse else x
        if exclusive and x.shape[along]:
            first = torch.full_like(y.narrow(along, 0, 1), neutral)
            y = torch.cat([first, y.narrow(along, 0, y.shape[along] - 1)], along)
        y = function(y, along).to(x.dtype)
        return y.flip(along) if reverse else y

    return compute


def soft(function: Operator) -> Operator:
    """Along one axis; before opset 13 along all that follow it."""

    def compute(x: Tensor, *, axis: int | None = None, opset: int) -> Tensor:
        if opset >= 13:
            return function(x, axis_of(-1 if axis is None else axis, x.dim()))
        first = axis_of(1 if axis is None else axis, x.dim())
        return function(x.reshape(math.prod(x.shape[:first]), math.prod(x.shape[first:])), 1).reshape(x.shape)

    return compute


def hardmax(x: Tensor, axis: int) -> Tensor:
    return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1)


def best(is_max: bool) -> Operator:
    def compute(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
        along = axis_of(axis, x.dim())
        y = x.flip(along) if select_last_index else x
        extreme = (y.amax if is_max else y.amin)(along, keepdim=True)
        index = (y == extreme).to(torch.int8).argmax(along, keepdim=True)  # the first of equals
        index = x.shape[along] - 1 - index if select_last_index else index
        return index if keepdims else index.squeeze(along)

    return compute


def reduction(function: Callable[[Tensor, list[int], bool], Tensor]) -> Operator:
    def compute(x: Tensor, dims: Tensor | None = None, *, axes: Sequence[int] | None = None, keepdims: int = 1,
                noop_with_empty_axes: int = 0) -> Tensor:  # fmt: skip
        wanted = ints(dims if dims is not None else axes if axes is not None else ())
        if not wanted and noop_with_empty_axes:
            return _of_one(function, x)
        along = sorted({axis_of(a, x.dim()) for a in wanted}) or list(range(x.dim()))
        return plain(lambda t: function(t, along, bool(keepdims)))(x).to(x.dtype)

    return compute


def _of_one(function: Callable[[Tensor, list[int], bool], Tensor], x: Tensor) -> Tensor:
    """A reduction over no axis: of one element each."""
    return function(x.unsqueeze(-1), [x.dim()], False).to(x.dtype)


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in reversed(axes):
        x = x.prod(axis, keepdim=keep)
    return x


def _extreme(function: Operator, worst: Callable[[torch.dtype], Any]) -> Callable[[Tensor, list[int], bool], Tensor]:
    """Over no elements the type's other end, as ONNX has it."""

    def compute(x: Tensor, axes: list[int], keep: bool) -> Tensor:
        if not axes:
            return x
        if not x.numel():
            shape = [1 if i in axes else s for i, s in enumerate(x.shape) if keep or i not in axes]
            return torch.full(shape, worst(x.dtype), dtype=x.dtype)
        return function(x.int() if x.dtype == torch.bool else x, axes, keepdim=keep)

    return compute


def _lowest(kind: torch.dtype) -> Any:
    return False if kind == torch.bool else -math.inf if kind.is_floating_point else torch.iinfo(kind).min


def _highest(kind: torch.dtype) -> Any:
    return True if kind == torch.bool else math.inf if kind.is_floating_point else torch.iinfo(kind).max


def _sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.sum(axes, keepdim=keep) if axes else x


def _mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return (x if x.is_floating_point() else x.double()).mean(axes, keepdim=keep)


def _log_sum_exp(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    y = x if x.is_floating_point() else x.double()
    return torch.logsumexp(y, axes, keepdim=keep) if axes else y


def folded(function: Operator) -> Operator:
    """Of any number of inputs, two at a time."""

    def compute(*x: Tensor) -> Tensor:
        y = x[0]
        for other in x[1:]:
            y = function(y, other)
        return y

    return plain(compute)


def mean(*x: Tensor) -> Tensor:
    return folded(torch.add)(*x) / len(x)


def elementwise(function: Callable[[Tensor], Tensor]) -> Operator:
    """Of float types; narrower ones than float32 are computed in it, as torch does not have all of them."""
    return plain(
        lambda x: function(x.float()).to(x.dtype) if x.dtype.itemsize < 4 and x.is_floating_point() else function(x)
    )


def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return torch.where(x > 0, x, alpha * torch.expm1(x.clamp(max=0)))


def celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return functional.celu(x, alpha)


def selu(x: Tensor, *, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875) -> Tensor:
    return gamma * elu(x, alpha=alpha)


def leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    return functional.leaky_relu(x, alpha)


def thresholded_relu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return torch.where(x > alpha, x, torch.zeros_like(x))


def hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    return (alpha * x + beta).clamp(0, 1)


def shrink(x: Tensor, *, bias: float = 0.0, lambd: float = 0.5) -> Tensor:
    zero = torch.zeros_like(x)
    return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, zero)).to(x.dtype)


def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    return functional.gelu(x, approximate=approximate)


def swish(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return x * torch.sigmoid(alpha * x)


def softplus(x: Tensor) -> Tensor:
    return torch.logaddexp(x, torch.zeros_like(x))


def prelu(x: Tensor, slope: Tensor, *, opset: int) -> Tensor:
    if opset < 7 and slope.dim() == 1:  # of channels
        slope = slope.view(-1, *[1] * (x.dim() - 2))
    return torch.where(x < 0, x * slope, x)


def random_like(x: Tensor, *, dtype: int | None = None, **_: Any) -> Tensor:
    raise ValueError("random numbers")


def one_hot(index: Tensor, depth: Tensor, values: Tensor, *, axis: int = -1) -> Tensor:
    count = int(depth)
    along = axis_of(axis, index.dim() + 1)
    require_room((*index.shape, count), "OneHot")
    places = torch.remainder(index.long(), count).unsqueeze(along)
    shape = [1] * (index.dim() + 1)
    shape[along] = count
    is_there = (index.unsqueeze(along) >= -count) & (index.unsqueeze(along) < count)
    return torch.where((torch.arange(count).view(shape) == places) & is_there, values[1], values[0])


MATH: dict[str, Operator] = {
    "Abs": plain(torch.abs), "Neg": plain(torch.neg), "Sign": plain(torch.sign), "Not": plain(torch.logical_not),
    "Add": plain(torch.add), "Sub": plain(torch.sub), "Mul": plain(torch.mul), "Div": plain(divide),
    "Pow": plain(power), "Mod": modulo, "BitShift": shift, "Clip": clip,
    "And": plain(torch.logical_and), "Or": plain(torch.logical_or), "Xor": plain(torch.logical_xor),
    "BitwiseAnd": plain(torch.bitwise_and), "BitwiseOr": plain(torch.bitwise_or),
    "BitwiseXor": plain(torch.bitwise_xor), "BitwiseNot": plain(torch.bitwise_not),
    "Equal": plain(torch.eq), "Greater": plain(torch.gt), "GreaterOrEqual": plain(torch.ge), "Less": plain(torch.lt),
    "LessOrEqual": plain(torch.le), "Where": plain(torch.where), "IsNaN": plain(lambda x: torch.isnan(x.float())),
    "IsInf": is_infinite, "Max": folded(torch.maximum), "Min": folded(torch.minimum), "Sum": folded(torch.add),
    "Mean": mean, "Cast": cast, "CastLike": cast_like, "MatMul": plain(torch.matmul), "Gemm": gemm, "Einsum": einsum,
    "Det": plain(torch.linalg.det), "CumSum": cumulative(torch.cumsum, 0), "CumProd": cumulative(torch.cumprod, 1),
    "Softmax": soft(torch.softmax), "LogSoftmax": soft(torch.log_softmax), "Hardmax": soft(hardmax),
    "ArgMax": best(True), "ArgMin": best(False), "OneHot": one_hot,
    "Elu": elu, "Celu": celu, "Selu": selu, "LeakyRelu": leaky_relu, "ThresholdedRelu": thresholded_relu,
    "HardSigmoid": hard_sigmoid, "Shrink": shrink, "Gelu": gelu, "Swish": swish, "PRelu": prelu,
    "Softplus": plain(softplus), "Softsign": plain(functional.softsign), "Mish": plain(functional.mish),
    "HardSwish": plain(functional.hardswish), "Relu": plain(functional.relu), "Sigmoid": plain(torch.sigmoid),
    "Reciprocal": elementwise(torch.reciprocal), "Round": elementwise(torch.round), "Erf": elementwise(torch.erf),
    **{name.capitalize(): elementwise(getattr(torch, name)) for name in (
        "ceil", "floor", "exp", "log", "sqrt", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh",
        "asinh", "acosh", "atanh")},
    "ReduceSum": reduction(_sum),
    "ReduceMean": reduction(_mean),
    "ReduceMax": reduction(_extreme(torch.amax, _lowest)), "ReduceMin": reduction(_extreme(torch.amin, _highest)),
    "ReduceProd": reduction(_product),
    "ReduceL1": reduction(lambda x, axes, keep: _sum(x.abs(), axes, keep)),
    "ReduceL2": reduction(lambda x, axes, keep: _sum(x * x, axes, keep).double().sqrt()),
    "ReduceSumSquare": reduction(lambda x, axes, keep: _sum(x * x, axes, keep)),
    "ReduceLogSum": reduction(lambda x, axes, keep: _sum(x, axes, keep).double().log()),
    "ReduceLogSumExp": reduction(_log_sum_exp),
}  # fmt: skip
