"""Quantization to scalar formats by the native library, in one pass and equal to the reference bit for bit."""

import ctypes
from functools import lru_cache, singledispatch

import numpy as np
import torch
from torch import Tensor

from bitwright.formats import FLOAT32, Format, Int, Minifloat, Rounding, Table
from bitwright.kernels.library import NativeFormat, NativeQuantization, library
from bitwright.kernels.operand import Operand
from bitwright.kernels.plan import plan
from bitwright.kernels.rounding import Unsupported
from bitwright.quantization import Quantizer, Range, Scale, ScaleValue

LARGE = 1 << 21
"""Elements from which on a second thread is worth its start."""

ROUNDINGS = (
    Rounding.NEAREST_EVEN, Rounding.NEAREST_UP, Rounding.NEAREST_AWAY, Rounding.NEAREST_ZERO, Rounding.FLOOR,
    Rounding.CEILING, Rounding.TOWARD_ZERO,
)  # fmt: skip
SAME, INTEGERS, FLOATS, SYMMETRIC = range(4)
LARGEST_FLOAT32 = float(np.finfo(np.float32).max)


class NotFinite(ValueError):
    """The matrix holds NaN or infinity."""


def quantize(quantizer: Quantizer, x: Tensor, ranges: tuple[Range | None, ...] = ()) -> Operand:
    """Quantize float32 x [rows, k]. Raises `Unsupported` for what the library does not take, or `NotFinite`."""
    job = _Job(quantizer, x, ranges)
    rows, block = len(x), quantizer.block(*x.shape)
    blocks = -(-x.shape[1] // block)
    elements = torch.empty(rows, blocks, block)
    inside = torch.empty(rows, blocks) if job.block else None
    job.run(elements, blocks * block, inside=inside)
    outside = job.outside.expand(rows, 1)
    return Operand(elements, inside, outside, x.shape[1], quantizer)


def fake_quantize(
    quantizer: Quantizer, x: Tensor, ranges: tuple[Range | None, ...] = (), out: Tensor | None = None
) -> Tensor:
    """decode(quantize(x)) in float32, into `out` where given; it may be x."""
    job = _Job(quantizer, x, ranges)
    out = torch.empty(x.shape) if out is None else out
    if not out.is_inference():
        torch.autograd.graph.increment_version(out)  # autograd does not see what is written through a pointer
    job.run(out, x.shape[1], outside=job.outside)
    return out


class _Job:
    """Everything but where results go. Tensors are kept as long as the library reads them."""

    def __init__(self, quantizer: Quantizer, x: Tensor, ranges: tuple[Range | None, ...]) -> None:
        if not x.numel():
            raise Unsupported("an empty matrix")
        if library() is None:
            raise Unsupported("a matrix without the native library")
        if x.dtype != torch.float32 or x.device.type != "cpu" or torch.compiler.is_compiling():
            raise Unsupported(f"{x.dtype} on {x.device.type}")
        self.element = element(quantizer.format, quantizer.rounding)
        found = plan(quantizer, x, ranges)
        self.x, self.block, self.coarse, self.outside, self.zero = (
            found.x,
            found.block,
            found.coarse,
            found.outside,
            found.zero,
        )
        self.quantizer, self.shared = quantizer, len(found.coarse)

    def run(self, out: Tensor, pitch: int, inside: Tensor | None = None, outside: Tensor | None = None) -> None:
        rows, k = self.x.shape
        scale = self.quantizer.scales[-1]
        job = NativeQuantization(
            x=self.x.data_ptr(), out=out.data_ptr(), rows=rows, k=k, pitch=pitch, coarse=self.coarse.data_ptr(),
            zero=_pointer(self.zero), outside=_pointer(outside), coarse_rows=self.shared,
            element=self.element, block=self.block,
            inside=_pointer(inside), **(_block_scale(scale, self.quantizer) if self.block else {}),
        )  # fmt: skip
        threads = torch.get_num_threads() if self.x.numel() >= LARGE else 1
        found = library()
        assert found is not None
        outcome = found.bitwright_quantize(ctypes.byref(job), threads)
        if outcome == 1:
            raise NotFinite
        if outcome:
            raise Unsupported(f"{self.quantizer}")


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _block_scale(scale: Scale, quantizer: Quantizer) -> dict[str, object]:
    rounded = scale.magnitude_format
    return {
        "scale": stored_scale(scale.format, scale.rounding), "full_scale": quantizer.candidates()[0],
        "smallest": scale.smallest, "zero_as": scale.zero_as or 0.0, "has_zero_as": scale.zero_as is not None,
        "magnitude_shift": 0 if rounded is None else 23 - rounded.mantissa_bits,  # type: ignore[attr-defined]
        "divides_by_ideal": quantizer.divide_by is ScaleValue.IDEAL,
        "is_signed": quantizer.format.bounds().lowest < 0,
    }  # fmt: skip


@singledispatch
def element(format: Format, rounding: Rounding) -> NativeFormat:
    """How the library rounds levels to this format. Raises `Unsupported`."""
    raise Unsupported(f"{format} under {rounding}")


@element.register
@lru_cache(maxsize=256)
def _(format: Int, rounding: Rounding) -> NativeFormat:
    low, high = format.range
    if high >= 2**24 or rounding not in ROUNDINGS or abs(format.exponent) > 100:  # units that float32 divides by
        raise Unsupported(f"{format} under {rounding}")
    return NativeFormat(
        kind=INTEGERS, rounding=ROUNDINGS.index(rounding), lowest=low, highest=high, unit=2.0**format.exponent
    )


@element.register
@lru_cache(maxsize=256)
def _(format: Minifloat, rounding: Rounding) -> NativeFormat:
    if not format.mantissa_bits and format.bits <= 5:
        return _ladder(format, rounding)
    if not format.subnormal or format.smallest_exponent - format.mantissa_bits < -126 or format.exponent_bits > 7:
        raise Unsupported(f"{format}: its steps are smaller than float32's")
    if format.smallest_exponent > format.mantissa_bits and rounding in (Rounding.FLOOR, Rounding.CEILING):
        raise Unsupported(f"{format} under {rounding}: float32's smallest numbers vanish beside its steps")
    return _floats(format, rounding)


@element.register
@lru_cache(maxsize=256)
def _(format: Table, rounding: Rounding) -> NativeFormat:
    return _ladder(format, rounding)


def _ladder(format: Format, rounding: Rounding) -> NativeFormat:
    """Thresholds on magnitudes, at which the reference goes on to the next value."""
    codes = np.arange(2**format.bits)
    values = np.unique(format.decode(codes[~format.is_reserved(codes)]))
    positive = values[values > 0]
    is_signed = values[0] < 0
    if len(positive) > 16 or 0 not in values or (is_signed and not np.array_equal(values, -values[::-1])):
        raise Unsupported(f"{format} under {rounding}")
    if rounding in (Rounding.STOCHASTIC, Rounding.FLOOR, Rounding.CEILING):
        raise Unsupported(f"{format} under {rounding}")
    lower = np.append(0.0, positive[:-1])
    middle = (lower + positive) / 2
    tries = np.stack([_after(lower), middle, _after(middle), positive])
    if np.any(tries.astype(np.float32) != tries):
        raise Unsupported(f"{format}: float32 does not hold its midpoints")
    is_next = format.decode(format.encode(tries, rounding)) == positive
    thresholds = tries[np.argmax(is_next, 0), np.arange(len(positive))]
    made = NativeFormat(kind=SYMMETRIC, lowest=-LARGEST_FLOAT32 if is_signed else 0.0, count=len(positive))
    made.thresholds[: len(positive)] = thresholds.tolist()
    made.steps[: len(positive)] = (positive - lower).tolist()
    if is_signed and rounding is Rounding.NEAREST_UP:
        made.inward = 1
    mirrored = -np.where(thresholds <= middle, lower if made.inward else positive, lower)
    found = format.decode(format.encode(-middle, rounding)) if is_signed else mirrored
    odd = np.flatnonzero(found != mirrored)  # neighbours whose codes have one parity: the tie goes up on both sides
    if len(odd) > 2:
        raise Unsupported(f"{format} under {rounding}: ties that differ with the sign")
    made.odd_levels[:] = [*(-middle[odd]), *[np.nan] * (2 - len(odd))]
    made.odd_values[:] = [*found[odd], *[0.0] * (2 - len(odd))]
    return made


def stored_scale(format: Format, rounding: Rounding) -> NativeFormat:
    """How the library rounds the scales of blocks. Raises `Unsupported`."""
    if format == FLOAT32 and rounding is Rounding.NEAREST_EVEN:
        return NativeFormat(kind=SAME)
    return _floats(format, rounding) if isinstance(format, Minifloat) else element(format, rounding)


def _floats(format: Minifloat, rounding: Rounding) -> NativeFormat:
    is_directed = rounding in (Rounding.FLOOR, Rounding.CEILING, Rounding.TOWARD_ZERO)
    if rounding not in ROUNDINGS or not (format.mantissa_bits or is_directed):
        raise Unsupported(f"{format} under {rounding}")  # without a mantissa the exponent's parity breaks ties
    bounds = format.bounds()
    return NativeFormat(
        kind=FLOATS, rounding=ROUNDINGS.index(rounding), lowest=bounds.lowest, highest=bounds.highest,
        mantissa_bits=format.mantissa_bits, smallest_exponent=format.smallest_exponent,
    )  # fmt: skip


def _after(x: np.ndarray) -> np.ndarray:
    return np.nextafter(x.astype(np.float32), np.float32(np.inf)).astype(np.float64)
