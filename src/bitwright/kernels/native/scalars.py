"""Quantization to scalar formats by the native library, in one pass and equal to the reference bit for bit."""

import ctypes
import math
from dataclasses import dataclass
from functools import lru_cache, singledispatch

import numpy as np
import torch
from torch import Tensor

from bitwright.formats import FLOAT32, Format, Int, Minifloat, Rounding, Table
from bitwright.kernels.library import NativeFormat, NativeQuantization, library
from bitwright.kernels.native.choice import least_error
from bitwright.kernels.native.memory import fresh
from bitwright.kernels.operand import Operand, rounds_once
from bitwright.kernels.quantize import coarse_scales, spans_of, tops, zero_points
from bitwright.kernels.rounding import Unsupported
from bitwright.quantization import Quantizer, Range, Scale, ScaleValue, Zero

LARGE = 1 << 24
"""Elements from which on more threads are used. One alone reaches the memory's limit; where the processors are taken,
two were as fast as one from here on, and took up to eight times as long below."""

ROUNDINGS = (
    Rounding.NEAREST_EVEN, Rounding.NEAREST_UP, Rounding.NEAREST_AWAY, Rounding.NEAREST_ZERO, Rounding.FLOOR,
    Rounding.CEILING, Rounding.TOWARD_ZERO,
)  # fmt: skip
SAME, INTEGERS, FLOATS, SYMMETRIC = range(4)
ONE = torch.ones(1, 1, dtype=torch.float64)
LARGEST_FLOAT32 = float(np.finfo(np.float32).max)


class NotFinite(ValueError):
    """The matrix holds NaN or infinity."""


def quantize(quantizer: Quantizer, x: Tensor, ranges: tuple[Range | None, ...] = ()) -> Operand:
    """Quantize float32 x [rows, k]. Raises `Unsupported` for what the library does not take, or `NotFinite`."""
    found = [_encode(quantizer, x, ranges, full_scale) for full_scale in quantizer.candidates()]
    return found[0] if len(found) == 1 else least_error(x, found)


