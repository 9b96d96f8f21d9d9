"""Levels to representable values in torch, equal to the reference for every format of up to 8 bits and every integer.

One method serves all small formats: between two neighbours of {grid points, midpoints} every rounding is constant, so
the top bits of a float32 and whether the rest is zero select the answer from a table that the reference itself fills.
"""

from functools import lru_cache, singledispatch

import numpy as np
import torch
from torch import Tensor

from bitwright.formats import BFLOAT16, FLOAT16, FLOAT32, Format, Int, Minifloat, Rounding, Table


class Unsupported(Exception):
    """This kernel does not take the case; the next implementation is tried."""


@singledispatch
def round_to(format: Format, x: Tensor, rounding: Rounding) -> Tensor:
    """Values decode(encode(x)) for float32 levels x."""
    raise Unsupported(f"{format} under {rounding}")


@round_to.register
def _(format: Int, x: Tensor, rounding: Rounding) -> Tensor:
    low, high = format.range
    if high >= 2**24:
        raise Unsupported(f"{format}: float32 levels do not hold its integers")
    level = x.mul(2.0**-format.exponent).clamp_(low, high)
    match rounding:
        case Rounding.NEAREST_EVEN:
            level = level.round_()
        case Rounding.FLOOR:
            level = level.floor_()
        case Rounding.CEILING:
            level = level.ceil_()
        case Rounding.TOWARD_ZERO:
            level = level.trunc_()
        case Rounding.NEAREST_UP:
            floor = level.floor()
            level = floor.add_((level - floor) >= 0.5)
        case Rounding.NEAREST_AWAY | Rounding.NEAREST_ZERO:
            magnitude, inward = level.abs(), level.abs().floor_()
            passed = magnitude.sub_(inward)
            up = passed >= 0.5 if rounding is Rounding.NEAREST_AWAY else passed > 0.5
            level = inward.add_(up).copysign_(level)
        case _:
            raise Unsupported(f"{rounding} needs a generator")
    return level.mul_(2.0**format.exponent) if format.exponent else level


@round_to.register(Minifloat)
@round_to.register(Table)
def _(format: Minifloat | Table, x: Tensor, rounding: Rounding) -> Tensor:
    if format == FLOAT32 and rounding is Rounding.NEAREST_EVEN:
        return x.clone()
    if format in (FLOAT16, BFLOAT16) and rounding is Rounding.NEAREST_EVEN:
        half = torch.float16 if format == FLOAT16 else torch.bfloat16
        return x.clamp(-format.full_scale, format.full_scale).to(half).float()
    if format.bits > 8 or rounding is Rounding.STOCHASTIC:
        raise Unsupported(f"{format} under {rounding}")
    values, shift = _answers(format, rounding, x.device)
    bits = x.contiguous().view(torch.int32)
    cell = bits.bitwise_right_shift(shift)
    # a value on a cell's edge gets 2·cell, one inside gets 2·cell + 1
    index = bits.add((1 << shift) - 1).bitwise_right_shift_(shift).add_(cell).add_(1 << (32 - shift))
    return torch.index_select(values, 0, index.flatten()).view(x.shape)


def _answers(format: Format, rounding: Rounding, device: torch.device) -> tuple[Tensor, int]:
    """The table, kept on its device; not one that is made while a graph is traced, which is no tensor afterwards."""
    if torch.compiler.is_compiling():
        values, shift = _table(format, rounding)
        return torch.from_numpy(values).to(device), shift
    return _kept(format, rounding, device)


@lru_cache(maxsize=64)
def _kept(format: Format, rounding: Rounding, device: torch.device) -> tuple[Tensor, int]:
    values, shift = _table(format, rounding)
    return torch.from_numpy(values).to(device), shift


@lru_cache(maxsize=64)
def _table(format: Format, rounding: Rounding) -> tuple[np.ndarray, int]:
    codes = np.arange(2**format.bits)
    grid = np.unique(format.decode(codes[~format.is_reserved(codes)]))
    edges = np.concatenate([grid, (grid[1:] + grid[:-1]) / 2])
    mantissa = next((p for p in range(11) if not _low_bits(edges, p).any()), None)
    if mantissa is None or np.any(edges.astype(np.float32) != edges):
        raise Unsupported(f"{format}: its midpoints have more than 10 mantissa bits")
    shift = 23 - mantissa
    cell = np.arange(-(1 << (31 - shift)), 1 << (31 - shift), dtype=np.int64)
    edge = (cell << shift).astype(np.int32).view(np.float32)
    inside = ((cell << shift) + (1 << (shift - 1))).astype(np.int32).view(np.float32)
    levels = np.stack([edge, inside], 1).reshape(-1)
    number = ~np.isnan(levels)
    answer = np.zeros(levels.shape, np.float32)
    answer[number] = format.decode(format.encode(levels[number].astype(np.float64), rounding))
    return np.append(answer, 0).astype(np.float32), shift


def _low_bits(edges: np.ndarray, mantissa: int) -> np.ndarray:
    """Mantissa bits of float32 that a prefix of `mantissa` bits would drop."""
    return edges.astype(np.float32).view(np.int32) & ((1 << (23 - mantissa)) - 1)
