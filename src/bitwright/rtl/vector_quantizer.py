"""VS-Quant's post-processing unit: each vector's largest magnitude, its scale code, its elements over that magnitude.

S. Dai et al., MLSys 2021, arXiv:2102.04503, eq. 7; B. Keller et al., JSSC 58(4), 2023. The paper draws a reciprocal
and multipliers; here nothing is divided: an element's code is the number of thresholds that it passes, and the
thresholds are odd multiples of the largest magnitude, made once for all elements.
"""

from collections.abc import Sequence

import numpy as np
from amaranth.hdl import Const, Module, Mux, Shape, Signal, Value, unsigned
from amaranth.lib.wiring import In, Out
from jaxtyping import Int as Ints

from bitwright.datapath import FixedPoint, Requantize
from bitwright.formats import Int, Rounding
from bitwright.quantization import Quantizer, ScaleValue
from bitwright.rtl.requantize import Requantizer
from bitwright.rtl.term import named
from bitwright.rtl.unit import Unit, place

TIE_IS_UP = {Rounding.NEAREST_EVEN: None, Rounding.NEAREST_AWAY: True, Rounding.NEAREST_ZERO: False}
"""Where a magnitude between two codes goes; None to the even one."""


def quantize_vectors(
    quantizer: Quantizer, requantize: Requantize, factor: FixedPoint, x: Ints[np.ndarray, "rows vector"]
) -> tuple[Ints[np.ndarray, "rows vector"], Ints[np.ndarray, " rows"]]:
    """Codes of each row's elements and its scale code, in the integers that the unit computes with.

    Elements are round(x · full scale / largest), of the exact quotient. `Quantizer.quantize` rounds the divisor,
    then the quotient, to its float type, so an exact tie may fall the other way. Nothing else differs: any other
    quotient is at least 1 / (2 · largest) from a tie, and the error of two roundings is below full scale · 2**-52
    in float64 (2**-23 in float32), less than that for full scale · largest < 2**51 (2**22).

    The scale code is `Requantize.apply` of the largest magnitude; its factor stands for 1 / (full scale · coarse scale)
    with a relative error of 2**-(multiplier_bits - 1). It equals the quantizer's unless the ideal scale lies that close
    to a tie.
    """
    format, scale = _formats(quantizer)
    magnitude = np.abs(x) if format.signed else np.maximum(x, 0)
    largest = magnitude.max(1)
    twice = 2 * int(format.full_scale) * magnitude
    divisor = 2 * np.maximum(largest, 1)[:, None]
    code, passed = np.divmod(twice, divisor)
    tie = TIE_IS_UP[quantizer.rounding]
    is_up = (2 * passed > divisor) | ((2 * passed == divisor) & (code % 2 == 1 if tie is None else tie))
    code = (code + is_up) * np.sign(x)
    return code & (2**format.bits - 1), requantize.apply(largest, factor, scale)


