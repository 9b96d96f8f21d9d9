"""Magnitudes as signed powers of two, and the budget of a group: the encoder and comparator of Term Revealing."""

from collections.abc import Sequence
from functools import reduce
from operator import add

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, unsigned

from bitwright.rtl.term import named, shape_of
from bitwright.schemes.term_revealing import Recoding, TermBudget

Masks = tuple[Value, Value]
"""Bit e of the first is set where 2**e is added, of the second where it is subtracted."""


def kept_bits(format: TermBudget, m: Module, codes: Sequence[Value]) -> list[Masks]:
    """What each element adds and subtracts within its group's budget, of the signs in its code."""
    width, count = format.largest.bit_length(), len(format.bounds().exponent)
    masks = [recoded(format.recoding, m, code[:width], count, lane) for lane, code in enumerate(codes)]
    if format.budget is not None:
        for start in range(0, len(masks), format.group):
            group = slice(start, start + format.group)
            masks[group] = _within_budget(format.budget, m, masks[group], start)
    if format.signed:
        masks = [(Mux(c[width], minus, plus), Mux(c[width], plus, minus)) for c, (plus, minus) in zip(codes, masks)]
    return [
        (named(m, f"plus_{i}", unsigned(count), plus), named(m, f"minus_{i}", unsigned(count), minus))
        for i, (plus, minus) in enumerate(masks)
    ]


def recoded(recoding: Recoding, m: Module, magnitude: Value, count: int, lane: int) -> Masks:
    """`Recoding.masks` of one magnitude, `count` bits each."""
    x = Cat(magnitude, Const(0, count + 2 - len(magnitude)))
    bits = [x[i] for i in range(count + 2)]
    below = [Const(0, 1), *bits[:-1]]
    above = [*bits[1:], Const(0, 1)]
    match recoding:
        case Recoding.HESE:
            added, subtracted = _two_bit_windows(m, bits, lane)
        case Recoding.HESE_ARTIFACT:
            single = [b & ~a & ~c for b, a, c in zip(bits, above, below)]
            run_top = [Const(0, 1), *(b & ~a & c for b, a, c in zip(bits, above, below))]
            added = [s | t for s, t in zip(single, run_top)]
            subtracted = [b & a & ~c for b, a, c in zip(bits, above, below)]
        case Recoding.NAF:
            thrice = named(m, f"thrice_{lane}", unsigned(count + 2), x + (x << 1))
            added = [thrice[i] & ~x[i] for i in range(1, count + 2)]
            subtracted = [x[i] & ~thrice[i] for i in range(1, count + 2)]
        case Recoding.BOOTH:
            added, subtracted = [], []
            for i in range(0, count + 1, 2):
                one, twice = bits[i] ^ below[i], bits[i] & below[i]
                none = ~bits[i] & ~below[i]
                added += [one & ~above[i], twice & ~above[i]]
                subtracted += [one & above[i], above[i] & none]
        case Recoding.BINARY:
            added, subtracted = bits, [Const(0, 1)] * len(bits)
    return (
        named(m, f"added_{lane}", unsigned(count), Cat(*added[:count])),
        named(m, f"subtracted_{lane}", unsigned(count), Cat(*subtracted[:count])),
    )


def _two_bit_windows(m: Module, bits: list[Value], lane: int) -> tuple[list[Value], list[Value]]:
    """Inside a run of ones the carry is due, and paid where the run ends."""
    added, subtracted = [], []
    mode: Value = Const(0, 1)
    for i in range(len(bits) - 1):
        low, high = bits[i], bits[i + 1]
        is_term = low ^ mode
        added.append(is_term & ~high)
        subtracted.append(is_term & high)
        mode = named(m, f"run_{lane}_{i}", unsigned(1), (low & high) | (mode & (low | high)))
    return added, subtracted


def _within_budget(budget: int, m: Module, masks: list[Masks], start: int) -> list[Masks]:
    """The terms that stay when water recedes from the largest exponent on, first lanes first."""
    count = len(masks[0][0])
    present = [plus | minus for plus, minus in masks]
    kept: list[list[Value]] = [[] for _ in masks]
    left: Value = Const(budget, shape_of(0, budget))
    for exponent in reversed(range(count)):
        taken: list[Value] = []
        for lane, bits in enumerate(present):
            ahead = reduce(add, (p[exponent] for p in present[:lane]), Const(0, 1))
            taken.append(named(m, f"taken_{start + lane}_{exponent}", unsigned(1), bits[exponent] & (ahead < left)))
            kept[lane].append(taken[-1])
        following = Signal(shape_of(0, budget), name=f"left_{start}_{exponent}")
        m.d.comb += following.eq(left - reduce(add, taken))
        left = following
    within = [named(m, f"kept_{start + lane}", unsigned(count), Cat(*reversed(bits))) for lane, bits in enumerate(kept)]
    return [(plus & k, minus & k) for (plus, minus), k in zip(masks, within)]
