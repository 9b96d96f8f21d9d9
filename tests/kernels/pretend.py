"""Tensors that say they are on a GPU and compute on the processor: mixing devices fails as it would there.

What differs on a GPU besides the place is imitated: a tensor divided by a number is multiplied by its reciprocal.
Convolutions are refused while cuDNN is on, since its algorithms (Winograd's, TF32) are not exact on integers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

GPU = torch.device("cuda:0")
MOVES = {torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default}
INDICES = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default}
DIVISIONS = {torch.ops.aten.div.Tensor: torch.mul, torch.ops.aten.div_.Tensor: Tensor.mul_}

torch._C._ensureCUDADeviceGuardSet()  # where there is no CUDA, a guard that does nothing


class Pretender(Tensor):
    """Holds its values in `inner`; has no storage of its own, so that nothing reads it behind torch's back."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Pretender":
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=GPU,
        )
        made.inner = inner
        return made

    # torch's own of these ask CUDA for its device
    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __invert__(self) -> Tensor:
        return torch.bitwise_not(self)

    def copy_(self, source: Tensor) -> Tensor:
        return torch.ops.aten.copy_.default(self, source)

    def contiguous(self) -> Tensor:
        return self.clone(memory_format=torch.contiguous_format)

    def __iter__(self) -> Iterator[Tensor]:
        return iter([Pretender(x) for x in self.inner])

    def __getitem__(self, index):
        return Pretender(self.inner[tree_map(_inner, index)])

    def __setitem__(self, index, value) -> None:
        if not _is_number(value) and not isinstance(value, Pretender):
            raise RuntimeError("a tensor on cpu assigned to one on cuda:0")
        self.inner[tree_map(_inner, index)] = _inner(value)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func} outside of `gpu()`")


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        is_there = any(isinstance(x, Pretender) for x in given)
        if kwargs.get("device") is not None:
            is_there = torch.device(kwargs["device"]).type == "cuda"
            kwargs["device"] = torch.device("cpu")
        elif is_there and func not in MOVES | INDICES:
            strangers = [x for x in given if x.dim() and not isinstance(x, Pretender)]
            if strangers:
                raise RuntimeError(f"{func}: tensors on cuda:0 and {[tuple(s.shape) for s in strangers]} on cpu")
        elif func is torch.ops.aten.copy_.default:
            is_there = isinstance(args[0], Pretender)
        if is_there and "convolution" in func.name() and torch.backends.cudnn.enabled:
            raise RuntimeError(f"{func}: cuDNN may choose an algorithm that is not exact")
        inner_args, inner_kwargs = tree_map(_inner, (args, kwargs))
        if is_there and func in DIVISIONS and inner_args[0].is_floating_point() and _is_number(args[1]):
            reciprocal = torch.ones((), dtype=inner_args[0].dtype) / inner_args[1]
            found = DIVISIONS[func](inner_args[0], reciprocal)
        else:
            found = func(*inner_args, **inner_kwargs)
        if func._schema.is_mutable:  # what was written is the tensor that came in
            return kwargs["out"] if "out" in kwargs else args[0]
        return tree_map(lambda x: Pretender(x) if is_there and isinstance(x, Tensor) else x, found)


def _inner(x: object) -> object:
    return x.inner if isinstance(x, Pretender) else x


def _is_number(x: object) -> bool:
    return isinstance(x, int | float) or (isinstance(x, Tensor) and not x.dim() and not isinstance(x, Pretender))


@contextmanager
def gpu() -> Iterator[torch.device]:
    """Inside, tensors made on or moved to the given device pretend to be there."""
    nonzero = mock.patch("torch.nonzero", torch.ops.aten.nonzero.default)  # torch's own asks CUDA for its device
    with mock.patch("torch.cuda._lazy_init"), nonzero, _Mode():
        yield GPU