class VectorQuantizer(Unit):
    """Codes of a vector's elements and its scale code: `quantize_vectors`. Latency 1, one vector a clock.

    x_{lane}             in: in any unit
    multiplier, shift    in: unit / (full scale · coarse scale) as fixed point; the ports of `requantizer`
    code_{lane}          out: stored code
    scale                out: stored code of the vector's scale
    """

    is_clocked = True

    def __init__(self, quantizer: Quantizer, x: Int, requantize: Requantize = Requantize(16)) -> None:
        format, scale = _formats(quantizer)
        self.quantizer, self.x, self.format = quantizer, x, format
        self.lanes = quantizer.scales[-1].share.cell(1, 2**40)[1]
        self.requantizer = Requantizer(requantize, scale, x.bits + 1)
        ports = {f"x_{lane}": In(Shape(x.bits, x.signed)) for lane in range(self.lanes)}
        ports |= {name: In(getattr(self.requantizer, name).shape()) for name in ("multiplier", "shift")}
        ports |= {f"code_{lane}": Out(unsigned(format.bits)) for lane in range(self.lanes)}
        super().__init__(ports | {"scale": Out(unsigned(scale.bits))}, quantizer, x, requantize)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        place(m, platform, "requantizer", self.requantizer)
        magnitudes, signs = [], []
        for lane in range(self.lanes):
            x = getattr(self, f"x_{lane}")
            below = -x if self.format.signed else 0
            magnitudes.append(named(m, f"magnitude_{lane}", unsigned(self.x.bits), Mux(x < 0, below, x)))
            signs.append(x < 0)
        largest = Signal(unsigned(self.x.bits), name="largest")
        m.d.sync += largest.eq(_largest(m, magnitudes))
        m.d.comb += [
            self.requantizer.accumulator.eq(largest), self.requantizer.multiplier.eq(self.multiplier),
            self.requantizer.shift.eq(self.shift), self.scale.eq(self.requantizer.result),
        ]  # fmt: skip
        full = int(self.format.full_scale)
        thresholds = [
            named(m, f"threshold_{q}", unsigned(self.x.bits + (2 * q + 1).bit_length()), largest * (2 * q + 1))
            for q in range(full)
        ]
        for lane, (magnitude, sign) in enumerate(zip(magnitudes, signs)):
            held, is_negative = Signal(magnitude.shape(), name=f"held_{lane}"), Signal(name=f"is_negative_{lane}")
            m.d.sync += [held.eq(magnitude), is_negative.eq(sign)]
            scaled = named(m, f"scaled_{lane}", unsigned(self.x.bits + (2 * full).bit_length()), held * (2 * full))
            code = Signal(self.format.bits, name=f"size_{lane}")
            for q, threshold in enumerate(thresholds):  # a later assignment wins
                tie = TIE_IS_UP[self.quantizer.rounding]
                is_up = scaled >= threshold if (q % 2 == 1 if tie is None else tie) else scaled > threshold
                with m.If(is_up & held.any()):
                    m.d.comb += code.eq(q + 1)
            signed = Mux(is_negative, -code, code) if self.format.signed else code
            m.d.comb += getattr(self, f"code_{lane}").eq(signed)
        return m


def _largest(m: Module, values: Sequence[Value]) -> Value:
    """The largest of several, by a balanced tree."""
    parts, level = list(values), 0
    while len(parts) > 1:
        pairs = [named(m, f"largest_{level}_{i}", a.shape(), Mux(a > b, a, b))
                 for i, (a, b) in enumerate(zip(parts[::2], parts[1::2]))]  # fmt: skip
        parts, level = pairs + parts[len(parts) & ~1 :], level + 1
    return parts[0] if parts else Const(0, 1)


def _formats(quantizer: Quantizer) -> tuple[Int, Int]:
    """The formats of elements and of vector scales. ValueError where the unit computes something else."""
    format, scale = quantizer.format, quantizer.scales[-1].format
    if not isinstance(format, Int) or (format.signed and not format.narrow) or format.exponent:
        raise ValueError(f"VectorQuantizer: {format} elements found; it makes unsigned or narrow Int ones")
    if not isinstance(scale, Int) or scale.signed or scale.exponent or len(quantizer.scales) != 2:
        raise ValueError(
            f"VectorQuantizer: {scale} as the format of the finest of {len(quantizer.scales)} scales found; it makes "
            "unsigned Int ones under one coarse scale"
        )
    if quantizer.divide_by is not ScaleValue.IDEAL or quantizer.scales[-1].range is not None:
        raise ValueError("VectorQuantizer: elements are divided by their vector's own unrounded scale; use vs_quant's")
    if quantizer.rounding not in TIE_IS_UP:
        raise ValueError(f"VectorQuantizer: {quantizer.rounding} found; choose from {', '.join(map(repr, TIE_IS_UP))}")
    return format, scale
