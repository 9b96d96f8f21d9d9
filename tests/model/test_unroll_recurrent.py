"""Unrolled recurrent layers compute what torch's do, whatever their options and however they are called."""

import copy
import pickle
from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from bitwright.model.transform import UnrolledCell, UnrolledLayer, unroll_recurrent

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

INPUTS, HIDDEN, STEPS, SAMPLES = 3, 4, 4, 3
LENGTHS = (2, 4, 1)

KINDS = {
    "LSTM": (nn.LSTM, {}),
    "LSTM with projection": (nn.LSTM, {"proj_size": 2}),
    "GRU": (nn.GRU, {}),
    "RNN tanh": (nn.RNN, {}),
    "RNN relu": (nn.RNN, {"nonlinearity": "relu"}),
}

CELLS = {
    "LSTMCell": (nn.LSTMCell, {}),
    "GRUCell": (nn.GRUCell, {}),
    "RNNCell tanh": (nn.RNNCell, {}),
    "RNNCell relu": (nn.RNNCell, {"nonlinearity": "relu"}),
}

OPTIONS = [
    dict(zip(("num_layers", "bidirectional", "bias", "batch_first"), values, strict=True))
    for values in product((1, 2), (False, True), (True, False), (False, True))
]

every_kind = pytest.mark.parametrize("kind", KINDS)
every_cell = pytest.mark.parametrize("kind", CELLS)

DOUBLE = {"rtol": 0, "atol": 1e-8}
"""With u = 2**-53: a step adds at most 20 roundings of values below 4, an error of 80·u. Weights are within 1/8, rows
of W_ih have at most 8 of them and rows of W_hh 4, so a difference δ of input and state is at most 1.5 δ before a gate,
0.4 δ behind a sigmoid, 4.4 δ in a cell of |c| < 4, and 5 δ in h. The longest way through two layers of two directions
is 8 steps: 80·u·5**8 < 4e-9."""


def seeded(make, *sizes, dtype=torch.float64, **options) -> nn.Module:
    torch.manual_seed(0)
    module = make(*sizes, dtype=dtype, **options).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.uniform_(-1 / 8, 1 / 8)
    return module


def layer_of(kind: str, **options) -> nn.Module:
    make, own = KINDS[kind]
    return seeded(make, INPUTS, HIDDEN, **own, **options)


def cell_of(kind: str, **options) -> nn.Module:
    make, own = CELLS[kind]
    return seeded(make, INPUTS, HIDDEN, **own, **options)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def state_of(layer: nn.Module, *samples: int) -> Tensor | tuple[Tensor, Tensor]:
    count = layer.num_layers * (2 if layer.bidirectional else 1)
    h = random(count, *samples, layer.proj_size or HIDDEN)
    return (h, random(count, *samples, HIDDEN)) if isinstance(layer, nn.LSTM) else h


def padded(layer: nn.Module) -> Tensor:
    return random(SAMPLES, STEPS, INPUTS) if layer.batch_first else random(STEPS, SAMPLES, INPUTS)


def packed(layer: nn.Module, lengths=LENGTHS) -> PackedSequence:
    return pack_padded_sequence(padded(layer), torch.tensor(lengths), layer.batch_first, enforce_sorted=False)


