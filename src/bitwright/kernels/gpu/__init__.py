"""Kernels in Triton for CUDA and ROCm, equal to the reference bit for bit. Importing this package needs Triton."""

from bitwright.kernels.gpu.groups import round_to
from bitwright.kernels.gpu.launch import INTERPRETED, takes
from bitwright.kernels.gpu.products import matmul
from bitwright.kernels.gpu.scalars import NotFinite, fake_quantize, quantize
from bitwright.kernels.gpu.steps import backward

__all__ = ["INTERPRETED", "NotFinite", "backward", "fake_quantize", "matmul", "quantize", "round_to", "takes"]
