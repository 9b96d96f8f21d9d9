"""Quantizers as standard ONNX operators: what an input is represented by.

Operators are the reference's, in its order, in float32. Integers go through QuantizeLinear and DequantizeLinear; other
formats through the operations that round to them. `Unholdable` is raised for what no operators can say.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatch

import numpy as np
import torch
from onnx import TensorProto

from bitwright.export.graph import Fragment
from bitwright.export.unholdable import Unholdable
from bitwright.formats import BFLOAT16, E4M3, E5M2, FLOAT16, FLOAT32, Format, Int, Minifloat, Rounding, Table
from bitwright.kernels import Unsupported
from bitwright.kernels.library import NativeFormat
from bitwright.kernels.native.scalars import element as ladder_of
from bitwright.kernels.quantize import coarse_scales, tops, zero_points
from bitwright.quantization import PerTile, Quantizer, Range, Scale, ScaleValue, Zero

CASTS = {
    E4M3: TensorProto.FLOAT8E4M3FN, E5M2: TensorProto.FLOAT8E5M2, FLOAT16: TensorProto.FLOAT16,
    BFLOAT16: TensorProto.BFLOAT16,
}  # fmt: skip
"""Formats that a cast rounds to, ties to even."""


Ranges = tuple[Range | None, ...]


def is_of_tensor(quantizer: Quantizer) -> bool:
    """Whether one scale serves the whole input, so that its layout does not matter."""
    return all(not s.share.splits_k and s.share.cell(2, 2)[0] > 1 for s in quantizer.scales)


Rounder = Callable[[Fragment, Format, Rounding, str], str]
"""decode(encode(level)) in float32, in a target's own words."""


def rounded(g: Fragment, format: Format, rounding: Rounding, level: str) -> str:
    """decode(encode(level)) in float32."""
    return _rounded(format, g, rounding, level)


def represent(g: Fragment, quantizer: Quantizer, ranges: Ranges, x: str, k: int, rounder: Rounder = rounded) -> str:
    """x [..., k] as codes of the quantizer represent it."""
    grid = grid_of(quantizer, ranges)
    if grid is not None and isinstance(quantizer.format, Int) and quantizer.format.bits <= 8 and grid.is_plain:
        return dequantized(g, grid, quantize_linear(g, grid, x))
    return by_steps(g, quantizer, ranges, x, k, rounder)


@dataclass(frozen=True)
class Grid:
    """An input under one static scale: divided by `by`, rounded to the format, and worth `scale` a level."""

    format: Format
    rounding: Rounding
    by: float
    scale: float  # a float32
    offset: int  # the code of real zero

    @property
    def is_plain(self) -> bool:
        """Whether its levels are integers to nearest even, a scale's worth each."""
        is_integer = isinstance(self.format, Int) and not self.format.exponent
        return is_integer and self.rounding is Rounding.NEAREST_EVEN and self.by == self.scale


def grid_of(quantizer: Quantizer, ranges: Ranges) -> Grid | None:
    """The input's only scale; None where one follows the data, is shared along K, or is zero."""
    require_scalar(quantizer)
    given = [*ranges, *[None] * (len(quantizer.scales) - len(ranges))]
    known = [r for r in given if r is not None and r.low.size == 1]
    if len(known) < len(given):
        return None
    full_scale = quantizer.candidates()[0]
    spans = [torch.from_numpy(_span(quantizer, r)).float() for r in known]
    values, product = coarse_scales(quantizer.scales, spans, tops(quantizer, full_scale))
    by = product if quantizer.divide_by is ScaleValue.STORED else spans[-1] / full_scale
    scale = float(np.float32(np.prod([v.double().numpy() for v in values])))
    offset = int(zero_points(quantizer, known[0], product)) if quantizer.zero is Zero.FITTED else 0
    return Grid(quantizer.format, quantizer.rounding, float(by), scale, offset) if float(by) > 0 else None


def quantize_linear(g: Fragment, grid: Grid, x: str) -> str:
    """Codes of a plain grid of at most 8 bits, as UINT8.

    Signed ones lie around a zero point of 128: ONNX Runtime makes them unsigned itself, and version 1.31 then refuses a
    QuantizeLinear that it moved across a Reshape of its own (inputs of three axes whose sizes are fixed).
    """
    low, high = (int(end) for end in (grid.format.bounds().lowest, grid.format.bounds().highest))
    if high - low < 255:
        x = g.op("Clip", x, *(g.constant((end - grid.offset) * grid.by) for end in (low, high)))
    return g.op("QuantizeLinear", x, g.constant(grid.scale), zero_of(g, grid))


def dequantized(g: Fragment, grid: Grid, codes: str) -> str:
    """What codes of a plain grid stand for."""
    return g.op("DequantizeLinear", codes, g.constant(grid.scale), zero_of(g, grid))


def zero_of(g: Fragment, grid: Grid) -> str:
    """The code of real zero."""
    return g.constant(grid.offset + (128 if grid.format.bounds().lowest < 0 else 0), np.uint8)


