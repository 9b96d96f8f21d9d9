"""Kernels by the native library, equal to the reference bit for bit."""

from contextlib import suppress

from torch import Tensor

from bitwright.kernels.native import groups, scalars, tiles
from bitwright.kernels.native.multiply import matmul
from bitwright.kernels.native.outputs import depthwise, rescale
from bitwright.kernels.native.packed import FloatProduct, IntegerProduct, TokenProduct
from bitwright.kernels.native.packing import pack_matrix, unpack_matrix
from bitwright.kernels.native.scalars import NotFinite
from bitwright.kernels.native.scaled_taps import Window, depthwise_scaled
from bitwright.kernels.native.search import squared_errors
from bitwright.kernels.native.statistics import count_magnitudes, summarize
from bitwright.kernels.operand import Operand
from bitwright.kernels.rounding import Unsupported
from bitwright.quantization import Quantizer, Range

__all__ = [
    "FloatProduct", "IntegerProduct", "NotFinite", "TokenProduct", "Window", "count_magnitudes", "depthwise",
    "depthwise_scaled", "fake_quantize", "matmul", "pack_matrix", "quantize", "rescale", "squared_errors", "summarize",
    "unpack_matrix",
]  # fmt: skip


def quantize(quantizer: Quantizer, x: Tensor, ranges: tuple[Range | None, ...] = ()) -> Operand:
    """Quantize float32 x [rows, k]. Raises `Unsupported` for what the library does not take, or `NotFinite`."""
    for kernels in (scalars, tiles):
        with suppress(Unsupported):
            return kernels.quantize(quantizer, x, ranges)
    return groups.quantize(quantizer, x, ranges)


def fake_quantize(
    quantizer: Quantizer, x: Tensor, ranges: tuple[Range | None, ...] = (), out: Tensor | None = None
) -> Tensor:
    """decode(quantize(x)) in float32, into `out` where given; it may be x."""
    for kernels in (scalars, tiles):
        with suppress(Unsupported):
            return kernels.fake_quantize(quantizer, x, ranges, out)
    return groups.fake_quantize(quantizer, x, ranges, out)
