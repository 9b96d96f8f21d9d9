"""Layers whose weights are stored as codes, frozen with exactly these codes and the ranges of the file."""

import copy
import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from bitwright.datapath import Accumulator, Datapath
from bitwright.formats import FLOAT32, Format, Int, Minifloat, Table
from bitwright.model.convolution import Conv
from bitwright.model.inspect import TRANSPOSED, unsupported_reason
from bitwright.model.layers import FakeQuantizedLayer, QuantizedLayer
from bitwright.model.lowering import Linear, Lowering
from bitwright.model.prepare import prove
from bitwright.model.transform.unroll_transposed import UnrolledTransposed
from bitwright.quantization import (
    Granularity,
    PerBlock,
    PerRow,
    PerTensor,
    QuantizedTensor,
    Quantizer,
    Range,
    Scale,
    Zero,
)
from bitwright.scheme import Scheme
from bitwright.sources.onnx_codes import Codes, format_of
from bitwright.sources.onnx_file import Node
from bitwright.sources.onnx_layers import Made, layer_of
from bitwright.sources.onnx_quantize import QONNX_DOMAINS

SOURCE = "as stored in an ONNX file"

PRESERVING = ("MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Dropout", "Slice")
"""What passes values on as they are, so that they stay on their grid."""

DYNAMIC = Quantizer(Int(8, signed=False), (Scale(PerTensor()),), zero=Zero.FITTED)
"""What a DynamicQuantizeLinear does: the range of the whole tensor, widened to hold zero."""


@dataclass(frozen=True)
class Input:
    """How a layer's input is quantized, and the value before it, where nothing stands between."""

    quantizer: Quantizer
    range: Range | None
    """None where it follows the data."""
    before: str | None


class Quantizers:
    """Finds how a value was quantized, from the nodes that make it."""

    def __init__(self, producer: dict[str, Node], constants: dict[str, Tensor], kinds: dict[str, int]) -> None:
        self.producer, self.constants, self.kinds = producer, constants, kinds

    def of(self, value: str) -> Input | None:
        """None where it is not quantized by one scale, or moved after one that follows the data."""
        is_direct = True
        node = self.producer.get(value)
        while node is not None and node.op in PRESERVING and len(node.outputs) == 1:
            node, is_direct = self.producer.get(node.inputs[0]), False
        if node is None:
            return None
        if node.op == "DequantizeLinear":
            return self._dequantized(node, is_direct)
        if node.domain in QONNX_DOMAINS and node.op in ("Quant", "IntQuant"):
            return self._quant(node, is_direct)
        return None

    def _dequantized(self, node: Node, is_direct: bool) -> Input | None:
        codes = self.producer.get(node.inputs[0])
        if codes is not None and codes.op == "DynamicQuantizeLinear":
            is_whole = is_direct and node.inputs == codes.outputs
            return Input(DYNAMIC, None, codes.inputs[0]) if is_whole else None
        scale, zero = self._scalar(node, 1), self._scalar(node, 2)
        kind = self.kinds.get(node.inputs[2] if len(node.inputs) > 2 else node.inputs[0], 0)
        format = format_of(kind)
        if scale is None or zero is None or not isinstance(format, Int):
            return None
        source = None
        if is_direct and codes is not None and codes.op == "QuantizeLinear" and node.inputs[1:] == codes.inputs[1:]:
            source = codes.inputs[0]
        return _input(format, scale, int(zero), source)

    def _quant(self, node: Node, is_direct: bool) -> Input | None:
        scale, zero, bits = (self._scalar(node, i) for i in (1, 2, 3))
        options = node.attributes
        if (
            scale is None
            or zero is None
            or bits is None
            or bits != int(bits)
            or not 1 < bits <= 16
            or zero != int(zero)
        ):
            return None
        signed, narrow = options.get("signed", 1), options.get("narrow", 0)
        if options.get("rounding_mode", "ROUND").upper() not in ("ROUND", "HALF_EVEN") or (
            narrow and (zero or not signed)
        ):
            return None
        format = Int(int(bits), bool(signed), bool(narrow and signed))
        return _input(format, scale, int(zero), node.inputs[0] if is_direct else None)

    def _scalar(self, node: Node, place: int) -> float | None:
        """A constant of one element; 0 where a zero point is left out."""
        if place >= len(node.inputs) or not node.inputs[place]:
            return 0.0 if place == 2 else None
        found = self.constants.get(node.inputs[place])
        return float(found.flatten()[0]) if found is not None and found.numel() == 1 else None


def _input(format: Int, scale: float, zero: int, before: str | None) -> Input | None:
    """The quantizer whose scale is exactly this one: its magnitudes are stated at a power of two of levels."""
    low, high = format.range
    if not (math.isfinite(scale) and scale > 0 and low <= zero <= high):
        return None
    if not zero:
        at_one = np.full((1, 1), scale)
        return Input(Quantizer(format, (Scale(PerTensor(), full_scale=1.0),)), Range(-at_one, at_one), before)
    unsigned = Int(format.bits, signed=False)
    if format.narrow:
        return None
    levels, offset = 2.0**format.bits, zero - low
    lowest = np.full((1, 1), -offset * scale)
    quantizer = Quantizer(unsigned, (Scale(PerTensor(), full_scale=levels),), zero=Zero.FITTED)
    return Input(quantizer, Range(lowest, lowest + levels * scale), before)


