"""The passes of a training step by the native library: quantization with a gradient, each way in one pass.

Elementwise results equal the torch formulas bit for bit. Sums over elements are of float32 terms, added in float64 in
the order that native/kernels/training.cpp states, which neither threads nor vectors change.
"""

import ctypes
from functools import cache
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bitwright.formats import FLOAT32, Format, Int, Rounding
from bitwright.kernels.library import library_with
from bitwright.kernels.native.scalars import NotFinite
from bitwright.kernels.operand import rounds_once
from bitwright.kernels.quantize import coarse_scales, tops
from bitwright.kernels.rounding import Unsupported
from bitwright.quantization import Quantizer, Range, ScaleValue, Zero
from bitwright.quantization.weight_norm import NormBound

LARGE = 1 << 19
"""Elements from which on a second thread is worth its start."""

NOT_FINITE, CLIPPED, NOT_POSITIVE = 1, 2, 4


class NotPositive(ValueError):
    """A learned step is not above zero."""


class NativeStraight(ctypes.Structure):
    """Mirrors native/training.hpp."""

    _fields_: ClassVar = [
        *[(name, ctypes.c_void_p) for name in ("x", "gradient", "elements", "out")],
        ("rows", ctypes.c_int64), ("k", ctypes.c_int64), ("pitch", ctypes.c_int64), ("scales", ctypes.c_void_p),
        ("scale_rows", ctypes.c_int64), ("scale_columns", ctypes.c_int64), ("zero", ctypes.c_void_p),
        ("of_scale", ctypes.c_void_p), ("factor", ctypes.c_double), ("lowest", ctypes.c_float),
        ("highest", ctypes.c_float),
        ("unit", ctypes.c_float), ("least", ctypes.c_float), ("most", ctypes.c_float), ("full_scale", ctypes.c_float),
        ("is_learned", ctypes.c_int32), ("is_signed", ctypes.c_int32), ("block", ctypes.c_int64),
        ("follows", ctypes.c_int32), ("has_dynamic_rows", ctypes.c_int32), ("coarse_divisor", ctypes.c_float),
        ("scale_highest", ctypes.c_float), ("scale_unit", ctypes.c_float),
    ]  # fmt: skip


class NativeNorms(ctypes.Structure):
    """Mirrors native/training.hpp."""

    _fields_: ClassVar = [
        *[(name, ctypes.c_void_p) for name in ("v", "gradient", "out")],
        *[(name, ctypes.c_int64) for name in ("rows", "k", "tile")],
        *[(name, ctypes.c_void_p) for name in ("norm", "scale", "stored")],
        *[(name, ctypes.c_double) for name in ("bound", "largest", "limit")], ("is_centred", ctypes.c_int32),
        *[(name, ctypes.c_void_p) for name in ("of_norm", "of_scale")],
    ]  # fmt: skip


class Gradients(NamedTuple):
    """Of the matrix [rows, k] and of its scales, both float32; None where none was asked for."""

    of_x: Tensor | None
    of_scale: Tensor | None


