"""What wires have to hold: ranges of terms and elements, from which every width follows. Needs no Amaranth."""

from collections.abc import Iterable
from functools import singledispatch
from math import gcd

from bitwright.datapath import Accumulator, Overflow, bits_for, worst_sum
from bitwright.formats import Bounds, Format, Table
from bitwright.schemes.overq import Overwrite


@singledispatch
def bounds(format: Format) -> Bounds:
    """Bounds of the format's terms, their exponents those that occur: a range whose step may exceed one."""
    return format.bounds()


@bounds.register
def _(format: Table) -> Bounds:
    found = format.bounds()
    step = gcd(*(e - found.exponent.start for e in format.exponents)) or 1
    return found._replace(exponent=range(found.exponent.start, found.exponent.stop, step))


@bounds.register
def _(format: Overwrite) -> Bounds:
    found, lane = format.bounds(), bounds(format.lane).exponent
    step = gcd(format.radix_bits, lane.step if len(lane) > 1 else 0)
    return found._replace(exponent=range(found.exponent.start, found.exponent.stop, step))


def significands(bounds: Bounds) -> tuple[int, int]:
    """Extreme significands of a term."""
    if bounds.per_lane == 1 and bounds.reach == 0 and len(bounds.exponent) == 1:  # a term is the element
        low, high = bounds.units
        return min(low, 0), max(high, 0)
    # several terms of an element may have either sign, whatever the element's is
    is_signed = bounds.lowest < 0 or bounds.per_lane > 1
    return -bounds.significand if is_signed else 0, bounds.significand


def carried(bounds: Bounds) -> Bounds:
    """Bounds of what a bit-parallel array moves about: terms, or whole elements where a code has several terms."""
    if bounds.per_lane == 1:
        return bounds
    low, high = bounds.units
    start = bounds.exponent.start
    return bounds._replace(significand=max(-low, high), exponent=range(start, start + 1), per_lane=1)


def union(several: Iterable[Bounds]) -> Bounds:
    """Bounds of an operand that is in any one of several formats at a time."""
    all_bounds = list(several)
    norms = [b.norm1 for b in all_bounds]
    norms_of_sign = [b.norm1_of_sign for b in all_bounds]
    return Bounds(
        max(b.significand for b in all_bounds),
        _common(b.exponent for b in all_bounds),
        min(b.lowest for b in all_bounds),
        max(b.highest for b in all_bounds),
        max(b.reach for b in all_bounds),
        max(b.per_lane for b in all_bounds),
        None if None in norms else max(n for n in norms if n is not None),
        None if None in norms_of_sign else max(n for n in norms_of_sign if n is not None),
    )


def worst_sum_of(x: Iterable[Format], w: Iterable[Format], k: int, *, is_shifted: bool = False) -> tuple[int, int]:
    """Extreme sums of k products over all pairs of formats, each with the norms that it promises, in their first unit.

    `is_shifted`: inputs have a zero point. A sum is linear in it, so the extremes are at its ends: codes from zero on,
    and up to zero.
    """
    several, stationary = ([format.bounds() for format in formats] for formats in (x, w))
    unit = sum(min(b.exponent.start for b in side) for side in (several, stationary))
    lows, highs = [], []
    for a in several:
        for b in stationary:
            raised = a.exponent.start + b.exponent.start - unit
            for shifted in [a, a._replace(lowest=-a.highest, highest=0.0)][: 1 + is_shifted]:
                low, high = worst_sum(shifted, b, k)
                lows.append(low << raised)
                highs.append(high << raised)
    return min(lows), max(highs)


def products(count: int) -> str:
    """In words."""
    return f"{count} product{'s' * (count != 1)}"


def require_width(accumulator: Accumulator, worst: tuple[int, int], what: str) -> None:
    """ValueError where an integer register forbids overflow and sums within `worst` need a wider one."""
    if accumulator.range is None or accumulator.overflow is not Overflow.FORBID:
        return
    if worst[0] < accumulator.range[0] or worst[1] > accumulator.range[1]:
        raise ValueError(
            f"{what} needs a {bits_for(*worst)}-bit accumulator, {accumulator.bits} bits found; widen it, or choose "
            "Overflow.WRAP or Overflow.SATURATE"
        )


def _common(ranges: Iterable[range]) -> range:
    """The narrowest range that has all values of several."""
    several = list(ranges)
    start, last = min(r.start for r in several), max(r[-1] for r in several)
    step = gcd(*(r.step for r in several if len(r) > 1), *(r.start - start for r in several))
    return range(start, last + 1, step or 1)
