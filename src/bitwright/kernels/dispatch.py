"""Which implementation does a job: the first of Triton, native, torch and the reference that takes the case.

Triton takes tensors on a GPU, the native library those of the processor, torch both. `with only("reference"):` forces
one, as tests do. Falling back to the reference is said once a case.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from bitwright.datapath import Datapath
from bitwright.kernels import matmul as torch_matmul
from bitwright.kernels import native
from bitwright.kernels import packed as torch_packed
from bitwright.kernels import quantize as torch_quantize
from bitwright.kernels.matmul import Stationary
from bitwright.kernels.operand import Operand
from bitwright.kernels.packed import PackedWeight
from bitwright.kernels.packed_bytes import Packed
from bitwright.kernels.rounding import Unsupported
from bitwright.kernels.whole import whole_products
from bitwright.quantization import (
    Granularity,
    Passes,
    Quantizer,
    Range,
    Summary,
    count_magnitudes,
    sum_cells,
    summarize,
)

IMPLEMENTATIONS = ("triton", "native", "torch", "reference")

Found = TypeVar("Found")

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


def allows(name: str) -> bool:
    """Whether this implementation may be used here."""
    return name in _allowed.get()


def allowed() -> tuple[str, ...]:
    """The implementations that may be used here."""
    return _allowed.get()


def quantize(quantizer: Quantizer, x: Tensor, ranges: tuple[Range | None, ...] = ()) -> Operand:
    """x [rows, k] float32 under a quantizer, without a gradient. NaN or infinity raises ValueError naming its index."""
    x = x.detach()
    if not x.numel():
        return Operand.of(quantizer.quantize(x.cpu().numpy(), ranges)).to(x.device)
    if (found := _first(x, lambda kernels: kernels.quantize(quantizer, x, ranges))) is not None:
        return found
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
    if out is not None:
        _require_room(x, out)
    if not x.numel():
        return torch.empty_like(x, dtype=torch.float32) if out is None else out
    if (found := _first(x, lambda kernels: kernels.fake_quantize(quantizer, x, ranges, out))) is not None:
        return found
    decoded = quantize(quantizer, x, ranges).decode()
    return decoded if out is None else out.copy_(decoded)


def pack(quantizer: Quantizer, x: Tensor, ranges: tuple[Range | None, ...] = ()) -> Packed:
    """x [rows, k] float32 as packed codes and scale codes: the bytes of the reference's `QuantizedTensor.pack`."""
    x = x.detach()
    if not x.numel():
        return Packed.of(quantizer.quantize(x.cpu().numpy(), ranges))
    if "native" in _allowed.get():
        try:
            return native.pack_matrix(quantizer, x, ranges)
        except native.NotFinite:
            _refuse_non_finite(x)
        except Unsupported as reason:
            _say_slow("pack", reason)
    elif "reference" not in _allowed.get():
        _say_slow("pack", Unsupported("packed codes in torch"))
    return Packed.of(quantizer.quantize(x.cpu().numpy(), ranges))


def unpack(packed: Packed) -> Tensor:
    """The matrix [rows, k] that packed codes stand for, in float32."""
    if 0 in packed.shape:
        return torch.empty(packed.shape)
    if "native" in _allowed.get():
        try:
            return native.unpack_matrix(packed)
        except Unsupported as reason:
            _say_slow("unpack", reason)
    elif "reference" not in _allowed.get():
        _say_slow("unpack", Unsupported("packed codes in torch"))
    return Operand.of(packed.unpacked()).decode()


def matmul(datapath: Datapath, x: Operand, w: Stationary) -> tuple[Tensor, int, int]:
    """x @ w.T in float64 with overflowed sums and sums in all, as `Datapath.multiply` defines it."""
    m, n = x.rows, w.operand.rows
    if not m * n * x.k:
        return torch.zeros(m, n, dtype=torch.float64, device=x.elements.device), 0, m * n
    if (found := _first(x.elements, lambda kernels: kernels.matmul(datapath, x, w))) is not None:
        return found
    if "torch" in _allowed.get():
        try:
            with whole_products(x.elements):
                return torch_matmul.matmul(datapath, x, w)
        except Unsupported as reason:
            _say_slow("matmul", reason)
    tile = min(x.elements.shape[2], w.operand.elements.shape[2], datapath.tile or x.k)
    product = datapath.multiply(x.lanes(tile), w.operand.lanes(tile))
    return torch.from_numpy(product.values).to(x.elements.device), product.overflows, product.accumulations


