"""Which call of the native library does a product: one sum, sums of tiles, or those of blocks times their scales."""

from torch import Tensor

from bitwright.datapath import Datapath, Overflow
from bitwright.formats import FLOAT32, Rounding
from bitwright.kernels.matmul import Stationary, significant_bits
from bitwright.kernels.native.products import SCALED, SCALED_INT, WIDE
from bitwright.kernels.native.registers import LONGEST_TILE, Job, holds
from bitwright.kernels.native.scale_products import ScaleProducts
from bitwright.kernels.operand import Operand
from bitwright.kernels.rounding import Unsupported


def matmul(datapath: Datapath, x: Operand, w: Stationary) -> tuple[Tensor, int, int]:
    """As `bitwright.kernels.matmul`. Raises `Unsupported` for what the library does not take."""
    if x.inside is not None or w.operand.inside is not None:
        return _scaled(datapath, x, w)
    job = Job.of(x, w)
    if not job.is_short:
        raise Unsupported("elements of more than 16 bits")
    if datapath.tile is None:
        return job.one_sum(datapath), job.overflows, job.m * job.n
    tile = min(datapath.tile, job.k)
    sums = job.m * job.n * (-(-job.k // tile) + 1)
    return job.tiled(datapath, tile), job.overflows, sums


def _scaled(datapath: Datapath, x: Operand, w: Stationary) -> tuple[Tensor, int, int]:
    """Exact sums of blocks, times the product of their scales, in an outer register."""
    blocks = {o.elements.shape[1:] for o in (x, w.operand) if o.inside is not None}
    if len(blocks) > 1:
        raise Unsupported("blocks of different sizes")
    count, block = blocks.pop()
    if datapath.tile not in (None, block) or datapath.product is not None or datapath.inner.readout is not None:
        raise Unsupported("tiles of a block")
    job = Job.of(x, w)
    bound = job.largest_x * w.block_norm if w.operand.inside is not None else job.largest_x * job.largest_w * block
    inside = job.inside(datapath.inner, block, bound)
    how = _scaled_integers if datapath.outer.is_integer else _scaled_floats
    settings = how(datapath, job, bound, block)
    if not inside.is_exact and settings["kind"] == WIDE:
        raise Unsupported("wide block sums that leave their register")
    out = job.run(**settings, inside=inside, tile=block, k=min(job.k, count * block), out=None, columns=None)
    return out, job.overflows, job.m * job.n * (count + 1)


def _scaled_floats(datapath: Datapath, job: Job, bound: float, block: int) -> dict[str, int]:
    """In float32: of sums that it holds, or of those that only float64 does."""
    outer = datapath.outer
    if outer.format != FLOAT32 or outer.rounding is not Rounding.NEAREST_EVEN:
        raise Unsupported(f"an outer accumulator of {outer.format}")
    x, w = job.x, job.w.operand
    is_small = job.is_short and bound < 2**24 and block <= LONGEST_TILE
    if is_small and job.is_plain(block) and _has_plain_scales(datapath, x, w):
        return {"kind": SCALED}
    is_rounded = datapath.scale_product == FLOAT32 and datapath.scale_rounding is Rounding.NEAREST_EVEN
    if bound >= 2**53 or not (is_rounded or datapath.scale_product is None):
        raise Unsupported("block sums of more than 53 bits, or scales rounded otherwise")
    return {"kind": WIDE, "rounds_twice": int(is_rounded)}


def _scaled_integers(datapath: Datapath, job: Job, bound: float, block: int) -> dict[str, int]:
    """In an integer register, of integer scales whose product may be rounded to fewer bits."""
    if not job.is_short or block > LONGEST_TILE:
        raise Unsupported("elements of more than 16 bits, or long blocks")
    products = ScaleProducts.of(datapath, job.x, job.w.operand)
    rounded = products.largest
    each, total = bound * rounded, job.largest_x * job.w.norm * rounded
    if max(each, total) >= 2**31:
        raise Unsupported("scaled sums of more than 32 bits")
    how = {"kind": SCALED_INT, **products.rounding, "scale_exponent": products.exponent}
    outer = datapath.outer
    if holds(outer, total):
        return how
    assert outer.range is not None, "others hold all"
    low, high = outer.range
    if outer.overflow is Overflow.WRAP and high < 2**31:
        return {**how, "wraps": 1, "low": low, "high": high}
    is_narrow = 4 * max(max(-low, high) + each, total) < 2**31 and job.largest_w < 2**13
    if outer.overflow is Overflow.SATURATE and is_narrow:
        return {**how, "spare_bits": 2, "low": low, "high": high}  # they tell whether a sum was ever clipped
    raise Unsupported("a promise that may be broken, or a register of more than 29 bits")


def _has_plain_scales(datapath: Datapath, x: Operand, w: Operand) -> bool:
    """Whether products of block scales, rounded as the datapath says, are those of float32."""
    scaled = [o for o in (x, w) if o.inside is not None]
    is_rounded = datapath.scale_product == FLOAT32 and datapath.scale_rounding is Rounding.NEAREST_EVEN
    bits = sum(significant_bits(o.quantizer.scales[-1].format) for o in scaled)
    is_exact = datapath.scale_product is None and bits <= 24
    return (is_rounded or is_exact) and not any(_has_extreme_scales(o) for o in scaled)


def _has_extreme_scales(operand: Operand) -> bool:
    """Whether float32 may not hold a product of two such scales; those of blocks of zeros do not matter."""
    inside = operand.inside
    if inside is None or not inside.numel():
        return False
    low, high = inside.aminmax()
    if low >= 2.0**-45 and high <= 2.0**45:
        return False
    is_extreme = (inside < 2.0**-45) & (inside > 0)
    return bool(high > 2.0**45) or bool(operand.elements[is_extreme].any())
