"""Float graphs become modules whose layers bitwright finds: the same outputs, names and quantized model."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import bitwright as bw

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
pytest.importorskip("onnxscript", reason="needs the extra onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

from bitwright.model.zoo import TASKS  # noqa: E402
from bitwright.model.zoo.embedded import EMBEDDED  # noqa: E402
from bitwright.sources.onnx import load  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of the converter

RANDOM = np.random.default_rng(0)


def exported(module, inputs, path):
    torch.onnx.export(module.eval(), inputs, path, dynamo=True, verbose=False)
    return path


def built(folder, nodes, initializers, inputs, *, opset=21, kind=TensorProto.FLOAT):
    """A model of nodes, its constants by name, with inputs of these shapes."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, kind, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(v, n) for n, v in initializers.items()],
    )
    path = folder / "m.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


def normal(*shape):
    return RANDOM.standard_normal(shape).astype(np.float32)


def agrees(path, *inputs):
    """With onnx.reference, to the rounding of float32 sums in another order; gives the module."""
    module = load(path)
    names = [i.name for i in onnx.load(path).graph.input]
    expected = ReferenceEvaluator(str(path)).run(None, dict(zip(names, inputs, strict=True)))
    with torch.no_grad():
        found = module(*[torch.from_numpy(x) for x in inputs])
    found = found if isinstance(found, tuple) else (found,)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a.numpy(), b, rtol=1e-4, atol=1e-5)
    return module


def test_a_network_keeps_its_outputs_and_the_names_of_its_layers(tmp_path):
    task = EMBEDDED["digits"]
    batch = next(iter(task.test(64)))
    network = task.load().eval()
    module = load(exported(network, (batch.inputs[0],), tmp_path / "m.onnx"))
    layers = {n for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    assert {n for n, m in module.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)} == layers
    with torch.no_grad():
        assert torch.allclose(module(*batch.inputs), network(*batch.inputs), rtol=1e-4, atol=1e-4)


def test_an_imported_network_quantizes_to_the_same_integers(tmp_path):
    task = EMBEDDED["digits"]
    calibration = [b.first(64) for b in task.calibration()][:1]
    path = exported(task.load(), (calibration[0].inputs[0],), tmp_path / "m.onnx")
    ours, theirs = (bw.quantize(m, "integer(8, 8)", calibration) for m in (task.load(), load(path)))
    codes = [{n: b for n, b in m.named_buffers() if n.endswith("codes")} for m in (ours, theirs)]
    assert codes[0].keys() == codes[1].keys()
    # the converter folds BatchNorm in float32, so a weight at the middle of two codes may go to the other one
    assert all((codes[0][n] == codes[1][n]).float().mean() > 0.999 for n in codes[0])


def test_attention_and_embeddings_of_a_language_model_are_found(tmp_path):
    task = EMBEDDED["pydoc"]
    batch = next(iter(task.test(2))).first(2)
    network = task.load().eval()
    module = load(exported(network, (batch.inputs[0],), tmp_path / "m.onnx"))
    with torch.no_grad():
        assert torch.allclose(module(*batch.inputs), network(*batch.inputs), rtol=1e-3, atol=1e-3)
    prepared = bw.prepare(module, bw.from_text("integer(8, 8)"), batch.inputs)
    kinds = {c.kind for c in prepared.coverage if c.status == "quantized"}
    assert {"Linear", "Embedding", "attention"} <= kinds


SMALL = [
    (nn.Conv1d(4, 6, 3, stride=2, padding=1), (2, 4, 9)),
    (nn.Conv2d(4, 6, 3, groups=2, dilation=2), (2, 4, 9, 9)),
    (nn.Conv2d(4, 4, 3, groups=4, padding="same"), (2, 4, 9, 9)),
    (nn.Conv3d(2, 3, 2), (1, 2, 4, 4, 4)),
    (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1), (2, 4, 5, 5)),
    (nn.ConvTranspose1d(4, 6, 4, groups=2), (2, 4, 5)),
    (nn.Linear(5, 7), (2, 3, 5)),
    (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Hardswish()), (2, 3, 6, 6)),
    (nn.LayerNorm(6), (2, 3, 6)),
    (nn.GroupNorm(2, 4), (2, 4, 5)),
    (nn.MultiheadAttention(8, 2, batch_first=True), (2, 5, 8)),
    (nn.Sequential(nn.AvgPool2d(3, 2, 1), nn.Upsample(scale_factor=2, mode="bilinear")), (1, 3, 9, 9)),
    (nn.Sequential(nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.PixelShuffle(2), nn.GELU()), (1, 4, 9, 9)),
    (nn.Sequential(nn.Unfold(3), nn.Softmax(-1)), (1, 2, 5, 5)),
    (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (2, 5, 8)),
    (nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.ELU(), nn.LogSoftmax(-1)), (2, 3, 6, 6)),
]


