"""Gradients of fake quantization, beside closed forms and the formula that they come from."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bitwright import kernels
from bitwright.config import from_text
from bitwright.formats import E2M1, Int
from bitwright.model.layers import FakeQuantizedLayer, QuantizedLayer
from bitwright.model.prepare import calibrate, freeze, prepare
from bitwright.model.surrogate import fake_quantize, learned_ranges, surrogate
from bitwright.model.task import Batch
from bitwright.quantization import PerBlock, PerRow, PerTensor, PerTile, Quantizer, Range, Scale, ScaleValue, Zero
from bitwright.schemes import CATALOGUE, integer, overq
from bitwright.schemes.overq import Overwrite

pytestmark = pytest.mark.filterwarnings("ignore::bitwright.kernels.SlowKernel")

SETTINGS = (
    *(f"{factory.__name__}()" for factory in CATALOGUE),
    "integer(4, 4)", "integer(2, 2)", "integer(4, None)", "integer(4, 4, zero=Zero.FITTED)",
    "integer(4, 4, input_range=None, zero=Zero.FITTED)", "integer(4, 4, weight_share=PerTile(2, 4))",
    "vs_quant(3, 3, input_vectors=AbsMax())", "vs_quant(4, 4, None, None)", "nvfp4(four_over_six=True)",
    "overq(3, precision_overwrite=True)", "combined(overq(4), term_revealing())",
)  # fmt: skip


class Network(nn.Module):
    """Convolutions of three kinds, attention over the pixels, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.projection = nn.Linear(8, 24)
        self.head = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        pixels = self.depthwise(self.stem(images).relu()).relu().flatten(2).transpose(1, 2)
        query, key, value = self.projection(pixels).chunk(3, -1)
        return self.head(functional.scaled_dot_product_attention(query, key, value).mean(1))


