"""Matrices to codes and scales. NumPy only."""

from bitwright.quantization.compression import Compressibility
from bitwright.quantization.granularity import Granularity, PerBlock, PerColumns, PerRow, PerTensor, PerTile
from bitwright.quantization.quantizer import AnyQuantizer, BestOf, BySign, Quantizer, Represent, Zero, fake_quantize
from bitwright.quantization.ranges import (
    AbsMax,
    Aciq,
    Deviations,
    Entropy,
    MinimumError,
    MovingAverage,
    Percentile,
    RangeEstimator,
    Statistics,
)
from bitwright.quantization.scale import Range, Scale, ScaleValue
from bitwright.quantization.tensor import QuantizedTensor

__all__ = [
    "AbsMax",
    "Aciq",
    "AnyQuantizer",
    "BestOf",
    "BySign",
    "Compressibility",
    "Deviations",
    "Entropy",
    "Granularity",
    "MinimumError",
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
    "Represent",
    "Scale",
    "ScaleValue",
    "Statistics",
    "Zero",
    "fake_quantize",
]  # fmt: skip
