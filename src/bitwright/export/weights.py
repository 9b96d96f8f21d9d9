"""Weights as constants of a standard ONNX graph, packed at the narrowest type that ONNX Runtime reads."""

from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from bitwright.export.graph import Fragment
from bitwright.export.operands import require_scalar
from bitwright.export.unholdable import Unholdable
from bitwright.formats import FLOAT32, Format, Int
from bitwright.model.layers import QuantizedLayer
from bitwright.quantization import QuantizedTensor


def stored(g: Fragment, weight: QuantizedTensor, transposed: bool = False) -> str:
    """The weight as a matrix [rows, k], or [k, rows] where transposed: packed codes, scales, and what reads them.

    A transposed one goes into a MatMul. Where integers and scales of a DequantizeLinear in front of a MatMul are
    constants, ONNX Runtime makes both one operator that rounds the other operand to 8 bits; so these are cast and
    multiplied instead, which it does once, when the file is loaded.
    """
    rows, blocks, block = weight.codes.shape
    finest = weight.quantizer.scales[-1]
    inside, outside = scales_of(weight)
    values, unit, table = elements_of(weight)
    flat = values.reshape(rows, blocks * block)
    if inside is None:
        flat = flat[:, : weight.k]
        scale = outside * unit
        integers = g.integers("weight", flat.T if transposed else flat, _kind(flat, table))
        array = g.constant((scale.T if transposed else scale).astype(np.float32))
        if table is not None:
            return g.op("Mul", _looked_up(g, integers, table), array)
        if transposed:
            return g.op("Mul", g.op("Cast", integers, to=TensorProto.FLOAT), array)
        if len(scale) == 1:
            return g.op("DequantizeLinear", integers, g.constant(scale[0, 0]))
        return g.op("DequantizeLinear", integers, g.constant(scale[:, 0]), axis=0)
    inner = inner_scales(g, finest.format, inside, outside * unit, transposed)
    integers = g.integers("weight", flat.T if transposed else flat, _kind(flat, table))
    along = int(not transposed)
    if table is None:
        value = g.op("DequantizeLinear", integers, inner, axis=along, block_size=block)
    else:
        looked = g.reshape(
            _looked_up(g, integers, table), (blocks, block, rows) if transposed else (rows, blocks, block)
        )
        spread = g.op("Unsqueeze", inner, g.constant([along + 1], np.int64))
        value = g.reshape(g.op("Mul", looked, spread), flat.T.shape if transposed else flat.shape)
    if weight.k == blocks * block:
        return value
    ends = (g.constant([v], np.int64) for v in (0, weight.k, along))
    return g.op("Slice", value, *ends)


def scales_of(weight: QuantizedTensor) -> tuple[np.ndarray | None, np.ndarray]:
    """Codes of the scales that split K, [rows, blocks], if any do; and the product of the others, [rows or 1, 1]."""
    quantizer = weight.quantizer
    require_scalar(quantizer)
    rows, inside, outer = len(weight.codes), None, len(quantizer.scales)
    if quantizer.scales[-1].share.splits_k:
        inside, outer = weight.scales[-1], outer - 1
    outside = np.ones((1, 1))
    for level, codes in zip(quantizer.scales[:outer], weight.scales[:outer], strict=True):
        outside = outside * level.format.decode(codes)
    if outside.shape[1] > 1 or (inside is not None and inside.shape[0] not in (1, rows)):
        raise Unholdable("scales of columns")
    return None if inside is None else np.broadcast_to(inside, (rows, inside.shape[1])), outside


def filters(
    g: Fragment, layer: QuantizedLayer, matrix: Callable[[Fragment, QuantizedTensor, bool], str] = stored
) -> str:
    """Rows [outputs, (kernel, channels)] as ONNX wants filters, [outputs, channels, kernel]."""
    outputs, channels, *kernel = layer.weight_shape
    rows = matrix(g, layer.quantized_weight(), False)
    if channels == 1:
        return g.reshape(rows, layer.weight_shape)
    padded = layer.k // int(np.prod(kernel))
    last = g.reshape(rows, (outputs, *kernel, padded))
    if padded != channels:
        last = g.op("Slice", last, *(g.constant([v], np.int64) for v in (0, channels, -1)))
    return g.op("Transpose", last, perm=[0, 1 + len(kernel), *range(1, 1 + len(kernel))])


def elements_of(weight: QuantizedTensor) -> tuple[np.ndarray, float, np.ndarray | None]:
    """Integers and what one is worth; or codes of at most 8 bits, 1, and the table that reads them."""
    format = weight.quantizer.format
    unit = 2.0 ** format.bounds().exponent.start
    integers = weight.elements() / unit
    fits = np.abs(integers).max(initial=0) < 128 or (integers.min(initial=0) >= 0 and integers.max(initial=0) < 256)
    if fits and (isinstance(format, Int) or format.bits > 4 or format.bounds().reach):
        return integers.astype(np.int64), unit, None
    if format.bits > 8 or format.bounds().reach:
        raise Unholdable(f"weights of {format}")
    codes = np.arange(2**format.bits)
    table = np.where(format.is_reserved(codes), 0, format.decode(np.where(format.is_reserved(codes), 0, codes)))
    return weight.codes, 1.0, table.astype(np.float32)


def _kind(values: np.ndarray, table: np.ndarray | None) -> int:
    """The narrowest type that ONNX Runtime reads."""
    if table is not None:
        return TensorProto.UINT4 if len(table) <= 16 else TensorProto.UINT8
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    if low >= -8 and high < 8:
        return TensorProto.INT4
    return TensorProto.INT8 if high < 128 else TensorProto.UINT8


def _looked_up(g: Fragment, codes: str, table: np.ndarray) -> str:
    """Values of codes; 4-bit ones become numbers first, as a cast of them is not everywhere."""
    if len(table) <= 16:
        codes = g.op("DequantizeLinear", codes, g.constant(1))
    return g.op("Gather", g.constant(table), g.op("Cast", codes, to=TensorProto.INT32))


def inner_scales(g: Fragment, format: Format, codes: np.ndarray, outside: np.ndarray, transposed: bool) -> str:
    """Scales of blocks in float32 [rows, blocks], or transposed: integers times the outer scale, or looked up."""
    turn = np.transpose if transposed else np.asarray
    if format == FLOAT32:
        return g.constant(turn(format.decode(codes) * outside).astype(np.float32))
    if isinstance(format, Int) and format.bits <= 8:
        values = format.decode(codes) * 2.0**-format.exponent
        kind = TensorProto.UINT4 if values.min(initial=0) >= 0 and values.max(initial=0) < 16 else TensorProto.UINT8
        if values.min(initial=0) < 0:
            kind = TensorProto.INT8
        array = (outside * 2.0**format.exponent).astype(np.float32)
        axis = {"axis": int(transposed)} if len(array) > 1 else {}
        stored = g.integers("scales", turn(values), kind)
        return g.op("DequantizeLinear", stored, g.constant(array[:, 0] if len(array) > 1 else array[0, 0]), **axis)
    if format.bits > 8:
        return g.constant(turn(format.decode(codes) * outside).astype(np.float32))
    every = np.arange(2**format.bits)
    reserved = format.is_reserved(every)
    table = np.where(reserved, 0, format.decode(np.where(reserved, 0, every))).astype(np.float32)
    value = _looked_up(g, g.integers("scales", turn(codes), TensorProto.UINT8), np.resize(table, max(len(table), 17)))
    return g.op("Mul", value, g.constant(turn(outside).astype(np.float32)))
