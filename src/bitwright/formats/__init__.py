"""Representable values and their codes. NumPy only."""

from bitwright.formats.format import Bounds, Format, Terms
from bitwright.formats.integer import Int
from bitwright.formats.minifloat import Minifloat, Specials
from bitwright.formats.named import BFLOAT16, E2M1, E2M3, E3M2, E4M3, E5M2, E8M0, FLOAT16, FLOAT32, MXINT8_ELEMENT
from bitwright.formats.packing import pack, unpack
from bitwright.formats.rounding import Rounding, round_to_integer, shift_right
from bitwright.formats.table import Table

__all__ = [
    "BFLOAT16", "E2M1", "E2M3", "E3M2", "E4M3", "E5M2", "E8M0", "FLOAT16", "FLOAT32", "MXINT8_ELEMENT",
    "Bounds", "Format", "Int", "Minifloat", "Rounding", "Specials", "Table", "Terms",
    "pack", "round_to_integer", "shift_right", "unpack",
]  # fmt: skip
