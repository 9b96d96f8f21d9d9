"""Term pairs of layers, against every product counted one by one."""

from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from bitwright.comparison import ModelTask, compare
from bitwright.formats import Int, Minifloat
from bitwright.model import term_pairs as module
from bitwright.model.layers import FakeQuantizedLayer
from bitwright.model.prepare import calibrate, prepare
from bitwright.model.task import Batch
from bitwright.model.term_pairs import magnitude_bits, term_pairs
from bitwright.result import SchemeResult, TermPairs
from bitwright.scheme import Scheme
from bitwright.schemes import integer, overq_on, term_revealing
from bitwright.schemes.term_revealing import Recoding, TermBudget, term_pairs_bound
from bitwright.store import read_json, write_json

LAYERS = {
    "linear": (nn.Linear(20, 6), (3, 20)),
    "linear on tokens": (nn.Linear(9, 4, bias=False), (2, 3, 9)),
    "conv2d, padded": (nn.Conv2d(10, 4, 3, padding=1), (2, 10, 4, 3)),
    "conv2d, stride and dilation": (nn.Conv2d(3, 4, (2, 3), stride=(2, 1), dilation=(1, 2), padding=2), (2, 3, 5, 4)),
    "conv2d, grouped": (nn.Conv2d(18, 4, 2, groups=2), (2, 18, 3, 3)),
    "conv2d, depthwise": (nn.Conv2d(5, 10, 3, groups=5, padding=1), (2, 5, 3, 4)),
    "conv1d": (nn.Conv1d(9, 3, 3, padding=1), (2, 9, 5)),
}
SCHEMES = {
    "default": term_revealing(),
    "few terms": term_revealing(budget=8, data_terms=2),
    "all terms": term_revealing(budget=None, data_terms=None),
    "binary, one weight a group": term_revealing(group=1, budget=3, recoding=Recoding.BINARY),
    "booth": term_revealing(data_terms=1, recoding=Recoding.BOOTH),
    "weights alone": Scheme(integer(8, 8).input, term_revealing().weight, source="mixed"),
    "inputs alone": Scheme(term_revealing().input, integer(4, 4).weight, source="mixed"),
    "overwriting inputs": overq_on(Scheme(integer(4, 4).input, term_revealing().weight, source="mixed")),
}


def calibrated(layer: nn.Module, shape: tuple[int, ...], scheme: Scheme) -> tuple[nn.Module, ModelTask]:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).clamp(min=-0.5)
    batch = Batch((x,), torch.zeros(len(x)))
    prepared = calibrate(prepare(layer, scheme, batch.inputs), [batch])
    return prepared, ModelTask(prepared, (batch,), (batch,))


def costs(quantizer, rows: np.ndarray, ranges) -> np.ndarray:
    """Terms that the format really emits for each element, or its magnitude bits."""
    format = quantizer.format
    if not isinstance(format, TermBudget):
        return np.full(rows.shape, magnitude_bits(format))
    codes = quantizer.quantize(rows, ranges).codes.reshape(len(rows), -1)
    terms = format.terms(codes)
    count = (terms.significand != 0).reshape(*codes.shape, -1).sum(-1)
    return count[:, : rows.shape[1]]


def one_by_one(layer: FakeQuantizedLayer, x: torch.Tensor) -> int:
    """Pairs of every product of the layer: loops over outputs, taps and channels."""
    lowering = layer.lowering
    weight = layer.weight.detach()
    flat = costs(layer.weight_quantizer, lowering.weight_rows(weight, layer.block).numpy(), layer.weight_ranges)
    w = lowering.weight_from_rows(torch.from_numpy(flat), weight.shape, layer.block).numpy()
    data = torch.from_numpy(costs(layer.input_quantizer, lowering.input_rows(x).numpy(), layer.input_ranges))
    a = lowering.input_from_rows(data, x).numpy()
    if lowering.kind == "Linear":
        return sum(int(row @ out) for row in a.reshape(-1, a.shape[-1]) for out in w)
    a, w = (v if v.ndim == 4 else v[:, :, None] for v in (a, w))
    left, right, top, bottom = lowering.padding
    # a multiplier of bits sees padded zeros as any other value; terms of zero there are none
    outside = (
        0 if isinstance(layer.input_quantizer.format, TermBudget) else magnitude_bits(layer.input_quantizer.format)
    )
    a = np.pad(a, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=outside)
    (sy, sx), (dy, dx) = lowering.stride, lowering.dilation
    n, c, kh, kw = w.shape
    down = (a.shape[2] - dy * (kh - 1) - 1) // sy + 1
    across = (a.shape[3] - dx * (kw - 1) - 1) // sx + 1
    total = 0
    for b, o, i, j, ky, kx, ch in product(*map(range, (len(a), n, down, across, kh, kw, c))):
        channel = o // (n // lowering.groups) * c + ch
        total += int(w[o, ch, ky, kx]) * int(a[b, channel, i * sy + ky * dy, j * sx + kx * dx])
    return total


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("layer", LAYERS)
def test_counted_pairs_are_those_of_every_product(layer, scheme):
    made, shape = LAYERS[layer]
    prepared, task = calibrated(made, shape, SCHEMES[scheme])
    (found,) = term_pairs(task, prepared, task.calibration_batches[0])
    (only,) = (m for m in prepared.modules() if isinstance(m, FakeQuantizedLayer))
    x = task.calibration_batches[0].inputs[0]
    assert found.counted * len(x) == pytest.approx(one_by_one(only, x), abs=1e-6)  # a division undone
    assert found.has_terms


