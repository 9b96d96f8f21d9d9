"""The native library: plain loops in C++, built when the package is installed, called with pointers.

Without it, as where no compiler was found, the kernels in torch do the work; that is said once.
"""

import ctypes
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import ClassVar

from bitwright.kernels.rounding import Unsupported
from bitwright.native_library import NativeLibrary, library_path

LOOPS = ("baseline", "AVX2", "AVX-512")
"""Sets of vector instructions that the library has loops for; on other machines than x86 only the first."""
LEVELS = (*LOOPS, "AVX-512 VNNI")
"""Which of them is used. The last is the one before it but for registers that saturate at every product."""


class NoLibrary(UserWarning):
    """The package was installed without its native library."""


class NativeFormat(ctypes.Structure):
    """How levels become values; mirrors native/quantize.hpp."""

    _fields_: ClassVar = [
        ("kind", ctypes.c_int32), ("rounding", ctypes.c_int32), ("lowest", ctypes.c_float),
        ("highest", ctypes.c_float), ("unit", ctypes.c_float), ("mantissa_bits", ctypes.c_int32),
        ("smallest_exponent", ctypes.c_int32), ("count", ctypes.c_int32), ("thresholds", ctypes.c_float * 16),
        ("steps", ctypes.c_float * 16), ("odd_levels", ctypes.c_float * 2), ("odd_values", ctypes.c_float * 2),
        ("inward", ctypes.c_int32),
    ]  # fmt: skip


class NativeQuantization(ctypes.Structure):
    """One call's work; mirrors native/quantize.hpp."""

    _fields_: ClassVar = [
        ("x", ctypes.c_void_p), ("out", ctypes.c_void_p), ("rows", ctypes.c_int64), ("k", ctypes.c_int64),
        ("pitch", ctypes.c_int64), ("coarse", ctypes.c_void_p), ("zero", ctypes.c_void_p),
        ("outside", ctypes.c_void_p), ("coarse_rows", ctypes.c_int64), ("element", NativeFormat),
        ("block", ctypes.c_int64), ("inside", ctypes.c_void_p), ("scale", NativeFormat),
        ("full_scale", ctypes.c_float), ("smallest", ctypes.c_float), ("zero_as", ctypes.c_float),
        ("has_zero_as", ctypes.c_int32), ("magnitude_shift", ctypes.c_int32), ("divides_by_ideal", ctypes.c_int32),
        ("is_signed", ctypes.c_int32),
    ]  # fmt: skip


@cache
def library() -> ctypes.CDLL | None:
    """The library, or None where the package has none."""
    path = library_path()
    if path is None:
        warnings.warn(
            "bitwright was installed without its native library and runs its slower kernels in torch; "
            "install a C++ compiler and reinstall bitwright",
            NoLibrary,
            stacklevel=2,
        )
        return None
    found = NativeLibrary(str(path))
    if not hasattr(found, "bitwright_ran_out_of_memory") or found.bitwright_size() != ctypes.sizeof(NativeQuantization):
        warnings.warn(
            f"{path.name} was built from other sources than this bitwright, which runs its slower kernels in torch; "
            "reinstall bitwright",
            NoLibrary,
            stacklevel=2,
        )
        return None
    found.bitwright_quantize.argtypes = [ctypes.POINTER(NativeQuantization), ctypes.c_int32]
    found.bitwright_row_spans.argtypes = [
        ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int32, ctypes.c_void_p, ctypes.c_int32
    ]  # fmt: skip
    found.bitwright_row_spans.restype = None
    found.bitwright_use_level.argtypes = [ctypes.c_int32]
    return found


def library_with(what: str, sizes: Mapping[str, int]) -> ctypes.CDLL:
    """The library, where each of these functions tells this size in bytes of its own structures; else `Unsupported`."""
    found = library()
    if found is None or not all(hasattr(found, name) for name in sizes):
        raise Unsupported(f"{what} without the native library")
    for name, size in sizes.items():
        tell = getattr(found, name)
        tell.restype = ctypes.c_int64
        if tell() != size:
            raise Unsupported(f"{what} with a native library of another version")
    return found


@contextmanager
def level(name: str) -> Iterator[str]:
    """Use the loops for this set of instructions, or the best below it that the machine has, which is given."""
    found = library()
    if found is None:
        raise NotImplementedError("the native library is not installed")
    before = found.bitwright_level()
    try:
        yield LEVELS[found.bitwright_use_level(LEVELS.index(name))]
    finally:
        found.bitwright_use_level(before)
