"""Products as ONNX's integer operators: MatMulInteger and ConvInteger, their sums rescaled to floats afterwards.

Both operands are UINT8, signed ones around a zero point of 128: ONNX Runtime's products of signed with unsigned bytes
saturate in 16 bits on processors without VNNI.
"""

import numpy as np
from onnx import TensorProto

from bitwright.export.graph import Fragment
from bitwright.export.layers import Words, as_filters, window
from bitwright.export.operands import Grid, Ranges, grid_of, quantize_linear, zero_of
from bitwright.export.trace import Site
from bitwright.export.unholdable import Unholdable
from bitwright.model.attention import Attention
from bitwright.model.layers import QuantizedEmbedding, QuantizedLayer
from bitwright.model.lowering import Linear
from bitwright.quantization import Quantizer

MIDDLE = 128


def write(words: Words, g: Fragment, site: Site, named: dict[str, str], inputs: list[str]) -> str:
    """A `Writer` once `words` say embeddings; what is no integer of at most 8 bits raises Unholdable."""
    if isinstance(site, QuantizedEmbedding):
        return words.write(g, site, named, inputs)
    if isinstance(site, Attention):
        rank = int(named["rank"])
        sides = (named["left"], named["right"])
        (x, a), (w, b) = (
            _codes(g, _grid(site.quantizers[side], site.ranges[side]), value)
            for side, value in zip(sides, inputs, strict=True)
        )
        turned = g.op("Transpose", w[0], perm=[*range(rank - 2), rank - 1, rank - 2])
        return _rescaled(g, g.op("MatMulInteger", x[0], turned, x[1], w[1]), np.float32(a * b))
    return _layer(g, site, inputs[0])


def _layer(g: Fragment, layer: QuantizedLayer, x: str) -> str:
    if layer.input_quantizer is None:
        raise Unholdable("inputs in float where both operands are integers")
    (codes, zero), of_input = _codes(g, _grid(layer.input_quantizer, layer.input_ranges), x)
    certificate = layer.certificate
    if certificate is not None and max(certificate.inner_bits or 0, certificate.outer_bits or 0) > 32:
        raise Unholdable("sums of more than the 32 bits that integer operators add in")
    integers, of_weight = _weight(layer)
    is_linear = isinstance(layer.lowering, Linear)
    shaped = integers[:, : layer.k].T if is_linear else as_filters(layer, integers)
    w = g.integers("weight", shaped + MIDDLE, TensorProto.UINT8)
    around = g.constant(MIDDLE, np.uint8)
    spread = (1,) if is_linear else (-1, *[1] * (len(layer.weight_shape) - 2))
    scale = (of_input * of_weight).astype(np.float32)
    if is_linear:
        y = _rescaled(g, g.op("MatMulInteger", codes, w, zero, around), scale)
    else:
        sums = g.op("ConvInteger", codes, w, zero, around, **window(layer))
        y = _rescaled(g, sums, scale.reshape(spread) if scale.size > 1 else scale)
    if layer.bias is None:
        return y
    bias = layer.bias.numpy()
    return g.op("Add", y, g.constant(bias if is_linear else bias.reshape(spread)))


def _rescaled(g: Fragment, sums: str, scale: np.ndarray | np.float32) -> str:
    g.operands = {"sums": sums}
    return g.op("Mul", g.op("Cast", sums, to=TensorProto.FLOAT), g.constant(scale))


def _grid(quantizer: Quantizer, ranges: Ranges) -> Grid:
    grid = grid_of(quantizer, ranges)
    if grid is None or not grid.is_plain or quantizer.format.bits > 8:
        raise Unholdable(
            f"inputs of {quantizer.format}: they must be integers of at most 8 bits under one static scale"
        )
    return grid


def _codes(g: Fragment, grid: Grid, x: str) -> tuple[tuple[str, str], float]:
    """Unsigned bytes and their zero point, and what one is worth."""
    return (quantize_linear(g, grid, x), zero_of(g, grid)), grid.scale


def _weight(layer: QuantizedLayer) -> tuple[np.ndarray, np.ndarray]:
    """Integers [rows, padded K], and what one of each row is worth."""
    weight = layer.quantized_weight()
    if any(scale.share.splits_k for scale in weight.quantizer.scales):
        raise Unholdable("scales of weights that change along a sum")
    unit = 2.0 ** weight.quantizer.format.bounds().exponent.start
    integers = weight.elements().reshape(len(weight.codes), -1) / unit
    if not -MIDDLE <= integers.min(initial=0) <= integers.max(initial=0) < MIDDLE:
        raise Unholdable(f"weights of {weight.quantizer.format}, which 8-bit integers do not hold")
    scale = weight.scale()[:, 0] * unit
    return integers.astype(np.int64), scale[:1] if (scale == scale[0]).all() else scale
