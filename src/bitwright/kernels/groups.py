"""Rounding of group formats in torch: what an element becomes depends on its neighbours along the last axis.

Importing this module makes `round_to` take them.
"""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from bitwright.formats import Int, Rounding
from bitwright.kernels.rounding import Unsupported, round_to
from bitwright.schemes.a2q import L1Bounded
from bitwright.schemes.overq import Overwrite, Pick
from bitwright.schemes.term_revealing import Recoding, TermBudget

COUNTER_BITS = 63
"""Of the integer that holds one counter an exponent."""


@round_to.register
def _(format: Overwrite, x: Tensor, rounding: Rounding) -> Tensor:
    """Outliers are few, so they are looked up one by one; every zero alone decides which of them takes it."""
    if rounding is Rounding.STOCHASTIC:
        raise Unsupported(f"{format} under {rounding}")
    highest = format.lane.bounds().highest
    if format.lane.bounds().lowest == 0 and x.numel() and float(x.amin()) < 0:
        format.encode(x.cpu().numpy(), rounding)  # says which level it is
    levels, k = x.reshape(-1), x.shape[-1]
    elements = round_to(format.lane, levels, rounding)
    is_zero = elements == 0
    beyond = torch.nonzero(levels.abs() > highest).flatten()
    _, is_outlier, wide = format.classes(levels[beyond].double().cpu().numpy(), rounding)
    outliers, wide = beyond[torch.from_numpy(is_outlier).to(x.device)], wide[is_outlier]
    if format.range_overwrite and len(outliers):
        zero = _first_zero(is_zero, outliers, k, format)
        served = _served(zero, wide, format.pick)
        elements[outliers[served]] = (
            torch.from_numpy(format.two_digits(wide[served.cpu().numpy()])).float().to(x.device)
        )
        is_zero[zero[served]] = False  # no longer free
    if format.precision_overwrite:
        is_free = is_zero.view(-1, k).clone()
        is_free[:, :: format.tile or k] = False  # the first lane of a tile has none before it
        owner = torch.zeros_like(is_zero)
        owner[:-1] = is_free.view(-1)[1:]
        owner &= elements != 0
        owner[outliers] = False
        at = torch.nonzero(owner).flatten()
        elements[at] = _fractions(format, levels[at], rounding)
    return elements.view(x.shape)


def _first_zero(is_zero: Tensor, outliers: Tensor, k: int, format: Overwrite) -> Tensor:
    """The nearest zero that follows each outlier in its tile, within the cascade; -1 where there is none."""
    tile = format.tile or k
    column = outliers % k
    room = torch.minimum(tile - column % tile, k - column)  # lanes to the end of the tile
    found = torch.full_like(outliers, -1)
    for distance in range(min(format.cascade, tile - 1, k - 1), 0, -1):  # nearer ones replace farther ones
        inside = outliers + distance * (room > distance)  # or the outlier itself, which is no zero
        found = torch.where(is_zero[inside], inside, found)
    return found


def _served(zero: Tensor, wide: np.ndarray, pick: Pick) -> Tensor:
    """Indices of the outliers that get the zero they reach: outliers of one zero follow each other."""
    order = torch.nonzero(zero >= 0).flatten()
    if pick is Pick.LARGEST:  # by zero, then by falling size; equals stay in order
        by_size = np.lexsort((-np.abs(wide[order.cpu().numpy()]), zero[order].cpu().numpy()))
        order = order[torch.from_numpy(by_size).to(zero.device)]
    claimed = zero[order]
    is_first = torch.ones_like(claimed, dtype=torch.bool)
    is_first[1:] = claimed[1:] != claimed[:-1]
    return order[is_first]


def _fractions(format: Overwrite, levels: Tensor, rounding: Rounding) -> Tensor:
    """As `Overwrite.fractions`; every step is exact in float32."""
    integer, radix = Int(24), 2.0**format.radix_bits
    fine = round_to(integer, levels * (radix / format.unit), rounding)
    landed = round_to(integer, fine / radix, rounding).abs()
    too_far = (landed * format.unit > format.lane.bounds().highest).float()
    fine += fine.sign() * ((landed == 0).float() - too_far)
    return fine * (format.unit / radix)


