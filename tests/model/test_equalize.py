from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bitwright.config import from_text
from bitwright.model.data.location import data_folder
from bitwright.model.prepare import calibrate, prepare
from bitwright.model.task import Batch, Task
from bitwright.model.transform import Balance, Magnitudes, Migration, WeightRanges, equalize, fold_batchnorm, links
from bitwright.model.transform.input_moments import run
from bitwright.model.zoo import TASKS
from bitwright.model.zoo.real import REAL

BALANCES = (WeightRanges(), Migration(), Migration(1.0))


class Image(nn.Module):
    """Every kind of convolution and what may stand between two of them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.bounded = nn.ReLU6()
        self.grouped = nn.Conv2d(8, 12, (1, 2), stride=2, groups=2, bias=False)
        self.leaky = nn.LeakyReLU(0.1)
        self.pad = nn.ZeroPad2d((0, 1, 0, 1))
        self.pool = nn.MaxPool2d(2)
        self.twice = nn.Conv2d(12, 24, 1, groups=12)
        self.slopes = nn.PReLU(24)
        self.same = nn.Conv2d(24, 6, 3, padding=1, padding_mode="reflect")
        self.hidden = nn.Linear(24, 10)
        self.head = nn.Linear(10, 5)

    def forward(self, images: Tensor) -> Tensor:
        x = self.bounded(self.depthwise(torch.relu_(self.stem(images))))
        x = self.pool(self.pad(self.leaky(self.grouped(x))))
        x = functional.adaptive_avg_pool2d(self.same(self.slopes(self.twice(x))).relu(), 2)
        return self.head(functional.relu(self.hidden(x.flatten(1))))


class Sequence(nn.Module):
    """Norms, a gated product, convolutions along time, and two readers of one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.second_norm = nn.LayerNorm(8), nn.RMSNorm(8)
        self.query, self.key = nn.Linear(8, 6), nn.Linear(8, 6, bias=False)
        self.gate, self.up, self.down = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(16, 8)
        self.along, self.after = nn.Conv1d(8, 10, 3, padding=1), nn.Conv1d(10, 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        normal = self.norm(x)
        x = x + (self.query(normal) @ self.key(normal).mT) @ x
        normal = self.second_norm(x)
        x = x + self.down(functional.silu(self.gate(normal)) * self.up(normal))
        return self.after(self.along(x.transpose(1, 2)).relu())


@cache
def network(kind: type[nn.Module]) -> nn.Module:
    """Weights whose channels differ by up to 2**6 in range."""
    torch.manual_seed(0)
    model = kind().requires_grad_(False).eval()
    for parameter in model.parameters():
        spread = torch.exp2(6 * torch.rand(len(parameter)) - 3)
        parameter.mul_(spread.view(-1, *[1] * (parameter.dim() - 1)))
    return model


def batches(kind: type[nn.Module]) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    shape = (4, 3, 11, 11) if kind is Image else (4, 6, 8)
    return [Batch((torch.randn(shape, generator=generator),), torch.empty(0)) for _ in range(2)]


KINDS = (Image, Sequence)

READERS = {
    Image: {
        "stem": ("depthwise",), "depthwise": ("grouped",), "grouped": ("twice",), "twice": ("same",),
        "same": ("hidden",), "hidden": ("head",), "head": (),
    },
    Sequence: {
        "norm": ("query", "key"), "second_norm": ("gate", "up"), "query": (), "key": (), "gate": (), "up": ("down",),
        "down": (), "along": ("after",), "after": (),
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_layers_that_alone_read_the_channels_of_another_are_found(kind):
    assert {link.name: link.readers for link in links(network(kind), batches(kind))} == READERS[kind]


@pytest.mark.parametrize("balance", BALANCES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_network_computes_the_very_same(kind, balance):
    found = equalize(network(kind), batches(kind), balance=balance)
    assert not all(torch.equal(a, b) for a, b in zip(found.parameters(), network(kind).parameters(), strict=True))
    for batch in batches(kind):
        np.testing.assert_array_equal(run(found, batch, None).numpy(), run(network(kind), batch, None).numpy())


def task_network(task: Task) -> tuple[nn.Module, list[Batch]]:
    batch = next(iter(task.calibration())).first(2)
    return fold_batchnorm(task.load(), batch.inputs), [batch]


@pytest.mark.data
@pytest.mark.parametrize("balance", BALANCES)
@pytest.mark.parametrize("name", ["resnet8", "mobilenetv1_vww", "mobilenetv2", "stories260k"])
def test_real_networks_compute_the_very_same(name, balance):
    try:
        data_folder()
    except FileNotFoundError as absent:
        pytest.skip(str(absent))
    require_the_very_same(REAL[name], balance)


@pytest.mark.parametrize("balance", BALANCES)
@pytest.mark.parametrize("name", ["digits", "pydoc"])
def test_embedded_networks_compute_the_very_same(name, balance):
    require_the_very_same(TASKS[name], balance)


def require_the_very_same(task: Task, balance: Balance) -> None:
    model, samples = task_network(task)
    with torch.no_grad():
        expected = run(model, samples[0], None)
        found = run(equalize(model, samples, balance=balance), samples[0], None)
    np.testing.assert_array_equal(found.numpy(), expected.numpy())


def test_residual_sums_end_a_link_and_the_paths_beside_them_do_not():
    model, samples = task_network(TASKS["digits"])
    found = {link.name: link for link in links(model, samples)}
    assert "add reads its channels" in found["stem.0"].refused
    assert found["blocks.1.3"].readers == ("blocks.2.body.0", "blocks.2.shortcut.0")


def by_channel(layer: nn.Module) -> Tensor:
    """Largest weight of each input channel, straight from the definition of a grouped layer."""
    groups = getattr(layer, "groups", 1)
    parts = layer.weight.flatten(2).chunk(groups) if layer.weight.dim() > 2 else layer.weight.unsqueeze(2).chunk(groups)
    return torch.cat([part.abs().amax((0, 2)) for part in parts])


def test_weights_before_and_after_a_channel_become_equal_up_to_a_factor_of_two():
    """Factors are powers of two: the last one is at most √2 away, and it enters both sides. Or the range is full."""
    model = equalize(network(Image), batches(Image), passes=100)
    inputs: dict[str, Tensor] = {}
    for name, layer in model.named_children():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_pre_hook(
                lambda m, args, name=name: inputs.update({name: args[0].movedim(1, 0).flatten(1).abs().amax(1)})
            )
    run(model, batches(Image)[0], None)
    for name, (reader, *_) in ((n, r) for n, r in READERS[Image].items() if r):
        before = model.get_submodule(name).weight.flatten(1).abs().amax(1)
        after = by_channel(model.get_submodule(reader)).view(len(before), -1).amax(1)
        value = inputs[reader].view(len(before), -1).amax(1)
        is_full = (before < after) & (2 * value > value.max() * (1 - 1e-6))
        uneven = (before / after).log2().abs() > 1 + 1e-6
        assert not bool((uneven & ~is_full).any()), name
        assert bool((~is_full).any())


@pytest.mark.parametrize("balance", BALANCES[:2])
def test_a_small_channel_with_a_large_bias_does_not_widen_the_range_of_all(balance):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).requires_grad_(False)
    model[0].weight[2] *= 1e-6
    model[0].bias[2] = 0.5
    samples = [Batch((torch.randn(50, 4),), torch.empty(0))]
    found = equalize(model, samples, balance=balance)
    hidden, before = found[1](found[0](samples[0].inputs[0])), model[1](model[0](samples[0].inputs[0]))
    assert float(hidden[:, 2].max()) <= float(before.max())


def test_factors_are_those_of_the_paper():
    """r₁/s = r₂·s = √(r₁·r₂) with s = √(r₁·r₂) / r₂ (eq. 9 to 11)."""
    first, second = np.array([16.0, 1.0, 3.0]), np.array([1.0, 4.0, 0.75])
    s = WeightRanges().factors(Magnitudes(first, second, np.array([1.0, 0.25, 1.0])))
    np.testing.assert_array_equal(s, [4.0, 0.5, 2.0])
    np.testing.assert_array_equal(first / s, second * s)
    # max|X|^α / max|W|^(1 - α), SmoothQuant eq. 4
    np.testing.assert_array_equal(Migration(0.5).factors(Magnitudes(None, second, first)), s)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_migration_evens_out_what_its_strength_says(strength):
    model = equalize(network(Sequence), batches(Sequence), balance=Migration(strength), sources=("norm",))
    values: list[Tensor] = []
    handle = model.query.register_forward_pre_hook(lambda m, args: values.append(args[0].flatten(0, -2)))
    for batch in batches(Sequence):
        run(model, batch, None)
    handle.remove()
    value = torch.cat(values).abs().amax(0).log2()
    weight = torch.stack([by_channel(model.query), by_channel(model.key)]).amax(0).log2()
    # what eq. 4 makes one number for all channels, up to the power of two
    assert float((strength * value - (1 - strength) * weight).abs().max()) <= 0.5 + 1e-5


def test_a_channel_of_zeros_is_left_alone():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).requires_grad_(False)
    model[0].weight[1] = 0
    model[2].weight[:, 3] = 0
    samples = [Batch((torch.randn(5, 4),), torch.empty(0))]
    for balance in BALANCES:
        found = equalize(model, samples, balance=balance)
        assert all(bool(torch.isfinite(p).all()) for p in found.parameters())
        np.testing.assert_array_equal(found(*samples[0].inputs).numpy(), model(*samples[0].inputs).numpy())


def test_channels_of_unequal_range_quantize_better_once_equalized():
    """Nagel et al., sec. 3: one scale for a tensor of channels with very different ranges loses the small ones."""

    class Scrambled(Balance):
        def factors(self, found: Magnitudes) -> np.ndarray:
            return np.exp2(np.random.default_rng(0).uniform(-4, 4, len(found.values)))

    torch.manual_seed(0)
    model = Image().requires_grad_(False).eval()
    model.same.padding_mode = "zeros"  # others are not quantized

    def noise(model: nn.Module) -> float:
        scheme = from_text("integer(8, 8, weight_share=PerTensor())")
        samples = batches(Image)
        quantized = calibrate(prepare(model, scheme, samples[0].inputs), samples)
        return sum(float((run(quantized, b, None) - run(model, b, None)).square().sum()) for b in samples)

    scrambled = equalize(model, batches(Image), balance=Scrambled(), passes=1)
    assert noise(scrambled) > 10 * noise(model)
    for balance in (WeightRanges(), Migration()):
        assert noise(equalize(scrambled, batches(Image), balance=balance)) < 0.2 * noise(scrambled)


def test_the_model_given_stays_as_it_was():
    before = {name: value.clone() for name, value in network(Image).state_dict().items()}
    equalize(network(Image), batches(Image))
    for name, value in network(Image).state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name].numpy())


