import copy
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bitwright.config import from_text
from bitwright.formats import E2M1, Int
from bitwright.formats.table import Table
from bitwright.model.convolution import Conv
from bitwright.model.layers import FakeQuantizedLayer, QuantizedLayer
from bitwright.model.lowering import Linear
from bitwright.model.prepare import calibrate, freeze, prepare
from bitwright.model.task import Batch
from bitwright.model.transform import (
    AS_CALIBRATED,
    ErrorFrom,
    Gptq,
    GreedyPath,
    ScaleSearch,
    as_stored,
    correct_bias,
    gptq,
    largest_first,
)
from bitwright.model.transform.gptq import LAZY
from bitwright.model.transform.input_moments import in_float, input_moments, patches
from bitwright.model.transform.weight_grid import Grid, Nearest

FORMATS = (Int(3, narrow=True), E2M1, Table((0, 1, 1, 1, 0, -1, -1, -1), (0, 0, 1, 2, 0, 0, 1, 2)))

SCHEMES = (
    "integer(4, 8)", "integer(3, None)", "integer(4, 8, weight_range=Percentile(90.0), zero=Zero.FITTED)",
    "vs_quant(4, 4)", "ant(4, 4)", "minifloat(4, 3)", "mxfp4()", "nvfp4(four_over_six=True)",
)  # fmt: skip


class Network(nn.Module):
    """Convolutions of four kinds, a linear layer without a bias, and one whose weight an embedding shares."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.grouped = nn.Conv2d(8, 6, (1, 2), stride=2, groups=2)
        self.along = nn.Conv1d(6, 8, 2, dilation=2, padding="same")
        self.projection = nn.Linear(8, 8, bias=False)
        self.words = nn.Embedding(5, 8)
        self.head = nn.Linear(8, 5)
        self.head.weight = self.words.weight

    def forward(self, images: Tensor) -> Tensor:
        features = self.grouped(self.depthwise(self.stem(images).relu()).relu()).relu()
        pixels = self.along(features.flatten(2)).relu().transpose(1, 2)
        return self.head(self.projection(pixels)).mean(1)


@cache
def network() -> nn.Module:
    torch.manual_seed(0)
    return Network().requires_grad_(False).eval()


def batches(seed: int = 0) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    return [Batch((torch.randn(3, 3, 8, 8, generator=generator),), torch.empty(0)) for _ in range(2)]


@cache
def ready(scheme: str) -> nn.Module:
    """A calibrated model, once a scheme; no test changes it."""
    return calibrate(prepare(network(), from_text(scheme), batches()[0].inputs), batches())


def layers_of(model: nn.Module) -> list[FakeQuantizedLayer | QuantizedLayer]:
    return [m for m in model.modules() if isinstance(m, FakeQuantizedLayer | QuantizedLayer)]


def correlated(n: int, k: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights, float inputs and inputs with an error, both with neighbours that resemble each other."""
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((4 * k, k)) @ (np.eye(k) + 0.5 * np.eye(k, k=1) + 0.2 * np.eye(k, k=3))
    return generator.standard_normal((n, k)) * 1.5, x, x + 0.1 * generator.standard_normal(x.shape)


def brain_surgeon(weights: np.ndarray, hessian: np.ndarray, grid: Grid, damping: float) -> np.ndarray:
    """Frantar et al., eq. 2: the inverse over the columns that remain, computed anew for each."""
    hessian = hessian + damping * np.diag(hessian).mean() * np.eye(len(hessian))
    weights = weights.copy()
    for i in range(len(hessian)):
        inverse = np.linalg.inv(hessian[i:, i:])
        chosen = Nearest(grid).choose(i, weights[:, i]).weights
        weights[:, i:] -= np.outer((weights[:, i] - chosen) / inverse[0, 0], inverse[0])
        weights[:, i] = chosen
    return weights


@pytest.mark.parametrize(("format", "k"), [*((f, 5) for f in FORMATS), (FORMATS[0], LAZY + 3)])
def test_gptq_equals_the_optimal_brain_surgeon_in_a_fixed_order(format, k):
    weights, _, x = correlated(4, k)
    grid = Grid(format, np.full(weights.shape, 0.75))
    found = Gptq(as_stored).choose(weights, x.T @ x, None, Nearest(grid))
    np.testing.assert_array_equal(found, brain_surgeon(weights, x.T @ x, grid, 0.01))


