"""Recurrent layers in a quantized model: each of their products is a layer, exact as any other."""

import copy
from contextlib import ExitStack
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import bitwright
from bitwright.config import from_text
from bitwright.model.data import data_folder
from bitwright.model.layers import FakeQuantizedLayer, QuantizedLayer
from bitwright.model.measure import layer_results, model_bits
from bitwright.model.prepare import calibrate, freeze, prepare
from bitwright.model.site import Site
from bitwright.model.task import Batch
from bitwright.model.zoo import REAL
from bitwright.recipe import Recipe, Rule

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

SCHEMES = (
    "integer(8, 8)", "integer(8, 8, zero=Zero.FITTED)", "integer(8, None)",
    "integer(4, 4, input_share=PerRow(), input_range=None)", "vs_quant(4, 4, 4, 4, vector=4)", "ant(4, 4)", "nvfp4()",
)  # fmt: skip

every_scheme = pytest.mark.parametrize("scheme", SCHEMES)


class Doubled(nn.LSTM):
    def forward(self, input, hx=None):
        output, last = super().forward(input, hx)
        return 2 * output, last


class Renamed(nn.GRU):
    """Keeps the forward of its class."""


def pruned(layer: nn.Module) -> nn.Module:
    return prune.random_unstructured(layer, "weight_hh_l0", 0.5)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Doubled(3, 4), "Doubled changes the forward of its class"),
        (lambda: nn.RNNBase("LSTM", 3, 4), "RNNBase is not a recurrent layer that bitwright knows"),
        (lambda: parametrizations.weight_norm(nn.LSTM(3, 4), "weight_hh_l0"), "its weight_hh_l0 is computed"),
        (lambda: pruned(nn.LSTM(3, 4).requires_grad_(False)), "its weight_hh_l0 is computed"),
    ],
)
def test_what_cannot_be_unrolled_is_left_alone_and_named_with_the_reason(make, reason):
    model = nn.ModuleDict({"odd": make(), "known": Renamed(3, 4)})
    kind = type(model["odd"])
    prepared = prepare(model, from_text("integer(8, 8)"))
    rows = {row.name: row for row in prepared.coverage}
    assert type(prepared["odd"]) is kind
    assert rows["odd"].status == "unsupported"
    assert reason in rows["odd"].reason
    assert rows["known.ih_l0"].status == rows["known.hh_l0"].status == "quantized"


