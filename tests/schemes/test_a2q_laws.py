"""What bounded weights promise: a register of P bits never overflows, for any weights and any inputs."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

import bitwright as bw
from bitwright import kernels
from bitwright.comparison import DEFAULT_SCHEMES
from bitwright.datapath import WIDE, Accumulator, Datapath, Overflow
from bitwright.datapath.datapath import Lanes, lanes
from bitwright.datapath.widths import Span, certify_sums, data_type_bits
from bitwright.formats import Int
from bitwright.kernels import Operand, Stationary
from bitwright.model.layers import FakeQuantizedLayer, QuantizedLayer
from bitwright.model.prepare import calibrate, freeze, prepare
from bitwright.model.task import call
from bitwright.model.train import train
from bitwright.model.training import Shuffled, Training
from bitwright.model.transform import fold_batchnorm
from bitwright.model.zoo import TASKS
from bitwright.schemes import a2q

CHANNELS, RUNS = 10_000, 20
LONGEST = 4608  # 512 channels of a 3 × 3 kernel


def channels(generator: np.random.Generator, rows: int, k: int, full_scale: float) -> np.ndarray:
    """Weights of many characters; where the largest is the full scale the levels are the weights themselves."""
    made = generator.normal(size=(rows, k)) * 10.0 ** generator.integers(-6, 6, (rows, 1))
    whole = generator.integers(-int(full_scale), int(full_scale) + 1, (rows, k)).astype(float)
    whole[:, 0] = full_scale
    halves = np.clip(whole - 0.5, -full_scale, full_scale)
    halves[:, 0] = full_scale
    kind = generator.integers(0, 8, rows)
    made[kind == 0] = 0.0
    made[kind == 1] = halves[kind == 1]  # ties of the rounding
    made[kind == 2] = whole[kind == 2]  # on the grid already
    made[kind == 3] = np.abs(made[kind == 3])  # one sign takes all
    made[kind == 4] = np.sign(made[kind == 4])  # ties of the projection
    made[kind == 5] = generator.standard_t(1.5, (int((kind == 5).sum()), k))  # a few weights far from the others
    return made


def any_setting(generator: np.random.Generator):
    """A scheme between the floor and the width that the data types alone ask for, and a K."""
    weight_bits, input_bits = (int(b) for b in generator.integers(2, 9, 2))
    k = int(np.rint(LONGEST ** generator.random()))
    each_sign, has_signed_inputs = (bool(b) for b in generator.integers(0, 2, 2))
    floor = (2**input_bits - 1 if each_sign else 2 ** (input_bits - has_signed_inputs)).bit_length() + 1
    ceiling = data_type_bits(k, input_bits, weight_bits, is_input_signed=False)
    accumulator_bits = int(generator.integers(floor, max(floor, ceiling) + 1))
    tile = int(generator.integers(1, k + 1)) if generator.integers(2) else None
    scheme = a2q(weight_bits, input_bits, accumulator_bits, tile=tile, each_sign=each_sign,
                 has_signed_inputs=has_signed_inputs)  # fmt: skip
    formats = [scheme.input.format] if has_signed_inputs else [scheme.input.unsigned.format, scheme.input.signed.format]
    return scheme, k, tile or k, accumulator_bits, [f.range for f in formats]


@pytest.mark.parametrize("seed", range(RUNS))
def test_ten_thousand_channels_stay_within_their_bound(seed):
    generator = np.random.default_rng(seed)
    for _ in range(20):
        scheme, k, tile, bits, inputs = any_setting(generator)
        quantizer = scheme.weight
        weights = channels(generator, CHANNELS // RUNS // 20, k, quantizer.format.full_scale)
        integers = lanes(quantizer.quantize(weights), min(tile, k)).integers
        positive, negative = np.maximum(integers, 0).sum(2), -np.minimum(integers, 0).sum(2)
        largest = 2 ** (bits - 1) - 1
        for low, high in inputs:
            assert (high * positive - low * negative).max() <= largest
            assert (low * positive - high * negative).min() >= -largest
        bounds = quantizer.format.bounds()
        if bounds.norm1_of_sign is None:
            assert (positive + negative).max() <= bounds.norm1
        else:
            assert max(positive.max(), negative.max()) <= bounds.norm1_of_sign
        assert np.abs(integers).max() <= quantizer.format.full_scale


@pytest.mark.parametrize("seed", range(RUNS))
def test_channels_within_the_bound_are_rounded_as_plain_integers_are(seed):
    generator = np.random.default_rng(1000 + seed)
    for _ in range(20):
        scheme, k, tile, _, _ = any_setting(generator)
        bounded = scheme.weight
        plain = replace(bounded, format=bounded.format.lane)
        weights = channels(generator, 10, k, bounded.format.full_scale)
        found, wanted = (lanes(q.quantize(weights), min(tile, k)).integers for q in (bounded, plain))
        bound = np.floor(bounded.format.bound)
        parts = (np.maximum(wanted, 0), -np.minimum(wanted, 0)) if bounded.format.each_sign else (np.abs(wanted),)
        is_within = np.all([part.sum(2) <= bound for part in parts], axis=0)
        np.testing.assert_array_equal(found[is_within], wanted[is_within])
        assert not np.any(found * wanted < 0), "no weight changes its sign"


def worst_inputs(weights: np.ndarray, bounds: Span) -> np.ndarray:
    """For each row the integers that reach its extreme sums: all low or high by the weight's sign."""
    up = np.where(weights > 0, bounds.high, bounds.low)
    return np.concatenate([up, bounds.low + bounds.high - up])


