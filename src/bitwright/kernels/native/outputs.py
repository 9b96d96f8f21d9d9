"""Exact sums of one channel, and exact sums to outputs, by the native library."""

import ctypes
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor

from bitwright.kernels.library import library_with
from bitwright.kernels.rounding import Unsupported

LARGE = 1 << 20
"""Outputs from which on a second thread is worth its start."""


class NativeRescaling(ctypes.Structure):
    """Mirrors native/outputs.hpp."""

    _fields_: ClassVar = [
        ("sums", ctypes.c_void_p), ("out", ctypes.c_void_p), ("rows", ctypes.c_int64), ("n", ctypes.c_int64),
        ("of_rows", ctypes.c_void_p), ("row_scales", ctypes.c_int64), ("of_columns", ctypes.c_void_p),
        ("bias", ctypes.c_void_p), ("is_wide", ctypes.c_int32),
    ]  # fmt: skip


class NativeTaps(ctypes.Structure):
    """Mirrors native/outputs.hpp."""

    _fields_: ClassVar = [
        ("x", ctypes.c_void_p), ("weight", ctypes.c_void_p), ("out", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in (
            "batch", "height", "width", "pitch", "channels", "kernel_height", "kernel_width", "stride_y", "stride_x",
            "dilation_y", "dilation_x", "top", "left", "down", "across",
        )),
        ("is_wide", ctypes.c_int32),
    ]  # fmt: skip


def rescale(sums: Tensor, of_rows: Tensor, of_columns: Tensor, bias: Tensor | None, out: Tensor) -> Tensor:
    """float32 of sums [m, n] · of_rows [m or 1] · of_columns [n], plus a bias, into `out`; which may be `sums`."""
    found = _functions()
    m, n = sums.shape
    assert of_rows.numel() in (1, m), "a scale for each row"
    assert of_columns.numel() == n, "a scale for each column"
    if sums.dtype not in (torch.float32, torch.float64) or not (sums.is_contiguous() and out.is_contiguous()):
        raise Unsupported(f"sums of {sums.dtype} at other strides than a matrix'")
    if any(t.device.type != "cpu" for t in (sums, of_rows, of_columns, out)) or torch.compiler.is_compiling():
        raise Unsupported(f"sums on {sums.device.type}")
    of_rows, of_columns = of_rows.contiguous(), of_columns.contiguous()
    bias = None if bias is None else bias.float().contiguous()
    job = NativeRescaling(
        sums=sums.data_ptr(), out=out.data_ptr(), rows=m, n=n, of_rows=of_rows.data_ptr(), row_scales=of_rows.numel(),
        of_columns=of_columns.data_ptr(), bias=None if bias is None else bias.data_ptr(),
        is_wide=sums.dtype == torch.float64,
    )  # fmt: skip
    found.bitwright_rescale(ctypes.byref(job), threads_for(out))
    return out


def depthwise(
    x: Tensor, weight: Tensor, out: Tensor, stride: tuple[int, int], dilation: tuple[int, int], corner: tuple[int, int]
) -> Tensor:
    """Sums over the taps of each channel, in their order, into `out` [batch, down, across, channels].

    x [batch, height, width, at least channels] and weight [taps down, taps across, channels] are float32; sums are in
    the type of `out`, float32 or float64. `corner` is how many rows and columns of zeros lie above and left of x.
    """
    found = _functions()
    if any(t.device.type != "cpu" or not t.is_contiguous() for t in (x, weight, out)):
        raise Unsupported("channels that do not lie next to each other on the CPU")
    if x.dtype != torch.float32 or weight.dtype != torch.float32:
        raise Unsupported(f"channels of {x.dtype} and {weight.dtype}")
    batch, height, width, pitch = x.shape
    job = NativeTaps(
        x=x.data_ptr(), weight=weight.data_ptr(), out=out.data_ptr(), batch=batch, height=height, width=width,
        pitch=pitch, channels=weight.shape[2], kernel_height=weight.shape[0], kernel_width=weight.shape[1],
        stride_y=stride[0], stride_x=stride[1], dilation_y=dilation[0], dilation_x=dilation[1],
        top=corner[0], left=corner[1], down=out.shape[1], across=out.shape[2],
        is_wide=out.dtype == torch.float64,
    )  # fmt: skip
    found.bitwright_depthwise(ctypes.byref(job), threads_for(out))
    return out


@cache
def _functions() -> ctypes.CDLL:
    sizes = {
        "bitwright_rescaling_size": ctypes.sizeof(NativeRescaling),
        "bitwright_taps_size": ctypes.sizeof(NativeTaps),
    }
    found = library_with("outputs", sizes)
    found.bitwright_rescale.argtypes = [ctypes.POINTER(NativeRescaling), ctypes.c_int32]
    found.bitwright_rescale.restype = None
    found.bitwright_depthwise.argtypes = [ctypes.POINTER(NativeTaps), ctypes.c_int32]
    found.bitwright_depthwise.restype = None
    return found


def threads_for(outputs: Tensor) -> int:
    """torch's number of threads, where the work is worth their start."""
    return torch.get_num_threads() if outputs.numel() >= LARGE else 1