STORED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def frozen(node: Node, constants: dict[str, Tensor], codes: dict[str, Codes], quantizers: Quantizers) -> Made | None:
    """The frozen layer of a node whose weight is stored as codes; None where its codes fit no scheme of bitwright."""
    place = next((i for i in node.inputs[1:2] if i in codes), None)
    if place is None or node.op not in STORED or node.domain or node.attributes.get("alpha", 1.0) != 1:
        return None
    made = layer_of(node, constants, None)
    if made is None:
        return None
    is_turned = node.op == "MatMul" or (node.op == "Gemm" and not node.attributes.get("transB"))
    found = quantizers.of(node.inputs[0])
    parts = [t.t() if is_turned else t for t in (codes[place].levels, codes[place].scale, codes[place].zero)]
    layer = _stored(made.layer, parts, codes[place].format, found)
    if layer is None:
        return None
    inputs = made.inputs
    if found is not None and found.before is not None:
        inputs = (found.before, *inputs[1:])
    return Made(layer, inputs, made.before, made.options)


def _stored(layer: nn.Module, parts: list[Tensor], format: Format | None, found: Input | None) -> nn.Module | None:
    """The layer with levels, scales and zero points of its weight's shape."""
    if isinstance(layer, TRANSPOSED):
        return _phases(layer, parts, format, found)
    if not isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
        return None
    is_linear = isinstance(layer, nn.Linear)
    lowering: Lowering = Linear() if isinstance(layer, nn.Linear) else Conv.of(layer)
    rows = [lowering.weight_rows(part.contiguous().double(), 1).numpy() for part in parts]
    weight = _weight(rows, format, is_linear)
    return None if weight is None else _layer(layer, lowering, weight, found)


def _phases(layer: nn.Module, parts: list[Tensor], format: Format | None, found: Input | None) -> nn.Module | None:
    """A transposed convolution as one of each phase of its output, whose weights are parts of its own."""
    if unsupported_reason(layer) is not None:
        return None
    whole = UnrolledTransposed(layer)  # type: ignore[arg-type]
    unrolled = []
    for part in parts:
        like = copy.copy(layer)
        like._parameters = {**layer._parameters, "weight": nn.Parameter(part.float(), requires_grad=False)}
        unrolled.append(UnrolledTransposed(like))  # type: ignore[arg-type]
    for name, phase in list(whole.named_children()):
        stored = _stored(phase, [one.get_parameter(f"{name}.weight") for one in unrolled], format, found)
        if stored is None:
            return None
        setattr(whole, name, stored)
    return whole


def _layer(layer: nn.Module, lowering: Lowering, weight: QuantizedTensor, found: Input | None) -> QuantizedLayer:
    datapath = Datapath(inner=Accumulator(None), outer=Accumulator(FLOAT32), scale_product=FLOAT32)
    scheme = Scheme(None if found is None else found.quantizer, weight.quantizer, datapath, SOURCE)
    source = FakeQuantizedLayer(layer, lowering, scheme)
    source.weight_quantizer = weight.quantizer
    if found is None:
        return QuantizedLayer(source, weight, None)
    source.input_quantizer = found.quantizer
    source.pin("input", (found.range,))
    return QuantizedLayer(source, weight, prove(source, weight).certificate)


def _weight(parts: list[np.ndarray], format: Format | None, has_blocks: bool) -> QuantizedTensor | None:
    """Rows of levels, scales and zero points as a quantized tensor."""
    levels, scale, zero = parts
    elements = levels - zero
    if not (np.isfinite(scale).all() and (scale > 0).all() and np.isfinite(elements).all()):
        return None
    fitting = _format(elements, format if not zero.any() else None)
    cells = _cells(scale, has_blocks)
    if fitting is None or cells is None:
        return None
    share, stored, block = cells
    rows, k = elements.shape
    padded = np.pad(elements, ((0, 0), (0, -k % block)))
    quantizer = Quantizer(fitting, (Scale(share),))
    codes = fitting.encode(padded).reshape(rows, -1, block)
    return QuantizedTensor(codes, (FLOAT32.encode(stored),), None, k, quantizer)


def _format(elements: np.ndarray, stored: Format | None) -> Format | None:
    """The stored format, if it holds the elements; else the narrowest integers, or the table of the values."""
    if stored is not None and isinstance(stored, Int | Minifloat):
        return stored
    if (elements == np.rint(elements)).all() and np.abs(elements).max(initial=0) < 2**16:
        low, high = int(elements.min(initial=0)), int(elements.max(initial=0))
        if low >= 0:
            return Int(max(high.bit_length(), 1), signed=False)
        return Int(max(high.bit_length(), (-low - 1).bit_length()) + 1)
    values = np.unique(np.append(elements, 0.0))
    if len(values) > 256:
        return None
    count = max(2 ** (len(values) - 1).bit_length(), 2)
    found = [float(v).as_integer_ratio() for v in np.concatenate([values, np.full(count - len(values), values[-1])])]
    return Table(tuple(n for n, _ in found), tuple(1 - d.bit_length() for _, d in found))


def _cells(scale: np.ndarray, has_blocks: bool) -> tuple[Granularity, np.ndarray, int] | None:
    """Who shares a scale, the scales, and the elements along K that share one."""
    k = scale.shape[1]
    changes = np.flatnonzero((scale[:, 1:] != scale[:, :-1]).any(0)) + 1
    if not len(changes):
        if (scale == scale[0, 0]).all():
            return PerTensor(), scale[:1, :1], k
        return PerRow(), scale[:, :1], k
    block = int(np.gcd.reduce(changes))
    return (PerBlock(block), scale[:, ::block], block) if has_blocks else None
