"""Models with packed linear layers: the same results, an eighth of the memory, saved and loaded as codes."""

import copy
import multiprocessing
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import bitwright as bw
from bitwright import kernels
from bitwright.model.packed import PackedLinear

WEIGHT_ONLY = [
    "nvfp4(weight_only=True)", "mxfp4(weight_only=True)",
    "ant_type('flint', 4, None)", "vs_quant(4, None)", "integer(4, None)",
]  # fmt: skip
INTEGERS = ["nvfp4()", "mxfp4()", "ant_type('flint', 4, 8)", "ant_type('pot', 4, 8)", "vs_quant(4, 8)", "integer(4, 8)"]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(100, 70), nn.ReLU(), nn.Linear(70, 33, bias=False))


def inputs(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("scheme", WEIGHT_ONLY)
def test_float_inputs_give_what_the_frozen_model_gives_to_rounding(scheme):
    model, x = network(), inputs(2, 5, 100)
    packed = bw.pack_linear(model, scheme)
    torch.testing.assert_close(packed(x), bw.quantize(model, scheme, [x])(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scheme", INTEGERS)
def test_a_frozen_model_gives_the_same_bits_packed(scheme):
    x = inputs(2, 5, 100)
    frozen = bw.quantize(network(), scheme, [x])
    packed = bw.pack_linear(frozen)
    assert [type(layer) for layer in packed] == [PackedLinear, nn.ReLU, PackedLinear]
    for use in (("native", "torch"), ("torch",)):
        with kernels.only(*use):
            assert torch.equal(packed(x), frozen(x))


def test_a_dynamic_scheme_needs_no_calibration():
    x = inputs(5, 100)
    assert torch.equal(bw.pack_linear(network(), "mxfp4()")(x), bw.quantize(network(), "mxfp4()", [x])(x))


def test_weights_take_the_bits_that_the_scheme_says():
    layer = nn.Linear(512, 256, bias=False)
    packed = bw.pack_linear(nn.Sequential(layer), "nvfp4(weight_only=True)")
    stored = sum(t.numel() * t.element_size() for t in packed.state_dict().values())
    assert stored == 512 * 256 * 4.5 / 8 + 4


def test_what_is_saved_as_safetensors_comes_back(tmp_path):
    x = inputs(5, 100)
    packed = bw.pack_linear(network(), "nvfp4(weight_only=True)")
    save_file(packed.state_dict(), tmp_path / "model.safetensors")
    different = network()
    nn.init.normal_(different[0].weight)
    other = bw.pack_linear(different, "nvfp4(weight_only=True)")
    assert not torch.equal(other(x), packed(x))
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(other(x), packed(x))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"])
def test_copies_compute_on_their_own(copied):
    x = inputs(5, 100)
    packed = bw.pack_linear(network(), "mxfp4()")
    expected, other = packed(x), copied(packed)
    packed[0].codes.zero_()
    assert torch.equal(other(x), expected)


def test_the_float_model_is_left_as_it_was_and_shares_the_rest():
    model = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 8))
    packed = bw.pack_linear(model, "nvfp4(weight_only=True)")
    assert type(model[1]) is nn.Linear
    assert packed[0].weight is model[0].weight
    assert [(row.name, row.status) for row in packed.coverage] == [("1", "quantized")]


def test_half_precision_and_inference_mode():
    packed = bw.pack_linear(network(), "nvfp4(weight_only=True)")
    expected = packed(inputs(5, 100).bfloat16().float())
    with torch.inference_mode():
        found = packed.bfloat16()(inputs(5, 100).bfloat16())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=2e-2, atol=2e-2)


def _child(packed, connection):
    connection.send(packed(inputs(64, 100)).sum().item())


def test_a_forked_process_computes():
    packed = bw.pack_linear(network(), "nvfp4(weight_only=True)")
    expected = packed(inputs(64, 100)).sum().item()
    receiving, sending = multiprocessing.Pipe(False)
    child = multiprocessing.get_context("fork").Process(target=_child, args=(packed, sending))
    child.start()
    assert receiving.poll(60), "the child hangs"
    assert receiving.recv() == expected
    child.join()


@pytest.mark.parametrize(
    ("scheme", "named"),
    [("nvfp4()", "calibration"), ("integer(8, None)", "4 bits"), (None, "pass a scheme")],
)
def test_what_cannot_be_packed_is_said(scheme, named):
    with pytest.raises(ValueError, match=named):
        bw.pack_linear(network(), scheme)


@pytest.mark.parametrize("rule", ["first", "last"])
def test_a_recipe_names_the_layers_that_are_packed(rule):
    recipe = bw.Recipe((bw.Rule(rule, bw.from_text("mxfp4(weight_only=True)")),))
    packed = bw.pack_linear(network(), recipe)
    assert [isinstance(layer, PackedLinear) for layer in packed] == [rule == "first", False, rule == "last"]


def test_another_device_than_the_cpu_is_refused():
    packed = bw.pack_linear(nn.Sequential(nn.Linear(64, 32)), "nvfp4(weight_only=True)")
    with pytest.raises(ValueError, match="layer 0: input on meta, codes on cpu; packed layers run on CPUs"):
        packed(torch.ones(1, 64, device="meta"))
