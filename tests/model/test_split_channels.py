import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bitwright.config import from_text
from bitwright.model.layers import FakeQuantizedLayer, QuantizedLayer
from bitwright.model.prepare import calibrate, freeze, prepare
from bitwright.model.task import Batch
from bitwright.model.transform import (
    SplitInput,
    input_magnitudes,
    split_input_channels,
    split_weight_channels,
    splittable,
)
from bitwright.quantization import AbsMax, PerRow, PerTensor
from bitwright.schemes import integer


class Network(nn.Module):
    """Every kind of layer that is split, and a depthwise one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.pointwise = nn.Conv2d(8, 16, 1, stride=2, bias=False)
        self.along = nn.Conv1d(16, 12, 2, dilation=2)
        self.head = nn.Linear(12, 5)

    def forward(self, images: Tensor) -> Tensor:
        pixels = self.pointwise(self.depthwise(self.stem(images).relu()).relu()).relu().flatten(2)
        return self.head(self.along(pixels).relu().mean(2))


def seeded(make=Network, *args, **kwargs) -> nn.Module:
    torch.manual_seed(0)
    return make(*args, **kwargs).requires_grad_(False).eval()


def images(seed: int = 0) -> Tensor:
    return torch.randn(4, 3, 10, 10, generator=torch.Generator().manual_seed(seed))


def batches(*inputs: Tensor) -> list[Batch]:
    return [Batch((x,), torch.empty(0)) for x in inputs]


def linear(rows: list[list[float]]) -> nn.Linear:
    layer = nn.Linear(len(rows[0]), len(rows), bias=False)
    layer.weight.data = torch.tensor(rows, dtype=torch.float32)
    return layer.requires_grad_(False)


def in_place(layer: SplitInput) -> Tensor:
    """The weight of the layer before it was split: the parts of each channel together."""
    weight = layer.layer.weight.double() * layer.factor.double()
    channels = int(layer.source.max()) + 1
    return torch.zeros(len(weight), channels, *weight.shape[2:]).double().index_add(1, layer.source, weight)


def test_codes_of_the_parts_add_up_to_the_code_of_the_whole():
    a = np.arange(-(1 << 16), (1 << 16) + 1) / 1024  # exact, with every tie
    low, high = a / 2 - 0.25, a / 2 + 0.25
    half_up = lambda v: np.floor(v + 0.5)  # noqa: E731
    np.testing.assert_array_equal(half_up(low) + half_up(high), half_up(a))  # Hermite's identity
    is_tie = a % 1 == 0.5
    parts = np.rint(low) + np.rint(high)
    np.testing.assert_array_equal(parts[~is_tie], np.rint(a)[~is_tie])
    np.testing.assert_array_equal(np.abs(parts - a)[is_tie], 0.5)  # a neighbour still, if not the even one


def test_codes_of_split_weights_add_up_to_those_of_the_whole_on_the_grid_of_the_first_pass():
    weight = torch.randint(-15, 16, (20, 9), generator=torch.Generator().manual_seed(1)).float()
    weight[:, 4] = torch.linspace(-30, 30, 20)  # no ties
    split = split_weight_channels(linear(weight.tolist()), 0.1, bits=5)  # halved to 15 of 15 levels: the step is 1
    codes = split.layer.weight.round()
    assert codes.abs().max() == 15
    np.testing.assert_array_equal((codes[:, 4] + codes[:, 9]).numpy(), weight[:, 4].round().numpy())


# Worked by hand


def test_a_weight_worked_by_hand():
    """Two splits of column 1: 14 is halved to 7, 7, and the last 7 to 3.5, 3.5; the step is 1.

    The second pass makes 14 into 6.75 and 7.25, and the larger one into 3.375 and 3.875; -9 likewise, and 0 stays 0.
    """
    split = split_weight_channels(linear([[1, 14, 0], [-2, 0, 3], [5, -9, 4]]), 0.6, bits=4)
    assert split.source.tolist() == [0, 1, 2, 1, 1]
    expected = [[1, 6.75, 0, 3.375, 3.875], [-2, 0, 3, 0, 0], [5, -4.75, 4, -2.375, -1.875]]
    assert split.layer.weight.tolist() == expected
    assert split.layer.weight.round()[:, [1, 3, 4]].sum(1).tolist() == [14, 0, -9]


def test_a_weight_with_a_step_a_row_worked_by_hand():
    """One split: 14 is halved to 7, so the steps are 1 and, in the row of -2, 3/7; zeros stay zero."""
    split = split_weight_channels(linear([[1, 14, 0], [-2, 2, 3]]), 0.3, bits=4, share=PerRow())
    torch.testing.assert_close(split.layer.weight, torch.tensor([[1, 6.75, 0, 7.25], [-2, 1 - 3 / 28, 3, 1 + 3 / 28]]))


def test_an_input_worked_by_hand():
    """Of 3, 16, 5 the 16 is halved to 8, 8, and the last 8 to 4, 4; the weights of the channel are repeated."""
    layer = linear([[1, 2, 3], [4, 5, 6]])
    split = split_input_channels(layer, 0.6, {"": np.array([3.0, 16.0, 5.0])})
    assert split.source.tolist() == [0, 1, 2, 1, 1]
    assert split.factor.tolist() == [1, 0.5, 1, 0.25, 0.25]
    assert split.layer.weight.tolist() == [[1, 2, 3, 2, 2], [4, 5, 6, 5, 5]]


# The function stays

LAYERS = {
    "linear": (lambda: seeded(nn.Linear, 6, 4), (5, 6)),
    "linear on tokens": (lambda: seeded(nn.Linear, 6, 4, bias=False), (2, 5, 6)),
    "conv1d": (lambda: seeded(nn.Conv1d, 6, 4, 3, padding="same"), (2, 6, 7)),
    "conv1d of one sample": (lambda: seeded(nn.Conv1d, 6, 4, 3), (6, 7)),
    "conv2d": (lambda: seeded(nn.Conv2d, 6, 4, 3, stride=2, padding=1), (2, 6, 7, 7)),
    "conv2d of one channel": (lambda: seeded(nn.Conv2d, 1, 4, 3, padding_mode="circular", padding=1), (2, 1, 7, 7)),
}
RATIOS = (0.01, 0.3, 1.0)


@pytest.mark.parametrize("share", [PerTensor(), PerRow()])
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_with_split_weights_computes_the_same(kind, ratio, share):
    make, shape = LAYERS[kind]
    layer, x = make(), torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    split = split_weight_channels(layer, ratio, bits=5, share=share)
    channels = layer.weight.shape[1]
    assert split.layer.weight.shape[1] == channels + np.ceil(ratio * channels)
    # w₁ + w₂ = w before each part is rounded to float32 once: u·Σ|parts|, and 2u of float64 for each half and each sum
    parts = torch.zeros(layer.weight.shape).double().index_add(1, split.source, split.layer.weight.abs().double())
    wrong = (in_place(split) - layer.weight.double()).abs()
    assert (wrong <= (2.0**-24 + 2.0**-50) * parts).all()
    # in float64: at most 108 products of about 1, whose sum is at most a hundred
    in_double = split_weight_channels(layer.double(), ratio, bits=5, share=share)
    torch.testing.assert_close(in_double(x), layer.double()(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_with_split_inputs_computes_the_same_bit_for_bit(kind, ratio):
    make, shape = LAYERS[kind]
    layer, x = make(), torch.randint(-99, 100, shape, generator=torch.Generator().manual_seed(1)).float()
    for parameter in layer.parameters():  # integers: no sum is rounded, in any order
        parameter.data = (100 * parameter).round()
    split = split_input_channels(layer, ratio, input_magnitudes(layer, batches(x)))
    assert split.layer.weight.shape[1] > layer.weight.shape[1]
    assert torch.equal(in_place(split), layer.weight.double())
    assert torch.equal(split(x), layer(x))


def test_a_network_computes_the_same():
    model, x = seeded().double(), images().double()
    weights = split_weight_channels(model, 0.2, bits=4)
    inputs = split_input_channels(model, 0.2, input_magnitudes(model, batches(x)))
    both = split_input_channels(weights, 0.2, input_magnitudes(weights, batches(x)))
    for split in (weights, inputs, both):
        assert not torch.equal(split(x), model(x))
        torch.testing.assert_close(split(x), model(x), rtol=0, atol=1e-12)  # five layers of sums of about 1


def test_ratio_zero_is_the_identity():
    model = seeded()
    magnitudes = input_magnitudes(model, batches(images()))
    for same in (split_weight_channels(model, 0.0, bits=4), split_input_channels(model, 0.0, magnitudes)):
        assert same is not model
        assert str(same) == str(model)
        assert all(torch.equal(a, b) for a, b in zip(same.parameters(), model.parameters(), strict=True))


def test_a_weight_of_zeros_stays_one():
    split = split_weight_channels(linear([[0, 0, 0]]), 1.0, bits=4)
    assert split.layer.weight.tolist() == [[0.0] * 6]


def test_the_callers_model_is_left_as_it_was():
    model = seeded().train()
    before = copy.deepcopy(model.state_dict())
    split_weight_channels(model, 0.5, bits=4)
    split_input_channels(model, 0.5, input_magnitudes(model, batches(images())))
    assert model.training
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


# The largest magnitude falls


def with_outliers(layer: nn.Module, channels: tuple[int, ...]) -> nn.Module:
    """The layer with weights of some input channels eight times as large."""
    layer.weight.data[:, list(channels)] *= 8
    return layer


@pytest.mark.parametrize("make", [lambda: seeded(nn.Linear, 40, 30), lambda: seeded(nn.Conv2d, 40, 30, 3)])
def test_the_largest_weight_falls(make):
    layer = with_outliers(make(), (3, 17))
    largest = float(layer.weight.abs().max())
    for ratio in (0.05, 0.15):  # both channels once, then each of their halves
        before, largest = largest, float(split_weight_channels(layer, ratio, bits=5).layer.weight.abs().max())
        assert largest <= before / 2 + largest / 15 / 4  # half, and a quarter step


def test_the_largest_input_falls_as_the_magnitudes_say():
    layer = seeded(nn.Linear, 40, 30)
    x = torch.randn(50, 40, generator=torch.Generator().manual_seed(1)).clamp(-3, 3)
    x[:, 5], x[0, 5] = x[:, 5] * 2, -64.0
    magnitudes = input_magnitudes(layer, batches(x[:20], x[20:]))
    np.testing.assert_array_equal(magnitudes[""], x.abs().amax(0).double().numpy())
    for splits, largest in ((1, 32), (2, 32), (3, 16), (7, 8)):  # the copies compete: halves, then quarters
        split = split_input_channels(layer, splits / 40, magnitudes)
        assert input_magnitudes(split, batches(x))["layer"].max() == largest


def test_magnitudes_name_every_layer_that_runs():
    model = seeded()
    model.unused = nn.Linear(3, 3)
    magnitudes = input_magnitudes(model, batches(images(0), images(1)), lambda m, batch: m(batch.inputs[0]))
    assert {name: len(seen) for name, seen in magnitudes.items()} == {
        "stem": 3,
        "pointwise": 8,
        "along": 16,
        "head": 12,
    }
    assert "unused" in splittable(model)


def error(model: nn.Module, scheme, x: Tensor) -> float:
    """Mean squared error of the simulated outputs against the model's in float, in per cent of their power."""
    prepared = calibrate(prepare(model, scheme, (x,)), batches(x))
    expected = model(x)
    return 100 * float((prepared(x) - expected).square().mean() / expected.square().mean())


