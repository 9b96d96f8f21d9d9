"""Networks whose registers wrap: simulated equals exact, gradients follow the branches, overflows become fewer."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from bitwright.datapath import Accumulator, Cyclic, Overflow
from bitwright.formats import Int
from bitwright.model.prepare import calibrate, freeze, prepare
from bitwright.model.register import Readout
from bitwright.model.task import Batch
from bitwright.model.train import cross_entropy, learn_ranges, train
from bitwright.model.training import Shuffled, Training
from bitwright.model.wrap import FINER, OverflowPenalty, choose_steps, overflows
from bitwright.quantization import PerBlock, PerTensor, Quantizer, Range, Scale
from bitwright.schemes import integer, wrapnet

LAYERS = {
    "linear": (lambda: nn.Linear(60, 5), (7, 60)),
    "linear on tokens": (lambda: nn.Linear(60, 5, bias=False), (2, 3, 60)),
    "conv2d": (lambda: nn.Conv2d(12, 5, 3, padding=1), (2, 12, 4, 5)),
    "conv2d, grouped": (lambda: nn.Conv2d(12, 6, 3, groups=3, padding=1), (2, 12, 4, 3)),
    "conv2d, depthwise": (lambda: nn.Conv2d(8, 8, 5, groups=8, padding=2), (4, 8, 9, 9)),
    "conv1d": (lambda: nn.Conv1d(30, 6, 3, padding=1, stride=2), (4, 30, 15)),
}


def register(bits: int = 8, slope: int = 1) -> Accumulator:
    return Accumulator(Int(bits), Overflow.WRAP, readout=Cyclic(slope))


def prepared(model: nn.Module, scheme, x: torch.Tensor) -> nn.Module:
    return calibrate(prepare(model, scheme, (x,)), [Batch((x,), torch.empty(0))])


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("arguments", [(4, 4, 7), (4, 4, 7, 3), (2, 3, 5), (1, 2, 4, 2)], ids=str)
@pytest.mark.parametrize("kind", LAYERS)
def test_simulated_equals_exact_where_sums_wrap(kind, arguments, negative):
    torch.manual_seed(0)
    make, shape = LAYERS[kind]
    x = torch.randn(shape) if negative else torch.rand(shape)
    model = prepared(nn.Sequential(make()), wrapnet(*arguments), x)
    frozen = freeze(model)
    with torch.no_grad():
        simulated, exact = model(x), frozen(x)
    assert frozen[0].overflows > 0
    # both multiply the same integers by two scales and add a bias: at most four float32 roundings apart
    largest = float(exact.abs().max())
    np.testing.assert_allclose(simulated.numpy(), exact.numpy(), rtol=0, atol=4 * 2.0**-24 * 2 * largest)


SUMS = [10, 64, 100, 127, 128, 200, -129, 300, 85, 86, -100]


@pytest.mark.parametrize(
    ("slope", "values", "gradients"),
    [
        (1, [10, 64, 28, 1, 0, -56, 1, 44, 43, 42, -28], [1, 1, -1, -1, -1, 1, -1, 1, -1, -1, -1]),
        (2, [10, 64, 56, 2, 0, -56, 2, 44, 85, 84, -56], [1, 1, -2, -2, -2, 1, -2, 1, 1, -2, -2]),
    ],
)
def test_a_sum_has_the_specifications_value_and_the_gradient_of_its_branch(slope, values, gradients):
    y = (torch.tensor(SUMS) * 0.25).requires_grad_()
    found = Readout()(y, torch.tensor([0.25]), register(8, slope))
    np.testing.assert_array_equal(found.detach().numpy(), np.asarray(values) * 0.25)
    found.sum().backward()
    np.testing.assert_array_equal(y.grad.numpy(), gradients)


@pytest.mark.parametrize("slope", [1, 2])
def test_a_learned_scale_gets_what_is_read_less_the_sum_times_its_slope(slope):
    unit = torch.tensor([0.25], requires_grad=True)
    y = torch.tensor(SUMS) * 0.25
    found = Readout()(y, unit, register(8, slope))
    found.sum().backward()
    y.requires_grad_()
    again = Readout()(y, unit.detach(), register(8, slope))
    again.sum().backward()
    expected = found.detach() / 0.25 - torch.tensor(SUMS) * y.grad
    assert unit.grad.item() == expected.sum().item()


def test_a_register_that_nothing_leaves_or_folds_changes_nothing():
    y = torch.randint(-(2**19), 2**19, (1000,), generator=torch.Generator().manual_seed(0)) * 0.5
    assert torch.equal(Readout()(y, torch.tensor(0.5), register(32)), y)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(40, 24), nn.Linear(24, 24), nn.Linear(24, 4)

    def forward(self, x):
        return self.head(self.second(self.first(x).relu()).relu())


def samples() -> Batch:
    x = torch.rand(96, 40, generator=torch.Generator().manual_seed(0))
    return Batch((x,), 2 * (x[:, :8].sum(1) > 4).long() + (x[:, 8] > x[:, 9]))


def network(scheme=wrapnet(2, 3, 5)) -> nn.Module:
    torch.manual_seed(0)
    return calibrate(prepare(Network(), scheme, samples().inputs), [samples()])


DATA = Shuffled(samples(), 16)


@pytest.mark.parametrize("learned", [False, True], ids=["static", "learned"])
@pytest.mark.parametrize("loss", [cross_entropy, OverflowPenalty(0.01)], ids=["plain", "penalty"])
def test_a_trained_network_is_simulated_as_it_is_when_frozen(loss, learned):
    model = network()
    if learned:
        learn_ranges(model)
    history = train(model, DATA, Training(epochs=4, learning_rate=1e-2), loss=loss)
    assert np.mean(history.losses[-6:]) < np.mean(history.losses[:6])
    frozen = freeze(model)
    with torch.no_grad():
        # the same integers, so a difference is of float32 roundings in three layers
        np.testing.assert_allclose(frozen(*samples().inputs), model(*samples().inputs), rtol=1e-5, atol=1e-6)
    assert sum(m.overflows for m in frozen.children()) > 0


def sums_of(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The layer's integers before any wrapping, from a copy whose register holds them."""
    wide = layer.scheme
    layer.scheme = replace(wide, datapath=replace(wide.datapath, inner=Accumulator()))
    try:
        y = layer(x) - layer.bias
    finally:
        layer.scheme = wide
    return (y / layer.unit()).round()


