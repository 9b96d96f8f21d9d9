"""Matrix products whose sums go through a register, by the native library and equal to the reference bit for bit.

Elements are integers of 16 bits in units of their format's smallest step. Sums of pairs of products in 32 bits are
exact in any order; registers that saturate, round or scale do so along K, at every product or tile.
"""

import ctypes
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bitwright.datapath import Accumulator, Aligned, Datapath, Overflow
from bitwright.formats import FLOAT32, Format, Int, Minifloat, Rounding, Table
from bitwright.kernels.matmul import Stationary, are_tiles_free
from bitwright.kernels.native.products import (
    ADD,
    CLIP,
    EXACT,
    FLOAT,
    LAYOUTS,
    MARK,
    SATURATE,
    SATURATES,
    SCALED,
    STEP,
    UNLIMITED,
    WATCH,
    WATCHES,
    WRAPS,
    NativeProducts,
    products_library,
)
from bitwright.kernels.operand import Operand
from bitwright.kernels.registers import Rounder, broken_promise
from bitwright.kernels.rounding import Unsupported
from bitwright.quantization import Zero

LARGE = 1 << 24
"""Products from which on a second thread is worth its start."""
LONGEST_TILE = 512


def holds(register: Accumulator, bound: float) -> bool:
    """Whether an integer register never overflows, with sums of up to this."""
    if not register.is_integer:
        return False
    return register.range is None or bound <= min(-register.range[0], register.range[1])


@dataclass(frozen=True)
class Inside:
    """What products go through inside a tile."""

    inner: int = UNLIMITED
    low: int = 0
    high: int = 0

    @property
    def is_exact(self) -> bool:
        return self.inner == UNLIMITED


EXACT_TILES = Inside()


