"""QONNX files, which FINN, hls4ml and the `qonnx` package read: floats that each pass a node saying their integer type.

A. Pappalardo et al., "QONNX: Representing Arbitrary-Precision Quantized Neural Networks", arXiv:2206.07527; nodes are
those that version 1.0 of the package executes. A weight is stored as integer × scale, so that its `Quant` finds the
integers of the codes again. Formats that are no integers of their own go through `FloatQuant` where its rounding is
theirs; others are rounded by standard operators and stand as the integers that hold them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from torch import nn

from bitwright.export import layers
from bitwright.export.graph import Fragment, fold_constants
from bitwright.export.operands import Ranges, by_steps, grid_of, require_scalar, rounded
from bitwright.export.trace import IR_VERSION, trace
from bitwright.export.tracing import Tracer
from bitwright.export.unholdable import Unholdable
from bitwright.formats import FLOAT32, Format, Int, Minifloat, Rounding, Specials
from bitwright.model.layers import QuantizedLayer
from bitwright.model.task import Inputs
from bitwright.quantization import QuantizedTensor, Quantizer

DOMAIN, VERSION = "qonnx.custom_op.general", 1

ROUNDINGS = {
    Rounding.NEAREST_EVEN: "ROUND", Rounding.FLOOR: "FLOOR", Rounding.CEILING: "CEIL", Rounding.TOWARD_ZERO: "DOWN",
}  # fmt: skip
"""Roundings that the package computes as ours; HALF_UP adds a half in float32, which moves the value below it."""

LARGEST_EXACT = 2**24
"""Integers up to here are exact in the floats that carry them."""


def write(frozen: nn.Module, path: Path | str, inputs: Inputs, trace: Tracer = trace) -> Path:
    """Write what `freeze` or `bw.quantize` gave, for inputs of these shapes; FINN takes one sample.

    A scheme that no nodes express raises ValueError naming the layer.
    """
    path = Path(path)
    model = layers.compose(frozen, "QONNX", WORDS.write, lambda: trace(frozen, inputs, has_free_axis=False))
    fold_constants(model)  # the package's cleanup would find them one by one, with a pass over the graph each
    model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, VERSION))
    onnx.save(model, path)
    return path


def verify(path: Path | str, frozen: nn.Module, inputs: Inputs, tolerance: float = 1e-5) -> float:
    """Clean the file and execute it with the `qonnx` package; gives the largest relative difference of a layer.

    Integers of weights and inputs must equal the codes', and each layer's output that of what it met there, but for
    the order of float additions: by `tolerance` of its largest value. ValueError where they do not.
    """
    model = onnx.load(path)
    places = layers.watched(model)
    values = _execute(model, inputs, layers.unseen(model, places))
    return layers.compare(layers.Run(path, "qonnx", values), frozen, places, tolerance)


def run(path: Path | str, inputs: Inputs) -> np.ndarray:
    """The first output of the file, executed by the `qonnx` package."""
    model = onnx.load(path)
    return _execute(model, inputs, [])[model.graph.output[0].name]


def finn_bits(path: Path | str) -> dict[str, int]:
    """Widths that FINN's `MinimizeAccumulatorWidth` gives each layer of a file whose operands are integers.

    FINN itself comes with Vivado in a container; its rule is in its sources: the smallest type that holds the extremes
    of `calculate_matvec_accumulator_range`, a function of the qonnx package, over the input's type. It takes the whole
    of that type, without `narrow`, and a sum that is never negative as unsigned.
    """
    from qonnx.core.datatype import DataType
    from qonnx.util.basic import calculate_matvec_accumulator_range

    model = onnx.load(path)
    constants = {i.name: i for i in model.graph.initializer}
    nodes = {n.output[0]: n for n in model.graph.node if n.op_type == "Quant"}
    widths = {}
    for one in layers.watched(model):
        x, w = (nodes.get(one.operands.get(operand, "")) for operand in ("input", "weight"))
        if x is None or w is None or w.input[0] not in constants:
            continue
        value, scale = (onnx.numpy_helper.to_array(constants[name]) for name in w.input[:2])
        offset, bits = (onnx.numpy_helper.to_array(constants[name]) for name in x.input[2:])
        if offset:
            continue  # FINN takes none
        integers = np.rint(value / scale).astype(np.float64)
        columns = integers if integers.ndim == 2 else integers.reshape(len(integers), -1).T
        is_signed = next(a.i for a in x.attribute if a.name == "signed")
        low, high = calculate_matvec_accumulator_range(
            columns, DataType[f"{'INT' if is_signed else 'UINT'}{int(bits)}"]
        )
        extreme = high if low >= 0 else low if -low > high else -high - 1
        widths[one.place["name"]] = DataType.get_smallest_possible(extreme).bitwidth()
    return widths


def _execute(model: onnx.ModelProto, inputs: Inputs, watched: list[str]) -> dict[str, np.ndarray]:
    """Inputs, outputs and the watched values, by their names in the file."""
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes
    from qonnx.util.cleanup import cleanup_model

    given = inputs.values() if isinstance(inputs, dict) else inputs
    values = {i.name: t.numpy() for i, t in zip(model.graph.input, given, strict=True)}
    wrapped = ModelWrapper(model).transform(InferShapes())
    graph = wrapped.model.graph
    graph.output.extend(v for v in graph.value_info if v.name in watched)
    for i in reversed([i for i, v in enumerate(graph.value_info) if v.name in watched]):
        del graph.value_info[i]  # it wants each said once
    names = [o.name for o in graph.output]
    with _older_ir():
        clean = cleanup_model(wrapped)
        feeds = dict(zip((i.name for i in clean.graph.input), values.values(), strict=True))  # it renames what it keeps
        found = execute_onnx(clean, feeds)
    return values | {name: found[o.name] for name, o in zip(names, clean.graph.output, strict=True)}


@contextmanager
def _older_ir() -> Iterator[None]:
    """qonnx 1.0 runs each node as a model of the newest IR that onnx knows, which ONNX Runtime may not read yet."""
    from qonnx.core import onnx_exec

    make = onnx_exec.qonnx_make_model
    onnx_exec.qonnx_make_model = partial(make, ir_version=IR_VERSION)
    try:
        yield
    finally:
        onnx_exec.qonnx_make_model = make


def _represent(g: Fragment, quantizer: Quantizer, ranges: Ranges, x: str, k: int) -> str:
    grid = grid_of(quantizer, ranges)
    if grid is not None and grid.by == grid.scale:
        if grid.offset:  # the package adds the zero point before it rounds, which would move ties
            x = g.op("Mul", g.op("Round", g.op("Div", x, g.constant(grid.by))), g.constant(grid.scale))
        found = _quantized(g, grid.format, grid.rounding, x, grid.scale, grid.offset)
        if found is not None:
            return found
    return by_steps(g, quantizer, ranges, x, k, _rounded)


def _rounded(g: Fragment, format: Format, rounding: Rounding, level: str) -> str:
    """A `Rounder`: by a node of the dialect, or by standard operators and then through the integer that holds it."""
    if format == FLOAT32:
        return level
    found = _quantized(g, format, rounding, level, 1.0)
    if found is not None:
        return found
    value = rounded(g, format, rounding, level)
    unit, low, high = _as_integers(format)
    return value if max(-low, high) > LARGEST_EXACT else _quant(g, value, unit, Holder.of(low, high))


def _quantized(
    g: Fragment, format: Format, rounding: Rounding, x: str, scale: np.ndarray | float, offset: int = 0
) -> str | None:
    """x rounded to a scale's multiples by one node; None where none rounds as the format does."""
    if isinstance(format, Int) and rounding in ROUNDINGS and not (format.signed and format.bits == 1):
        holder = Holder(format.bits, format.signed, format.narrow)
        return _quant(g, x, scale * 2.0**format.exponent, holder, offset, ROUNDINGS[rounding])
    if _is_float(format) and rounding is Rounding.NEAREST_EVEN:
        assert isinstance(format, Minifloat), "asked before"
        bias = 1 - format.smallest_exponent
        fields = (format.exponent_bits, format.mantissa_bits, bias, format.full_scale)
        return g.op(
            "FloatQuant", x, g.constant(scale), *(g.constant(v) for v in fields), domain=DOMAIN,
            rounding_mode="ROUND", has_inf=int(format.specials is Specials.IEEE),
            has_nan=int(format.specials is not Specials.NONE), has_subnormal=1, saturation=1,
        )  # fmt: skip
    return None


