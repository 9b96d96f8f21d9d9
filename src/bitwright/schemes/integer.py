"""Uniform integers of any width, the baseline of every comparison.

B. Jacob et al., "Quantization and training of neural networks for efficient integer-arithmetic-only inference",
CVPR 2018, arXiv:1712.05877. Differs from the paper: weights are symmetric and per row unless asked otherwise.
"""

from bitwright.datapath import Accumulator, Datapath, Overflow
from bitwright.formats import FLOAT32, Int
from bitwright.quantization import (
    AnyQuantizer,
    BySign,
    Granularity,
    MinimumError,
    PerColumns,
    PerRow,
    PerTensor,
    Quantizer,
    RangeEstimator,
    Scale,
    Zero,
)  # fmt: skip
from bitwright.scheme import Example, Scheme

CLIPPED = MinimumError(lowest=10, highest=101, step=2)
"""Least squared error over ranges from a tenth of the largest magnitude to all of it."""


def integer(
    weight_bits: int = 8,
    input_bits: int | None = 8,
    *,
    weight_share: Granularity = PerRow(),
    input_share: Granularity = PerTensor(),
    weight_range: RangeEstimator | None = None,
    input_range: RangeEstimator | None = CLIPPED,
    zero: Zero = Zero.FIXED,
    accumulator_bits: int | None = None,
    overflow: Overflow = Overflow.FORBID,
) -> Scheme:
    """`weight_bits` symmetric weights, `input_bits` inputs: unsigned where no negative value was seen.

    `input_bits` None quantizes weights only. `zero` FITTED gives inputs a zero point. `accumulator_bits` None is as
    wide as needed.
    """
    weight = Quantizer(_symmetric(weight_bits), (Scale(weight_share, range=weight_range),))
    register = Accumulator(None if accumulator_bits is None else Int(accumulator_bits), overflow)
    datapath = Datapath(inner=register, outer=Accumulator(FLOAT32), scale_product=FLOAT32)
    if input_bits is None:
        return Scheme(None, weight, datapath, SOURCE)
    if input_range is not None and not isinstance(input_share, PerTensor | PerColumns):
        raise ValueError(
            f"integer: a range fixed at calibration cannot serve {input_share} of other inputs; pass input_range=None"
        )
    scale = Scale(input_share, range=input_range)
    unsigned = Int(input_bits, signed=False)
    chosen: AnyQuantizer = Quantizer(unsigned, (scale,), zero=Zero.FITTED)
    if zero is Zero.FIXED:
        chosen = BySign(Quantizer(unsigned, (scale,)), Quantizer(_symmetric(input_bits), (scale,)))
    return Scheme(chosen, weight, datapath, SOURCE, EXAMPLES if weight_bits == 4 and weight_range is None else ())


def _symmetric(bits: int) -> Int:
    """Signed and symmetric; one bit has room for {-1, 0} only."""
    return Int(bits, narrow=bits > 1)


SOURCE = "Jacob et al., CVPR 2018, arXiv:1712.05877"

EXAMPLES = (
    Example(
        "weight",
        (0.03, -0.11, 0.26, -0.48, 0.52, -0.77, 0.9, 1.3, -1.6, 2.2, -3.1, 4.0, 0.0, 0.07, -0.2, 0.35),
        tuple(c * 4 / 7 for c in (0, 0, 0, -1, 1, -1, 2, 2, -3, 4, -5, 7, 0, 0, 0, 1)),
        "step 4/7: ANT artifact, 4-bit signed int at α = 4",
    ),
)
