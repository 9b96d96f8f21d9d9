"""Exact products of quantized matrices in torch, equal to `Datapath.multiply` bit for bit.

Integer sums are done by float GEMMs wherever a bound proves that every partial sum is exact: below 2**24 units in
float32, below 2**53 in float64. Registers whose every step matters are the work of `bitwright.kernels.registers`.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from bitwright.datapath import Accumulator, Datapath, Overflow
from bitwright.formats import FLOAT32, Format, Int, Minifloat, Rounding
from bitwright.kernels.operand import Operand
from bitwright.kernels.registers import broken_promise, largest_scale, read, round_scale, stepped
from bitwright.kernels.rounding import Unsupported

CHUNK = 1 << 18
"""Accumulators worked on at a time."""


@dataclass(frozen=True)
class Stationary:
    """The operand that stays: a weight with the bounds that every product with it needs."""

    operand: Operand
    kernel: tuple[int, int] = (1, 1)  # taps of a convolution, in K before the channels

    @cached_property
    def scaled(self) -> Tensor:
        """Elements times integer scales, [n, padded K]; integers of fewer than 24 bits, so exact."""
        return self.operand.scaled.flatten(1)

    @cached_property
    def wide(self) -> Tensor:
        """`scaled` in float64."""
        return self.scaled.double()

    @cached_property
    def norm(self) -> float:
        """Largest Σ|element| of a row, in units."""
        return _units(self.operand.flat().double().abs().sum(1).max(), self.operand.unit)

    def norms_of_signs(self, tile: int) -> tuple[float, float]:
        """Largest sum of the positive elements of a tile of K, and of the negative magnitudes, in units."""
        if tile not in self._norms:
            elements = self.operand.flat()[:, : self.operand.k].double()
            tiles = torch.nn.functional.pad(elements, (0, -self.operand.k % tile)).unflatten(1, (-1, tile))
            signs = tiles.clamp(min=0).sum(2).max(), tiles.clamp(max=0).neg().sum(2).max()
            self._norms[tile] = (_units(signs[0], self.operand.unit), _units(signs[1], self.operand.unit))
        return self._norms[tile]

    @cached_property
    def _norms(self) -> dict[int, tuple[float, float]]:
        return {}

    @cached_property
    def norms_of_rows(self) -> tuple[Tensor, Tensor]:
        """Sum of each row's positive elements [n], and of its negative magnitudes, in units."""
        elements = self.operand.flat()[:, : self.operand.k].double() * 2.0**-self.operand.unit
        return elements.clamp(min=0).sum(1), elements.clamp(max=0).neg().sum(1)

    @cached_property
    def packed(self) -> dict[tuple[object, ...], Tensor]:
        """Layouts that the native library reads, by what they depend on."""
        return {}

    @cached_property
    def block_norm(self) -> float:
        """Largest Σ|element| of a block, in units."""
        return _units(self.operand.elements.double().abs().sum(2).max(), self.operand.unit)

    @cached_property
    def scaled_norm(self) -> float:
        """Largest Σ|element · scale| of a row, in units."""
        return _units(self.scaled.double().abs().sum(1).max(), self.operand.unit)


def matmul(datapath: Datapath, x: Operand, w: Stationary) -> tuple[Tensor, int, int]:
    """Products [m, n] in float64, overflowed sums, and sums in all."""
    try:
        return _by_few_products(datapath, x, w) if datapath.tile is None else _tiled(datapath, x, w)
    except Unsupported:
        return stepped(datapath, x, w.operand)


def _by_few_products(datapath: Datapath, x: Operand, w: Stationary) -> tuple[Tensor, int, int]:
    """By one GEMM, or one a block. Raises `Unsupported` where a register's every step matters."""
    operand = w.operand
    m, n = x.rows, operand.rows
    if x.inside is None and operand.inside is not None:
        x = x.reblocked(operand.elements.shape[2])
    elif x.inside is not None and operand.inside is None:
        w = Stationary(operand.reblocked(x.elements.shape[2]))
        operand = w.operand
    if x.inside is None and operand.inside is None:
        total, overflows = _one_sum(datapath.inner, x, w)
        return total.mul_(x.outside).mul_(operand.outside.T), overflows, m * n
    if x.elements.shape[1:] != operand.elements.shape[1:]:
        raise Unsupported("blocks of different sizes")
    blocks = x.elements.shape[1]
    if is_one_integer_sum(datapath, x, w):
        total, overflows = _integer_sum(x, w), 0
    else:
        total, overflows = _sum_over_blocks(datapath, x, operand)
    return total.mul_(x.outside).mul_(operand.outside.T), overflows, m * n * (blocks + 1)


