"""Statistics of a batch by the native library: the same extremes, sums and bins as the reference's."""

import ctypes
from functools import cache
from typing import ClassVar

import numpy as np

from bitwright.kernels.library import library
from bitwright.kernels.rounding import Unsupported
from bitwright.quantization import Summary
from bitwright.quantization.ranges import BINS


class NativeSummary(ctypes.Structure):
    """What one pass finds; mirrors native/search.hpp."""

    _fields_: ClassVar = [
        ("low", ctypes.c_double), ("high", ctypes.c_double), ("total", ctypes.c_double),
        ("total_magnitude", ctypes.c_double), ("total_square", ctypes.c_double), ("zeros", ctypes.c_int64),
    ]  # fmt: skip


def summarize(x: np.ndarray) -> Summary:
    """`bitwright.quantization.summarize` of float32 values. Raises `Unsupported` for others, or none."""
    x = _checked(x)
    found = NativeSummary()
    _library().bitwright_summarize(x.ctypes.data, x.size, ctypes.byref(found))
    return Summary(found.low, found.high, found.zeros, found.total, found.total_magnitude, found.total_square)


def count_magnitudes(x: np.ndarray, width: float) -> np.ndarray:
    """`bitwright.quantization.count_magnitudes` of finite float32 values. Raises `Unsupported` for others, or none."""
    x = _checked(x)
    if width <= 0:
        raise Unsupported("bins without a width")
    counts = np.zeros(BINS, np.int64)
    _library().bitwright_count_bins(x.ctypes.data, x.size, width, counts.ctypes.data)
    return counts


def _checked(x: np.ndarray) -> np.ndarray:
    if x.dtype != np.float32 or not x.size:
        raise Unsupported(f"{x.dtype} {x.shape}")
    return np.ascontiguousarray(x)


@cache
def _library() -> ctypes.CDLL:
    found = library()
    if found is None or not hasattr(found, "bitwright_count_bins"):
        raise Unsupported("statistics without the native library")
    found.bitwright_summarize.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.POINTER(NativeSummary)]
    found.bitwright_summarize.restype = None
    found.bitwright_count_bins.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_double, ctypes.c_void_p]
    found.bitwright_count_bins.restype = None
    return found
