"""Channels alone under block scales in an integer register, each tap a block, by the native library."""

import ctypes
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor

from bitwright.datapath import Datapath, Overflow
from bitwright.kernels.library import library_with
from bitwright.kernels.native.outputs import NativeTaps, threads_for
from bitwright.kernels.native.scale_products import ScaleProducts
from bitwright.kernels.operand import Operand
from bitwright.kernels.rounding import Unsupported


@dataclass(frozen=True)
class Window:
    """How the taps of an output lie on an image; `corner` is rows and columns of zeros above and left of it."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    corner: tuple[int, int]


class NativeScaledTaps(ctypes.Structure):
    """Mirrors native/outputs.hpp."""

    _fields_: ClassVar = [
        ("taps", NativeTaps), ("x_inside", ctypes.c_void_p), ("w_inside", ctypes.c_void_p),
        ("block", ctypes.c_int64), ("blocks", ctypes.c_int64), ("x_by", ctypes.c_float),
        *((name, ctypes.c_int32) for name in ("shift", "up", "odd", "most", "low", "high")),
    ]  # fmt: skip


def depthwise_scaled(
    datapath: Datapath, x: Operand, image: tuple[int, int, int], w: Operand, window: Window, out: Tensor
) -> int:
    """The outer register's sums into `out` [batch, down, across, channels], and how many overflow changed.

    x has a row a pixel of the image (batch, height, width), w a row a channel.
    """
    batch, down, across, channels = out.shape
    (height, width), taps = image[1:], window.kernel[0] * window.kernel[1]
    if (
        x.inside is None
        or len({x.k, w.rows, channels}) > 1
        or datapath.tile is not None
        or datapath.product is not None
    ):
        raise Unsupported("scales outside of the sum, or several filters a channel")
    if any(t.device.type != "cpu" for t in (x.elements, w.elements, out)) or not out.is_contiguous():
        raise Unsupported("outputs that do not lie next to each other on the CPU")
    products, limits = ScaleProducts.of(datapath, x, w), _limits(datapath, x, w, taps)
    weight = (w.flat()[:, :taps].T * 2.0**-w.unit).contiguous()
    x_inside, pixels = x.inside.float().contiguous(), x.flat().contiguous()
    w_inside = _of_taps(w, taps)
    unit = 2.0 ** (x.unit + w.unit + products.exponent)
    job = NativeScaledTaps(
        NativeTaps(
            x=pixels.data_ptr(), weight=weight.data_ptr(), out=out.data_ptr(), batch=batch, height=height, width=width,
            pitch=pixels.shape[1], channels=channels, kernel_height=window.kernel[0], kernel_width=window.kernel[1],
            stride_y=window.stride[0], stride_x=window.stride[1], dilation_y=window.dilation[0],
            dilation_x=window.dilation[1], top=window.corner[0], left=window.corner[1], down=down, across=across,
        ),
        x_inside=x_inside.data_ptr(), w_inside=w_inside.data_ptr(), block=x.elements.shape[2], blocks=x_inside.shape[1],
        x_by=2.0**-x.unit, low=limits[0], high=limits[1], **products.rounding,
    )  # fmt: skip
    overflows: int = _function()(ctypes.byref(job), threads_for(out))
    out.mul_(unit)
    return overflows


def _limits(datapath: Datapath, x: Operand, w: Operand, taps: int) -> tuple[int, int]:
    """Of the register, or of all sums that there may be, which float32 holds. Raises `Unsupported`."""
    inner, outer = datapath.inner, datapath.outer
    product = x.largest * w.largest
    if not (inner.is_integer and outer.is_integer) or inner.readout is not None:
        raise Unsupported("registers of floats")
    if inner.range is not None and product > min(-inner.range[0], inner.range[1]):
        raise Unsupported("an inner register that block sums may leave")
    bound = int(product * taps * ScaleProducts.of(datapath, x, w).largest)
    if bound >= 2**24 and (outer.range is None or outer.range[1] >= 2**24 or 2 * bound >= 2**31):
        raise Unsupported("sums that float32 does not hold")
    if outer.range is None or bound <= min(-outer.range[0], outer.range[1]):
        return -bound, bound
    if outer.overflow is not Overflow.SATURATE:
        raise Unsupported("an outer register that wraps, or forbids and overflows")
    return outer.range


def _of_taps(w: Operand, taps: int) -> Tensor:
    """Scales of w [taps, channels]."""
    if w.inside is None:
        return torch.ones(taps, w.rows)
    return w.inside.float().repeat_interleave(w.elements.shape[2], 1)[:, :taps].T.contiguous()


@cache
def _function() -> "ctypes._FuncPointer":
    size = {"bitwright_scaled_taps_size": ctypes.sizeof(NativeScaledTaps)}
    function = library_with("channels alone", size).bitwright_depthwise_integers
    function.argtypes, function.restype = [ctypes.POINTER(NativeScaledTaps), ctypes.c_int32], ctypes.c_int64
    return function
