"""Rows of a folder are read again only where nothing that decides them has changed."""

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.model.task import Batch


def batch(seed, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return Batch((scale * torch.randn(16, 6, generator=generator),), torch.randint(0, 3, (16,), generator=generator))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


def read_back(folder, model, calibration, test):
    """Whether the row is one of an earlier run."""
    seen = []
    bw.compare(
        model, ["integer(4, 4)"], calibration=[calibration], test=[test], folder=folder,
        row_done=lambda row, was_saved: seen.append(was_saved),
    )  # fmt: skip
    return seen == [True]


def test_a_row_is_computed_anew_for_other_weights_calibration_or_test_data(model, tmp_path):
    calibration, test = batch(0), batch(1)
    assert not read_back(tmp_path, model, calibration, test)
    assert read_back(tmp_path, model, calibration, test)
    assert not read_back(tmp_path, model, batch(0, 4.0), test)
    assert not read_back(tmp_path, model, calibration, batch(2))
    with torch.no_grad():
        model[0].weight[0, 0] += 1
    assert not read_back(tmp_path, model, calibration, test)
