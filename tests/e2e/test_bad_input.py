"""What a user gets wrong ends with one sentence that names it, no traceback, and nothing computed lost."""

import errno
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bitwright import store
from bitwright.model.data import data_folder
from bitwright.result import SchemeResult
from bitwright.store import read_json

INT8 = ("-s", "integer(8, 8)")


def _stored_data() -> Path | None:
    try:
        return data_folder()
    except FileNotFoundError:
        return None


STORED = _stored_data()  # before a test points BITWRIGHT_DATA elsewhere


@pytest.mark.parametrize(
    ("scheme", "words"),
    [
        ("vs_qant(4, 4)", ("'vs_qant'", "did you mean 'vs_quant'")),
        ("integer(weight_bitz=4)", ("'weight_bitz'", "did you mean 'weight_bits'")),
        ("integer(weight_bits=99)", ("99",)),
        ("integer(bits=99)", ("'bits'", "did you mean 'input_bits'")),
        ("integer(4.5, 8)", ("4.5", "int")),
        ("integer('four')", ("'four'", "int")),
        ("integer(8, 8, overflow=Overflow.WARP)", ("'WARP'", "'WRAP'")),
        ("integer(8, 8", ("is not a scheme",)),
        ("integer(1, 2, 3)", ("integer", "takes")),
        ("Int(8)", ("makes a Int", "scheme")),
        ("integer(9**9**9)", ("not allowed",)),
        ("integer(10**10**10)", ("not allowed",)),
        ("no_such_module:scheme()", ("'no_such_module'", "could not be imported")),
    ],
)
def test_a_wrong_scheme_is_refused_before_anything_runs(here, write_task, tmp_path, scheme, words):
    sentence = here("compare", write_task(), *INT8, "-s", scheme, "-o", "run").sentence
    assert all(word in sentence for word in words), sentence
    assert not list(tmp_path.glob("run/rows/*"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("compare", "digit"), ("'digit'", "did you mean 'digits'")),
        (("compare", "no_such_module:task"), ("no_such_module",)),
        (("compare", "digits", "--limit", "-3"), ("--limit", "greater than or equal to 1")),
        (("compare", "digits", "--limit", "many"), ("--limit", "integer")),
        (("compare", "digits", "--threads", "0"), ("threads",)),
        (("compare", "digits", "--evaluation", "exakt"), ("'exakt'", "'exact'")),
        (("compare", "digits", "--limits", "3"), ("--limits",)),
        (("report", "nowhere"), ("comparison.json does not exist", "bitwright compare -o nowhere")),
        (("compair",), ("compair",)),
        (("compare", "digits", "-s", " ; "), ("no scheme in ' ; ' found",)),
        (("search", "digits", "-s", ""), ("no scheme in '' found",)),
        (("search", "digits", "-o", "/dev/null/here"), ("Not a directory",)),
        (("export", "digits", "-t", " ,"), ("no target in ' ,' found", "onnx-integers")),
        (("export", "digits", "-o", "/dev/null/here"), ("Not a directory",)),
        (("quantize", "model", "-o", "q", "-c", "a.jsonl", "-s", "fp8", "--group", "64"), ("--group is of integers",)),
    ],
)
def test_a_wrong_argument_is_named(here, arguments, words):
    sentence = here(*arguments).sentence
    assert all(word in sentence for word in words), sentence


def test_a_function_that_is_not_in_the_module_is_named(here, write_task):
    module = write_task().partition(":")[0]
    assert "'tusk'" in here("compare", f"{module}:tusk").sentence


def test_a_function_that_makes_no_task_is_named(here, write_task):
    assert "gives a int; it must return" in here("compare", write_task("made = lambda: 3\n")).sentence


def test_a_module_with_a_syntax_error_is_named(here, tmp_path):
    (tmp_path / "broken_module.py").write_text("def (")
    assert "broken_module" in here("compare", "broken_module:task").sentence