@pytest.mark.parametrize("order", [as_stored, largest_first])
def test_with_uncorrelated_inputs_gptq_rounds_to_nearest(order):
    weights, _, _ = correlated(4, 9)
    grid = Grid(E2M1, np.full(weights.shape, 0.3))
    nearest = np.stack([Nearest(grid).choose(i, weights[:, i]).weights for i in range(9)], 1)
    energy = np.diag(np.arange(1.0, 10.0))
    np.testing.assert_array_equal(Gptq(order).choose(weights, energy, None, Nearest(grid)), nearest)


def test_without_a_constraint_errors_from_the_clipped_weight_are_those_from_the_target():
    weights, _, x = correlated(4, 9)
    grid = Grid(Int(3), np.ones(weights.shape))
    first, second = (Gptq(error_from=e).choose(weights, x.T @ x, None, Nearest(grid)) for e in ErrorFrom)
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("order", [as_stored, largest_first])
def test_the_greedy_path_equals_the_one_that_walks_along_the_samples(order):
    weights, x, noisy = correlated(4, 12)
    grid = Grid(Int(4), np.full(weights.shape, 0.5))
    found = GreedyPath(order).choose(weights, noisy.T @ noisy, noisy.T @ x, Nearest(grid))
    walked = np.zeros_like(weights)
    behind = np.zeros((4, len(x)))  # Σ w_s x_s - q_s x̂_s over the weights chosen
    for t in order((noisy**2).sum(0)):
        behind += np.outer(weights[:, t], x[:, t])
        walked[:, t] = Nearest(grid).choose(int(t), behind @ noisy[:, t] / (noisy[:, t] @ noisy[:, t])).weights
        behind -= np.outer(walked[:, t], noisy[:, t])
    np.testing.assert_array_equal(found, walked)


@pytest.mark.parametrize("method", [Gptq(), GreedyPath()])
def test_outputs_are_nearer_than_with_every_weight_rounded_alone(method):
    weights, x, noisy = correlated(16, 64)
    grid = Grid(Int(3, narrow=True), np.full(weights.shape, 1.0))
    nearest = np.stack([Nearest(grid).choose(i, weights[:, i]).weights for i in range(64)], 1)
    chosen = method.choose(weights, noisy.T @ noisy, noisy.T @ x, Nearest(grid))
    errors = [np.square(noisy @ w.T - x @ weights.T).sum() for w in (nearest, chosen)]
    assert errors[1] < 0.85 * errors[0]


@pytest.mark.parametrize("method", [Gptq(), GreedyPath()])
def test_weights_of_inputs_that_are_always_zero_become_zero(method):
    weights, x, _ = correlated(4, 6)
    x[:, 2] = 0
    chosen = method.choose(weights, x.T @ x, x.T @ x, Nearest(Grid(Int(4), np.ones(weights.shape))))
    assert not chosen[:, 2].any()
    assert chosen[:, 3].any()


@pytest.mark.parametrize("damping", [0.0, -1.0])
def test_a_damping_that_leaves_no_inverse_is_refused(damping):
    with pytest.raises(ValueError, match="damping"):
        Gptq(damping=damping)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(5, 4, bias=False), (2, 3, 5)),
        (nn.Conv2d(5, 4, 3, stride=2, padding=(1, 2), bias=False), (2, 5, 7, 6)),
        (nn.Conv2d(6, 4, (2, 3), dilation=2, groups=2, bias=False), (2, 6, 7, 9)),
        (nn.Conv2d(6, 12, 3, groups=6, bias=False), (2, 6, 7, 9)),
        (nn.Conv2d(1, 4, 3, bias=False), (2, 1, 7, 9)),
        (nn.Conv1d(6, 4, 3, padding="same", groups=2, bias=False), (2, 6, 9)),
    ],
)
def test_patches_times_weight_rows_are_the_layer(layer, shape):
    torch.manual_seed(0)
    lowering = Linear() if isinstance(layer, nn.Linear) else Conv.of(layer)
    x, weight = torch.randint(-4, 5, shape).double(), torch.randint(-4, 5, layer.weight.shape).double()
    met = patches(lowering, x, weight.shape)
    rows = lowering.weight_rows(weight, 4).unflatten(0, (len(met), -1))
    products = [lowering.weight_rows(group, 4) @ own.T for group, own in zip(met, rows, strict=True)]
    y = lowering.forward(x, weight)
    channels_last = y if isinstance(layer, nn.Linear) else y.movedim(1, -1)
    np.testing.assert_array_equal(torch.cat(products, 1).numpy(), channels_last.flatten(0, -2).numpy())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_freezing_stores_the_chosen_weights_with_the_scales_of_the_original_ones(scheme):
    chosen = gptq(ready(scheme), batches())
    for layer, frozen, plain in zip(*map(layers_of, (chosen, freeze(chosen), freeze(ready(scheme)))), strict=True):
        stored, before = frozen.quantized_weight(), plain.quantized_weight()
        rows = layer.lowering.weight_rows(layer.weight, layer.block).numpy()
        np.testing.assert_array_equal(stored.decode().astype(np.float32), rows)
        if len(stored.quantizer.candidates()) == 1:
            for now, then in zip(stored.scales, before.scales, strict=True):
                np.testing.assert_array_equal(now, then)
        np.testing.assert_array_equal(layer.fake_weight().numpy(), layer.weight.numpy())


