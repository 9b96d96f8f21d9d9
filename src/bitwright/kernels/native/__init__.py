"""Kernels by the native library, equal to the reference bit for bit."""

from bitwright.kernels.native.outputs import depthwise, rescale
from bitwright.kernels.native.scalars import NotFinite, fake_quantize, quantize

__all__ = ["NotFinite", "depthwise", "fake_quantize", "quantize", "rescale"]
