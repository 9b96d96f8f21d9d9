"""Quantized graphs become frozen layers of exactly the file's codes, scales and ranges; the rest runs as written."""

import logging

import numpy as np
import pytest
import torch
from torch import nn

import bitwright as bw

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
pytest.importorskip("onnxscript", reason="needs the extra onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

from bitwright.export import onnx as target  # noqa: E402
from bitwright.formats import E4M3, Int  # noqa: E402
from bitwright.model.certify import certify_model  # noqa: E402
from bitwright.model.layers import QuantizedLayer  # noqa: E402
from bitwright.model.zoo.embedded import EMBEDDED  # noqa: E402
from bitwright.sources.onnx import load  # noqa: E402
from bitwright.sources.onnx_quantized import DYNAMIC  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of the converters

RANDOM = np.random.default_rng(1)
QONNX = "qonnx.custom_op.general"


def built(folder, nodes, constants, shape, *, opset=21):
    """A model of one input x; constants are arrays, or tensors as ONNX has them."""
    stored = [v if isinstance(v, TensorProto) else numpy_helper.from_array(v, n) for n, v in constants.items()]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        stored,
    )
    domains = [helper.make_opsetid(d, 1) for d in {n.domain for n in nodes} - {""}]
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset), *domains], ir_version=10)
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def normal(*shape):
    return RANDOM.standard_normal(shape).astype(np.float32)


def layers(module):
    return [m for m in module.modules() if isinstance(m, QuantizedLayer)]


def integers(kind, *shape):
    """Constants of an integer type, and their values."""
    low, high = {
        TensorProto.INT4: (-8, 8),
        TensorProto.UINT4: (0, 16),
        TensorProto.INT8: (-128, 128),
        TensorProto.UINT8: (0, 256),
        TensorProto.INT16: (-300, 300),
    }[kind]
    values = RANDOM.integers(low, high, shape)
    return helper.make_tensor("w", kind, shape, values.ravel().tolist()), values


@pytest.mark.parametrize(
    "kind", [TensorProto.INT4, TensorProto.UINT4, TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16]
)
@pytest.mark.parametrize("share", ["tensor", "row", "block"])
@pytest.mark.parametrize("zero", [0, 7])
def test_dequantized_weights_are_the_files_codes(tmp_path, kind, share, zero):
    tensor, values = integers(kind, 16, 6)
    shape = {"tensor": (), "row": (6,), "block": (4, 6)}[share]
    scale = np.exp2(RANDOM.integers(-9, -5, shape)).astype(np.float32)
    options = {"tensor": {}, "row": {"axis": 1}, "block": {"axis": 0, "block_size": 4}}[share]
    offset = helper.make_tensor("z", kind, shape, np.full(shape, zero).ravel().tolist())
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "o"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "o"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "t", "z"], ["r"], **options),
        helper.make_node("MatMul", ["d", "r"], ["y"]),
    ]
    constants = {"w": tensor, "t": scale, "z": offset, "s": np.float32(0.02), "o": np.uint8(131)}
    path = built(tmp_path, nodes, constants, (5, 16))
    module = load(path)
    (layer,) = layers(module)
    spread = np.repeat(scale, 4, 0) if share == "block" else scale
    np.testing.assert_array_equal(layer.quantized_weight().decode(), ((values - zero) * spread).T.astype(np.float64))
    x = normal(5, 16)
    expected = ReferenceEvaluator(str(path)).run(None, {"x": x})[0]
    np.testing.assert_allclose(module(torch.from_numpy(x)).numpy(), expected, rtol=1e-5, atol=1e-5)  # float32 sums
    (certificate,) = certify_model(module)
    if share != "block":
        assert certificate.sums.exact_bits <= 8 + 17 + 4


