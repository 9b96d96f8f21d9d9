"""Matrices to packed codes and back by the native library, equal to the reference bit for bit."""

import ctypes
from functools import cache, lru_cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from bitwright.formats import FLOAT32, Format, Minifloat, pack
from bitwright.kernels.library import NativeQuantization, library_with
from bitwright.kernels.native.memory import fresh
from bitwright.kernels.native.scalars import Job, NotFinite, threads_for
from bitwright.kernels.operand import rounds_once
from bitwright.kernels.packed_bytes import Packed
from bitwright.kernels.rounding import Unsupported
from bitwright.quantization import Quantizer, Range, Zero


class NativePacking(ctypes.Structure):
    """Mirrors native/packing.hpp."""

    _fields_: ClassVar = [
        ("work", NativeQuantization), ("code_of", ctypes.c_void_p), ("codes", ctypes.c_void_p),
        ("scale_code_of", ctypes.c_void_p), ("scales", ctypes.c_void_p), ("bits", ctypes.c_int32),
        ("scale_bits", ctypes.c_int32), ("keeps_sign", ctypes.c_int32),
    ]  # fmt: skip


class NativeUnpacking(ctypes.Structure):
    """Mirrors native/packing.hpp."""

    _fields_: ClassVar = [
        ("codes", ctypes.c_void_p), ("value_of", ctypes.c_void_p), ("inside", ctypes.c_void_p),
        ("outside", ctypes.c_void_p), ("out", ctypes.c_void_p), ("rows", ctypes.c_int64), ("k", ctypes.c_int64),
        ("block", ctypes.c_int64), ("outside_rows", ctypes.c_int64), ("bits", ctypes.c_int32),
    ]  # fmt: skip


