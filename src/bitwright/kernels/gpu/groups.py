"""Rounding of group formats: every lane looks at its neighbours by itself, so that lanes need no order.

OverQ: an outlier is served if no other outlier claims the first zero behind it. Term Revealing: a group's terms are
counted from the largest exponent down.
"""

from functools import lru_cache, singledispatch
from typing import no_type_check

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from bitwright.formats import Format, Int, Rounding
from bitwright.kernels import rounding as torch_rounding
from bitwright.kernels.gpu.launch import OPTIONS, refuse
from bitwright.kernels.gpu.rounding import clip, rounded
from bitwright.kernels.native.scalars import ROUNDINGS
from bitwright.kernels.rounding import Unsupported
from bitwright.schemes.overq import Overwrite, Pick
from bitwright.schemes.term_revealing import Recoding, TermBudget

TILE = 1024
LARGEST_GROUP = 1024


@singledispatch
def round_to(format: Format, x: Tensor, rounding: Rounding) -> Tensor:
    """Values decode(encode(x)) for float32 levels x [..., k]; by torch where no kernel here takes the format."""
    return torch_rounding.round_to(format, x, rounding)


@round_to.register
def _(format: Overwrite, x: Tensor, rounding: Rounding) -> Tensor:
    refuse(x)
    if rounding not in ROUNDINGS or not isinstance(format.lane, Int) or format.lane.bits > 11:
        raise Unsupported(f"{format} under {rounding}")
    if format.lane.bounds().lowest == 0 and float(x.amin()) < 0:
        format.encode(x.cpu().numpy(), rounding)  # says which level it is
    x = x.contiguous()
    k, out = x.shape[-1], torch.empty_like(x)
    low, high = format.lane.range
    reach = min(format.cascade, k - 1) if format.range_overwrite else 0
    _overwrite[(triton.cdiv(x.numel(), TILE),)](
        x, out, x.numel(), k, format.tile or k, float(low), float(high), format.unit, 1 / format.unit,
        2.0**format.radix_bits, 2.0**-format.radix_bits, format.largest / format.unit,
        REACH=reach, FRACTIONS=format.precision_overwrite, LARGEST=format.pick is Pick.LARGEST,
        ROUNDING=ROUNDINGS.index(rounding), TILE=TILE, **OPTIONS,
    )  # fmt: skip
    return out


