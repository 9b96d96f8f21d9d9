"""What a reader of generated Verilog must know of formats and ports, in the field's words."""

import inspect
import re
from dataclasses import fields, is_dataclass
from functools import singledispatch

from amaranth.hdl import Shape

from bitwright.formats import Format, Int, Minifloat, Specials, Table
from bitwright.rtl.unit import Unit

PORT = re.compile(r"(?P<names>\S.*?)(?P<gap>\s{2,})(?P<way>in|out|in, out): (?P<text>.*)")
"""A line of a unit's docstring; `{c}` in a name stands for numbers, `...` for the rest of it."""

CLOCK = "clk: registers change at its rising edge, and start at zero in simulation and on an FPGA"
NO_RESET = "; without a reset, since a pipeline forgets what it held"


@singledispatch
def described(format: Format) -> str:
    """A format in a few words: those of a scheme's own by how wide a code is, with what is not usual about them."""
    return f"{name(format)}, codes of {format.bits} bits"


@described.register
def _(format: Int) -> str:
    low, high = format.range
    unit = f" in units of 2**{format.exponent}" if format.exponent else ""
    return f"{name(format)}, {low} to {high}{unit}"


@described.register
def _(format: Minifloat) -> str:
    bounds = format.bounds()
    specials = "" if format.specials is Specials.NONE else f", {format.specials.value}"
    return f"{name(format)}, {bounds.lowest:g} to {bounds.highest:g}{specials}"


@described.register
def _(format: Table) -> str:
    return f"a table of {2**format.bits} values from {format.values.min():g} to {format.values.max():g}"


def described_in_full(format: Format) -> str:
    """A format with all that it is made of, which tells those of a certificate apart."""
    return described(format) if isinstance(format, Table) else repr(format)


def name(value: object) -> str:
    """A number format as the field writes it; what else a format is made of by what differs from usual."""
    match value:
        case Int():
            return f"{'s' if value.signed else 'u'}{value.bits}"
        case Minifloat():
            sign = "" if value.signed else "u"
            bias = "" if value.bias is None else f", bias {value.bias}"
            return f"{sign}E{value.exponent_bits}M{value.mantissa_bits}{bias}"
        case Format() if is_dataclass(value):
            given = [(field, getattr(value, field.name)) for field in fields(value)]
            said = [f"{field.name}={name(own)}" for field, own in given if own != field.default]
            return f"{type(value).__name__}({', '.join(said)})"
    return repr(value)


def ports(unit: Unit) -> list[str]:
    """What the unit's docstring says, of the ports that it has, with their widths, and the clock."""
    paragraphs = (inspect.getdoc(type(unit)) or "").split("\n\n")
    kept: list[str] = []
    for paragraph in paragraphs:
        lines = _of_existing(unit, paragraph.splitlines())
        if not lines and kept[-2].endswith(":"):  # it announced what is left out
            del kept[-2:]
        kept += [*lines, ""] if lines else []
    return [*kept, *_clock(unit)]


def _of_existing(unit: Unit, lines: list[str]) -> list[str]:
    """Without those of other ports, and what goes on from them."""
    kept, goes_on = list[str](), True
    for line in lines:
        found = PORT.fullmatch(line)
        if found is None:
            goes_on = goes_on or not line.startswith(" ")
            kept += [line] if goes_on else []
            continue
        shapes = _shapes(unit, found["names"])
        goes_on = bool(shapes)
        if shapes:
            width = f", {_width(*shapes.pop())}" if len(shapes) == 1 else ""
            kept.append(f"{found['names']}{found['gap']}{found['way']}{width}: {found['text']}")
    return kept


def _shapes(unit: Unit, names: str) -> set[tuple[int, bool]]:
    """Widths and signs of the ports that a line is about."""
    found = set()
    for written in names.split(", "):
        pattern = written.replace("{part}", "[a-z]+").replace("...", r"\w*")
        pattern = re.sub(r"\{\w+\}", r"\\d+", pattern)
        shapes = [Shape.cast(member.shape) for port, member in unit.signature.members.items()
                  if re.fullmatch(pattern, port)]  # fmt: skip
        found |= {(shape.width, shape.signed) for shape in shapes}
    return found


def _width(bits: int, is_signed: bool) -> str:
    return f"{bits} bit{'s' * (bits > 1)}{', signed' * is_signed}"


def _clock(unit: Unit) -> list[str]:
    if not unit.is_clocked:
        return []
    return [f"{CLOCK}{'' if 'rst' in unit.signature.members else NO_RESET}."]
