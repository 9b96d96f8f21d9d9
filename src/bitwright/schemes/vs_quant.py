"""VS-Quant: a scale factor for each short vector along K, itself quantized to a few bits.

S. Dai et al., "VS-Quant: per-vector scaled quantization for accurate low-precision neural network inference",
MLSys 2021, arXiv:2102.04503. The chip: B. Keller et al., JSSC 58(4), 2023.
Differs from the paper: unsigned inputs use all 2**N codes (the text prints the signed bound, its results need the full
one); the coarse scale of an input is static, from the largest vector scale of the calibration (left open there).
"""

from bitwright.datapath import WIDE, Accumulator, Datapath, Overflow
from bitwright.formats import FLOAT32, Format, Int, Rounding
from bitwright.quantization import (
    AbsMax,
    BySign,
    Granularity,
    PerBlock,
    PerColumns,
    PerRow,
    PerTensor,
    Quantizer,
    RangeEstimator,
    Scale,
    ScaleValue,
)  # fmt: skip
from bitwright.scheme import Example, Scheme

SOURCE = "Dai et al., MLSys 2021, arXiv:2102.04503"


def vs_quant(
    weight_bits: int = 4,
    input_bits: int | None = 4,
    weight_scale_bits: int | None = 4,
    input_scale_bits: int | None = 4,
    *,
    vector: int = 16,
    input_range: RangeEstimator | None = AbsMax(),
    input_vectors: RangeEstimator | None = None,
    scale_product: Format | None = None,
) -> Scheme:
    """The paper's W/A/ws/as notation: `vs_quant(4, 8, 6, 10)`. Scale bits None keep float scales (single level).

    `input_range` calibrates the coarse input scale; None takes it from each input. `input_vectors` None scales each
    vector of an input as it comes (dynamic); an estimator fixes one scale for each vector position (static).
    `scale_product` rounds the product of the two vector scales, e.g. Int(6, signed=False, exponent=2).
    """
    weight = Quantizer(
        Int(weight_bits, narrow=True),
        _scales(PerRow(), weight_scale_bits, PerBlock(vector)),
        divide_by=ScaleValue.IDEAL,
    )
    is_integer = weight_scale_bits is not None and (input_bits is None or input_scale_bits is not None)
    datapath = Datapath(outer=Accumulator(FLOAT32), scale_product=FLOAT32)
    if is_integer:
        datapath = Datapath(outer=WIDE, scale_product=scale_product, scale_rounding=Rounding.NEAREST_UP)
    if input_bits is None:
        return Scheme(None, weight, datapath, SOURCE)
    blocks: Granularity = PerBlock(vector) if input_vectors is None else PerColumns(vector)
    scales = _scales(PerTensor(), input_scale_bits, blocks, input_range, input_vectors)
    unsigned, signed = (
        Quantizer(f, scales, divide_by=ScaleValue.IDEAL)
        for f in (Int(input_bits, signed=False), Int(input_bits, narrow=True))
    )
    examples = EXAMPLES if (weight_bits, weight_scale_bits, vector) == (4, 4, 16) else ()
    return Scheme(BySign(unsigned, signed), weight, datapath, SOURCE, examples)


def vs_quant_chip() -> Scheme:
    """The 5 nm chip: 64-element vectors, 8-bit scales, their product cut to its upper 8 bits, 24-bit saturation.

    The 16-to-8-bit rounding adds half an output step first; the papers do not say which rounding the chip has.
    """
    base = vs_quant(4, 4, 8, 8, vector=64)
    datapath = Datapath(
        inner=Accumulator(Int(14)),
        outer=Accumulator(Int(24), Overflow.SATURATE),
        scale_product=Int(8, signed=False, exponent=8),
        scale_rounding=Rounding.NEAREST_UP,
    )
    return Scheme(base.input, base.weight, datapath, "Keller et al., JSSC 58(4), 2023")


def _scales(
    coarse: Granularity,
    bits: int | None,
    fine: Granularity,
    coarse_range: RangeEstimator | None = None,
    fine_range: RangeEstimator | None = None,
) -> tuple[Scale, ...]:
    if bits is None:
        return (Scale(fine, range=fine_range),)
    return Scale(coarse, range=coarse_range), Scale(fine, Int(bits, signed=False), range=fine_range)


_ROW = tuple((7 * i % 32 - 15.5) / 8 for i in range(16))
_CODES = (-7, -4, -1, 2, 6, -6, -2, 1, 4, 7, -4, -1, 2, 5, -6, -3)
EXAMPLES = (
    Example(
        "weight", _ROW, tuple(c * 15 * (1.9375 / 7 / 15) for c in _CODES),
        "eq. 7 by hand: scale 1.9375/7 is code 15 of γ = scale/15",
    ),
)  # fmt: skip
