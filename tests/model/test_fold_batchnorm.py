import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from bitwright.model.transform import fold_batchnorm


def trained(norm: nn.Module) -> nn.Module:
    """A norm with statistics and weights far from their start."""
    generator = torch.Generator().manual_seed(1)
    for tensor, low in ((norm.running_mean, -1.0), (norm.running_var, 0.3), (norm.weight, -1.0), (norm.bias, -1.0)):
        if tensor is not None:
            tensor.data.copy_(low + 2 * torch.rand(tensor.shape, generator=generator))
    return norm


def of(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*(trained(m) if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) else m for m in layers))


FOLDED = {
    "conv2d": (lambda: of(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU()), (2, 3, 6, 6)),
    "conv2d without bias": (lambda: of(nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5)), (2, 3, 6, 6)),
    "depthwise": (lambda: of(nn.Conv2d(4, 8, 3, groups=4), nn.BatchNorm2d(8)), (2, 4, 6, 6)),
    "conv1d": (lambda: of(nn.Conv1d(3, 5, 3), nn.BatchNorm1d(5)), (2, 3, 6)),
    "transposed": (lambda: of(nn.ConvTranspose2d(3, 5, 3, 2, 1, 1), nn.BatchNorm2d(5)), (2, 3, 4, 4)),
    "transposed, grouped": (lambda: of(nn.ConvTranspose2d(6, 4, 3, groups=2), nn.BatchNorm2d(4)), (2, 6, 4, 4)),
    "transposed, 1d": (lambda: of(nn.ConvTranspose1d(3, 5, 2, bias=False), nn.BatchNorm1d(5)), (2, 3, 6)),
    "linear": (lambda: of(nn.Linear(3, 5), nn.BatchNorm1d(5)), (4, 3)),
    "no affine": (lambda: of(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5, affine=False)), (2, 3, 6, 6)),
    "two": (
        lambda: of(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Conv2d(5, 4, 3), nn.BatchNorm2d(4)),
        (2, 3, 6, 6),
    ),
}


@pytest.mark.parametrize("kind", FOLDED)
def test_a_folded_norm_is_gone_and_the_function_stays(kind):
    make, shape = FOLDED[kind]
    torch.manual_seed(0)
    model, x = make().eval(), torch.randn(shape)
    folded = fold_batchnorm(model, (x,))
    assert not norms(folded)
    # float32: two layers of at most 45 products of about 1, scaled by at most 1 / sqrt(0.3)
    torch.testing.assert_close(folded(x), model(x), rtol=0, atol=1e-5)


def norms(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]


class TwoUses(nn.Module):
    """The layer's output is also used before the norm."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Conv2d(3, 5, 1), trained(nn.BatchNorm2d(5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return self.norm(y) + y


class Twice(nn.Module):
    """One layer before a norm, and again without it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Conv2d(3, 3, 1), trained(nn.BatchNorm2d(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.norm(self.layer(x)))


class Functional(nn.Module):
    """Something lies between layer and norm that is no module."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Conv2d(3, 5, 1), trained(nn.BatchNorm2d(5))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.layer(x).relu())


class InPlace(nn.Module):
    """The layer's output is changed in place before the norm sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Conv2d(3, 5, 1), trained(nn.BatchNorm2d(5))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.layer(x).relu_())


class Clipped(nn.ConvTranspose2d):
    """A transposed convolution and what comes after it, in one."""

    def forward(self, input, output_size=None):
        return super().forward(input, output_size).relu()


LEFT = {
    "layer with another forward": lambda: of(Clipped(3, 5, 1), nn.BatchNorm2d(5)),
    "layer with a computed weight": lambda: of(parametrizations.weight_norm(nn.Conv2d(3, 5, 1)), nn.BatchNorm2d(5)),
    "first in the network": lambda: of(nn.BatchNorm2d(3), nn.Conv2d(3, 5, 1)),
    "after an activation": lambda: of(nn.Conv2d(3, 5, 1), nn.ReLU(), nn.BatchNorm2d(5)),
    "after an activation in place": lambda: of(nn.Conv2d(3, 5, 1), nn.ReLU(inplace=True), nn.BatchNorm2d(5)),
    "without running statistics": lambda: of(nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5, track_running_stats=False)),
    "output used twice": TwoUses,
    "layer used twice": Twice,
    "function between": Functional,
    "function in place between": InPlace,
}


@pytest.mark.parametrize("kind", LEFT)
def test_a_norm_that_cannot_be_folded_is_left_alone(kind):
    torch.manual_seed(0)
    model, x = LEFT[kind]().eval(), torch.randn(2, 3, 6, 6)
    folded = fold_batchnorm(model, (x,))
    assert len(norms(folded)) == 1
    assert torch.equal(folded(x), model(x))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(nn.Linear(3, 5), (2, 5, 3)), (nn.Linear(3, 7), (2, 5, 3)), (nn.Conv1d(3, 5, 1), (3, 5))],
    ids=["tokens", "other tokens", "one sample"],
)
def test_a_norm_over_another_axis_than_the_layers_outputs_is_left_alone(layer, shape):
    torch.manual_seed(0)
    model, x = of(layer, nn.BatchNorm1d(5)).eval(), torch.randn(shape)
    folded = fold_batchnorm(model, (x,))
    assert len(norms(folded)) == 1
    assert torch.equal(folded(x), model(x))


def test_the_callers_model_is_left_as_it_was():
    model = of(nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5)).train()
    before = copy.deepcopy(model.state_dict())
    fold_batchnorm(model, (torch.randn(2, 3, 4, 4),))
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


class NormAndActivation(nn.BatchNorm2d):
    """As timm writes it: a norm that goes on."""

    def __init__(self, channels, act):
        super().__init__(channels)
        self.act = act

    def forward(self, x):
        return self.act(super().forward(x))


class NormOfTheSquare(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x * x)


@pytest.mark.parametrize("norm", [NormAndActivation(4, nn.Hardswish()), NormOfTheSquare(4)], ids=["after", "before"])
def test_a_norm_that_does_more_keeps_its_function(norm):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            parameter.uniform_(0.5, 2)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.Conv2d(4, 2, 1)).eval()
    x = torch.randn(2, 3, 8, 8)
    folded = fold_batchnorm(model, (x,))
    torch.testing.assert_close(folded(x), model(x), rtol=1e-4, atol=1e-5)
    is_folded = not torch.equal(folded[0].weight, model[0].weight)
    assert is_folded == isinstance(norm, NormAndActivation)