def two_layers() -> nn.Sequential:
    return seeded(lambda: nn.Sequential(nn.Conv2d(32, 40, 3), nn.ReLU(), nn.Conv2d(40, 16, 1)))


@pytest.mark.parametrize("share", [PerTensor(), PerRow()])
def test_at_five_bits_outlier_channels_of_weights_hurt_less_once_split(share):
    model = two_layers()
    with_outliers(model[0], (3,))
    with_outliers(model[2], (11, 25))
    x = torch.randn(4, 32, 6, 6, generator=torch.Generator().manual_seed(1))
    scheme = integer(5, 8, weight_share=share)
    before, after = (error(m, scheme, x) for m in (model, split_weight_channels(model, 0.05, bits=5, share=share)))
    assert after < before / 2


def test_at_five_bits_outlier_channels_of_inputs_hurt_less_once_split():
    model, scheme = two_layers(), integer(8, 5, input_range=AbsMax())
    x = torch.randn(4, 32, 6, 6, generator=torch.Generator().manual_seed(1))
    x[:, 3] *= 8
    magnitudes = input_magnitudes(model, batches(x))
    before, after = (error(m, scheme, x) for m in (model, split_input_channels(model, 0.05, magnitudes)))
    assert after < before / 2


# Quantized, the layer is a layer as any other