class Integers:
    """A quantizer to integers whose scales are static, learned, or set by each block or row as it comes.

    What does not change from step to step is found once. `reach` are the levels between which a gradient passes.
    Raises `Unsupported` for other quantizers.
    """

    def __init__(self, quantizer: Quantizer, ranges: tuple[Range | None, ...], reach: tuple[float, float]) -> None:
        _library()
        scales, format = quantizer.scales, quantizer.format
        known = [*ranges, *[None] * (len(scales) - len(ranges))]
        is_plain = isinstance(format, Int) and quantizer.rounding is Rounding.NEAREST_EVEN
        if not is_plain or quantizer.zero is not Zero.FIXED or len(quantizer.candidates()) > 1:
            raise Unsupported(f"{format} with a gradient")
        if any(s.magnitude_format is not None or s.smallest or s.zero_as is not None for s in scales):
            raise Unsupported("scales with rules of their own")
        self.finest = scales[-1].share
        self.follows = known[-1] is None
        coarse = known[:-1] if self.follows else known
        self.full_scale = quantizer.candidates()[0]
        if self.follows:
            _require_following(quantizer, self.full_scale)
        if len(scales) > 2 or (not self.follows and len(scales) > 1) or (coarse and scales[0].format != FLOAT32):
            raise Unsupported("scales of several levels")
        if coarse and scales[0].share.splits_k:
            raise Unsupported("static scales along K")
        self.scales = _static(quantizer, known[0]) if coarse and known[0] is not None else None
        self.has_dynamic_rows = bool(coarse) and known[0] is None
        if self.has_dynamic_rows and scales[0].share.cell(7, 1)[0] > 1:
            raise Unsupported("one scale that follows the whole matrix")
        low, high = format.range  # type: ignore[attr-defined]  # an Int
        inside = scales[-1].format if self.follows and len(scales) > 1 else None
        room = scales[1].room if len(scales) > 1 else 1.0
        self.splits_k = self.finest.splits_k
        self._template = bytes(
            NativeStraight(
                lowest=low, highest=high, unit=2.0**format.exponent,  # type: ignore[attr-defined]  # an Int
                least=reach[0], most=reach[1], full_scale=self.full_scale, is_signed=format.bounds().lowest < 0,
                follows=self.follows, has_dynamic_rows=self.has_dynamic_rows,
                coarse_divisor=self.full_scale * room, scale_columns=1, scale_rows=1, **_stored_as(inside),
            )
        )  # fmt: skip

    def forward(self, x: Tensor, steps: Tensor | None = None) -> tuple[Tensor, bool]:
        """What x [rows, k] represents, and whether any level is out of reach. Steps [rows or 1, 1] replace scales.

        Raises `NotFinite`, `NotPositive`, or `Unsupported` for tensors that the library does not take.
        """
        _require_float32(x)
        out = torch.empty_like(x)
        job = self._job(x, steps)
        job.out = out.data_ptr()
        found = _library().bitwright_straight_forward(ctypes.byref(job), _threads(x))
        if found & NOT_POSITIVE:
            raise NotPositive
        if found & NOT_FINITE:
            raise NotFinite
        return out, bool(found & CLIPPED)

    def backward(
        self, x: Tensor, gradient: Tensor, steps: Tensor | None = None, *, of_x: bool = True,
        factor: float | None = None,
    ) -> Gradients:  # fmt: skip
        """Of x and, with a factor, of the steps: that times Σ gradient · (element - level where it is in reach)."""
        job = self._job(x, steps)
        job.gradient = gradient.data_ptr()
        return _backward(job, x, None if factor is None else steps, of_x=of_x, factor=factor)

    def _job(self, x: Tensor, steps: Tensor | None) -> NativeStraight:
        job = NativeStraight.from_buffer_copy(self._template)
        job.x, (job.rows, job.k) = x.data_ptr(), x.shape
        if self.follows:
            job.block = self.finest.cell(*x.shape)[1]
        scales = self.scales if steps is None else steps
        if scales is not None:
            if len(scales) not in (1, len(x)):
                raise Unsupported("scales of several rows")
            job.scales, job.scale_rows, job.is_learned = scales.data_ptr(), len(scales), steps is not None
        elif self.has_dynamic_rows:
            job.scale_rows = len(x)
        return job


def straight_through(
    x: Tensor, gradient: Tensor, elements: Tensor, scales: Tensor, zero: Tensor | None, reach: tuple[float, float], *,
    of_x: bool, factor: float | None,
) -> Gradients:  # fmt: skip
    """Gradients of x [rows, k] that was rounded to `elements` [rows, blocks, block] under `scales` [rows or 1, cells].

    A level is x / scale + zero, with `zero` [rows or 1]; gradients pass where it is within `reach`. A scale of 0 counts
    as 1. With a factor scales have gradients, as in `Integers.backward`.

    Raises `Unsupported` for tensors that the library does not take, and for sums of several cells of a row.
    """
    _require_float32(x)
    rows, k = x.shape
    block = elements.shape[2]
    if len(scales) not in (1, rows) or (zero is not None and len(zero) != len(scales)):
        raise Unsupported("scales of several rows")
    if scales.shape[1] not in (1, elements.shape[1]) or (factor is not None and scales.shape[1] > 1):
        raise Unsupported("sums of several cells")
    kept = [t.float().contiguous() for t in (gradient, elements, scales)]
    zeros = None if zero is None else zero.contiguous()
    job = NativeStraight(
        x=x.data_ptr(), gradient=kept[0].data_ptr(), elements=kept[1].data_ptr(), rows=rows, k=k,
        pitch=elements.shape[1] * block, scales=kept[2].data_ptr(), scale_rows=len(scales),
        scale_columns=scales.shape[1], zero=None if zeros is None else zeros.data_ptr(), unit=1.0,
        least=reach[0], most=reach[1], block=block,
    )  # fmt: skip
    return _backward(job, x, None if factor is None else scales, of_x=of_x, factor=factor)


class NormedRows(NamedTuple):
    """Weights v [rows, k] with norms [rows, tiles] and scales [rows, 1] in float64; stored scales in float32."""

    v: Tensor
    norm: Tensor
    scale: Tensor
    stored: Tensor
    bound: NormBound


