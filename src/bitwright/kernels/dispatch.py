"""Which implementation does a job: the first of Triton, native, torch and the reference that takes the case.

Triton takes tensors on a GPU, the native library those of the processor, torch both. `with only("reference"):` forces
one, as tests do. Falling back to the reference is said once a case.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.util import find_spec
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from bitwright.datapath import Datapath
from bitwright.kernels import matmul as torch_matmul
from bitwright.kernels import native
from bitwright.kernels import quantize as torch_quantize
from bitwright.kernels.matmul import Stationary
from bitwright.kernels.operand import Operand
from bitwright.kernels.rounding import Unsupported
from bitwright.kernels.whole import whole_products
from bitwright.quantization import Quantizer, Range

IMPLEMENTATIONS = ("triton", "native", "torch", "reference")

_allowed: ContextVar[tuple[str, ...]] = ContextVar("implementations", default=IMPLEMENTATIONS)


class SlowKernel(UserWarning):
    """The reference is doing work that no kernel takes."""


@contextmanager
def only(*names: str) -> Iterator[None]:
    """Use these implementations alone."""
    unknown = [name for name in names if name not in IMPLEMENTATIONS]
    if unknown:
        raise ValueError(f"kernels.only: {unknown} found; choose from {IMPLEMENTATIONS}")
    token = _allowed.set(names)
    try:
        yield
    finally:
        _allowed.reset(token)


def quantize(quantizer: Quantizer, x: Tensor, ranges: tuple[Range | None, ...] = ()) -> Operand:
    """x [rows, k] float32 under a quantizer, without a gradient. NaN or infinity raises ValueError naming its index."""
    x = x.detach()
    if gpu := _gpu(x):
        try:
            return gpu.quantize(quantizer, x, ranges)
        except native.NotFinite:
            _refuse_non_finite(x)
        except Unsupported:
            pass  # torch is next, and runs on the same device
    if "native" in _allowed.get():
        try:
            return native.quantize(quantizer, x, ranges)
        except native.NotFinite:
            _refuse_non_finite(x)
        except Unsupported:
            pass  # torch is next, and not slow
    _refuse_non_finite(x)
    if "torch" in _allowed.get():
        try:
            return torch_quantize.quantize(quantizer, x, ranges)
        except Unsupported as reason:
            _say_slow("quantize", reason)
    elif "reference" not in _allowed.get():
        _say_slow("quantize", Unsupported("this case"))
    return Operand.of(quantizer.quantize(x.cpu().numpy(), ranges)).to(x.device)


def fake_quantize(
    quantizer: Quantizer, x: Tensor, ranges: tuple[Range | None, ...] = (), *, out: Tensor | None = None
) -> Tensor:
    """decode(quantize(x)) in float32; into `out` where given, a contiguous float32 tensor, or x itself."""
    x = x.detach()
    if out is not None and not (
        (out.shape, out.dtype, out.device) == (x.shape, torch.float32, x.device) and out.is_contiguous()
    ):
        raise ValueError(
            f"fake_quantize: out is {out.dtype} {tuple(out.shape)} on {out.device}; it must be contiguous float32 "
            f"{tuple(x.shape)} on {x.device}"
        )
    if gpu := _gpu(x):
        try:
            return gpu.fake_quantize(quantizer, x, ranges, out)
        except native.NotFinite:
            _refuse_non_finite(x)
        except Unsupported:
            pass
    if "native" in _allowed.get():
        try:
            return native.fake_quantize(quantizer, x, ranges, out)
        except native.NotFinite:
            _refuse_non_finite(x)
        except Unsupported:
            pass
    decoded = quantize(quantizer, x, ranges).decode()
    return decoded if out is None else out.copy_(decoded)


def matmul(datapath: Datapath, x: Operand, w: Stationary) -> tuple[Tensor, int, int]:
    """x @ w.T in float64 with overflowed sums and sums in all, as `Datapath.multiply` defines it."""
    if gpu := _gpu(x.elements):
        try:
            return gpu.matmul(datapath, x, w)
        except Unsupported:
            pass
    if "torch" in _allowed.get():
        try:
            with whole_products(x.elements):
                return torch_matmul.matmul(datapath, x, w)
        except Unsupported as reason:
            _say_slow("matmul", reason)
    tile = min(x.elements.shape[2], w.operand.elements.shape[2], datapath.tile or x.k)
    product = datapath.multiply(x.lanes(tile), w.operand.lanes(tile))
    return torch.from_numpy(product.values).to(x.elements.device), product.overflows, product.accumulations


def represent(quantizer: Quantizer, x: np.ndarray, ranges: tuple[Range | None, ...]) -> np.ndarray:
    """`fake_quantize` on NumPy arrays: what range estimators search with."""
    return fake_quantize(quantizer, torch.from_numpy(np.ascontiguousarray(x, np.float32)), ranges).numpy()


def _gpu(x: Tensor) -> ModuleType | None:
    """Kernels in Triton for this tensor. Those of the processor it takes only in its interpreter, where asked for."""
    allowed = _allowed.get()
    if "triton" not in allowed or torch.compiler.is_compiling() or not (x.is_cuda or "native" not in allowed):
        return None
    return _triton()


@cache
def _triton() -> ModuleType | None:
    if find_spec("triton") is None:
        return None
    from bitwright.kernels import gpu  # an extra

    return gpu


def _refuse_non_finite(x: Tensor) -> None:
    if torch.compiler.is_compiling():
        return  # a traced tensor has no values to look at
    if x.numel() and not bool(torch.isfinite(x.sum(dtype=torch.float64))):
        index = tuple(torch.nonzero(~torch.isfinite(x))[0].tolist())
        raise ValueError(f"the value at row, column {index} is {float(x[index])}; only finite numbers can be quantized")


def _say_slow(job: str, reason: Unsupported) -> None:
    if "reference" not in _allowed.get():
        raise NotImplementedError(f"{job}: no kernel takes {reason}, and the reference is switched off") from reason
    warnings.warn(f"{job}: the slow reference takes {reason}", SlowKernel, stacklevel=3)