SCHEMES = ("integer(4, 8)", "integer(4, 8, weight_share=PerTensor())", "integer(8, 4)", "vs_quant(4, 4)", "mxfp4()")
SPLIT = {
    "weights": lambda model, x: split_weight_channels(model, 0.1, bits=4),
    "inputs": lambda model, x: split_input_channels(model, 0.1, input_magnitudes(model, batches(x))),
}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("what", SPLIT)
def test_a_frozen_split_layer_computes_exactly_what_it_simulates(what, scheme):
    model = SPLIT[what](seeded(), images())
    fake = calibrate(prepare(model, from_text(scheme), (images(),)), batches(images()))
    exact_layers = {m.name: m for m in freeze(fake).modules() if isinstance(m, QuantizedLayer)}
    compared = []

    def compare(layer: FakeQuantizedLayer, args, simulated) -> None:
        exact = exact_layers[layer.name](args[0])
        # as in test_lowering: K·u·Σ|x||w| for the float32 sum, as much for sums over blocks, u for each last rounding
        magnitude = layer.lowering.forward(
            layer._fake_input(args[0]).double().abs(), layer.fake_weight().double().abs()
        )
        tolerance = (2 * layer.weight[0].numel() + 8) * 2.0**-24 * (magnitude + exact.abs().double())
        assert ((simulated.double() - exact.double()).abs() <= tolerance).all(), layer.name
        compared.append(layer.name)

    for module in fake.modules():
        if isinstance(module, FakeQuantizedLayer):
            module.register_forward_hook(compare)
    fake(images(1))
    assert compared == ["stem.layer", "depthwise", "pointwise.layer", "along.layer", "head.layer"]