BAD_TASKS = {
    "empty calibration": ("def made(): return task(calibration_batches=())", ("calibration data is empty",)),
    "empty test": ("def made(): return task(test_batches=())", ("test data is empty",)),
    "NaN weight": (
        """
        def made():
            model = network()
            model[3].weight.data[1, 2] = float("nan")
            return task(model=model)
        """,
        ("layer 3: weight[1, 2] is nan",),
    ),
    "infinite weight": (
        """
        def made():
            model = network()
            model[0].weight.data[1, 0, 2, 2] = float("inf")
            return task(model=model)
        """,
        ("layer 0: weight[1, 0, 2, 2] is inf",),
    ),
    "NaN in calibration data": (
        """
        def made():
            bad = batch(0)
            bad.inputs[0][0, 0, 1, 2] = float("nan")
            return task(calibration_batches=(bad,))
        """,
        ("layer 0: the value at row, column (6, 0) is nan",),
    ),
    "NaN made by a layer": (
        """
        class Root(nn.Module):
            def forward(self, x):
                return x.sqrt()

        def made():
            model = network()
            model[1] = Root()
            return task(model=model)
        """,
        ("layer 3: the value at row, column", "is nan"),
    ),
    "wrong shape": (
        """
        def made():
            return task(test_batches=(Batch((torch.zeros(2, 1, 7, 7),), torch.zeros(2, dtype=torch.long)),))
        """,
        ("(2, 1, 7, 7)",),
    ),
    "wrong shape of calibration": (
        """
        def made():
            return task(calibration_batches=(Batch((torch.zeros(2, 3, 4, 4),), torch.zeros(2, dtype=torch.long)),))
        """,
        ("(2, 3, 4, 4)",),
    ),
    "no layers": ("def made(): return task(model=nn.Flatten())", ("matches no layer",)),
}


@pytest.mark.parametrize("kind", BAD_TASKS)
def test_a_task_that_cannot_be_compared_is_explained(here, write_task, kind):
    lines, words = BAD_TASKS[kind]
    sentence = here("compare", write_task(lines), *INT8, "-o", "run").sentence
    assert all(word in sentence for word in words), sentence


def test_an_output_that_is_no_tensor_is_named(start, write_task):
    lines = """
        class Pair(nn.Module):
            def __init__(self):
                super().__init__()
                self.network = network()

            def forward(self, x):
                return self.network(x), x

        def made():
            return task(model=Pair())
    """
    _, err = (process := start("compare", write_task(lines), *INT8)).communicate()
    assert process.returncode == 2
    assert err.strip() == "bitwright: model: the model gives a tuple, not a tensor; choose one in Task.forward"


def test_nan_in_test_data_is_not_compared(here, write_task):
    lines = """
        def made():
            bad = batch(1)
            bad.inputs[0][3, 0, 1, 2] = float("nan")
            return task(test_batches=(bad,))
    """
    assert "nan" in here("compare", write_task(lines), *INT8, "-o", "run").sentence


# Files of real tasks


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    """A data folder that the tests may damage."""
    folder = tmp_path / "stored"
    (folder / "data").mkdir(parents=True)
    (folder / "weights").mkdir()
    monkeypatch.setenv("BITWRIGHT_DATA", str(folder))
    return folder


