"""Laws that every format and scheme keeps, for this package's tests and for third parties."""

from bitwright.testing.contracts import FormatContract, SchemeContract
from bitwright.testing.operands import Operands, largest_inputs, operands
from bitwright.testing.strategies import formats, levels, matrices, quantizers, roundings

__all__ = [
    "FormatContract", "Operands", "SchemeContract", "formats", "largest_inputs", "levels", "matrices", "operands",
    "quantizers",
    "roundings",
]  # fmt: skip