def _is_float(format: Format) -> bool:
    """Whether the package's `FloatQuant` has the same values, ties to the even mantissa."""
    return isinstance(format, Minifloat) and format.signed and format.subnormal and format.mantissa_bits > 0


@dataclass(frozen=True)
class Holder:
    """The integer type that a `Quant` says."""

    bits: int
    is_signed: bool
    is_narrow: bool

    @staticmethod
    def of(low: int, high: int) -> "Holder":
        """The narrowest that holds these; one signed bit would mean -1 and 1."""
        if low >= 0:
            return Holder(max(high.bit_length(), 1), False, False)
        bits = max(high.bit_length(), (-low - 1).bit_length(), 1) + 1
        return Holder(bits, True, low > -(2 ** (bits - 1)))


def _quant(g: Fragment, x: str, scale: np.ndarray | float, holder: Holder, offset: int = 0, mode: str = "ROUND") -> str:
    return g.op(
        "Quant", x, g.constant(scale), g.constant(offset), g.constant(holder.bits), domain=DOMAIN,
        signed=int(holder.is_signed), narrow=int(holder.is_narrow), rounding_mode=mode,
    )  # fmt: skip


def _as_integers(format: Format) -> tuple[float, int, int]:
    """What one integer is worth, and the format's ends counted in it."""
    bounds = format.bounds()
    unit = 2.0**bounds.exponent.start
    return unit, int(bounds.lowest / unit), int(bounds.highest / unit)


