"""Fast functions equal to the reference."""

import bitwright.kernels.groups  # noqa: F401  # registers its formats with `round_to`
from bitwright.kernels.dispatch import (
    SlowKernel,
    allowed,
    fake_quantize,
    matmul,
    only,
    packed_layer,
    packed_linear,
    packed_matmul,
    quantize,
    represent,
)
from bitwright.kernels.matmul import Stationary, matmul_bound
from bitwright.kernels.operand import Operand
from bitwright.kernels.packed import PackedWeight
from bitwright.kernels.rounding import Unsupported

__all__ = [
    "Operand", "PackedWeight", "SlowKernel", "Stationary", "Unsupported", "allowed", "fake_quantize", "matmul",
    "matmul_bound", "only", "packed_layer", "packed_linear", "packed_matmul", "quantize", "represent",
]  # fmt: skip
