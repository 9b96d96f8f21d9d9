"""Names of operands, by which circuits of equal formats are found again: s8, u4, E2M1, flint4, flint4|s4.

A multiplier sees formats, not schemes, so every scheme with these formats shares one measured cell. Integers of one
unit that meet in an operand count as the integer that holds them all.
"""

import hashlib
from collections.abc import Iterable
from functools import singledispatch

from bitwright.datapath import bits_for
from bitwright.formats import Format, Int, Minifloat, Table
from bitwright.schemes.a2q import L1Bounded
from bitwright.schemes.ant import flint, power_of_two
from bitwright.schemes.overq import Overwrite
from bitwright.schemes.term_revealing import TermBudget


@singledispatch
def format_name(format: Format) -> str:
    """What a decoder makes of a format, in a word. Formats of others are told apart by what they print."""
    return f"{type(format).__name__}-{_digest(repr(format))}"


def operand_name(formats: Iterable[Format]) -> str:
    """Of an operand that is in any one of several formats at a time."""
    several = [_stored(format) for format in formats]
    integers = [format for format in several if isinstance(format, Int)]
    if len(integers) == len(several) and len({format.exponent for format in integers}) == 1:
        return integer_name(*_holding(integers))
    return "|".join(sorted({format_name(format) for format in several}))


def integer_name(bits: int, is_signed: bool) -> str:
    return f"{'s' if is_signed else 'u'}{bits}"


def integer_of(name: str) -> tuple[int, bool] | None:
    """Bits and sign of an operand that is an integer."""
    digits = name[1:]
    return (int(digits), name[0] == "s") if name[:1] in ("s", "u") and digits.isdigit() else None


def formats_of(name: str) -> frozenset[str]:
    """The names of an operand's formats."""
    return frozenset(name.split("|"))


def signed_name(name: str) -> str:
    """Of the terms of either sign, whose unit serves terms of inputs without one."""
    return name.replace("terms(", "terms(±", 1) if name.startswith("terms(") and "±" not in name else name


@format_name.register
def _(format: Int) -> str:
    unit = f"·2^{format.exponent}" if format.exponent else ""
    return integer_name(format.bits, format.signed) + unit


@format_name.register
def _(format: Minifloat) -> str:
    marks = ("" if format.signed else "u", "" if format.subnormal else "n")
    bias = "" if format.bias is None else f"b{format.bias}"
    return f"{marks[0]}E{format.exponent_bits}M{format.mantissa_bits}{marks[1]}{bias}"


@format_name.register
def _(format: Table) -> str:
    for family, word in ((flint, "flint"), (power_of_two, "pot")):
        for is_signed in (True, False):
            if format.bits >= 3 and format == family(format.bits, is_signed):
                return f"{'' if is_signed else 'u'}{word}{format.bits}"
    return f"table{format.bits}-{_digest(repr(format))}"


@format_name.register
def _(format: Overwrite) -> str:
    kinds = "r" * format.range_overwrite + "p" * format.precision_overwrite
    return f"overq({format_name(format.lane)},{kinds})"


@format_name.register
def _(format: TermBudget) -> str:
    sign = "±" if format.signed else ""
    return f"terms({sign}{format.largest},{format.group}/{format.budget},{format.recoding.name})"


def _stored(format: Format) -> Format:
    """What bounds its norm is decoded as its lanes are."""
    return format.lane if isinstance(format, L1Bounded) else format


def _holding(integers: list[Int]) -> tuple[int, bool]:
    ranges = [format.bounds().units for format in integers]
    low, high = min(0, *(r[0] for r in ranges)), max(0, *(r[1] for r in ranges))
    return (bits_for(low, high), True) if low < 0 else (high.bit_length(), False)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