@pytest.mark.parametrize(
    ("kind", "zero"), [(np.uint8, 0), (np.uint8, 100), (np.int8, 0), (np.int8, -20), (np.uint16, 9)]
)
@pytest.mark.parametrize("scale", [0.1, 0.037, 1 / 3])
def test_inputs_are_quantized_to_the_files_codes(tmp_path, kind, zero, scale):
    """Weights of ones and zeros let the codes through."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "o"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "o"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "t"], ["r"]),
        helper.make_node("MatMul", ["d", "r"], ["y"]),
    ]
    constants = {"w": np.eye(8, dtype=np.int8), "t": np.float32(1), "s": np.float32(scale), "o": kind(zero)}
    path = built(tmp_path, nodes, constants, (64, 8))
    module = load(path)
    assert [s.what for s in module.steps] == ["node 'y' (MatMul)"]
    x = normal(64, 8) * 20
    expected = ReferenceEvaluator(str(path)).run(None, {"x": x})[0]
    np.testing.assert_allclose(module(torch.from_numpy(x)).numpy(), expected, rtol=1e-6)


def test_weights_of_eight_bit_floats_keep_their_codes(tmp_path):
    values = E4M3.decode(RANDOM.integers(0, 0x70, (4, 3)))
    tensor = helper.make_tensor("w", TensorProto.FLOAT8E4M3FN, (4, 3), values.ravel().tolist())
    nodes = [helper.make_node("DequantizeLinear", ["w", "t"], ["r"]), helper.make_node("MatMul", ["x", "r"], ["y"])]
    (layer,) = layers(load(built(tmp_path, nodes, {"w": tensor, "t": np.float32(0.5)}, (2, 4))))
    assert layer.weight_quantizer.format == E4M3
    np.testing.assert_array_equal(layer.quantized_weight().decode(), values.T * 0.5)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The float network as a file, and a batch."""
    folder = tmp_path_factory.mktemp("digits")
    task = EMBEDDED["digits"]
    x = next(iter(task.test(64))).inputs[0]
    torch.onnx.export(task.load().eval(), (x,), folder / "float.onnx", dynamo=True, verbose=False)
    return folder / "float.onnx", x


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("activation", ["QUInt8", "QInt8"])
def test_what_onnx_runtime_quantizes_gives_its_outputs_bit_for_bit(tmp_path, digits, form, per_channel, activation):
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    logging.disable(logging.WARNING)
    path, x = digits

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.rest = iter([{onnx.load(path).graph.input[0].name: x.numpy()}])

        def get_next(self):
            return next(self.rest, None)

    file = tmp_path / "q.onnx"
    quantize_static(
        path,
        file,
        Reader(),
        quant_format=QuantFormat[form],
        per_channel=per_channel,
        activation_type=QuantType[activation],
        weight_type=QuantType.QInt8,
    )
    logging.disable(logging.NOTSET)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    expected = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    module = load(file)
    assert len(layers(module)) == 9
    np.testing.assert_array_equal(module(x).numpy(), expected)
    assert {c.name for c in certify_model(module)} == {layer.name for layer in layers(module)}


@pytest.mark.parametrize("scheme", ["integer(8, 8)", "integer(4, 4)", "integer(4, None)", "mxfp4()"])
def test_a_file_of_our_own_is_read_back(tmp_path, scheme):
    batch = next(iter(EMBEDDED["digits"].test(64)))
    frozen = bw.quantize(EMBEDDED["digits"].load(), scheme, [batch])
    target.write(frozen, tmp_path / "m.onnx", batch.inputs)
    module = load(tmp_path / "m.onnx")
    with torch.no_grad():
        np.testing.assert_allclose(module(*batch.inputs).numpy(), frozen(*batch.inputs).numpy(), rtol=1e-5, atol=1e-5)
    if scheme.startswith("integer"):
        ours, theirs = ([layer.quantized_weight() for layer in layers(m)] for m in (frozen, module))
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a.decode(), b.decode())
        assert [layer.name for layer in layers(module)] == [layer.name for layer in layers(frozen)]


def qonnx_linear(domain, bits, signed, narrow, rounding):
    weight = helper.make_node(
        "Quant", ["w", "ws", "zero", "wb"], ["wq"], domain=domain, signed=1, narrow=1, rounding_mode="ROUND"
    )
    taken = helper.make_node(
        "Quant", ["x", "xs", "zero", "xb"], ["xq"], domain=domain, signed=signed, narrow=narrow, rounding_mode=rounding
    )
    product = helper.make_node("MatMul", ["xq", "wq"], ["y"], name="fc")
    constants = {
        "w": normal(6, 4),
        "ws": np.full((1, 4), 0.25, np.float32),
        "zero": np.float32(0),
        "wb": np.float32(4),
        "xs": np.float32(0.125),
        "xb": np.float32(bits),
    }
    return [taken, weight, product], constants


