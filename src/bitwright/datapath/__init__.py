"""Exact arithmetic of a dot product. NumPy only."""

from bitwright.datapath.accumulator import WIDE, Accumulator, Cyclic, Overflow
from bitwright.datapath.datapath import Aligned, Datapath, Lanes, Product, lanes
from bitwright.datapath.ranges import Certificate, bits_for, certify, worst_sum
from bitwright.datapath.requantize import DOUBLE_ROUNDING, SINGLE_ROUNDING, FixedPoint, Requantize

__all__ = [
    "DOUBLE_ROUNDING", "SINGLE_ROUNDING", "WIDE", "Accumulator", "Aligned", "Certificate", "Cyclic", "Datapath",
    "FixedPoint", "Lanes", "Overflow", "Product", "Requantize", "bits_for", "certify", "lanes", "worst_sum",
]  # fmt: skip