@pytest.mark.parametrize(("module", "shape"), SMALL, ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else "")
def test_what_torch_exports_comes_back(tmp_path, module, shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    inputs = (x, x, x) if isinstance(module, nn.MultiheadAttention) else (x,)
    path = exported(module, inputs, tmp_path / "m.onnx")
    given = [i.name for i in onnx.load(path).graph.input]
    with torch.no_grad():
        found, expected = load(path)(*inputs[: len(given)]), module(*inputs)
    found, expected = (v[0] if isinstance(v, tuple) else v for v in (found, expected))
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("has_state", [False, True])
def test_recurrent_nodes_become_torchs_layers(tmp_path, kind, direction, has_state):
    op, gates = kind.__name__, {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}[kind]
    count = 2 if direction == "bidirectional" else 1
    constants = {"w": normal(count, gates * 5, 3), "r": normal(count, gates * 5, 5), "b": normal(count, gates * 10)}
    states = {"h": normal(count, 2, 5), **({"c": normal(count, 2, 5)} if op == "LSTM" else {})} if has_state else {}
    extra = {"linear_before_reset": 1} if op == "GRU" else {}
    node = helper.make_node(op, ["x", "w", "r", "b", "", *states], ["y"], hidden_size=5, direction=direction, **extra)
    module = agrees(built(tmp_path, [node], constants | states, {"x": (4, 2, 3)}), normal(4, 2, 3))
    assert any(isinstance(m, kind) for m in module.modules())


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_convolution_of_any_attributes_becomes_a_layer(tmp_path, data):
    axes = data.draw(st.integers(1, 2))

    def drawn(low, high, count=axes):
        return data.draw(st.lists(st.integers(low, high), min_size=count, max_size=count))

    groups, kernel = data.draw(st.integers(1, 3)), drawn(1, 3)
    options = {"group": groups, "strides": drawn(1, 3), "dilations": drawn(1, 2)}
    auto = data.draw(st.sampled_from(["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if auto == "NOTSET":
        options["pads"] = drawn(0, 2, 2 * axes)
    else:
        options |= {"auto_pad": auto, "dilations": [1] * axes}  # ONNX Runtime has no others here
    constants = {"w": normal(2 * groups, 2, *kernel), **({"b": normal(2 * groups)} if data.draw(st.booleans()) else {})}
    shape = (2, 2 * groups, *drawn(6, 9))
    node = helper.make_node("Conv", ["x", *constants], ["y"], **options)
    path = built(tmp_path, [node], constants, {"x": shape})
    x = normal(*shape)
    module = load(path)
    expected = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    with torch.no_grad():
        np.testing.assert_allclose(module(torch.from_numpy(x)).numpy(), expected, rtol=1e-4, atol=1e-5)
    assert any(isinstance(m, nn.Conv1d | nn.Conv2d) for m in module.modules())


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    transposed=st.booleans(),
    alpha=st.sampled_from([1.0, 0.5]),
    beta=st.sampled_from([1.0, 2.0]),
    bias=st.sampled_from([None, (), (1,), (4,), (1, 4), (3, 1), (3, 4)]),
)
def test_a_gemm_with_constants_gives_what_the_reference_gives(tmp_path, transposed, alpha, beta, bias):
    constants = {"w": normal(*((4, 5) if transposed else (5, 4))), **({} if bias is None else {"b": normal(*bias)})}
    constants = {n: np.asarray(v, np.float32) for n, v in constants.items()}
    node = helper.make_node("Gemm", ["x", *constants], ["y"], transB=int(transposed), alpha=alpha, beta=beta)
    module = agrees(built(tmp_path, [node], constants, {"x": (3, 5)}), normal(3, 5))
    assert any(isinstance(m, nn.Linear) for m in module.modules()) == (bias not in ((3, 1), (3, 4)))


def test_a_product_and_its_bias_are_one_linear_layer(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"], name="/head/MatMul"),
        helper.make_node("Add", ["b", "p"], ["y"]),
    ]
    module = agrees(built(tmp_path, nodes, {"w": normal(5, 4), "b": normal(4)}, {"x": (2, 3, 5)}), normal(2, 3, 5))
    assert module.get_submodule("head").bias is not None


def test_one_weight_of_two_nodes_is_one_layer(tmp_path):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("MatMul", ["p", "w"], ["y"])]
    module = agrees(built(tmp_path, nodes, {"w": normal(5, 5)}, {"x": (2, 5)}), normal(2, 5))
    assert sum(isinstance(m, nn.Linear) for m in module.modules()) == 1


@pytest.mark.parametrize("masked", [False, True])
def test_scaled_products_around_a_softmax_are_attention(tmp_path, masked):
    nodes = [
        helper.make_node("Transpose", ["k"], ["kt"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["q", "kt"], ["s"]),
        helper.make_node("Div", ["s", "root"], ["t"]),
        *([helper.make_node("Add", ["t", "mask"], ["u"])] if masked else []),
        helper.make_node("Softmax", ["u" if masked else "t"], ["p"], axis=-1),
        helper.make_node("MatMul", ["p", "v"], ["y"]),
    ]
    shapes = {"q": (2, 3, 4, 5), "k": (2, 3, 6, 5), "v": (2, 3, 6, 7), **({"mask": (2, 1, 4, 6)} if masked else {})}
    path = built(tmp_path, nodes, {"root": np.float32(5**0.5)}, shapes)
    inputs = [normal(*s) for s in shapes.values()]
    module = agrees(path, *inputs)
    prepared = bw.prepare(module, bw.from_text("integer(8, 8)"), tuple(torch.from_numpy(x) for x in inputs))
    assert any(c.kind == "attention" and c.status == "quantized" for c in prepared.coverage)


@pytest.mark.parametrize("value", [-1.0, 1.0])
def test_graphs_inside_nodes_read_values_outside(tmp_path, value):
    def branch(op, name):
        made = helper.make_node(op, ["x", "w"], [name])
        return helper.make_graph([made], name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)])

    nodes = [
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
        helper.make_node("Greater", ["m", "zero"], ["c"]),
        helper.make_node("If", ["c"], ["y"], then_branch=branch("MatMul", "a"), else_branch=branch("Sub", "b")),
    ]
    path = built(tmp_path, nodes, {"w": normal(3, 3), "zero": np.float32(0)}, {"x": (3, 3)})
    agrees(path, np.full((3, 3), value, np.float32))


@pytest.mark.parametrize("value", [-1.0, 1.0])
@pytest.mark.parametrize("order", [("then_branch", "else_branch"), ("else_branch", "then_branch")])
def test_branches_read_their_own_values_in_either_order_of_the_file(tmp_path, value, order):
    def branch(name, value):
        made = helper.make_node("Neg", [value], [name])
        return helper.make_graph([made], name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)])

    chosen = helper.make_node("If", ["c"], ["y"])
    graphs = {"then_branch": branch("p", "double"), "else_branch": branch("q", "square")}
    chosen.attribute.extend(helper.make_attribute(name, graphs[name]) for name in order)
    nodes = [
        helper.make_node("Add", ["x", "x"], ["double"]),
        helper.make_node("Mul", ["x", "x"], ["square"]),
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
        helper.make_node("Greater", ["m", "zero"], ["c"]),
        chosen,
    ]
    agrees(built(tmp_path, nodes, {"zero": np.float32(0)}, {"x": (3,)}), np.full(3, 3 * value, np.float32))


