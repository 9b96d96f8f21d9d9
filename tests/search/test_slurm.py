"""Jobs of submitit evaluate into the shared folder; what a job that dies leaves is submitted again."""

import os
import shutil
import signal
import threading
import time
from collections import Counter

import pytest
from test_execute import evaluated, expected, metrics
from toy import Toy, alone, designs, toy_of, toy_setup

pytest.importorskip("submitit")

from bitwright.search.slurm import Slurm
from bitwright.search.store import Store

pytestmark = pytest.mark.filterwarnings(  # log files and processes that submitit leaves to the collector
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


def test_jobs_find_what_one_finds_here(tmp_path):
    executor = Slurm(toy_setup(0, str(tmp_path)), 2, "cluster=debug", toy_of)
    assert metrics(evaluated(executor, designs(5))) == expected(designs(5))
    assert Counter(Store(tmp_path).log()) == Counter(design.key for design in designs(5))


def test_jobs_measure_damages_as_one_does_here(tmp_path):
    executor = Slurm(toy_setup(0, str(tmp_path)), 2, "cluster=debug", toy_of)
    assert evaluated(executor, alone(3)) == {one: Toy(0).damage(one) for one in alone(3)}


def test_a_setup_that_fails_in_jobs_ends_the_search_with_its_sentence(tmp_path):
    with pytest.raises(ValueError, match="there is no such model on this machine"):
        evaluated(Slurm(toy_setup("fails", str(tmp_path)), 2, "cluster=debug", toy_of), designs(2))


@pytest.mark.parametrize("words", ["nothing", "cluster=elsewhere"])
def test_words_that_submitit_does_not_know_are_named(tmp_path, words):
    with pytest.raises(ValueError, match=r"an option 'nothing' of Slurm|Slurm cannot be used"):
        Slurm(toy_setup(0, str(tmp_path)), 1, words)


@pytest.mark.skipif(shutil.which("srun") is not None, reason="this machine has Slurm")
def test_without_slurm_nothing_runs_elsewhere_in_silence(tmp_path):
    with pytest.raises(ValueError, match="Slurm cannot be used"):
        Slurm(toy_setup(0, str(tmp_path)), 1)


def test_a_job_that_is_killed_is_submitted_again(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")]))
    executor = Slurm(toy_setup(0.4, str(tmp_path)), 1, "cluster=local", toy_of)
    killed = []

    def kill():
        while not killed:
            time.sleep(0.02)
            for lease in (tmp_path / "leases").glob("*.0"):
                if words := lease.read_text().split():
                    os.kill(int(words[1]), signal.SIGKILL)
                    killed.append(words[1])
                    return

    threading.Thread(target=kill, daemon=True).start()
    assert metrics(evaluated(executor, designs(4))) == expected(designs(4))
    assert killed
    assert Counter(Store(tmp_path).log()) == Counter(design.key for design in designs(4))
