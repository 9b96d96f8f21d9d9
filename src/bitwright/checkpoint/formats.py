"""How checkpoints store 4-bit weights: compressed-tensors' layouts, which vLLM and transformers read.

The values and the order of operations are that library's (0.20, calculate_qparams and quantize), in the weight's own
precision: a bfloat16 weight is divided by a bfloat16 scale and rounded to bfloat16 before it is rounded to an integer.
NumPy defines them here; the native library does the same in one pass.
"""

import ctypes
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Shaped, UInt8

from bitwright.checkpoint.tensors import Entry
from bitwright.formats import E2M1, E4M3, pack
from bitwright.native_library import library_path

KINDS = {"F32": 0, "BF16": 1, "F16": 2}
"""Types of weights that can be quantized, as the native library numbers them."""

_STORED: dict[str, np.dtype[Any]] = {
    "F32": np.dtype(np.float32),
    "BF16": np.dtype(np.uint16),
    "F16": np.dtype(np.float16),
}
_EPSILON = {"F32": 2.0**-23, "BF16": 2.0**-7, "F16": 2.0**-10}


class CheckpointFormat(ABC):
    """What becomes of a weight [rows, k]: the tensors that replace it, and their bytes."""

    @property
    @abstractmethod
    def group(self) -> int:
        """Elements that share a scale."""

    @abstractmethod
    def entries(self, weight: Entry) -> list[Entry]:
        """The tensors that replace the weight, in the order of their parts."""

    @abstractmethod
    def quantize(self, rows: Shaped[np.ndarray, "rows k"], dtype: str, largest: float) -> tuple[np.ndarray, np.ndarray]:
        """Packed codes and scales of some rows, as stored; `largest` is the magnitude that `needs_largest` asks for."""

    @abstractmethod
    def constant(self, weight: Entry, largest: float) -> bytes:
        """The last tensor, which no row changes."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """`weights` and `format` of config.json's quantization_config."""

    @property
    @abstractmethod
    def needs_largest(self) -> bool:
        """Whether the largest magnitude of the whole weight, and of those fused with it, must be known before."""