def pack_matrix(quantizer: Quantizer, x: Tensor, ranges: tuple[Range | None, ...] = ()) -> Packed:
    """Quantize float32 x [rows, k] to packed codes. Raises `Unsupported` for what the library does not take."""
    if quantizer.zero is Zero.FITTED:
        raise Unsupported("packed codes with zero points")
    found, format, finest = _calls(), quantizer.format, quantizer.scales[-1]
    code_of = _codes_of(format)
    job = Job(quantizer, x, ranges)
    rows, k = x.shape
    codes = fresh((rows, -(-k * format.bits // 8)), torch.uint8)
    scale_code_of = inside = None
    if job.block:
        is_small = finest.format != FLOAT32
        scale_code_of = _codes_of(finest.format) if is_small else None
        inside = torch.empty(rows, -(-(-(-k // job.block) * finest.format.bits) // 8), dtype=torch.uint8)
    packing = NativePacking(
        work=job.work(None, k), code_of=code_of.ctypes.data, codes=codes.data_ptr(),
        scale_code_of=None if scale_code_of is None else scale_code_of.ctypes.data,
        scales=None if inside is None else inside.data_ptr(), bits=format.bits, scale_bits=finest.format.bits,
        keeps_sign=isinstance(format, Minifloat) and format.signed,
    )  # fmt: skip
    outcome = found.bitwright_pack(ctypes.byref(packing), threads_for(x))
    if outcome == 1:
        raise NotFinite
    if outcome:
        raise Unsupported(f"{quantizer}")
    outer = [_scale_bytes(s.format, v) for s, v in zip(quantizer.scales, job.values, strict=False)]
    return Packed(codes, (*outer, *([] if inside is None else [inside])), None, k, quantizer)


def unpack_matrix(packed: Packed) -> Tensor:
    """The matrix in float32 [rows, k]. Raises `Unsupported` for what the library does not take."""
    quantizer, (rows, k) = packed.quantizer, packed.shape
    scales, finest = quantizer.scales, quantizer.scales[-1]
    outer = scales[:-1] if finest.share.splits_k else scales
    if not rounds_once(quantizer):
        raise Unsupported("elements times scales of more than 24 bits")
    if packed.zero_points is not None or any(s.share.splits_k for s in outer):
        raise Unsupported("packed codes with zero points, or several levels of scales along K")
    if any(1 < s.share.cell(rows, k)[0] < rows for s in scales) or not rows * k:
        raise Unsupported("tiles of rows, or an empty matrix")
    outside = torch.ones(1, 1, dtype=torch.float64)
    for scale, part in zip(outer, packed.scales, strict=False):
        outside = _scale_values(scale.format, part, 1).double() * outside
    inside, block = None, 0
    if finest.share.splits_k:
        block = quantizer.block(rows, k)
        inside = _scale_values(finest.format, packed.scales[-1], -(-k // block))
        inside = inside.expand(rows, -1).contiguous()
    out = fresh((rows, k))
    _unpack(quantizer.format, packed.codes, out, inside, outside.contiguous(), block)
    return out


def _scale_values(format: Format, part: Tensor, count: int) -> Tensor:
    if format == FLOAT32:
        return part.view(torch.float32)
    values = torch.empty(len(part), count)
    _unpack(format, part, values, None, None, 0)
    return values


def _unpack(
    format: Format, codes: Tensor, out: Tensor, inside: Tensor | None, outside: Tensor | None, block: int
) -> None:
    values, is_reserved = _values_of(format)
    codes = codes.contiguous()
    if codes.shape[1] * 8 < out.shape[1] * format.bits:
        raise ValueError(f"unpack: {codes.shape[1]} bytes found; {out.shape[1]} codes of {format.bits} bits need more")
    work = NativeUnpacking(
        codes=codes.data_ptr(), value_of=values.ctypes.data, inside=None if inside is None else inside.data_ptr(),
        outside=None if outside is None else outside.data_ptr(), out=out.data_ptr(), rows=len(out), k=out.shape[1],
        block=block, outside_rows=1 if outside is None else len(outside), bits=format.bits,
    )  # fmt: skip
    _calls().bitwright_unpack(ctypes.byref(work), threads_for(out))
    if is_reserved and bool(torch.isnan(out.sum(dtype=torch.float64))):  # float32's may be inf - inf
        raise ValueError(f"{format}: some codes stand for no number (NaN, infinity, unused) and cannot be decoded")


@cache
def _calls() -> ctypes.CDLL:
    size = ctypes.sizeof(NativePacking) + ctypes.sizeof(NativeUnpacking)
    found = library_with("packed codes", {"bitwright_packing_size": size})
    found.bitwright_pack.argtypes = [ctypes.POINTER(NativePacking), ctypes.c_int32]
    found.bitwright_unpack.argtypes = [ctypes.POINTER(NativeUnpacking), ctypes.c_int32]
    found.bitwright_unpack.restype = None
    return found


@lru_cache(maxsize=64)
def _codes_of(format: Format) -> np.ndarray:
    """The code of each value, at the upper half of the value's bits."""
    values, _ = _values_of(format)
    bits = values.view(np.uint32)
    codes = np.flatnonzero(~np.isnan(values))[::-1]  # of codes for one value the smallest is written last
    if np.any(bits[codes] & 0xFFFF):
        raise Unsupported(f"{format}: values of more than 7 mantissa bits")
    found = np.zeros(2**16, np.uint8)
    found[bits[codes] >> 16] = codes
    is_signed_float = isinstance(format, Minifloat) and format.signed
    found[0x8000] = 1 << (format.bits - 1) if is_signed_float else found[0]  # negative zero
    return found


@lru_cache(maxsize=64)
def _values_of(format: Format) -> tuple[np.ndarray, bool]:
    """The value of each code, NaN for reserved ones; and whether there are any."""
    if format.bits > 8 or format.bounds().reach or format.bounds().per_lane > 1:
        raise Unsupported(f"{format}: codes of more than 8 bits, or of several elements")
    codes = np.arange(2**format.bits)
    is_reserved = format.is_reserved(codes)
    values = np.full(len(codes), np.nan, np.float32)
    values[~is_reserved] = format.decode(codes[~is_reserved])
    return values, bool(is_reserved.any())


def _scale_bytes(format: Format, values: Tensor) -> Tensor:
    if format == FLOAT32:
        return values.contiguous().view(torch.uint8)
    return torch.from_numpy(pack(format.encode(values.numpy()), format.bits))
