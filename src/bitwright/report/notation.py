"""Numbers as the report prints them: true minus signs, no exponent letters, one en dash for what has no value."""

import math
import re

DASH = "–"
MINUS = "−"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

_DIGITS = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?(e-?\d+)?")

Number = int | float


def decimal(value: Number, places: int) -> str:
    """Fixed places; from 1e6 on, three digits and a power of ten."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return MINUS + "∞" if value < 0 else "∞"
    if abs(value) >= 1e6:
        return scientific(value)
    text = f"{value:.{places}f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", MINUS)


def signed(value: Number, places: int) -> str:
    text = decimal(value, places)
    return f"+{text}" if value > 0 and float(f"{value:.{places}f}") != 0 else text


def scientific(value: Number) -> str:
    significand, exponent = f"{value:.2e}".split("e")
    return f"{significand}×10{str(int(exponent)).translate(_SUPERSCRIPTS)}".replace("-", MINUS)


def value(text: str) -> float | None:
    """The number that a text shows, as these functions write it, or behind a "<"; None where it shows none."""
    plain = text.removeprefix("<").replace(MINUS, "-").replace(",", "").replace("×10", "e").translate(_DIGITS)
    return float(plain) if _NUMBER.fullmatch(plain) else None


def per_cent(fraction: Number) -> str:
    """A fraction in per cent, the sign left to the heading: at least two digits, exact zero as a bare 0."""
    value = 100 * fraction
    if value == 0:
        return "0"
    if not math.isfinite(value):
        return decimal(value, 0)
    if abs(value) < 1e-3:
        return scientific(value)
    return decimal(value, min(4, max(1, 1 - math.floor(math.log10(abs(value))))))


def bits(value: Number) -> str:
    """Bits per element: whole numbers bare, others with two places."""
    return decimal(value, 0 if float(value).is_integer() else 2)


def size_scale(smallest_bytes: Number) -> tuple[str, int, int]:
    """Unit, its bytes and the decimals with which the smallest of some sizes has three digits."""
    units = (("GB", 10**9), ("MB", 10**6))
    name, unit = next(((name, unit) for name, unit in units if smallest_bytes >= unit), ("kB", 1000))
    return name, unit, _places(smallest_bytes / unit)


def size(bytes_: Number) -> str:
    """A size on its own, unit included."""
    name, unit, places = size_scale(bytes_)
    return f"{decimal(bytes_ / unit, places)} {name}"


def three_digits(value: Number) -> str:
    return decimal(value, _places(value))


def interval(low: Number, high: Number) -> str:
    return f"[{three_digits(low)}, {three_digits(high)}]"


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _places(value: Number) -> int:
    """Decimals that show three digits of the value."""
    return max(0, 2 - math.floor(math.log10(abs(value)))) if value and math.isfinite(value) else 0
