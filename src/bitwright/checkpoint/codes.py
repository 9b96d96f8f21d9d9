"""Weights as they lie in files, their extremes, and their codes under given scales.

Arithmetic is in the weight's own precision, as compressed-tensors (0.20, quantize) does it: a bfloat16 weight divided
by its scale is rounded to bfloat16 before it is rounded to a code. NumPy defines it here; the native library does the
same in one pass.
"""

import ctypes
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Float32, Shaped, UInt8

from bitwright.checkpoint.disk import Buffer
from bitwright.checkpoint.tensors import Entry
from bitwright.formats import E2M1, E2M3, E4M3, Format, Int, pack
from bitwright.native_library import NativeLibrary, library_path

KINDS = {"F32": 0, "BF16": 1, "F16": 2}
"""Types of weights that can be quantized, as the native library numbers them."""

STORED: dict[str, np.dtype[Any]] = {
    "F32": np.dtype(np.float32),
    "BF16": np.dtype(np.uint16),
    "F16": np.dtype(np.float16),
}

Rows = Shaped[np.ndarray, "rows k"]
Cells = Float32[np.ndarray, "rows groups"]


class NotFinite(ValueError):
    """A weight holds NaN or infinity."""


def magnitudes(rows: Rows, dtype: str, group: int) -> Cells:
    """The largest magnitude of each group of a row. Raises `NotFinite`."""
    if _native() is not None:
        return _finite(_extremes(rows, dtype, group)[1])
    starts = np.arange(0, rows.shape[1], group)
    with np.errstate(invalid="ignore"):
        return _finite(np.maximum.reduceat(np.abs(widen(rows, dtype)), starts, axis=1))


def extremes(rows: Rows, dtype: str, group: int) -> tuple[Cells, Cells]:
    """The least and the greatest value of each group of a row. Raises `NotFinite`."""
    if _native() is not None:
        low, high = _extremes(rows, dtype, group, is_signed=True)
    else:
        x, starts = widen(rows, dtype), np.arange(0, rows.shape[1], group)
        with np.errstate(invalid="ignore"):
            low, high = np.minimum.reduceat(x, starts, axis=1), np.maximum.reduceat(x, starts, axis=1)
    return _finite(low), _finite(high)


def _finite(found: Cells) -> Cells:
    if not np.isfinite(found).all():
        raise NotFinite("NaN or infinity found; only finite weights can be quantized")
    return found


@dataclass(frozen=True)
class Levels:
    """How rows become levels: one scale, and where there are any one zero point, for each group of a row."""

    dtype: str
    group: int
    scale: Cells
    zero: Cells | None = None
    is_rounded: bool = True


def packed_codes(
    rows: Rows, element: Format, levels: Levels, offset: int = 0, memory: Buffer | None = None
) -> UInt8[np.ndarray, "rows bytes"]:
    """Codes of E2M1, E2M3, E4M3 or of signed integers plus `offset`, packed densely, in `memory` where given.

    level = x / scale, rounded to the weight's type where `is_rounded`, then plus the zero point, rounded again.
    """
    if _native() is not None:
        return _codes(rows, element, levels, offset, memory)

    def spread(cells: Cells) -> Float[np.ndarray, "rows k"]:
        return np.repeat(cells, levels.group, 1)[:, : rows.shape[1]]

    level = widen(rows, levels.dtype) / spread(levels.scale)
    if levels.is_rounded:
        level = round_to(level, levels.dtype)
    if levels.zero is not None:
        level = round_to(level + spread(levels.zero), levels.dtype)
    if isinstance(element, Int):
        low, high = element.range
        codes = (np.rint(np.clip(level, low, high)).astype(np.int64) + offset) & (2**element.bits - 1)
    else:
        codes = element.encode(level)
        if element == E2M3:  # keeps the sign of zero, as no zero point is added to it
            codes = codes | (np.signbit(level).astype(np.int64) << (element.bits - 1))
    return pack(codes, element.bits)


def widen(x: Shaped[np.ndarray, "..."], dtype: str) -> Float[np.ndarray, "..."]:
    """As float32."""
    if dtype == "BF16":
        return (x.astype(np.uint32) << 16).view(np.float32)
    return x.astype(np.float32)


