"""The catalogue: every scheme is a function that returns a `Scheme`, named as on the command line."""

from collections.abc import Callable

from bitwright.scheme import Scheme
from bitwright.schemes.a2q import a2q
from bitwright.schemes.ant import ant, ant_type
from bitwright.schemes.combined import combined
from bitwright.schemes.integer import integer
from bitwright.schemes.minifloat import minifloat
from bitwright.schemes.mx import mxfp4, mxfp6, mxfp8, mxint8
from bitwright.schemes.nvfp4 import nvfp4
from bitwright.schemes.overq import overq, overq_on
from bitwright.schemes.term_revealing import term_revealing
from bitwright.schemes.vs_quant import vs_quant, vs_quant_chip
from bitwright.schemes.wrapnet import wrapnet

CATALOGUE: tuple[Callable[..., Scheme], ...] = (
    integer, vs_quant, vs_quant_chip, ant, ant_type, minifloat, mxfp4, mxfp6, mxfp8, mxint8, nvfp4,
    overq, overq_on, term_revealing, a2q, combined,
)  # fmt: skip
"""Schemes that keep every law of `bitwright.testing.SchemeContract`."""

FOLDED: tuple[Callable[..., Scheme], ...] = (wrapnet,)
"""Schemes whose registers are read through a fold, so that a product is not that of the decoded operands."""

__all__ = [
    "CATALOGUE", "FOLDED", "a2q", "ant", "ant_type", "combined", "integer", "minifloat", "mxfp4", "mxfp6", "mxfp8",
    "mxint8", "nvfp4", "overq", "overq_on", "term_revealing", "vs_quant", "vs_quant_chip", "wrapnet",
]  # fmt: skip