def as_lanes(integers: np.ndarray, tile: int) -> Lanes:
    padded = np.pad(integers, ((0, 0), (0, -integers.shape[1] % tile))).reshape(len(integers), -1, tile)
    ones = np.ones(padded.shape[:2])
    return Lanes(padded.astype(np.int64), ones, np.ones((len(padded), 1)), 0, False)


@pytest.mark.parametrize("tile", [None, 32])
@pytest.mark.parametrize("bits", range(9, 16))
def test_a_wrapping_register_equals_an_endless_one_and_one_bit_less_does_not(bits, tile):
    generator = np.random.default_rng(bits)
    scheme = a2q(4, 8, bits, tile=tile)
    integers = lanes(scheme.weight.quantize(generator.normal(size=(6, 100))), 100).integers[:, 0]
    bounds = Span(0, 255)
    x = np.concatenate([worst_inputs(integers, bounds), generator.integers(0, 256, (50, 100))])
    operands = as_lanes(x, tile or 100), as_lanes(integers, tile or 100)

    def product(width: int):
        return Datapath(Accumulator(Int(width), Overflow.WRAP), WIDE, tile).multiply(*operands)

    found = product(bits)
    np.testing.assert_array_equal(found.values, x @ integers.T)
    assert found.overflows == 0
    needed = certify_sums(integers, bounds, tile=tile).exact_bits
    assert needed <= bits
    assert product(needed).overflows == 0
    assert product(needed - 1).overflows > 0, "the proof is no wider than it must be"


NETWORKS = {"digits": ["a2q(4, 8, 14)", "a2q(4, 4, 11, each_sign=False)", "a2q(4, 8, 14, tile=8)", "integer(4, 8)"],
            "pydoc": ["a2q(4, 8, 15, tile=16)"]}  # fmt: skip


@pytest.fixture(scope="module", params=[(task, scheme) for task, schemes in NETWORKS.items() for scheme in schemes],
                ids=lambda p: f"{p[0]}-{p[1]}")  # fmt: skip
def simulated(request):
    task = TASKS[request.param[0]]
    batch = next(task.calibration()).first(8)
    model = fold_batchnorm(task.load(), batch.inputs)
    return calibrate(prepare(model, bw.from_text(request.param[1]), batch.inputs), [batch]), batch


def certified(model) -> list[QuantizedLayer]:
    return [m for m in model.modules() if isinstance(m, QuantizedLayer) and m.certificate is not None]


def test_every_certified_layer_of_a_network_wraps_nowhere_at_its_worst(simulated):
    generator = np.random.default_rng(0)
    for layer in certified(freeze(simulated[0])):
        span = Span(*map(int, layer.input_quantizer.element_bounds(layer.input_ranges).units))
        weight = Operand.of(layer.quantized_weight())
        integers = lanes(layer.quantized_weight(), layer.k).integers[:32, 0]
        x = np.concatenate([
            worst_inputs(integers, span), generator.integers(span.low, span.high + 1, (8, layer.k)),
        ])  # fmt: skip
        register = Accumulator(Int(layer.certificate.inner_bits), Overflow.WRAP)
        datapath = Datapath(register, WIDE, layer.scheme.datapath.tile)
        tile = min(datapath.tile or layer.k, layer.k)
        by_reference = datapath.multiply(as_lanes(x, tile), as_lanes(integers, tile))
        np.testing.assert_array_equal(by_reference.values, x @ integers.T)
        bare = replace(weight.take(slice(0, 32)), outside=torch.ones(len(integers), 1, dtype=torch.float64))
        entering = Operand(torch.from_numpy(x).float().unsqueeze(1), None, torch.ones(len(x), 1, dtype=torch.float64),
                           layer.k, layer.input_quantizer)  # fmt: skip
        by_kernel, overflows, _ = kernels.matmul(datapath, entering, Stationary(bare))
        np.testing.assert_array_equal(by_kernel.numpy(), x @ integers.T)
        assert overflows == by_reference.overflows == 0


def test_a_network_on_wrapping_registers_of_its_certified_widths_gives_the_same_outputs(simulated):
    prepared, batch = simulated
    narrow, wide = freeze(prepared), freeze(prepared)
    for layer in certified(narrow):
        register = Accumulator(Int(layer.certificate.inner_bits), Overflow.WRAP)
        layer.scheme = replace(layer.scheme, datapath=replace(layer.scheme.datapath, inner=register))
    for layer in certified(wide):
        layer.scheme = replace(layer.scheme, datapath=replace(layer.scheme.datapath, inner=WIDE))
    found, wanted = (call(model, batch.inputs) for model in (narrow, wide))
    assert torch.equal(found, wanted)
    assert sum(layer.overflows for layer in certified(narrow)) == 0