@round_to.register
def _(format: L1Bounded, x: Tensor, rounding: Rounding) -> Tensor:
    """By the reference, whose sorting is what takes the time: weights are rounded once."""
    if rounding is Rounding.STOCHASTIC:
        raise Unsupported(f"{format} under {rounding}")
    return torch.from_numpy(format.decode(format.encode(x.double().cpu().numpy(), rounding))).float().to(x.device)


@round_to.register
def _(format: TermBudget, x: Tensor, rounding: Rounding) -> Tensor:
    """Magnitudes select their truncated values from tables."""
    if not format.signed and x.numel() and float(x.amin()) < 0:
        format.encode(x.cpu().numpy(), rounding)  # says which level it is
    integer = round_to(Int(format.largest.bit_length() + 1), x.clamp(-format.largest, format.largest), rounding)
    if format.budget is None:
        return integer
    magnitude = integer.abs().int()
    if format.group == 1:
        kept = torch.index_select(_single(format, x.device), 0, magnitude.flatten()).view(x.shape)
    else:
        k = x.shape[-1]
        groups = torch.nn.functional.pad(magnitude, (0, -k % format.group)).unflatten(-1, (-1, format.group))
        kept = _within_budget(format, groups).flatten(-2)[..., :k]
    return kept.copysign_(integer)


def _within_budget(format: TermBudget, magnitude: Tensor) -> Tensor:
    """Magnitudes [..., groups, group] of the terms that the budget keeps.

    Terms above one exponent are kept whole, those below are dropped; of that exponent's the first lanes' are kept.
    """
    truncated, term, counters, width = _tables(format.recoding, format.largest, format.group, magnitude.device)
    index = magnitude.flatten().long()
    counts = counters[index].view(magnitude.shape).sum(-1)
    left = torch.full_like(counts, format.budget)  # type: ignore[arg-type]  # None is handled before
    cut = torch.zeros_like(counts)  # one more than the exponent that exhausts the budget
    is_open = torch.ones_like(counts, dtype=torch.bool)
    for exponent in reversed(range(len(term) - 1)):
        here = counts >> (exponent * width) & ((1 << width) - 1)
        ends = is_open & (here > left)
        cut = torch.where(ends, exponent + 1, cut)
        is_open &= ~ends
        left = torch.where(is_open, left - here, left)
    row = (cut.unsqueeze(-1) * truncated.shape[1]).expand(magnitude.shape).flatten() + index
    last = term.flatten()[row].view(magnitude.shape)
    is_kept = (last != 0).cumsum(-1) <= left.unsqueeze(-1)
    return truncated.flatten()[row].view(magnitude.shape) + last * is_kept


@lru_cache(maxsize=64)
def _single(format: TermBudget, device: torch.device) -> Tensor:
    """Value of each magnitude with a budget of its own."""
    magnitudes = np.arange(format.largest + 1)[:, None]
    return torch.from_numpy(format.decode(magnitudes)[:, 0].astype(np.float32)).to(device)


@lru_cache(maxsize=16)
def _tables(recoding: Recoding, largest: int, group: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, int]:
    """By cut and magnitude: terms from the cut up, and the term just below it. By magnitude: counters. Their bits."""
    digits = recoding.digits(np.arange(largest + 1)).astype(np.int64).T  # [exponents, magnitudes]
    width = group.bit_length()
    if len(digits) * width > COUNTER_BITS:
        raise Unsupported(f"groups of {group} elements with terms at {len(digits)} exponents")
    places = 1 << (np.arange(len(digits)) * width)
    counters = ((digits != 0) * places[:, None]).sum(0)
    powers = digits << np.arange(len(digits))[:, None]
    from_top = np.cumsum(powers[::-1], 0)[::-1]
    none = np.zeros_like(powers[:1])
    truncated = np.concatenate([from_top, none]).astype(np.float32)
    below = np.concatenate([none, powers]).astype(np.float32)
    kept, term, count = (torch.from_numpy(table).to(device) for table in (truncated, below, counters))
    return kept, term, count, width
