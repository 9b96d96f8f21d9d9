"""ONNX files run in ONNX Runtime and give what `exact` gives; what they cannot hold is refused by layer."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.config import from_text

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")
pytest.importorskip("onnxscript", reason="needs the extra onnx")

from onnx import TensorProto  # noqa: E402

from bitwright.export import onnx as target  # noqa: E402
from bitwright.export.engines import REFERENCE  # noqa: E402
from bitwright.export.graph import Fragment  # noqa: E402
from bitwright.export.operands import rounded  # noqa: E402
from bitwright.formats import E2M1, E2M3, E3M2, E4M3, E5M2, E8M0, Int, Minifloat, Rounding  # noqa: E402
from bitwright.schemes.ant import TYPES, flint  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of the converter

X = torch.randn(4, 3, 9, 9, generator=torch.Generator().manual_seed(0))


class Small(nn.Module):
    """A strided, padded convolution, a grouped one, a depthwise one, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, (3, 2), padding=(1, 0), stride=2)
        self.grouped = nn.Conv2d(8, 12, 1, groups=4)
        self.depthwise = nn.Conv2d(12, 12, 3, groups=12, padding="same", dilation=2)
        self.last = nn.Linear(12, 10, bias=False)

    def forward(self, x):
        x = torch.relu(self.grouped(torch.relu(self.first(x))))
        return self.last(self.depthwise(x).mean((2, 3)))


@pytest.fixture
def small():
    torch.manual_seed(0)
    return Small().eval()


HELD = (
    "integer(8, 8)", "integer(4, 4)", "integer(4, None)", "integer(8, 8, zero=Zero.FITTED)", "vs_quant(4, 4)",
    "ant(4, 4)", "ant_type()", "minifloat(4, 3)", "mxfp4()", "mxfp6()", "mxfp8()", "mxint8()", "nvfp4()",
    "a2q(4, 4, 16)",
)  # fmt: skip


@pytest.mark.parametrize("text", HELD)
def test_each_layer_gives_what_exact_gives(text, small, tmp_path):
    frozen = bw.quantize(small, text, [X])
    path = target.write(frozen, tmp_path / "model.onnx", (X,))
    assert target.verify(path, frozen, (X,)) < 1e-5
    assert np.allclose(target.run(path, (X,)), frozen(X), atol=1e-4)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("term_revealing()", "inputs of TermBudget"),
        ("vs_quant_chip()", "cannot hold products that are rounded"),
        ("integer(8, 8, accumulator_bits=9, overflow=Overflow.WRAP)", "9-bit register that may overflow"),
    ],
)
def test_what_no_operator_says_is_refused_by_layer(text, reason, small, tmp_path):
    frozen = bw.quantize(small, text, [X])
    with pytest.raises(ValueError, match=rf"layer first: .*{reason}.*targets that can: bundle$"):
        target.write(frozen, tmp_path / "model.onnx", (X,))
    assert not list(tmp_path.iterdir())


def test_signed_inputs_of_three_fixed_axes_run(tmp_path):
    torch.manual_seed(0)
    x = torch.randn(1, 5, 8)
    frozen = bw.quantize(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).eval(), "integer(8, 8)", [x])
    path = target.write(frozen, tmp_path / "model.onnx", (x,))
    assert np.allclose(target.run(path, (x,)), frozen(x), atol=1e-4)


@pytest.mark.parametrize("text", ["integer(8, 8)", "integer(8, 8, zero=Zero.FITTED)", "a2q(4, 4, 16)"])
def test_sums_of_integer_operators_are_the_accumulators_bit_for_bit(text, small, tmp_path):
    frozen = bw.quantize(small, text, [X])
    path = target.write(frozen, tmp_path / "model.onnx", (X,), target.INTEGER_OPERATORS)
    kinds = [n.op_type for n in onnx.load(path).graph.node]
    assert (kinds.count("ConvInteger"), kinds.count("MatMulInteger"), kinds.count("Conv")) == (3, 1, 0)
    assert target.verify(path, frozen, (X,)) < 1e-5