@pytest.mark.parametrize("scheme", ["integer(4, 8)", "vs_quant(4, 4)"])
def test_choosing_again_from_weights_on_the_grid_keeps_the_grid(scheme):
    once = gptq(ready(scheme), batches())
    twice = gptq(once, batches(1))
    for first, second in zip(layers_of(freeze(once)), layers_of(freeze(twice)), strict=True):
        for a, b in zip(first.quantized_weight().scales, second.quantized_weight().scales, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("method", [Gptq(), GreedyPath()])
def test_the_whole_network_comes_nearer_to_the_float_one(method):
    def error(model: nn.Module) -> float:
        return sum(float((model(*b.inputs) - network()(*b.inputs)).square().sum()) for b in batches())

    assert error(gptq(ready("integer(3, 8)"), batches(), method=method)) < 0.7 * error(ready("integer(3, 8)"))


@pytest.mark.parametrize("method", [Gptq(), GreedyPath()])
def test_each_row_keeps_the_scale_with_which_it_leaves_least_error(method):
    """Against one choice after the other, each with one scale for all rows."""
    factors = (1.0, 0.7, 0.5)
    layer = ready("integer(2, 8)").stem
    reference = in_float(ready("integer(2, 8)"))
    moments = input_moments(ready("integer(2, 8)"), layer, batches(), (reference, reference.stem))

    def with_scales(*factors: float) -> FakeQuantizedLayer:
        return gptq(
            ready("integer(2, 8)"), batches(), method=method, scales=ScaleSearch(factors), layers=("stem",)
        ).stem

    def errors(found: FakeQuantizedLayer) -> np.ndarray:
        rows = found.lowering.weight_rows(found.weight, 1).double().numpy()
        original = layer.lowering.weight_rows(layer.weight.detach(), 1).double().numpy()
        return method.error(original, rows, moments.quantized[0], moments.crossed[0])

    alone = np.stack([errors(with_scales(factor)) for factor in factors])
    searched = with_scales(*factors)
    # weights are float32 here and float64 where they were compared
    np.testing.assert_allclose(errors(searched), alone.min(0), rtol=1e-5)
    found = searched.weight_ranges[0].magnitude[:, 0] / layer.weight.detach().flatten(1).abs().amax(1).numpy()
    np.testing.assert_allclose(found, np.asarray(factors)[alone.argmin(0)], rtol=1e-6)


def test_rows_that_share_a_scale_choose_it_together():
    scheme = "integer(3, 8, weight_share=PerTensor())"
    found = gptq(ready(scheme), batches(), scales=ScaleSearch((1.0, 0.8, 0.6, 0.4)), layers=("grouped",)).grouped
    assert found.weight_ranges[0].magnitude.shape == (1, 1)
    codes = found.weight / (found.weight_ranges[0].magnitude.item() / 3)
    # float32 products and quotients of integers up to 3
    np.testing.assert_allclose(codes.numpy(), np.rint(codes.numpy()), atol=1e-6)


def test_searching_one_scale_changes_nothing():
    for a, b in zip(
        layers_of(gptq(ready("vs_quant(4, 4)"), batches())),
        layers_of(gptq(ready("vs_quant(4, 4)"), batches(), scales=AS_CALIBRATED)),
        strict=True,
    ):
        np.testing.assert_array_equal(a.weight.numpy(), b.weight.numpy())


@pytest.mark.parametrize("factors", [(), (1.0, 0.0), (-1.0,)])
def test_scales_are_multiplied_by_something(factors):
    with pytest.raises(ValueError, match="at least one, all above 0"):
        ScaleSearch(factors)


def test_the_model_given_and_what_shares_its_weights_stay_as_they_were():
    before = copy.deepcopy(ready("integer(4, 8)").state_dict())
    chosen = gptq(ready("integer(4, 8)"), batches())
    for name, value in ready("integer(4, 8)").state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name].numpy())
    np.testing.assert_array_equal(chosen.words.weight.numpy(), ready("integer(4, 8)").words.weight.numpy())