def test_coverage_names_the_layer_inside():
    prepared = prepare(split_weight_channels(seeded(), 0.1, bits=4), integer(4, 8), (images(),))
    assert [(row.name, row.kind, row.status, row.count) for row in prepared.coverage] == [
        ("stem.layer", "Conv2d", "quantized", 1),
        ("depthwise", "Conv2d", "quantized", 1),
        ("pointwise.layer", "Conv2d", "quantized", 1),
        ("along.layer", "Conv1d", "quantized", 1),
        ("head.layer", "Linear", "quantized", 1),
    ]


def test_named_layers_are_split_and_no_others():
    model = seeded()
    assert splittable(model) == ("stem", "pointwise", "along", "head")
    magnitudes = input_magnitudes(model, batches(images()))
    for split in (
        split_weight_channels(model, 0.5, bits=4, layers=splittable(model)[1:]),
        split_input_channels(model, 0.5, magnitudes, layers=splittable(model)[1:]),
    ):
        left = {name for name, module in split.named_children() if not isinstance(module, SplitInput)}
        assert left == {"stem", "depthwise"}


class Shared(nn.Module):
    """One layer in two places, and one weight in two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.first, self.output = nn.Embedding(10, 6), nn.Linear(6, 6), nn.Linear(6, 10, bias=False)
        self.second, self.output.weight = self.first, self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.output(self.second(self.first(self.embedding(tokens)).relu()))


def test_a_shared_layer_stays_one_and_a_tied_weight_keeps_its_embedding():
    model, tokens = seeded(Shared).double(), torch.arange(10).view(2, 5)
    split = split_weight_channels(model, 0.5, bits=4)
    assert split.first is split.second
    assert torch.equal(split.embedding.weight, model.embedding.weight)
    torch.testing.assert_close(split(tokens), model(tokens), rtol=0, atol=1e-13)


class ChangedForward(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).abs()


LEFT = {
    "attention": lambda: nn.MultiheadAttention(8, 2),
    "encoder": lambda: nn.TransformerEncoderLayer(8, 2, 16),
    "changed forward": lambda: ChangedForward(4, 4),
    "grouped": lambda: nn.Conv2d(8, 8, 1, groups=2),
    "transposed": lambda: nn.ConvTranspose2d(4, 4, 2),
}


@pytest.mark.parametrize("kind", LEFT)
def test_a_layer_whose_weight_means_something_else_is_left_alone(kind):
    model = nn.Sequential(LEFT[kind]())
    assert splittable(model) == ()
    assert str(split_weight_channels(model, 0.5, bits=4)) == str(model.eval())


@pytest.mark.parametrize("ratio", [-0.1, 1.5, float("nan"), float("inf")])
def test_a_ratio_that_is_no_part_is_refused(ratio):
    for split in (lambda: split_weight_channels(seeded(), ratio, 4), lambda: split_input_channels(seeded(), ratio, {})):
        with pytest.raises(ValueError, match=f"a ratio of {ratio} found"):
            split()


@pytest.mark.parametrize(
    ("name", "message"),
    [("heed", "'heed' cannot be split.*did you mean 'head'"), ("depthwise", "'depthwise' cannot be split.*one group")],
)
def test_a_layer_that_cannot_be_split_is_refused_by_name(name, message):
    model = seeded()
    with pytest.raises(ValueError, match=message):
        split_weight_channels(model, 0.1, 4, layers=[name])
    with pytest.raises(ValueError, match=message):
        split_input_channels(model, 0.1, {name: np.ones(8)})


def test_other_nonsense_is_refused_by_name():
    model = seeded()
    with pytest.raises(ValueError, match="1 bits hold no positive weight"):
        split_weight_channels(model, 0.1, 1)
    with pytest.raises(ValueError, match="layer head: no magnitudes"):
        split_input_channels(model, 0.1, {}, layers=["head"])
    with pytest.raises(ValueError, match="layer head: 3 magnitudes found for 12 channels"):
        split_input_channels(model, 0.1, {"head": np.ones(3)})
    with pytest.raises(ValueError, match="no batch reached"):
        input_magnitudes(model, [])
    with pytest.raises(ValueError, match="layer stem: an input is not finite"):
        input_magnitudes(model, batches(images() / 0))
    model.head.weight.data[0, 0] = torch.nan
    with pytest.raises(ValueError, match="layer head: its weight is not finite"):
        split_weight_channels(model, 0.1, 4)
