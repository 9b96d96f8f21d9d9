"""The native passes of a training step equal the formulas in torch, for every set of instructions."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from bitwright import kernels
from bitwright.formats import E2M1, Int
from bitwright.kernels import library
from bitwright.kernels.native import training as native
from bitwright.model.surrogate import SLACK, FakeQuantizer, Rows, first_step, learned_ranges
from bitwright.model.weight_norm import LearnedNorm
from bitwright.quantization import PerBlock, PerColumns, PerRow, PerTensor, Quantizer, Range, Scale, Zero
from bitwright.quantization.weight_norm import NormBound, normalised
from bitwright.schemes import mxfp4, mxfp8, nvfp4, vs_quant
from bitwright.schemes.ant import flint
from bitwright.testing import matrices, quantizers

pytestmark = [
    pytest.mark.usefixtures("instructions"),
    pytest.mark.filterwarnings("ignore::bitwright.kernels.SlowKernel"),
]

ULP = 2.0**-23


def plain(format, share=PerTensor()):
    return Quantizer(format, (Scale(share),))


def static(*magnitudes: float):
    magnitude = np.array(magnitudes)[:, None]
    return Range(-magnitude, magnitude)


TALL = static(*np.linspace(0.3, 3, 37))
SETTINGS = {
    "unsigned, a tensor": (plain(Int(8, signed=False)), (static(1.7),)),
    "signed with one more below, a tensor": (plain(Int(4)), (static(1.3),)),
    "fixed point, a tensor": (plain(Int(5, exponent=-3)), (static(2.1),)),
    "symmetric, rows": (plain(Int(8, narrow=True), PerRow()), (TALL,)),
    "symmetric, dynamic rows": (plain(Int(4, narrow=True), PerRow()), ()),
    "unsigned, dynamic rows": (plain(Int(4, signed=False), PerRow()), ()),
    "blocks": (plain(Int(4, narrow=True), PerBlock(16)), ()),
    "unsigned blocks": (plain(Int(4, signed=False), PerBlock(5)), ()),
    "VS-Quant, a weight": (vs_quant(4, 4).weight, ()),
    "VS-Quant, an input": (vs_quant(4, 4).input.signed, (static(1.1), None)),
    "VS-Quant, an unsigned input": (vs_quant(3, 3).input.unsigned, (static(1.1), None)),
    "VS-Quant, long vectors": (vs_quant(4, 4, vector=32).input.signed, (static(1.1), None)),
}  # fmt: skip
"""All of them in one pass each way."""

OTHERS = {
    "flint, a tensor": (plain(flint(4)), (static(1.2),)), "E2M1, rows": (plain(E2M1, PerRow()), (TALL,)),
    "MXFP4": (mxfp4().weight, ()), "MXFP8": (mxfp8().weight, ()), "NVFP4": (nvfp4().weight, ()),
    "a zero point": (Quantizer(Int(4, signed=False), (Scale(PerTensor()),), zero=Zero.FITTED),
                     (Range(np.full((1, 1), -1.1), np.full((1, 1), 1.9)),)),
    "columns": (plain(Int(4), PerColumns(16)), (Range(-np.full((1, 5), 1.0), np.linspace(0.5, 2, 5)[None]),)),
}  # fmt: skip
"""Quantized by other kernels, with gradients in one pass."""


def drawn(rows: int = 37, k: int = 70) -> torch.Tensor:
    """Ordinary values, zeros, subnormals, ties of integers, huge ones, and a row of zeros."""
    x = torch.randn(rows, k, generator=torch.Generator().manual_seed(0))
    x[:, ::7] = (x[:, ::7] * 4).round() / 2
    x[1::5, 1::6], x[2::5, 2::6], x[3::5, 3::6] = 0.0, -0.0, 1e-41
    x[4::9, 5::11] = 3e33
    x[-1] = 0.0
    return x


def gradients(fake: FakeQuantizer, x: torch.Tensor, upstream: torch.Tensor, step: torch.Tensor | None = None):
    """The output, and gradients of x and of the step."""
    leaves = [t.detach().clone().requires_grad_() for t in (x, step) if t is not None]
    y = fake(leaves[0], step=leaves[1] if step is not None else None, samples=2)
    return y.detach(), *torch.autograd.grad(y, leaves, upstream)


@pytest.mark.parametrize("name", SETTINGS)
def test_integers_in_one_pass_are_the_references(name):
    quantizer, ranges = SETTINGS[name]
    x = drawn()
    found, _ = native.Integers(quantizer, ranges, (-1.0, 1.0)).forward(x)
    np.testing.assert_array_equal(found.numpy(), quantizer.quantize(x.numpy(), ranges).decode().astype(np.float32))


@pytest.mark.parametrize("k", [1, 3, 15, 16, 17, 48, 70, 1030])
@pytest.mark.parametrize("name", [n for n in SETTINGS if n != "symmetric, rows"])
def test_sizes_that_are_no_multiple_of_anything_are_the_references(name, k):
    quantizer, ranges = SETTINGS[name]
    x = drawn(5, k)
    found, _ = native.Integers(quantizer, ranges, (-1.0, 1.0)).forward(x)
    np.testing.assert_array_equal(found.numpy(), quantizer.quantize(x.numpy(), ranges).decode().astype(np.float32))


@pytest.mark.parametrize("name", {**SETTINGS, **OTHERS})
def test_gradients_of_values_are_those_of_the_formula(name):
    fake = FakeQuantizer(*(SETTINGS | OTHERS)[name])
    x, upstream = drawn(), drawn(37, 70).flip(0)
    x[4::9, 5::11] = 9.0  # a scale stays of the size of the rest
    found = gradients(fake, x, upstream)
    with kernels.only("torch", "reference"):
        expected = gradients(fake, x, upstream)
    for f, e in zip(found, expected, strict=True):
        np.testing.assert_array_equal(f.numpy(), e.numpy())
    assert 0 < (found[1] == 0).sum() < x.numel()


@pytest.mark.parametrize("format", [Int(8, signed=False), Int(4, narrow=True), Int(3), flint(4), E2M1], ids=str)
@pytest.mark.parametrize("share", [PerTensor(), PerRow()], ids=str)
@pytest.mark.parametrize("k", [1, 33, 1500])
def test_gradients_of_steps_are_those_of_the_formula_to_a_last_bit(format, share, k):
    x, upstream = drawn(9, k), torch.randn(9, k, generator=torch.Generator().manual_seed(1))
    magnitude = np.linspace(0.4, 3, share.shape(9, k)[0])[:, None]
    fake = FakeQuantizer(plain(format, share), (Range(-magnitude, magnitude),))
    step = first_step(fake.quantizer, fake.ranges).detach() * 1.1
    found = gradients(fake, x, upstream, step)
    with kernels.only("torch"):
        expected = gradients(fake, x, upstream, step)
    for f, e in zip(found[:2], expected[:2], strict=True):
        np.testing.assert_array_equal(f.numpy(), e.numpy())
    # float64 sums of the same float32 terms in two orders, each rounded once
    np.testing.assert_allclose(
        found[2].numpy(), expected[2].numpy(), rtol=ULP, atol=1e-12 * float(upstream.abs().sum())
    )
    reference = fake.quantizer.quantize(x.numpy(), learned_ranges(fake.quantizer, step)).decode().astype(np.float32)
    np.testing.assert_array_equal(found[0].numpy(), reference)


def test_the_gradient_of_a_step_is_that_of_finite_differences_where_all_levels_are_saturated():
    x = torch.tensor([[9.0, -8.0, 7.5]])
    fake = FakeQuantizer(plain(Int(4, narrow=True)), (static(1.0),))
    upstream, step = torch.tensor([[1.0, 3.0, 0.5]]), torch.full((1, 1), 0.125)
    _, of_x, of_step = gradients(fake, x, upstream, step)
    outputs = [(fake(x, step=step + h, samples=2) * upstream).sum().item() for h in (0.03125, -0.03125)]
    factor = 1 / math.sqrt(3 / 2 * 7)
    assert not of_x.any()
    assert of_step.item() == pytest.approx(factor * (outputs[0] - outputs[1]) / 0.0625, rel=1e-6)


@pytest.mark.parametrize("share", [PerTensor(), PerRow()], ids=str)
def test_sums_are_the_same_bits_for_every_set_of_instructions_and_any_number_of_threads(share, monkeypatch):
    x, upstream = torch.randn(2, 50, 333, generator=torch.Generator().manual_seed(2))
    steps = torch.full(share.shape(50, 333), 0.01)
    integers = native.Integers(plain(Int(8), share), (static(*[1.0] * len(steps)),), (-128 * SLACK, 127 * SLACK))
    with library.level("baseline"):
        expected = integers.backward(x, upstream, steps, factor=0.125)
    monkeypatch.setattr(native, "LARGE", 1)
    for threads in (1, 2, 3, 7):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        found = integers.backward(x, upstream, steps, factor=0.125)
        assert torch.equal(found.of_scale, expected.of_scale)
        assert torch.equal(found.of_x, expected.of_x)
        assert torch.equal(integers.forward(x, steps)[0], integers.forward(x)[0]) == (threads == 0)


@pytest.mark.parametrize("name", SETTINGS)
def test_threads_change_no_bit(name, monkeypatch):
    quantizer, ranges = SETTINGS[name]
    integers = native.Integers(quantizer, ranges, (0.0, 3.0))
    x, upstream = drawn(37, 128), drawn(37, 128).flip(1)
    expected = (*integers.forward(x), integers.backward(x, upstream).of_x)
    monkeypatch.setattr(native, "LARGE", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    found = (*integers.forward(x), integers.backward(x, upstream).of_x)
    assert torch.equal(found[0], expected[0])
    assert found[1] == expected[1]
    assert torch.equal(found[2], expected[2])


@settings(deadline=None)  # the first call for a format fills its table
@given(quantizer=quantizers(), x=matrices())
def test_any_quantizer_has_the_values_and_gradients_of_the_formula(quantizer, x):
    fake = FakeQuantizer(quantizer)
    values = torch.from_numpy(x.astype(np.float32))
    upstream = values.flip(0) + 1
    found = gradients(fake, values, upstream)
    with kernels.only("torch", "reference"):
        expected = gradients(fake, values, upstream)
    for f, e in zip(found, expected, strict=True):
        np.testing.assert_array_equal(f.numpy(), e.numpy())


def test_rows_may_be_seen_in_a_tensor_of_any_shape_layout_and_type():
    quantizer, ranges = SETTINGS["VS-Quant, an unsigned input"]
    image = torch.randn(2, 24, 5, 3, generator=torch.Generator().manual_seed(3))
    rows = Rows(
        lambda x: x.movedim(1, -1).reshape(-1, 24), lambda r, like: r.view(*like.movedim(1, -1).shape).movedim(-1, 1)
    )
    for x in (image, image.to(memory_format=torch.channels_last), image[:, :, :, ::2], image.bfloat16()):
        found, expected = [x.clone().requires_grad_() for _ in range(2)]
        y = FakeQuantizer(quantizer, ranges)(found, rows)
        with kernels.only("torch"):
            z = FakeQuantizer(quantizer, ranges)(expected, rows)
        assert torch.equal(y, z)
        assert y.dtype == x.dtype
        (y * x).sum().backward()
        (z * x).sum().backward()
        assert torch.equal(found.grad, expected.grad)


def test_where_nothing_is_out_of_reach_the_gradient_is_handed_on_as_it_is():
    x = torch.rand(4, 32, requires_grad=True)
    upstream = torch.randn(4, 32)
    (found,) = torch.autograd.grad(FakeQuantizer(vs_quant(4, 4).weight)(x), x, upstream)
    assert found.data_ptr() == upstream.data_ptr()


def test_an_empty_tensor_has_an_empty_gradient():
    x = torch.empty(0, 16, requires_grad=True)
    FakeQuantizer(*SETTINGS["unsigned, a tensor"])(x).sum().backward()
    assert x.grad.shape == (0, 16)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", SETTINGS)
def test_a_value_that_is_not_finite_is_refused_by_its_place(name, value):
    x = drawn()
    x[3, 64] = value
    with pytest.raises(ValueError, match=r"row, column \(3, 64\)"):
        FakeQuantizer(*SETTINGS[name])(x.requires_grad_())


def test_a_step_that_is_not_above_zero_is_refused():
    fake = FakeQuantizer(*SETTINGS["symmetric, rows"])
    step = torch.linspace(0, 1, 37)[:, None].requires_grad_()
    with pytest.raises(ValueError, match="a learned step size is 0, and must stay above zero"):
        fake(drawn(), step=step)


@pytest.mark.parametrize(
    "quantizer",
    [plain(E2M1), Quantizer(Int(8), (Scale(PerRow()), Scale(PerBlock(4), Int(4, signed=False))))],
    ids=["floats", "stored scales of blocks"],
)  # fmt: skip
def test_what_is_not_taken_is_said(quantizer):
    with pytest.raises(kernels.Unsupported):
        native.Integers(quantizer, (), (-1.0, 1.0))


def norm_of(rows: int, tiles: int, bound: NormBound) -> LearnedNorm:
    generator = torch.Generator().manual_seed(4)
    made = LearnedNorm(torch.ones(rows, tiles), torch.ones(rows, 1), bound, float(bound.largest))
    with torch.no_grad():
        made.log_norm += torch.rand(rows, tiles, generator=generator) * 8 - 3
        made.log_scale += torch.rand(rows, 1, generator=generator) * 6 - 5
    return made


@pytest.mark.parametrize("centred", [False, True], ids=["A2Q", "A2Q+"])
@pytest.mark.parametrize("tile", [None, 16, 7])
@pytest.mark.parametrize("k", [1, 48, 65])
def test_learned_norms_have_the_integers_and_gradients_of_the_formula(centred, tile, k, monkeypatch):
    bound = NormBound(7, 20.3, centred, tile)
    norm = norm_of(60, bound.shape(k)[0], bound)
    v = torch.randn(60, k, generator=torch.Generator().manual_seed(5))
    v[::7] = 0
    upstream = torch.randn(60, k, generator=torch.Generator().manual_seed(6))

    def run():
        leaves = [v.clone().requires_grad_(), norm.log_norm, norm.log_scale]
        y = norm(leaves[0])
        return y.detach(), *torch.autograd.grad(y, leaves, upstream)

    with kernels.only("torch"):
        expected = run()
    found = run()
    np.testing.assert_array_equal(found[0].numpy(), expected[0].numpy())
    integers = normalised(v.numpy(), norm.log_norm.detach().numpy(), norm.log_scale.detach().numpy(), bound)
    stored = (norm._scale() * 7).float() / 7
    np.testing.assert_array_equal(found[0].numpy(), integers.astype(np.float32) * stored.numpy())
    for f, e in zip(found[1:], expected[1:], strict=True):
        # float64 sums of at most 65 terms in two orders, whose result may cancel, rounded to float32 once
        np.testing.assert_allclose(f.numpy(), e.numpy(), rtol=ULP, atol=1e-13 * float(e.abs().max()))
    monkeypatch.setattr(native, "LARGE", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    with library.level("baseline"):
        for f, e in zip(run(), found, strict=True):
            assert torch.equal(f, e)


def test_integers_that_pass_their_bound_by_a_rounding_are_left_to_the_formula():
    bound = NormBound(7, 3.0 - 2**-30, False)
    norm = LearnedNorm(torch.full((1, 1), 8.0), torch.ones(1, 1), bound, 7.0)
    v = torch.ones(1, 3)
    scale = norm._scale()
    weights = native.NormedRows(v, norm.log_norm.detach().double().exp2(), scale, scale.float(), bound)
    assert native.represent_norms(weights) is None
    assert norm(v.requires_grad_()).sum() == 2
