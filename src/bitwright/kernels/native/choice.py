"""Of several representations of a matrix the nearest one, block by block, by the native library."""

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor

from bitwright.kernels.library import library_with
from bitwright.kernels.operand import Operand
from bitwright.kernels.rounding import Unsupported

LARGE = 1 << 22
"""Elements from which on a second thread is worth its start."""
LONGEST = 4096
"""Elements whose errors are summed in one go."""


class NativeChoice(ctypes.Structure):
    """Mirrors native/search.hpp."""

    _fields_: ClassVar = [
        *((name, ctypes.c_void_p) for name in ("x", "elements", "inside", "others", "others_inside", "outside")),
        *((name, ctypes.c_int64) for name in ("rows", "k", "block", "outside_rows")),
    ]  # fmt: skip


def least_error(x: Tensor, candidates: Sequence[Operand]) -> Operand:
    """Each block as the candidate has it that errs least; the first of equals. The first one's memory is reused."""
    best, *others = candidates
    rows, blocks, block = best.elements.shape
    if best.inside is None or block > LONGEST or best.inside.shape != (rows, blocks):
        raise Unsupported("scales of long blocks, or of several rows")
    x, outside = x.contiguous(), best.outside.contiguous()
    for other in others:
        assert other.inside is not None, "candidates differ in their full scale only"
        job = NativeChoice(
            x.data_ptr(), best.elements.data_ptr(), best.inside.data_ptr(), other.elements.data_ptr(),
            other.inside.data_ptr(), outside.data_ptr(), rows, x.shape[1], block, len(outside),
        )  # fmt: skip
        _function()(ctypes.byref(job), torch.get_num_threads() if x.numel() >= LARGE else 1)
    return best


@cache
def _function() -> "ctypes._FuncPointer":
    function = library_with("a choice", {"bitwright_choice_size": ctypes.sizeof(NativeChoice)}).bitwright_choose
    function.argtypes, function.restype = [ctypes.POINTER(NativeChoice), ctypes.c_int32], None
    return function