def test_products_of_attention_are_integer_operators_too(tmp_path):
    torch.manual_seed(0)
    frozen = bw.quantize(Attending(), "integer(8, 8)", [TOKENS])
    path = target.write(frozen, tmp_path / "model.onnx", (TOKENS,), target.INTEGER_OPERATORS)
    assert [n.op_type for n in onnx.load(path).graph.node].count("MatMulInteger") == 2
    assert target.verify(path, frozen, (TOKENS,)) < 1e-5


TOKENS = torch.randn(2, 1, 5, 8, generator=torch.Generator().manual_seed(0))


class Attending(nn.Module):
    def forward(self, x):
        return nn.functional.scaled_dot_product_attention(x, x, x)


def test_floats_are_refused_by_integer_operators_and_the_targets_that_hold_them_are_named(small, tmp_path):
    frozen = bw.quantize(small, "nvfp4()", [X])
    with pytest.raises(
        ValueError, match=r"layer first: ONNX with integer operators .*Minifloat.*: bundle, onnx, onnx-n"
    ):
        target.write(frozen, tmp_path / "model.onnx", (X,), target.INTEGER_OPERATORS)


@pytest.mark.parametrize(
    ("text", "opset", "types"),
    [
        ("integer(2, 8)", 25, {TensorProto.INT2}),
        ("integer(3, 8)", 21, {TensorProto.INT4}),
        ("minifloat(5, 2)", 21, {TensorProto.FLOAT8E5M2}),
        ("mxfp8()", 24, {TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E8M0}),
        ("mxfp4()", 24, {TensorProto.FLOAT4E2M1, TensorProto.FLOAT8E8M0}),
        ("nvfp4()", 23, {TensorProto.FLOAT4E2M1, TensorProto.FLOAT8E4M3FN}),
    ],
)
def test_the_operator_set_is_the_one_that_the_types_need(text, opset, types, small, tmp_path):
    frozen = bw.quantize(small, text, [X])
    path = target.write(frozen, tmp_path / "model.onnx", (X,), target.NATIVE_TYPES)
    model = onnx.load(path)
    plain = {TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT8, TensorProto.UINT8}
    assert model.opset_import[0].version == opset
    assert {i.data_type for i in model.graph.initializer} - plain == types
    assert target.verify(path, frozen, (X,), engine=REFERENCE) < 1e-5


def test_onnx_runtime_reads_weights_of_two_bits(small, tmp_path):
    frozen = bw.quantize(small, "integer(2, 8)", [X])
    path = target.write(frozen, tmp_path / "model.onnx", (X,), target.NATIVE_TYPES)
    assert target.verify(path, frozen, (X,)) < 1e-5


def test_types_that_onnx_runtime_lacks_are_said_with_what_runs_them(small, tmp_path):
    frozen = bw.quantize(small, "mxfp4()", [X])
    path = target.write(frozen, tmp_path / "model.onnx", (X,), target.NATIVE_TYPES)
    with pytest.raises(ValueError, match=r"does not run this file .*engines\.REFERENCE, or .*onnx\.EVERYWHERE$"):
        target.verify(path, frozen, (X,))


def test_a_file_for_any_engine_that_does_not_run_has_no_other_way_than_the_reference(small, tmp_path):
    path = target.write(bw.quantize(small, "integer(8, 8)", [X]), tmp_path / "model.onnx", (X,))
    model = onnx.load(path)
    model.graph.node[0].domain = "elsewhere"
    model.opset_import.append(onnx.helper.make_opsetid("elsewhere", 1))
    onnx.save(model, path)
    with pytest.raises(ValueError, match=r"does not run this file .*engines\.REFERENCE$"):
        target.run(path, (X,))


