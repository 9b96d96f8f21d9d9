"""Evaluated assignments are kept, each evaluated once, whoever dies."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from toy import Toy, designs

from bitwright.search.point import Figures
from bitwright.search.store import Store

FOUND = Figures(50.0, 49.0, 90.0, 20.0, 8, 0.25)

EVALUATES = """
import sys, time
from pathlib import Path
from bitwright.search.point import Figures
from bitwright.search.store import Store
def make():
    print("evaluating", flush=True)
    time.sleep(float(sys.argv[2]))
    return Figures(50.0, 49.0, 90.0, 20.0, 8, 0.25)
print(Store(Path(sys.argv[1]), 0.05, float(sys.argv[3])).get("key", make).metric, flush=True)
"""


def evaluating(folder, seconds, stale=30.0):
    command = [sys.executable, "-c", EVALUATES, str(folder), str(seconds), str(stale)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def never():
    raise AssertionError("evaluated again")


def test_what_was_found_is_not_evaluated_again(tmp_path):
    store = Store(tmp_path)
    assert store.get("key", lambda: FOUND) == FOUND
    assert store.get("key", never) == FOUND
    assert store.log() == ["key"]


def test_of_two_processes_one_evaluates_and_both_have_the_result(tmp_path):
    both = [evaluating(tmp_path, 0.3) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in both]
    assert sorted(outputs) == ["50.0\n", "evaluating\n50.0\n"]
    assert not list((tmp_path / "leases").iterdir())


def test_of_many_threads_one_evaluates(tmp_path):
    store, made = Store(tmp_path, 0.02), []

    def make():
        made.append(threading.get_ident())
        time.sleep(0.1)
        return FOUND

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(lambda _: store.get("key", make), range(16))) == [FOUND] * 16
    assert len(made) == 1


def test_the_lease_of_a_worker_killed_in_mid_evaluation_is_taken_over(tmp_path):
    process = evaluating(tmp_path, 3600)
    assert process.stdout.readline() == "evaluating\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert Store(tmp_path, 0.05).get("key", lambda: FOUND) == FOUND
    assert not list((tmp_path / "leases").iterdir())


def test_a_worker_that_gives_signs_of_life_is_waited_for_and_a_stopped_one_is_not(tmp_path):
    process = evaluating(tmp_path, 1.0)
    assert process.stdout.readline() == "evaluating\n"
    assert Store(tmp_path, 0.05, stale=0.5).get("key", never) == FOUND
    process.communicate()
    (tmp_path / "points" / "key.json").unlink()

    process = evaluating(tmp_path, 0.5)
    assert process.stdout.readline() == "evaluating\n"
    process.send_signal(signal.SIGSTOP)
    assert Store(tmp_path, 0.05, stale=0.5).get("key", lambda: FOUND) == FOUND
    process.send_signal(signal.SIGCONT)
    assert process.communicate()[0] == "50.0\n", "the stopped one writes the same"


@pytest.mark.parametrize("count", [2, 8])
def test_one_of_many_takes_a_stale_lease_over(tmp_path, count):
    lease = tmp_path / "leases" / "key.0"
    lease.parent.mkdir()
    lease.write_text("elsewhere 1\n")
    os.utime(lease, (0, 0))
    store, made = Store(tmp_path, 0.02), []

    def make():
        made.append(1)
        time.sleep(0.05)
        return FOUND

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(lambda _: store.get("key", make), range(count)))
    assert len(made) == 1
    assert not list(lease.parent.iterdir())


@pytest.mark.parametrize("content", [b"", b'{"metric": 50.0', b"\x00" * 64, b"[1, 2]", b'{"metric": 50.0}'])
def test_a_file_that_cannot_be_read_is_set_aside_and_named(tmp_path, content):
    store = Store(tmp_path)
    store.put("key", FOUND)
    store.path("key").write_bytes(content)
    with pytest.warns(UserWarning, match=r"key\.json is not a Figures of this version .* set aside as key\.json\.unr"):
        assert store.get("key", lambda: FOUND) == FOUND
    (aside,) = store.path("key").parent.glob("*.unreadable.*")
    assert aside.read_bytes() == content
    assert store.find("key") == FOUND


def test_a_failed_evaluation_gives_its_lease_back(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(OSError, match="disk"):
        store.get("key", lambda: (_ for _ in ()).throw(OSError("disk")))
    assert store.get("key", lambda: FOUND) == FOUND


def test_results_that_are_written_while_others_read_are_never_seen_in_part(tmp_path):
    store, is_over = Store(tmp_path), threading.Event()

    def write():
        while not is_over.is_set():
            store.put("key", FOUND)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert all(store.find("key") in (FOUND, None) for _ in range(300))
    finally:
        is_over.set()
        thread.join()


def test_figures_follow_from_the_assignment():
    first, second = (Toy(0).figures(design.assignment) for design in designs(2))
    assert first != second