def test_an_operator_of_which_one_output_is_named_gives_that_alone(tmp_path):
    node = helper.make_node("Unique", ["x"], ["y"])
    found = load(built(tmp_path, [node], {}, {"x": (5,)}))(torch.tensor([3.0, 1.0, 3.0, 2.0, 1.0]))
    assert found.tolist() == [1, 2, 3]


def node(op, inputs, **attributes):
    return helper.make_node(op, inputs.split(), ["y"], **attributes)


CORNERS = {
    "a product of integers": (node("MatMul", "x w"), {"w": np.array([[1, 2], [3, 4]], np.int32)}, (3, 2), np.int32),
    "planes of one element": (node("InstanceNormalization", "x s b"), {"s": normal(3), "b": normal(3)}, (2, 3, 1, 1)),
    "groups of one element": (
        node("GroupNormalization", "x s b", num_groups=3), {"s": normal(3), "b": normal(3)}, (1, 3, 1)
    ),
    "one scale for an axis": (node("LayerNormalization", "x s b"), {"s": normal(1), "b": normal(1)}, (2, 3, 5)),
    "a sum of nothing": (node("CumSum", "x a", exclusive=1), {"a": np.int32(1)}, (2, 0)),
    "the largest integer as padding": (
        node("Pad", "x p v"), {"p": np.array([1, 2]), "v": np.int64(2**63 - 1)}, (4,), np.int64
    ),
    "padding of booleans": (node("Pad", "x p v"), {"p": np.array([1, 2]), "v": np.bool_(True)}, (4,), np.bool_),
    "large integers resized": (
        node("Resize", "x none f", mode="nearest"),
        {"none": np.zeros(0, np.float32), "f": np.array([1, 2.0], np.float32)}, (1, 3), np.int32,
    ),
}  # fmt: skip


