"""A network that is quantized already: evaluated, certified and priced as it is."""

import json

import numpy as np
import pytest
import torch

import bitwright as bw
from bitwright.model.zoo import EMBEDDED

pytest.importorskip("onnx", reason="the file is ONNX: pip install 'bitwright[onnx]'")

from bitwright.export import onnx


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """What names the model and the data."""
    folder, task = tmp_path_factory.mktemp("stored"), EMBEDDED["digits"]
    batches = list(task.calibration())
    onnx.write(bw.quantize(task.load(), "integer(8, 8)", batches), folder / "net.onnx", batches[0].inputs)
    test = list(task.test(200))
    x, y = (torch.cat([part(batch) for batch in test]).numpy() for part in (lambda b: b.inputs[0], lambda b: b.targets))
    np.savez(folder / "data.npz", x=x, y=y)
    return str(folder / "net.onnx"), "--data", str(folder / "data.npz")


def test_its_metric_is_computed_without_a_scheme(words, here):
    done = here("compare", *words)
    assert done.status == 0, done.err
    assert "net as stored: top-1 accuracy" in done.out


def test_it_is_certified_from_its_own_codes(words, here):
    done = here("certify", *words)
    assert done.status == 0, done.err
    assert "net under its own schemes" in done.out


def test_it_is_priced_as_the_scheme_that_made_it(words, here):
    own = json.loads(here("cost", *words, "--array", "16x16", "--json").out)[0]
    made = json.loads(here("cost", "digits", "-s", "integer(8, 8)", "--array", "16x16", "--json").out)[0]
    assert own["scheme"] == "stored"
    assert own["cycles"] == made["cycles"]
    assert own["area_um2"]["value"] == pytest.approx(made["area_um2"]["value"])


@pytest.mark.parametrize("command", ["compare", "certify", "cost"])
def test_another_scheme_is_refused(words, here, command):
    done = here(command, *words, "-s", "nvfp4()")
    assert done.status == 2
    assert "is quantized already" in done.sentence