FORMS = {
    "samples": lambda layer: (padded(layer),),
    "samples, state": lambda layer: (padded(layer), state_of(layer, SAMPLES)),
    "one sample": lambda layer: (random(STEPS, INPUTS),),
    "one sample, state": lambda layer: (random(STEPS, INPUTS), state_of(layer)),
    "packed": lambda layer: (packed(layer),),
    "packed, state": lambda layer: (packed(layer), state_of(layer, SAMPLES)),
    "packed, sorted": lambda layer: (
        pack_padded_sequence(padded(layer), torch.tensor((4, 4, 2)), layer.batch_first),
        state_of(layer, SAMPLES),
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: ",".join(map(str, o.values())))
@every_kind
def test_an_unrolled_layer_is_torchs(kind, options, form):
    layer = layer_of(kind, **options)
    arguments = FORMS[form](layer)
    unrolled = unroll_recurrent(layer)
    assert isinstance(unrolled, UnrolledLayer)
    torch.testing.assert_close(unrolled(*arguments), layer(*arguments), **DOUBLE)


@pytest.mark.parametrize("form", ["samples", "one sample"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("with_state", [True, False])
@every_cell
def test_an_unrolled_cell_is_torchs(kind, with_state, bias, form):
    cell = cell_of(kind, bias=bias)
    samples = (SAMPLES,) if form == "samples" else ()
    h, c = random(*samples, HIDDEN), random(*samples, HIDDEN) + 1
    hx = (h, c) if isinstance(cell, nn.LSTMCell) else h
    arguments = (random(*samples, INPUTS), *([hx] if with_state else []))
    unrolled = unroll_recurrent(cell)
    assert isinstance(unrolled, UnrolledCell)
    torch.testing.assert_close(unrolled(*arguments), cell(*arguments), **DOUBLE)


@every_kind
def test_a_step_in_float32_is_torchs_to_float_rounding(kind):
    make, own = KINDS[kind]
    layer = seeded(make, INPUTS, HIDDEN, dtype=torch.float32, **own)
    x = random(1, SAMPLES, INPUTS).float()
    # one step, as for DOUBLE: 80·u with u = 2**-24
    torch.testing.assert_close(unroll_recurrent(layer)(x), layer(x), rtol=0, atol=80 * 2.0**-24)


@every_kind
def test_gradients_are_torchs(kind):
    layer = layer_of(kind, num_layers=2, bidirectional=True)
    unrolled = unroll_recurrent(layer)
    for module in (layer, unrolled):
        output, last = module(packed(layer))
        (output.data.square().sum() + sum(s.square().sum() for s in last)).backward()
    assert len(list(unrolled.parameters())) == len(list(layer.parameters()))
    for name, parameter in layer.named_parameters():
        part, _, rest = name.partition("_")
        # sums of 12 outputs' gradients, each as far from torch's as an output
        torch.testing.assert_close(unrolled.get_parameter(f"{rest}.{part}").grad, parameter.grad, rtol=0, atol=1e-8)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_dropout_falls_between_layers_in_training_only(kind):
    layer = layer_of(kind, num_layers=2, dropout=1.0)
    unrolled, x = unroll_recurrent(layer), padded(layer)
    for training in (True, False):  # all of it dropped: nothing is left to chance
        torch.testing.assert_close(unrolled.train(training)(x), layer.train(training)(x), **DOUBLE)
    assert not torch.equal(unrolled.train()(x)[0], unrolled.eval()(x)[0])


def test_half_of_what_enters_the_second_layer_is_dropped():
    layer = seeded(nn.RNN, 200, 200, num_layers=2, dropout=0.5, nonlinearity="relu")
    unrolled, seen = unroll_recurrent(layer).train(), []
    unrolled.ih_l1.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        unrolled.ih_l0.weight.fill_(1)
        unrolled.hh_l0.weight.zero_()
    unrolled(torch.ones(4, 50, 200, dtype=torch.float64))
    assert 0.45 < (seen[0] == 0).double().mean() < 0.55  # 40000 of them: a deviation is 0.0025


def test_the_mode_of_the_module_is_kept():
    layer = layer_of("LSTM", num_layers=2, dropout=0.5)
    assert all(module.training for module in unroll_recurrent(layer.train()).modules())
    assert not any(module.training for module in unroll_recurrent(layer.eval()).modules())


@every_kind
def test_the_output_is_contiguous(kind):
    layer = layer_of(kind)
    assert unroll_recurrent(layer)(padded(layer))[0].is_contiguous()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@pytest.mark.parametrize("make", [lambda: layer_of("LSTM", num_layers=2), lambda: cell_of("GRUCell")])
def test_an_unrolled_module_can_be_copied_and_pickled(make, duplicate):
    unrolled, x = unroll_recurrent(make()), random(SAMPLES, INPUTS)
    torch.testing.assert_close(duplicate(unrolled)(x), unrolled(x), rtol=0, atol=0)


def test_fields_that_callers_read_are_kept():
    layer = layer_of("LSTM with projection", num_layers=2, bidirectional=True, dropout=0.25, batch_first=True)
    layer.alphabet = "abc"
    unrolled = unroll_recurrent(layer)
    for field in (
        "mode", "input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional",
        "proj_size", "alphabet",
    ):  # fmt: skip
        assert getattr(unrolled, field) == getattr(layer, field)
    unrolled.flatten_parameters()
    assert unroll_recurrent(cell_of("RNNCell relu")).nonlinearity == "relu"


def test_parameters_keep_their_names_but_for_a_dot():
    layer = layer_of("LSTM with projection", num_layers=2, bidirectional=True)
    renamed = {f"{rest}.{part}": v for k, v in layer.state_dict().items() for part, _, rest in [k.partition("_")]}
    unrolled = unroll_recurrent(layer_of("LSTM with projection", num_layers=2, bidirectional=True))
    unrolled.load_state_dict(renamed)
    assert {"ih_l0.weight", "hh_l1_reverse.bias", "hr_l0_reverse.weight"} <= unrolled.state_dict().keys()
    assert set(unroll_recurrent(cell_of("LSTMCell")).state_dict()) == {"ih.weight", "ih.bias", "hh.weight", "hh.bias"}


def test_a_shared_layer_and_a_shared_weight_stay_shared():
    first, third = layer_of("GRU"), layer_of("GRU")
    third.weight_hh_l0 = first.weight_hh_l0
    model = unroll_recurrent(nn.ModuleList([first, first, third]))
    assert model[0] is model[1]
    assert model[0].hh_l0.weight is model[2].hh_l0.weight


def test_the_callers_model_is_left_as_it_was():
    model = nn.Sequential(layer_of("LSTM"))
    before = copy.deepcopy(model.state_dict())
    unrolled = unroll_recurrent(model)
    with torch.no_grad():
        unrolled[0].ih_l0.weight.zero_()
    assert isinstance(model[0], nn.LSTM)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


# Errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((random(2, 2, 2, 3),), "LSTM: the input has 4 axes; give 2, of one sample, or 3"),
        ((random(4, 3, 2),), r"LSTM: the input, samples first, has shape \(3, 4, 2\); .* of 3 features"),
        ((torch.zeros(0, 3, 3),), r"has shape \(3, 0, 3\); give at least one time step"),
        ((random(4, 3, 3), random(1, 3, 4)), r"the initial state has shapes \(1, 3, 4\); this input needs .*, .*"),
        ((random(4, 3, 3), (random(1, 3, 4), random(1, 2, 4))), r"\(1, 2, 4\); this input needs \(1, 3, 4\)"),
        ((random(4, 3, 3), (random(2, 3, 4), random(2, 3, 4))), r"\(2, 3, 4\); this input needs \(1, 3, 4\)"),
    ],
)
def test_wrong_shapes_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        unroll_recurrent(layer_of("LSTM"))(*arguments)


def test_a_state_of_more_samples_than_a_packed_sequence_is_an_error():
    layer = layer_of("GRU")
    with pytest.raises(ValueError, match=r"\(1, 4, 4\); this input needs \(1, 3, 4\)"):
        unroll_recurrent(layer)(packed(layer), random(1, 4, 4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((random(3, 2),), r"GRUCell: the input has shape \(3, 2\); give .* 3 features"),
        ((random(2, 2, 3),), r"GRUCell: the input has shape \(2, 2, 3\)"),
        ((random(2, 3), random(1, 4)), r"the initial state has shapes \(1, 4\); this input needs \(2, 4\)"),
    ],
)
def test_wrong_shapes_of_a_cell_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        unroll_recurrent(cell_of("GRUCell"))(*arguments)