def test_nodes_bear_the_names_of_layers(small, tmp_path):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = small.last

        def forward(self, x):
            return self.body(x) + self.body(x * 2)

    x = torch.randn(3, 12)
    path = target.write(bw.quantize(Twice().eval(), "integer(8, 8)", [x]), tmp_path / "model.onnx", (x,))
    assert {n.name.split("/")[0] for n in onnx.load(path).graph.node if "/" in n.name} == {"body", "body_2"}


@pytest.mark.parametrize("text", ["integer(4, 4)", "vs_quant(4, 4)"])
def test_the_reference_evaluator_gives_what_exact_gives(text, small, tmp_path):
    frozen = bw.quantize(small, text, [X])
    path = target.write(frozen, tmp_path / "model.onnx", (X,))
    assert target.verify(path, frozen, (X,), engine=REFERENCE) < 1e-5


def test_batches_of_another_size_run(small, tmp_path):
    frozen = bw.quantize(small, "integer(8, 8)", [X])
    path = target.write(frozen, tmp_path / "model.onnx", (X,))
    assert np.allclose(target.run(path, (X[:3],)), frozen(X[:3]), atol=1e-4)


def test_weights_of_four_bits_are_stored_in_four_bits_and_hold_the_codes(small, tmp_path):
    frozen = bw.quantize(small, "integer(4, 8)", [X])
    path = target.write(frozen, tmp_path / "model.onnx", (X,))
    packed = [i for i in onnx.load(path).graph.initializer if i.data_type == TensorProto.INT4]
    assert [tuple(i.dims) for i in packed] == [(8, 18), (12, 2), (12, 9), (12, 10)]
    integers = onnx.numpy_helper.to_array(packed[-1]).astype(int)
    assert np.array_equal(integers, frozen.last.quantized_weight().elements()[:, 0].astype(int).T)


def test_the_proof_stands_in_the_metadata(small, tmp_path):
    frozen = bw.quantize(small, "a2q(4, 4, 12)", [X])
    path = target.write(frozen, tmp_path / "model.onnx", (X,))
    metadata = {p.key: p.value for p in onnx.load(path).metadata_props}
    last = json.loads(metadata["bitwright.layers"])["last"]
    assert last["inner_bits"] == frozen.last.certificate.inner_bits <= 12
    assert from_text(last["scheme"]) == frozen.last.scheme


@pytest.mark.parametrize("rounding", [r for r in Rounding if r is not Rounding.STOCHASTIC])
@pytest.mark.parametrize(
    "format",
    [
        Int(4),
        Int(8, signed=False),
        E2M1,
        E2M3,
        E3M2,
        E4M3,
        E5M2,
        E8M0,
        Minifloat(3, 4),
        flint(4),
        *(make(4, signed) for make in TYPES.values() for signed in (True, False)),
    ],
    ids=lambda f: f"{f}"[:40],
)
def test_operators_round_as_the_format_does(format, rounding):
    import onnxruntime

    from bitwright.export.operands import Unholdable

    codes = np.arange(2**format.bits)
    values = np.unique(format.decode(codes[~format.is_reserved(codes)])).astype(np.float32)
    middles = ((values[1:].astype(np.float64) + values[:-1]) / 2).astype(np.float32)
    near = np.concatenate([values, middles])
    levels = np.concatenate(
        [near, np.nextafter(near, np.float32(9e9)), np.nextafter(near, np.float32(-9e9)), [0, 1e30, -1e30]]
    )
    levels = levels[np.isfinite(levels)].astype(np.float32)
    g = Fragment("g")
    try:
        out = rounded(g, format, rounding, "x")
    except Unholdable as reason:
        pytest.skip(str(reason)[:80])
    shape = [len(levels)]
    graph = onnx.helper.make_graph(
        g.nodes, "g", [onnx.helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [onnx.helper.make_tensor_value_info(out, TensorProto.FLOAT, shape)], g.initializers,
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = format.decode(format.encode(levels.astype(np.float64), rounding))
    assert np.array_equal(session.run(None, {"x": levels})[0], expected.astype(np.float32))
