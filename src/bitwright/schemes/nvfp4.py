"""NVFP4: E2M1 elements, an E4M3 scale for each 16 of them, one float32 scale a tensor.

NVIDIA Blackwell; semantics of NVIDIA Model Optimizer (commit a2fbac7, torch/quantization/qtensor/nvfp4_tensor.py).
Four-over-six: J. Cook et al., "Four Over Six", arXiv:2512.02010. Differs from both: nothing in the values; the order of
the two divisions is ModelOpt's.
"""

from bitwright.datapath import WIDE, Accumulator, Datapath
from bitwright.formats import E2M1, E4M3, FLOAT32
from bitwright.quantization import AbsMax, PerBlock, PerTensor, Quantizer, RangeEstimator, Scale
from bitwright.scheme import Scheme

SOURCE = "NVIDIA Model Optimizer@a2fbac7, nvfp4_tensor.py"


def nvfp4(
    *,
    four_over_six: bool = False,
    weight_only: bool = False,
    zero_scale: float = 1.0,
    smallest_scale: float = 2.0**-9,
    input_range: RangeEstimator | None = AbsMax(),
) -> Scheme:
    """4.5 bits an element. The input's tensor scale is calibrated, its block scales come from each input.

    `four_over_six` leaves room to 256 instead of 448 and maps each block's maximum to 6 or to 4, whichever errs less.
    `zero_scale` and `smallest_scale` are what a zero block and a tiny one store: ModelOpt 1 and 2**-9,
    compressed-tensors 0.125 and 0.
    """
    largest, full_scale = (256.0, (6.0, 4.0)) if four_over_six else (None, None)
    fine = Scale(
        PerBlock(16), E4M3, largest=largest, full_scale=full_scale, smallest=smallest_scale, zero_as=zero_scale
    )
    weight = Quantizer(E2M1, (Scale(PerTensor()), fine))
    activation = Quantizer(E2M1, (Scale(PerTensor(), range=input_range), fine))
    datapath = Datapath(inner=WIDE, outer=Accumulator(FLOAT32))
    return Scheme(None if weight_only else activation, weight, datapath, SOURCE)
