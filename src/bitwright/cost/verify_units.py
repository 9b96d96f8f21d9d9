"""Encoders and vector units that are proved for all inputs, small ones of each kind."""

from collections.abc import Iterator
from functools import partial

from bitwright.config import from_text
from bitwright.cost.formal import ONE_CLOCK, Dut, Goal
from bitwright.cost.formal_units import (
    adder_check,
    encoder_check,
    nearest_check,
    term_encoder_check,
    vector_check,
    vector_quantizer_check,
)
from bitwright.cost.verify_proofs import Claim, Finding, found
from bitwright.datapath import Requantize
from bitwright.formats import E4M3, E5M2, Format, Int, Minifloat, Rounding
from bitwright.quantization import Quantizer
from bitwright.rtl.encode import Encoder
from bitwright.rtl.float_register import FloatAdder, FloatRegister
from bitwright.rtl.hese import TermEncoder
from bitwright.rtl.operand import Sign, choices
from bitwright.rtl.overq_encoder import OverwriteEncoder
from bitwright.rtl.plan import plan
from bitwright.rtl.units import VectorUnit
from bitwright.rtl.vector_quantizer import VectorQuantizer
from bitwright.scheme import Scheme
from bitwright.schemes.overq import Overwrite
from bitwright.schemes.term_revealing import TermBudget

SCALARS = ("ant_type('flint')", "ant_type('pot')", "ant_type('float')", "minifloat(2, 1)", "minifloat(2, 3)",
           "minifloat(3, 2)", "integer(4, 4)")  # fmt: skip
"""Schemes whose inputs' format is encoded level by level."""

NEIGHBOURS = (
    ("overq(2, 4, tile=4)", 4, 0), ("overq(3, 4, tile=2)", 2, 2), ("overq(4, 4, tile=2)", 2, 1),
    ("overq(2, 4, tile=3, precision_overwrite=True)", 3, 2), ("overq(4, 4, tile=2, precision_overwrite=True)", 2, 1),
)  # fmt: skip
"""Schemes, lanes that are encoded together, and digits of a level below the inputs' unit."""

TERMS = ("term_revealing(5, 5, group=3, budget=4)", "term_revealing(4, 4, group=4, budget=6)")
QUANTIZERS = (("vs_quant(3, 3, vector=2)", 6), ("vs_quant(4, 4, vector=2)", 7))
"""Schemes, and bits of what their vectors are quantized from."""

LONG_LEVELS = ("mxfp8()", "mxfp8(element=E5M2)")
"""Schemes whose levels are too long for a table of all: their codes are held against the nearest value."""

FLOATS = {
    "E4M3": FloatRegister(E4M3), "E5M2": FloatRegister(E5M2),
    "E3M2, truncated": FloatRegister(Minifloat(3, 2), Rounding.TOWARD_ZERO),
}  # fmt: skip
"""Float registers, every pair of whose codes is added."""

VECTORS = (("integer(4, 4)", 2), ("integer(3, 3)", 4), ("ant_type('flint')", 2), ("minifloat(2, 1)", 2),
           ("vs_quant(2, 2, 2, 2, vector=2)", 2), ("vs_quant(3, 3, 2, 2, vector=2)", 2))  # fmt: skip
"""Schemes and lanes."""


def claims() -> Iterator[Claim]:
    """Of every unit above."""
    for text in SCALARS:
        formats = {_input(text, sign).format for sign in (Sign.UNSIGNED, Sign.SIGNED)}
        yield from (_scalar(text, format) for format in sorted(formats, key=repr))
    for text, lanes, below in NEIGHBOURS:
        yield _neighbours(text, lanes, below)
    for text in TERMS:
        yield _terms(text)
    for text, bits in QUANTIZERS:
        for sign in (Sign.UNSIGNED, Sign.SIGNED):
            yield _quantizer(text, bits, sign)
    for text, lanes in VECTORS:
        yield _vector(text, lanes)
    for text in LONG_LEVELS:
        yield _long(text)
    for name, register in FLOATS.items():
        yield _adder(name, register)


