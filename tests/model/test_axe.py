import itertools
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from bitwright.config import from_text
from bitwright.datapath import certify
from bitwright.formats import E2M1, Bounds, Int
from bitwright.formats.table import Table
from bitwright.model.layers import FakeQuantizedLayer
from bitwright.model.prepare import calibrate, freeze, prepare, prove
from bitwright.model.task import Batch
from bitwright.model.transform import (
    AS_CALIBRATED,
    WIDER,
    Budget,
    ErrorFrom,
    Gptq,
    GreedyPath,
    InputRange,
    as_stored,
    axe,
    correct_bias,
    gptq,
    largest_first,
)
from bitwright.model.transform.axe import WithinBudget
from bitwright.model.transform.input_moments import in_float, input_moments
from bitwright.model.transform.weight_grid import Grid, Nearest
from bitwright.quantization import PerRow, Quantizer, Range, Scale

UNSIGNED, SIGNED, ASYMMETRIC = InputRange(0, 255), InputRange(-128, 127), InputRange(-37, 218)

INT4 = Int(4, narrow=True)
FORMATS = (INT4, E2M1, Table((0, 1, 1, 1, 0, -1, -1, -1), (0, 0, 1, 2, 0, 0, 1, 2)))

WEIGHTS = np.array([[5.3, -3.2, 4.8, 2.1], [1.2, 1.4, -0.6, 7.4]])
MIXED = np.array([[1, 0.5, 0.2, 0.1], [0, 1, 0.3, 0.2], [0, 0, 1, 0.4], [0, 0, 0, 1]])
U4, S4 = InputRange(0, 15), InputRange(-8, 7)

# Brevitas 0.13.4 and an independent NumPy reference, scale 1, damping 0.01, in the order of K
VECTORS = [
    (np.eye(4), 7, 4, U4, [[4, -2, 0, 0], [1, 1, 0, 2]]),
    (np.eye(4), 8, 4, U4, [[5, -3, 3, 0], [1, 1, -1, 6]]),
    (np.eye(4), 8, 2, U4, [[5, -3, 5, 2], [1, 1, -1, 7]]),
    (np.eye(4), 8, 4, S4, [[5, -3, 5, 2], [1, 1, -1, 7]]),
    (MIXED.T @ MIXED, 7, 4, U4, [[4, -2, 0, 0], [1, 1, 0, 2]]),
    (MIXED.T @ MIXED, 8, 4, U4, [[5, -3, 3, 0], [1, 1, 0, 6]]),
    (MIXED.T @ MIXED, 8, 2, U4, [[5, -3, 5, 2], [1, 1, 0, 7]]),
]


@pytest.mark.parametrize(("hessian", "bits", "tile", "inputs", "codes"), VECTORS)
def test_the_published_implementation_chooses_the_same_codes(hessian, bits, tile, inputs, codes):
    rounder = WithinBudget(Grid(INT4, np.ones(WEIGHTS.shape)), Budget(bits, tile, inputs), WEIGHTS)
    np.testing.assert_array_equal(Gptq(as_stored).choose(WEIGHTS, hessian, None, rounder), codes)


def test_thresholds_are_those_of_the_published_implementation():
    # to the four digits that were written down
    np.testing.assert_array_equal(Budget(7, 4, U4).thresholds(WEIGHTS).round(4), [[0.8833], [0.425]])


@pytest.mark.parametrize(("bits", "input_bits", "radius"), [(16, 8, 256.99608), (12, 4, 272.93333), (12, 8, 16.05490)])
def test_the_radius_is_that_of_zero_centred_weights(bits, input_bits, radius):
    found = Budget(bits, 4, InputRange(0, 2**input_bits - 1)).radius
    assert round(found, 5) == radius


@pytest.mark.parametrize("inputs", [U4, S4, InputRange(-3, 12), InputRange(-15, 0)])
def test_the_room_is_all_that_one_more_weight_can_take(inputs):
    """Against every input of both ends: a weight fits exactly where no sum leaves the register."""
    budget = Budget(6, 2, inputs)
    for positive, negative in itertools.product(range(4), range(4)):

        def fits(weight: int, held: tuple[int, int] = (positive, negative)) -> bool:
            sums = [
                a * held[0] - b * held[1] + c * weight
                for a, b, c in itertools.product((inputs.lowest, inputs.highest), repeat=3)
            ]
            return max(map(abs, sums)) <= budget.limit

        if not fits(0):
            continue
        lowest, highest = (int(x[0]) for x in budget.room(np.array([positive]), np.array([negative])))
        assert [w for w in range(-40, 41) if fits(w)] == list(range(lowest, highest + 1))