class Tagger(nn.Module):
    """Tokens to a class a token: two recurrent layers, the first in both directions."""

    def __init__(self, make) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.both = make(8, 6, bidirectional=True, batch_first=True)
        self.one = make(12, 10, num_layers=2, batch_first=True)
        self.output = nn.Linear(10, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.output(self.one(self.both(self.embedding(tokens))[0])[0])


class Stepwise(nn.Module):
    """A cell that the model itself runs, step by step."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(6, 8)
        self.output = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.output(state[0])


def tokens(seed: int) -> Tensor:
    return torch.randint(11, (4, 5), generator=torch.Generator().manual_seed(seed))


def single(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


MODELS = {
    "LSTM": (lambda: Tagger(nn.LSTM), tokens),
    "GRU": (lambda: Tagger(nn.GRU), tokens),
    "projection": (
        lambda: nn.LSTM(6, 8, proj_size=5, bidirectional=True, batch_first=True),
        lambda seed: single((3, 4, 6), seed),
    ),
    "RNN": (lambda: nn.RNN(6, 8), lambda seed: single((4, 3, 6), seed)),
    "cell": (Stepwise, lambda seed: single((3, 4, 6), seed)),
}

every_model = pytest.mark.parametrize("name", MODELS)


@cache
def calibrated(name: str, scheme: str) -> nn.Module:
    make, data = MODELS[name]
    torch.manual_seed(0)
    model = make().requires_grad_(False).eval()
    return calibrate(prepare(model, from_text(scheme), (data(1),)), [Batch((data(1),), torch.empty(0))])


def quantized(name: str, scheme: str) -> tuple[nn.Module, nn.Module, Tensor]:
    """Prepared and frozen model, and inputs they were not calibrated on."""
    fake = copy.deepcopy(calibrated(name, scheme))
    return fake, freeze(fake), MODELS[name][1](2)


@every_scheme
@every_model
def test_every_exact_product_is_the_datapaths_bit_for_bit(name, scheme):
    _, frozen, x = quantized(name, scheme)
    compared = set()

    def compare(layer: QuantizedLayer, args, y: Tensor) -> None:
        compared.add(layer.name)
        rows = args[0].reshape(-1, args[0].shape[-1])
        if layer.input_quantizer is None:  # weight only: an ordinary product in float
            weight = torch.from_numpy(layer.quantized_weight().decode()).float()
            expected = nn.functional.linear(args[0], weight)
        else:
            operand = layer.input_quantizer.quantize(rows.contiguous().numpy(), layer.input_ranges)
            by_definition = layer.scheme.datapath.matmul(operand, layer.quantized_weight()).values
            expected = torch.from_numpy(by_definition.astype(np.float32)).view(y.shape)
        expected = expected if layer.bias is None else expected + layer.bias
        np.testing.assert_array_equal(y.numpy(), expected.numpy())

    layers = [m for m in frozen.modules() if isinstance(m, QuantizedLayer)]
    for layer in layers:
        layer.register_forward_hook(compare)
    frozen(x)
    assert compared == {layer.name for layer in layers} == products_of(frozen)


def products_of(prepared: nn.Module) -> set[str]:
    return {row.name for row in prepared.coverage if row.kind == "Linear" and row.status == "quantized"}


@every_scheme
@every_model
def test_every_simulated_product_equals_the_exact_one_to_float_rounding(name, scheme):
    assert_simulated_equals_exact(*quantized(name, scheme))


def assert_simulated_equals_exact(fake: nn.Module, frozen: nn.Module, x: Tensor) -> None:
    """Layer by layer, on the inputs that each meets in the simulation."""
    exact_layers = {m.name: m for m in frozen.modules() if isinstance(m, QuantizedLayer)}
    compared = set()

    def compare(layer: FakeQuantizedLayer, args, simulated: Tensor) -> None:
        compared.add(layer.name)
        exact = exact_layers[layer.name](args[0])
        x, w = layer._fake_input(args[0]).double(), layer.fake_weight().double()
        # as in test_lowering: K·u·Σ|x||w| for the float32 sum, as much for sums over blocks, u for each last rounding
        magnitude = layer.lowering.forward(x.abs(), w.abs())
        bias = 0 if layer.bias is None else layer.bias.abs().double()
        tolerance = (2 * layer.weight.shape[1] + 8) * 2.0**-24 * (magnitude + exact.abs().double() + bias)
        assert ((simulated.double() - exact.double()).abs() <= tolerance).all(), layer.name

    for module in fake.modules():
        if isinstance(module, FakeQuantizedLayer):
            module.register_forward_hook(compare)
    fake(x)
    assert compared == set(exact_layers)


def test_a_model_of_eight_bits_stays_near_the_float_model():
    make, data = MODELS["LSTM"]
    torch.manual_seed(0)
    model = make().requires_grad_(False).eval()
    error = (quantized("LSTM", "integer(8, 8)")[1](data(2)) - model(data(2))).square().mean()
    assert error < 1e-3 * model(data(2)).square().mean()  # 30 dB; a step of 8 bits is 40 dB below its range


def test_coverage_counts_the_calls_of_every_product():
    counts = {r.name: (r.kind, r.status, r.count) for r in quantized("LSTM", "integer(8, 8)")[0].coverage}
    input_product, recurrent = ("Linear", "quantized", 1), ("Linear", "quantized", 5)
    assert counts == {
        "embedding": ("Embedding", "quantized", 1),
        "both.ih_l0": input_product, "both.hh_l0": recurrent,
        "both.ih_l0_reverse": input_product, "both.hh_l0_reverse": recurrent,
        "one.ih_l0": input_product, "one.hh_l0": recurrent, "one.ih_l1": input_product, "one.hh_l1": recurrent,
        "output": ("Linear", "quantized", 1),
    }  # fmt: skip


def test_coverage_counts_the_calls_of_a_cell():
    counts = {r.name: r.count for r in quantized("cell", "integer(8, 8)")[0].coverage}
    assert counts == {"cell.ih": 4, "cell.hh": 4, "output": 1}


def test_inputs_of_every_step_count():
    recipe = Recipe((Rule("*.ih_*", from_text("integer(8, 8)")), Rule("*.hh_*", from_text("integer(8, 4)"))))
    model, x = nn.Sequential(nn.LSTM(6, 8, batch_first=True)), single((2, 5, 6), 0)
    prepared = calibrate(prepare(model, recipe, (x,)), [Batch((x,), torch.empty(0))])
    with ExitStack() as stack:
        for site in (m for m in prepared.modules() if isinstance(m, Site)):
            stack.enter_context(site.measuring())
        prepared(x)
    layers = layer_results(prepared, None)
    of_input, of_state = (layer.input_bits for layer in layers)
    found = model_bits(prepared, layers)[1]
    assert found == (5 * 6 * of_input + 5 * 8 * of_state) / (5 * 6 + 5 * 8)


def test_layers_are_listed_in_the_order_of_execution():
    prepared = quantized("projection", "integer(8, 8)")[0]
    names = ["ih_l0", "hh_l0", "hr_l0", "ih_l0_reverse", "hh_l0_reverse", "hr_l0_reverse"]
    assert [row.name for row in prepared.coverage] == names


def test_rules_name_the_products():
    int8, int4 = from_text("integer(8, 8)"), from_text("integer(4, 4)")
    recipe = Recipe((Rule("one.hh_*", int8), Rule("both.*", None), Rule("*", int4)))
    prepared = calibrate(prepare(Tagger(nn.LSTM), recipe, (tokens(1),)), [Batch((tokens(1),), torch.empty(0))])
    bits = {m.name: m.weight_quantizer.format.bits for m in prepared.modules() if isinstance(m, FakeQuantizedLayer)}
    assert bits == {"one.ih_l0": 4, "one.hh_l0": 8, "one.ih_l1": 4, "one.hh_l1": 8, "output": 4}


def test_a_packed_sequence_is_quantized_as_its_samples_one_by_one():
    torch.manual_seed(0)
    model = nn.LSTM(6, 8, num_layers=2, bidirectional=True, batch_first=True).requires_grad_(False)
    x, lengths = single((3, 4, 6), 1), (2, 4, 1)
    frozen = bitwright.quantize(model, "integer(8, 8)", calibration=[x])
    output, last = frozen(pack_padded_sequence(x, torch.tensor(lengths), True, enforce_sorted=False))
    unpacked, _ = pad_packed_sequence(output, True)
    for i, length in enumerate(lengths):  # static ranges: no value depends on the others of its batch
        alone, state = frozen(x[i, :length])
        np.testing.assert_array_equal(unpacked[i, :length].numpy(), alone.numpy())
        for whole, part in zip(last, state, strict=True):
            np.testing.assert_array_equal(whole[:, i].numpy(), part.numpy())


@pytest.mark.parametrize("scheme", ["integer(8, 8)", "vs_quant(4, 4)", "nvfp4()", "ant(4, 4)"])
def test_all_steps_in_one_call(scheme):
    torch.manual_seed(0)
    frozen = bitwright.quantize(Tagger(nn.GRU), scheme, calibration=[tokens(1), tokens(2)])
    assert frozen(tokens(3)).isfinite().all()
    assert sum(isinstance(m, QuantizedLayer) for m in frozen.modules()) == 9


def test_a_weight_that_is_not_finite_is_named_by_its_product():
    model = nn.ModuleDict({"lstm": nn.LSTM(4, 4).requires_grad_(False)})
    model["lstm"].weight_hh_l0[2, 1] = float("nan")
    with pytest.raises(ValueError, match=r"layer lstm\.hh_l0: weight\[2, 1\] is nan"):
        prepare(model, from_text("integer(8, 8)"))


def test_comparing_shares_statistics_by_the_names_of_products():
    comparison = bitwright.compare(
        Tagger(nn.LSTM),
        ["integer(8, 8)", "mxfp4()"],
        calibration=[Batch((tokens(1),), torch.zeros(4, 5, dtype=torch.long))],
        test=[Batch((tokens(2),), torch.zeros(4, 5, dtype=torch.long))],
    )
    for row in comparison.rows:
        assert row.error is None
        assert "both.hh_l0_reverse" in {layer.name for layer in row.layers}


@pytest.mark.data
@pytest.mark.parametrize("scheme", ["integer(8, 8)", "vs_quant(4, 8, 6, 6)", "nvfp4()"])
def test_the_character_lstm_computes_exactly_what_it_simulates(scheme):
    try:
        data_folder()
    except FileNotFoundError as missing:
        pytest.skip(str(missing))
    task = REAL["charrnn"]
    batch = next(iter(task.calibration()))
    x = batch.inputs[0][:2]
    model = task.load().requires_grad_(False)
    fake = calibrate(prepare(model, from_text(scheme), (x,)), [Batch((x,), batch.targets[:2])])
    assert products_of(fake) == {"lstm.ih_l0", "lstm.hh_l0", "lstm.ih_l1", "lstm.hh_l1", "output"}
    assert_simulated_equals_exact(fake, freeze(fake), x)
