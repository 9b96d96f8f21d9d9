"""Scaled small floats of any split: FP8 and below with a scale a row and a tensor.

P. Micikevicius et al., "FP8 formats for deep learning", arXiv:2209.05433. Differs from the paper: any split of exponent
and mantissa bits; E4M3 and E5M2 keep their NaN codes, other splits use every code.
"""

from bitwright.datapath import WIDE, Accumulator, Datapath
from bitwright.formats import E4M3, E5M2, FLOAT32, Minifloat
from bitwright.quantization import AbsMax, Granularity, PerRow, PerTensor, Quantizer, RangeEstimator, Scale
from bitwright.scheme import Scheme

SOURCE = "Micikevicius et al., arXiv:2209.05433"


def minifloat(
    exponent_bits: int = 4,
    mantissa_bits: int = 3,
    *,
    weight_share: Granularity = PerRow(),
    input_share: Granularity = PerTensor(),
    input_range: RangeEstimator | None = AbsMax(),
    weight_only: bool = False,
) -> Scheme:
    """E`exponent_bits`M`mantissa_bits` weights and inputs; exact sums, float32 scales."""
    known = {(4, 3): E4M3, (5, 2): E5M2}
    element = known.get((exponent_bits, mantissa_bits)) or Minifloat(exponent_bits, mantissa_bits)
    weight = Quantizer(element, (Scale(weight_share),))
    activation = Quantizer(element, (Scale(input_share, range=input_range),))
    datapath = Datapath(inner=WIDE, outer=Accumulator(FLOAT32), scale_product=FLOAT32)
    return Scheme(None if weight_only else activation, weight, datapath, SOURCE)