def stripes(samples: int = 16) -> Batch:
    """Images of horizontal, vertical, both or no stripes under noise: a problem that a few steps make headway on."""
    generator = torch.Generator().manual_seed(0)
    kind = torch.arange(samples) % 4
    wave = torch.tensor([1.0, -1.0]).repeat(3)
    down, across = wave.view(1, 1, 6, 1) * (kind % 2).view(-1, 1, 1, 1), wave * (kind // 2).view(-1, 1, 1, 1)
    return Batch((down + across + 0.1 * torch.randn(samples, 1, 6, 6, generator=generator),), kind)


def prepared(scheme: str) -> nn.Module:
    torch.manual_seed(0)
    model = Network()
    return calibrate(prepare(model, from_text(scheme), stripes().inputs), [stripes()])


def layers(model: nn.Module) -> list[FakeQuantizedLayer | QuantizedLayer]:
    return [m for m in model.modules() if isinstance(m, FakeQuantizedLayer | QuantizedLayer)]


def loss_of(model: nn.Module, batch: Batch) -> Tensor:
    return functional.cross_entropy(model(*batch.inputs), batch.targets)


@pytest.mark.parametrize("scheme", SETTINGS)
def test_a_few_steps_of_anyones_loop_lower_the_loss_and_the_trained_weights_are_frozen(scheme):
    model, batch = prepared(scheme), stripes()
    untrained = copy.deepcopy(model)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    model.train()
    for _ in range(6):
        losses.append(loss_of(model, batch))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert all(p.grad is not None and bool(p.grad.any()) for p in model.parameters())
    assert min(losses[3:]) < losses[0]
    with torch.no_grad():
        for trained, before, frozen in zip(layers(model), layers(untrained), layers(freeze(model)), strict=True):
            stored = torch.from_numpy(frozen.quantized_weight().decode()).float()
            stored = frozen.lowering.weight_from_rows(stored, frozen.weight_shape, frozen.weight_quantizer.alignment)
            np.testing.assert_array_equal(stored.numpy(), trained.fake_weight().numpy())
            assert not torch.equal(trained.fake_weight(), before.fake_weight())


@pytest.mark.parametrize("scheme", SETTINGS)
def test_outputs_with_a_gradient_are_those_without_one(scheme):
    model, (x,) = prepared(scheme), stripes(4).inputs
    with torch.no_grad():
        expected = model(x)
    np.testing.assert_array_equal(model(x.requires_grad_()).detach().numpy(), expected.numpy())


STATIC = (Range(np.full((1, 1), -7.0), np.full((1, 1), 7.0)),)


def gradient(quantizer: Quantizer, x: Tensor, ranges=()) -> Tensor:
    x = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(fake_quantize(quantizer, x, ranges).sum(), x)
    return found


def test_the_gradient_is_one_inside_the_range_and_zero_beyond():
    x = torch.tensor([[-9.0, -7.0, -6.9, 0.0, 0.4, 7.0, 7.1]])
    found = gradient(Quantizer(Int(4, narrow=True), (Scale(PerTensor()),)), x, STATIC)
    assert found.tolist() == [[0, 1, 1, 1, 1, 1, 0]]


def test_an_unsigned_format_passes_no_gradient_below_zero():
    found = gradient(Quantizer(Int(4, signed=False), (Scale(PerTensor()),)), torch.tensor([[-1.0, 0.0, 3.0]]), STATIC)
    assert found.tolist() == [[0, 1, 1]]


def test_a_fitted_zero_point_moves_the_range():
    ranges = (Range(np.full((1, 1), -5.0), np.full((1, 1), 10.0)),)
    quantizer = Quantizer(Int(4, signed=False), (Scale(PerTensor()),), zero=Zero.FITTED)
    found = gradient(quantizer, torch.tensor([[-6.0, -5.0, 0.0, 10.0, 11.0]]), ranges)
    assert found.tolist() == [[0, 1, 1, 1, 0]]


@pytest.mark.parametrize("divide_by", list(ScaleValue), ids=repr)
@pytest.mark.parametrize(
    "scales",
    [(Scale(PerRow()),), (Scale(PerBlock(8)),), (Scale(PerTile(2, 8)),)],
    ids=lambda scales: str(scales[0].share),
)
def test_no_value_is_beyond_a_range_that_follows_the_data(scales, divide_by):
    x = torch.randn(5, 20, generator=torch.Generator().manual_seed(1))
    quantizer = Quantizer(Int(4, narrow=True), scales, divide_by=divide_by)
    assert gradient(quantizer, x).min() == 1


def test_a_rounded_scale_does_not_cut_the_gradient_where_the_ideal_one_divides():
    x = torch.rand(4, 64, generator=torch.Generator().manual_seed(1)) - 0.5
    fine = Scale(PerBlock(16), Int(3, signed=False))
    ideal, stored = (
        Quantizer(Int(4, narrow=True), (Scale(PerRow()), fine), divide_by=divide_by)
        for divide_by in (ScaleValue.IDEAL, ScaleValue.STORED)
    )
    assert gradient(ideal, x).min() == 1
    assert gradient(stored, x).min() == 0


def test_an_all_zero_row_can_leave_zero():
    assert gradient(Quantizer(Int(4, narrow=True), (Scale(PerRow()),)), torch.zeros(1, 4)).min() == 1


def test_an_outlier_without_a_free_neighbour_has_no_gradient():
    lane = Overwrite(Int(4, signed=False), tile=4)
    x = torch.tensor([[40.0, 0.0, 3.0, 5.0, 40.0, 3.0, 3.0, 0.0]])
    found = gradient(Quantizer(lane, (Scale(PerTensor()),)), x, (Range(np.full((1, 1), -15.0), np.full((1, 1), 15.0)),))
    assert found.tolist() == [[1, 1, 1, 1, 0, 1, 1, 1]]


@pytest.mark.parametrize("format", [Int(4, narrow=True), E2M1, overq(4).input.unsigned.format], ids=str)
def test_the_surrogates_gradient_is_that_of_its_finite_differences(format):
    # away from the corners of the clamp, which have no derivative
    level = torch.tensor([-9.3, -3.2, 0.7, 2.4, 40.5, 3e3], dtype=torch.float64, requires_grad=True)
    element = kernels.represent(
        Quantizer(format, (Scale(PerTensor()),)), level.detach().clamp(min=0)[None].numpy(),
        (Range(np.full((1, 1), -format.full_scale), np.full((1, 1), format.full_scale)),),
    )  # fmt: skip
    element = torch.from_numpy(element[0])
    assert torch.autograd.gradcheck(lambda x: surrogate(format, x, element), level)


@pytest.mark.parametrize("share", [PerTensor(), PerRow()], ids=str)
def test_gradients_are_those_of_the_design_formula(share):
    """scale · (soft + (hard - soft).detach()) by autograd, for x and for the scale."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(6, 10, generator=generator).requires_grad_()
    upstream = torch.randn(6, 10, generator=generator)
    quantizer = Quantizer(Int(3, narrow=True), (Scale(share),))
    step = (torch.rand(share.shape(6, 10), generator=generator) + 0.1).requires_grad_()
    ranges = learned_ranges(quantizer, step)
    y = fake_quantize(quantizer, x, ranges, step=step)
    found = torch.autograd.grad(y, (x, step), upstream)
    soft = surrogate(quantizer.format, x / step, torch.empty(0))
    hard = kernels.quantize(quantizer, x, ranges).flat()
    expected = torch.autograd.grad(step * (soft + (hard - soft).detach()), (x, step), upstream)
    # the formula multiplies by the scale and divides by it: two roundings of float32
    np.testing.assert_allclose(found[0].numpy(), expected[0].numpy(), rtol=2**-22)
    factor = (x.numel() / step.numel() * 3) ** -0.5
    # float32 sums of at most 60 terms in another order
    np.testing.assert_allclose(found[1].numpy(), factor * expected[1].numpy(), rtol=1e-5, atol=1e-5)


def test_integer_weights_that_are_kept_without_gradient_are_derived_once():
    model = prepared("integer(4, 4)").requires_grad_(False)
    layer = model.get_submodule("head")
    assert layer.fake_weight() is layer.fake_weight()
    assert integer(4, 4).weight == layer.weight_quantizer
