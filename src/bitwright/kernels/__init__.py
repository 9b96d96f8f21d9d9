"""Fast functions equal to the reference."""

import bitwright.kernels.groups  # noqa: F401  # registers its formats with `round_to`
from bitwright.kernels.dispatch import (
    PASSES,
    SlowKernel,
    fake_quantize,
    matmul,
    only,
    quantize,
    represent,
    squared_errors,
)
from bitwright.kernels.matmul import Stationary, matmul_bound
from bitwright.kernels.operand import Operand
from bitwright.kernels.rounding import Unsupported

__all__ = [
    "PASSES", "Operand", "SlowKernel", "Stationary", "Unsupported", "fake_quantize", "matmul", "matmul_bound", "only",
    "quantize", "represent", "squared_errors",
]  # fmt: skip