class Exploit:
    """A pickle that writes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def damaged(kind: str, path: Path) -> bytes:
    from safetensors.torch import save
    from torch import nn

    whole = save(nn.Linear(4, 4).state_dict())
    return {
        "truncated": whole[:-7], "cut in its header": whole[:20], "empty": b"", "noise": bytes(range(256)) * 4,
        "pickle": pickle.dumps(Exploit(path.with_name("touched"))), "another model's": whole,
    }[kind]  # fmt: skip


@pytest.mark.parametrize("kind", ["truncated", "cut in its header", "empty", "noise", "pickle", "another model's"])
def test_a_damaged_checkpoint_is_named_and_never_unpickled(here, data, kind):
    path = data / "weights" / "lenet_mnist.safetensors"
    path.write_bytes(damaged(kind, path))
    assert "lenet_mnist.safetensors" in here("compare", "lenet", *INT8).sentence
    assert not path.with_name("touched").exists()


def test_a_missing_checkpoint_is_named(here, data):
    assert "lenet_mnist.safetensors" in here("compare", "lenet", *INT8).sentence


def test_a_folder_without_data_is_named_with_the_way_out(here, tmp_path):
    (tmp_path / "nothing").mkdir()
    sentence = here("compare", "lenet", "--data", "nothing", *INT8).sentence
    assert "nothing" in sentence
    assert "BITWRIGHT_DATA" in sentence


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"noise" * 40])
def test_damaged_data_is_named(here, data, content):
    if STORED is None:
        pytest.skip("the data of the real tasks is not here; set BITWRIGHT_DATA")
    stored = STORED
    shutil.copy(stored / "weights" / "lenet_mnist.safetensors", data / "weights")
    (data / "data" / "mnist.npz").write_bytes(content)
    assert "mnist.npz" in here("compare", "lenet", *INT8).sentence


# Places to write


def test_a_full_disk_keeps_the_earlier_rows(here, write_task, tmp_path, rows, monkeypatch):
    sync, calls = os.fsync, []

    def full_after_one(handle: int) -> None:
        calls.append(handle)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    monkeypatch.setattr(store.os, "fsync", full_after_one)
    outcome = here("compare", write_task(), *INT8, "-s", "integer(4, 4)", "-o", "run")
    assert outcome.status != 0
    assert outcome.err.splitlines()[-1].startswith("bitwright: No space left on device")
    assert "run" in outcome.err.splitlines()[-1]
    assert "Traceback" not in outcome.err
    assert [read_json(path, SchemeResult).scheme for path in rows(tmp_path / "run")] == ["integer(8, 8)"]
    assert not list(tmp_path.glob("run/**/.*"))  # no half-written file stays


def test_a_full_disk_is_met_in_a_process_of_its_own(start, write_task, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or os.system(f"mount -t tmpfs -o size=64k tmpfs {disk} 2>/dev/null") != 0:
        pytest.skip("only root can mount a small disk")
    try:
        _, err = (
            process := start("compare", write_task(), *(f"-sinteger({b}, {b})" for b in range(2, 9)), "-o", "disk/run")
        ).communicate()
        assert process.returncode not in (0, 1)
        assert "Traceback" not in err
        assert "No space left on device" in err.splitlines()[-1]
        assert all(read_json(path, SchemeResult).error is None for path in disk.glob("run/rows/*.json"))
    finally:
        os.system(f"umount {disk}")


@pytest.mark.parametrize("command", ["certify", "verify"])
def test_a_certificate_that_cannot_be_written_is_refused_before_the_work(here, tmp_path, command):
    (tmp_path / "taken").write_text("")
    of = ("integer(2, 2)",) if command == "verify" else ("digits",)
    outcome = here(command, *of, "-o", "taken/certificate.json")
    assert outcome.status == 2
    assert outcome.out == ""
    assert "taken" in outcome.sentence


def test_an_output_that_is_a_file_is_named(here, write_task, tmp_path):
    (tmp_path / "taken").write_text("mine")
    assert "taken" in here("compare", write_task(), *INT8, "-o", "taken").sentence
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"scheme": 3}', "\x00\xff", '{"scheme": "x", "rows": [1]}']
)
def test_a_damaged_row_is_named(here, write_task, tmp_path, rows, content):
    arguments = ("compare", write_task(), *INT8, "-o", "run")
    here(*arguments)
    (path,) = rows(tmp_path / "run")
    path.write_bytes(content.encode("latin-1"))
    sentence = here(*arguments).sentence
    assert path.name in sentence
    assert "delete it" in sentence


def test_a_damaged_comparison_is_named(here, write_task, tmp_path):
    here("compare", write_task(), *INT8, "-o", "run")
    (tmp_path / "run" / "comparison.json").write_text("{}")
    assert "comparison.json" in here("report", "run").sentence


def test_a_reader_that_leaves_ends_a_command_without_a_word():
    words = [sys.executable, "-m", "bitwright.cli", "schemes"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as listing:
        listing.stdout.close()
        assert listing.stderr.read() == b""
    assert listing.returncode in (1, 141)  # rich has an ending of its own
