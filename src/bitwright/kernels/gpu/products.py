"""Products of quantized matrices: sums in int32, in one `tl.dot` where no step matters, else step by step along K.

Elements count units, so they are integers. `tl.dot` takes them as int8; wider ones go step by step. Each tile's sum is
then scaled and added to a float32 outer register, where the datapath has one.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from bitwright.datapath import Datapath, Overflow
from bitwright.formats import FLOAT32, Rounding
from bitwright.kernels.gpu.launch import OPTIONS, refuse
from bitwright.kernels.matmul import Stationary
from bitwright.kernels.operand import Operand
from bitwright.kernels.rounding import Unsupported

ROWS = COLUMNS = 64
"""Outputs of one program, down and across."""
STEP = 64
"""Of K, for one `tl.dot`."""

AS_IT_IS: tl.constexpr = tl.constexpr(0)
WRAP: tl.constexpr = tl.constexpr(1)
SATURATE: tl.constexpr = tl.constexpr(2)
FORBID: tl.constexpr = tl.constexpr(3)
_CODE = {Overflow.WRAP: 1, Overflow.SATURATE: 2, Overflow.FORBID: 3}


def matmul(datapath: Datapath, x: Operand, w: Stationary) -> tuple[Tensor, int, int]:
    """Products [m, n] in float64, overflowed sums, and sums in all. Raises `Unsupported` for other registers."""
    operand = w.operand
    refuse(x.elements)
    refuse(operand.elements)
    _refuse_registers(datapath)
    k = min(x.k, operand.k)  # one may be padded further
    tile = min(x.elements.shape[2], operand.elements.shape[2], datapath.tile or k, k)
    tiles = -(-k // tile)
    is_scaled = x.inside is not None or operand.inside is not None
    has_outer = tiles > 1 or datapath.tile is not None or is_scaled
    if has_outer and (datapath.outer.format != FLOAT32 or datapath.outer.rounding is not Rounding.NEAREST_EVEN):
        raise Unsupported(f"an outer register of {datapath.outer.format}")
    limits, bound = datapath.inner.range, _largest_sum(x, w, tile)
    mode = 0 if limits is None or bound <= min(-limits[0], limits[1]) else _CODE[datapath.inner.overflow]
    low, high = limits if mode and limits else (0, 0)
    step_bound = max(-low, high) + x.largest * operand.largest
    is_dot = mode <= 1 and x.largest <= 127 and operand.largest <= 127
    if max(bound, step_bound if mode else 0) >= 2**31 or (mode <= 1 and not is_dot and x.largest >= 2**15):
        raise Unsupported("sums of more than 31 bits")
    dtype = torch.int8 if is_dot else torch.int32
    m, n = x.rows, operand.rows
    out = torch.empty(m, n, dtype=torch.float64, device=x.elements.device)
    grid = triton.cdiv(m, ROWS), triton.cdiv(n, COLUMNS)
    changed = torch.zeros(grid, dtype=torch.int32, device=out.device)
    _product[grid](
        _first_k(x, k, dtype), _first_k(operand, k, dtype), _inside(x), _inside(operand), out, changed, m, n, k, tile,
        tiles, x.elements.shape[2], operand.elements.shape[2], _blocks(x), _blocks(operand), low, high,
        2.0 ** (x.unit + operand.unit),
        HAS_X=x.inside is not None, HAS_W=operand.inside is not None, HAS_OUTER=has_outer, MODE=mode, DOT=is_dot,
        ROWS=ROWS, COLUMNS=COLUMNS, STEP=min(STEP, max(triton.next_power_of_2(tile), 32)), **OPTIONS,
    )  # fmt: skip
    overflows = int(changed.sum()) if mode else 0
    if overflows and mode == 3:
        raise OverflowError(
            f"{overflows} sums do not fit the {datapath.inner.bits}-bit accumulator; "
            "widen it, or choose Overflow.WRAP or Overflow.SATURATE"
        )
    return out.mul_(x.outside).mul_(operand.outside.T), overflows, m * n * (tiles + 1 if has_outer else 1)


def _largest_sum(x: Operand, w: Stationary, tile: int) -> float:
    """Bound on every partial sum of a tile of K, in units."""
    positive, negative = w.norms_of_signs(tile)
    low, high = x.extremes
    return max(high * positive - low * negative, high * negative - low * positive)


def _refuse_registers(datapath: Datapath) -> None:
    inner = datapath.inner
    if not inner.is_integer or inner.readout is not None:
        raise Unsupported("an inner register that is a float, or not read as it is")
    if datapath.scale_product is not None or datapath.product is not None:
        raise Unsupported("products that are rounded")


def _first_k(operand: Operand, k: int, dtype: torch.dtype) -> Tensor:
    """Elements in units [k, rows], so that a step reads neighbours."""
    return (operand.flat()[:, :k] * 2.0**-operand.unit).to(dtype).T.contiguous()


def _inside(operand: Operand) -> Tensor:
    return operand.elements if operand.inside is None else operand.inside.contiguous()


def _blocks(operand: Operand) -> int:
    return operand.elements.shape[1]


@triton.jit
@no_type_check  # Triton reads the source
def _by_dot(x, w, row, column, m, n, first, last, ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr):
    """Sums over K from `first` to `last`, exact in int32."""
    total = tl.zeros([ROWS, COLUMNS], tl.int32)
    for start in range(first, last, STEP):
        k = start + tl.arange(0, STEP)
        a = tl.load(x + k[None, :] * m + row[:, None], mask=(k < last)[None, :] & (row < m)[:, None], other=0)
        b = tl.load(w + k[:, None] * n + column[None, :], mask=(k < last)[:, None] & (column < n)[None, :], other=0)
        total = tl.dot(a, b, total, out_dtype=tl.int32)
    return total


@triton.jit
@no_type_check
def _by_steps(
    x, w, row, column, m, n, first, last, low, high, MODE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """What the register holds after `last`, the exact sum, and in how many steps a limit was passed."""
    total = tl.zeros([ROWS, COLUMNS], tl.int32)
    exact = tl.zeros([ROWS, COLUMNS], tl.int32)
    passed = tl.zeros([ROWS, COLUMNS], tl.int32)
    for k in range(first, last):
        a = tl.load(x + k * m + row, mask=row < m, other=0).to(tl.int32)
        b = tl.load(w + k * n + column, mask=column < n, other=0).to(tl.int32)
        product = a[:, None] * b[None, :]
        exact += product
        total += product
        if (MODE == SATURATE) | (MODE == FORBID):
            held = tl.minimum(tl.maximum(total, low), high)
            passed += (held != total).to(tl.int32)
            total = held
    return total, exact, passed


@triton.jit
@no_type_check
def _product(
    x, w, x_inside, w_inside, out, changed, m, n, k, tile, tiles, x_block, w_block, x_blocks, w_blocks, low, high, unit,
    HAS_X: tl.constexpr, HAS_W: tl.constexpr, HAS_OUTER: tl.constexpr, MODE: tl.constexpr, DOT: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """ROWS × COLUMNS outputs."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    is_output = (row < m)[:, None] & (column < n)[None, :]
    result = tl.zeros([ROWS, COLUMNS], tl.float64)
    count = tl.zeros([ROWS, COLUMNS], tl.int32)
    for i in range(tiles):
        first = i * tile
        last = tl.minimum(first + tile, k)
        if DOT:
            total = _by_dot(x, w, row, column, m, n, first, last, ROWS, COLUMNS, STEP)
            exact = total
            passed = total
        else:
            total, exact, passed = _by_steps(x, w, row, column, m, n, first, last, low, high, MODE, ROWS, COLUMNS)
        if MODE == WRAP:  # only the end matters
            outside = (total < low) | (total > high)
            modulus = high.to(tl.int64) - low + 1
            turned = (total.to(tl.int64) - low) % modulus
            total = tl.where(outside, tl.where(turned < 0, turned + modulus, turned) + low, total.to(tl.int64))
        if MODE == FORBID:
            count += (passed > 0).to(tl.int32)
        elif MODE != AS_IT_IS:
            count += (total != exact).to(tl.int32)
        value = total.to(tl.float64) * unit
        if HAS_OUTER:  # scaled and rounded, then added and rounded, to float32
            scale = tl.full([ROWS, COLUMNS], 1.0, tl.float64)
            if HAS_X:
                own = tl.load(x_inside + row * x_blocks + first // x_block, mask=row < m, other=0.0)
                scale = scale * own.to(tl.float64)[:, None]
            if HAS_W:
                own = tl.load(w_inside + column * w_blocks + first // w_block, mask=column < n, other=0.0)
                scale = scale * own.to(tl.float64)[None, :]
            addend = (value * scale).to(tl.float32)
            result = (result.to(tl.float32) + addend).to(tl.float64)
        else:
            result = value
    tl.store(out + row[:, None] * n + column[None, :], result, mask=is_output)
    at = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    tl.store(changed + at, tl.sum(tl.where(is_output, count, 0)))
