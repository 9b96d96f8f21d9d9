"""A real network that ONNX Runtime quantized: its file is imported, evaluated and certified as it stands."""

import logging

import numpy as np
import pytest
import torch

from bitwright.model.certify import certify_model
from bitwright.model.data import data_folder
from bitwright.model.layers import QuantizedLayer
from bitwright.model.zoo import REAL

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
pytest.importorskip("onnxscript", reason="needs the extra onnx")

pytestmark = [pytest.mark.data, pytest.mark.filterwarnings("ignore")]  # of the converters

SAMPLES = 128


@pytest.fixture(scope="module")
def resnet8(tmp_path_factory):
    """A QDQ file of 8-bit integers, and the test samples with their classes."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    try:
        data_folder()
    except FileNotFoundError as missing:
        pytest.skip(str(missing))
    folder, task = tmp_path_factory.mktemp("resnet8"), REAL["resnet8"]
    known = next(iter(task.calibration())).first(64).inputs[0]
    torch.onnx.export(task.load().eval(), (known,), folder / "float.onnx", dynamo=True, verbose=False)
    name = onnx.load(folder / "float.onnx").graph.input[0].name

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.rest = iter([{name: known.numpy()}])

        def get_next(self):
            return next(self.rest, None)

    logging.disable(logging.WARNING)
    quantize_static(
        folder / "float.onnx", folder / "q.onnx", Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    logging.disable(logging.NOTSET)
    batch = next(iter(task.test(SAMPLES)))
    return folder / "q.onnx", batch.inputs[0], batch.targets


def test_its_classes_are_those_of_onnx_runtime_and_its_layers_are_certified(resnet8):
    from bitwright.sources.onnx import load

    path, x, classes = resnet8
    module = load(path)
    layers = [m for m in module.modules() if isinstance(m, QuantizedLayer)]
    assert len(layers) == 10
    with torch.no_grad():
        found = torch.cat([module(part) for part in x.split(64)]).argmax(1).numpy()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    theirs = np.concatenate([session.run(None, {name: part.numpy()})[0] for part in x.split(64)]).argmax(1)
    assert (found == theirs).mean() > 0.99
    assert (found == classes.numpy()).mean() > 0.8  # 86 % in float
    proved = {c.name: c.sums.exact_bits for c in certify_model(module)}
    assert set(proved) == {layer.name for layer in layers}
    assert max(proved.values()) <= 8 + 8 + 10  # at most 576 products of bytes