@dataclass
class Job:
    """Two operands of integers."""

    x: Operand
    w: Stationary
    low: float  # lowest and highest element of x that there may be, in units
    high: float
    overflows: int = 0

    @staticmethod
    def of(x: Operand, w: Stationary) -> "Job":
        products_library()
        if any(t.device.type != "cpu" or t.dtype != torch.float32 for t in (x.elements, w.operand.elements)):
            raise Unsupported(f"{x.elements.dtype} on {x.elements.device.type}")
        job = Job(x, w, *_extremes(x))
        if not job.m * job.n or not job.k:
            raise Unsupported("no elements")
        return job

    @property
    def is_short(self) -> bool:
        """Whether elements are integers of 16 bits."""
        return max(self.largest_x, self.largest_w) <= 32767

    def is_plain(self, tile: int) -> bool:
        """Whether float32 rounds units as it rounds reals: sums of tiles of 24 bits under scales of 2**-90 to 2**90."""
        return -36 <= self.x.unit + self.w.operand.unit <= 0 and self.k < 2**13 * tile

    @property
    def m(self) -> int:
        return self.x.rows

    @property
    def n(self) -> int:
        return self.w.operand.rows

    @property
    def k(self) -> int:
        return min(self.x.k, self.w.operand.k)

    @property
    def largest_x(self) -> float:
        return max(-self.low, self.high)

    @property
    def largest_w(self) -> float:
        return self.w.operand.largest

    def one_sum(self, datapath: Datapath) -> Tensor:
        inner = datapath.inner
        bound = self.largest_x * self.w.norm
        if inner.is_integer and bound >= 2**31:
            raise Unsupported("sums of more than 32 bits")
        if not inner.is_integer:
            return self._rounded(inner, 1, datapath.product)
        if inner.readout is None and (holds(inner, bound) or self._is_in_range(inner)):
            return self.run(EXACT)
        if inner.overflow is Overflow.WRAP:
            return self._wrapped(inner)
        return self._saturated(inner, 1) if inner.overflow is Overflow.SATURATE else self._watched(inner)

    def tiled(self, datapath: Datapath, tile: int) -> Tensor:
        """Sums of tiles, each in a register, in an outer register."""
        inner, outer = datapath.inner, datapath.outer
        is_plain = datapath.scale_product in (None, FLOAT32) and datapath.product is None and inner.readout is None
        bound = self.largest_x * self.w.norm
        if not is_plain or bound >= 2**31 or not inner.is_integer:
            raise Unsupported("registers of tiles")
        if are_tiles_free(datapath, self.x, self.w):
            return self.run(EXACT)
        inside = self.inside(inner, tile, self.largest_x * max(self.w.norms_of_signs(tile)))
        if not outer.is_integer:
            return self._rounded_tiles(outer, tile, bound, inside)
        if holds(outer, bound):
            return self.run(ADD, tile=tile, inside=inside)
        assert outer.range is not None, "others hold all"
        low, high = outer.range
        if outer.overflow is Overflow.WRAP:
            return self._wrapped(outer, tile, inside)
        if outer.overflow is Overflow.FORBID:
            return self._marked(outer, tile, inside)
        if inside.is_exact:
            return self._saturated(outer, tile)
        largest = max(-low, high) + self.largest_x * self.largest_w * tile
        spare = 2 if self._has_room(2, max(largest, bound)) else 0
        if largest * 2**spare >= 2**31:
            raise Unsupported("a register of more than 32 bits")
        return self.run(CLIP, tile=tile, low=low, high=high, spare_bits=spare, inside=inside)

    def inside(self, register: Accumulator, tile: int, bound: float) -> Inside:
        """What the library does with the products of a tile whose sums may come to this."""
        if holds(register, bound):
            return EXACT_TILES
        if register.range is None:
            raise Unsupported("a float register inside tiles")
        low, high = register.range
        if not self.is_short or tile > LONGEST_TILE or max(-low, high) + self.largest_x * self.largest_w >= 2**31:
            raise Unsupported("a register that long tiles leave, or of more than 31 bits")
        if register.overflow is Overflow.SATURATE:
            return Inside(SATURATES, low, high)
        if register.overflow is Overflow.FORBID:
            before, self.overflows = self.overflows, 0
            self.run(ADD, tile=tile, inside=Inside(WATCHES, low, high))
            if self.overflows:
                raise broken_promise(register)
            self.overflows = before
            return EXACT_TILES
        if low != -high - 1:
            raise Unsupported("a register that wraps, but not at a power of two")
        return Inside(WRAPS, low, high)

    def _has_room(self, spare: int, largest: float) -> bool:
        """Whether products may have so many bits below them."""
        return largest * 2**spare < 2**31 and self.largest_w * 2**spare < 2**15

    def _marked(self, register: Accumulator, tile: int, inside: Inside) -> Tensor:
        """Sums of tiles that never leave the register."""
        assert register.range is not None, "a limited register"
        low, high = register.range
        if tile > LONGEST_TILE or not self._has_room(1, max(self.largest_x * self.w.norm, -low, high) + 1):
            raise Unsupported("a promise that may be broken")
        out = self.run(MARK, tile=tile, low=low, high=high, spare_bits=1, inside=inside)
        if self.overflows:
            raise broken_promise(register)
        return out if inside.is_exact else self.run(ADD, tile=tile, inside=inside)  # counts what the tiles lost

    def _rounded_tiles(self, register: Accumulator, tile: int, bound: float, inside: Inside) -> Tensor:
        if register.format != FLOAT32 or register.rounding is not Rounding.NEAREST_EVEN:
            return self._rounded(register, tile, register.format, inside)
        largest = self.largest_x * max(self.w.norms_of_signs(tile))
        if not (self.is_plain(tile) and largest < 2**24 and tile <= LONGEST_TILE):
            raise Unsupported("sums of tiles of more than 24 bits, or far from 1")
        if bound >= 2**24:
            return self.run(SCALED, tile=tile, inside=inside)
        return self.run(EXACT if inside.is_exact else ADD, tile=tile, inside=inside)  # float32 holds every sum

    def _is_in_range(self, register: Accumulator) -> bool:
        return bool(self._fits(register).all())

    def _fits(self, register: Accumulator) -> Tensor:
        """Whether each row of w keeps all partial sums inside the register [n]."""
        assert register.range is not None, "a limited register"
        positive, negative = self.w.norms_of_rows
        highest = positive * self.high - negative * self.low
        lowest = positive * self.low - negative * self.high
        return (lowest >= register.range[0]) & (highest <= register.range[1])

    def _wrapped(self, register: Accumulator, tile: int = 2, inside: Inside = EXACT_TILES) -> Tensor:
        assert register.range is not None, "a limited register"
        low, high = register.range
        if high >= 2**31 or (register.readout is not None and register.readout.slope >= 2**20):
            raise Unsupported("a register of more than 32 bits")
        slope = 0 if register.readout is None else register.readout.slope
        kind = EXACT if inside.is_exact else ADD
        return self.run(kind, tile=tile, inside=inside, wraps=1, low=low, high=high, slope=slope)

    def _saturated(self, register: Accumulator, tile: int) -> Tensor:
        """Outputs that no input can bring out of range are exact sums; the others are stepped."""
        assert register.range is not None, "a limited register"
        fits = self._fits(register)
        stepped, exact = torch.nonzero(~fits).flatten(), torch.nonzero(fits).flatten()
        settings = self._stepping(register, tile)
        out = torch.empty(self.m, self.n, dtype=torch.float64)
        if len(exact):
            self.run(EXACT, out=out, columns=exact)
        if len(stepped):
            self.run(**settings, tile=tile, out=out, columns=stepped if len(exact) else None)
        return out

    def _watched(self, register: Accumulator) -> Tensor:
        """Exact sums that never leave the register, after no product."""
        low, high = register.range or (0, 0)
        out = self.run(WATCH, low=max(low, -(2**31)), high=min(high, 2**31 - 1))
        if self.overflows:
            raise broken_promise(register)
        return out

    def _stepping(self, register: Accumulator, tile: int) -> dict[str, Any]:
        assert register.range is not None, "a limited register"
        (low, high), limits = register.range, dict(zip(("low", "high"), register.range, strict=True))
        bits, product = (high - low).bit_length(), self.largest_x * self.largest_w
        is_twos_complement = low == -high - 1
        if tile == 1 and bits <= 16 and is_twos_complement and product <= high:
            return {"kind": SATURATE, "spare_bits": 16 - bits, **limits, "largest": max(int(product), 1)}
        if tile == 1 and max(-low, high) + product < 2**31:
            return {"kind": STEP, **limits, **self._shifts(bits if is_twos_complement else 0)}
        if tile > LONGEST_TILE:
            raise Unsupported(f"tiles of {tile}")
        largest = max(-low, high) + product * tile
        for spare in (2, 0):  # two bits below tell whether a sum was ever clipped
            if largest * 2**spare < 2**31 and self.largest_w * 2**spare < 2**15:
                return {"kind": CLIP, "spare_bits": spare, **limits}
        raise Unsupported("a register of more than 32 bits")

    def _shifts(self, bits: int) -> dict[str, int]:
        """How far both elements move so that 32 bits saturate where a register of some bits does, if they can."""
        rooms = [15 - int(size).bit_length() for size in (self.largest_x, self.largest_w)]
        x_shift = min(rooms[0], 32 - bits)
        spare = 32 - bits - x_shift
        largest = 128 * self.largest_x * self.largest_w * 2**spare + 2 ** (31 - x_shift)  # before the library looks
        is_possible = bits and spare <= rooms[1] and largest < 2**31
        return {"x_shift": x_shift, "spare_bits": spare} if is_possible else {"x_shift": -1}

    def _rounded(
        self, register: Accumulator, tile: int, addend: Format | Aligned | None, inside: Inside = EXACT_TILES
    ) -> Tensor:
        """A narrow float register that float32 steps exactly, as all its values are whole numbers of units.

        What is added is rounded to `addend` before.
        """
        rounder = Rounder.of(register.format, register.rounding, self.x.unit + self.w.operand.unit)
        is_nearest = register.rounding is Rounding.NEAREST_EVEN
        is_rounded_twice = addend is not None
        if not (is_nearest or register.rounding is Rounding.TOWARD_ZERO) or tile > LONGEST_TILE:
            raise Unsupported(f"a register of {register.format}")
        if addend not in (None, register.format):
            raise Unsupported(f"products in {addend}")
        # rounding to nearest moves a sum by no more than its addend, as the register's old value is representable
        growth = (4 if is_rounded_twice else 2) * self.largest_x * self.w.norm
        if not (rounder.is_whole and rounder.fits_float32 and growth < 2**24):
            raise Unsupported("sums of more than 24 bits")
        smallest = max(rounder.smallest_exponent, 0)
        if not is_nearest and smallest > rounder.mantissa_bits:
            raise Unsupported("steps of more than a unit that are cut off")
        return self.run(
            FLOAT, tile=tile, rounding=int(not is_nearest), mantissa_bits=rounder.mantissa_bits,
            smallest_exponent=smallest, highest=min(rounder.highest, 3e38), rounds_twice=int(is_rounded_twice),
            inside=inside,
        )  # fmt: skip

    def run(
        self, kind: int, *, tile: int = 2, k: int | None = None, out: Tensor | None = None,
        columns: Tensor | None = None, scale_exponent: int = 0, inside: Inside = EXACT_TILES,
        **more: int | float,
    ) -> Tensor:  # fmt: skip
        """One call of the library."""
        operand = self.w.operand
        out = torch.empty(self.m, self.n, dtype=torch.float64) if out is None else out
        x, w = _rows(self.x.flat()), _rows(operand.flat())
        outside = [o.outside.double().contiguous() for o in (self.x, operand)]
        scales = [None if o.inside is None else o.inside.float().contiguous() for o in (self.x, operand)]
        k = self.k if k is None else k
        units = [2.0**o.unit for o in (self.x, operand)]
        n = self.n if columns is None else len(columns)
        job = NativeProducts(
            x=x.data_ptr(), w=w.data_ptr(), x_inside=_pointer(scales[0]), w_inside=_pointer(scales[1]),
            x_outside=outside[0].data_ptr(), w_outside=outside[1].data_ptr(), out=out.data_ptr(),
            columns=_pointer(columns), m=self.m, n=n, k=k, x_pitch=x.stride(0), w_pitch=w.stride(0), out_pitch=self.n,
            tile=tile, x_by=1 / units[0], w_by=1 / units[1], unit=units[0] * units[1] * 2.0**scale_exponent, kind=kind,
            inner=inside.inner, inner_low=inside.low, inner_high=inside.high, **more,
        )  # fmt: skip
        threads = torch.get_num_threads() if self.m * n * k >= LARGE else 1
        found = products_library()
        packed = self._packed(job, columns, threads)
        job.packed = packed.data_ptr()
        if kind == CLIP and not job.inner:
            bare = NativeProducts.from_buffer_copy(job)
            bare.kind, bare.spare_bits = EXACT, 0
            pairs = self._packed(bare, columns, threads)
            job.pairs = pairs.data_ptr()
        self.overflows += found.bitwright_multiply(ctypes.byref(job), threads)
        return out

    def _packed(self, job: NativeProducts, columns: Tensor | None, threads: int) -> Tensor:
        """The weights as the library reads them; the last few are kept for the next inputs."""
        found = products_library()
        is_in_pairs = job.kind in (EXACT, STEP, WATCH)
        layout = LAYOUTS.get(job.kind, EXACT)
        which = None if columns is None else columns.numpy().tobytes()
        key = (found.bitwright_level(), layout, 2 if is_in_pairs else job.tile, job.spare_bits, job.k, which)
        kept = self.w.packed  # other threads may look and add at once
        packed = kept.get(key)
        if packed is None:
            packed = torch.empty(found.bitwright_operand_size(ctypes.byref(job)), dtype=torch.int32)
            found.bitwright_pack_operand(ctypes.byref(job), packed.data_ptr(), threads)
            for other in list(kept)[:-3]:
                kept.pop(other, None)
            kept[key] = packed
        return packed


def _extremes(x: Operand) -> tuple[float, float]:
    """Lowest and highest element, zero among them, in units: by the format alone where that bounds them."""
    if x.quantizer.zero is not Zero.FIXED or not isinstance(x.quantizer.format, Int | Minifloat | Table):
        return x.extremes
    bounds = x.quantizer.format.bounds()
    return min(bounds.lowest, 0.0) * 2.0**-x.unit, max(bounds.highest, 0.0) * 2.0**-x.unit


def _rows(matrix: Tensor) -> Tensor:
    """The same with the elements of a row side by side."""
    return matrix if matrix.stride(1) == 1 else matrix.contiguous()


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
