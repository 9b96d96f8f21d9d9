"""An operand of a circuit: one format, or several among which a port chooses (ANT's types, inputs of either sign)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property

from amaranth.hdl import Module, Signal, Value

from bitwright.formats import Bounds, Format, Int
from bitwright.quantization import AnyQuantizer, BestOf, BySign, Quantizer
from bitwright.quantization.quantizer import Zero
from bitwright.rtl.decode import bounds, operands
from bitwright.rtl.ranges import carried, union
from bitwright.rtl.term import (
    Term,
    back_shape,
    element_shape,
    exponent_shape,
    significand_shape,
)  # fmt: skip


class Sign(Enum):
    """Which inputs a circuit takes, of a scheme that has one format for those without negative values."""

    UNSIGNED = "inputs without negative values, as after a ReLU"
    SIGNED = "inputs of either sign"
    BOTH = "both formats; a port says which"

    def __repr__(self) -> str:
        return f"Sign.{self.name}"


@dataclass(frozen=True)
class Operand:
    """Formats that a circuit reads codes in, and one of them at a time."""

    formats: tuple[Format, ...]

    @cached_property
    def bounds(self) -> Bounds:
        """Of what travels to the multipliers."""
        return union(carried(bounds(format)) for format in self.formats)

    @property
    def bits(self) -> int:
        return max(format.bits for format in self.formats)

    @property
    def select_bits(self) -> int:
        return (len(self.formats) - 1).bit_length()

    @property
    def run(self) -> int:
        """Neighbours that a decoder must see at once."""
        return max(format.run for format in self.formats)

    def elementwise(self) -> "Operand":
        """The same elements as integers of one lane each: what is stored once the budget of a group was applied."""
        made = []
        for format in self.formats:
            found = bounds(format)
            shape = element_shape(found)
            grouped = Int(shape.width, shape.signed, exponent=found.exponent.start)
            made.append(grouped if format.run > 1 and not found.reach else format)
        return replace(self, formats=tuple(made))

    def terms(self, m: Module, codes: Sequence[Value], select: Value) -> list[Term]:
        """One multiplier operand a lane, of the format that `select` names."""
        decoded = []
        for i, format in enumerate(self.formats):
            inside = Module()
            decoded.append(operands(format, inside, [code[: format.bits] for code in codes]))
            m.submodules[f"format_{i}"] = inside
        if len(self.formats) == 1:
            return decoded[0]
        made = []
        for lane in range(len(codes)):
            term = Term(
                Signal(significand_shape(self.bounds), name=f"significand_{lane}"),
                Signal(exponent_shape(self.bounds), name=f"exponent_{lane}"),
                Signal(back_shape(self.bounds), name=f"back_{lane}"),
            )
            with m.Switch(select):
                for i, lanes in enumerate(decoded):
                    with m.Case(i):
                        m.d.comb += [
                            term.significand.eq(lanes[lane].significand),
                            term.exponent.eq(self._position(i, lanes[lane].exponent)),
                            term.back.eq(lanes[lane].back),
                        ]
            made.append(term)
        return made

    def _position(self, i: int, exponent: Value) -> Value:
        """Of an exponent of one format, in the exponents of all."""
        own, every = carried(bounds(self.formats[i])).exponent, self.bounds.exponent
        return (exponent * own.step + (own.start - every.start)) // every.step if len(every) > 1 else exponent


def operand(quantizer: AnyQuantizer, sign: Sign = Sign.BOTH) -> Operand:
    """Every format that a quantizer may choose at calibration, in its order."""
    return Operand(tuple(dict.fromkeys(q.format for q in choices(quantizer, sign))))


def choices(quantizer: AnyQuantizer, sign: Sign = Sign.BOTH) -> list[Quantizer]:
    """The quantizers that calibration chooses from."""
    if isinstance(quantizer, BySign):
        unsigned, signed = choices(quantizer.unsigned), choices(quantizer.signed)
        return {Sign.UNSIGNED: unsigned, Sign.SIGNED: signed, Sign.BOTH: unsigned + signed}[sign]
    return list(quantizer.quantizers) if isinstance(quantizer, BestOf) else [quantizer]


def has_zero_point(quantizer: AnyQuantizer, sign: Sign = Sign.BOTH) -> bool:
    """Whether codes may stand for their difference to a zero point."""
    return any(q.zero is Zero.FITTED for q in choices(quantizer, sign))