def represent_norms(weights: NormedRows) -> Tensor | None:
    """What the rows represent; None where integers pass their bound by a rounding, and must be shortened."""
    _require_float32(weights.v)
    out = torch.empty_like(weights.v)
    job = _norms(weights, out)
    return None if _library().bitwright_norms_forward(ctypes.byref(job), _threads(out)) else out


def gradients_of_norms(weights: NormedRows, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of v, of the norms' and of the scales' logarithms."""
    out = torch.empty_like(weights.v)
    of_norm = torch.empty(weights.norm.shape)
    of_scale = torch.empty(weights.scale.shape)
    gradient = gradient.float().contiguous()
    job = _norms(weights, out)
    job.gradient, job.of_norm, job.of_scale = gradient.data_ptr(), of_norm.data_ptr(), of_scale.data_ptr()
    _library().bitwright_norms_backward(ctypes.byref(job), _threads(out))
    return out, of_norm, of_scale


@cache
def _library() -> ctypes.CDLL:
    """The library with its training passes declared."""
    size = ctypes.sizeof(NativeStraight) * 1000 + ctypes.sizeof(NativeNorms)
    found = library_with("a training step", {"bitwright_training_size": size})
    for name, structure in {"straight": NativeStraight, "norms": NativeNorms}.items():
        for way in ("forward", "backward"):
            getattr(found, f"bitwright_{name}_{way}").argtypes = [ctypes.POINTER(structure), ctypes.c_int32]
    found.bitwright_straight_backward.restype = found.bitwright_norms_backward.restype = None
    return found


def _threads(x: Tensor) -> int:
    return torch.get_num_threads() if x.numel() >= LARGE else 1


def _require_float32(x: Tensor) -> None:
    _library()
    if x.dtype != torch.float32 or x.device.type != "cpu" or not x.is_contiguous() or not x.numel():
        raise Unsupported(f"{x.dtype} {tuple(x.shape)} on {x.device.type}")


def _require_following(quantizer: Quantizer, full_scale: float) -> None:
    """Scales that follow the data, divided by as they are before they are rounded."""
    finest, bounds = quantizer.scales[-1], quantizer.format.bounds()
    is_integer = isinstance(finest.format, Int) and not finest.format.signed and finest.format.range[1] < 2**24
    is_ideal = quantizer.divide_by is ScaleValue.IDEAL or (len(quantizer.scales) == 1 and finest.format == FLOAT32)
    if not is_ideal or not (finest.format == FLOAT32 or is_integer) or finest.rounding is not Rounding.NEAREST_EVEN:
        raise Unsupported(f"scales of {finest.format} with a gradient")
    if not rounds_once(quantizer):
        raise Unsupported("elements times scales of more than 24 bits")
    if finest.share.cell(7, 1)[0] > 1 or full_scale > max(bounds.highest, -bounds.lowest):
        raise Unsupported(f"{finest.share} with a gradient")


def _static(quantizer: Quantizer, given: Range) -> Tensor:
    """Scales [rows or 1, 1] of a static range."""
    span = torch.from_numpy(np.asarray(given.magnitude)).float()
    values, _ = coarse_scales(quantizer.scales, [span], tops(quantizer, quantizer.candidates()[0]))
    if values[0].shape[1] > 1:
        raise Unsupported("static scales along K")
    return values[0].contiguous()


def _stored_as(format: Format | None) -> dict[str, Any]:
    if not isinstance(format, Int):
        return {}
    return {"scale_highest": format.range[1], "scale_unit": 2.0**format.exponent}


def _backward(job: NativeStraight, x: Tensor, scales: Tensor | None, *, of_x: bool, factor: float | None) -> Gradients:
    out = torch.empty_like(x) if of_x else None
    found = None if scales is None else torch.empty(scales.shape)
    job.factor = factor or 0.0
    job.out = None if out is None else out.data_ptr()
    job.of_scale = None if found is None else found.data_ptr()
    if out is not None or found is not None:
        _library().bitwright_straight_backward(ctypes.byref(job), _threads(x))
    return Gradients(out, found)


def _norms(weights: NormedRows, out: Tensor) -> NativeNorms:
    v, norm, scale, stored, bound = weights
    rows, k = v.shape
    limit = bound.norm / 2 if bound.is_centred else bound.norm
    return NativeNorms(
        v=v.data_ptr(), out=out.data_ptr(), rows=rows, k=k, tile=bound.shape(k)[1], norm=norm.data_ptr(),
        scale=scale.data_ptr(), stored=stored.data_ptr(), bound=bound.norm, largest=bound.largest,
        limit=float(np.floor(limit)), is_centred=bound.is_centred,
    )  # fmt: skip
