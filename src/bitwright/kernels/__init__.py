"""Fast functions equal to the reference."""

import bitwright.kernels.groups  # noqa: F401  # registers its formats with `round_to`
from bitwright.kernels.dispatch import (
    PASSES,
    SlowKernel,
    allowed,
    allows,
    fake_quantize,
    matmul,
    only,
    pack,
    packed_layer,
    packed_linear,
    packed_matmul,
    quantize,
    represent,
    squared_errors,
    unpack,
)
from bitwright.kernels.matmul import Stationary, matmul_bound
from bitwright.kernels.native import Window
from bitwright.kernels.operand import Operand
from bitwright.kernels.outputs import (
    OneSum,
    depthwise,
    depthwise_scaled,
    one_sum,
    outputs,
    read_out,
    rescale,
    sum_in_order,
    sums_each,
)
from bitwright.kernels.packed import PackedWeight
from bitwright.kernels.packed_bytes import Packed
from bitwright.kernels.rounding import Unsupported
from bitwright.kernels.traced import traced
from bitwright.kernels.whole import whole_products

__all__ = [
    "PASSES",
    "OneSum",
    "Operand",
    "Packed",
    "PackedWeight",
    "SlowKernel",
    "Stationary",
    "Unsupported",
    "Window",
    "allowed",
    "allows",
    "depthwise",
    "depthwise_scaled",
    "fake_quantize",
    "matmul",
    "matmul_bound",
    "one_sum",
    "only",
    "outputs",
    "pack",
    "packed_layer",
    "packed_linear",
    "packed_matmul",
    "quantize",
    "read_out",
    "represent",
    "rescale",
    "squared_errors",
    "sum_in_order",
    "sums_each",
    "traced",
    "unpack",
    "whole_products",
]
