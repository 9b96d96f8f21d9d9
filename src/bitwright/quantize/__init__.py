"""Matrices to codes and scales. NumPy only."""

from bitwright.quantize.granularity import Granularity, PerBlock, PerColumns, PerRow, PerTensor, PerTile
from bitwright.quantize.quantizer import AnyQuantizer, BestOf, BySign, Quantizer, Represent, Zero, fake_quantize
from bitwright.quantize.ranges import (
    Aciq,
    AbsMax,
    Deviations,
    Entropy,
    MinimumError,
    MovingAverage,
    Percentile,
    RangeEstimator,
    Statistics,
)
from bitwright.quantize.scale import Range, Scale, ScaleValue
from bitwright.quantize.tensor import QuantizedTensor

__all__ = [
    "AbsMax", "Aciq", "AnyQuantizer", "BestOf", "BySign", "Deviations", "Entropy", "Granularity", "MinimumError",
    "MovingAverage", "Percentile", "PerBlock", "PerColumns", "PerRow", "PerTensor", "PerTile", "QuantizedTensor", "Quantizer",
    "Range", "RangeEstimator", "Represent", "Scale", "ScaleValue", "Statistics", "Zero", "fake_quantize",
]  # fmt: skip