def round_to(x: np.ndarray | np.float32, dtype: str) -> np.ndarray:
    """float32 rounded to the nearest value of a type."""
    if dtype == "F32":
        return np.asarray(x, np.float32)
    if dtype == "F16":
        with np.errstate(over="ignore"):
            return np.asarray(x, np.float32).astype(np.float16).astype(np.float32)
    bits = np.array(x, np.float32).reshape(-1).view(np.uint32)
    odd = bits >> 16
    odd &= 1
    bits += odd  # in place: more memory would take longer than the sums
    bits += 0x7FFF
    bits &= 0xFFFF0000
    return bits.view(np.float32).reshape(np.shape(x))


def narrow(x: Float[np.ndarray, "..."], dtype: str) -> Shaped[np.ndarray, "..."]:
    """As stored, of values that the type has."""
    return (x.view(np.uint32) >> 16).astype(np.uint16) if dtype == "BF16" else x.astype(STORED[dtype])


def stored(content: memoryview, entry: Entry, rows: int) -> Rows:
    """Rows of a weight from their bytes; bfloat16 as uint16."""
    return np.require(np.frombuffer(content, STORED[entry.dtype]), requirements="A").reshape(rows, -1)


_ELEMENTS: dict[Format, int] = {E2M1: 1, E2M3: 2, E4M3: 3}


class _Job(ctypes.Structure):
    """Mirrors native/checkpoint.hpp."""

    _fields_: ClassVar = [
        ("x", ctypes.c_void_p), ("kind", ctypes.c_int32), ("rows", ctypes.c_int64), ("k", ctypes.c_int64),
        ("group", ctypes.c_int64), ("low", ctypes.c_void_p), ("high", ctypes.c_void_p), ("scale", ctypes.c_void_p),
        ("zero", ctypes.c_void_p), ("element", ctypes.c_int32), ("bits", ctypes.c_int32), ("offset", ctypes.c_int32),
        ("is_rounded", ctypes.c_int32), ("packed", ctypes.c_void_p), ("row_bytes", ctypes.c_int64),
    ]  # fmt: skip


@cache
def _native() -> ctypes.CDLL | None:
    path = library_path()
    found = None if path is None else NativeLibrary(str(path))
    if found is None or not hasattr(found, "bitwright_ran_out_of_memory"):
        return None
    found.bitwright_checkpoint_size.restype = ctypes.c_int64
    for run in (found.bitwright_checkpoint_extremes, found.bitwright_checkpoint_codes):
        run.argtypes, run.restype = [ctypes.POINTER(_Job), ctypes.c_int32], None
    return found if found.bitwright_checkpoint_size() == ctypes.sizeof(_Job) else None


def _job(rows: Rows, dtype: str, group: int, **rest: Any) -> _Job:
    return _Job(x=rows.ctypes.data, kind=KINDS[dtype], rows=rows.shape[0], k=rows.shape[1], group=group, **rest)


def _extremes(rows: Rows, dtype: str, group: int, is_signed: bool = False) -> tuple[Cells, Cells]:
    low, high = (np.empty((len(rows), -(-rows.shape[1] // group)), np.float32) for _ in range(2))
    job = _job(rows, dtype, group, low=low.ctypes.data if is_signed else None, high=high.ctypes.data)
    _native().bitwright_checkpoint_extremes(ctypes.byref(job), 1)  # type: ignore[union-attr]  # asked before
    return low, high


def _codes(
    rows: Rows, element: Format, levels: Levels, offset: int, memory: Buffer | None
) -> UInt8[np.ndarray, "rows bytes"]:
    if rows.shape[1] % 8:
        raise ValueError(f"rows of {rows.shape[1]} weights found; codes are packed in eights")
    scale = np.ascontiguousarray(levels.scale, np.float32)
    zero = None if levels.zero is None else np.ascontiguousarray(levels.zero, np.float32)
    row_bytes = rows.shape[1] * element.bits // 8
    size = len(rows) * row_bytes
    flat = np.empty(size, np.uint8) if memory is None else np.frombuffer(memory.view(size), np.uint8)
    packed = flat.reshape(len(rows), row_bytes)
    job = _job(
        rows, levels.dtype, levels.group, scale=scale.ctypes.data, zero=None if zero is None else zero.ctypes.data,
        element=_ELEMENTS.get(element, 0), bits=element.bits, offset=offset, is_rounded=levels.is_rounded,
        packed=packed.ctypes.data, row_bytes=row_bytes,
    )  # fmt: skip
    _native().bitwright_checkpoint_codes(ctypes.byref(job), 1)  # type: ignore[union-attr]  # asked before
    return packed