def _matrix(g: Fragment, weight: QuantizedTensor, transposed: bool) -> str:
    elements, scale = _spread(weight)
    elements, scale = elements[:, : weight.k], scale[:, : weight.k]
    return _carried(g, weight.quantizer.format, *((elements.T, scale.T) if transposed else (elements, scale)))


def _filters(g: Fragment, layer: QuantizedLayer) -> str:
    elements, scale = _spread(layer.quantized_weight())
    spread = np.broadcast_to(scale, elements.shape)
    shaped = layers.as_filters(layer, np.ascontiguousarray(spread))
    if scale.shape[1] == 1:
        shaped = scale.reshape(-1, *[1] * (shaped.ndim - 1))
    return _carried(g, layer.weight_quantizer.format, layers.as_filters(layer, elements), shaped)


def _spread(weight: QuantizedTensor) -> tuple[np.ndarray, np.ndarray]:
    """Levels [rows, padded K] and what one is worth: [1, 1], [rows, 1], or each its own where scales split K."""
    require_scalar(weight.quantizer)
    rows, _, block = weight.codes.shape
    scale = weight.scale()
    elements = np.where(scale[..., None] > 0, weight.elements(), 0)
    scale = np.where(scale > 0, scale, 1)  # an empty block's zero would be divided by
    if not weight.quantizer.scales[-1].share.splits_k:
        scale = scale[:, :1]
        scale = scale[:1] if (scale == scale[0]).all() else scale
        return elements.reshape(rows, -1), scale
    return elements.reshape(rows, -1), np.repeat(scale, block, axis=1)


def _carried(g: Fragment, format: Format, elements: np.ndarray, scale: np.ndarray) -> str:
    """A constant of level × scale, and the node that finds the levels in it."""
    if _is_float(format):
        narrow = scale.astype(np.float32)
        value = g.constant(elements.astype(np.float32) * narrow)
        found = _quantized(g, format, Rounding.NEAREST_EVEN, value, narrow)
        assert found is not None, "asked before"
        return found
    unit = 2.0 ** format.bounds().exponent.start
    integers = np.rint(elements / unit)
    low, high = int(integers.min(initial=0)), int(integers.max(initial=0))
    if max(-low, high) > LARGEST_EXACT or not np.array_equal(integers * unit, elements):
        raise Unholdable(f"weights of {format}")
    narrow = (scale * unit).astype(np.float32)
    is_own = isinstance(format, Int) and not (format.signed and format.bits == 1)
    holder = Holder(format.bits, format.signed, format.narrow) if is_own else Holder.of(low, high)  # type: ignore[attr-defined]
    return _quant(g, g.constant(integers.astype(np.float32) * narrow), narrow, holder)


WORDS = layers.Words(_represent, _matrix, _filters)