@pytest.mark.parametrize("domain", [QONNX, "finn.custom_op.general", "onnx.brevitas"])
@pytest.mark.parametrize(("bits", "signed", "narrow"), [(8, 1, 0), (8, 1, 1), (4, 0, 0), (2, 1, 0)])
def test_qonnx_quantizers_give_codes_and_ranges(tmp_path, domain, bits, signed, narrow):
    nodes, constants = qonnx_linear(domain, bits, signed, narrow, "ROUND")
    module = load(built(tmp_path, nodes, constants, (5, 6)))
    (layer,) = layers(module)
    assert layer.weight_quantizer.format == Int(4)
    assert layer.input_quantizer.format == Int(bits, bool(signed), bool(narrow))
    x = normal(5, 6)
    low, high = (-(2 ** (bits - 1)) + narrow, 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    real = np.rint(np.clip(x / np.float32(0.125), low, high)) * 0.125
    weight = np.rint(np.clip(constants["w"] / 0.25, -7, 7)) * 0.25
    np.testing.assert_allclose(module(torch.from_numpy(x)).numpy(), real @ weight, rtol=1e-6)


def test_qonnx_roundings_that_no_layer_has_run_as_they_are_written(tmp_path):
    nodes, constants = qonnx_linear(QONNX, 8, 1, 0, "FLOOR")
    module = load(built(tmp_path, nodes, constants, (5, 6)))
    (layer,) = layers(module)
    assert layer.input_quantizer is None
    x = normal(5, 6)
    real = np.floor(np.clip(x * 8, -128, 127)) / 8
    np.testing.assert_allclose(
        module(torch.from_numpy(x)).numpy(), real @ layer.quantized_weight().decode().T, rtol=1e-6
    )


def test_bipolar_weights_are_plus_and_minus_one(tmp_path):
    nodes = [
        helper.make_node("BipolarQuant", ["w", "s"], ["q"], domain=QONNX),
        helper.make_node("Conv", ["x", "q"], ["y"]),
    ]
    weight = normal(4, 3, 3, 3)
    (layer,) = layers(load(built(tmp_path, nodes, {"w": weight, "s": np.float32(0.5)}, (1, 3, 5, 5))))
    expected = np.where(weight >= 0, 0.5, -0.5).transpose(0, 2, 3, 1).reshape(4, -1)
    np.testing.assert_array_equal(layer.quantized_weight().decode(), expected)


@pytest.mark.parametrize(
    ("bits", "x", "y"),
    [
        ((4, 3, 7, 448), 0.3, 0.3125),
        ((4, 3, 7, 448), 1000.0, 448.0),
        ((2, 1, 1, 6), 2.4, 2.0),
        ((2, 1, 1, 6), -5.1, -6.0),
    ],
)
def test_a_float_quantizer_of_qonnx_rounds_to_its_format(tmp_path, bits, x, y):
    """E4M3 and E2M1: exponent bits, mantissa bits, bias, largest value."""
    names = ["s", "e", "m", "b", "l"]
    constants = {n: np.float32(v) for n, v in zip(names, (1, *bits), strict=True)}
    node = helper.make_node("FloatQuant", ["x", *names], ["y"], domain=QONNX)
    assert load(built(tmp_path, [node], constants, (1,)))(torch.tensor([x])).tolist() == [y]


def test_trunc_of_qonnx_drops_low_bits(tmp_path):
    constants = {n: np.float32(v) for n, v in {"s": 0.5, "z": 0, "i": 8, "o": 4}.items()}
    node = helper.make_node("Trunc", ["x", "s", "z", "i", "o"], ["y"], domain=QONNX)
    found = load(built(tmp_path, [node], constants, (3,)))(torch.tensor([100.0, 8.0, -4.5]))
    assert found.tolist() == [6.0, 0.5, -0.5]  # floors of 200, 16 and -9 sixteenths, in halves


def test_dynamic_quantization_is_computed_in_integers(tmp_path):
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w", "z", "wz"], ["i"]),
        helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "s"], ["y"]),
    ]
    constants = {"w": RANDOM.integers(0, 256, (6, 4)).astype(np.uint8), "wz": np.uint8(128)}
    path = built(tmp_path, nodes, constants, (5, 6))
    x = normal(5, 6)
    expected = ReferenceEvaluator(str(path)).run(None, {"x": x})[0]
    module = load(path)
    np.testing.assert_array_equal(module(torch.from_numpy(x)).numpy(), expected)
    (layer,) = layers(module)
    np.testing.assert_array_equal(layer.quantized_weight().decode().T, constants["w"] - 128.0)
    assert layer.input_quantizer == DYNAMIC
    assert certify_model(module)[0].sums.exact_bits <= 8 + 8 + 3  # six products of unsigned and signed bytes


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("weight", ["QUInt8", "QInt8"])
def test_what_onnx_runtime_quantizes_dynamically_becomes_frozen_layers(tmp_path, digits, per_channel, weight):
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.disable(logging.WARNING)
    path, x = digits
    model = onnx.load(path)
    del model.graph.value_info[:]  # it turns the linear layers around and then meets their old shapes
    quantize_dynamic(model, tmp_path / "q.onnx", per_channel=per_channel, weight_type=QuantType[weight])
    logging.disable(logging.NOTSET)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(tmp_path / "q.onnx"), options, providers=["CPUExecutionProvider"])
    module = load(tmp_path / "q.onnx")
    assert len(layers(module)) == 9
    expected = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    is_equal = np.isclose(module(x).numpy(), expected, rtol=1e-5, atol=1e-5).all(1)
    assert is_equal.mean() > 0.95  # a last bit of a float may move an input across a threshold of the next layer
    assert {c.name for c in certify_model(module)} == {layer.name for layer in layers(module)}


