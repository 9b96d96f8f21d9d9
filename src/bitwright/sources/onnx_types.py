"""ONNX's element types as torch carries them: what a Cast makes of a value."""

import math

import torch
from onnx import TensorProto
from torch import Tensor

from bitwright.sources.onnx_file import KINDS

_INTEGERS: dict[int, tuple[int, int]] = {
    TensorProto.INT2: (-2, 1), TensorProto.UINT2: (0, 3), TensorProto.INT4: (-8, 7), TensorProto.UINT4: (0, 15),
}  # fmt: skip
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def integer_range(kind: int) -> tuple[int, int] | None:
    """Of an integer type of ONNX."""
    if kind in _INTEGERS:
        return _INTEGERS[kind]
    carrier = KINDS.get(kind)
    if carrier is None or carrier.is_floating_point or carrier is torch.bool:
        return None
    return torch.iinfo(carrier).min, torch.iinfo(carrier).max


def narrowed(x: Tensor, kind: int, saturate: bool = True) -> Tensor:
    """x as the carrier of ONNX's type `kind`, without a scale: wrapped or rounded as a Cast does."""
    carrier = KINDS[kind]
    if x.dtype is torch.float8_e8m0fnu:
        x = x.float()
    if carrier is torch.bool:
        return (x.float() if x.dtype.itemsize == 1 and x.is_floating_point() else x) != 0
    if kind == TensorProto.FLOAT4E2M1:
        return _nearest_e2m1(x.float())
    if kind in _INTEGERS:
        low, high = _INTEGERS[kind]
        whole = torch.trunc(x.double()).to(torch.int64) if x.is_floating_point() else x.to(torch.int64)
        return ((whole - low) % (high - low + 1) + low).to(carrier)
    if carrier is torch.float8_e8m0fnu:
        return _power_of_two(x.float())
    if carrier.is_floating_point and carrier.itemsize == 1:
        return _float8(x.float(), carrier, saturate)
    if x.is_floating_point() and not carrier.is_floating_point:
        return x.double().to(torch.int64).to(carrier) if carrier.itemsize < 8 else x.double().to(carrier)
    return x.to(carrier)


_OVER = {
    torch.float8_e4m3fn: (464.0, math.nan), torch.float8_e4m3fnuz: (math.nextafter(248.0, 0), math.nan),
    torch.float8_e5m2: (math.nextafter(61440.0, 0), math.inf),
    torch.float8_e5m2fnuz: (math.nextafter(61440.0, 0), math.nan),
}  # fmt: skip
"""The largest magnitude that still rounds to a finite value, and what larger ones become without saturation."""


def _float8(x: Tensor, kind: torch.dtype, saturate: bool) -> Tensor:
    largest = torch.finfo(kind).max
    y = torch.where(torch.isnan(x), x, x.clamp(-largest, largest)).to(kind)
    if saturate:
        return y
    limit, beyond = _OVER[kind]
    return torch.where(x.abs().double() > limit, torch.copysign(torch.full_like(x, beyond), x), y.float()).to(kind)


def _power_of_two(x: Tensor) -> Tensor:
    """E8M0, rounded up as ONNX's Cast does by default."""
    exponent = torch.ceil(torch.log2(x.abs().double())).clamp(-127, 127)
    return torch.pow(2.0, exponent).float().to(torch.float8_e8m0fnu)


def _nearest_e2m1(x: Tensor) -> Tensor:
    """The nearest of FP4's values; ties go to the even code, and what is no number to zero."""
    x = torch.nan_to_num(x, nan=0.0)
    values = torch.tensor(_E2M1)
    middles = (values[1:] + values[:-1]) / 2
    magnitude = x.abs()
    code = torch.bucketize(magnitude, middles)
    tie = (code < 7) & (magnitude == middles[code.clamp(max=6)]) & (code % 2 == 1)
    return torch.copysign(values[code + tie], x)