class Doubtful(nn.Module):
    """A first layer, a function of its output, a second layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.other = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.between(self.first(x)))

    def between(self, y: Tensor) -> Tensor:
        return y


def doubtful(function) -> nn.Module:
    torch.manual_seed(0)
    model = Doubtful().requires_grad_(False)
    model.between = function.__get__(model)
    return model


@pytest.mark.parametrize(
    ("between", "reason"),
    [
        (lambda self, y: torch.sigmoid(y), "sigmoid reads its channels"),
        (lambda self, y: functional.relu6(y), "relu6 reads its channels|hardtanh reads its channels"),
        (lambda self, y: functional.relu(y) + y, "add reads its channels"),
        (lambda self, y: y * y, "mul reads its channels more than once"),
        (lambda self, y: y.relu() * y, "mul reads its channels more than once"),
        (lambda self, y: y.view(-1, 2, 2).transpose(1, 2).flatten(1), "transpose mixes its channels|view mixes"),
        (lambda self, y: functional.pad(y, (1, 0), value=1.0)[:, 1:], "pad mixes its channels"),
        (lambda self, y: y / y.amax(1, keepdim=True), "amax mixes its channels"),
        (lambda self, y: self.first(y.relu()), "first runs 2 times"),
    ],
)
def test_what_does_not_keep_the_scale_of_channels_is_refused_by_name(between, reason):
    samples = [Batch((torch.randn(5, 4, generator=torch.Generator().manual_seed(0)),), torch.empty(0))]
    (link,) = [link for link in links(doubtful(between), samples) if link.name == "first"]
    assert link.readers == ()
    with pytest.raises(ValueError, match="'first' cannot be equalized: (" + reason + ")"):
        equalize(doubtful(between), samples, sources=("first",))


def test_shared_and_computed_weights_are_refused():
    samples = [Batch((torch.randn(5, 4),), torch.empty(0))]
    shared, computed = doubtful(lambda self, y: y.relu()), doubtful(lambda self, y: y.relu())
    shared.other.weight = shared.second.weight
    assert "second shares its weight" in links(shared, samples)[0].refused
    nn.utils.parametrizations.weight_norm(computed.second)
    assert "computes its weight" in links(computed, samples)[0].refused


def test_a_network_without_a_link_is_refused():
    samples = [Batch((torch.randn(5, 4),), torch.empty(0))]
    with pytest.raises(ValueError, match="nothing to equalize"):
        equalize(doubtful(lambda self, y: torch.tanh(y)), samples)
    with pytest.raises(ValueError, match="calibration data is empty"):
        equalize(doubtful(lambda self, y: y), [])
    with pytest.raises(ValueError, match="no such layer; did you mean 'first'"):
        equalize(doubtful(lambda self, y: y.relu()), samples, sources=("frist",))


def test_a_weight_that_is_read_behind_its_layers_back_is_noticed():
    class Everywhere(Balance):
        def factors(self, found: Magnitudes) -> np.ndarray:
            return np.full(len(found.values), 8.0)

    samples = [Batch((torch.randn(5, 4),), torch.empty(0))]
    model = doubtful(lambda self, y: y.relu() * self.second.weight.sum())
    with pytest.raises(ValueError, match=r"equalizing moved an output.*in `sources`"):
        equalize(model, samples, balance=Everywhere(), passes=1)


@pytest.mark.parametrize("strength", [-0.1, 1.1])
def test_a_migration_is_between_none_and_all(strength):
    with pytest.raises(ValueError, match="0 to 1 is possible"):
        Migration(strength)