def moments(k: int, inputs: InputRange, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    x = generator.integers(inputs.lowest, inputs.highest + 1, (2 * k, k)) * 0.02
    return x.T @ x, x.T @ (x + 0.01 * generator.standard_normal(x.shape))


def extremes(units: np.ndarray, tile: int, inputs: InputRange) -> int:
    """Largest |sum| of any tile over all inputs."""
    tiles = [units[:, i : i + tile] for i in range(0, units.shape[1], tile)]
    ends = np.array([[inputs.lowest], [inputs.highest]])
    highest = max(np.maximum(t[:, None] * ends[0], t[:, None] * ends[1]).sum(-1).max() for t in tiles)
    lowest = min(np.minimum(t[:, None] * ends[0], t[:, None] * ends[1]).sum(-1).min() for t in tiles)
    return int(max(highest, -lowest))


@pytest.mark.parametrize("method", [Gptq(), Gptq(as_stored, error_from=ErrorFrom.CLIPPED), GreedyPath()])
@pytest.mark.parametrize("inputs", [UNSIGNED, SIGNED, ASYMMETRIC])
@pytest.mark.parametrize(("bits", "tile"), [(16, 64), (14, 64), (14, 16), (12, 16), (10, 24)])
def test_no_sum_leaves_the_register_for_any_input(method, inputs, bits, tile):
    generator = np.random.default_rng(bits + tile)
    weights = generator.standard_normal((16, 64)) * generator.uniform(0.2, 3, (16, 1))
    weights[:2] = np.abs(weights[:2])
    weights[2] = 0
    for format in FORMATS:
        exponent = format.bounds().exponent.start
        scale = np.abs(weights).max(1, keepdims=True).repeat(64, 1) / format.full_scale
        grid, budget = Grid(format, scale), Budget(bits, tile, inputs)
        chosen = method.choose(weights, *moments(64, inputs, generator), WithinBudget(grid, budget, weights))
        units = np.rint(np.ldexp(grid.levels(chosen), -exponent)).astype(np.int64)
        assert extremes(units, tile, inputs) <= budget.limit
        one = Scale(PerRow())
        stored = Quantizer(format, (one,)).quantize(
            chosen, (Range(-scale[:, :1] * format.full_scale, scale[:, :1] * format.full_scale),)
        )
        np.testing.assert_array_equal(np.ldexp(stored.elements().reshape(16, -1), -exponent), units)
        low, high = float(inputs.lowest), float(inputs.highest)
        certificate = certify(stored, Bounds(255, range(1), low, high), tile)
        assert certificate.inner_bits <= bits


@pytest.mark.parametrize("method", [Gptq(), Gptq(error_from=ErrorFrom.CLIPPED), GreedyPath()])
def test_a_register_that_holds_everything_constrains_nothing(method):
    generator = np.random.default_rng(0)
    weights = generator.standard_normal((8, 20))
    grid = Grid(INT4, np.full(weights.shape, 0.3))
    both = moments(20, UNSIGNED, generator)
    constrained = method.choose(weights, *both, WithinBudget(grid, Budget(32, 20, UNSIGNED), weights))
    np.testing.assert_array_equal(constrained, method.choose(weights, *both, Nearest(grid)))


def test_errors_from_the_target_leave_less_error_than_from_the_clipped_weight():
    """As an independent implementation measured, where the constraint binds."""
    errors = dict.fromkeys(ErrorFrom, 0.0)
    for seed in range(3):
        generator = np.random.default_rng(seed)
        weights = generator.standard_normal((16, 64))
        grid = Grid(INT4, np.abs(weights).max(1, keepdims=True).repeat(64, 1) / 7)
        mixed = generator.standard_normal((512, 64)) @ (np.eye(64) + 0.04 * generator.standard_normal((64, 64)))
        x = np.clip(np.rint(mixed * 60), 0, 255)
        for error_from in ErrorFrom:
            rounder = WithinBudget(grid, Budget(14, 64, UNSIGNED), weights)
            chosen = Gptq(error_from=error_from).choose(weights, x.T @ x, None, rounder)
            errors[error_from] += np.square(x @ (chosen - weights).T).sum()
    assert errors[ErrorFrom.TARGET] < 0.95 * errors[ErrorFrom.CLIPPED]


@pytest.mark.parametrize("method", [Gptq(), GreedyPath()])
@pytest.mark.parametrize(
    ("scheme", "bits"), [("integer(4, 8)", 12), ("integer(4, 8, weight_share=PerTensor())", 12), ("vs_quant(4, 4)", 7)]
)
def test_wider_scales_leave_much_less_error_in_a_narrow_register(scheme, bits, method):
    """Of the first layer, as later ones see other inputs."""
    first = layers_of(ready(scheme))[0]
    reference = in_float(ready(scheme))
    moments = input_moments(ready(scheme), first, batches(), (reference, reference[0]))
    float_rows = first.lowering.weight_rows(first.weight, first.block).double().numpy()
    errors = []
    for scales in (AS_CALIBRATED, WIDER):
        chosen = axe(
            ready(scheme), batches(), accumulator_bits=bits, method=method, scales=scales, layers=(first.name,)
        ).get_submodule(first.name)
        rows = chosen.lowering.weight_rows(chosen.weight, chosen.block).double().numpy()
        both = moments.quantized[0], moments.crossed[0]
        nothing = method.error(float_rows, np.zeros_like(rows), *both).sum()
        everything = method.error(float_rows, float_rows, *both).sum()
        errors.append((method.error(float_rows, rows, *both).sum() - everything) / (nothing - everything))
    assert errors[1] < 0.3 * errors[0]


def test_the_published_recipe_keeps_the_calibrated_scales():
    chosen = axe(ready("integer(4, 8)"), batches(), accumulator_bits=10, scales=AS_CALIBRATED)
    for before, after in zip(layers_of(ready("integer(4, 8)")), layers_of(chosen), strict=True):
        largest = before.weight.detach().flatten(1).abs().amax(1).numpy()
        np.testing.assert_array_equal(after.weight_ranges[0].magnitude[:, 0], largest)


def test_as_published_narrow_registers_leave_the_errors_that_were_measured_independently():
    """Oracle: 64 inputs of 8 bits without a sign, 16 outputs of 4-bit weights; half-normal inputs, normal weights.

    An independent implementation measured 0.270 and 0.769 at 14 and 12 bits with tiles of 16, on data of its own, and
    0.343 and 0.809 counting errors from the clipped weight. Here only the order is the same. Wider scales halve the
    larger one.
    """
    error = {}
    for bits, error_from, scales in itertools.product((14, 12), ErrorFrom, (AS_CALIBRATED, WIDER)):
        generator = np.random.default_rng(0)
        weights = generator.standard_normal((16, 64))
        x = np.maximum(generator.standard_normal((512, 64)), 0)
        x = np.rint(x / x.max() * 255)
        step = np.repeat(np.abs(weights).max(1, keepdims=True) / 7, 64, 1)
        least = np.full(16, np.inf)
        for factor in scales.factors:
            rounder = WithinBudget(Grid(INT4, step * factor), Budget(bits, 16, UNSIGNED), weights)
            method = Gptq(error_from=error_from)
            chosen = method.choose(weights, x.T @ x, None, rounder)
            least = np.minimum(least, method.error(weights, chosen, x.T @ x, None))
        error[bits, error_from, scales] = np.sqrt(least.sum() / np.square(x @ weights.T).sum())
    target, clipped = ErrorFrom.TARGET, ErrorFrom.CLIPPED
    assert error[14, target, AS_CALIBRATED] < 0.3 < error[12, target, AS_CALIBRATED] < 0.8
    assert error[12, target, AS_CALIBRATED] < error[12, clipped, AS_CALIBRATED]
    assert error[12, target, WIDER] < 0.5 * error[12, target, AS_CALIBRATED]


class Network(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3, groups=2), nn.ReLU(),
            nn.Flatten(), nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, 4),
        )  # fmt: skip


