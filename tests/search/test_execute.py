"""Workers die and drivers die: designs are tried again, and nothing that is finished is evaluated twice."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from toy import COMMAND, Toy, alone, designs, toy_setup

from bitwright.search.execute import Here, Original, Processes
from bitwright.search.executors import executor_of
from bitwright.search.point import Design
from bitwright.search.store import Store

DRIVER = """
import json, sys
from pathlib import Path
from toy import COMMAND, designs, toy_setup
from bitwright.search.execute import Original, Processes
setup = toy_setup(float(sys.argv[2]), sys.argv[1])
with Original(setup, COMMAND) as original:
    executor = Processes(setup, 2, original)
    found = {}
    executor.evaluate(designs(int(sys.argv[3])), lambda design, figures: found.update({design.key: figures.metric}))
    executor.close()
print(json.dumps(found), flush=True)
"""


@contextmanager
def processes(setup, count):
    with Original(setup, COMMAND) as original:
        yield Processes(setup, count, original)


def evaluated_by(setup, count, wanted):
    with processes(setup, count) as executor:
        return evaluated(executor, wanted)


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
    there = evaluated_by(toy_setup(0, str(tmp_path / "there")), 2, wanted)
    assert metrics(here) == metrics(there) == expected(wanted)
    assert Counter(Store(tmp_path / "here").log()) == Counter(Store(tmp_path / "there").log())


def test_processes_measure_damages_as_one_does_here(tmp_path):
    wanted = alone(5)
    here = evaluated(Here(Toy(0)), wanted)
    there = evaluated_by(toy_setup(0, str(tmp_path)), 2, wanted)
    assert here == there
    assert len(list((tmp_path / "damages").iterdir())) == 5
    assert evaluated(Here(Toy(0), Store(tmp_path)), wanted) == here


def test_workers_without_a_folder_write_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evaluated_by(toy_setup(0), 1, designs(1))
    assert not list(tmp_path.iterdir())


def test_a_setup_that_fails_on_workers_ends_the_search_with_its_sentence():
    with pytest.raises(ValueError, match="there is no such model on this machine"):
        evaluated_by(toy_setup("fails"), 2, designs(4))


def test_workers_that_die_at_the_start_are_not_started_forever():
    with pytest.raises(ValueError, match="die before they evaluate anything, 5 in turn"):
        evaluated_by(toy_setup("dies"), 2, designs(4))


def test_a_design_that_kills_its_workers_fails_alone(tmp_path):
    poison = Design((("a", "poison"),))
    found = evaluated_by(toy_setup(0, str(tmp_path)), 1, [poison, *designs(2)])
    assert found.pop(poison).error == "its worker died 5 times"
    assert metrics(found) == expected(designs(2))


def test_a_full_disk_ends_the_search_with_one_sentence(tmp_path):
    (tmp_path / "points").write_text("in the way of the folder")
    with pytest.raises(ValueError, match="points"):
        evaluated_by(toy_setup(0, str(tmp_path)), 1, designs(2))


def killed(pids):
    """Each of these in turn, from a thread, as soon as there is another one."""
    found = []

    def kill():
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                found.append(pid)

    thread = threading.Thread(target=kill)
    thread.start()
    return thread, found


def at_work(folder, count):
    """Processes that hold a lease, each once, until there were so many."""
    seen = set()
    while len(seen) < count:
        for lease in (folder / "leases").glob("*.[0-9]"):
            with suppress(FileNotFoundError, IndexError):  # it is finished, or just made
                pid = int(lease.read_text().split()[1])
                if pid not in seen and len(seen) < count:
                    seen.add(pid)
                    yield pid
        time.sleep(0.005)


def test_workers_killed_in_mid_evaluation_change_nothing(tmp_path):
    wanted = designs(12)
    with processes(toy_setup(0.1, str(tmp_path)), 2) as executor:
        thread, dead = killed(at_work(tmp_path, 4))
        found = evaluated(executor, wanted)
        thread.join(60)
    assert len(dead) == 4
    assert metrics(found) == expected(wanted)
    assert Counter(Store(tmp_path).log()) == Counter(design.key for design in wanted)


def test_an_original_that_is_killed_is_made_again(tmp_path):
    setup = toy_setup(0.05, str(tmp_path))
    with Original(setup, COMMAND) as original:
        executor = Processes(setup, 2, original)
        first = original.pid
        assert metrics(evaluated(executor, designs(2))) == expected(designs(2))
        os.kill(first, signal.SIGKILL)
        assert metrics(evaluated(Processes(setup, 2, original), designs(4))) == expected(designs(4))
        assert original.pid != first
    wait_until(lambda: not is_alive(original.pid))


def test_a_driver_that_is_killed_leaves_no_worker_and_its_successor_evaluates_the_rest_alone(tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.path.dirname(COMMAND[1]), *sys.path])}
    command = [sys.executable, "-c", DRIVER, str(tmp_path), "0.2", "10"]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    wait_until(lambda: len(Store(tmp_path).log()) >= 3)
    workers = children_of(first.pid)
    first.kill()
    first.communicate()
    finished = set(Store(tmp_path).log())

    second = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=True)
    assert json.loads(second.stdout) == {d.key: metric for d, metric in expected(designs(10)).items()}
    assert len(workers) == 3, "an original and two copies"
    wait_until(lambda: not any(map(is_alive, workers)))
    log = Store(tmp_path).log()
    assert len(log) == len(set(log)) == 10
    assert finished <= set(log)


def children_of(pid):
    """And theirs."""
    own = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return own + [grandchild for child in own for grandchild in children_of(child)]


def test_an_interrupt_ends_workers_too():
    pids = []

    def interrupt(design, figures):
        wait_until(lambda: len(executor.pids) == 2)
        pids.extend(executor.pids)
        raise KeyboardInterrupt

    with processes(toy_setup(0), 2) as executor:
        with pytest.raises(KeyboardInterrupt):
            executor.evaluate([*designs(4), Design((("a", "until there is no end"),))], interrupt)
        assert executor.pids == []
    wait_until(lambda: not any(map(is_alive, pids)))


def test_workers_beside_a_database_are_refused_for_they_are_started_there(tmp_path):
    pytest.importorskip("psycopg", reason="needs the extra postgresql")
    said = "2 workers beside a database found; start each by bitwright worker"
    own = executor_of("postgresql://me@host/name", toy_setup(0, str(tmp_path)), 2)
    with own as make, pytest.raises(ValueError, match=said):
        make(Toy(0), Store(tmp_path))
