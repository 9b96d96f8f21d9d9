"""QONNX files executed by the qonnx package give what `exact` gives, from the integers of the codes."""

import numpy as np
import pytest
import torch
from torch import nn

import bitwright as bw

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxscript", reason="needs the extra onnx")
pytest.importorskip("qonnx", reason="needs the extra qonnx")

from onnx.numpy_helper import to_array  # noqa: E402

from bitwright.export import qonnx as target  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of the converter and the package

X = torch.randn(2, 3, 7, 7, generator=torch.Generator().manual_seed(0))


class Small(nn.Module):
    """A strided, padded convolution, a depthwise one, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, (3, 2), padding=(1, 0), stride=2)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8, padding="same", dilation=2)
        self.last = nn.Linear(8, 10, bias=False)

    def forward(self, x):
        return self.last(self.depthwise(torch.relu(self.first(x))).mean((2, 3)))


@pytest.fixture
def small():
    torch.manual_seed(0)
    return Small().eval()


def quants(path, kind="Quant"):
    model = onnx.load(path)
    held = {i.name: to_array(i) for i in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == kind:
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            yield [held.get(name) for name in node.input], attributes


HELD = ("integer(8, 8)", "integer(1, 4)", "integer(8, 8, zero=Zero.FITTED)", "ant(4, 4)", "minifloat(4, 3)")


@pytest.mark.parametrize("text", HELD)
def test_each_layer_gives_what_exact_gives(text, small, tmp_path):
    frozen = bw.quantize(small, text, [X])
    path = target.write(frozen, tmp_path / "model.onnx", (X,))
    assert target.verify(path, frozen, (X,)) < 1e-5
    assert np.allclose(target.run(path, (X,)), frozen(X), atol=1e-4)


def test_a_weight_divided_by_its_scale_is_the_integers_of_its_codes(small, tmp_path):
    frozen = bw.quantize(small, "integer(4, 8)", [X])
    path = target.write(frozen, tmp_path / "model.onnx", (X,))
    (value, scale, zero, bits), attributes = list(quants(path))[-1]
    levels = value / scale
    assert (bits.dtype, bits, zero, attributes["signed"], attributes["narrow"]) == (np.float32, 4, 0, 1, 1)
    assert np.abs(levels - np.rint(levels)).max() < 1e-6
    assert np.array_equal(np.rint(levels).T, frozen.last.quantized_weight().elements()[:, 0])


def test_small_floats_go_through_floatquant(small, tmp_path):
    frozen = bw.quantize(small, "minifloat(4, 3)", [X])
    path = target.write(frozen, tmp_path / "model.onnx", (X,))
    found = list(quants(path, "FloatQuant"))
    assert len(found) == 6
    assert all(
        [float(v) for v in inputs[2:]] == [4, 3, 7, frozen.last.weight_quantizer.format.full_scale]
        for inputs, _ in found
    )


def test_ties_stay_where_they_are_under_an_odd_zero_point(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3)).eval()
    x = torch.tensor([[-1.0, 6.5, 2.5, 254.0], [0.5, 1.5, 3.5, 4.5]])  # a scale of 1, real zero at code 1
    frozen = bw.quantize(model, "integer(8, 8, zero=Zero.FITTED, input_range=AbsMax())", [x])
    path = target.write(frozen, tmp_path / "model.onnx", (x,))
    assert [float(inputs[2]) for inputs, _ in quants(path)] == [1, 0]
    target.verify(path, frozen, (x,))


def test_what_no_node_says_is_refused_by_layer(small, tmp_path):
    frozen = bw.quantize(small, "integer(8, 8, accumulator_bits=9, overflow=Overflow.WRAP)", [X])
    with pytest.raises(
        ValueError, match=r"layer first: QONNX cannot hold a 9-bit register that may overflow; .*: bundle$"
    ):
        target.write(frozen, tmp_path / "model.onnx", (X,))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["integer(4, None)", "vs_quant(4, 4)", "mxfp4()", "nvfp4()"])
def test_scales_of_blocks_are_held(text, tmp_path):
    torch.manual_seed(0)
    x = torch.randn(3, 40)
    frozen = bw.quantize(nn.Sequential(nn.Linear(40, 6)).eval(), text, [x])
    path = target.write(frozen, tmp_path / "model.onnx", (x,))
    assert target.verify(path, frozen, (x,)) < 1e-5


@pytest.mark.parametrize("text", ["integer(4, 8)", "a2q(4, 8, 16)"])
def test_finns_rule_gives_the_widths_of_the_certificate(text, small, tmp_path):
    frozen = bw.quantize(small, text, [X.abs()])  # unsigned inputs everywhere but in the last layer
    widths = target.finn_bits(target.write(frozen, tmp_path / "model.onnx", (X.abs(),)))
    assert widths["first"] == frozen.first.certificate.inner_bits
    assert widths["depthwise"] == frozen.depthwise.certificate.inner_bits
    # a symmetric input has one code less than the type that FINN counts with
    assert frozen.last.certificate.inner_bits <= widths["last"] <= frozen.last.certificate.inner_bits + 1


def test_what_is_computed_of_constants_alone_is_a_constant(tmp_path):
    torch.manual_seed(0)
    x = torch.randn(3, 40)
    frozen = bw.quantize(nn.Sequential(nn.Linear(40, 6)).eval(), "nvfp4()", [x])
    graph = onnx.load(target.write(frozen, tmp_path / "model.onnx", (x,))).graph
    constants = {i.name for i in graph.initializer}
    assert not [n.op_type for n in graph.node if not n.domain and constants.issuperset(n.input)]
    assert not [n for n in graph.node if n.op_type == "Shape"]