def by_steps(g: Fragment, quantizer: Quantizer, ranges: Ranges, x: str, k: int, rounder: Rounder) -> str:
    """x [..., k] represented by dividing, rounding and multiplying."""
    require_scalar(quantizer)
    given = [*ranges, *[None] * (len(quantizer.scales) - len(ranges))]
    grid = grid_of(quantizer, ranges)
    if grid is None and all(r is not None and r.low.size == 1 for r in given):
        return g.op("Mul", x, g.constant(0))  # a range of nothing
    if quantizer.zero is Zero.FITTED:
        raise Unholdable(f"a zero point of {quantizer.format} that follows the input or has more than 8 bits")
    if grid is None:
        return _dynamic(g, quantizer, given, x, k, rounder)
    level = g.op("Div", x, g.constant(grid.by))
    return g.op("Mul", rounder(g, grid.format, grid.rounding, level), g.constant(grid.scale))


def _span(quantizer: Quantizer, known: Range) -> np.ndarray:
    if quantizer.zero is Zero.FIXED:
        return known.magnitude
    return known.high.clip(min=0) - known.low.clip(max=0)


def _dynamic(g: Fragment, quantizer: Quantizer, given: list[Range | None], x: str, k: int, rounder: Rounder) -> str:
    """Blocks along the last axis, [..., blocks, block]; a row is one block where no scale splits it."""
    block = quantizer.block(1, k)
    padding = -k % block
    whole = x
    if padding:
        # pads lists both ends of every axis; only the last one's end grows
        zeros = g.op("Expand", g.constant(0), _with_last(g, x, padding))
        whole = g.op("Concat", x, zeros, axis=-1)
    blocks = g.op("Reshape", whole, _split(g, whole, block))
    is_signed = quantizer.format.bounds().lowest < 0
    magnitude = g.op("Abs", blocks) if is_signed else g.op("Max", blocks, g.constant(0))
    full_scales = quantizer.full_scales(quantizer.candidates()[0])
    taken, inside, span = "", [], ""
    for i, (scale, known) in enumerate(zip(quantizer.scales, given, strict=True)):
        span = g.constant(known.magnitude.reshape(-1)) if known is not None else _largest(g, magnitude, scale)
        room = float(np.prod([finer.room for finer in quantizer.scales[i + 1 :]]))
        factor = g.constant(np.float32(full_scales[i] * room))
        divisor = g.op("Mul", taken, factor) if taken else factor
        value = _stored(g, scale, span, divisor, rounder)
        inside.append(value)
        taken = g.op("Mul", value, taken) if taken else value
    by = taken if quantizer.divide_by is ScaleValue.STORED else g.op("Div", span, g.constant(full_scales[-1]))
    is_positive = g.op("Greater", by, g.constant(0))
    level = g.op("Where", is_positive, g.op("Div", blocks, by), g.constant(0))
    value = rounder(g, quantizer.format, quantizer.rounding, level)
    for scale_value in reversed(inside):
        value = g.op("Mul", value, scale_value)
    flat = g.op("Reshape", value, g.op("Shape", whole))
    return g.op("Slice", flat, *(g.constant([v], np.int64) for v in (0, k, -1))) if padding else flat


def _with_last(g: Fragment, x: str, size: int) -> str:
    """The shape of x with another last axis."""
    front = g.op("Shape", x, end=-1)
    return g.op("Concat", front, g.constant([size], np.int64), axis=0)


def _split(g: Fragment, x: str, block: int) -> str:
    return g.op("Concat", g.op("Shape", x, end=-1), g.constant([-1, block], np.int64), axis=0)


def _largest(g: Fragment, magnitude: str, scale: Scale) -> str:
    """Of each block, of each row, or of all."""
    if scale.share.splits_k:
        axes = [-1]
    elif scale.share.cell(2, 2)[0] == 1:
        axes = [-2, -1]
    else:
        return g.op("ReduceMax", magnitude, keepdims=0)
    return g.op("ReduceMax", magnitude, g.constant(axes, np.int64), keepdims=1)


def _stored(g: Fragment, scale: Scale, span: str, divisor: str, rounder: Rounder) -> str:
    zero = g.constant(0)
    ideal = g.op("Where", g.op("Greater", divisor, zero), g.op("Div", span, divisor), zero)
    if scale.smallest:
        raised = g.op("Max", ideal, g.constant(scale.smallest))
        ideal = g.op("Where", g.op("Greater", ideal, zero), raised, zero)
    value = rounder(g, scale.format, scale.rounding, ideal)
    if scale.zero_as is not None:
        value = g.op("Where", g.op("Equal", value, zero), g.constant(scale.zero_as), value)
    return value


@singledispatch
def _rounded(format: Format, g: Fragment, rounding: Rounding, level: str) -> str:
    raise Unholdable(f"inputs of {type(format).__name__}")


@_rounded.register
def _(format: Int, g: Fragment, rounding: Rounding, level: str) -> str:
    low, high = format.range
    unit = 2.0**format.exponent
    level = g.op("Mul", level, g.constant(1 / unit)) if format.exponent else level
    integer = _integer(g, rounding, g.op("Clip", level, g.constant(low), g.constant(high)))
    return g.op("Mul", integer, g.constant(unit)) if format.exponent else integer


