"""Kernels by the native library, equal to the reference bit for bit."""

from bitwright.kernels.native.packed import FloatProduct, IntegerProduct, TokenProduct
from bitwright.kernels.native.scalars import NotFinite, fake_quantize, quantize

__all__ = ["FloatProduct", "IntegerProduct", "NotFinite", "TokenProduct", "fake_quantize", "quantize"]