def test_the_penalty_is_the_mean_distance_beyond_half_the_register_added_over_layers():
    model = network()
    batch = samples()
    inputs = {}
    hooks = [
        m.register_forward_pre_hook(lambda module, x, name=name: inputs.update({name: x[0]}))
        for name, m in model.named_children()
    ]
    with torch.no_grad():
        plain = cross_entropy(model, batch)
        for hook in hooks:
            hook.remove()
        found = OverflowPenalty(0.5)(model, batch)
        means = [(sums_of(m, inputs[name]).abs() - 16).clamp(min=0).mean() for name, m in model.named_children()]
    assert sum(means) > 0
    # float32 means of some hundred sums
    np.testing.assert_allclose(found, plain + 0.5 * sum(means), rtol=1e-5)


def test_the_penalty_pulls_a_sum_that_overflows_towards_zero_and_leaves_others():
    torch.manual_seed(0)
    x = torch.rand(1, 60)
    model = prepared(nn.Sequential(nn.Linear(60, 8)), wrapnet(4, 4, 8), x)
    with overflows(model) as seen:
        model(x)
    (found,) = seen["0"]
    found.sum().backward()
    z = sums_of(model[0], x)[0].detach()
    outside = z.abs() > 128
    assert 0 < outside.sum() < 8
    gradient = (model[0].weight.grad * x).sum(1)  # towards a larger sum
    np.testing.assert_array_equal(torch.sign(gradient).numpy(), (torch.sign(z) * outside).numpy())


