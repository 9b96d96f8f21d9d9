"""Fast functions equal to the reference."""

import bitwright.kernels.groups  # noqa: F401  # registers its formats with `round_to`
from bitwright.kernels.dispatch import SlowKernel, fake_quantize, matmul, only, quantize, represent
from bitwright.kernels.matmul import Stationary, matmul_bound
from bitwright.kernels.operand import Operand
from bitwright.kernels.rounding import Unsupported
from bitwright.kernels.traced import traced
from bitwright.kernels.whole import whole_products

__all__ = [
    "Operand", "SlowKernel", "Stationary", "Unsupported", "fake_quantize", "matmul", "matmul_bound", "only", "quantize",
    "represent", "traced", "whole_products",
]  # fmt: skip
