"""Fast functions equal to the reference."""

import bitwright.kernels.groups  # noqa: F401  # registers its formats with `round_to`
from bitwright.kernels.dispatch import (
    SlowKernel,
    allows,
    fake_quantize,
    matmul,
    only,
    pack,
    quantize,
    represent,
    unpack,
)
from bitwright.kernels.matmul import Stationary, matmul_bound
from bitwright.kernels.operand import Operand
from bitwright.kernels.packed import Packed
from bitwright.kernels.rounding import Unsupported

__all__ = [
    "Operand", "Packed", "SlowKernel", "Stationary", "Unsupported", "allows", "fake_quantize", "matmul", "matmul_bound",
    "only", "pack", "quantize", "represent", "unpack",
]  # fmt: skip
