"""Weights and roundings in ONNX's own types: INT2 to INT8, FP8, FP4, and power-of-two scales of eight bits.

NVFP4 is two DequantizeLinear, one for the scales, as ONNX scales are floats or powers of two.
"""

from functools import partial

import numpy as np
import onnx
from onnx import TensorProto

from bitwright.export import weights
from bitwright.export.graph import Fragment
from bitwright.export.layers import Words
from bitwright.export.operands import represent, rounded
from bitwright.formats import E2M1, E4M3, E5M2, E8M0, Format, Int, Rounding
from bitwright.quantization import QuantizedTensor

FLOATS = {
    E2M1: TensorProto.FLOAT4E2M1, E4M3: TensorProto.FLOAT8E4M3FN, E5M2: TensorProto.FLOAT8E5M2,
    E8M0: TensorProto.FLOAT8E8M0,
}  # fmt: skip

INTEGERS = {
    2: (TensorProto.UINT2, TensorProto.INT2), 4: (TensorProto.UINT4, TensorProto.INT4),
    8: (TensorProto.UINT8, TensorProto.INT8),
}  # fmt: skip
"""Types of up to so many bits, unsigned and signed."""

NEEDS = {
    TensorProto.FLOAT4E2M1: (23, 11), TensorProto.FLOAT8E8M0: (24, 12), TensorProto.INT2: (25, 13),
    TensorProto.UINT2: (25, 13),
}  # fmt: skip
"""Operator set and version of the file that brought a type; others are in ours."""

TO_SCALES = {Rounding.FLOOR: "down", Rounding.CEILING: "up"}


def raise_versions(model: onnx.ModelProto) -> None:
    """Set the operator set that the types of a model need, in place."""
    kinds = {i.data_type for i in model.graph.initializer}
    kinds |= {a.i for n in model.graph.node if n.op_type == "Cast" for a in n.attribute if a.name == "to"}
    for kind in kinds & NEEDS.keys():
        standard = next(o for o in model.opset_import if not o.domain)
        standard.version = max(standard.version, NEEDS[kind][0])
        model.ir_version = max(model.ir_version, NEEDS[kind][1])


def _rounded(g: Fragment, format: Format, rounding: Rounding, level: str) -> str:
    """A `Rounder`: by a cast where the type has one."""
    if format == E2M1 and rounding is Rounding.NEAREST_EVEN:
        return _cast(g, level, FLOATS[format])
    if format == E8M0 and rounding in TO_SCALES:
        bounds = format.bounds()
        inside = g.op("Clip", level, g.constant(bounds.lowest), g.constant(bounds.highest))
        return _cast(g, inside, FLOATS[format], round_mode=TO_SCALES[rounding])
    return rounded(g, format, rounding, level)


def _cast(g: Fragment, level: str, kind: int, **attributes: str) -> str:
    return g.op("Cast", g.op("Cast", level, to=kind, **attributes), to=TensorProto.FLOAT)


def _matrix(g: Fragment, weight: QuantizedTensor, transposed: bool) -> str:
    format = weight.quantizer.format
    kind = _type_of(format)
    if kind is None:
        return weights.stored(g, weight, transposed)
    rows, blocks, block = weight.codes.shape
    inside, outside = weights.scales_of(weight)
    values, unit = weight.codes, 1.0
    if isinstance(format, Int):
        unit = 2.0**format.exponent
        values = weight.elements() / unit
    flat = values.reshape(rows, blocks * block)
    scale = outside * unit
    along = int(not transposed)
    if inside is None:
        flat = flat[:, : weight.k]
        stored = g.integers("weight", flat.T if transposed else flat, kind)
        if transposed and kind in INTEGERS[2]:  # ONNX Runtime 1.31 joins it with the MatMul into one that takes none
            return g.op("Mul", g.op("Cast", stored, to=TensorProto.FLOAT), g.constant(scale.T))
        if len(scale) == 1:
            return g.op("DequantizeLinear", stored, g.constant(scale[0, 0]))
        return g.op("DequantizeLinear", stored, g.constant(scale[:, 0]), axis=1 - along)
    stored = g.integers("weight", flat.T if transposed else flat, kind)
    inner = _scales(g, weight.quantizer.scales[-1].format, inside, scale, transposed)
    value = g.op(
        "DequantizeLinear", stored, inner, axis=along, block_size=block,
        **({"output_dtype": TensorProto.FLOAT} if inner.endswith("scales") else {}),
    )  # fmt: skip
    if weight.k == blocks * block:
        return value
    return g.op("Slice", value, *(g.constant([v], np.int64) for v in (0, weight.k, along)))


def _type_of(format: Format) -> int | None:
    if isinstance(format, Int):
        return next((kinds[format.signed] for bits, kinds in INTEGERS.items() if format.bits <= bits), None)
    return FLOATS.get(format)  # type: ignore[call-overload]  # other formats are not among its keys


def _scales(g: Fragment, format: Format, codes: np.ndarray, outside: np.ndarray, transposed: bool) -> str:
    """Scales of blocks: powers of two as they are, FP8 by an operator of their own, others as in every file."""
    turned = codes.T if transposed else codes
    if format == E8M0:
        shifted = turned + int(np.log2(outside[0, 0]))
        if outside.size == 1 and shifted.min(initial=0) >= 0 and shifted.max(initial=0) < 255:
            return g.integers("scales", shifted, FLOATS[format])
    if format in (E4M3, E5M2):
        stored = g.integers("scales", turned, FLOATS[format])
        if len(outside) == 1:
            return g.op("DequantizeLinear", stored, g.constant(outside[0, 0]))
        return g.op("DequantizeLinear", stored, g.constant(outside[:, 0]), axis=int(transposed))
    return weights.inner_scales(g, format, codes, outside, transposed)


WORDS = Words(partial(represent, rounder=_rounded), _matrix, partial(weights.filters, matrix=_matrix))
