"""ONNX files that ONNX Runtime executes on a CPU: weights packed, inputs and weights as what their codes represent.

Integers of 4 and 8 bits are stored as such and read by DequantizeLinear, in blocks where scales are; other formats of
at most 4 bits as codes that a Gather looks up. What no operator can say is refused, by layer, with the targets that
can. ONNX has no word for an accumulator's width: the proof that none overflows stands in the file's metadata.
"""

from pathlib import Path

import numpy as np
import onnx
from torch import nn

from bitwright.export import layers
from bitwright.export.operands import represent
from bitwright.export.weights import filters, stored
from bitwright.model.task import Inputs

OTHERS = "bitwright's own bundle and Verilog hold every scheme"


def write(frozen: nn.Module, path: Path | str, inputs: Inputs) -> Path:
    """Write what `freeze` or `bw.quantize` gave, for inputs of these shapes (the first axis is free where it can be).

    A scheme that no operators express raises ValueError naming the layer.
    """
    path = Path(path)
    model = layers.compose(frozen, inputs, WORDS.write, "ONNX", OTHERS)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def verify(path: Path | str, frozen: nn.Module, inputs: Inputs, tolerance: float = 1e-5) -> float:
    """Run the file in ONNX Runtime and each of its layers on what it met there; gives the largest relative difference.

    A layer's output may differ by the order of float additions: by `tolerance` of its largest value, or ValueError.
    """
    model = onnx.load(path)
    places = layers.watched(model)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in layers.unseen(model, places))
    run = layers.Run(path, "ONNX Runtime", _run(model.SerializeToString(), inputs))
    return layers.compare(run, frozen, places, tolerance)


def run(path: Path | str, inputs: Inputs) -> np.ndarray:
    """The first output of the file in ONNX Runtime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    given = inputs.values() if isinstance(inputs, dict) else inputs
    return session.run(None, {i.name: t.numpy() for i, t in zip(session.get_inputs(), given, strict=True)})[0]


def _run(content: bytes, inputs: Inputs) -> dict[str, np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    given = inputs.values() if isinstance(inputs, dict) else inputs
    feeds = {i.name: t.numpy() for i, t in zip(session.get_inputs(), given, strict=True)}
    names = [o.name for o in session.get_outputs()]
    return {**feeds, **dict(zip(names, session.run(names, feeds), strict=True))}


WORDS = layers.Words(represent, stored, filters)
