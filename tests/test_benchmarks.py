"""Benchmarks check before they time, and what they wrote becomes the tables and the picture of the documentation."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import page
    import timing

    yield page, timing
    for name in ("page", "timing"):
        sys.modules.pop(name, None)


def test_fake_quantization_is_right_and_its_lines_become_a_page(bench, tmp_path):
    page, _ = bench
    lines = tmp_path / "lines.jsonl"
    command = [sys.executable, str(BENCHMARKS / "fake_quantize.py"), "--megabytes=1", "--rounds=1", f"--json={lines}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "WRONG" not in done.stdout
    found = [json.loads(line) for line in lines.read_text().splitlines()]
    assert {"NVFP4", "int8"} <= {word for m in found for word in m["case"].replace(",", "").split()}
    assert "| case | 1 thread | ms | |" in page.tables(found)
    assert page.picture(found).count("<circle") == len(found)


def test_a_wrong_case_is_named_and_not_timed(bench, capsys):
    _, timing = bench
    right, wrong = timing.Case("right", lambda: None), timing.Case("wrong", lambda: 1 / 0, lambda: "it is not equal")
    measured = timing.measure(timing.Group("group", timing.Case("limit", lambda: None), [right, wrong]), 1, rounds=3)
    assert [m.case for m in measured] == ["limit", "limit, again", "right"]
    assert "group: wrong is WRONG: it is not equal" in capsys.readouterr().out


def test_a_slow_case_takes_part_in_seven_rounds_only(bench):
    _, timing = bench
    measured = timing.measure(
        timing.Group("group", timing.Case("limit", lambda: None), [timing.Case("slow", lambda: sum(range(20000)))]),
        1, rounds=12, seconds=0.0,
    )  # fmt: skip
    assert {m.case: m.rounds for m in measured}["slow"] == timing.FEW_ROUNDS
