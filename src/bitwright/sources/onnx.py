"""ONNX models as torch modules: float graphs with their layers named, quantized ones with their codes as they are.

Convolutions and products with constant weights become torch's layers, so that everything of bitwright finds them.
Layers whose weights are stored as codes (QDQ, integer operators, QONNX) become frozen layers of exactly these codes.
"""

from pathlib import Path

from torch import nn

from bitwright.sources.onnx_build import build
from bitwright.sources.onnx_file import opsets, read
from bitwright.sources.onnx_fold import Scope
from bitwright.sources.onnx_functions import inline
from bitwright.sources.onnx_graph import Graph
from bitwright.sources.onnx_table import known


def load(path: Path | str) -> nn.Module:
    """The model of a file, in evaluation mode; its inputs by position or by their names in the file.

    What is no ONNX model, what is damaged, and operators that are not read raise ValueError.
    """
    path = Path(path)
    model = read(path)
    try:
        versions = opsets(model)
        graph = inline(model, known, versions[""])
        module: Graph = build(graph, Scope(versions, path.parent))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return module.eval()
