"""The command as a user runs it: in a process of its own, or in this one where only its words and status matter."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

import bitwright
from bitwright import cli


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The one line that explains a failure."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        assert "Traceback" not in self.err, self.err
        assert self.status != 0
        assert len(lines) == 1, self.err
        return lines[0]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "bitwright.cli", *arguments]


@pytest.fixture
def start(tmp_path) -> Callable[..., subprocess.Popen]:
    """Starts the command in a process of its own."""
    source = str(Path(bitwright.__file__).parents[1])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": source}
    started: list[subprocess.Popen] = []

    def run(*arguments: str) -> subprocess.Popen:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        # a shell's background jobs ignore interrupts, and a child would inherit that
        heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        process = subprocess.Popen(command(*arguments), cwd=tmp_path, env=environment, preexec_fn=heed, **pipes)
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def here(tmp_path, monkeypatch, capsys) -> Callable[..., Outcome]:
    """Runs the command in this process, in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = os.environ.get("BITWRIGHT_DATA")
    monkeypatch.setenv("BITWRIGHT_DATA", before or "")  # --data sets it: undone after the test
    if before is None:
        monkeypatch.delenv("BITWRIGHT_DATA")

    def run(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["bitwright", *arguments])
        status = 0
        try:
            cli.main()
        except SystemExit as leaving:
            status = leaving.code if isinstance(leaving.code, int) else 0
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return run


TINY = """
import torch
from torch import nn
from bitwright.comparison import ModelTask
from bitwright.model.task import Batch


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


def batch(seed, count=8):
    generator = torch.Generator().manual_seed(seed)
    return Batch((torch.randn(count, 1, 4, 4, generator=generator),), torch.arange(count) % 3)


def task(**changes):
    given = {"model": network(), "calibration_batches": (batch(0),), "test_batches": (batch(1),)}
    return ModelTask(**(given | changes))
"""


@pytest.fixture
def write_task(tmp_path, request) -> Callable[[str], str]:
    """Writes a module with a small task, and more lines; gives its module:function."""

    def write(lines: str = "") -> str:
        name = f"tiny_{abs(hash(request.node.nodeid))}"
        (tmp_path / f"{name}.py").write_text(TINY + textwrap.dedent(lines))
        return f"{name}:{'made' if 'made' in lines else 'task'}"

    return write


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Until it holds; AssertionError when it does not in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)


def rows(folder: Path) -> dict[Path, int]:
    """Files of finished rows, with the time that each was written."""
    return {path: path.stat().st_mtime_ns for path in folder.glob("rows/*.json")}


@pytest.fixture(name="wait_for")
def wait_for_fixture():
    return wait_for


@pytest.fixture(name="rows")
def rows_fixture():
    return rows