@_rounded.register
def _(format: Minifloat, g: Fragment, rounding: Rounding, level: str) -> str:
    if format == FLOAT32:
        return level
    bounds = format.bounds()
    level = g.op("Clip", level, g.constant(bounds.lowest), g.constant(bounds.highest))
    if format in CASTS and rounding is Rounding.NEAREST_EVEN:
        return g.op("Cast", g.op("Cast", level, to=CASTS[format]), to=TensorProto.FLOAT)
    if not format.mantissa_bits and rounding not in (Rounding.FLOOR, Rounding.CEILING, Rounding.TOWARD_ZERO):
        raise Unholdable(f"{format} under {rounding}")  # the exponent's parity breaks ties
    if not format.subnormal and format.mantissa_bits:
        raise Unholdable(f"{format}, which has no subnormal numbers")
    power = _power(g, g.op("Abs", level), format.smallest_exponent, bounds.exponent.stop + format.mantissa_bits)
    step = g.op("Mul", power, g.constant(2.0**-format.mantissa_bits))
    return g.op("Mul", _integer(g, rounding, g.op("Div", level, step)), step)


@_rounded.register
def _(format: Table, g: Fragment, rounding: Rounding, level: str) -> str:
    try:
        steps = ladder_of(format, rounding)
    except Unsupported as reason:
        raise Unholdable(f"{reason}") from None
    return _by_ladder(g, steps, level)


def _by_ladder(g: Fragment, steps: NativeFormat, level: str) -> str:
    """Sum of the steps whose thresholds the magnitude reaches, with the level's sign."""
    if steps.lowest == 0:
        level = g.op("Max", level, g.constant(0))
    magnitude, total = g.op("Abs", level), ""
    is_upward = g.op("GreaterOrEqual", level, g.constant(0)) if steps.inward else ""
    for threshold, step in zip(steps.thresholds[: steps.count], steps.steps[: steps.count], strict=True):
        is_reached = g.op("GreaterOrEqual", magnitude, g.constant(threshold))
        if steps.inward:  # ties of negative levels go toward zero
            is_over = g.op("Greater", magnitude, g.constant(threshold))
            is_reached = g.op("Or", is_over, g.op("And", is_reached, is_upward))
        part = g.op("Where", is_reached, g.constant(step), g.constant(0))
        total = g.op("Add", total, part) if total else part
    value = g.op("Mul", total, g.op("Sign", level))
    for odd, tie in zip(steps.odd_levels, steps.odd_values, strict=True):
        if not np.isnan(odd):
            value = g.op("Where", g.op("Equal", level, g.constant(odd)), g.constant(tie), value)
    return value


def _integer(g: Fragment, rounding: Rounding, x: str) -> str:
    match rounding:
        case Rounding.NEAREST_EVEN:
            return g.op("Round", x)
        case Rounding.FLOOR:
            return g.op("Floor", x)
        case Rounding.CEILING:
            return g.op("Ceil", x)
        case Rounding.NEAREST_UP:
            return _passed(g, x, "GreaterOrEqual")
        case Rounding.TOWARD_ZERO:
            return g.op("Mul", g.op("Floor", g.op("Abs", x)), g.op("Sign", x))
        case Rounding.NEAREST_AWAY | Rounding.NEAREST_ZERO:
            over = "GreaterOrEqual" if rounding is Rounding.NEAREST_AWAY else "Greater"
            return g.op("Mul", _passed(g, g.op("Abs", x), over), g.op("Sign", x))
    raise Unholdable(f"{rounding}")


def _passed(g: Fragment, x: str, over: str) -> str:
    """The integer below, or the next one where x is over the middle."""
    floor = g.op("Floor", x)
    is_over = g.op(over, g.op("Sub", x, floor), g.constant(0.5))
    return g.op("Add", floor, g.op("Cast", is_over, to=TensorProto.FLOAT))


def _power(g: Fragment, magnitude: str, smallest: int, end: int) -> str:
    """The largest power of two that is not above the magnitude, at least 2**smallest and below 2**end: by bisection."""
    power = g.constant(2.0**smallest)
    bit = 1 << max((end - smallest - 1).bit_length() - 1, 0)
    while bit:
        # the factor is split where float32 does not hold it
        half = g.op("Mul", power, g.constant(2.0 ** (bit // 2)))
        tried = g.op("Mul", half, g.constant(2.0 ** (bit - bit // 2)))
        power = g.op("Where", g.op("GreaterOrEqual", magnitude, tried), tried, power)
        bit //= 2
    return power


def require_scalar(quantizer: Quantizer) -> None:
    if len(quantizer.candidates()) > 1:
        raise Unholdable("several full scales, of which the least error chooses")
    if any(s.magnitude_format is not None for s in quantizer.scales):
        raise Unholdable("magnitudes that are rounded before scales are set")
    if any(isinstance(s.share, PerTile) for s in quantizer.scales):
        raise Unholdable("scales of tiles")
    if sum(s.share.splits_k for s in quantizer.scales) > 1:
        raise Unholdable("two levels of scales along K")