def test_our_own_integer_operators_are_read_back_as_layers(tmp_path):
    batch = next(iter(EMBEDDED["digits"].test(64)))
    frozen = bw.quantize(EMBEDDED["digits"].load(), "integer(8, 8)", [batch])
    target.write(frozen, tmp_path / "m.onnx", batch.inputs, target.INTEGER_OPERATORS)
    module = load(tmp_path / "m.onnx")
    assert [layer.name for layer in layers(module)] == [layer.name for layer in layers(frozen)]
    for a, b in zip(layers(frozen), layers(module), strict=True):
        np.testing.assert_array_equal(a.quantized_weight().elements(), b.quantized_weight().elements())
    with torch.no_grad():
        np.testing.assert_allclose(module(*batch.inputs).numpy(), frozen(*batch.inputs).numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolutions_are_frozen_phase_by_phase(tmp_path, groups):
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "o"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "o"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "t"], ["r"], axis=1),
        helper.make_node(
            "ConvTranspose", ["d", "r", "b"], ["y"], name="up", strides=[2, 2], pads=[1, 1, 1, 1], group=groups
        ),
    ]
    levels = RANDOM.integers(-127, 128, (4, 6 // groups, 4, 4)).astype(np.int8)
    scale = np.float32(0.01) * (np.arange(1, 7, dtype=np.float32) if groups == 1 else np.float32(1))
    constants = {"w": levels, "t": scale, "s": np.float32(0.05), "o": np.uint8(120), "b": normal(6)}
    path = built(tmp_path, nodes, constants, (2, 4, 5, 7))
    module = load(path)
    names = [f"up.phase_{i}_{j}" for i in (0, 1) for j in (0, 1)]
    assert [layer.name for layer in layers(module)] == names
    assert {c.name for c in certify_model(module)} == set(names)
    x = normal(2, 4, 5, 7)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    expected = session.run(None, {"x": x})[0]
    np.testing.assert_allclose(module(torch.from_numpy(x)).numpy(), expected, rtol=1e-5, atol=1e-5)  # float32 sums


def test_a_frozen_model_is_still_a_module(tmp_path):
    nodes = [helper.make_node("DequantizeLinear", ["w", "t"], ["r"]), helper.make_node("MatMul", ["x", "r"], ["y"])]
    module = load(built(tmp_path, nodes, {"w": np.eye(4, dtype=np.int8), "t": np.float32(1)}, (2, 4)))
    assert isinstance(nn.Sequential(module, nn.ReLU())(torch.ones(2, 4)), torch.Tensor)


def test_stored_layers_are_priced_as_they_are(tmp_path):
    from bitwright.model.products import stored_products

    nodes, constants = qonnx_linear(QONNX, 4, 0, 0, "ROUND")
    module = load(built(tmp_path, nodes, constants, (5, 6)))
    ((layer, scheme),) = stored_products(module, (torch.zeros(5, 6),)).layers
    assert (layer.name, layer.gemm.k, layer.gemm.n, layer.calls) == ("fc", 6, 4, 1)
    assert (scheme.input.format, scheme.weight.format) == (Int(4, signed=False), Int(4))
    with pytest.raises(ValueError, match="no quantized layer"):
        stored_products(nn.Linear(2, 2), (torch.zeros(1, 2),))


@pytest.mark.parametrize("op", ["QLinearConv", "QLinearMatMul", "QGemm"])
def test_codes_that_two_nodes_share_keep_the_scale_that_each_node_gives(tmp_path, op):
    shape, axis, domain = {
        "QLinearConv": ((4, 3, 1, 1), 0, ""), "QLinearMatMul": ((3, 4), 1, ""), "QGemm": ((3, 4), 1, "com.microsoft")
    }[op]  # fmt: skip
    tensor, values = integers(TensorProto.INT8, *shape)
    tail = ["", "ys", "yz"] if op == "QGemm" else ["ys", "yz"]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["q"]),
        *(helper.make_node(op, ["q", "xs", "xz", "w", s, "wz", *tail], [f"a{s}"], domain=domain) for s in ("s", "t")),
        *(helper.make_node("DequantizeLinear", [f"a{s}", "ys", "yz"], [f"r{s}"]) for s in ("s", "t")),
        helper.make_node("Concat", ["rs", "rt"], ["y"], axis=0),
    ]
    constants = {"w": tensor, "s": np.float32(0.01), "t": np.float32(0.04), "wz": np.int8(0), "xs": np.float32(0.5),
                 "xz": np.uint8(9), "ys": np.float32(0.25), "yz": np.uint8(128)}  # fmt: skip
    x = np.rint(normal(2, 3, *shape[2:]) * 4) / 2  # on the grid of x
    module = load(built(tmp_path, nodes, constants, x.shape))
    w = values.reshape(4, 3).T if axis == 0 else values
    exact = np.concatenate([x.reshape(2, 3).astype(float) @ w * float(np.float32(s)) for s in (0.01, 0.04)])
    expected = np.clip(np.rint(exact / 0.25), -128, 127) * 0.25
    with torch.no_grad():
        found = module(torch.from_numpy(x)).numpy().reshape(4, 4)
    assert np.abs(found - expected).max() <= 0.25  # a step, where the float product lies at the middle of two
    assert np.abs(expected[2:]).max() > 1.5 * np.abs(expected[:2]).max()


