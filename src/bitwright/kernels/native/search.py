"""Squared errors under many ranges by the native library: all trials look at a piece of the matrix while it is near."""

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from bitwright.formats import Format, Rounding
from bitwright.kernels.library import NativeQuantization, library_with
from bitwright.kernels.native import groups, scalars
from bitwright.kernels.quantize import coarse_scales, spans_of, tops, zero_points
from bitwright.kernels.rounding import Unsupported
from bitwright.quantization import Granularity, Quantizer, Range, ScaleValue, Zero, sum_last
from bitwright.quantization.squared_error import BLOCK

LARGE = 1 << 21
"""Elements of all trials together from which on more threads are worth their start."""

QUANTIZATION, OVERWRITING, TERMS = range(3)


class Search(ctypes.Structure):
    """One call's work; mirrors native/search.hpp."""

    _fields_: ClassVar = [
        ("kind", ctypes.c_int32), ("job", ctypes.c_void_p), ("x", ctypes.c_void_p), ("rows", ctypes.c_int64),
        ("k", ctypes.c_int64), ("trials", ctypes.c_int64), ("cells", ctypes.c_int64), ("by", ctypes.c_void_p),
        ("zero", ctypes.c_void_p), ("outside", ctypes.c_void_p), ("errors", ctypes.c_void_p),
    ]  # fmt: skip


def squared_errors(
    quantizer: Quantizer, x: Tensor, trials: Sequence[tuple[Range | None, ...]], share: Granularity
) -> np.ndarray:
    """Errors [trials, down, across] under one static scale of the tensor, or of each row, whose cells these are.

    Raises `Unsupported` for other cases.
    """
    rows, k = x.shape
    height, width = share.cell(rows, k)
    if not x.numel() or len(quantizer.scales) > 1 or len(quantizer.candidates()) > 1 or not trials:
        raise Unsupported("no trials, no elements or several levels of scales")
    if share != quantizer.scales[0].share or width < k or height not in (1, rows):
        raise Unsupported("cells that divide rows, or are none of a scale's")
    given = [ranges[0] for ranges in trials if ranges and ranges[0] is not None]
    if len(given) < len(trials) or any(r.low.shape != share.shape(rows, k) for r in given):
        raise Unsupported("dynamic ranges, or one for several scales")
    if not bool(torch.isfinite(x.sum(dtype=torch.float64))):
        raise Unsupported("values that are not finite, which the reference names")
    kind, job = _job(quantizer.format, quantizer.rounding)
    every = Range(np.concatenate([r.low for r in given]), np.concatenate([r.high for r in given]))
    spans = spans_of(quantizer, x.shape, x, quantizer.scales, [every])
    full_scale = quantizer.candidates()[0]
    values, product = coarse_scales(quantizer.scales, spans, tops(quantizer, full_scale))
    by = (product if quantizer.divide_by is ScaleValue.STORED else spans[0] / full_scale).contiguous()
    outside = values[0].double().contiguous()
    zero = zero_points(quantizer, every, product).contiguous() if quantizer.zero is Zero.FITTED else None
    cells = len(by) // len(trials)
    errors = np.empty((len(trials), rows if cells > 1 else -(-x.numel() // BLOCK)))
    search = Search(
        kind=kind, job=ctypes.addressof(job), x=x.data_ptr(), rows=rows, k=k, trials=len(trials),
        cells=cells, by=by.data_ptr(), zero=None if zero is None else zero.data_ptr(),
        outside=outside.data_ptr(), errors=errors.ctypes.data,
    )  # fmt: skip
    threads = torch.get_num_threads() if x.numel() * len(trials) >= LARGE else 1
    groups.check_outcome(_library().bitwright_search(ctypes.byref(search), threads))
    return errors[..., None] if cells > 1 else sum_last(errors)[:, None, None]


def _job(format: Format, rounding: Rounding) -> tuple[int, ctypes.Structure]:
    _library()
    try:
        return QUANTIZATION, NativeQuantization(element=scalars.element(format, rounding))
    except Unsupported:
        job = groups.job(format, rounding)
        return OVERWRITING if isinstance(job, groups.Overwriting) else TERMS, job


@cache
def _library() -> ctypes.CDLL:
    groups.group_library()
    found = library_with("a search", {"bitwright_search_size": ctypes.sizeof(Search)})
    found.bitwright_search.argtypes = [ctypes.POINTER(Search), ctypes.c_int32]
    return found