EVERY_SCHEME = [*DEFAULT_SCHEMES, "a2q(4, 8, 14)", "a2q(4, 8, 14, each_sign=False)", "a2q(4, 8, 14, tile=8)",
                "integer(4, 8, weight_share=PerBlock(16))", "mxfp4(weight_only=True)"]  # fmt: skip


@pytest.mark.parametrize("scheme", EVERY_SCHEME)
def test_frozen_codes_times_scales_are_the_weights_that_the_simulation_used(scheme):
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3, groups=8), torch.nn.Flatten(),
        torch.nn.Linear(32, 5),
    )  # fmt: skip
    batch = bw.Batch((torch.randn(4, 3, 6, 6),), torch.arange(4))
    prepared = calibrate(prepare(model, bw.from_text(scheme), batch.inputs), [batch])
    train(prepared, Shuffled(batch, 2), Training(epochs=1, learning_rate=1e-2))
    layers = [m for m in prepared.modules() if isinstance(m, FakeQuantizedLayer)]
    frozen = {m.name: m for m in freeze(prepared).modules() if isinstance(m, QuantizedLayer)}
    assert len(layers) == len(frozen) == 3
    for layer in layers:
        stored = frozen[layer.name].quantized_weight()
        rows = torch.from_numpy((stored.elements() * stored.scale()[..., None]).reshape(len(stored.codes), -1))
        weight = layer.lowering.weight_from_rows(rows[:, : stored.k].float(), layer.weight.shape, layer.block)
        assert torch.equal(layer.fake_weight().detach(), weight)


def test_attention_under_bounded_weights_stays_in_float_and_the_coverage_says_why():
    task = TASKS["pydoc"]
    batch = next(task.calibration()).first(2)
    coverage = prepare(task.load(), a2q(4, 8, 16), batch.inputs).coverage
    assert {(c.status, c.reason) for c in coverage if c.kind == "attention"} == {
        ("float", "a bound on weights says nothing of products of two activations")
    }


@pytest.mark.parametrize(
    ("scheme", "layer"),
    [
        ("integer(4, 8, accumulator_bits=12)", "0"),
        ("kept_ends(integer(4, 8, accumulator_bits=12), integer(8, 8))", "2"),
    ],
)
def test_a_register_too_narrow_inside_a_network_names_the_layer_and_the_width_it_needs(scheme, layer):
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64), torch.nn.Linear(64, 4)
    )
    batch = bw.Batch((torch.randn(16, 64),), torch.zeros(16))
    prepared = calibrate(prepare(model, bw.from_text(scheme), batch.inputs), [batch])
    with pytest.raises(ValueError, match=rf"layer {layer}: these weights need a \d+-bit inner accumulator") as refusal:
        freeze(prepared)
    needed = int(re.search(r"need a (\d+)-bit", str(refusal.value))[1])
    freeze(calibrate(prepare(model, bw.from_text(scheme.replace("=12", f"={needed}")), batch.inputs), [batch]))


@pytest.mark.parametrize("text", ["a2q(4, 8, 8)", "kept_ends(a2q(4, 8, 8), integer(8, 8))"])
def test_an_infeasible_width_in_text_is_refused_before_any_network_is_touched(text):
    with pytest.raises(ValueError, match="accumulator_bits=9 is the least"):
        bw.from_text(text)


def test_weights_bounded_for_narrower_inputs_than_they_get_are_refused_by_their_layers_name():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64))
    batch = bw.Batch((torch.randn(16, 64),), torch.zeros(16))
    mixed = replace(a2q(4, 4, 12), input=a2q(4, 8, 12).input)
    with pytest.raises(ValueError, match=r"layer 0: these weights need a \d+-bit inner accumulator"):
        freeze(calibrate(prepare(model, mixed, batch.inputs), [batch]))


@pytest.mark.parametrize("each_sign", [True, False])
@pytest.mark.parametrize("input_bits", range(2, 9))
def test_an_infeasible_width_names_the_smallest_that_is_feasible(input_bits, each_sign):
    for bits in range(2, 20):
        try:
            a2q(4, input_bits, bits, each_sign=each_sign)
        except ValueError as refusal:
            needed = int(re.search(r"accumulator_bits=(\d+) is the least", str(refusal))[1])
            assert needed > bits
            a2q(4, input_bits, needed, each_sign=each_sign)
            with pytest.raises(ValueError, match=f"accumulator_bits={needed} is the least"):
                a2q(4, input_bits, needed - 1, each_sign=each_sign)
        else:
            assert bits >= input_bits + (1 if each_sign else 2)
            return
    pytest.fail("no width is feasible")
