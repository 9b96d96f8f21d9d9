"""Coverage of outliers measured on layers: by the format's own encoder, against the formula, and one row shown."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from bitwright.comparison import ModelTask, compare
from bitwright.config import from_text
from bitwright.formats import Int, Rounding
from bitwright.model import neighbours
from bitwright.model.layers import FakeQuantizedLayer
from bitwright.model.neighbours import Levels, covered, lane_row, neighbour_result, sample_levels
from bitwright.model.prepare import calibrate, prepare
from bitwright.model.task import Batch
from bitwright.result import LaneRow, SchemeResult
from bitwright.schemes.overq import Overwrite, Pick, State
from bitwright.store import read_json, write_json

LANE = Int(4, signed=False)
FORMATS = (
    Overwrite(LANE),
    Overwrite(LANE, cascade=4),
    Overwrite(LANE, cascade=8, precision_overwrite=True, tile=16),
    Overwrite(LANE, cascade=3, pick=Pick.LARGEST),
    Overwrite(LANE, range_overwrite=False, precision_overwrite=True),
    Overwrite(Int(4, narrow=True), cascade=4),
)
OVERWRITING = (
    "overq(4)",
    "overq(4, cascade=1, tile=3)",
    "overq(4, precision_overwrite=True, signed=True)",
    "overq_on(ant(4, 4))",
    "overq_on(vs_quant(4, 4))",
)


def independent(zeros: float, outliers: float, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Levels of independent lanes with these probabilities."""
    kind = np.random.default_rng(seed).random(shape)
    return np.where(kind < zeros, 0.0, np.where(kind < zeros + outliers, 40.0, 7.0)).astype(np.float32)


def seen(values: np.ndarray, format: Overwrite = FORMATS[1]) -> Levels:
    return Levels("layer", format, Rounding.NEAREST_UP, values)


def spread(seed: int, count: int = 6) -> torch.Tensor:
    """Images with long tails."""
    return torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed)) ** 3


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 40, 3, groups=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, 5),
    )  # fmt: skip


def task() -> ModelTask:
    batches = [Batch((spread(seed),), torch.arange(6) % 5) for seed in (0, 1)]
    return ModelTask(network(), (batches[0],), (batches[1],))


def levels_under(scheme: str) -> tuple[nn.Module, tuple[Levels, ...]]:
    batch = task().calibration_batches[0]
    prepared = calibrate(prepare(network().eval(), from_text(scheme), batch.inputs), [batch])
    return prepared, sample_levels(task(), prepared, batch)


@pytest.mark.parametrize("format", FORMATS, ids=repr)
def test_covered_outliers_are_the_high_digits_of_the_encoder(format):
    x = independent(0.4, 0.1, (50, 64))
    states = format.states(format.encode(x))
    assert covered(format, x, Rounding.NEAREST_UP) == (states == State.HIGH).sum() / (x == 40).sum()


@pytest.mark.parametrize("format", FORMATS, ids=repr)
def test_values_with_a_fraction_are_the_low_digits_of_the_encoder(format):
    x = independent(0.4, 0.1, (50, 1, 64))
    result = neighbour_result(seen(x, format))
    low = (format.states(format.encode(x)) == State.LOW).sum()
    assert result.precise == (low / (x == 7).sum() if format.precision_overwrite else None)


@pytest.mark.parametrize(("zeros", "outliers"), [(0.5, 0.01), (0.5, 0.05), (0.3, 0.05), (0.8, 0.02)])
@pytest.mark.parametrize("tile", [None, 16])
def test_independent_lanes_are_covered_as_the_formula_says(zeros, outliers, tile):
    result = neighbour_result(seen(independent(zeros, outliers, (2000, 1, 128)), replace(FORMATS[1], tile=tile)))
    # five standard errors of as many independent trials: 0.5 is the largest deviation of one
    tolerance = 5 * 0.5 / np.sqrt(result.outliers * result.sampled)
    for found in result.coverage:
        assert found.measured == pytest.approx(found.expected, abs=tolerance)
        assert found.shuffled == pytest.approx(found.expected, abs=tolerance)


def test_zeros_that_follow_outliers_cover_more_than_shuffled_ones():
    x = independent(0.3, 0.05, (500, 1, 64))
    x[..., 1:][x[..., :-1] == 40] = 0
    first = neighbour_result(seen(x)).coverage[0]
    assert first.measured > 0.98  # but for the last lane of a row
    assert first.shuffled < 0.5


