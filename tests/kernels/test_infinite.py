"""Infinite levels saturate and infinite inputs are refused, alike in every implementation."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bitwright import kernels
from bitwright.config import from_text
from bitwright.formats import FLOAT16, FLOAT32, Rounding
from bitwright.kernels import Unsupported, library
from bitwright.kernels.dispatch import IMPLEMENTATIONS
from bitwright.kernels.rounding import round_to
from bitwright.quantization import PerRow, PerTensor, Quantizer, Range, Scale

sys.path.insert(0, str(Path(__file__).parent))
from catalogue import SCHEMES, quantizers

FORMATS = list(dict.fromkeys(q.format for text in SCHEMES for q in quantizers(from_text(text))))
LARGEST = float(np.finfo(np.float32).max)
LEVELS = np.asarray([[np.inf, LARGEST, 1e30, 1.0, 0.0, -0.0, -1.0, -1e30, -LARGEST, -np.inf]], np.float32)
ROUNDINGS = [r for r in Rounding if r is not Rounding.STOCHASTIC]


@pytest.mark.parametrize("format", [*FORMATS, FLOAT16], ids=str)
def test_levels_up_to_infinity_become_the_values_of_the_reference(format):
    levels = LEVELS if format.bounds().lowest < 0 else LEVELS[:, :6].copy()
    for rounding in ROUNDINGS:
        try:
            found = round_to(format, torch.from_numpy(levels.copy()), rounding)
        except Unsupported:
            continue
        expected = format.decode(format.encode(levels.astype(np.float64), rounding))
        np.testing.assert_array_equal(found.numpy(), expected.astype(np.float32))


WAYS = [*((name, None) for name in ("torch", "reference")), *(("native", level) for level in library.LEVELS)]


def fake_quantize(way, quantizer, x, ranges):
    name, level = way
    with kernels.only(name, "reference"):
        if level is None:
            return kernels.fake_quantize(quantizer, x, ranges)
        with library.level(level):
            return kernels.fake_quantize(quantizer, x, ranges)


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.filterwarnings("ignore::bitwright.kernels.SlowKernel")
def test_values_far_beyond_their_range_saturate_in_every_implementation(format, way):
    if way[0] == "native" and library.library() is None:
        pytest.skip("installed without the native library")
    rows = np.resize(np.where(np.isfinite(LEVELS), LEVELS, 3e38), (3, 400)).astype(np.float32)  # long rows go by tables
    rows = rows if format.bounds().lowest < 0 else np.abs(rows)
    for share, cells in ((PerTensor(), 1), (PerRow(), 3)):
        magnitude = np.full((cells, 1), 1e-35, np.float32)
        quantizer = Quantizer(format, (Scale(share),))
        ranges = (Range(-magnitude, magnitude),)
        for columns in (400, 16):
            x = np.ascontiguousarray(rows[:, :columns])
            expected = quantizer.quantize(x, ranges).decode().astype(np.float32)
            found = fake_quantize(way, quantizer, torch.from_numpy(x), ranges)
            np.testing.assert_array_equal(found.numpy(), expected)


@pytest.mark.parametrize("text", SCHEMES)
@pytest.mark.filterwarnings("ignore::bitwright.kernels.SlowKernel")
def test_blocks_far_beyond_their_coarse_range_saturate_in_every_implementation(text):
    rows = np.resize([3e38, 1.0, 2e38, 0.0, 1e-38, 3e-39, 2e19], (2, 140)).astype(np.float32)
    for quantizer in quantizers(from_text(text)):
        if quantizer.scales[0].share.splits_k or quantizer.scales[0].format != FLOAT32:
            continue
        magnitude = np.full(quantizer.scales[0].share.shape(*rows.shape), 1e-35, np.float32)
        ranges = (Range(-magnitude, magnitude),)
        expected = quantizer.quantize(rows, ranges).decode().astype(np.float32)
        for way in WAYS:
            if way[0] == "native" and library.library() is None:
                continue
            found = fake_quantize(way, quantizer, torch.from_numpy(rows), ranges)
            np.testing.assert_array_equal(found.numpy(), expected, str(way))


@pytest.mark.parametrize("text", SCHEMES)
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_inputs_that_are_not_finite_are_refused_by_name_in_every_implementation(text, value):
    x = torch.ones(3, 40)
    x[1, 33] = value
    for quantizer in quantizers(from_text(text)):
        for implementation in IMPLEMENTATIONS[1:]:
            with kernels.only(implementation, "reference"):
                for work in (kernels.quantize, kernels.fake_quantize):
                    with pytest.raises(ValueError, match=r"\(1, 33\) is "):
                        work(quantizer, x)