def _tiled(datapath: Datapath, x: Operand, w: Stationary) -> tuple[Tensor, int, int]:
    """One sum over all of K, where no tile can leave the inner register nor their sum the outer one."""
    if not are_tiles_free(datapath, x, w):
        raise Unsupported("tiles smaller than a block")
    assert datapath.tile is not None, "asked before"
    tiles = -(-w.operand.k // datapath.tile)
    total, _, sums = matmul(Datapath(), x, w)
    return total, 0, sums * (tiles + 1)


def are_tiles_free(datapath: Datapath, x: Operand, w: Stationary) -> bool:
    """Whether sums in tiles are the same as one exact sum: integers throughout, and no register overflows."""
    if (
        datapath.inner.readout is not None
        or x.inside is not None
        or w.operand.inside is not None
        or not datapath.outer.is_integer
        or datapath.scale_product not in (None, FLOAT32)  # others may round 1, the product of no scales
        or (datapath.inner.format is not None and datapath.inner.range is None)
    ):
        return False
    assert datapath.tile is not None, "asked of tiled datapaths"
    limits = ((datapath.inner.range, datapath.tile), (datapath.outer.range, w.operand.k))
    return all(span is None or _largest_sum(x, w, k) <= min(-span[0], span[1]) for span, k in limits)


def _largest_sum(x: Operand, w: Stationary, tile: int) -> float:
    """Bound on every partial sum of a tile of K, in units: positive and negative products apart."""
    positive, negative = w.norms_of_signs(tile)
    low, high = x.extremes
    return max(high * positive - low * negative, high * negative - low * positive)


def matmul_bound(x: Operand, w: Stationary) -> float:
    """Bound on every partial sum over all of K, block scales multiplied in, in units."""
    if x.inside is None and w.operand.inside is None:
        return x.largest * w.norm
    return _scaled_bound(x, w)


def _one_sum(inner: Accumulator, x: Operand, w: Stationary) -> tuple[Tensor, int]:
    """One integer sum over all of K: no scale varies inside."""
    bound = x.largest * w.norm
    unit = x.unit + w.operand.unit
    if bound >= 2**53 and inner.format is None:
        high, low = split_product(x.flat(), w.operand.flat(), x, w.operand)
        return high.add_(low), 0
    total = exact_product(x.flat(), w.operand.flat(), bound)
    return settle(inner, total, bound, unit)


def exact_product(x: Tensor, w: Tensor, bound: float) -> Tensor:
    """x @ w.T in float64, exact for integers (in any common unit) whose sums stay below `bound`."""
    k = min(x.shape[1], w.shape[1])  # one may be padded further
    x, w = x[:, :k], w[:, :k]
    if bound < 2**24:
        return (x @ w.T).double()
    if bound < 2**53:
        return x.double() @ w.double().T
    raise Unsupported("sums of more than 53 bits")


def split_product(x: Tensor, w: Tensor, x_like: Operand, w_like: Operand) -> tuple[Tensor, Tensor]:
    """x @ w.T exactly, as an unevaluated sum of two float64, for elements of some 32 bits in units.

    Each operand is cut in two at half its range; the products of the parts are exact, and error-free additions keep
    what float64 drops (Knuth, TAOCP 2, sec. 4.2.2, theorem B). What remains has few bits, so it adds up exactly.
    """
    high_part = max(x_like.largest, w_like.largest) * 2.0**-20
    if x.shape[1] * max(high_part**2, high_part * 2**21, 2**40) >= 2**53:
        raise Unsupported("sums of more than 53 bits whose parts are not exact either")
    (a_high, a_low), (b_high, b_low) = _halves(x, x_like), _halves(w, w_like)
    total, error = _two_sum(a_high @ b_high.T, a_high @ b_low.T + a_low @ b_high.T)
    total, second = _two_sum(total, a_low @ b_low.T)
    return total, error + second


def _halves(x: Tensor, like: Operand) -> tuple[Tensor, Tensor]:
    step = 2.0 ** (like.unit + 20)  # 40 bits in two halves
    x = x.double()
    high = (x / step).trunc_().mul_(step)
    return high, x - high


def _two_sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """a + b rounded, and the rounding error."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _to_float32(high: Tensor, low: Tensor) -> Tensor:
    """high + low rounded once: a sum that is not exact is first made odd in its last bit, so that it is no tie."""
    bits = high.view(torch.int64)
    is_inexact_even = (low != 0) & (bits & 1 == 0)
    toward = torch.where(low > 0, torch.inf, -torch.inf).double()
    return torch.where(is_inexact_even, torch.nextafter(high, toward), high).float()


def settle(inner: Accumulator, total: Tensor, bound: float, unit: int) -> tuple[Tensor, int]:
    """An exact total as it is read from the inner register, where only the end result matters; and what overflowed."""
    held, overflows = _held(inner, total, bound, unit)
    if inner.readout is None:
        return held, overflows
    return torch.ldexp(read(inner, torch.ldexp(held, torch.tensor(-unit))), torch.tensor(unit)), overflows


def _held(inner: Accumulator, total: Tensor, bound: float, unit: int) -> tuple[Tensor, int]:
    if inner.range is None and inner.format is not None:
        raise Unsupported("a float inner accumulator")
    if inner.range is None or bound <= min(-inner.range[0], inner.range[1]):
        return total, 0
    if inner.overflow is Overflow.SATURATE:
        raise Unsupported("a register that saturates on the way")
    low, high = inner.range
    integer = torch.ldexp(total, torch.tensor(-unit))
    outside = int(((integer < low) | (integer > high)).sum())
    if not outside and inner.overflow is Overflow.FORBID:
        raise Unsupported("a promise that may be broken on the way")
    if not outside:
        return total, 0
    if inner.overflow is Overflow.WRAP:
        wrapped = torch.remainder(integer - low, float(high - low + 1)) + low
        return torch.ldexp(wrapped, torch.tensor(unit)), outside
    raise broken_promise(inner)


def is_one_integer_sum(datapath: Datapath, x: Operand, w: Stationary) -> bool:
    """Block sums and the outer sum never leave their registers, so scales can be multiplied in beforehand."""
    inner, outer = datapath.inner, datapath.outer
    if not (inner.is_integer and outer.is_integer) or datapath.scale_product is not None or inner.readout is not None:
        return False
    if not (_is_scaled_exact(x) and _is_scaled_exact(w.operand)):
        return False
    if inner.range is not None and x.largest * w.block_norm > min(-inner.range[0], inner.range[1]):
        return False
    return outer.range is None or _scaled_bound(x, w) <= min(-outer.range[0], outer.range[1])


def _is_scaled_exact(operand: Operand) -> bool:
    """Elements times scales are integers of no more bits than float32's significand."""
    if operand.inside is not None and bool((operand.inside != operand.inside.round()).any()):
        return False
    largest = 1.0 if operand.inside is None else operand.quantizer.scales[-1].format.full_scale
    return operand.quantizer.format.bounds().significand * largest <= 2**24


def _scaled_bound(x: Operand, w: Stationary) -> float:
    return x.largest_scaled * w.scaled_norm


def _integer_sum(x: Operand, w: Stationary) -> Tensor:
    return exact_product(x.scaled.flatten(1), w.scaled, _scaled_bound(x, w))


def _sum_over_blocks(datapath: Datapath, x: Operand, w: Operand) -> tuple[Tensor, int]:
    """Block by block: exact inner sum, scale product, outer register."""
    bound = x.largest * _units(w.elements.double().abs().sum(2).max(), w.unit)
    if datapath.outer.is_integer:
        unit = datapath.scale_product.exponent if isinstance(datapath.scale_product, Int) else 0
        if bound * largest_scale(datapath, x, w) * 2.0**-unit * x.elements.shape[1] >= 2**53:
            raise Unsupported("outer sums of more than 53 bits")
    total = torch.empty(x.rows, w.rows, dtype=torch.float64, device=x.elements.device)
    overflows = 0
    step = max(CHUNK // max(w.rows, 1), 16)
    if bound >= 2**53 and _has_bare_scales(datapath, x, w):
        return _split_blocks(x, w), 0
    carrier = _carrier(datapath, x, w, bound)
    w_scaled = w.scaled_in(carrier) if carrier else w.elements
    for start in range(0, x.rows, step):
        part = x.take(slice(start, start + step))
        if carrier:
            total[start : start + step] = _scaled_blocks(part.scaled_in(carrier), w_scaled)
        else:
            total[start : start + step], count = accumulate(
                datapath, _block_steps(datapath, part, w, bound), x.unit + w.unit
            )
            overflows += count
    return total, overflows


def _block_steps(datapath: Datapath, x: Operand, w: Operand, bound: float) -> Iterator[tuple[Tensor, Tensor]]:
    """Exact sum and exact scale product of each block."""
    for i in range(x.elements.shape[1]):
        partial = block_sum(datapath.inner, x.elements[:, i], w.elements[:, i], bound)
        yield partial, _column(x, i)[:, None] * _column(w, i)[None, :]


def _carrier(datapath: Datapath, x: Operand, w: Operand, bound: float) -> torch.dtype | None:
    """The float type that holds scaled block sums exactly, so that one GEMM a block gives what the datapath rounds."""
    if not _is_float32(datapath.outer) or datapath.scale_product is not None or datapath.inner.format is not None:
        return None
    bits = sum(significant_bits(o.quantizer.scales[-1].format) for o in (x, w) if o.inside is not None)
    smallest = 1.0
    for operand in (x, w):
        if operand.inside is not None:
            positive = operand.inside[operand.inside > 0]
            smallest *= float(positive.min()) if len(positive) else 1.0
    if smallest < 2.0**-90:  # near float32's subnormals
        return None
    return torch.float32 if bound * 2**bits < 2**24 else torch.float64 if bound * 2**bits < 2**53 else None


def significant_bits(format: Format) -> int:
    if isinstance(format, Minifloat):
        return format.mantissa_bits + (format.mantissa_bits > 0)  # a bare power of two costs none
    return format.bits


def _scaled_blocks(x: Tensor, w: Tensor) -> Tensor:
    """Each block's exact sum, rounded to float32 and added there."""
    total = torch.zeros(len(x), len(w), device=x.device)
    product = torch.empty(len(x), len(w), dtype=x.dtype, device=x.device)
    for i in range(x.shape[1]):
        torch.mm(x[:, i], w[:, i].T, out=product)
        total.add_(product.float())
    return total.double()


def _has_bare_scales(datapath: Datapath, x: Operand, w: Operand) -> bool:
    """Block scales are powers of two, and the outer register is float32."""
    scaled = [o.quantizer.scales[-1].format for o in (x, w) if o.inside is not None]
    is_plain = datapath.scale_product is None and datapath.inner.format is None and _is_float32(datapath.outer)
    return is_plain and all(significant_bits(f) == 0 for f in scaled)


def _split_blocks(x: Operand, w: Operand) -> Tensor:
    """As `_scaled_blocks`, for block sums of more than 53 bits."""
    total = torch.zeros(x.rows, w.rows, device=x.elements.device)
    for i in range(x.elements.shape[1]):
        high, low = split_product(x.elements[:, i], w.elements[:, i], x, w)
        scale = _column(x, i)[:, None] * _column(w, i)[None, :]
        total.add_(_to_float32(high * scale, low * scale))
    return total.double()


def accumulate(datapath: Datapath, steps: Iterable[tuple[Tensor, Tensor]], unit: int) -> tuple[Tensor, int]:
    """The outer register over pairs of an exact inner sum and a scale product; and the sums that overflow changed."""
    outer, scale_format = datapath.outer, datapath.scale_product
    if not outer.is_integer and not _is_float32(outer):
        raise Unsupported(f"an outer accumulator of {outer.format}")
    scale_unit = scale_format.exponent if isinstance(scale_format, Int) else 0
    total = exact = torch.zeros(())
    for partial, scale in steps:
        addend = partial * (scale := round_scale(datapath, scale))
        if not outer.is_integer:
            total = (total + addend.float()).float()
            continue
        if not isinstance(scale_format, Int) and bool((scale != scale.round()).any()):
            raise Unsupported("fractional scales in an integer register")
        total, exact = total + addend, exact + addend
        if outer.range is not None:
            low, high = (limit * 2.0 ** (unit + scale_unit) for limit in outer.range)
            if outer.overflow is Overflow.SATURATE:
                total = total.clamp(low, high)
            elif bool(((total < low) | (total > high)).any()):
                raise Unsupported("an outer register that wraps, or forbids and overflows")
    overflows = int((total != exact).sum()) if outer.is_integer and outer.range is not None else 0
    return total.double(), overflows


def block_sum(
    inner: Accumulator, x: Tensor, w: Tensor, bound: float, multiply: Callable[[Tensor, Tensor], Tensor] | None = None
) -> Tensor:
    """Exact sums of one block, where the inner register cannot overflow: all pairs of rows, or by `multiply`."""
    if inner.range is None and inner.format is not None:
        raise Unsupported("a float inner accumulator")
    if inner.range is not None and bound > min(-inner.range[0], inner.range[1]):
        raise Unsupported("an inner register that block sums may leave")
    if inner.readout is not None:
        raise Unsupported("an inner register that is not read as it is")
    if multiply is not None:
        return multiply(x.double(), w.double())
    return exact_product(x, w, bound)


def _column(operand: Operand, i: int) -> Tensor:
    return operand.outside.new_ones(operand.rows) if operand.inside is None else operand.inside[:, i].double()


def _is_float32(register: Accumulator) -> bool:
    """Whether torch's own float32 rounds as this register does."""
    return register.format == FLOAT32 and register.rounding is Rounding.NEAREST_EVEN


def _units(value: Tensor | float, unit: int) -> float:
    return float(value) * 2.0**-unit