def test_training_with_the_penalty_makes_fewer_sums_overflow():
    shares = []
    for loss in (cross_entropy, OverflowPenalty(0.1)):
        model = network()
        train(model, DATA, Training(epochs=4, learning_rate=1e-2), loss=loss)
        frozen = freeze(model)
        frozen(*samples().inputs)
        shares.append(sum(m.overflows for m in frozen.children()))
    assert shares[1] < shares[0] / 2


def test_nothing_is_watched_after_the_block():
    model = network()
    with overflows(model) as seen:
        pass
    model(*samples().inputs)
    assert seen == {"first": [], "second": [], "head": []}


def share_outside(layer: nn.Module, x: torch.Tensor) -> float:
    z = sums_of(layer, x)
    half = layer.scheme.datapath.inner.half
    return int(((z < -half) | (z >= half)).sum()) / z.numel()


@torch.no_grad()
@pytest.mark.parametrize("share", [0.0, 0.05, 0.3])
def test_the_narrowest_range_is_chosen_under_which_at_most_the_share_overflows(share):
    model = network(wrapnet(2, 3, 4))
    calibrated = {name: m.calibrated["input"][0].magnitude.item() for name, m in model.named_children()}
    chosen = choose_steps(model, [samples()], share)
    assert [c.layer for c in chosen] == ["first", "second", "head"]
    x = samples().inputs[0]
    for found, (name, layer) in zip(chosen, model.named_children(), strict=True):
        magnitude = layer.calibrated["input"][0].magnitude
        np.testing.assert_allclose(magnitude, calibrated[name] * found.ratio, rtol=1e-12)  # as 2**(1/4) rounds
        assert share_outside(layer, x) == found.after <= share
        if found.ratio == 1:
            assert found.before == found.after
        else:
            narrower = magnitude / FINER
            layer.pin("input", (Range(-narrower, narrower),))
            assert share_outside(layer, x) > share
            layer.pin("input", (Range(-magnitude, magnitude),))
        x = layer(x).relu()
    assert chosen[0].ratio > 1


def test_steps_that_fit_stay_as_calibrated():
    model = network(wrapnet(2, 3, 16))
    before = [m.calibrated["input"] for m in model.children()]
    chosen = choose_steps(model, [samples()])
    assert {(c.ratio, c.before, c.after) for c in chosen} == {(1.0, 0.0, 0.0)}
    assert [m.calibrated["input"] for m in model.children()] == before


def test_steps_are_chosen_before_they_are_learned():
    model = network()
    learn_ranges(model)
    with pytest.raises(ValueError, match="first is learned already"):
        choose_steps(model, [samples()])


@pytest.mark.parametrize(
    ("batches", "share", "message"),
    [([], 0.05, "at least one batch"), ([samples()], 1.0, "below 1"), ([samples()], -0.1, "at least 0")],
)
def test_what_steps_cannot_be_chosen_from_is_refused(batches, share, message):
    with pytest.raises(ValueError, match=message):
        choose_steps(network(), batches, share)


def test_a_model_without_such_registers_is_refused():
    with pytest.raises(ValueError, match="no layer has an accumulator with a readout"):
        OverflowPenalty()(network(integer(4, 4)), samples())


@pytest.mark.parametrize(
    "input",
    [Quantizer(Int(4), (Scale(PerTensor()),)), Quantizer(Int(4), (Scale(PerBlock(8)),))],
    ids=["dynamic", "blocks"],
)
def test_scales_that_a_simulated_register_cannot_take_are_refused_with_the_layers_name(input):
    model = prepared(nn.Sequential(nn.Linear(60, 5)), replace(wrapnet(), input=input), torch.rand(7, 60))
    with pytest.raises(ValueError, match=r"layer 0: .*one static scale"):
        model(torch.rand(7, 60))


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(16, 4)

    def forward(self, x):
        return self.out(nn.functional.scaled_dot_product_attention(x, x, x))


def test_attention_stays_in_float_and_the_coverage_says_why():
    model = prepared(Attends(), wrapnet(), torch.rand(2, 5, 16))
    (row,) = (c for c in model.coverage if c.kind == "attention")
    assert row.status == "float"
    assert "simulated in layers only" in row.reason
