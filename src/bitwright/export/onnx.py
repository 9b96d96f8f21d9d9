"""ONNX files: for ONNX Runtime on any CPU, with integer operators, or in ONNX's own low-precision types.

Weights are packed. What no operator can say is refused, by layer, with the targets that can. ONNX has no word for an
accumulator's width: the proof that none overflows stands in the file's metadata.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from torch import nn

from bitwright.export import integers, layers, native
from bitwright.export.engines import ONNX_RUNTIME, STANDARD, Engine, Values
from bitwright.export.operands import represent
from bitwright.export.trace import trace
from bitwright.export.tracing import Tracer
from bitwright.export.weights import filters, stored
from bitwright.model.task import Inputs

WORDS = layers.Words(represent, stored, filters)


@dataclass(frozen=True)
class Variant:
    """A way to say a network in ONNX."""

    name: str
    write: layers.Writer


EVERYWHERE = Variant(STANDARD, WORDS.write)
"""Opset 21; integers of 4 and 8 bits are read by DequantizeLinear, other formats of 4 bits by a Gather."""

INTEGER_OPERATORS = Variant("ONNX with integer operators", partial(integers.write, WORDS))
"""Products by MatMulInteger and ConvInteger, for integers of at most 8 bits and scales of tensors and rows."""

NATIVE_TYPES = Variant("ONNX in its own types", native.WORDS.write)
"""INT2, FP8, FP4 and E8M0 as such; the opset follows. ONNX Runtime's CPU provider lacks some of them."""


def write(
    frozen: nn.Module, path: Path | str, inputs: Inputs, variant: Variant = EVERYWHERE, trace: Tracer = trace
) -> Path:
    """Write what `freeze` or `bw.quantize` gave, for inputs of these shapes (the first axis is free where it can be).

    A scheme that no operators express raises ValueError naming the layer.
    """
    path = Path(path)
    model = layers.compose(frozen, variant.name, variant.write, lambda: trace(frozen, inputs))
    native.raise_versions(model)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def verify(
    path: Path | str, frozen: nn.Module, inputs: Inputs, tolerance: float = 1e-5, engine: Engine = ONNX_RUNTIME
) -> float:
    """Run the file and each of its layers on what it met there; gives the largest relative difference of an output.

    Integers must equal those of the codes; an output may differ by the order of float additions: by `tolerance` of its
    largest value. ValueError naming the layer otherwise.
    """
    model = onnx.load(path)
    places = layers.watched(model)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in layers.unseen(model, places))
    feeds = _feeds(model, inputs)
    return layers.compare(
        layers.Run(path, engine.name, feeds | engine.run(model, feeds)), frozen, places, tolerance
    )  # fmt: skip


def run(path: Path | str, inputs: Inputs, engine: Engine = ONNX_RUNTIME) -> np.ndarray:
    """The first output of the file."""
    model = onnx.load(path)
    return engine.run(model, _feeds(model, inputs))[model.graph.output[0].name]


def _feeds(model: onnx.ModelProto, inputs: Inputs) -> Values:
    given = inputs.values() if isinstance(inputs, dict) else inputs
    return {i.name: t.numpy() for i, t in zip(model.graph.input, given, strict=True)}
