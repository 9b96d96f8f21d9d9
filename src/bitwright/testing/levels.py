"""Levels and codes that try a format: all codes, neighbouring values, ties, and what each rounding allows for them."""

import numpy as np

from bitwright.formats import Format, Rounding

ALL_CODES_UP_TO_BITS = 8
SAMPLED_CODES = 512


def codes_of(format: Format, rounding: Rounding = Rounding.NEAREST_UP) -> np.ndarray:
    """All codes that stand for a number; of wide formats the ends and a sample. Group formats: a row so encoded."""
    if not is_scalar(format):
        levels = np.random.default_rng(0).standard_t(3, SAMPLED_CODES) * format.full_scale / 3
        return format.encode(allowed(format, levels), rounding)
    if format.bits <= ALL_CODES_UP_TO_BITS:
        codes = np.arange(2**format.bits)
    else:
        sample = np.random.default_rng(0).integers(0, 2**format.bits, SAMPLED_CODES)
        half = 2 ** (format.bits - 1)
        codes = np.unique([0, 1, 2, half - 2, half - 1, half, half + 1, 2 * half - 2, 2 * half - 1, *sample])
        ends = format.encode(np.asarray([-np.inf, np.inf]))
        codes = np.unique([*codes, *ends])
    return codes[~format.is_reserved(codes)]


def is_scalar(format: Format) -> bool:
    bounds = format.bounds()
    return bounds.reach == 0 and bounds.per_lane == 1 and bounds.norm1 is None and bounds.norm1_of_sign is None


def allowed(format: Format, x: np.ndarray) -> np.ndarray:
    """Levels that the format takes: a group format may refuse negative ones."""
    return np.maximum(x, 0) if not is_scalar(format) and format.bounds().lowest == 0 else x


def neighbours(format: Format) -> tuple[np.ndarray, np.ndarray]:
    """Adjacent representable values, lower and upper: all pairs, or those next to sampled codes."""
    if format.bits <= ALL_CODES_UP_TO_BITS:
        grid = np.unique(format.decode(codes_of(format)))
        return grid[:-1], grid[1:]
    code = codes_of(format)
    # wide formats count up or down by code, except where the top bit changes
    code = code[(code + 1) % 2 ** (format.bits - 1) != 0]
    code = code[~format.is_reserved(code + 1)]
    pair = np.sort([format.decode(code), format.decode(code + 1)], axis=0)
    _, first = np.unique(pair[0], return_index=True)
    return pair[0][first], pair[1][first]


def levels_between(lower: np.ndarray, upper: np.ndarray) -> list[np.ndarray]:
    """Both neighbours, their midpoint, a third, and the floats next to each."""
    middle = lower / 2 + upper / 2  # halving first: the sum of two of the largest float32 is fine, of float64 not
    return [
        lower,
        upper,
        middle,
        _next(middle, -1),
        _next(middle, 1),
        lower + (upper - lower) / 3,
        _next(lower, 1),
        _next(upper, -1),
    ]


def _next(x: np.ndarray, direction: int) -> np.ndarray:
    """The next float; beside zero a normal one, as scaling by a power of two may round a subnormal."""
    return np.where(x == 0, direction * 2.0**-900, np.nextafter(x, direction * np.inf))


def expected_values(
    format: Format, level: np.ndarray, lower: np.ndarray, upper: np.ndarray, rounding: Rounding
) -> list[np.ndarray]:
    """Values that the rounding allows for levels in [lower, upper]; several only where it does not decide a tie."""
    middle = lower / 2 + upper / 2
    inner, outer = np.where(np.abs(lower) < np.abs(upper), [lower, upper], [upper, lower])
    match rounding:
        case Rounding.FLOOR:
            return [np.where(level == upper, upper, lower)]
        case Rounding.CEILING:
            return [np.where(level == lower, lower, upper)]
        case Rounding.TOWARD_ZERO:
            # between a negative and a positive neighbour neither is nearer to zero than the level
            toward = np.where(level < 0, upper, lower)
            return [np.where(level == lower, lower, np.where(level == upper, upper, toward))]
        case Rounding.NEAREST_UP:
            ties = [upper]
        case Rounding.NEAREST_AWAY:
            ties = [np.where(np.abs(lower) == np.abs(upper), side, outer) for side in (lower, upper)]
        case Rounding.NEAREST_ZERO:
            ties = [np.where(np.abs(lower) == np.abs(upper), side, inner) for side in (lower, upper)]
        case _:
            lower_even, upper_even = (format.encode(side) % 2 == 0 for side in (lower, upper))
            ties = [np.where(lower_even, lower, upper), np.where(upper_even, upper, lower)]
    return [np.where(level < middle, lower, np.where(level > middle, upper, tie)) for tie in ties]


def far_levels(format: Format) -> np.ndarray:
    end = max(abs(format.bounds().lowest), format.bounds().highest)
    return np.asarray([end, end * 1.0001, end * 2, 3.0e38, np.inf])
