"""Memory for results."""

import ctypes
import mmap
import sys
from functools import cache

import torch
from torch import Tensor

HUGE = 1 << 25
"""Bytes from which on an allocator takes new memory from the system, page by page as it is first written."""


def fresh(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """An empty tensor on the CPU; a large one on Linux in huge pages, of which fewer must be cleared one by one."""
    made = torch.empty(shape, dtype=dtype, device="cpu")
    size = made.numel() * made.element_size()
    advise = _madvise() if size >= HUGE else None
    if advise is not None:
        start = -(-made.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        length = (made.data_ptr() + size - start) // mmap.PAGESIZE * mmap.PAGESIZE
        advise(start, length, mmap.MADV_HUGEPAGE)  # where it is refused, pages stay small
    return made


@cache
def _madvise() -> "ctypes._NamedFuncPointer | None":
    if not sys.platform.startswith("linux") or not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    found = ctypes.CDLL(None).madvise
    found.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return found
