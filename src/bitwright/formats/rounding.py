"""Rounding: which of two neighbouring grid points stands for a value between them.

One function, `choose_upper`, decides for every format; a format only says what its neighbours are.
"""

from enum import Enum

import numpy as np
from jaxtyping import Bool, Float, Int


class Rounding(Enum):
    """How a value between two representable ones is rounded."""

    NEAREST_EVEN = "nearest, ties to the even code"  # IEEE 754 default; OCP MX
    NEAREST_AWAY = "nearest, ties away from zero"  # microxcaling's default
    NEAREST_UP = "nearest, ties toward +infinity"  # ANT's artifact; (p + half) >> shift in hardware
    NEAREST_ZERO = "nearest, ties toward zero"  # ModelOpt's MXFP4 packer
    TOWARD_ZERO = "toward zero"  # A2Q
    FLOOR = "toward -infinity"
    CEILING = "toward +infinity"  # ModelOpt's E8M0 scales
    STOCHASTIC = "up with probability equal to the fraction passed"

    def __repr__(self) -> str:
        return f"Rounding.{self.name}"


def choose_upper(
    x: Float[np.ndarray, "*shape"],
    lower: Float[np.ndarray, "*shape"],
    upper: Float[np.ndarray, "*shape"],
    *,
    is_lower_even: Bool[np.ndarray, "*shape"],
    rounding: Rounding,
    generator: np.random.Generator | None = None,
) -> Bool[np.ndarray, "*shape"]:
    """Where x in [lower, upper) rounds to `upper`. STOCHASTIC needs a generator."""
    middle = (lower + upper) / 2  # exact, or the neighbours are so close that x is the lower one
    negative = x < 0
    match rounding:
        case Rounding.NEAREST_EVEN:
            tie = ~is_lower_even
        case Rounding.NEAREST_AWAY:
            tie = ~negative
        case Rounding.NEAREST_UP:
            tie = np.ones_like(negative)
        case Rounding.NEAREST_ZERO:
            tie = negative
        case Rounding.TOWARD_ZERO:
            return negative & (x > lower)
        case Rounding.FLOOR:
            return np.zeros_like(negative)
        case Rounding.CEILING:
            return x > lower
        case Rounding.STOCHASTIC:
            if generator is None:
                raise ValueError("stochastic rounding draws random numbers; pass generator=np.random.default_rng(seed)")
            return generator.random(x.shape) * (upper - lower) < x - lower
    return (x > middle) | ((x == middle) & (x > lower) & tie)


def round_to_integer(
    x: Float[np.ndarray, "*shape"], rounding: Rounding, generator: np.random.Generator | None = None
) -> Float[np.ndarray, "*shape"]:
    """Integer neighbour of each value, still as float."""
    lower = np.floor(x)
    up = choose_upper(x, lower, lower + 1, is_lower_even=np.mod(lower, 2) == 0, rounding=rounding, generator=generator)
    return lower + up


def shift_right(x: Int[np.ndarray, "*shape"], places: int, rounding: Rounding) -> Int[np.ndarray, "*shape"]:
    """x / 2**places in integers, rounded: the barrel shifter of a requantization unit. Exact for any int64."""
    if places <= 0:
        return x << -places
    if places > 63:  # all that remains is the sign of a fraction below one half
        x, places = np.sign(x), 2
    lower = x >> places
    remainder, half = x - (lower << places), 1 << (places - 1)
    # only the remainder's class, the sign and the parity matter: a small float stands in for x / 2**places
    passed = np.select([remainder == 0, remainder < half, remainder == half], [0.0, 0.25, 0.5], 0.75)
    floor = (lower & 1) - 2.0 * (x < 0)
    up = choose_upper(floor + passed, floor, floor + 1, is_lower_even=(lower & 1) == 0, rounding=rounding)
    return lower + up
