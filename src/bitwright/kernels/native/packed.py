"""Products with packed weights by the native library: decoded in registers, never in memory."""

import ctypes
from functools import cache
from typing import ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bitwright.datapath import Datapath
from bitwright.formats import FLOAT32, Format, Int, Minifloat, Rounding
from bitwright.kernels.library import library_with
from bitwright.kernels.native.scalars import NotFinite
from bitwright.kernels.operand import Operand
from bitwright.kernels.packed import PANEL, STEP, TILE_ROWS, PackedWeight
from bitwright.kernels.rounding import Unsupported
from bitwright.quantization import PerRow, Quantizer, Scale

LARGEST_LEVEL = 64
"""Of a codebook's integers: sums of two of their products with 8-bit inputs fit 16 bits."""

SMALLEST, LARGEST = 2.0**-50, 2.0**40
"""Scales along K between which no sum of products of two of them with integers leaves float32's normal numbers."""

WORK = 1 << 22
"""Products from which on a second thread is worth its start."""

FEW = 4
"""Tokens from which on a weight is decoded first where lookups are no vector instructions."""

FLOAT, EXPONENT, INTEGER = range(3)

Job = TypeVar("Job", bound=ctypes.Structure)


class NativeWeight(ctypes.Structure):
    """Mirrors native/packed.hpp."""

    _fields_: ClassVar = [
        ("codes", ctypes.c_void_p), ("scales", ctypes.c_void_p), ("outside", ctypes.c_void_p),
        ("rows", ctypes.c_int64), ("steps", ctypes.c_int64), ("block_steps", ctypes.c_int64),
        ("scale_kind", ctypes.c_int32),
        ("mantissa_bits", ctypes.c_int32), ("bias", ctypes.c_int32), ("least", ctypes.c_float),
        ("unit", ctypes.c_float),
        ("values", ctypes.c_float * 16), ("levels", ctypes.c_int8 * 16), ("largest", ctypes.c_int32),
    ]  # fmt: skip


class NativeProduct(ctypes.Structure):
    """Mirrors native/packed.hpp."""

    _fields_: ClassVar = [
        ("weight", NativeWeight), ("x", ctypes.c_void_p), ("x_inside", ctypes.c_void_p), ("x_outside", ctypes.c_void_p),
        ("bias", ctypes.c_void_p), ("out", ctypes.c_void_p), ("tokens", ctypes.c_int64), ("unit", ctypes.c_double),
        ("x_is_unsigned", ctypes.c_int32), ("outer_is_exact", ctypes.c_int32),
    ]  # fmt: skip


class NativeTokens(ctypes.Structure):
    """Mirrors native/packed.hpp."""

    _fields_: ClassVar = [
        ("x", ctypes.c_void_p), ("out", ctypes.c_void_p), ("scales", ctypes.c_void_p), ("tokens", ctypes.c_int64),
        ("k", ctypes.c_int64), ("pitch", ctypes.c_int64), ("full_scale", ctypes.c_float), ("lowest", ctypes.c_float),
        ("highest", ctypes.c_float),
    ]  # fmt: skip


@cache
def _library() -> ctypes.CDLL:
    found = library_with("a packed weight", {"bitwright_packed_size": ctypes.sizeof(NativeProduct)})
    for name in ("bitwright_multiply_packed_floats", "bitwright_multiply_packed_integers"):
        function = getattr(found, name)
        function.argtypes, function.restype = [ctypes.POINTER(NativeProduct), ctypes.c_int32], None
    found.bitwright_quantize_tokens.argtypes = [ctypes.POINTER(NativeTokens)]
    found.bitwright_decode_packed.argtypes = [
        ctypes.POINTER(NativeWeight), ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_int32,
    ]  # fmt: skip
    found.bitwright_decode_packed.restype = None
    return found


def native_weight(w: PackedWeight) -> NativeWeight:
    """What the library reads of a weight. Raises `Unsupported`."""
    if not all(t.device.type == "cpu" and t.is_contiguous() for t in (w.codes, *w.scales)):
        raise Unsupported("a packed weight that is not contiguous in the CPU's memory")
    unit = w.quantizer.format.bounds().exponent.start
    levels = np.ldexp(w.values, -unit)
    largest = int(np.abs(levels).max())
    is_small = largest <= LARGEST_LEVEL
    kind = _scale(w.quantizer.scales[-1].format) if w.inside is not None else {}
    return NativeWeight(
        codes=w.codes.data_ptr(), scales=None if w.inside is None else w.inside.data_ptr(),
        outside=w.outside.data_ptr(), rows=w.rows, steps=w.steps, block_steps=(w.block or 0) // STEP,
        values=(ctypes.c_float * 16)(*w.values), largest=largest if is_small else 0,
        levels=(ctypes.c_int8 * 16)(*(levels.astype(int) if is_small else [0] * 16)), **kind,
    )  # fmt: skip


