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
    Passes,
    Percentile,
    RangeEstimator,
    Statistics,
    Summary,
    count_magnitudes,
    summarize,
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
    "Passes",
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
    "Summary",
    "Zero",
    "compressibility",
    "count_magnitudes",
    "fake_quantize",
    "squared_errors",
    "sum_cells",
    "sum_last",
    "summarize",
    "zeros_and_entropy",
]  # fmt: skip