def prove_units(proof_s: float, known: dict[str, Finding] | None = None) -> Iterator[Finding]:
    """A finding for each; those known that speak of today's circuit are not proved again."""
    for claim in claims():
        before = (known or {}).get(claim.circuit)
        is_current = before is not None and before.is_proof and before.holds and before.rtlil_sha256 == claim.sha256
        yield before if before is not None and is_current else found(claim, Dut.of_rtlil(claim.rtlil), "RTL", proof_s)


def _input(text: str, sign: Sign) -> Quantizer:
    scheme = from_text(text)
    assert isinstance(scheme, Scheme)
    assert scheme.input is not None
    return choices(scheme.input, sign)[0]


def _level(format: Format) -> Int:
    """Levels beyond the largest element on either side, with two digits below half of the smallest."""
    b = format.bounds()
    below = max(3 - b.exponent.start, 0)
    return Int(int(2 * format.full_scale * 2**below).bit_length() + (b.lowest < 0), b.lowest < 0, exponent=-below)


def _scalar(text: str, format: Format) -> Claim:
    unit = Encoder(format, _level(format))
    name = f"encoder of {text}, {'signed' if unit.level.signed else 'unsigned'} levels of {unit.level.bits} bits"
    return Claim(name, unit, "encoder", "equal to the format's encode", partial(encoder_check, unit), (Goal("bad"),))


def _neighbours(text: str, lanes: int, below: int) -> Claim:
    format = _input(text, Sign.UNSIGNED).format
    assert isinstance(format, Overwrite)
    level = Int(int(format.largest * 2**below).bit_length() + 1, signed=False, exponent=-below)
    unit = OverwriteEncoder(format, level, lanes)
    name = f"encoder of {text}, {lanes} lanes of {level.bits} bits"
    return Claim(name, unit, "encoder", "equal to the format's encode", partial(encoder_check, unit), (Goal("bad"),))


def _terms(text: str) -> Claim:
    scheme = from_text(text)
    assert isinstance(scheme, Scheme)
    format = choices(scheme.weight)[0].format
    assert isinstance(format, TermBudget)
    unit = TermEncoder(format)
    said = "equal to the terms that the format keeps"
    return Claim(f"encoder of the weights of {text}", unit, "encoder", said, partial(term_encoder_check, unit),
                 (Goal("bad"),))  # fmt: skip


def _quantizer(text: str, bits: int, sign: Sign) -> Claim:
    quantizer, rule = _input(text, sign), Requantize(8)
    unit = VectorQuantizer(quantizer, Int(bits), rule)
    largest = quantizer.scales[-1].format.full_scale
    factor = rule.fixed_point(largest / 2 ** (bits - 1))
    return Claim(
        f"vector quantizer of {text}, {sign.name.lower()} levels of {bits} bits", unit, "quantizer",
        "equal to quantize_vectors", partial(vector_quantizer_check, unit, factor), (Goal("bad", ONE_CLOCK),),
    )  # fmt: skip


def _vector(text: str, lanes: int) -> Claim:
    scheme = from_text(text)
    assert isinstance(scheme, Scheme)
    unit = VectorUnit(plan(scheme, k=16, sign=Sign.SIGNED), lanes)
    return Claim(
        f"vector unit of {text}, {lanes} lanes", unit, "vector", "equal to the register + Σ x·w from values",
        partial(vector_check, unit), (Goal("bad", ONE_CLOCK),),
    )  # fmt: skip


def _long(text: str) -> Claim:
    unit = Encoder(format := _input(text, Sign.SIGNED).format, _level(format))
    name = f"encoder of {text}, signed levels of {unit.level.bits} bits"
    said = "equal to the nearest value's code"
    return Claim(name, unit, "encoder", said, partial(nearest_check, unit), (Goal("bad"),))


def _adder(name: str, register: FloatRegister) -> Claim:
    unit = FloatAdder(register)
    return Claim(f"adder of a float register of {name}", unit, "adder", "equal to the accumulator's sum of both values",
                 partial(adder_check, unit), (Goal("bad"),))  # fmt: skip
