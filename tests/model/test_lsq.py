"""Learned step sizes: Esser et al., ICLR 2020, arXiv:1902.08153."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from bitwright.config import from_text
from bitwright.formats import Int
from bitwright.model.prepare import calibrate, freeze, prepare
from bitwright.model.surrogate import fake_quantize, learned_ranges
from bitwright.model.task import Batch
from bitwright.model.train import learn_ranges
from bitwright.quantization import PerTensor, Quantizer, Scale

X = torch.tensor([[-0.9, -0.26, 0.12, 0.34, 0.52, 2.0]])


@pytest.mark.parametrize(("format", "lowest", "highest"), [(Int(3), -4, 3), (Int(2, signed=False), 0, 3)], ids=str)
def test_the_step_gradient_is_equation_3_times_one_over_the_root_of_n_qp(format, lowest, highest):
    step = torch.full((1, 1), 0.2, requires_grad=True)
    quantizer = Quantizer(format, (Scale(PerTensor()),))
    upstream = torch.arange(1.0, 7)[None]
    fake_quantize(quantizer, X, learned_ranges(quantizer, step), step=step).backward(upstream)
    v = (X / 0.2).double().numpy()
    slope = np.where(v <= lowest, lowest, np.where(v >= highest, highest, np.rint(v) - v))
    expected = (slope * upstream.numpy()).sum() / math.sqrt(6 * highest)
    # float32 sums of six terms
    np.testing.assert_allclose(step.grad.item(), expected, rtol=1e-6)


def test_n_counts_the_features_of_one_sample():
    quantizer = Quantizer(Int(3), (Scale(PerTensor()),))
    gradients = []
    for samples in (1, 4):
        step = torch.full((1, 1), 0.2, requires_grad=True)
        fake_quantize(
            quantizer, X.repeat(4, 1), learned_ranges(quantizer, step), step=step, samples=samples
        ).sum().backward()
        gradients.append(step.grad.item())
    assert gradients[1] == 2 * gradients[0]


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 12), nn.Linear(12, 4)

    def forward(self, x):
        return self.second(self.first(x).relu())


def prepared(scheme: str) -> nn.Module:
    torch.manual_seed(0)
    batch = Batch((torch.randn(32, 6),), torch.arange(32) % 4)
    return calibrate(prepare(Network(), from_text(scheme), batch.inputs), [batch])


def test_learning_ranges_changes_no_output_before_the_first_step():
    model = prepared("integer(4, 4, weight_range=MinimumError())")
    x = torch.randn(8, 6)
    with torch.no_grad():
        expected = model(x)
        learned = learn_ranges(model)
        found = model(x)
    assert learned == ("first.input", "first.weight", "second.input", "second.weight")
    # the step is the range over the full scale, rounded once
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scheme", ["integer(3, 3, weight_range=MinimumError())", "ant(3, 3)", "minifloat(2, 1)"])
def test_steps_train_and_the_frozen_model_has_the_trained_values(scheme):
    model = prepared(scheme)
    learn_ranges(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters() if "steps" in name}
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    x, targets = torch.randn(32, 6), torch.arange(32) % 4
    losses = []
    for _ in range(6):
        losses.append(nn.functional.cross_entropy(model(x), targets))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters() if name in before)
    frozen = freeze(model)
    with torch.no_grad():
        # sums of at most 12 products in another order
        np.testing.assert_allclose(frozen(x).numpy(), model(x).numpy(), rtol=1e-5, atol=1e-5)
    step = model.first.steps["input"].item()
    assert frozen.first.input_ranges[0].high.item() == pytest.approx(
        step * frozen.first.input_quantizer.format.full_scale
    )


def test_a_learned_step_travels_in_the_state():
    model, other = prepared("integer(4, 4)"), prepared("integer(4, 4)")
    learn_ranges(model)
    learn_ranges(other)
    with torch.no_grad():
        model.first.steps["input"].mul_(1.5)
    other.load_state_dict(model.state_dict())
    assert other.first.input_ranges == model.first.input_ranges


def test_a_step_that_reaches_zero_is_an_error_naming_the_layer():
    model = prepared("integer(4, 4)")
    learn_ranges(model)
    with torch.no_grad():
        model.first.steps["input"].zero_()
    with pytest.raises(ValueError, match="layer first: a learned step size is 0, and must stay above zero"):
        model(torch.randn(2, 6))


@pytest.mark.parametrize("scheme", ["mxfp4()", "integer(4, 4, input_range=None)", "integer(4, 4, zero=Zero.FITTED)"])
def test_a_model_without_a_static_scale_has_no_range_to_learn(scheme):
    with pytest.raises(ValueError, match="no operand has one static float32 scale to learn"):
        learn_ranges(prepared(scheme))


def test_calibrating_again_forgets_what_was_learned():
    model = prepared("integer(4, 4)")
    learn_ranges(model)
    calibrate(model, [Batch((torch.randn(8, 6),), torch.empty(0))])
    assert not list(model.first.steps)