def _scale(format: Format) -> dict[str, int | float]:
    """How a stored scale becomes float32."""
    if format.bits > 8:
        return {"scale_kind": FLOAT}
    if isinstance(format, Int) and not format.signed:
        return {"scale_kind": INTEGER, "mantissa_bits": format.bits, "unit": 2.0**format.exponent}
    if isinstance(format, Minifloat):
        bias = int(format.subnormal) - format.smallest_exponent
        subnormal: dict[str, int | float] = {
            "least": 0.0,
            "unit": 2.0 ** (format.smallest_exponent - format.mantissa_bits),
        }
        if not format.subnormal and format.mantissa_bits == 0:
            subnormal = {"least": 2.0**-bias, "unit": 0.0}
        elif not format.subnormal:
            raise Unsupported(f"scales of {format}")
        if bias > 127 or format.full_scale >= 2.0**128:
            raise Unsupported(f"scales of {format}, which float32 does not hold")
        return {"scale_kind": EXPONENT, "mantissa_bits": format.mantissa_bits, "bias": bias, **subnormal}
    raise Unsupported(f"scales of {format}")


class FloatProduct:
    """x [m, k] @ w.T + bias in float32, of float inputs.

    Within (block + blocks + 4)·2**-24·Σ|x·w| of the exact product, a block being 64 elements where no scale varies
    along K; the same for every number of threads and tokens. Raises `Unsupported`.
    """

    def __init__(self, w: PackedWeight, bias: Tensor | None) -> None:
        self.library, self.w, self.bias = _library(), w, bias
        self._template = NativeProduct(weight=native_weight(w), bias=_pointer(bias), unit=1.0)

    def __call__(self, x: Tensor) -> Tensor:
        if len(x) >= FEW and not self.library.bitwright_level():
            return self._by_panels(x)
        x, job = _padded(x.float(), self.w), _copy(self._template)
        out = torch.empty(len(x), self.w.rows)
        job.x, job.out, job.tokens = x.data_ptr(), out.data_ptr(), len(x)
        self.library.bitwright_multiply_packed_floats(ctypes.byref(job), _threads(out.numel() * self.w.k))
        return out

    def _by_panels(self, x: Tensor) -> Tensor:
        """By float GEMMs: where lookups are no vector instructions, a weight is decoded once for all tokens."""
        out = torch.empty(len(x), self.w.rows)
        tiles = max(PANEL // (TILE_ROWS * self.w.k), 1)
        panel = torch.empty(tiles * TILE_ROWS, self.w.k)
        for first in range(0, len(self.w.codes), tiles):
            last = min(first + tiles, len(self.w.codes))
            self.library.bitwright_decode_packed(
                ctypes.byref(self._template.weight), panel.data_ptr(), self.w.k, first, last, _threads(panel.numel())
            )
            rows = slice(first * TILE_ROWS, min(last * TILE_ROWS, self.w.rows))
            torch.mm(x.float(), panel[: rows.stop - rows.start].T, out=out[:, rows])
        out = (out * self.w.outside).float()
        return out if self.bias is None else out.add_(self.bias)


class IntegerProduct:
    """x @ w.T + bias in float32 as the datapath defines it, bit for bit. Raises `Unsupported`."""

    def __init__(self, datapath: Datapath, x: Quantizer, w: PackedWeight, bias: Tensor | None) -> None:
        self.library, self.w, self.bias = _library(), w, bias
        bounds, of_weight, native = x.format.bounds(), w.quantizer.format.bounds(), native_weight(w)
        low, high = bounds.units
        is_unsigned = low >= 0
        if low < -128 or high > (255 if is_unsigned else 127) or not native.largest:
            raise Unsupported("inputs of more than 8 bits, or a codebook of large integers")
        if bounds.reach or bounds.per_lane > 1 or datapath.tile is not None or datapath.product is not None:
            raise Unsupported("digits of neighbours, several terms an element, tiles, or rounded products")
        splits = x.scales[-1].share.splits_k
        of_x = x.block(1, w.k) if splits else None
        block = w.block or of_x
        if of_x not in (None, block) or (block is not None and (block % STEP or w.steps * STEP % block)):
            raise Unsupported("blocks of different sizes, or that steps do not fill")
        is_exact = block is not None and datapath.outer.is_integer
        self.is_limited = _require_outer(datapath, x, w, block) and splits
        largest, inner = max(-low, high) * native.largest * (block or w.k), datapath.inner
        is_free = inner.format is None or (inner.range is not None and largest <= inner.range[1])
        if inner.readout is not None or not is_free or largest >= (2**31 if block is None or is_exact else 2**24):
            raise Unsupported("an inner register that sums may leave")
        native.block_steps = (block or 0) // STEP
        self.of_levels = 2.0**-bounds.exponent.start
        self.dtype = torch.uint8 if is_unsigned else torch.int8
        self._template = NativeProduct(
            weight=native, bias=_pointer(bias), unit=2.0 ** (bounds.exponent.start + of_weight.exponent.start),
            x_is_unsigned=is_unsigned, outer_is_exact=is_exact,
        )  # fmt: skip

    def __call__(self, x: Operand) -> Tensor:
        if self.is_limited and x.inside is not None and x.inside.numel():
            low, high = x.inside.aminmax()
            if float(high) > LARGEST or (float(low) < SMALLEST and bool(x.elements[x.inside < SMALLEST].any())):
                raise Unsupported("scales near the ends of float32's range")
        elements = x.flat()[:, : x.k]
        integers = elements if self.of_levels == 1.0 else elements * self.of_levels
        inside = None if x.inside is None else x.inside.contiguous()
        return self._multiply(_padded(integers.to(self.dtype), self.w), x.outside.contiguous(), inside)

    def _multiply(self, integers: Tensor, outside: Tensor, inside: Tensor | None) -> Tensor:
        out, job = torch.empty(len(integers), self.w.rows), _copy(self._template)
        job.x, job.x_inside, job.x_outside = integers.data_ptr(), _pointer(inside), outside.data_ptr()
        job.out, job.tokens = out.data_ptr(), len(integers)
        self.library.bitwright_multiply_packed_integers(ctypes.byref(job), _threads(out.numel() * self.w.k))
        return out


class TokenProduct:
    """An `IntegerProduct` of float inputs, whose integers are made in one pass: 8 bits, a scale a token from itself."""

    def __init__(self, quantizer: Quantizer, product: IntegerProduct) -> None:
        format, scale = quantizer.format, quantizer.scales[0]
        is_plain = isinstance(format, Int) and format.signed and not format.exponent and len(quantizer.scales) == 1
        if not is_plain or scale != Scale(PerRow()) or quantizer != Quantizer(format, quantizer.scales):
            raise Unsupported("inputs other than integers under a float32 scale a token")
        low, high = format.range  # type: ignore[attr-defined]  # asked before
        self.product, w = product, product.w
        self._template = NativeTokens(
            k=w.k, pitch=w.steps * STEP, full_scale=quantizer.candidates()[0], lowest=low, highest=high
        )

    def __call__(self, x: Tensor) -> Tensor:
        """x [m, k]; NaN or infinity raises `NotFinite`."""
        x, job = x.float().contiguous(), _copy(self._template)
        integers = torch.empty(len(x), job.pitch, dtype=torch.int8)
        scales = torch.empty(len(x), dtype=torch.float64)
        job.x, job.out, job.scales, job.tokens = x.data_ptr(), integers.data_ptr(), scales.data_ptr(), len(x)
        if self.product.library.bitwright_quantize_tokens(ctypes.byref(job)):
            raise NotFinite
        return self.product._multiply(integers, scales, None)


def _require_outer(datapath: Datapath, x: Quantizer, w: PackedWeight, block: int | None) -> bool:
    """The register over blocks is float32, or an integer one that nothing leaves; do extreme scales matter?"""
    outer = datapath.outer
    formats = [q.scales[-1].format for q in (x, w.quantizer) if q.scales[-1].share.splits_k]
    if block is None:
        return False
    if outer.is_integer:
        bits = sum(format.bits for format in formats) + (w.k * 2**14).bit_length()
        if outer.range is not None or datapath.scale_product is not None or bits > 52:
            raise Unsupported("an integer register of a given width, or rounded scale products")
        if not all(isinstance(format, Int) and not format.exponent for format in formats):
            raise Unsupported("scales that are no integers")
        return False
    if outer.format != FLOAT32 or outer.rounding is not Rounding.NEAREST_EVEN:
        raise Unsupported(f"an outer register of {outer.format}")
    is_rounded = datapath.scale_product == FLOAT32 and datapath.scale_rounding is Rounding.NEAREST_EVEN
    if datapath.scale_product is not None and not is_rounded:
        raise Unsupported("rounded scale products")
    if not is_rounded and sum(_significant_bits(format) for format in formats) > 24:
        raise Unsupported("scale products that float32 does not hold")
    if w.inside is not None and not w.is_within(SMALLEST, LARGEST):
        raise Unsupported("scales near the ends of float32's range")
    return True


def _significant_bits(format: Format) -> int:
    return format.mantissa_bits + 1 if isinstance(format, Minifloat) else format.bits


def _copy(template: Job) -> Job:
    """A job of one call: several threads may be in the library at once."""
    return type(template).from_buffer_copy(template)


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _padded(x: Tensor, w: PackedWeight) -> Tensor:
    missing = w.steps * STEP - x.shape[1]
    return (functional.pad(x, (0, missing)) if missing else x).contiguous()


def _threads(work: int) -> int:
    return torch.get_num_threads() if work >= WORK else 1