@pytest.mark.parametrize("corner", CORNERS)
def test_corners_of_operators_are_as_in_the_reference(tmp_path, corner):
    made, constants, shape, *kind = CORNERS[corner]
    kind = kind[0] if kind else np.float32
    x = normal(*shape) if kind is np.float32 else (RANDOM.integers(0, 2**30, shape) | 1).astype(kind)
    agrees(built(tmp_path, [made], constants, {"x": shape}, kind=helper.np_dtype_to_tensor_dtype(np.dtype(kind))), x)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
def test_an_empty_batch_stays_empty(tmp_path, op):
    path = built(tmp_path, [node(op, "x", axis=1)], {}, {"x": (0, 3, 2)}, opset=11)
    assert load(path)(torch.zeros(0, 3, 2)).shape == (0, 3, 2)


def test_a_split_into_more_parts_than_it_names_is_refused_before_they_are_made(tmp_path):
    path = built(tmp_path, [node("Split", "x", num_outputs=1 << 40)], {}, {"x": (4,)})
    with pytest.raises(ValueError, match="1099511627776 parts for 1 outputs"):
        load(path)(torch.zeros(4))


def test_channels_of_one_value_are_normalized_to_finite_numbers(tmp_path):
    path = built(tmp_path, [node("MeanVarianceNormalization", "x")], {}, {"x": (2, 3, 7, 5)})
    assert load(path)(torch.full((2, 3, 7, 5), 0.1)).isfinite().all()


def test_a_normalization_of_one_layer_over_inputs_of_two_ranks_is_two_layers(tmp_path):
    constants = {n: abs(normal(3)) for n in "sbmv"} | {"shape": np.array([4, 3, 2, 3])}
    nodes = [
        helper.make_node("BatchNormalization", ["x", *"sbmv"], ["a"]),
        helper.make_node("Expand", ["x", "wide"], ["r"]),
        helper.make_node("Reshape", ["r", "shape"], ["t"]),
        helper.make_node("Pad", ["t", "none"], ["u"]),
        helper.make_node("BatchNormalization", ["u", *"sbmv"], ["c"]),
        helper.make_node("Reshape", ["c", "shape_of_x"], ["d"]),
        helper.make_node("Add", ["a", "d"], ["y"]),
    ]
    constants |= {"wide": np.array([4, 3, 6]), "shape_of_x": np.array([4, 3, 6]), "none": np.zeros(8, np.int64)}
    path = built(tmp_path, nodes, constants, {"x": (4, 3, 6)})
    model = onnx.load(path)
    model.graph.value_info.append(helper.make_tensor_value_info("u", TensorProto.FLOAT, (4, 3, 2, 3)))
    path.write_bytes(model.SerializeToString())
    agrees(path, normal(4, 3, 6))


def test_a_division_of_scores_by_zero_is_no_attention_that_stops_the_import(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["q", "k"], ["s"]),
        helper.make_node("Div", ["s", "zero"], ["t"]),
        helper.make_node("Softmax", ["t"], ["p"], axis=-1),
        helper.make_node("MatMul", ["p", "v"], ["y"]),
    ]
    shapes = {"q": (2, 4, 5), "k": (2, 5, 6), "v": (2, 6, 7)}
    found = load(built(tmp_path, nodes, {"zero": np.float32(0)}, shapes))(*map(torch.ones, shapes.values()))
    assert found.shape == (2, 4, 7)


def test_a_call_of_a_function_runs_the_overload_that_it_names(tmp_path):
    bodies = [
        helper.make_function("own", "F", ["a"], ["b"], [helper.make_node(op, ["a"], ["b"])],
                             [helper.make_opsetid("", 21)], overload=op)
        for op in ("Neg", "Abs")
    ]  # fmt: skip
    call = helper.make_node("F", ["x"], ["y"], domain="own", overload="Neg")
    path = built(tmp_path, [call], {}, {"x": (3,)})
    model = onnx.load(path)
    model.functions.extend(bodies)
    model.opset_import.append(helper.make_opsetid("own", 1))
    path.write_bytes(model.SerializeToString())
    assert load(path)(torch.tensor([1.0, -2.0, 3.0])).tolist() == [-1, 2, -3]


@pytest.mark.data
def test_a_real_network_keeps_its_metric(tmp_path):
    task = TASKS["resnet8"]
    network = task.load().eval()
    batches = list(task.test(200))
    module = load(exported(network, (batches[0].inputs[0][:2],), tmp_path / "m.onnx"))
    for batch in batches:
        with torch.no_grad():
            # the file was made for two images
            outputs = torch.cat([module(x) for x in batch.inputs[0].split(2)])
            assert torch.equal(outputs.argmax(-1), network(*batch.inputs).argmax(-1))