@cache
def network() -> nn.Module:
    torch.manual_seed(0)
    return Network().requires_grad_(False).eval()


def batches() -> list[Batch]:
    return [Batch((torch.randn(16, 4, 6, 6, generator=torch.Generator().manual_seed(0)),), torch.empty(0))]


@cache
def ready(scheme: str) -> nn.Module:
    return calibrate(prepare(network(), from_text(scheme), batches()[0].inputs), batches())


def layers_of(model: nn.Module) -> list[FakeQuantizedLayer]:
    return [m for m in model.modules() if isinstance(m, FakeQuantizedLayer)]


@pytest.mark.parametrize("method", [Gptq(), GreedyPath()])
@pytest.mark.parametrize(
    ("scheme", "bits", "tile"),
    [
        ("integer(4, 8)", 14, None),
        ("integer(8, 8, zero=Zero.FITTED)", 15, 8),
        ("integer(8, 8, zero=Zero.FITTED, input_range=None)", 16, 8),
        ("integer(4, 4, weight_share=PerTensor())", 8, 4),
        ("minifloat(4, 3)", 16, 4),
        ("vs_quant(4, 4)", 9, None),
        ("mxfp4()", 9, 4),
    ],
)
def test_a_frozen_network_is_proved_to_fit_and_stores_the_chosen_weights(scheme, bits, tile, method):
    chosen = axe(ready(scheme), batches(), accumulator_bits=bits, tile=tile, method=method)
    frozen = freeze(correct_bias(chosen, network(), batches()))
    for layer in layers_of(chosen):
        exact = frozen.get_submodule(layer.name)
        assert exact.certificate.inner_bits <= bits
        rows = layer.lowering.weight_rows(layer.weight, layer.block).numpy()
        np.testing.assert_array_equal(exact.quantized_weight().decode().astype(np.float32), rows)