@pytest.mark.parametrize("layer", LAYERS)
def test_of_plain_integers_every_count_is_bit_by_bit(layer):
    made, shape = LAYERS[layer]
    prepared, task = calibrated(made, shape, integer(6, 8))
    (found,) = term_pairs(task, prepared, task.calibration_batches[0])
    (only,) = (m for m in prepared.modules() if isinstance(m, FakeQuantizedLayer))
    gemm = only.lowering.gemm(task.calibration_batches[0].inputs[0], only.weight)
    macs = float(gemm.m * gemm.k * gemm.n * gemm.groups)
    # signs apart: weights of 5 bits, and inputs of 7, as they have signs
    assert found == TermPairs("", macs, 35 * macs, 35 * macs, 35 * macs, has_terms=False)


def test_the_bound_is_the_papers():
    made, shape = LAYERS["conv2d, padded"]
    prepared, task = calibrated(made, shape, term_revealing(group=2, budget=3, data_terms=2))
    (found,) = term_pairs(task, prepared, task.calibration_batches[0])
    expected = term_pairs_bound(int(found.macs), group=2, budget=3, data_terms=2, weight_bits=8, data_bits=8)
    assert found.bound == expected == 3 * found.macs
    assert found.bit_serial == 64 * found.macs


def test_whole_groups_stay_within_the_bound():
    prepared, task = calibrated(nn.Conv2d(16, 4, 3), (3, 16, 5, 5), term_revealing(budget=10))
    (found,) = term_pairs(task, prepared, task.calibration_batches[0])
    assert 0 < found.counted <= found.bound


def test_a_short_group_keeps_its_whole_budget():
    made, shape = LAYERS["conv2d, stride and dilation"]
    prepared, task = calibrated(made, shape, term_revealing(budget=8, data_terms=5))
    few, _ = calibrated(made, shape, term_revealing(budget=8, data_terms=5, group=3))
    counts = [term_pairs(task, m, task.calibration_batches[0])[0].counted for m in (prepared, few)]
    assert counts[0] == counts[1]


def test_figures_are_per_sample():
    made, shape = LAYERS["conv2d, padded"]
    prepared, task = calibrated(made, shape, term_revealing())
    x = task.calibration_batches[0].inputs[0]
    twice = Batch((torch.cat([x, x]),), torch.zeros(2 * len(x)))
    assert term_pairs(task, prepared, twice) == term_pairs(task, prepared, task.calibration_batches[0])


def test_a_layer_that_runs_twice_counts_twice():
    torch.manual_seed(0)
    once = nn.Linear(8, 8)
    model = nn.Sequential(once, nn.Hardtanh(), once)
    prepared, task = calibrated(model, (4, 8), term_revealing())
    (found,) = term_pairs(task, prepared, task.calibration_batches[0])
    assert found.macs == 2 * 8 * 8


def test_counting_in_parts_changes_nothing(monkeypatch):
    made, shape = LAYERS["conv2d, padded"]
    prepared, task = calibrated(made, shape, term_revealing())
    whole = term_pairs(task, prepared, task.calibration_batches[0])
    monkeypatch.setattr(module, "AT_A_TIME", 50)
    assert term_pairs(task, prepared, task.calibration_batches[0]) == whole


@pytest.mark.parametrize(
    ("format", "bits"),
    [(Int(8, narrow=True), 7), (Int(8), 8), (Int(8, signed=False), 8), (TermBudget(127), 7), (TermBudget(128), 8),
     (Minifloat(2, 1), 2)],
)  # fmt: skip
def test_bits_by_bits_counts_magnitudes(format, bits):
    assert magnitude_bits(format) == bits


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 4))


def test_only_terms_and_plain_integers_have_pairs_and_they_are_read_back_equal(tmp_path):
    generator = torch.Generator().manual_seed(2)
    batches = [Batch((torch.randn(8, 16, generator=generator),), torch.arange(8) % 4) for _ in range(2)]
    schemes = ("vs_quant(4, 4)", "overq(4)", "integer(8, None)", "integer(4, 4)", "kept_ends(term_revealing())")
    rows = compare(ModelTask(network(), (batches[0],), (batches[1],)), schemes).rows
    assert [row.error for row in rows] == [None] * 5
    assert [len(row.term_pairs) for row in rows] == [0, 0, 0, 3, 3]
    assert [layer.has_terms for layer in rows[-1].term_pairs] == [False, True, False]
    write_json(tmp_path / "row.json", rows[-1])
    assert read_json(tmp_path / "row.json", SchemeResult) == rows[-1]


def test_other_operating_points_cost_less():
    made, shape = LAYERS["conv2d, padded"]
    counts = []
    for data_terms in (1, 2, 3):
        prepared, task = calibrated(made, shape, term_revealing(data_terms=data_terms))
        counts.append(term_pairs(task, prepared, task.calibration_batches[0])[0].counted)
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]
