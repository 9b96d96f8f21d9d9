"""Workers on any machine take designs from a database, and those of workers that die are taken again."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from test_execute import evaluated, expected, metrics, wait_until
from toy import COMMAND, Toy, alone, designs, held_up, toy_of, toy_setup

pytest.importorskip("optuna")

from optuna.trial import TrialState

from bitwright.search.point import Design
from bitwright.search.queue import Clock, Queue, storage_at, work
from bitwright.search.store import Store

pytestmark = pytest.mark.filterwarnings(  # connections that Optuna leaves to the collector
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)

CLOCK = Clock(1, 3, 0.05)
POSTGRES = Path("/usr/lib/postgresql")

DRIVER = """
import json, sys
from pathlib import Path
from toy import held_up, toy_setup
from bitwright.search.queue import Clock, Queue
from bitwright.search.store import Store
executor = Queue(toy_setup(0), sys.argv[1], Store(Path(sys.argv[2])), Clock(1, 3, 0.05))
found = {}
executor.evaluate(held_up(Path(sys.argv[2])), lambda design, figures: found.update({design.key: figures.metric}))
executor.close()
print(json.dumps(found), flush=True)
"""


def started(*command):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.path.dirname(COMMAND[1]), *sys.path])}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def in_threads(address, count):
    """Workers in this process, for as long as the test."""
    for _ in range(count):
        words = {"evaluator_of": toy_of, "clock": CLOCK, "idle": 2.0}
        threading.Thread(target=work, args=[address], kwargs=words, daemon=True).start()


@pytest.fixture
def sqlite(tmp_path):
    return f"sqlite:///{tmp_path}/queue.db"


@pytest.fixture(scope="module")
def postgresql():
    """A server of our own on a free port, under a user that is not root, as it refuses root."""
    found = shutil.which("initdb") or next(map(str, sorted(POSTGRES.glob("*/bin/initdb"))), None)
    if found is None:
        pytest.skip("PostgreSQL is not installed")
    binaries = Path(found).resolve().parent
    as_user = []
    if os.getuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("PostgreSQL refuses root, and setpriv is not installed")
        as_user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        as_user += ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]  # containers close /dev/null to others
    folder = tempfile.mkdtemp(prefix="bitwright-postgresql-")
    if as_user:
        os.chown(folder, 65534, 65534)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def run(*words):
        environment = os.environ | {"LC_ALL": "C"}
        subprocess.run([*as_user, *words], check=True, cwd=folder, stdout=subprocess.DEVNULL, env=environment)

    words = ["--auth=trust", "--username=bitwright", "--no-sync", f"--pgdata={folder}/data"]
    run(str(binaries / "initdb"), *words)
    control = [str(binaries / "pg_ctl"), f"--pgdata={folder}/data", "--wait", f"--log={folder}/log"]
    run(*control, "-o", f"-p {port} -h 127.0.0.1 -k {folder} -F", "start")
    try:
        yield f"postgresql://bitwright@127.0.0.1:{port}/postgres"
    finally:
        run(*control, "--mode=immediate", "stop")
        shutil.rmtree(folder)


def test_a_queue_finds_what_one_finds_here(tmp_path, sqlite):
    executor = Queue(toy_setup(0), sqlite, Store(tmp_path / "found"), CLOCK)
    in_threads(sqlite, 2)
    assert metrics(evaluated(executor, designs(5))) == expected(designs(5))
    assert Counter(Store(tmp_path / "found").log()) == Counter(design.key for design in designs(5))


def test_a_queue_measures_damages_as_one_does_here(tmp_path, sqlite):
    executor = Queue(toy_setup(0), sqlite, Store(tmp_path / "found"), CLOCK)
    in_threads(sqlite, 1)
    assert evaluated(executor, alone(2)) == {one: Toy(0).damage(one) for one in alone(2)}


def test_what_a_database_knows_is_not_evaluated_again(tmp_path, sqlite):
    executor = Queue(toy_setup(0), sqlite, Store(tmp_path / "found"), CLOCK)
    in_threads(sqlite, 1)
    evaluated(executor, designs(2))
    shutil.rmtree(tmp_path / "found")
    again = Queue(toy_setup(0), sqlite, Store(tmp_path / "found"), CLOCK)
    assert metrics(evaluated(again, designs(2))) == expected(designs(2))
    assert len(again.study.trials) == 2


def test_searches_of_one_network_with_other_schemes_do_not_share_trials(tmp_path, sqlite):
    first = Queue(toy_setup(0), sqlite, Store(tmp_path / "found"), CLOCK)
    second = Queue(replace(toy_setup(0), schemes=("other",)), sqlite, Store(tmp_path / "found"), CLOCK)
    assert first.study.user_attrs["setup"]["schemes"] == []
    assert second.study.user_attrs["setup"]["schemes"] == ["other"]
    assert Queue(toy_setup(0), sqlite, Store(tmp_path / "found"), CLOCK).study.study_name == first.study.study_name


def test_a_search_of_another_version_in_the_database_is_left_to_its_workers(tmp_path, sqlite):
    other = Queue(toy_setup(0), sqlite, Store(tmp_path / "other"), CLOCK)
    other.study.set_user_attr("setup", {"model": "0", "schemes": [], "colour": "blue"})
    other.study.enqueue_trial({})
    executor = Queue(toy_setup(0), sqlite, Store(tmp_path / "found"), CLOCK)
    in_threads(sqlite, 1)
    assert metrics(evaluated(executor, designs(2))) == expected(designs(2))
    assert [trial.state for trial in other.study.trials] == [TrialState.WAITING]


def test_a_worker_that_cannot_evaluate_ends_with_a_sentence_and_others_go_on(tmp_path, sqlite):
    executor = Queue(toy_setup(0), sqlite, Store(tmp_path / "found"), CLOCK)
    broken, sound = started(*COMMAND, sqlite, "fails"), []

    def then_another():
        broken.wait()
        sound.append(started(*COMMAND, sqlite))

    thread = threading.Thread(target=then_another)
    thread.start()
    with pytest.warns(UserWarning, match="a worker ended: there is no such model on this machine"):
        assert metrics(evaluated(executor, designs(1))) == expected(designs(1))
    thread.join()
    sound[0].kill()
    sound[0].communicate()
    assert broken.communicate()[1] == "there is no such model on this machine\n"


def test_a_database_that_does_not_answer_is_one_sentence_without_its_password(tmp_path):
    with pytest.raises(ValueError, match=r"^the database at postgresql://me@127.0.0.1:9/name does not answer") as error:
        Queue(toy_setup(0), "postgresql://me:secret@127.0.0.1:9/name", Store(tmp_path), CLOCK)
    assert "secret" not in str(error.value)


def test_workers_killed_and_a_driver_killed_change_nothing(tmp_path, postgresql):
    """Evaluations wait for this test, so that each kill falls where it should however slow the machine is."""
    folder = tmp_path / "found"
    folder.mkdir()
    wanted, driver = held_up(folder), (sys.executable, "-c", DRIVER, postgresql, str(folder))
    first = started(*driver)
    workers = [started(*COMMAND, postgresql) for _ in range(2)]
    storage = storage_at(postgresql, CLOCK)

    def trials(*states):
        studies = storage.get_all_studies()
        return storage.get_all_trials(studies[0]._study_id, states=states or None) if studies else []

    wait_until(lambda: len(trials(TrialState.RUNNING)) == 2, 300)  # both are at what does not end by itself
    workers[0].kill()
    (folder / "begun").touch()
    wait_until(lambda: len(Store(folder).log()) >= 3, 300)
    first.kill()  # before the last design has ended
    first.communicate()
    (folder / "over").touch()
    wait_until(lambda: len(trials(TrialState.COMPLETE)) > len(Store(folder).log()), 300)  # without a driver
    workers += [started(*COMMAND, postgresql)]
    second = started(*driver)
    output, errors = second.communicate(timeout=300)
    assert second.returncode == 0, errors
    for worker in workers:
        worker.kill()
        worker.communicate()
    assert json.loads(output) == {d.key: Toy(0).figures(d.assignment).metric for d in wanted}
    finished = Counter(trial.user_attrs["key"] for trial in trials(TrialState.COMPLETE))
    assert finished == Counter(design.key for design in wanted)
    assert trials(TrialState.FAIL)
    storage.engine.dispose()


def test_a_design_that_kills_its_workers_fails_alone(tmp_path, sqlite):
    poison = Design((("a", "poison"),))
    executor = Queue(toy_setup(0), sqlite, Store(tmp_path / "found"), Clock(1, 1, 0.05))
    is_over = threading.Event()

    def keep_working():
        while not is_over.is_set():
            started(*COMMAND, sqlite).communicate()

    thread = threading.Thread(target=keep_working, daemon=True)
    thread.start()
    found = evaluated(executor, [poison])
    is_over.set()
    assert found[poison].error == "its worker died 5 times"