def test_only_the_layers_named_change():
    chosen = gptq(ready("integer(4, 8)"), batches(), layers=("stem",))
    changed = [
        a.name
        for a, b in zip(layers_of(chosen), layers_of(ready("integer(4, 8)")), strict=True)
        if not torch.equal(a.weight, b.weight)
    ]
    assert changed == ["stem"]


def test_each_layer_sees_what_the_chosen_weights_before_it_make():
    chosen = gptq(ready("integer(2, 8)"), batches(), layers=("stem",))
    both = gptq(ready("integer(2, 8)"), batches(), layers=("stem", "depthwise"))
    alone = gptq(chosen, batches(), layers=("depthwise",))
    np.testing.assert_array_equal(both.depthwise.weight.numpy(), alone.depthwise.weight.numpy())


def test_moments_are_those_of_the_quantized_input():
    model = ready("integer(4, 4)")
    seen: list[Tensor] = []
    handle = model.head.register_forward_pre_hook(lambda m, args: seen.append(m._fake_input(args[0]).flatten(0, 1)))
    found = input_moments(model, model.head, batches())
    handle.remove()
    rows = torch.cat(seen).double().numpy()
    # float64 sums of as many float32 products, in another order
    np.testing.assert_allclose(found.quantized[0], rows.T @ rows, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": ("stm",)}, "'stm' is no quantized layer.*stem"),
        ({"batches": []}, "calibration data is empty"),
        ({"prepared": "prepare"}, "layer stem: the model is not calibrated"),
        ({"prepared": "term_revealing(4, 8)"}, "layer stem: TermBudget.* encodes neighbours together"),
    ],
)
def test_what_cannot_be_done_is_said(change, message):
    prepared = change.pop("prepared", "integer(4, 8)")
    model = prepare(network(), from_text("integer(4, 8)")) if prepared == "prepare" else ready(prepared)
    with pytest.raises(ValueError, match=message):
        gptq(model, change.pop("batches", batches()), **change)


def test_a_layer_that_no_batch_reaches_is_named():
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor, more: Tensor | None = None) -> Tensor:
            return self.used(x) if more is None else self.idle(self.used(x) + more)

    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    model = prepare(Idle().requires_grad_(False), from_text("integer(4, 8)"), (x, x))
    calibrate(model, [Batch((x, x), torch.empty(0))])
    with pytest.raises(ValueError, match="layer idle: no calibration data reached"):
        gptq(model, [Batch((x,), torch.empty(0))])


def test_corrected_layers_have_the_mean_outputs_of_the_float_network():
    corrected = correct_bias(ready("integer(2, 4)"), network(), batches())
    outputs: dict[str, list[Tensor]] = {"float": [], "quantized": []}
    for name, model in (("float", network()), ("quantized", corrected)):
        handles = [
            model.get_submodule(layer.name).register_forward_hook(
                lambda m, args, y, own=outputs[name]: (
                    own.append(y.double().movedim(-1, 1).flatten(2).mean((0, 2)))
                    if isinstance(m, nn.Linear) or getattr(m, "lowering", None) == Linear()
                    else own.append(y.double().flatten(2).mean((0, 2)))
                )
            )
            for layer in layers_of(corrected)
        ]
        for batch in batches():
            model(*batch.inputs)
        for handle in handles:
            handle.remove()
    half = len(outputs["float"]) // 2
    for i in range(half):  # both batches have as many samples
        wanted, found = (sum(o[i::half]) / 2 for o in (outputs["float"], outputs["quantized"]))
        # biases and outputs are float32 of magnitude about 1
        np.testing.assert_allclose(found.numpy(), wanted.numpy(), atol=1e-6)


def test_a_bias_is_corrected_from_the_model_that_was_prepared():
    with pytest.raises(ValueError, match="layer stem: the float model has no such layer"):
        correct_bias(ready("integer(4, 8)"), nn.Linear(3, 3), batches())