def test_a_frozen_network_runs_in_its_registers():
    model = axe(ready("integer(4, 8)"), batches(), accumulator_bits=13)
    frozen = freeze(model)
    np.testing.assert_allclose(
        # the same integers; a float32 scale and a float32 sum apart
        frozen(*batches()[0].inputs).numpy(), model(*batches()[0].inputs).numpy(), rtol=1e-4, atol=1e-5,
    )  # fmt: skip


def test_weights_chosen_without_the_constraint_do_not_fit():
    layers = layers_of(gptq(ready("integer(4, 8)"), batches()))
    assert max(prove(layer).certificate.inner_bits for layer in layers) > 14


def test_only_the_layers_named_get_the_register():
    chosen = axe(ready("integer(4, 8)"), batches(), accumulator_bits=14, layers=("2",))
    assert [m.name for m in layers_of(chosen) if m.scheme.datapath.inner.range] == ["2"]
    assert not any(m.scheme.datapath.inner.range for m in layers_of(ready("integer(4, 8)")))


@pytest.mark.parametrize(
    ("scheme", "bits", "tile", "message"),
    [
        ("integer(4, None)", 16, None, "layer 0: its inputs stay in float"),
        ("nvfp4(four_over_six=True)", 16, None, "layer 0: its quantizer chooses among scales"),
        ("integer(4, 8)", 1, None, "layer 0: Budget: an accumulator of 1 bits"),
        ("vs_quant(4, 4)", 16, 3, "layer 0: a tile of 3 elements does not divide the block"),
    ],
)
def test_what_cannot_be_done_is_said(scheme, bits, tile, message):
    with pytest.raises(ValueError, match=message):
        axe(ready(scheme), batches(), accumulator_bits=bits, tile=tile)


def test_a_format_without_zero_is_refused():
    grid = Grid(Table((-1, 1), (0, 0)), np.ones((1, 4)))
    with pytest.raises(ValueError, match="has no zero"):
        WithinBudget(grid, Budget(8, 4, U4), np.ones((1, 4)))


@pytest.mark.parametrize("ends", [(1, 3), (-3, -1), (0, 0)])
def test_an_input_range_holds_zero_and_more(ends):
    with pytest.raises(ValueError, match="must contain zero"):
        InputRange(*ends)


@pytest.mark.parametrize("order", [as_stored, largest_first])
def test_tiles_are_consecutive_inputs_whatever_the_order_of_choice(order):
    generator = np.random.default_rng(0)
    weights = np.abs(generator.standard_normal((4, 12))) * 3
    energy = np.diag(generator.uniform(1, 2, 12))
    rounder = WithinBudget(Grid(INT4, np.ones(weights.shape)), Budget(8, 4, U4), weights)
    chosen = Gptq(order).choose(weights, energy, None, rounder)
    assert chosen.reshape(4, 3, 4).sum(2).max() == 127 // 15