def test_rows_that_differ_depart_from_the_formula_even_when_shuffled():
    sparse, dense = independent(0.9, 0.01, (1000, 1, 64)), independent(0.05, 0.2, (1000, 1, 64), seed=1)
    first = neighbour_result(seen(np.concatenate([sparse, dense]))).coverage[0]
    assert first.expected - first.measured > 0.2
    assert abs(first.shuffled - first.measured) < 0.03


def test_without_outliers_there_is_no_coverage():
    assert neighbour_result(seen(independent(0.5, 0.0, (20, 1, 32)))).coverage == ()


def test_the_cascade_of_the_scheme_is_told_and_changes_no_coverage():
    x = independent(0.4, 0.1, (200, 1, 64))
    results = [neighbour_result(seen(x, format)) for format in (FORMATS[0], FORMATS[1], FORMATS[4])]
    assert [result.cascade for result in results] == [1, 4, 0]
    assert len({result.coverage for result in results}) == 1


@pytest.mark.parametrize("scheme", OVERWRITING)
def test_levels_are_those_that_the_layer_encodes(scheme):
    prepared, found = levels_under(scheme)
    inputs: dict[str, np.ndarray] = {}
    layers = {m.name: m for m in prepared.modules() if isinstance(m, FakeQuantizedLayer)}
    for layer in layers.values():
        layer.register_forward_pre_hook(
            lambda module, args: inputs.update({module.name: module.lowering.input_rows(args[0].detach()).numpy()})
        )
    prepared(*task().calibration_batches[0].inputs)
    assert found
    for levels in found:
        quantizer, ranges = layers[levels.name].input_quantizer, layers[levels.name].input_ranges
        quantized = quantizer.quantize(inputs[levels.name], ranges)
        assert levels.values.shape == quantized.codes.shape
        # the vectors of VS-Quant divide by the scale before it is rounded
        if "vs_quant" not in scheme:
            np.testing.assert_array_equal(levels.format.encode(levels.values, levels.rounding), quantized.codes)


def test_large_layers_are_sampled_alike_each_time(monkeypatch):
    monkeypatch.setattr(neighbours, "SAMPLE", 100)
    _, first = levels_under("overq(4)")
    _, again = levels_under("overq(4)")
    assert all(levels.values.size <= 100 for levels in first)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.values, b.values)


def test_schemes_without_overwriting_have_no_levels():
    assert levels_under("integer(4, 4)")[1] == ()


def value_of(row: LaneRow, lane: int) -> float:
    """What lanes hold of the value of one lane, added up from digits and states."""
    here = 0.0 if row.states[lane] != "OWN" else row.digits[lane]
    following = row.states[lane + 1] if lane + 1 < len(row.states) else "OWN"
    beyond = {"OWN": 0.0, "HIGH": row.radix, "LOW": 1 / row.radix, "MOVED": 1.0}[following]
    return here + (beyond and beyond * row.digits[lane + 1])


@pytest.mark.parametrize("format", FORMATS, ids=repr)
@pytest.mark.parametrize("lanes", [9, 32, 100])
def test_digits_of_the_row_shown_add_up_to_what_is_decoded(format, lanes):
    x = independent(0.4, 0.1, (50, 1, lanes)) * np.float32(0.97)
    row = lane_row([seen(x, format)])
    assert row is not None
    assert len(row.levels) == len(row.plain) == len(row.digits) == len(row.states) == min(lanes, 32)
    assert [value_of(row, i) for i in range(len(row.digits))] == list(row.decoded)
    assert set(row.states) >= {"OWN", "HIGH" if format.range_overwrite else "LOW"}


def test_the_row_shown_is_of_the_layer_nearest_to_the_middle_that_overwrites():
    plain, busy = independent(0.5, 0.0, (9, 1, 16)), independent(0.5, 0.2, (9, 1, 16))
    layers = [replace(seen(x), name=f"layer {i}") for i, x in enumerate((busy, busy, plain, plain, busy))]
    assert lane_row(layers).layer == "layer 1"
    assert lane_row([seen(plain)]) is None
    assert lane_row([]) is None


def test_only_rows_of_overwriting_schemes_have_figures_and_they_are_read_back_equal(tmp_path):
    schemes = ("vs_quant(4, 4)", "mxfp4()", "integer(8, 8)", "overq(4, precision_overwrite=True)", "term_revealing()")
    rows = {row.scheme: row for row in compare(task(), schemes).rows}
    assert [bool(row.neighbours) for row in rows.values()] == [False, False, False, True, False]
    assert [row.lane_row is not None for row in rows.values()] == [False, False, False, True, False]
    row = rows["overq(4, precision_overwrite=True)"]
    assert [layer.name for layer in row.neighbours] == ["2", "6"]
    write_json(tmp_path / "row.json", row)
    assert read_json(tmp_path / "row.json", SchemeResult) == row
