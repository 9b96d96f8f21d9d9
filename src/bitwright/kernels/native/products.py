"""The native library's products as Python calls them: one structure, and the kinds of registers it names."""

import ctypes
from functools import cache
from typing import ClassVar

from bitwright.kernels.library import library_with

EXACT, SATURATE, CLIP, SCALED, FLOAT, SCALED_INT, WIDE, STEP, WATCH, ADD, MARK = range(11)
UNLIMITED, SATURATES, WRAPS, WATCHES = range(4)
"""What products of a tile go through."""
LAYOUTS = {SATURATE: SATURATE, SCALED: SCALED, SCALED_INT: SCALED, WIDE: WIDE}
"""Of packed weights; others are like those of EXACT."""


class NativeProducts(ctypes.Structure):
    """One call's work; mirrors native/registers.hpp."""

    _fields_: ClassVar = [
        *[(name, ctypes.c_void_p) for name in (
            "x", "w", "x_inside", "w_inside", "x_outside", "w_outside", "out", "columns", "packed", "pairs"
        )],
        *[(name, ctypes.c_int64) for name in ("m", "n", "k", "x_pitch", "w_pitch", "out_pitch", "tile")],
        *[(name, ctypes.c_double) for name in ("x_by", "w_by", "unit")],
        *[(name, ctypes.c_int32) for name in ("kind", "spare_bits")],
        *[(name, ctypes.c_int64) for name in ("low", "high", "slope")],
        *[(name, ctypes.c_int32) for name in (
            "wraps", "rounding", "mantissa_bits", "smallest_exponent", "rounds_twice"
        )],
        ("highest", ctypes.c_float),
        *[(name, ctypes.c_int32) for name in ("shift", "up", "odd", "most")],
        ("largest", ctypes.c_int64), ("x_shift", ctypes.c_int32),
        ("inner", ctypes.c_int32), ("inner_low", ctypes.c_int64), ("inner_high", ctypes.c_int64),
    ]  # fmt: skip


@cache
def products_library() -> ctypes.CDLL:
    found = library_with("a product", {"bitwright_products_size": ctypes.sizeof(NativeProducts)})
    found.bitwright_multiply.argtypes = [ctypes.POINTER(NativeProducts), ctypes.c_int32]
    found.bitwright_pack_operand.argtypes = [ctypes.POINTER(NativeProducts), ctypes.c_void_p, ctypes.c_int32]
    found.bitwright_pack_operand.restype = None
    found.bitwright_operand_size.argtypes = [ctypes.POINTER(NativeProducts)]
    found.bitwright_multiply.restype = found.bitwright_operand_size.restype = ctypes.c_int64
    return found
