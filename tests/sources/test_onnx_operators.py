"""The `onnx` package's own tests of every operator: the expected outputs, or a refusal by the operator's name."""

import glob
from pathlib import Path

import numpy as np
import pytest
import torch

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")

from onnx import TensorProto, numpy_helper  # noqa: E402

from bitwright.sources.onnx import load  # noqa: E402

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
LIGHT = sorted((DATA / "light").glob("*.onnx"))

pytestmark = pytest.mark.filterwarnings("ignore")  # of the generators of the tests


@pytest.fixture(scope="module")
def outcomes():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXPERIMENTS))
        from onnx_operators import cases, ours, outcome

        # those that the standard writes out in others take as long again; the experiment runs them too
        return {case.name: outcome(case, ours) for case in cases() if "_expanded" not in case.name}


@pytest.mark.parametrize("kind", ["wrong", "crash"])
def test_no_operator_is_computed_wrongly_or_ends_in_another_error(outcomes, kind):
    assert not {name: found for name, found in outcomes.items() if found.kind == kind}


def test_most_operators_are_computed(outcomes):
    assert sum(found.kind == "equal" for found in outcomes.values()) > 0.85 * len(outcomes)


def test_what_is_refused_is_refused_in_one_line(outcomes):
    assert not [f.reason for f in outcomes.values() if f.kind == "refused" and ("\n" in f.reason or not f.reason)]


def _arrays(folder: str, kind: str) -> list[np.ndarray]:
    paths = sorted(glob.glob(f"{folder}/{kind}_*.pb"), key=lambda p: int(p.rpartition("_")[2][:-3]))
    return [numpy_helper.to_array(TensorProto.FromString(Path(p).read_bytes())) for p in paths]


@pytest.mark.parametrize("path", sorted(DATA.glob("pytorch-*/*/model.onnx")), ids=lambda p: p.parent.name)
def test_a_model_that_torch_exported_long_ago_gives_the_expected_outputs(path):
    if path.parent.name.startswith("test_operator_add_") and "broadcast" in path.parent.name:
        with pytest.raises(ValueError, match="broadcast"):  # the only thing of opset 6 that is not read
            load(path)
        return
    model = load(path)
    for folder in glob.glob(f"{path.parent}/test_data_set_*"):
        with torch.no_grad():
            found = model(*[torch.from_numpy(x.copy()) for x in _arrays(folder, "input")])
        found = found if isinstance(found, tuple) else (found,)
        for a, b in zip(found, _arrays(folder, "output"), strict=True):
            np.testing.assert_allclose(a.numpy(), b, rtol=1e-3, atol=1e-4)  # float32 sums in another order


@pytest.mark.parametrize("path", LIGHT, ids=lambda p: p.stem)
def test_a_light_model_of_the_onnx_package_computes_what_onnx_runtime_does(path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (taken,) = session.get_inputs()
    x = np.random.default_rng(0).random([d if isinstance(d, int) else 1 for d in taken.shape], dtype=np.float32)
    expected = session.run(None, {taken.name: x})[0]
    with torch.no_grad():
        found = load(path)(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)  # float32 sums in another order