def test_a_files_own_names_are_not_taken_for_what_is_made_on_the_way(tmp_path):
    tensor, _ = integers(TensorProto.INT8, 4, 3, 1, 1)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["q"]),
        helper.make_node("Neg", ["x"], ["c/x"]),
        helper.make_node("QLinearConv", ["q", "xs", "xz", "w", "s", "wz", "xs", "xz", "c/bias"], ["c"]),
        helper.make_node("Cast", ["c"], ["cf"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["c/bias"], ["bf"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["c/x"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["bf"], ["bsum"], keepdims=0),
        helper.make_node("Mul", ["cf", "none"], ["cf0"]),
        helper.make_node("Sum", ["cf0", "sum", "bsum"], ["y"]),
    ]
    constants = {"w": tensor, "s": np.float32(0.01), "wz": np.int8(0), "xs": np.float32(0.5), "xz": np.uint8(9),
                 "c/bias": np.array([5, -90, 1000, 7], np.int32), "none": np.float32(0)}  # fmt: skip
    x = np.ones((1, 3, 2, 2), np.float32)
    found = load(built(tmp_path, nodes, constants, x.shape))(torch.from_numpy(x))
    assert (found == 922 - 12).all()


@pytest.mark.parametrize("kind", [TensorProto.INT2, TensorProto.UINT2, TensorProto.INT4, TensorProto.UINT4,
                                  TensorProto.FLOAT4E2M1, TensorProto.FLOAT8E5M2])  # fmt: skip
def test_the_type_of_a_zero_point_that_a_node_holds_bounds_the_levels(tmp_path, kind):
    zero = helper.make_tensor("v", kind, (), [0])
    nodes = [
        helper.make_node("Constant", [], ["z"], value=zero),
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    x = np.linspace(-40, 40, 81, dtype=np.float32)
    path = built(tmp_path, nodes, {"s": np.float32(1)}, x.shape, opset=25)
    (expected,) = ReferenceEvaluator(str(path)).run(None, {"x": x})
    np.testing.assert_array_equal(load(path)(torch.from_numpy(x)).numpy(), expected)
