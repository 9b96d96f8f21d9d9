"""Kernels by the native library, equal to the reference bit for bit."""

from bitwright.kernels.native.outputs import depthwise, rescale
from bitwright.kernels.native.packed import FloatProduct, IntegerProduct, TokenProduct
from bitwright.kernels.native.packing import pack_matrix, unpack_matrix
from bitwright.kernels.native.registers import matmul
from bitwright.kernels.native.scalars import NotFinite, fake_quantize, quantize

__all__ = [
    "FloatProduct",
    "IntegerProduct",
    "NotFinite",
    "TokenProduct",
    "depthwise",
    "fake_quantize",
    "matmul",
    "pack_matrix",
    "quantize",
    "rescale",
    "unpack_matrix",
]