@dataclass(frozen=True)
class Int4Groups(CheckpointFormat):
    """Symmetric int4 with a scale for each group of a row, in the weight's type: pack-quantized."""

    group: int = 128

    def entries(self, weight: Entry) -> list[Entry]:
        (rows, k), base = weight.shape, weight.name
        return [
            Entry(f"{base}_packed", "I32", (rows, k // 8)),
            Entry(f"{base}_scale", weight.dtype, (rows, k // self.group)),
            Entry(f"{base}_shape", "I64", (2,)),
        ]

    def quantize(self, rows: Shaped[np.ndarray, "rows k"], dtype: str, largest: float) -> tuple[np.ndarray, np.ndarray]:
        if _native() is not None:
            return _by_library("bitwright_checkpoint_int4", rows, dtype, self.group, rows.dtype, 1.0)
        return int4_groups(rows, dtype, self.group)

    def constant(self, weight: Entry, largest: float) -> bytes:
        return np.asarray(weight.shape, np.int64).tobytes()

    def config(self) -> dict[str, Any]:
        return {
            "format": "pack-quantized",
            "weights": {
                "num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": self.group,
                "dynamic": False,
            },
        }  # fmt: skip

    @property
    def needs_largest(self) -> bool:
        return False


@dataclass(frozen=True)
class Nvfp4(CheckpointFormat):
    """E2M1 with an E4M3 scale for 16 elements and a float32 one a tensor, stored inverted: nvfp4-pack-quantized."""

    @property
    def group(self) -> int:
        return 16

    def entries(self, weight: Entry) -> list[Entry]:
        (rows, k), base = weight.shape, weight.name
        return [
            Entry(f"{base}_packed", "U8", (rows, k // 2)), Entry(f"{base}_scale", "F8_E4M3", (rows, k // 16)),
            Entry(f"{base}_global_scale", "F32", (1,)),
        ]  # fmt: skip

    def quantize(self, rows: Shaped[np.ndarray, "rows k"], dtype: str, largest: float) -> tuple[np.ndarray, np.ndarray]:
        scale = global_scale(largest, dtype)
        if _native() is not None:
            return _by_library("bitwright_checkpoint_nvfp4", rows, dtype, 16, np.dtype(np.uint8), float(scale))
        return nvfp4_blocks(rows, dtype, scale)

    def constant(self, weight: Entry, largest: float) -> bytes:
        return np.asarray([global_scale(largest, weight.dtype)], np.float32).tobytes()

    def config(self) -> dict[str, Any]:
        return {
            "format": "nvfp4-pack-quantized",
            "weights": {
                "num_bits": 4, "type": "float", "symmetric": True, "strategy": "tensor_group", "group_size": 16,
                "dynamic": False, "scale_dtype": "torch.float8_e4m3fn", "zp_dtype": "torch.float8_e4m3fn",
            },
        }  # fmt: skip

    @property
    def needs_largest(self) -> bool:
        return True


def int4_groups(
    rows: Shaped[np.ndarray, "rows k"], dtype: str, group: int
) -> tuple[UInt8[np.ndarray, "rows bytes"], Shaped[np.ndarray, "rows groups"]]:
    """Scale = largest magnitude / 7.5, a zero one the type's epsilon; codes are integers from -8 to 7, plus 8."""
    x = widen(rows, dtype).reshape(len(rows), -1, group)
    scale = round_to(np.abs(x).max(2) / np.float32(7.5), dtype)
    scale = np.where(scale == 0, np.float32(_EPSILON[dtype]), scale)
    level = np.clip(round_to(x / scale[..., None], dtype), -8, 7)
    codes = np.rint(level).astype(np.int64) + 8
    return pack(codes.reshape(len(rows), -1), 4), narrow(scale, dtype)


def nvfp4_blocks(
    rows: Shaped[np.ndarray, "rows k"], dtype: str, scale: np.float32
) -> tuple[UInt8[np.ndarray, "rows bytes"], UInt8[np.ndarray, "rows blocks"]]:
    """Block scale = E4M3(global · largest / 6), a zero one 0.125; elements E2M1(x / (block scale / global))."""
    x = widen(rows, dtype).reshape(len(rows), -1, 16)
    codes = E4M3.encode(scale * round_to(np.abs(x).max(2) / np.float32(6), dtype))
    codes = np.where(codes == 0, E4M3.encode(np.asarray([0.125]))[0], codes)
    by = E4M3.decode(codes).astype(np.float32) / scale
    return pack(E2M1.encode(x / by[..., None]).reshape(len(rows), -1), 4), codes.astype(np.uint8)


def global_scale(largest: float, dtype: str) -> np.float32:
    """448 · 6 / the largest magnitude, in the weight's type; 1 where that overflows."""
    tiny = {"F32": 2.0**-126, "BF16": 2.0**-126, "F16": 2.0**-14}[dtype]
    with np.errstate(over="ignore"):
        scale = round_to(np.float32(448 * 6) / np.maximum(np.float32(largest), np.float32(tiny)), dtype)
    return np.float32(1) if not np.isfinite(scale) else np.float32(scale)


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
    bits = np.asarray(x, np.float32).reshape(-1).view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32).reshape(np.shape(x))


def narrow(x: Float[np.ndarray, "..."], dtype: str) -> Shaped[np.ndarray, "..."]:
    """As stored, of values that the type has."""
    return (x.view(np.uint32) >> 16).astype(np.uint16) if dtype == "BF16" else x.astype(_STORED[dtype])


def stored(content: memoryview, entry: Entry, rows: int) -> Shaped[np.ndarray, "rows k"]:
    """Rows of a weight from their bytes; bfloat16 as uint16."""
    return np.frombuffer(content, _STORED[entry.dtype]).reshape(rows, -1)


def largest_magnitude(rows: Shaped[np.ndarray, "rows k"], dtype: str) -> float:
    """Infinity where a value is not finite."""
    found = _native()
    if found is not None:
        job = _Rows(x=rows.ctypes.data, kind=KINDS[dtype], rows=rows.shape[0], k=rows.shape[1], group=1)
        value = float(np.int32(found.bitwright_checkpoint_largest(ctypes.byref(job))).view(np.float32))
    else:
        value = float(np.abs(widen(rows, dtype)).max(initial=0))
    return value if np.isfinite(value) else np.inf


class _Rows(ctypes.Structure):
    """Mirrors native/checkpoint.hpp."""

    _fields_: ClassVar = [
        ("x", ctypes.c_void_p), ("kind", ctypes.c_int32), ("rows", ctypes.c_int64), ("k", ctypes.c_int64),
        ("group", ctypes.c_int64), ("packed", ctypes.c_void_p), ("scales", ctypes.c_void_p),
        ("global_scale", ctypes.c_float),
    ]  # fmt: skip


@cache
def _native() -> ctypes.CDLL | None:
    path = library_path()
    found = None if path is None else ctypes.CDLL(str(path))
    if not hasattr(found, "bitwright_checkpoint_size") or found.bitwright_checkpoint_size() != ctypes.sizeof(_Rows):  # type: ignore[union-attr]
        return None
    for name in ("bitwright_checkpoint_int4", "bitwright_checkpoint_nvfp4"):
        getattr(found, name).argtypes = [ctypes.POINTER(_Rows), ctypes.c_int32]
        getattr(found, name).restype = None
    found.bitwright_checkpoint_largest.argtypes = [ctypes.POINTER(_Rows)]  # type: ignore[union-attr]
    return found


def _by_library(
    name: str, rows: np.ndarray, dtype: str, group: int, scales: np.dtype[Any], scale: float
) -> tuple[np.ndarray, np.ndarray]:
    count, k = rows.shape
    packed, found = np.empty((count, k // 2), np.uint8), np.empty((count, k // group), scales)
    job = _Rows(
        x=rows.ctypes.data, kind=KINDS[dtype], rows=count, k=k, group=group, packed=packed.ctypes.data,
        scales=found.ctypes.data, global_scale=scale,
    )  # fmt: skip
    getattr(_native(), name)(ctypes.byref(job), 1)
    return packed, found