def _encode(quantizer: Quantizer, x: Tensor, ranges: tuple[Range | None, ...], full_scale: float) -> Operand:
    job = Job(quantizer, x, ranges, full_scale)
    rows, block = len(x), quantizer.block(*x.shape)
    blocks = -(-x.shape[1] // block)
    elements = fresh((rows, blocks, block))
    inside = torch.empty(rows, blocks) if job.block else None
    job.run(elements, blocks * block, inside=inside)
    outside = job.outside.expand(rows, 1)
    return Operand(elements, inside, outside, x.shape[1], quantizer)


def fake_quantize(
    quantizer: Quantizer, x: Tensor, ranges: tuple[Range | None, ...] = (), out: Tensor | None = None
) -> Tensor:
    """decode(quantize(x)) in float32, into `out` where given; it may be x."""
    job = Job(quantizer, x, ranges)
    if not rounds_once(quantizer):
        raise Unsupported("elements times scales of more than 24 bits")
    out = fresh(tuple(x.shape)) if out is None else out
    if not out.is_inference():
        torch.autograd.graph.increment_version(out)  # autograd does not see what is written through a pointer
    job.run(out, x.shape[1], outside=job.outside)
    return out


class Job:
    """Everything but where results go. Tensors are kept as long as the library reads them."""

    def __init__(
        self, quantizer: Quantizer, x: Tensor, ranges: tuple[Range | None, ...], full_scale: float | None = None
    ) -> None:
        """Without `full_scale`, the quantizer must have one alone."""
        rows, k = x.shape
        if full_scale is None and len(quantizer.candidates()) > 1:
            raise Unsupported("several full scales")
        if not x.numel():
            raise Unsupported("an empty matrix")
        if library() is None:
            raise Unsupported("a matrix without the native library")
        if x.dtype != torch.float32 or x.device.type != "cpu" or torch.compiler.is_compiling():
            raise Unsupported(f"{x.dtype} on {x.device.type}")
        plan = _plan(quantizer, quantizer.candidates()[0] if full_scale is None else full_scale)
        self.x = x.contiguous()
        scales = quantizer.scales
        self.block = quantizer.block(rows, k) if plan.has_blocks else 0
        outer = plan.outer
        if any(1 < s.share.cell(rows, k)[0] < rows for s in scales):
            raise Unsupported("scales of tiles")
        if self.block and (
            quantizer.zero is Zero.FITTED
            or scales[-1].share.cell(rows, k)[0] > 1
            or (len(ranges) == len(scales) and ranges[-1] is not None)
        ):
            raise Unsupported("zero points of blocks, or scales of columns or fixed blocks")
        given = [*ranges, *[None] * (len(outer) - len(ranges))][: len(outer)]
        if quantizer.zero is Zero.FITTED and given[0] is None:
            given[0] = _extremes(self.x, outer[0].share.shape(rows, k)[0])
        spans = self._spans(quantizer, outer, given)
        if plan.is_simple:
            product = spans[0] / plan.tops[0]
            values = [product]
        else:
            values, product = coarse_scales(scales, spans, plan.tops)
        is_ideal = quantizer.divide_by is ScaleValue.IDEAL
        divisor = spans[-1] / plan.full_scale if is_ideal and not self.block else product
        outside = math.prod((value.double() for value in values[1:]), start=values[0].double() if values else ONE)
        shared = max(len(divisor), len(outside))
        self.coarse = divisor.expand(shared, 1).contiguous()
        self.outside = outside.expand(shared, 1).contiguous()
        self.zero = None
        if quantizer.zero is Zero.FITTED:
            assert given[0] is not None, "found above"
            self.zero = zero_points(quantizer, given[0], product).expand(shared, 1).contiguous()
        self.quantizer, self.plan, self.values = quantizer, plan, values

    def _spans(self, quantizer: Quantizer, outer: tuple[Scale, ...], given: list[Range | None]) -> list[Tensor]:
        """As `spans_of`; what is not given comes from one pass over the matrix."""
        if all(r is not None for r in given):
            return spans_of(quantizer, self.x.shape, self.x, outer, given)
        rows, k = self.x.shape
        found, of_rows = library(), torch.empty(rows, 1)
        assert found is not None
        is_signed = quantizer.format.bounds().lowest < 0
        found.bitwright_row_spans(self.x.data_ptr(), rows, k, is_signed, of_rows.data_ptr(), threads_for(self.x))
        return [
            spans_of(quantizer, self.x.shape, self.x, (scale,), (r,))[0]
            if r is not None
            else of_rows if scale.share.cell(rows, k)[0] == 1 else of_rows.amax(0, keepdim=True)
            for scale, r in zip(outer, given, strict=True)
        ]  # fmt: skip

    def work(
        self, out: Tensor | None, pitch: int, inside: Tensor | None = None, outside: Tensor | None = None
    ) -> NativeQuantization:
        """What the library is given. `inside` and `outside` are as in native/quantize.hpp."""
        work = NativeQuantization.from_buffer_copy(self.plan.template)
        work.rows, work.k = self.x.shape
        work.x, work.out, work.pitch, work.block = self.x.data_ptr(), _pointer(out), pitch, self.block
        work.coarse, work.coarse_rows = self.coarse.data_ptr(), len(self.coarse)
        work.zero, work.outside, work.inside = _pointer(self.zero), _pointer(outside), _pointer(inside)
        return work

    def run(self, out: Tensor, pitch: int, inside: Tensor | None = None, outside: Tensor | None = None) -> None:
        found = library()
        assert found is not None
        outcome = found.bitwright_quantize(ctypes.byref(self.work(out, pitch, inside, outside)), threads_for(self.x))
        if outcome == 1:
            raise NotFinite
        if outcome:
            raise Unsupported(f"{self.quantizer}")


def _extremes(x: Tensor, cells: int) -> Range:
    """Of each row, or of all."""
    low, high = x.view(cells, -1).aminmax(dim=1, keepdim=True)
    return Range(low.numpy(), high.numpy())


def threads_for(x: Tensor) -> int:
    """torch's number of threads, where the work is worth their start."""
    return torch.get_num_threads() if x.numel() >= LARGE else 1


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


@dataclass(frozen=True)
class _Plan:
    """What calls of one quantizer share."""

    template: NativeQuantization  # without what depends on the matrix
    outer: tuple[Scale, ...]  # scales that do not vary along K
    has_blocks: bool
    full_scale: float
    tops: tuple[float, ...]
    is_simple: bool  # one outer scale, which is not rounded


@lru_cache(maxsize=256)
def _plan(quantizer: Quantizer, full_scale: float) -> _Plan:
    scales, finest = quantizer.scales, quantizer.scales[-1]
    has_blocks = finest.share.splits_k
    outer = scales[:-1] if has_blocks else scales
    if any(s.share.splits_k for s in outer):
        raise Unsupported("several levels of scales along K")
    template = NativeQuantization(
        element=element(quantizer.format, quantizer.rounding),
        **(_block_scale(finest, quantizer, full_scale) if has_blocks else {}),
    )
    divisors = tops(quantizer, full_scale)
    is_simple = len(outer) == 1 and outer[0] == Scale(
        outer[0].share, range=outer[0].range, full_scale=outer[0].full_scale, largest=outer[0].largest
    )
    return _Plan(template, outer, has_blocks, full_scale, divisors, is_simple)


def _block_scale(scale: Scale, quantizer: Quantizer, full_scale: float) -> dict[str, object]:
    rounded = scale.magnitude_format
    return {
        "scale": stored_scale(scale.format, scale.rounding), "full_scale": full_scale,
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
        return ladder(format, rounding)
    if format.full_scale >= 2.0**100 or format.mantissa_bits > 20:
        raise Unsupported(f"{format}: float32 does not hold sums with 2**23 of its steps")
    if not format.subnormal or format.smallest_exponent - format.mantissa_bits < -126 or format.exponent_bits > 7:
        raise Unsupported(f"{format}: its steps are smaller than float32's")
    if format.smallest_exponent > format.mantissa_bits and rounding in (Rounding.FLOOR, Rounding.CEILING):
        raise Unsupported(f"{format} under {rounding}: float32's smallest numbers vanish beside its steps")
    return _floats(format, rounding)


@element.register
@lru_cache(maxsize=256)
def _(format: Table, rounding: Rounding) -> NativeFormat:
    return ladder(format, rounding)


def ladder(format: Format, rounding: Rounding) -> NativeFormat:
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
