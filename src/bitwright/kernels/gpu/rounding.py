"""Levels to representable values, as device functions: those of native/kernels/quantize.cpp, in their order."""

from functools import lru_cache
from typing import NamedTuple, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from bitwright.formats import Format, Rounding
from bitwright.kernels.library import NativeFormat

SAME: tl.constexpr = tl.constexpr(0)
INTEGERS: tl.constexpr = tl.constexpr(1)
FLOATS: tl.constexpr = tl.constexpr(2)
SYMMETRIC: tl.constexpr = tl.constexpr(3)
ODD: tl.constexpr = tl.constexpr(32)  # in a ladder: 16 thresholds, 16 steps, then levels and values of odd ties


class Values(NamedTuple):
    """A format as kernels take it: `NativeFormat`, whose table is a tensor."""

    lowest: float
    highest: float
    unit: float
    inverse: float
    mantissa: int
    smallest: int

    @staticmethod
    def of(made: NativeFormat) -> "Values":
        unit = made.unit or 1.0
        return Values(made.lowest, made.highest, unit, 1 / unit, made.mantissa_bits, made.smallest_exponent + 127)


@lru_cache(maxsize=64)
def ladder(format: Format, rounding: Rounding, device: torch.device) -> Tensor:
    """Thresholds, steps and odd ties of a table on this device; of other formats zeros."""
    from bitwright.kernels.native.scalars import element  # native needs no library for this

    made = element(format, rounding)
    return torch.tensor([*made.thresholds, *made.steps, *made.odd_levels, *made.odd_values], device=device)


@triton.jit
@no_type_check  # Triton reads the source
def clip(x, low, high):
    x = tl.where(x < low, low, x)
    return tl.where(x > high, high, x)


@triton.jit
@no_type_check
def nearest_even(q):
    """Adding 2**23 leaves no bits for a fraction, so that the sum is rounded."""
    magnitude = tl.abs(q)
    rounded = tl.where(magnitude < 8388608.0, (magnitude + 8388608.0) - 8388608.0, magnitude)
    return tl.where(q < 0.0, -rounded, rounded)


@triton.jit
@no_type_check
def floor(q):
    """`tl.floor` takes numbers below float32's normal range for zero on NVIDIA's processors."""
    nearest = nearest_even(q)
    return tl.where(nearest > q, nearest - 1.0, nearest)


@triton.jit
@no_type_check
def rounded(q, ROUNDING: tl.constexpr):
    """`Rounding` by its place in `native.scalars.ROUNDINGS`."""
    if ROUNDING == 0:
        return nearest_even(q)
    elif ROUNDING == 1:
        lower = floor(q)
        return lower + tl.where(q - lower >= 0.5, 1.0, 0.0)
    elif ROUNDING == 4:
        return floor(q)
    elif ROUNDING == 5:
        return -floor(-q)
    else:
        magnitude = tl.abs(q)
        inward = floor(magnitude)
        passed = magnitude - inward
        if ROUNDING == 2:
            inward += tl.where(passed >= 0.5, 1.0, 0.0)
        elif ROUNDING == 3:
            inward += tl.where(passed > 0.5, 1.0, 0.0)
        return tl.where(q < 0.0, -inward, inward)


@triton.jit
@no_type_check
def power(exponent):
    """2**(exponent - 127) of int32."""
    return (exponent << 23).to(tl.float32, bitcast=True)


@triton.jit
@no_type_check
def to_steps(level, mantissa, smallest, ROUNDING: tl.constexpr):
    """A float's value: the step comes from the level's exponent, and is no smaller than that of `smallest`."""
    binade = (level.to(tl.int32, bitcast=True) >> 23) & 255
    step = tl.maximum(binade, smallest) - mantissa
    return rounded(level * power(254 - step), ROUNDING) * power(step)


@triton.jit
@no_type_check
def to_tiny_steps(level, lowest, highest, mantissa, smallest, ROUNDING: tl.constexpr):
    """The same where steps, or one over them, may be smaller than float32's normal numbers: scales of MX."""
    level = clip(level, lowest, highest)
    is_small = level < 1.0
    up, down = 18446744073709551616.0, 5.421010862427522e-20  # 2**64, 2**-64
    smallest = smallest + tl.where(is_small, 64, -64)
    value = to_steps(level * tl.where(is_small, up, down), mantissa, smallest, ROUNDING)
    return value * tl.where(is_small, down, up)


@triton.jit
@no_type_check
def climbed(level, lowest, table, COUNT: tl.constexpr, INWARD: tl.constexpr):
    """A symmetric table's value: every threshold that the magnitude reaches adds a step."""
    level = tl.where(level < lowest, lowest, level)
    bits = level.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    if INWARD:  # one step toward zero moves a tie, and nothing else, across its threshold
        bits = bits - tl.where(level < 0.0, 1, 0)
    magnitude = bits.to(tl.float32, bitcast=True)
    value = tl.zeros_like(magnitude)
    for i in tl.static_range(COUNT):
        value += tl.where(magnitude >= tl.load(table + i), tl.load(table + 16 + i), 0.0)
    value = tl.where(level < 0.0, -value, value)
    value = tl.where(level == tl.load(table + ODD), tl.load(table + ODD + 2), value)
    return tl.where(level == tl.load(table + ODD + 1), tl.load(table + ODD + 3), value)


@triton.jit
@no_type_check
def value_of(
    level, lowest, highest, unit, inverse, mantissa, smallest, table,
    KIND: tl.constexpr, ROUNDING: tl.constexpr, COUNT: tl.constexpr, INWARD: tl.constexpr,
):  # fmt: skip
    """The representable value that a level becomes."""
    if KIND == INTEGERS:
        return rounded(clip(level * inverse, lowest, highest), ROUNDING) * unit
    elif KIND == FLOATS:
        return to_steps(clip(level, lowest, highest), mantissa, smallest, ROUNDING)
    else:
        return climbed(level, lowest, table, COUNT, INWARD)