def packed_linear(w: PackedWeight, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    """What multiplies float x [m, k] with a packed weight: x @ w.T + bias in float32, to the rounding of its sums."""
    if "native" in _allowed.get():
        try:
            return native.FloatProduct(w, bias)
        except Unsupported:
            pass
    return lambda x: torch_packed.linear(w, x.float(), bias)


def packed_matmul(
    datapath: Datapath, x: Quantizer, w: PackedWeight, bias: Tensor | None
) -> Callable[[Operand], Tensor]:
    """What multiplies x of this quantizer with a packed weight as the datapath defines it: float32, bias added."""
    stationary: list[Stationary] = []

    def by_elements(x: Operand) -> Tensor:
        if not stationary:
            stationary.append(Stationary(Operand.of(w.quantized())))
        y = matmul(datapath, x, stationary[0])[0].float()
        return y if bias is None else y + bias

    if "native" in _allowed.get():
        try:
            product = native.IntegerProduct(datapath, x, w, bias)
        except Unsupported:
            return by_elements

        def natively(x: Operand) -> Tensor:
            try:
                return product(x)
            except Unsupported:
                return by_elements(x)

        return natively
    return by_elements


def packed_layer(
    datapath: Datapath, x: Quantizer, ranges: tuple[Range | None, ...], w: PackedWeight, bias: Tensor | None
) -> Callable[[Tensor], Tensor]:
    """`quantize`, then `packed_matmul`: of float x [m, k]."""
    product = packed_matmul(datapath, x, w, bias)

    def in_two(rows: Tensor) -> Tensor:
        return product(quantize(x, rows.float().contiguous(), ranges))

    if "native" not in _allowed.get() or any(given is not None for given in ranges):
        return in_two
    try:
        in_one = native.TokenProduct(x, native.IntegerProduct(datapath, x, w, bias))
    except Unsupported:
        return in_two

    def natively(rows: Tensor) -> Tensor:
        try:
            return in_one(rows)
        except native.NotFinite:
            return in_two(rows)  # says where

    return natively


def squared_errors(
    quantizer: Quantizer, x: np.ndarray, trials: Sequence[tuple[Range | None, ...]], share: Granularity
) -> np.ndarray:
    """`bitwright.quantization.squared_errors`, which range estimators search with: the same sums, bit for bit."""
    values = torch.from_numpy(np.ascontiguousarray(x, np.float32))
    if "native" in _allowed.get():
        try:
            return native.squared_errors(quantizer, values, trials, share)
        except Unsupported:
            pass
    return np.stack([_squared_error(quantizer, values, ranges, share) for ranges in trials])


def _squared_error(quantizer: Quantizer, x: Tensor, ranges: tuple[Range | None, ...], share: Granularity) -> np.ndarray:
    operand = quantize(quantizer, x, ranges)
    return sum_cells(share, (operand.decode_exactly() - x).square().numpy())


def _summarize(x: np.ndarray) -> Summary:
    if "native" in _allowed.get():
        try:
            return native.summarize(x)
        except Unsupported:
            pass
    return summarize(x)


def _count_magnitudes(x: np.ndarray, width: float) -> np.ndarray:
    if "native" in _allowed.get():
        try:
            return native.count_magnitudes(x, width)
        except Unsupported:
            pass
    return count_magnitudes(x, width)


PASSES = Passes(_summarize, _count_magnitudes)
"""How statistics look at a batch: the reference's results, bit for bit."""


def represent(quantizer: Quantizer, x: np.ndarray, ranges: tuple[Range | None, ...]) -> np.ndarray:
    """`fake_quantize` on NumPy arrays."""
    return fake_quantize(quantizer, torch.from_numpy(np.ascontiguousarray(x, np.float32)), ranges).numpy()


def _require_room(x: Tensor, out: Tensor) -> None:
    """Raises ValueError where decoded x cannot be written to `out` before all of x is read."""
    if not ((out.shape, out.dtype, out.device) == (x.shape, torch.float32, x.device) and out.is_contiguous()):
        raise ValueError(
            f"fake_quantize: out is {out.dtype} {tuple(out.shape)} on {out.device}; it must be contiguous float32 "
            f"{tuple(x.shape)} on {x.device}"
        )
    if torch.compiler.is_compiling() or not x.numel() or (out.data_ptr() == x.data_ptr() and x.is_contiguous()):
        return
    (start, end), (first, last) = _bytes_of(x), _bytes_of(out)
    if start < last and first < end:
        raise ValueError("fake_quantize: out overlaps x in part; give x itself, or memory of its own")


def _bytes_of(x: Tensor) -> tuple[int, int]:
    """Between which addresses its elements lie."""
    length = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True)) + 1
    return x.data_ptr(), x.data_ptr() + length * x.element_size()


def _first(x: Tensor, job: Callable[[ModuleType], Found]) -> Found | None:
    """By Triton or else the native library; None where neither takes it: torch is next, and not slow."""
    for kernels in (_gpu(x), native if allows("native") else None):
        if kernels is not None:
            try:
                return job(kernels)
            except native.NotFinite:
                _refuse_non_finite(x)
            except Unsupported:
                pass
    return None


def _gpu(x: Tensor) -> ModuleType | None:
    """Kernels in Triton for this tensor. Those of the processor it takes only in its interpreter, where asked for."""
    allowed = _allowed.get()
    if (not x.is_cuda and "native" in allowed) or "triton" not in allowed or torch.compiler.is_compiling():
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
