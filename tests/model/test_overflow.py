"""Sweeps over accumulator widths: laws on a small network with all kinds of convolutions."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from bitwright import kernels
from bitwright.comparison import ModelTask
from bitwright.datapath import WIDE, Datapath, bits_for
from bitwright.model.layers import QuantizedLayer
from bitwright.model.overflow import BEHAVIOURS, MOST_BITS, Register, bits_of, sweep, widths_of
from bitwright.model.prepare import quantize
from bitwright.model.task import Batch

INTEGERS = tuple(name for name, behaviour in BEHAVIOURS.items() if not behaviour.is_float)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4), nn.ReLU(),
        nn.Conv2d(4, 6, 3, groups=2, dilation=2), nn.Flatten(), nn.Linear(24, 3),
    )  # fmt: skip


def batch(seed, count=6):
    generator = torch.Generator().manual_seed(seed)
    return Batch((torch.randn(count, 2, 8, 8, generator=generator),), torch.arange(count) % 3)


@pytest.fixture(scope="module")
def task():
    return ModelTask(network(), (batch(0),), (batch(1),))


@pytest.fixture(scope="module")
def wide(task):
    """Registers that nothing can leave."""
    return sweep(task, behaviours=("wrap",), widths=[40])


@pytest.mark.parametrize("tile", [1, 4, 1000])
def test_a_register_of_the_proved_width_changes_nothing(task, wide, tile):
    proved = max(layer.proved for layer in wide.layers)
    found = sweep(task, behaviours=INTEGERS, widths=[proved], register=Register(tile))
    assert [p.behaviour for p in found.points] == list(INTEGERS)
    assert {p.overflow_rate for p in found.points} == {0.0}
    assert {(p.metric, p.agreement) for p in found.points} == {(wide.points[0].metric, wide.points[0].agreement)}


def test_the_first_layer_wraps_exactly_the_sums_that_need_more_bits(task):
    found = sweep(task, behaviours=("wrap",), widths=range(8, 18, 3))
    first = found.layers[0]
    for point in found.points:
        assert point.layer_rates[0] == sum(first.counts[point.bits :]) / sum(first.counts)
    assert 0 < found.points[1].layer_rates[0] < 1, "the widths are worth looking at"


def test_every_complete_sum_is_counted_once(task, wide):
    model = quantize(task.load(), "integer(8, 8)", task.calibration())
    layers = [m for m in model.modules() if isinstance(m, QuantizedLayer)]
    for layer in layers:
        layer.scheme = replace(layer.scheme, datapath=Datapath(WIDE))
    model(batch(1).inputs[0])
    assert [sum(layer.counts) for layer in wide.layers] == [layer.accumulations for layer in layers]
    assert all(len(layer.counts) <= layer.proved for layer in wide.layers)


@pytest.mark.parametrize("name", BEHAVIOURS)
@pytest.mark.parametrize("bits", [9, 13])
def test_a_network_equals_the_reference_bit_for_bit(name, bits):
    model = quantize(network(), "integer(8, 8)", (batch(0),))
    layers = [m for m in model.modules() if isinstance(m, QuantizedLayer)]
    datapath = BEHAVIOURS[name].place(Register(tile=4), bits, 20, 0)
    for layer in layers:
        layer.scheme = replace(layer.scheme, datapath=datapath)
    outputs, overflows = [], []
    for implementation in ("torch", "reference"):
        for layer in layers:
            layer.overflows = 0
        with kernels.only(implementation):
            outputs.append(model(batch(1, 2).inputs[0]))
        overflows.append([layer.overflows for layer in layers])
    assert torch.equal(*outputs)
    assert overflows[0] == overflows[1]
    assert BEHAVIOURS[name].is_float or sum(overflows[0]) > 0, "the case is worth its name"


@pytest.mark.parametrize("name", [name for name, behaviour in BEHAVIOURS.items() if behaviour.is_float])
def test_a_float_register_of_many_bits_computes_as_a_wide_one(task, wide, name):
    many = sweep(task, behaviours=(name,), widths=[29])
    assert many.points[0].metric == wide.points[0].metric
    assert many.points[0].agreement == wide.points[0].agreement


def test_the_bits_of_a_number_are_those_of_its_register():
    numbers = [*range(-40, 41), *(s * 2**e + d for e in range(6, 40) for s in (-1, 1) for d in (-1, 0, 1))]
    found = bits_of(torch.tensor(numbers, dtype=torch.float64)).tolist()
    assert found == [bits_for(min(number, 0), max(number, 0)) for number in numbers]
    assert max(found) < MOST_BITS


@pytest.mark.parametrize(
    ("text", "widths"),
    [("12..14", [14, 13, 12]), ("14..12", [14, 13, 12]), ("9", [9]), ("8,10..11,8", [11, 10, 8]), (None, None)],
)
def test_widths_are_read_from_text(text, widths):
    assert widths_of(text) == widths


@pytest.mark.parametrize(
    ("scheme", "changes", "said"),
    [
        ("mxfp4()", {}, "scales that vary along K, so layer 0"),
        ("integer(8, None)", {}, "leaves inputs in float"),
        ("integer(8, 8)", {"behaviours": ("wrapp",)}, "no behaviour 'wrapp'; choose from wrap, saturate"),
        ("integer(8, 8)", {"widths": [1, 8]}, "widths 1 to 8 found; 2 to 48 do"),
        ("integer(8, 8)", {"widths": [5], "behaviours": ("float",)}, "ask for wider ones"),
    ],
)
def test_what_cannot_be_swept_is_said(task, scheme, changes, said):
    with pytest.raises(ValueError, match=said.replace("(", r"\(")):
        sweep(task, scheme, **changes)
