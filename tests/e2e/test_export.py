"""`bitwright export` as a stranger meets it."""

import pytest

pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")
pytest.importorskip("onnxscript", reason="needs the extra onnx")

pytestmark = pytest.mark.filterwarnings("ignore")  # of the converter


def test_a_network_of_ones_own_leaves_as_files_that_were_run(here, write_task, tmp_path):
    done = here("export", write_task(), "-s", "integer(8, 8)", "-t", "bundle,onnx", "-t", "onnx-integers", "-o", "out")
    assert (done.status, done.err) == (0, "")
    rows = [line.split() for line in done.out.splitlines()[1:]]
    assert rows[0] == ["target", "file", "kB", "checked"]
    assert [row[0] for row in rows[1:]] == ["bundle", "onnx", "onnx-integers"]
    assert all((tmp_path / row[1]).exists() for row in rows[1:])
    assert all("equal" in row for row in rows[1:])


def test_what_a_target_cannot_hold_is_said_with_the_targets_that_can(here, write_task):
    done = here("export", write_task(), "-s", "term_revealing()", "-t", "onnx,qonnx")
    assert done.status == 1
    assert "ONNX cannot hold inputs of TermBudget" in done.out
    assert done.sentence == "bitwright: nothing was written; targets that can: bundle"


def test_an_unknown_target_gets_the_nearest_name(here, write_task):
    done = here("export", write_task(), "-t", "onx")
    assert done.status == 2
    assert done.sentence == "bitwright: there is no target 'onx'; did you mean 'onnx'?"
