"""The circuit of each point of the table of measured cells."""

from collections.abc import Callable
from dataclasses import replace

from cost_table_points import Point

from bitwright.config import from_text
from bitwright.cost.synthesis_element import element_plan
from bitwright.datapath import Requantize
from bitwright.formats import Format, Int
from bitwright.rtl.decoder import OperandDecoder
from bitwright.rtl.encode import Encoder
from bitwright.rtl.operand import Operand, choices
from bitwright.rtl.overq_encoder import OverwriteEncoder
from bitwright.rtl.plan import Plan, plan
from bitwright.rtl.requantize import Requantizer
from bitwright.rtl.term_serial import ShiftSum, TermSerialDot
from bitwright.rtl.unit import Unit
from bitwright.rtl.units import Collector, ProcessingElement, Readout, VectorUnit
from bitwright.rtl.vector_quantizer import VectorQuantizer
from bitwright.rtl.verilog import rtlil
from bitwright.scheme import Scheme
from bitwright.schemes.overq import Overwrite

RULE = Requantize(16)
"""Of sums to levels."""


def circuit(point: Point) -> Unit:
    """The unit whose RTLIL is mapped."""
    scheme = scheme_of(point)
    if point.unit == "element":
        return ProcessingElement(element_plan(scheme, accumulator_bits=point.bits, k=point.k, sign=point.sign))
    return UNITS[point.unit](point, scheme, plan(scheme, k=point.k, sign=point.sign))


def text_of(point: Point) -> str:
    """Its RTLIL."""
    return rtlil(circuit(point), point.unit)


def scheme_of(point: Point) -> Scheme:
    scheme = from_text(point.scheme)
    assert isinstance(scheme, Scheme)
    return scheme


def decoded(point: Point, made: Plan) -> Operand:
    """What a decoder decodes: inputs, or weights."""
    operand = made.x if point.inputs else made.w
    return replace(made, w=operand).elementwise().w


def level_of(format: Format) -> Int:
    """What an encoder reads: magnitudes up to twice the largest element, or all of an outlier's digits."""
    is_overwrite, is_signed = isinstance(format, Overwrite), format.bounds().lowest < 0
    below = 2 if is_overwrite else 3 - format.bounds().exponent.start
    largest = format.largest if isinstance(format, Overwrite) else format.full_scale
    return Int(int(2 * largest * 2**below).bit_length() + is_signed, is_signed, exponent=-below)


def _encoder(point: Point, scheme: Scheme, made: Plan) -> Unit:
    """Of one scale a column; of a vector's own where blocks have one."""
    quantizer = choices(scheme.input, point.sign)[0]
    if quantizer.scales[-1].share.splits_k and point.lanes > 1:
        return VectorQuantizer(quantizer, Int(16), RULE)
    format = quantizer.format
    if isinstance(format, Overwrite):
        return OverwriteEncoder(format, level_of(format), point.lanes)
    return Encoder(format, level_of(format), lanes=point.lanes)


def _requantizer(point: Point, scheme: Scheme, made: Plan) -> Unit:
    assert point.bits is not None
    return Requantizer(RULE, choices(scheme.input, point.sign)[0].format, point.bits)


def _pairs(point: Point, scheme: Scheme, made: Plan) -> Unit:
    x, w = (choices(q, point.sign)[0].format for q in (scheme.input, scheme.weight))
    return TermSerialDot(x, w, point.lanes, point.k, ShiftSum)


UNITS: dict[str, Callable[[Point, Scheme, Plan], Unit]] = {
    "collector": lambda point, scheme, made: Collector(made),
    "decoder": lambda point, scheme, made: OperandDecoder(decoded(point, made), point.lanes),
    "encoder": _encoder,
    "requantizer": _requantizer,
    "fold": lambda point, scheme, made: Readout(made.inner),
    "vector": lambda point, scheme, made: VectorUnit(made, point.lanes),
    "pairs": _pairs,
}
