"""Workers die and drivers die: designs are tried again, and nothing that is finished is evaluated twice."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from toy import COMMAND, Toy, alone, designs, toy_setup

from bitwright.search.execute import Here, Processes
from bitwright.search.executors import executor_of
from bitwright.search.point import Design
from bitwright.search.store import Store

DRIVER = """
import json, sys
from pathlib import Path
from toy import COMMAND, designs, toy_setup
from bitwright.search.execute import Processes
executor = Processes(toy_setup(float(sys.argv[2]), sys.argv[1]), 2, COMMAND)
print(json.dumps(executor.pids), flush=True)
found = {}
executor.evaluate(designs(int(sys.argv[3])), lambda design, figures: found.update({design.key: figures.metric}))
executor.close()
print(json.dumps(found), flush=True)
"""


def evaluated(executor, wanted):
    found = {}
    try:
        executor.evaluate(wanted, lambda design, figures: found.update({design: figures}))
    finally:
        executor.close()
    return found


def expected(wanted):
    return {design: Toy(0).figures(design.assignment).metric for design in wanted}


def metrics(found):
    return {design: figures.metric for design, figures in found.items()}


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_processes_find_what_one_finds_here(tmp_path):
    wanted = designs(7)
    here = evaluated(Here(Toy(0), Store(tmp_path / "here")), wanted)
    there = evaluated(Processes(toy_setup(0, str(tmp_path / "there")), 2, COMMAND), wanted)
    assert metrics(here) == metrics(there) == expected(wanted)
    assert Counter(Store(tmp_path / "here").log()) == Counter(Store(tmp_path / "there").log())


def test_processes_measure_damages_as_one_does_here(tmp_path):
    wanted = alone(5)
    here = evaluated(Here(Toy(0)), wanted)
    there = evaluated(Processes(toy_setup(0, str(tmp_path)), 2, COMMAND), wanted)
    assert here == there
    assert len(list((tmp_path / "damages").iterdir())) == 5
    assert evaluated(Here(Toy(0), Store(tmp_path)), wanted) == here


def test_workers_without_a_folder_write_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evaluated(Processes(toy_setup(0), 1, COMMAND), designs(1))
    assert not list(tmp_path.iterdir())


def test_a_setup_that_fails_on_workers_ends_the_search_with_its_sentence():
    with pytest.raises(ValueError, match="there is no such model on this machine"):
        evaluated(Processes(toy_setup("fails"), 2, COMMAND), designs(4))


def test_workers_that_die_at_the_start_are_not_started_forever():
    with pytest.raises(ValueError, match="die before they evaluate anything, 5 in turn"):
        evaluated(Processes(toy_setup("dies"), 2, COMMAND), designs(4))


def test_a_design_that_kills_its_workers_fails_alone(tmp_path):
    poison = Design((("a", "poison"),))
    executor = Processes(toy_setup(0, str(tmp_path)), 1, COMMAND)
    found = evaluated(executor, [poison, *designs(2)])
    assert found.pop(poison).error == "its worker died 5 times"
    assert metrics(found) == expected(designs(2))


def test_a_full_disk_ends_the_search_with_one_sentence(tmp_path):
    (tmp_path / "points").write_text("in the way of the folder")
    with pytest.raises(ValueError, match="points"):
        evaluated(Processes(toy_setup(0, str(tmp_path)), 1, COMMAND), designs(2))


def test_workers_killed_in_mid_evaluation_change_nothing(tmp_path):
    wanted = designs(12)
    executor = Processes(toy_setup(0.15, str(tmp_path)), 2, COMMAND)
    is_over, killed = threading.Event(), []

    def kill():
        while len(killed) < 4 and not is_over.wait(0.05):
            for lease in (tmp_path / "leases").glob("*.[0-9]"):  # those of the dead stay until they are taken over
                pid = 0
                with suppress(FileNotFoundError):  # it is finished meanwhile
                    pid = int((lease.read_text().split() or [0, 0])[1])
                if pid in executor.pids:
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                    is_over.wait(0.3)
                    break

    thread = threading.Thread(target=kill)
    thread.start()
    found = evaluated(executor, wanted)
    is_over.set()
    thread.join()
    assert len(killed) >= 2
    assert metrics(found) == expected(wanted)
    assert Counter(Store(tmp_path).log()) == Counter(design.key for design in wanted)


def test_a_driver_that_is_killed_leaves_no_worker_and_its_successor_evaluates_the_rest_alone(tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.path.dirname(COMMAND[1]), *sys.path])}
    command = [sys.executable, "-c", DRIVER, str(tmp_path), "0.2", "10"]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    workers = json.loads(first.stdout.readline())
    wait_until(lambda: len(Store(tmp_path).log()) >= 3)
    first.kill()
    first.communicate()
    finished = set(Store(tmp_path).log())

    second = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=True)
    found = json.loads(second.stdout.splitlines()[1])
    assert found == {design.key: metric for design, metric in expected(designs(10)).items()}
    wait_until(lambda: not any(map(is_alive, workers)))
    log = Store(tmp_path).log()
    assert len(log) == len(set(log)) == 10
    assert finished <= set(log)


def test_an_interrupt_ends_workers_too():
    executor = Processes(toy_setup(0), 2, COMMAND)
    pids = executor.pids

    def interrupt(design, figures):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        executor.evaluate([*designs(4), Design((("a", "hangs"),))], interrupt)
    assert executor.pids == []
    assert not any(map(is_alive, pids))


def test_workers_beside_a_database_are_refused_for_they_are_started_there(tmp_path):
    pytest.importorskip("psycopg", reason="needs the extra postgresql")
    make = executor_of("postgresql://me@host/name", toy_setup(0, str(tmp_path)), 2)
    with pytest.raises(ValueError, match="2 workers beside a database found; start each by bitwright worker"):
        make(Toy(0), Store(tmp_path))
