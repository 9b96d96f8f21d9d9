"""Rows of a folder are read again only where nothing that decides them has changed."""

import sys

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


def read_back(folder, model, calibration, test, scheme="integer(4, 4)"):
    """Whether the row is one of an earlier run."""
    seen = []
    bw.compare(
        model, [scheme], calibration=[calibration], test=[test], folder=folder,
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


def test_a_row_of_a_scheme_of_ones_own_is_computed_anew_when_its_module_changes(model, tmp_path, monkeypatch):
    module = tmp_path / "own_words.py"
    text = (
        "from bitwright.scheme import Scheme\nfrom bitwright.schemes import integer\n\n"
        "def mine() -> Scheme:\n    return integer({})\n"
    )
    module.write_text(text.format("4, 4"))
    monkeypatch.syspath_prepend(str(tmp_path))
    given = tmp_path / "rows", model, batch(0), batch(1), "own_words:mine()"
    assert not read_back(*given)
    assert read_back(*given)
    module.write_text(text.format("5, 4"))
    assert not read_back(*given)
    monkeypatch.delitem(sys.modules, "own_words")
