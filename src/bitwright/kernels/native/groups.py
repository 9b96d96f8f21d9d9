"""Group formats by the native library: what an element becomes depends on its neighbours along K."""

import ctypes
from functools import cache, lru_cache, singledispatch
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from bitwright.formats import Format, Int, Rounding
from bitwright.kernels import quantize as torch_quantize
from bitwright.kernels.library import NativeFormat, library_with
from bitwright.kernels.native.scalars import INTEGERS, LARGE, ROUNDINGS, NotFinite, ladder
from bitwright.kernels.operand import Operand
from bitwright.kernels.quantize import coarse_scales, spans_of, tops
from bitwright.kernels.rounding import Unsupported
from bitwright.quantization import Quantizer, Range, ScaleValue, Zero
from bitwright.schemes.overq import Overwrite, Pick
from bitwright.schemes.term_revealing import TermBudget

NOT_FINITE, NEGATIVE = 1, 2
MOST_DIGITS = 1 << 16
"""Integers whose two digits are looked up in a table."""


class Matrix(ctypes.Structure):
    """What is read and where it goes; mirrors native/groups.hpp, as the others do."""

    _fields_: ClassVar = [
        ("x", ctypes.c_void_p), ("out", ctypes.c_void_p), ("rows", ctypes.c_int64), ("k", ctypes.c_int64),
        ("by", ctypes.c_void_p), ("outside", ctypes.c_void_p), ("scale_rows", ctypes.c_int64),
    ]  # fmt: skip


class Overwriting(ctypes.Structure):
    _fields_: ClassVar = [
        ("matrix", Matrix), ("lane", NativeFormat), ("highest", ctypes.c_float), ("unit", ctypes.c_float),
        ("largest", ctypes.c_float), ("radix", ctypes.c_float), ("digits", ctypes.c_void_p), ("count", ctypes.c_int64),
        ("tile", ctypes.c_int64), ("cascade", ctypes.c_int64), ("keeps_fractions", ctypes.c_int32),
        ("picks_largest", ctypes.c_int32),
    ]  # fmt: skip


class Terms(ctypes.Structure):
    _fields_: ClassVar = [
        ("matrix", Matrix), ("rounding", ctypes.c_int32), ("is_signed", ctypes.c_int32), ("largest", ctypes.c_int32),
        ("group", ctypes.c_int64), ("budget", ctypes.c_int64), ("added", ctypes.c_void_p),
        ("subtracted", ctypes.c_void_p), ("values", ctypes.c_void_p),
    ]  # fmt: skip


Job = Overwriting | Terms
"""A format's work, all but its matrix."""


def quantize(quantizer: Quantizer, x: Tensor, ranges: tuple[Range | None, ...] = ()) -> Operand:
    """Quantize float32 x [rows, k] to a group format. Raises `Unsupported` for what is not taken, or `NotFinite`."""
    made = _checked_job(quantizer.format, quantizer.rounding, x)
    try:
        by, outside = _scales(quantizer, x, ranges)
    except Unsupported:  # the library still rounds the levels
        if not bool(torch.isfinite(x.sum(dtype=torch.float64))):
            raise NotFinite from None
        return torch_quantize.quantize(quantizer, x, ranges, round_levels)
    elements = torch.empty(len(x), 1, x.shape[1])
    _call(made, x.contiguous(), elements, by, None)
    return Operand(elements, None, outside.expand(len(x), 1), x.shape[1], quantizer)


def fake_quantize(
    quantizer: Quantizer, x: Tensor, ranges: tuple[Range | None, ...] = (), out: Tensor | None = None
) -> Tensor:
    """decode(quantize(x)) in float32, into `out` where given; it may be x. Scales that vary along K: `Unsupported`."""
    made = _checked_job(quantizer.format, quantizer.rounding, x)
    by, outside = _scales(quantizer, x, ranges)
    decoded = torch.empty(x.shape) if out is None else out
    if decoded.data_ptr() == x.data_ptr() and quantizer.format.bounds().lowest == 0 and float(x.amin()) < 0:
        raise Unsupported("negative levels, which the reference must still find")
    if not decoded.is_inference():
        torch.autograd.graph.increment_version(decoded)  # autograd does not see what is written through a pointer
    _call(made, x.contiguous(), decoded, by, outside)
    return decoded


def round_levels(format: Format, x: Tensor, rounding: Rounding) -> Tensor:
    """Elements of float32 levels [..., k], whose rows are groups of their own. Raises `Unsupported`, or `NotFinite`."""
    made = _checked_job(format, rounding, x)
    levels = x.contiguous()
    out = torch.empty(levels.shape)
    _call(made, levels.view(-1, x.shape[-1]), out, torch.ones(1), None)
    return out


@singledispatch
def job(format: Format, rounding: Rounding) -> Job:
    """The library's work for a format. Raises `Unsupported`."""
    raise Unsupported(f"{format} under {rounding}")


