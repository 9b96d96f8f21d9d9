"""Quantization operators over torch: ONNX's, ONNX Runtime's integer ones, and QONNX's. See `onnx_math`.

Integer operators are computed in float64, which holds their sums exactly: K · 2**16 < 2**53.
"""

import math
from typing import Any

import torch
from onnx import TensorProto
from torch import Tensor

from bitwright.sources.onnx_file import BITS, KINDS
from bitwright.sources.onnx_math import Operator, axis_of
from bitwright.sources.onnx_types import integer_range, narrowed
from bitwright.sources.onnx_windows import conv


def spread(scale: Tensor, x: Tensor, axis: int, block_size: int) -> Tensor:
    """A scale or zero point of a tensor, of each index of an axis or of its blocks, in a shape that broadcasts."""
    if scale.numel() == 1:
        return scale.reshape(())
    along = axis_of(axis, x.dim())
    if scale.dim() == 1 and not (block_size and x.dim() == 1):
        return scale.view(*[-1 if i == along else 1 for i in range(x.dim())])
    size = block_size or -(-x.shape[along] // scale.shape[along])
    return scale.repeat_interleave(size, along).narrow(along, 0, x.shape[along])


def quantize(
    x: Tensor, scale: Tensor, zero: Tensor | None = None, *, axis: int = 1, block_size: int = 0, saturate: int = 1,
    output_dtype: int = 0, precision: int = 0,
) -> Tensor:  # fmt: skip
    kind = output_dtype or (TensorProto.UINT8 if zero is None else _kind_of(zero.dtype))
    inner = torch.float32 if scale.dtype.itemsize == 1 else scale.dtype
    inner = KINDS.get(precision, inner) if precision else inner
    level = x.to(inner) / spread(scale.to(inner), x, axis, block_size)
    offset = spread(zero, x, axis, block_size) if zero is not None else torch.zeros((), dtype=torch.int32)
    ends = integer_range(kind)
    if ends is None:
        return narrowed(level.float(), kind, bool(saturate))
    return (torch.round(level.double()) + offset.double()).clamp(*ends).to(KINDS[kind])


def _kind_of(carrier: torch.dtype) -> int:
    return next(kind for kind, found in KINDS.items() if found is carrier and kind not in BITS)


def dequantize(
    x: Tensor, scale: Tensor, zero: Tensor | None = None, *, axis: int = 1, block_size: int = 0, output_dtype: int = 0
) -> Tensor:
    result = KINDS[output_dtype] if output_dtype else torch.float32 if scale.dtype.itemsize == 1 else scale.dtype
    level = x.to(torch.float32 if x.is_floating_point() else torch.int64)
    if zero is not None:
        level = level - spread(zero, x, axis, block_size).to(level.dtype)
    by = spread(scale.float() if scale.dtype.itemsize == 1 else scale, x, axis, block_size)
    return (level.to(by.dtype) * by).to(result)


def dynamic(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    low, high = x.min().clamp(max=0), x.max().clamp(min=0)
    scale = (high - low) / 255
    zero = torch.where(scale > 0, torch.round(-low / scale), torch.zeros(())).clamp(0, 255).to(torch.uint8)
    return quantize(x, torch.where(scale > 0, scale, torch.ones(())), zero), scale, zero


def _levels(x: Tensor, zero: Tensor | None, axis: int) -> Tensor:
    if zero is None:
        return x.double()
    return x.double() - (zero.double() if zero.dim() > 1 else spread(zero.double(), x, axis, 0))


def matmul_integer(a: Tensor, b: Tensor, az: Tensor | None = None, bz: Tensor | None = None) -> Tensor:
    return (_levels(a, az, -2) @ _levels(b, bz, -1)).to(torch.int32)


def conv_integer(x: Tensor, w: Tensor, xz: Tensor | None = None, wz: Tensor | None = None, **options: Any) -> Tensor:
    return conv(_levels(x, xz, 1), _levels(w, wz, 0), **options).to(torch.int32)


def _requantized(y: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """Levels of the output, in units of it."""
    ends = torch.iinfo(zero.dtype)
    return (torch.round(y) + zero.double()).clamp(ends.min, ends.max).to(zero.dtype)


def qlinear_matmul(a: Tensor, a_scale: Tensor, a_zero: Tensor, b: Tensor, b_scale: Tensor, b_zero: Tensor,
                   y_scale: Tensor, y_zero: Tensor) -> Tensor:  # fmt: skip
    sums = _levels(a, a_zero, -2) @ _levels(b, b_zero, -1)
    left, right = spread(a_scale, a, -2, 0), spread(b_scale, b, -1, 0)
    return _requantized(sums * (left.double() * right.double() / y_scale.double()), y_scale, y_zero)


def qlinear_conv(x: Tensor, x_scale: Tensor, x_zero: Tensor, w: Tensor, w_scale: Tensor, w_zero: Tensor,
                 y_scale: Tensor, y_zero: Tensor, b: Tensor | None = None, **options: Any) -> Tensor:  # fmt: skip
    sums = conv(_levels(x, x_zero, 1), _levels(w, w_zero, 0), None if b is None else b.double(), **options)
    factor = x_scale.double() * w_scale.double().reshape(-1, *[1] * (x.dim() - 2)) / y_scale.double()
    return _requantized(sums * factor, y_scale, y_zero)


def qgemm(a: Tensor, a_scale: Tensor, a_zero: Tensor, b: Tensor, b_scale: Tensor, b_zero: Tensor,
          c: Tensor | None = None, y_scale: Tensor | None = None, y_zero: Tensor | None = None, *, alpha: float = 1.0,
          transA: int = 0, transB: int = 0) -> Tensor:  # fmt: skip
    left = _levels(a, a_zero, 0)
    right = _levels(b, b_zero, 0 if transB else 1)
    sums = (left.t() if transA else left) @ (right.t() if transB else right)
    sums = sums if c is None else sums + c.double()
    y = sums * (alpha * a_scale.double() * b_scale.double())
    if y_scale is None or y_zero is None:
        return y.float()
    return _requantized(y / y_scale.double(), y_scale, y_zero)


def qlinear(function: Operator) -> Operator:
    """Of one quantized input: (x, scale, zero, y scale, y zero)."""

    def compute(x: Tensor, x_scale: Tensor, x_zero: Tensor | None, y_scale: Tensor, y_zero: Tensor | None = None,
                **options: Any) -> Tensor:  # fmt: skip
        return quantize(function(dequantize(x, x_scale, x_zero), **options), y_scale, y_zero)

    return compute


def qlinear_two(function: Operator) -> Operator:
    def compute(a: Tensor, a_scale: Tensor, a_zero: Tensor | None, b: Tensor, b_scale: Tensor, b_zero: Tensor | None,
                y_scale: Tensor, y_zero: Tensor | None = None) -> Tensor:  # fmt: skip
        y = function(dequantize(a, a_scale, a_zero), dequantize(b, b_scale, b_zero))
        return quantize(y, y_scale, y_zero)

    return compute


def qlinear_concat(y_scale: Tensor, y_zero: Tensor, *parts: Tensor, axis: int) -> Tensor:
    real = [dequantize(*parts[i : i + 3]) for i in range(0, len(parts), 3)]
    return quantize(torch.cat(real, axis), y_scale, y_zero)


def global_average(x: Tensor, *, channels_last: int = 0) -> Tensor:
    return x.mean(list(range(1, x.dim() - 1) if channels_last else range(2, x.dim())), keepdim=True)


# QONNX: https://github.com/fastmachinelearning/qonnx/tree/main/docs/qonnx-custom-ops

_ROUNDINGS: dict[str, Operator] = {
    "ROUND": torch.round, "HALF_EVEN": torch.round, "CEIL": torch.ceil, "FLOOR": torch.floor,
    "UP": lambda x: torch.copysign(torch.ceil(x.abs()), x), "DOWN": torch.trunc, "ROUND_TO_ZERO": torch.trunc,
    "HALF_UP": lambda x: torch.copysign(torch.floor(x.abs() + 0.5), x),
    "HALF_DOWN": lambda x: torch.copysign(torch.ceil(x.abs() - 0.5), x),
}  # fmt: skip


def rounding(mode: str) -> Operator:
    """By QONNX's name."""
    if mode.upper() not in _ROUNDINGS:
        raise ValueError(f"rounding {mode!r}; {', '.join(_ROUNDINGS)} are computed")
    return _ROUNDINGS[mode.upper()]


def quant_range(bits: float, signed: int, narrow: int) -> tuple[float, float]:
    """Smallest and largest integer of a QONNX Quant."""
    if not 1 <= bits <= 62:
        raise ValueError(f"{bits} bits; 1 to 62 are computed")
    if signed:
        return -(2.0 ** (bits - 1)) + bool(narrow), 2.0 ** (bits - 1) - 1
    return 0.0, 2.0**bits - 1 - bool(narrow)


def quant_levels(x: Tensor, scale: Tensor, zero: Tensor, bits: Tensor, *, signed: int = 1, narrow: int = 0,
                 rounding_mode: str = "ROUND") -> Tensor:  # fmt: skip
    """Integers that a Quant stands for, its zero point included."""
    low, high = quant_range(float(bits.max()), signed, narrow)
    return rounding(rounding_mode)((x / scale + zero).clamp(low, high))


def quant(x: Tensor, scale: Tensor, zero: Tensor, bits: Tensor, **options: Any) -> Tensor:
    return (quant_levels(x, scale, zero, bits, **options) - zero) * scale


def bipolar(x: Tensor, scale: Tensor) -> Tensor:
    return torch.where(x >= 0, scale, -scale)


def trunc(x: Tensor, scale: Tensor, zero: Tensor, in_bits: Tensor, *rest: Tensor, rounding_mode: str = "FLOOR",
          signed: int = 1, narrow: int = 0) -> Tensor:  # fmt: skip
    """Version 1 (scale, zero, bits in and out), or 2 with the scale of the output before its bits."""
    level = torch.round(x / scale) + zero
    if len(rest) == 1:
        factor = 2.0 ** torch.round(in_bits - rest[0])
        return (rounding(rounding_mode)(level / factor) - zero) * scale
    out_scale, out_bits = rest
    factor = 2.0 ** torch.round(torch.log2(out_scale / scale))
    low, high = quant_range(float(out_bits), signed, narrow)
    return (rounding(rounding_mode)(level / factor).clamp(low, high) - zero / factor) * out_scale


def float_quant(
    x: Tensor, scale: Tensor, exponent_bits: Tensor, mantissa_bits: Tensor, exponent_bias: Tensor, max_val: Tensor, *,
    has_inf: int = 0, has_nan: int = 0, has_subnormal: int = 1, rounding_mode: str = "ROUND", saturation: int = 1,
) -> Tensor:  # fmt: skip
    level = (x / scale).double()
    smallest = 1.0 - exponent_bias.double()
    exponent = torch.floor(torch.log2(level.abs().clamp(min=2.0**-1000))).clamp(min=smallest)
    step = torch.pow(2.0, exponent - mantissa_bits.double())
    value = rounding(rounding_mode)(level / step) * step
    if not has_subnormal:
        value = torch.where(value.abs() < 2.0**smallest, torch.zeros_like(value), value)
    over = value.abs() > max_val.double()
    top = max_val.double() if saturation else torch.tensor(math.inf if has_inf else math.nan, dtype=torch.float64)
    return torch.where(over, torch.copysign(top, value), value).to(x.dtype) * scale


QUANTIZE: dict[str, Operator] = {
    "QuantizeLinear": quantize, "DequantizeLinear": dequantize, "DynamicQuantizeLinear": dynamic,
    "MatMulInteger": matmul_integer, "ConvInteger": conv_integer, "QLinearMatMul": qlinear_matmul,
    "QLinearConv": qlinear_conv,
}  # fmt: skip

ONNX_RUNTIME: dict[str, Operator] = {
    "QuantizeLinear": quantize, "DequantizeLinear": dequantize, "QGemm": qgemm,
    "QLinearAdd": qlinear_two(torch.add), "QLinearMul": qlinear_two(torch.mul),
    "QLinearGlobalAveragePool": qlinear(global_average), "QLinearSigmoid": qlinear(torch.sigmoid),
    "QLinearConcat": qlinear_concat,
}  # fmt: skip

QONNX: dict[str, Operator] = {
    "Quant": quant, "IntQuant": quant, "BipolarQuant": bipolar, "Trunc": trunc, "FloatQuant": float_quant,
}  # fmt: skip

QONNX_DOMAINS = ("qonnx.custom_op.general", "finn.custom_op.general", "onnx.brevitas")
