"""Matrices to codes and scales. NumPy only."""

from bitwright.quantization.compression import compressibility, zeros_and_entropy
from bitwright.quantization.granularity import Granularity, PerBlock, PerColumns, PerRow, PerTensor, PerTile
from bitwright.quantization.quantizer import AnyQuantizer, BestOf, BySign, Quantizer, Zero, fake_quantize
from bitwright.quantization.ranges import (
    AbsMax,
    Aciq,
    Deviations,
    Entropy,
    MinimumError,
    MinimumErrorByOctave,
    MovingAverage,
    Percentile,
    RangeEstimator,
    Statistics,
)
from bitwright.quantization.scale import Range, Scale, ScaleValue
from bitwright.quantization.squared_error import SquaredErrors, squared_errors, sum_cells, sum_last
from bitwright.quantization.tensor import QuantizedTensor

__all__ = [
    "AbsMax",
    "Aciq",
    "AnyQuantizer",
    "BestOf",
    "BySign",
    "Deviations",
    "Entropy",
    "Granularity",
    "MinimumError",
    "MinimumErrorByOctave",
    "MovingAverage",
    "PerBlock",
    "PerColumns",
    "PerRow",
    "PerTensor",
    "PerTile",
    "Percentile",
    "QuantizedTensor",
    "Quantizer",
    "Range",
    "RangeEstimator",
    "Scale",
    "ScaleValue",
    "SquaredErrors",
    "Statistics",
    "Zero",
    "compressibility",
    "fake_quantize",
    "squared_errors",
    "sum_cells",
    "sum_last",
    "zeros_and_entropy",
]  # fmt: skip
