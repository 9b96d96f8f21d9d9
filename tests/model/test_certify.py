"""Certificates of whole layers: proofs hold for data, agree with `freeze`, and are checked again from JSON."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from bitwright.comparison import ModelTask
from bitwright.config import from_text
from bitwright.datapath import Accumulator, Datapath, Overflow
from bitwright.formats import BFLOAT16, Int
from bitwright.model.certificate import ModelCertificate, Placement
from bitwright.model.certify import certify_model, certify_task, reaching, verify_certificate
from bitwright.model.layers import QuantizedLayer
from bitwright.model.prepare import prove, quantize
from bitwright.model.task import Batch
from bitwright.store import read_json, write_json

SCHEMES = (
    "integer(8, 8)", "integer(8, 8, zero=Zero.FITTED)", "integer(8, 8, input_range=None)",
    "integer(8, 8, zero=Zero.FITTED, input_range=None)", "a2q(4, 8, 14)",
    "vs_quant(4, 4, 4, 4)", "vs_quant_chip()", "ant(4, 4)", "minifloat(4, 3)", "mxint8()", "mxfp8()", "mxfp4()",
    "nvfp4()", "overq(4, 4)", "term_revealing()", "combined(overq(4), term_revealing())",
)  # fmt: skip
"""Every family, with what differs in the register: zero points, ranges that follow the data, integer block scales."""


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Flatten(),
        nn.Linear(32, 4),
    ).eval()  # fmt: skip


def images(seed, count=6):
    return torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))


def task(**changes):
    calibration, test = ((Batch((images(seed),), torch.arange(6) % 4),) for seed in (0, 1))
    return ModelTask(**({"model": network(), "calibration_batches": calibration, "test_batches": test} | changes))


def layers(model):
    return [m for m in model.modules() if isinstance(m, QuantizedLayer)]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_is_proved_is_what_freeze_checks_and_holds_what_data_reaches(scheme):
    model = quantize(network(), scheme, [images(0)])
    with reaching(model) as reached:
        model(images(1))
    for layer, certificate in zip(layers(model), certify_model(model), strict=True):
        sums, seen, proof = certificate.sums, reached[layer.name], prove(layer).certificate
        assert sums.exact_bits == proof.inner_bits
        assert certificate.outer_bits == proof.outer_bits or proof.outer_bits is None
        assert sums.exact_bits <= min(sums.norm_bits, sums.zero_centred_bits, sums.data_type_bits)
        assert sums.low <= seen.low < seen.high <= sums.high


def test_utilisation_is_the_larger_part_of_either_side():
    layer = certify_task(task(), "integer(8, 8)", samples=2).layers[0]
    assert layer.utilisation == max(layer.reached_low / layer.sums.low, layer.reached_high / layer.sums.high)
    assert layer.reached_bits <= layer.exact_bits


def test_the_exact_width_is_enough_to_freeze_and_one_bit_less_is_not():
    needed = max(c.exact_bits for c in certify_task(task(), "integer(8, 8)").layers)
    quantize(network(), f"integer(8, 8, accumulator_bits={needed})", [images(0)])
    with pytest.raises(ValueError, match=f"need a {needed}-bit inner accumulator"):
        quantize(network(), f"integer(8, 8, accumulator_bits={needed - 1})", [images(0)])


@pytest.mark.parametrize("tile", [None, 5, 32])
@pytest.mark.parametrize("is_bias_inside", [False, True])
def test_reached_sums_are_those_of_the_integers(tile, is_bias_inside):
    model = quantize(network(), "integer(8, 8)", [images(0)])
    head = layers(model)[-1]
    x = torch.rand(7, 32, generator=torch.Generator().manual_seed(3))
    with reaching(model, Placement(tile, is_bias_inside)) as reached:
        y = head(x)
    codes = head.input_quantizer.quantize(x.numpy(), head.input_ranges)
    weight = head.quantized_weight()
    w = weight.elements().reshape(4, 32)
    step = float(codes.scale()[0, 0]) * weight.scale()[:, 0]
    bias = np.rint(head.bias.numpy() / step)
    inside = is_bias_inside and tile in (None, 32)
    width = tile or 32
    parts = [codes.elements().reshape(7, 32)[:, i : i + width] @ w[:, i : i + width].T for i in range(0, 32, width)]
    sums = np.stack(parts) + (bias if inside else 0)
    assert reached[head.name] == (sums.min(), sums.max())
    if inside:  # the rounded bias stands for the real one
        np.testing.assert_allclose(sums[0] * step, y.numpy(), rtol=0, atol=0.51 * step.max())


def test_a_zero_point_that_follows_the_data_may_be_any_code():
    positive = nn.Sequential(nn.Linear(64, 8, bias=False))
    positive[0].weight.data = torch.rand(8, 64, generator=torch.Generator().manual_seed(0))
    x = -torch.rand(4, 64, generator=torch.Generator().manual_seed(1))
    model = quantize(positive, "integer(8, 8, zero=Zero.FITTED, input_range=None)", [x])
    with reaching(model) as reached:
        model(x)
    (found,) = certify_model(model)
    assert found.sums.low <= reached["0"].low < reached["0"].high <= found.sums.high
    assert found.raw_code_bits is None


def test_tiles_need_a_narrower_register_and_an_outer_one():
    whole, tiled = (
        certify_task(task(), "integer(8, 8)", Placement(tile, is_bias_inside=True)).layers[0] for tile in (None, 9)
    )
    assert (whole.sums.tile, whole.outer_bits, whole.bias) == (27, None, "inside")
    assert (tiled.sums.tile, tiled.sums.tiles) == (9, 3)
    assert tiled.exact_bits < whole.exact_bits == tiled.outer_bits
    assert (tiled.outer_low, tiled.outer_high) == (whole.sums.low, whole.sums.high)


def test_asymmetric_inputs_have_a_width_for_raw_codes_too():
    asymmetric, symmetric = (
        certify_task(task(), s).layers[0] for s in ("integer(8, 8, zero=Zero.FITTED)", "integer()")
    )
    assert symmetric.raw_code_bits is None
    assert asymmetric.sums.input_low < 0 < asymmetric.sums.input_high
    assert asymmetric.sums.input_high - asymmetric.sums.input_low == 255
    assert asymmetric.raw_code_bits >= asymmetric.exact_bits - 1


@pytest.mark.parametrize(
    ("scheme", "words"),
    [
        (from_text("integer(4, None)"), "float accumulator: the input stays in float"),
        (replace(from_text("mxfp4()"), datapath=Datapath(inner=Accumulator(BFLOAT16))), "float accumulator: Minifloat"),
    ],
    ids=["weights only", "float register"],
)
@pytest.mark.filterwarnings("ignore::bitwright.kernels.SlowKernel")
def test_a_float_accumulator_is_called_one(scheme, words):
    certificate = certify_task(task(), scheme, samples=1)
    assert all(c.sums is None and c.note.startswith(words) for c in certificate.layers)
    assert f"not certified: 0 and 2 more: {words}" in "\n".join(certificate.lines())
    assert certificate.shortfall == ""


def test_a_register_that_is_too_narrow_is_named_with_the_way_out():
    certificate = certify_task(task(), "integer(8, 8, accumulator_bits=12)")
    assert [c.fits for c in certificate.layers] == [False] * 3
    assert certificate.shortfall == (
        "3 of 3 layers may overflow: 5 needs a 20-bit accumulator and has 12; widen it, or bound the weights with "
        "a2q(accumulator_bits=12)"
    )
    wrapping = certify_task(task(), "integer(8, 8, accumulator_bits=12, overflow=Overflow.WRAP)")
    assert wrapping.shortfall == ""
    assert wrapping.layers[0].overflow == Overflow.WRAP.name


def test_an_outer_register_that_is_too_narrow_is_named_too():
    def found(outer):
        return certify_task(task(), replace(from_text("integer(8, 8)"), datapath=Datapath(outer=outer, tile=9)))

    layers = [c for c in found(Accumulator(Int(30))).layers if c.outer_bits is not None]
    needed = max(c.outer_bits for c in layers)
    assert found(Accumulator(Int(needed))).shortfall == ""
    short = found(Accumulator(Int(needed - 1)))
    assert f"needs {needed} bits to add its tiles and has {needed - 1}; widen the outer register" in short.shortfall
    assert found(Accumulator(Int(needed - 1), Overflow.WRAP)).shortfall == ""


def test_a_certificate_written_and_read_verifies_its_model_and_no_other(tmp_path):
    stated = certify_task(task(), "integer(8, 8)", Placement(is_bias_inside=True))
    write_json(tmp_path / "c.json", stated)
    read = read_json(tmp_path / "c.json", ModelCertificate)
    assert read == stated
    model = quantize(network(), "integer(8, 8)", [images(0)])
    verify_certificate(model, read)
    layers(model)[1].codes[0, 0, 0] = 1
    with pytest.raises(ValueError, match="layer 2: the certificate is of other integers"):
        verify_certificate(model, read)


def test_a_certificate_that_states_too_little_is_refused():
    stated = certify_task(task(), "integer(8, 8)")
    model = quantize(network(), "integer(8, 8)", [images(0)])
    first = stated.layers[0]
    forged = replace(first, sums=replace(first.sums, exact_bits=8))
    with pytest.raises(ValueError, match="layer 0: the certificate states exact_bits = 8"):
        verify_certificate(model, replace(stated, layers=(forged, *stated.layers[1:])))
    with pytest.raises(ValueError, match="says nothing of layer 0"):
        verify_certificate(model, replace(stated, layers=stated.layers[1:]))
    wider = replace(first, available_bits=32)
    with pytest.raises(ValueError, match="states available_bits = 32"):
        verify_certificate(model, replace(stated, layers=(wider, *stated.layers[1:])))


@pytest.mark.parametrize(
    ("scheme", "placement", "words"),
    [
        ("mxfp4()", Placement(is_bias_inside=True), "layer 0: scales vary along K"),
        ("integer(8, 8, input_range=None)", Placement(is_bias_inside=True), "layer 0: the input's scale follows"),
        ("mxfp4()", Placement(tile=5), "layer 0: a tile of 5 elements does not divide the block"),
    ],
)
def test_what_a_register_cannot_hold_is_said_in_one_sentence(scheme, placement, words):
    with pytest.raises(ValueError, match=words):
        certify_task(task(), scheme, placement)


class SelfAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.project = nn.Linear(8, 8)

    def forward(self, x):
        y = self.project(x)
        return nn.functional.scaled_dot_product_attention(y, y, y).mean(1)


def test_products_of_two_activations_are_listed_even_where_their_register_is_too_narrow():
    torch.manual_seed(0)
    batches = (Batch((torch.randn(4, 5, 8),), torch.arange(4)),)
    model = ModelTask(SelfAttention(), batches, batches)
    certificate = certify_task(model, "integer(8, 8, accumulator_bits=9)")
    assert [c.kind for c in certificate.layers] == ["Linear", "attention", "attention"]
    assert [c.available_bits for c in certificate.layers] == [9] * 3
    assert all("both are activations" in c.note and c.sums is None for c in certificate.layers[1:])
    # 8 · 127 · 127 of signed queries and keys, 5 · 255 · 127 of unsigned probabilities and values
    assert [c.needed_bits for c in certificate.layers[1:]] == [18, 19]
    assert "attention probability × value needs a 19-bit accumulator and has 9; widen it" in certificate.shortfall
    assert certify_task(model, "integer(8, 8, accumulator_bits=19)").shortfall == ""


def test_data_is_required():
    with pytest.raises(ValueError, match="calibration data is empty"):
        certify_task(task(calibration_batches=()), "integer(8, 8)")
