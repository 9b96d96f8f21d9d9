"""Registers whose every step matters, equal to `Datapath.multiply` bit for bit: all accumulators over tiles of K.

A tile whose register cannot overflow, or wraps, is one exact GEMM. Saturating and float registers are stepped along K,
all outputs of a chunk of rows at a time. Sums count units (the product of the operands' smallest steps), so they are
integers: float32 carries them where a bound stays below 2**24, float64 otherwise, and beyond 2**53 sums are rounded to
odd before they are rounded to the register.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from bitwright.datapath import Accumulator, Aligned, Datapath, Overflow
from bitwright.formats import FLOAT32, Format, Int, Minifloat, Rounding
from bitwright.kernels.operand import Operand
from bitwright.kernels.rounding import Unsupported

CHUNK = 1 << 16
"""Accumulators worked on at a time, so that a step's temporaries stay in cache."""

Sum = tuple[Tensor, int]
"""Register contents in units, and how many of them overflow changed."""


def stepped(datapath: Datapath, x: Operand, w: Operand) -> tuple[Tensor, int, int]:
    """Products [m, n] in float64, overflowed sums, and sums in all."""
    k = min(x.k, w.k)  # one may be padded further
    tile = min(x.elements.shape[2], w.elements.shape[2], datapath.tile or k, k)
    tiles = -(-k // tile)
    has_outer = tiles > 1 or datapath.tile is not None or x.inside is not None or w.inside is not None
    unit = x.unit + w.unit
    sums = _TileSums(datapath, x, w, k, tile)
    outer = _outer(datapath, x, w, 4 * sums.bound * tiles) if has_outer else None  # rounding may grow a sum fourfold
    total = torch.empty(x.rows, w.rows, dtype=torch.float64, device=x.elements.device)
    overflows = 0
    step = max(CHUNK // max(w.rows, 1), 1)
    for start in range(0, x.rows, step):
        part = x.take(slice(start, start + step))
        inner = sums.of(part)
        if outer is None:
            values, count = inner(0)
            total[start : start + step] = values.double() * 2.0**unit
        else:
            total[start : start + step], count = outer(inner, _Scales(datapath, part, w, tile), tiles)
        overflows += count
    total.mul_(x.outside).mul_(w.outside.T)
    return total, overflows, total.numel() * (tiles + 1 if has_outer else 1)


@dataclass(frozen=True)
class _TileSums:
    """The inner register over each tile of K."""

    datapath: Datapath
    x: Operand
    w: Operand
    k: int
    tile: int

    @cached_property
    def weight(self) -> Tensor:
        """Elements of w in units [n, tiles, tile]."""
        return self._tiles(self.w)

    @cached_property
    def bound(self) -> float:
        """Bound on Σ|product| of a tile, in units."""
        return self.x.largest * float(self.weight.abs().sum(2).max())

    @cached_property
    def is_in_range(self) -> bool:
        """Whether no row of w can leave the inner register with any of these inputs, after any step."""
        limits = self.datapath.inner.range
        if limits is None:
            return True
        low, high = self.x.extremes
        positive, negative = self.weight.clamp(min=0).sum(2), self.weight.clamp(max=0).sum(2)
        lowest, highest = positive * low + negative * high, positive * high + negative * low
        return float(lowest.min()) >= limits[0] and float(highest.max()) <= limits[1]

    def of(self, part: Operand) -> Callable[[int], Sum]:
        """Sums of some rows of x, by the index of the tile."""
        inner, bound = self.datapath.inner, self.bound
        if isinstance(self.datapath.product, Aligned):
            return self._aligned(part, self.datapath.product)
        if not inner.is_integer:
            return self._stepped(part, _float_step(self.datapath, self.x, self.w, bound))
        exact, limits = self._exact(part), inner.range
        if limits is None or self.is_in_range:
            return lambda i: (read(inner, exact(i)), 0)
        if inner.overflow is Overflow.WRAP:
            return lambda i: _read_wrapped(inner, exact(i))
        dtype = torch.float32 if bound + max(-limits[0], limits[1]) < 2**24 else torch.float64
        return self._stepped(part, _integer_step(inner, dtype), exact)

    def _tiles(self, operand: Operand) -> Tensor:
        """Elements in units [rows, tiles, tile]."""
        flat = operand.flat()[:, : self.k].double() * 2.0**-operand.unit
        return torch.nn.functional.pad(flat, (0, -self.k % self.tile)).unflatten(1, (-1, self.tile))

    def _exact(self, part: Operand) -> Callable[[int], Tensor]:
        if self.bound >= 2**53:
            raise Unsupported("sums of more than 53 bits")
        dtype = torch.float32 if self.bound < 2**24 else torch.float64
        a, b = self._tiles(part).to(dtype), self.weight.to(dtype)
        return lambda i: a[:, i] @ b[:, i].T

    def _aligned(self, part: Operand, product: Aligned) -> Callable[[int], Sum]:
        a, b = self._tiles(part), self.weight
        rows = max(CHUNK // (len(b) * self.tile), 1)  # all products of a tile are looked at together

        def cut(x: Tensor, w: Tensor) -> Tensor:
            products = x[:, None] * w[None]
            exponent = torch.frexp(products.abs().amax(2, keepdim=True)).exponent
            step = torch.exp2((exponent - product.bits).clamp_(min=0).double())
            return products.div_(step).floor_().mul_(step).sum(2)

        return lambda i: (torch.cat([cut(x, b[:, i]) for x in a[:, i].split(rows)]), 0)

    def _stepped(
        self, part: Operand, step: "_Step", exact: Callable[[int], Tensor] | None = None
    ) -> Callable[[int], Sum]:
        # K first, so that each step reads contiguous columns
        a = self._tiles(part).to(step.dtype).movedim(0, 2).contiguous()
        b = self.weight.to(step.dtype).movedim(0, 2).contiguous()

        def sum_of(i: int) -> Sum:
            total = torch.zeros(part.rows, self.w.rows, dtype=step.dtype, device=a.device)
            for column, weight in zip(a[i], b[i], strict=True):
                step.add_(total, column[:, None], weight[None, :])
            return total, 0 if exact is None else int((total != exact(i)).sum())

        return sum_of


@dataclass(frozen=True)
class _Step:
    """One product into a register, in place, in units carried by `dtype`."""

    dtype: torch.dtype
    add_: Callable[[Tensor, Tensor, Tensor], object]


def _integer_step(inner: Accumulator, dtype: torch.dtype) -> _Step:
    assert inner.range is not None, "a limited register"
    low, high = inner.range
    if inner.overflow is Overflow.SATURATE:
        return _Step(dtype, lambda total, a, b: total.addcmul_(a, b).clamp_(low, high))

    def forbid_(total: Tensor, a: Tensor, b: Tensor) -> None:
        _forbid(inner, total.addcmul_(a, b))

    return _Step(dtype, forbid_)


def _float_step(datapath: Datapath, x: Operand, w: Operand, bound: float) -> _Step:
    """A product, rounded where the datapath says so, and the rounded sum."""
    unit = x.unit + w.unit
    register = Rounder.of(datapath.inner.format, datapath.inner.rounding, unit)
    assert not isinstance(datapath.product, Aligned), "summed by tiles"
    product = None if datapath.product is None else Rounder.of(datapath.product, datapath.inner.rounding, unit)
    # rounding to nearest moves a sum by no more than its addend, as the register's old value is representable
    growth = 2.0 if product is None else 4.0
    is_bounded = datapath.inner.rounding not in (Rounding.FLOOR, Rounding.CEILING)
    is_whole = register.is_whole and (product is None or product.is_whole)
    is_exact = is_bounded and is_whole and growth * bound < 2**53
    is_single = is_exact and growth * bound < 2**24 and register.fits_float32 and (not product or product.fits_float32)
    dtype = torch.float32 if is_single else torch.float64

    def add_(total: Tensor, a: Tensor, b: Tensor) -> None:
        value = a * b
        if product is not None:
            product.round(value, out=value)
        value = value.add_(total) if is_exact else sum_to_odd(total, value)
        register.round(value, out=total)

    return _Step(dtype, add_)


@dataclass(frozen=True)
class Rounder:
    """A Minifloat's rounding of float32 or float64 numbers that count 2**unit."""

    mantissa_bits: int
    smallest_exponent: int  # of the binade that subnormals share
    highest: float
    rounding: Rounding
    is_whole: bool  # whether rounded whole numbers of units stay whole

    @staticmethod
    def of(format: Format | None, rounding: Rounding, unit: int) -> "Rounder":
        """Raises `Unsupported` for formats other than Minifloats, and for ties by the parity of an exponent."""
        if not isinstance(format, Minifloat) or not format.subnormal or not format.signed:
            raise Unsupported(f"a register of {format}")
        if format.mantissa_bits == 0 and rounding is Rounding.NEAREST_EVEN:
            raise Unsupported(f"ties of {format}")
        highest = format.full_scale * 2.0**-unit
        is_whole = highest == round(highest)
        return Rounder(format.mantissa_bits, format.smallest_exponent - unit, highest, rounding, is_whole)

    @property
    def fits_float32(self) -> bool:
        is_plain = self.rounding in (Rounding.NEAREST_EVEN, Rounding.TOWARD_ZERO, Rounding.FLOOR, Rounding.CEILING)
        return is_plain and self.mantissa_bits <= 20 and self.smallest_exponent < 64

    def round(self, value: Tensor, out: Tensor) -> Tensor:
        """Rounded values; `out` may be the same tensor. In float32 only whole numbers."""
        bits, dtype = (23, torch.int32) if value.dtype == torch.float32 else (52, torch.int64)
        exponent_field = 0x7F800000 if bits == 23 else 0x7FF0000000000000
        limit = min(self.highest, torch.finfo(value.dtype).max)
        smallest = self.smallest_exponent if bits == 52 else max(self.smallest_exponent, 0)
        binade = (value.view(dtype) & exponent_field).view(value.dtype).clamp_(min=2.0**smallest)
        if self.rounding is Rounding.NEAREST_EVEN:
            # adding a number whose last bit is the step rounds to the step, and the processor breaks ties to even
            magic = binade.mul_(1.5 * 2.0 ** (bits - self.mantissa_bits))
            return torch.add(value, magic, out=out).sub_(magic).clamp_(-limit, limit)
        step = binade.mul_(2.0**-self.mantissa_bits)
        return torch.mul(_ROUND[self.rounding](value / step), step, out=out).clamp_(-limit, limit)


_ROUND: dict[Rounding, Callable[[Tensor], Tensor]] = {
    Rounding.TOWARD_ZERO: torch.trunc,
    Rounding.FLOOR: torch.floor,
    Rounding.CEILING: torch.ceil,
    Rounding.NEAREST_UP: lambda level: torch.floor(level + 0.5),
    Rounding.NEAREST_AWAY: lambda level: torch.trunc(level + torch.copysign(torch.full_like(level, 0.5), level)),
    Rounding.NEAREST_ZERO: lambda level: torch.copysign(torch.ceil(level.abs() - 0.5), level),
}


def sum_to_odd(a: Tensor, b: Tensor) -> Tensor:
    """As `bitwright.datapath.accumulator.sum_to_odd`."""
    total = a + b
    part = total - a
    error = (a - (total - part)) + (b - part)
    is_inexact_even = (error != 0) & (total.view(torch.int64) & 1 == 0)
    return torch.where(is_inexact_even, torch.nextafter(total, error * torch.inf), total)


@dataclass(frozen=True)
class _Scales:
    """Products of the block scales of each tile."""

    datapath: Datapath
    x: Operand
    w: Operand
    tile: int

    def of(self, i: int) -> Tensor:
        """Stored scales multiplied and rounded, [m, n] or [1, 1], float64."""
        product = self._column(self.x, i)[:, None] * self._column(self.w, i)[None, :]
        return round_scale(self.datapath, product)

    def _column(self, operand: Operand, i: int) -> Tensor:
        if operand.inside is None:
            return torch.ones(1, dtype=torch.float64, device=operand.elements.device)
        return operand.inside[:, i * self.tile // operand.elements.shape[2]].double()


_Outer = Callable[[Callable[[int], Sum], _Scales, int], Sum]
"""Tile sums, scales and the number of tiles to totals in real values."""


def _outer(datapath: Datapath, x: Operand, w: Operand, bound: float) -> _Outer:
    unit = x.unit + w.unit
    if not datapath.outer.is_integer:
        return _float_outer(datapath.outer, unit)
    scale_unit = datapath.scale_product.exponent if isinstance(datapath.scale_product, Int) else 0
    if bound * largest_scale(datapath, x, w) * 2.0**-scale_unit >= 2**53:
        raise Unsupported("outer sums of more than 53 bits")
    return _integer_outer(datapath.outer, unit, scale_unit)


def _float_outer(outer: Accumulator, unit: int) -> _Outer:
    if outer.format == FLOAT32 and outer.rounding is Rounding.NEAREST_EVEN:
        add, round_ = _add_float32, _to_float32
    else:
        rounder = Rounder.of(outer.format, outer.rounding, 0)

        def round_(value: Tensor) -> Tensor:
            return rounder.round(value, out=value)

        def add(total: Tensor, addend: Tensor) -> Tensor:
            return round_(sum_to_odd(total, addend))

    def run(inner: Callable[[int], Sum], scales: _Scales, tiles: int) -> Sum:
        total, overflows = torch.zeros((), dtype=torch.float64), 0  # of no device, as a number
        for i in range(tiles):
            partial, count = inner(i)
            # float64 multiplies as the reference does, rounding included
            total = add(total, round_(partial.double() * 2.0**unit * scales.of(i)))
            overflows += count
        return total, overflows

    return run


def _to_float32(value: Tensor) -> Tensor:
    return value.float().double()


def _add_float32(total: Tensor, addend: Tensor) -> Tensor:
    return _to_float32(total + addend)  # float64 has twice float32's bits and two more, so rounding twice is once


def _integer_outer(outer: Accumulator, unit: int, scale_unit: int) -> _Outer:
    def run(inner: Callable[[int], Sum], scales: _Scales, tiles: int) -> Sum:
        total = exact = torch.zeros((), dtype=torch.float64)
        overflows = 0
        for i in range(tiles):
            partial, count = inner(i)
            scale = scales.of(i) * 2.0**-scale_unit
            if bool((scale != scale.round()).any()):
                raise Unsupported("fractional scales in an integer register")
            addend = partial.double() * scale
            exact, overflows = exact + addend, overflows + count
            total = _settled(outer, total + addend)
        if outer.range is not None:
            overflows += int((total != exact).sum())
        return total * 2.0 ** (unit + scale_unit), overflows

    return run


def _settled(outer: Accumulator, total: Tensor) -> Tensor:
    """An integer register's content in place of this sum."""
    if outer.range is None:
        return total
    if outer.overflow is Overflow.SATURATE:
        return total.clamp(*outer.range)
    if outer.overflow is Overflow.WRAP:
        return _wrapped(total, outer.range)[0]
    _forbid(outer, total)
    return total


def read(register: Accumulator, total: Tensor) -> Tensor:
    """As `Accumulator.read`, of integers in any float type that holds them."""
    if register.readout is None:
        return total
    magnitude = total.abs()
    folded = torch.minimum(magnitude, register.readout.slope * (register.half - magnitude))
    return folded.mul_(total.sign()).add_(0.0)  # no negative zero


def _read_wrapped(register: Accumulator, total: Tensor) -> Sum:
    assert register.range is not None, "a limited register"
    wrapped, outside = _wrapped(total, register.range)
    return read(register, wrapped), outside


def _wrapped(total: Tensor, limits: tuple[int, int]) -> Sum:
    low, high = limits
    outside = int(((total < low) | (total > high)).sum())
    if not outside:
        return total, 0
    return torch.remainder(total.double() - low, float(high - low + 1)) + low, outside


def _forbid(register: Accumulator, total: Tensor) -> None:
    assert register.range is not None, "a limited register"
    if bool(((total < register.range[0]) | (total > register.range[1])).any()):
        raise broken_promise(register)


def broken_promise(register: Accumulator) -> OverflowError:
    """What a register is answered with that forbids overflow and is left by a sum, at the end or on its way."""
    return OverflowError(
        f"some sums do not fit the {register.bits}-bit accumulator; "
        "widen it, or choose Overflow.WRAP or Overflow.SATURATE"
    )


def largest_scale(datapath: Datapath, x: Operand, w: Operand) -> float:
    """The largest product of block scales after rounding, which keeps their order."""
    product = torch.ones(1, dtype=torch.float64)
    for operand in (x, w):
        if operand.inside is not None and operand.inside.numel():
            product = product * float(operand.inside.max())
    return float(round_scale(datapath, product))


def round_scale(datapath: Datapath, scale: Tensor) -> Tensor:
    """Products of block scales in float64, as the datapath's format for them holds them."""
    format, rounding = datapath.scale_product, datapath.scale_rounding
    if format is None:
        return scale
    if format == FLOAT32 and rounding is Rounding.NEAREST_EVEN:
        return _to_float32(scale)
    if isinstance(format, Int) and rounding in (Rounding.NEAREST_EVEN, *_ROUND):
        low, high = format.range
        level = scale * 2.0**-format.exponent
        rounded = level.round() if rounding is Rounding.NEAREST_EVEN else _ROUND[rounding](level)
        return rounded.clamp(low, high) * 2.0**format.exponent
    rounder = Rounder.of(format, rounding, 0)
    return rounder.round(scale, out=scale)