@round_to.register
def _(format: TermBudget, x: Tensor, rounding: Rounding) -> Tensor:
    refuse(x)
    if rounding not in ROUNDINGS or format.group > LARGEST_GROUP:
        raise Unsupported(f"{format} under {rounding}")
    if not format.signed and float(x.amin()) < 0:
        format.encode(x.cpu().numpy(), rounding)  # says which level it is
    x = x.contiguous()
    k, out = x.shape[-1], torch.empty_like(x)
    added, subtracted, exponents = _masks(format.recoding, format.largest, x.device)
    groups, width = -(-k // format.group), triton.next_power_of_2(format.group)
    count = x.numel() // k * groups
    _within_budget[(triton.cdiv(count, TILE // width),)](
        x, out, added, subtracted, count, k, groups, format.group, format.budget or 0, float(format.largest),
        HAS_BUDGET=format.budget is not None, EXPONENTS=exponents, ROUNDING=ROUNDINGS.index(rounding),
        COUNT=TILE // width, WIDTH=width, **OPTIONS,
    )  # fmt: skip
    return out


@lru_cache(maxsize=16)
def _masks(recoding: Recoding, largest: int, device: torch.device) -> tuple[Tensor, Tensor, int]:
    """By magnitude the powers of two that are added, and subtracted; and how many exponents there are."""
    added, subtracted = recoding.masks(np.arange(largest + 1))
    exponents = int((added | subtracted).max()).bit_length()
    plus, minus = (torch.from_numpy(m.astype(np.int32)).to(device) for m in (added, subtracted))
    return plus, minus, exponents


@triton.jit
@no_type_check  # Triton reads the source
def _lane(x, at, is_there, low, high, inverse, ROUNDING: tl.constexpr):
    """Of a lane: its integer as wide as it comes, whether it is zero, and whether it is an outlier."""
    wide = rounded(tl.load(x + at, mask=is_there, other=0.0) * inverse, ROUNDING)
    return wide, wide == 0.0, tl.abs(wide) > high


@triton.jit
@no_type_check
def _overwrite(
    x, out, count, k, tile, low, high, unit, inverse, radix, fraction, largest,
    REACH: tl.constexpr, FRACTIONS: tl.constexpr, LARGEST: tl.constexpr, ROUNDING: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Values of TILE lanes, all in units of the lane's integers."""
    at = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    column = at % k
    place = column % tile
    room = tl.minimum(tile - place, k - column)  # lanes to the end of the tile, this one among them
    wide, is_zero, is_outlier = _lane(x, at, at < count, low, high, inverse, ROUNDING)
    # the zero behind: an ordinary value asks about the next lane alone, for its fraction
    distance = tl.zeros_like(place)
    rival = tl.zeros_like(place)  # outliers between this lane and the zero that are larger
    for d in tl.static_range(1, max(REACH, 1) + 1):
        other, is_empty, is_other = _lane(x, at + d, (d < room) & (at < count), low, high, inverse, ROUNDING)
        is_open = (distance == 0) & (d < room)
        if LARGEST:
            rival = tl.where(is_open & is_other & (tl.abs(other) > tl.abs(wide)), 1, rival)
        distance = tl.where(is_open & is_empty, d, distance)
    is_near = distance > 0
    # outliers in front that reach the same zero
    is_claimed = tl.zeros_like(place)
    is_unbroken = place >= 0
    for d in tl.static_range(1, REACH):
        is_there = is_unbroken & (place >= d) & (at < count)
        other, is_empty, is_other = _lane(x, at - d, is_there, low, high, inverse, ROUNDING)
        is_unbroken = is_there & (is_empty == 0)
        claims = is_unbroken & is_other & (distance + d <= REACH)
        is_claimed = tl.where(claims, 1, is_claimed)
        if LARGEST:  # the first of equals
            claims = claims & (tl.abs(other) >= tl.abs(wide))
        rival = tl.where(claims, 1, rival)
    value = clip(wide, low, high)
    if REACH > 0:
        is_served = is_outlier & is_near & (rival == 0)
        value = tl.where(is_served, clip(wide, -largest, largest), value)
    if FRACTIONS:
        owns = (distance == 1) & (is_claimed == 0) & (is_zero == 0) & (is_outlier == 0)
        fine = rounded(tl.load(x + at, mask=at < count, other=0.0) * inverse * radix, ROUNDING)
        landed = tl.abs(rounded(fine * fraction, ROUNDING))
        shift = tl.where(landed == 0.0, 1.0, 0.0) - tl.where(landed > high, 1.0, 0.0)
        sign = tl.where(fine > 0.0, 1.0, 0.0) - tl.where(fine < 0.0, 1.0, 0.0)
        value = tl.where(owns, (fine + sign * shift) * fraction, value)
    tl.store(out + at, value * unit, mask=at < count)


@triton.jit
@no_type_check
def _within_budget(
    x, out, added, subtracted, count, k, groups, group, budget, largest,
    HAS_BUDGET: tl.constexpr, EXPONENTS: tl.constexpr, ROUNDING: tl.constexpr, COUNT: tl.constexpr,
    WIDTH: tl.constexpr,
):  # fmt: skip
    """Values of COUNT groups: from the largest exponent on, terms are kept from the first lane on."""
    index = tl.program_id(0).to(tl.int64) * COUNT + tl.arange(0, COUNT)
    lane = tl.arange(0, WIDTH)
    column = (index % groups)[:, None] * group + lane[None, :]
    is_mine = (index < count)[:, None] & (lane < group)[None, :] & (column < k)
    at = (index // groups)[:, None] * k + column
    level = clip(tl.load(x + at, mask=is_mine, other=0.0), -largest, largest)
    value = rounded(level, ROUNDING)
    if HAS_BUDGET:
        magnitude = tl.abs(value).to(tl.int32)
        plus = tl.load(added + magnitude, mask=is_mine, other=0)
        minus = tl.load(subtracted + magnitude, mask=is_mine, other=0)
        left = tl.zeros([COUNT, 1], tl.int32) + budget
        kept = tl.zeros_like(magnitude)
        for i in tl.static_range(EXPONENTS):
            has = ((plus | minus) >> (EXPONENTS - 1 - i)) & 1
            takes = has * (tl.cumsum(has, axis=1) <= left).to(tl.int32)
            kept = kept | (takes << (EXPONENTS - 1 - i))
            left = left - tl.sum(takes, axis=1, keep_dims=True)
        stays = ((plus & kept) - (minus & kept)).to(tl.float32)
        value = tl.where(value < 0.0, -stays, stays)
    tl.store(out + at, value, mask=is_mine)
