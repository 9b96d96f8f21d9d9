"""Files that are no models, damaged or made to harm are refused in one sentence, in bounded time and memory."""

import pickle
import time
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from bitwright.sources.onnx import load  # noqa: E402

RANDOM = np.random.default_rng(0)


def saved(folder, nodes, initializers=(), *, shape=(1, 3, 8, 8), outputs=("y",), opset=21, functions=()):
    """The path of a model with one input x."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs],
        list(initializers),
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(f.domain, 1) for f in functions)]
    model = helper.make_model(graph, opset_imports=imports, functions=list(functions))
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def refused(path, *words):
    """The one sentence that refuses a file."""
    tracemalloc.start()
    start = time.perf_counter()
    with pytest.raises(ValueError) as caught:
        load(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert len(sentence) < 1000
    assert peak < 64 << 20
    assert time.perf_counter() - start < 10
    for word in words:
        assert word in sentence
    return sentence


def convolutional():
    """The bytes of a small model with QDQ around its first convolution, a constant shape and a recurrent layer."""
    weight = numpy_helper.from_array(RANDOM.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8), "conv.weight")
    scales = [numpy_helper.from_array(np.float32(v), n) for n, v in (("s", 0.02), ("t", 0.01))]
    zero = [numpy_helper.from_array(np.uint8(7), "z"), numpy_helper.from_array(np.int64([0, -1]), "shape")]
    dense = numpy_helper.from_array(RANDOM.standard_normal((256, 5)).astype(np.float32), "head.weight")
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["conv.weight", "t"], ["w"]),
        helper.make_node("Conv", ["d", "w"], ["c"], pads=[1, 1, 1, 1], name="conv"),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Reshape", ["r", "shape"], ["f"]),
        helper.make_node("MatMul", ["f", "head.weight"], ["y"], name="head"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 8, 8))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [weight, *scales, *zero, dense],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]).SerializeToString()


MODEL = convolutional()


def test_the_small_model_runs(tmp_path):
    (tmp_path / "m.onnx").write_bytes(MODEL)
    assert load(tmp_path / "m.onnx")(torch.rand(2, 3, 8, 8)).shape == (2, 5)


def test_no_beginning_of_a_file_is_read_as_a_model(tmp_path):
    path = tmp_path / "m.onnx"
    for length in range(0, len(MODEL), 41):
        path.write_bytes(MODEL[:length])
        refused(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, len(MODEL) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_file_with_changed_bytes_is_refused_or_runs(tmp_path, changes):
    damaged = bytearray(MODEL)
    for place, value in changes:
        damaged[place] = value
    path = tmp_path / "m.onnx"
    path.write_bytes(bytes(damaged))
    sentence = ""
    try:
        load(path)(torch.zeros(1, 3, 8, 8))
    except ValueError as refusal:
        sentence = str(refusal)
    assert "\n" not in sentence


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=400))
def test_any_bytes_are_refused(tmp_path, content):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    refused(path)


@pytest.mark.parametrize(
    "content",
    [b"", pickle.dumps({"weight": [1, 2]}), b"PK\x03\x04", b"{}", b"\x08\x0a"],
    ids=["empty", "pickle", "zip", "json", "version alone"],
)
def test_what_is_no_model_is_refused(tmp_path, content):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    refused(path, "no ONNX model")


def test_a_pickle_inside_is_not_opened(tmp_path):
    class Harm:
        def __reduce__(self):
            return (open, (str(tmp_path / "harm"), "w"))

    path = tmp_path / "m.onnx"
    torch.save(Harm(), path)
    refused(path)
    assert not (tmp_path / "harm").exists()


def test_a_path_that_is_no_file_is_refused(tmp_path):
    refused(tmp_path / "missing.onnx", "no file")
    refused(tmp_path, "no file")


@pytest.mark.parametrize("dims", [(1 << 40,), (1 << 20, 1 << 20, 1 << 20), (-1,), (4, -4), (5,)])
def test_a_shape_that_is_not_stored_is_refused_before_memory_is_taken(tmp_path, dims):
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, raw_data=b"\0" * 16)
    refused(saved(tmp_path, [helper.make_node("Add", ["x", "w"], ["y"])], [tensor]), "'w'", "damaged")


@pytest.mark.parametrize(
    ("kind", "word"), [(TensorProto.STRING, "string"), (TensorProto.COMPLEX64, "complex64"), (99, "99")]
)
def test_a_type_that_is_no_number_of_ours_is_refused_by_name(tmp_path, kind, word):
    tensor = TensorProto(name="w", data_type=kind, dims=[2], raw_data=b"\0" * 16)
    refused(saved(tmp_path, [helper.make_node("Add", ["x", "w"], ["y"])], [tensor]), word)


@pytest.mark.parametrize(
    ("op", "inputs"),
    [
        ("ConstantOfShape", ["large"]),
        ("Expand", ["one", "large"]),
        ("Tile", ["one", "large"]),
        ("Range", ["a", "b", "c"]),
    ],
)
def test_tensors_that_would_be_huge_are_not_computed(tmp_path, op, inputs):
    large = numpy_helper.from_array(np.int64([1 << 20, 1 << 20]), "large")
    one = numpy_helper.from_array(np.float32([[1]]), "one")
    three = [numpy_helper.from_array(np.int64(v), n) for n, v in (("a", 0), ("b", 1 << 50), ("c", 1))]
    nodes = [helper.make_node(op, inputs, ["t"]), helper.make_node("Identity", ["t"], ["y"])]
    model = load(saved(tmp_path, nodes, [large, one, *three]))
    with pytest.raises(ValueError, match="elements are given to one tensor"):
        model(torch.zeros(1))


def test_an_outer_product_of_many_vectors_is_not_computed(tmp_path):
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMN"
    node = helper.make_node("Einsum", ["x"] * 40, ["y"], equation=f"{','.join(letters)}->{letters}")
    model = load(saved(tmp_path, [node], shape=(2,)))
    with pytest.raises(ValueError, match="elements are given to one tensor"):
        model(torch.zeros(2))


def test_a_huge_constant_is_not_folded(tmp_path):
    column = numpy_helper.from_array(np.zeros((1 << 18, 1), np.float32), "column")
    row = numpy_helper.from_array(np.zeros((1, 1 << 18), np.float32), "row")
    path = saved(tmp_path, [helper.make_node("Add", ["column", "row"], ["y"])], [column, row])
    tracemalloc.start()
    load(path)
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "", "sub/../../secret", "link"])
def test_tensors_outside_of_the_models_folder_are_not_read(tmp_path, location):
    (tmp_path / "secret").write_bytes(b"\0" * 16)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "secret")
    tensor = external(location)
    refused(saved(folder, [helper.make_node("Add", ["x", "w"], ["y"])], [tensor]), "not in the folder")


@pytest.mark.parametrize(("offset", "length"), [("1", "16"), ("0", "17"), ("-4", "16"), ("9" * 30, "16"), ("x", "16")])
def test_a_place_in_another_file_that_does_not_exist_is_refused(tmp_path, offset, length):
    (tmp_path / "weights").write_bytes(b"\0" * 16)
    tensor = external("weights", offset, length)
    refused(saved(tmp_path, [helper.make_node("Add", ["x", "w"], ["y"])], [tensor]), "'w'")


def test_tensors_beside_the_model_are_read(tmp_path):
    values = np.float32([1, 2, 3, 4])
    (tmp_path / "weights").write_bytes(b"head" + values.tobytes())
    path = saved(tmp_path, [helper.make_node("Add", ["x", "w"], ["y"])], [external("weights", "4", "16")])
    np.testing.assert_array_equal(load(path)(torch.zeros(4)).numpy(), values)


def external(location, offset="0", length="16"):
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=value)
    return tensor


def test_every_unknown_operator_is_named_in_one_sentence(tmp_path):
    nodes = [
        helper.make_node("NonMaxSuppression", ["x", "x"], ["a"]),
        helper.make_node("StringConcat", ["a", "a"], ["b"]),
        helper.make_node("Strange", ["b"], ["c"], domain="my.own"),
        helper.make_node("Strange", ["c"], ["y"], domain="my.own"),
    ]
    refused(saved(tmp_path, nodes), "NonMaxSuppression", "StringConcat", "my.own.Strange (2 times)")


def test_an_unknown_attribute_is_named(tmp_path):
    refused(saved(tmp_path, [helper.make_node("Relu", ["x"], ["y"], strange=1)]), "Relu", "strange")


@pytest.mark.parametrize(
    ("nodes", "word"),
    [
        ([("Relu", ["missing"], ["y"])], "nothing makes"),
        ([("Relu", ["y"], ["y"])], "nothing makes"),
        ([("Relu", ["b"], ["y"]), ("Relu", ["x"], ["b"])], "nothing makes"),
        ([("Relu", ["x"], ["y"]), ("Neg", ["x"], ["y"])], "second time"),
        ([("Relu", ["x"], ["z"])], "made by no node"),
    ],
)
def test_a_graph_whose_values_are_not_in_order_is_refused(tmp_path, nodes, word):
    refused(saved(tmp_path, [helper.make_node(*n) for n in nodes]), word)


def test_functions_that_call_each_other_without_end_are_refused(tmp_path):
    function = helper.make_function(
        "own",
        "F",
        ["a"],
        ["b"],
        [helper.make_node("F", ["a"], ["c"], domain="own"), helper.make_node("F", ["c"], ["b"], domain="own")],
        [helper.make_opsetid("own", 1)],
    )
    refused(saved(tmp_path, [helper.make_node("F", ["x"], ["y"], domain="own")], functions=[function]), "functions")


def test_a_newer_opset_is_refused_with_the_way_out(tmp_path):
    refused(saved(tmp_path, [helper.make_node("Relu", ["x"], ["y"])], opset=999), "opset 999", "newer onnx")


def test_inputs_that_do_not_fit_are_refused_by_the_node(tmp_path):
    model = load(
        saved(
            tmp_path,
            [helper.make_node("Add", ["x", "w"], ["y"], name="sum")],
            [numpy_helper.from_array(np.zeros(5, np.float32), "w")],
        )
    )
    with pytest.raises(ValueError, match=r"'sum' \(Add\).*\(4,\) float32"):
        model(torch.zeros(4))
    with pytest.raises(ValueError, match="inputs x"):
        model(torch.zeros(5), torch.zeros(5))


def test_a_model_is_a_module_without_steps_for_what_is_constant(tmp_path):
    model = load(saved(tmp_path, [helper.make_node("Identity", ["x"], ["y"])]))
    assert isinstance(model, nn.Module)
    assert not model.training


WEIGHT = numpy_helper.from_array(np.ones((3, 3, 3, 3), np.float32), "w")


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool"])
def test_an_unknown_padding_is_named_with_those_that_there_are(tmp_path, op):
    inputs, kernel = (["x", "w"], {}) if op.startswith("Conv") else (["x"], {"kernel_shape": [2, 2]})
    path = saved(tmp_path, [helper.make_node(op, inputs, ["y"], auto_pad="SAME", **kernel)], [WEIGHT])
    with pytest.raises(ValueError, match="auto_pad 'SAME' is none of NOTSET, VALID, SAME_UPPER, SAME_LOWER"):
        load(path)(torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("LRN", {"size": 2**30}), ("AveragePool", {"kernel_shape": [2**15, 2**15]}),
        ("LpPool", {"kernel_shape": [3, 3], "pads": [2**14] * 4}),
        ("MaxPool", {"kernel_shape": [3, 3], "pads": [2**14] * 4}),
        ("MaxPool", {"kernel_shape": [2**15, 2**15], "auto_pad": "SAME_UPPER"}), ("Conv", {"pads": [2**14] * 4}),
        ("Conv", {"pads": [2**14, 2**14, 0, 0]}), ("Conv", {"dilations": [2**14, 2**14], "auto_pad": "SAME_LOWER"}),
        ("ConvTranspose", {"output_shape": [2**15, 2**15]}),
    ],
)  # fmt: skip
def test_windows_of_absurd_sizes_are_refused_before_memory_is_taken(tmp_path, op, attributes):
    inputs = ["x", "w"] if op.startswith("Conv") else ["x"]
    model = load(saved(tmp_path, [helper.make_node(op, inputs, ["y"], **attributes)], [WEIGHT]))
    with pytest.raises(ValueError, match=r"asks for the shape .* at most \d+ elements"):
        model(torch.zeros(1, 3, 8, 8))


def test_pads_for_another_number_of_axes_are_refused(tmp_path):
    refused(
        saved(tmp_path, [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1])], [WEIGHT]), "3 pads", "2 axes"
    )


@pytest.mark.parametrize("location", ["a\0b", "a" * 5000], ids=["nul", "long"])
def test_a_place_that_no_file_has_is_refused(tmp_path, location):
    proto = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3, 3, 3, 3], data_location=TensorProto.EXTERNAL)
    proto.external_data.add(key="location", value=location)
    refused(saved(tmp_path, [helper.make_node("Conv", ["x", "w"], ["y"])], [proto]), "which no file can be called")


def test_shapes_that_are_only_declared_take_no_memory(tmp_path):
    path = saved(tmp_path, [helper.make_node("Conv", ["x", "w"], ["y"])], [WEIGHT], shape=(2**31, 3, 2**31, 2**31))
    assert load(path)(torch.zeros(1, 3, 8, 8)).shape == (1, 3, 6, 6)
