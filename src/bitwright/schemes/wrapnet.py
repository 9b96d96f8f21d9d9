"""WrapNet: accumulators of 8 bits that wrap on purpose, read through a cyclic activation that makes wrapping harmless.

R. Ni, H. Chu, O. Castañeda, P. Chiang, C. Studer, T. Goldstein, "WrapNet: Neural Net Inference with Ultra-Low-Precision
Arithmetic", ICLR 2021, arXiv:2007.13242. The network is trained with the wrapping registers in place
(`bitwright.model.wrap`); without training it is of little use. BatchNorm, ReLU and the rounding of the next layer's
inputs follow in float. Differs from the paper: scales of weights are one a row and searched for the least squared
error, and the slope of the activation is an integer. Not in the catalogue: what leaves the register is no sum, so the
law that a product equals that of the decoded operands cannot hold.
"""

from bitwright.datapath import WIDE, Accumulator, Cyclic, Datapath, Overflow
from bitwright.formats import Format, Int, Table
from bitwright.quantization import BySign, PerRow, PerTensor, Quantizer, RangeEstimator, Scale
from bitwright.scheme import Scheme
from bitwright.schemes.integer import CLIPPED

SOURCE = "Ni et al., ICLR 2021, arXiv:2007.13242"

BINARY = Table((-1, 1), (0, 0))
"""Weights of one bit, without a zero."""


def wrapnet(
    weight_bits: int = 2,
    input_bits: int = 3,
    accumulator_bits: int = 8,
    slope: int = 1,
    *,
    narrow: bool = True,
    weight_range: RangeEstimator = CLIPPED,
    input_range: RangeEstimator = CLIPPED,
) -> Scheme:
    """Weights of one bit are -1 or 1, of two ternary, of more symmetric integers; with `narrow=False` two are -2 to 1.

    Inputs are unsigned where no negative value was seen. `bitwright.model.wrap.choose_steps` fits their step to the
    register.
    """
    weight: Format = BINARY if weight_bits == 1 else Int(weight_bits, narrow=narrow)
    unsigned, signed = (
        Quantizer(format, (Scale(PerTensor(), range=input_range),))
        for format in (Int(input_bits, signed=False), Int(input_bits, narrow=True))
    )
    register = Accumulator(Int(accumulator_bits), Overflow.WRAP, readout=Cyclic(slope))
    return Scheme(
        BySign(unsigned, signed),
        Quantizer(weight, (Scale(PerRow(), range=weight_range),)),
        Datapath(inner=register, outer=WIDE),
        SOURCE,
    )