@job.register
@lru_cache(maxsize=256)
def _(format: Overwrite, rounding: Rounding) -> Job:
    if rounding not in ROUNDINGS:
        raise Unsupported(f"{format} under {rounding}")
    lane, unit = format.lane, format.unit
    digits, count = None, 0
    if isinstance(lane, Int):
        if lane.exponent or format.largest >= 2**24:
            raise Unsupported(f"{format}: lanes in units of 1 and float32 that holds two digits are taken")
        low, high = lane.range
        made = NativeFormat(kind=INTEGERS, lowest=low, highest=high, unit=1.0)
    else:
        count = int(format.largest / unit)
        if count > MOST_DIGITS or not 2.0**-20 <= unit <= 2.0**20 or rounding in (Rounding.FLOOR, Rounding.CEILING):
            raise Unsupported(f"{format} under {rounding}")
        made = NativeFormat.from_buffer_copy(ladder(lane, rounding))
        digits = format.two_digits(np.arange(-count, count + 1) * unit).astype(np.float32)
    made.rounding = ROUNDINGS.index(rounding)
    job = Overwriting(
        lane=made, highest=lane.bounds().highest, unit=unit, largest=format.largest, radix=2.0**format.radix_bits,
        count=count, tile=format.tile or 0, cascade=format.cascade if format.range_overwrite else 0,
        keeps_fractions=format.precision_overwrite, picks_largest=format.pick is Pick.LARGEST,
    )  # fmt: skip
    return _with_tables(job, digits=digits)


@job.register
@lru_cache(maxsize=256)
def _(format: TermBudget, rounding: Rounding) -> Job:
    if rounding not in ROUNDINGS:
        raise Unsupported(f"{format} under {rounding}")
    magnitudes = np.arange(format.largest + 1)
    added, subtracted = format.recoding.masks(magnitudes)
    if max(added.max(), subtracted.max()) >= 2**16:
        raise Unsupported(f"{format}: terms of up to 2**15 are taken")
    alone = format.group == 1 or format.budget is None
    values = format.decode(magnitudes[:, None])[:, 0].astype(np.float32) if alone else None
    job = Terms(
        rounding=ROUNDINGS.index(rounding), is_signed=format.signed, largest=format.largest, group=format.group,
        budget=format.budget or 0,
    )  # fmt: skip
    return _with_tables(job, added=added.astype(np.uint16), subtracted=subtracted.astype(np.uint16), values=values)


def _with_tables(job: Job, **tables: np.ndarray | None) -> Job:
    """The job with pointers to tables, which live as long as it does."""
    for name, table in tables.items():
        setattr(job, name, None if table is None else table.ctypes.data)
    job.keeps = tables
    return job


@cache
def group_library() -> ctypes.CDLL:
    """The library, or `Unsupported` where it has none of these formats."""
    sizes = {"bitwright_overwriting_size": Overwriting, "bitwright_term_budget_size": Terms}
    found = library_with("a group format", {name: ctypes.sizeof(structure) for name, structure in sizes.items()})
    found.bitwright_overwrite.argtypes = [ctypes.POINTER(Overwriting), ctypes.c_int32]
    found.bitwright_keep_terms.argtypes = [ctypes.POINTER(Terms), ctypes.c_int32]
    return found


def _checked_job(format: Format, rounding: Rounding, x: Tensor) -> Job:
    if not x.numel() or x.dtype != torch.float32 or x.device.type != "cpu" or torch.compiler.is_compiling():
        raise Unsupported(f"{x.dtype} {tuple(x.shape)} on {x.device.type}")
    group_library()
    return job(format, rounding)


def _scales(quantizer: Quantizer, x: Tensor, ranges: tuple[Range | None, ...]) -> tuple[Tensor, Tensor]:
    """What divides and what multiplies, a row or for all, where no scale varies along K."""
    rows, k = x.shape
    scales = quantizer.scales
    if quantizer.zero is Zero.FITTED or len(quantizer.candidates()) > 1:
        raise Unsupported(f"{quantizer}")
    if any(s.share.splits_k or 1 < s.share.cell(rows, k)[0] < rows for s in scales):
        raise Unsupported("scales of blocks or tiles")
    spans = spans_of(quantizer, x.shape, x, scales, [*ranges, *[None] * (len(scales) - len(ranges))])
    full_scale = quantizer.candidates()[0]
    values, product = coarse_scales(scales, spans, tops(quantizer, full_scale))
    outside = torch.ones(1, 1, dtype=torch.float64)
    for value in values:
        outside = value.double() * outside
    by = product if quantizer.divide_by is ScaleValue.STORED else spans[-1] / full_scale
    count = max(len(by), len(outside))
    return by.expand(count, 1).contiguous(), outside.expand(count, 1).contiguous()


def _call(job: Job, x: Tensor, out: Tensor, by: Tensor, outside: Tensor | None) -> None:
    made = type(job).from_buffer_copy(job)
    made.matrix = Matrix(
        x=x.data_ptr(), out=out.data_ptr(), rows=x.shape[0], k=x.shape[1], by=by.data_ptr(),
        outside=None if outside is None else outside.data_ptr(), scale_rows=len(by),
    )  # fmt: skip
    found = group_library()
    run = found.bitwright_overwrite if isinstance(made, Overwriting) else found.bitwright_keep_terms
    check_outcome(run(ctypes.byref(made), torch.get_num_threads() if x.numel() >= LARGE else 1))


def check_outcome(outcome: int) -> None:
    """What the library found in a matrix, as an exception."""
    if outcome == NOT_FINITE:
        raise NotFinite
    if outcome == NEGATIVE:
        raise Unsupported("negative levels in lanes without a sign")  # the reference says which
    assert outcome == 0, f"outcome {outcome} of a job that Python has checked"
