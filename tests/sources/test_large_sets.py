"""A test set that does not fit into memory gives the figures of one that does."""

import numpy as np
import torch
from torch import nn

import bitwright as bw
from bitwright.model import evaluate
from bitwright.sources import load_task


def test_outputs_beyond_the_memory_are_made_again(tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(400, 6)).astype(np.float32), generator.integers(0, 3, 400)
    np.savez(tmp_path / "a.npz", x=x, y=y)
    task = load_task(model, tmp_path / "a.npz")
    whole = bw.compare(task, ["integer(4, 4)"])
    monkeypatch.setattr(evaluate, "KEPT_BYTES", 3000)  # two batches
    parts = bw.compare(task, ["integer(4, 4)"])
    assert parts.info.samples == whole.info.samples == 336
    figures = ("metric", "simulated_metric", "agreement", "output_sqnr_db", "overflow_rate")
    assert [getattr(parts.rows[0], f) for f in figures] == [getattr(whole.rows[0], f) for f in figures]
    assert len(evaluate.reference(task, model).batches) == 2
