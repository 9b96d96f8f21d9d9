"""Jobs in a database that workers anywhere ask for work: a study of Optuna, each of its trials a job.

The driver puts trials that wait. `bitwright worker ADDRESS` takes one, gives signs of life while it evaluates, and
tells the answer. A trial whose worker gives none is failed by the driver and put again. Answers stay in the database,
so a driver that is started again has what was finished without it. No folder is shared.
"""

import json
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

import optuna
from optuna.storages import RDBStorage, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError, SQLAlchemyError

from bitwright.search.address import without_password
from bitwright.search.execute import ATTEMPTS, Done, Executor
from bitwright.search.point import Answer, Figures, Job, answer_kind, answer_of, failed, words_of
from bitwright.search.store import Store, beating
from bitwright.search.worker import MENDABLE, Evaluates, EvaluatorOf, Setup, answered
from bitwright.store import key_of

BEAT, GRACE = 5, 30
"""Seconds between signs of life, and without them until a trial is put again. Of the database's clock."""

TRIES = 5
"""Of opening a database in which several make tables at once."""

POLL = 0.5
"""Seconds between looks at the database."""

PREFIX = "bitwright "
SETUP, KEY, WORDS, ANSWER, FAILED = "setup", "key", "job", "answer", "failed"


@dataclass(frozen=True)
class Clock:
    """Signs of life, in seconds."""

    beat: int = BEAT
    grace: int = GRACE
    poll: float = POLL


class Queue(Executor):
    """Evaluates by whatever workers there are; waits where there are none."""

    def __init__(self, setup: Setup, address: str, store: Store, clock: Clock = Clock()) -> None:
        self.store, self.clock = store, clock
        with sentences(address):
            self._storage = storage = storage_at(address, clock)
            own = asdict(replace(setup, folder=""))
            name = f"{PREFIX}{store.folder.name} {key_of(own)}"  # a trial is read by the setup of its study alone
            self.study = optuna.create_study(storage=storage, study_name=name, load_if_exists=True)
            self.study.set_user_attr(SETUP, own)
            self._earlier = len(self.study.get_trials(deepcopy=False))
        self.address, self._said = address, set[str]()

    def evaluate(self, jobs: Sequence[Job], done: Done) -> None:
        waiting = {job.key: job for job in jobs}
        with sentences(self.address):
            while True:
                for key, job in list(waiting.items()):
                    if (answer := self.store.find(key, answer_kind(job))) is not None:
                        del waiting[key]
                        done(job, answer)
                if not waiting:
                    return
                with _quiet():
                    fail_stale_trials(self.study)
                for job, answer in self._look(waiting):
                    del waiting[job.key]
                    done(job, answer)
                time.sleep(self.clock.poll)

    def close(self) -> None:
        """Workers go on to wait for other searches; trials that nobody took are failed."""
        with sentences(self.address):
            for trial in self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
                self._fail(trial)
        self._storage.remove_session()
        self._storage.engine.dispose()

    def _look(self, waiting: dict[str, Job]) -> list[tuple[Job, Answer]]:
        """Writes what is finished, and puts what nobody works at; what workers die of comes back with its error."""
        lost = []
        trials: dict[str, list[FrozenTrial]] = {}
        for trial in self.study.get_trials(deepcopy=False):
            trials.setdefault(trial.user_attrs.get(KEY, ""), []).append(trial)
        for key, job in waiting.items():
            own = trials.get(key, [])
            states = [trial.state for trial in own]
            died = [trial for trial in own if trial.state == TrialState.FAIL and trial.number >= self._earlier]
            if TrialState.COMPLETE in states:
                text = own[states.index(TrialState.COMPLETE)].user_attrs[ANSWER]
                self.store.put(key, answer_of(json.loads(text)))
                continue
            self._warn(died)
            if len(died) >= ATTEMPTS:
                lost.append((job, failed(job, f"its worker died {ATTEMPTS} times")))
            elif TrialState.WAITING not in states and TrialState.RUNNING not in states:
                attributes = {KEY: key, WORDS: words_of(job)}
                self.study.add_trial(create_trial(state=TrialState.WAITING, user_attrs=attributes))
        return lost

    def _warn(self, failed: Sequence[FrozenTrial]) -> None:
        """Says once what a worker ended with: others may go on."""
        for trial in failed:
            sentence = trial.user_attrs.get(FAILED, "")
            if sentence and sentence not in self._said:
                self._said.add(sentence)
                warnings.warn(f"a worker ended: {sentence}", stacklevel=2)

    def _fail(self, trial: FrozenTrial) -> None:
        with _ignoring_finished():
            self._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)


def work(
    address: str, *, evaluator_of: EvaluatorOf = Setup.evaluator, clock: Clock = Clock(), idle: float | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> None:  # fmt: skip
    """Does jobs of all searches at an address, for ever, or until there were none for `idle` seconds."""
    with sentences(address):
        storage = storage_at(address, clock)
        made: tuple[Setup, Evaluates] | None = None
        last = time.monotonic()
        while idle is None or time.monotonic() - last < idle:
            taken = _take(storage, made[0] if made else None)
            if taken is None:
                time.sleep(clock.poll)
                continue
            setup, trial, words = taken
            with beating(_beat(storage, trial), float(clock.beat)):
                try:
                    if made is None or made[0] != setup:
                        say(f"{setup.model}: {len(setup.schemes)} schemes")
                        made = setup, evaluator_of(setup)
                    answer = answered(setup, made[1], words)
                except MENDABLE as error:
                    with _ignoring_finished():
                        storage.set_trial_user_attr(trial, FAILED, str(error))
                        storage.set_trial_state_values(trial, TrialState.FAIL)
                    raise ValueError(str(error)) from None
            with _ignoring_finished():  # the driver held this worker for dead
                storage.set_trial_user_attr(trial, ANSWER, json.dumps(asdict(answer)))
                storage.set_trial_state_values(trial, TrialState.COMPLETE, [_worth(answer)])
                say(f"{_worth(answer):.5g} after {answer.seconds:.2f} s")
            last = time.monotonic()


def storage_at(address: str, clock: Clock = Clock()) -> RDBStorage:
    """Of a database's address, with psycopg for PostgreSQL."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    url = address.replace("postgresql://", "postgresql+psycopg://", 1)
    options: dict[str, Any] = {"pool_pre_ping": True}
    if url.startswith("postgresql+psycopg:"):
        options["connect_args"] = {"client_encoding": "utf8"}  # else bytes come from a server without an encoding
    for attempt in range(TRIES):
        try:
            with _quiet():
                return RDBStorage(url, options, heartbeat_interval=clock.beat, grace_period=clock.grace)
        except (IntegrityError, ProgrammingError, OperationalError) as error:
            if attempt == TRIES - 1 or "already exists" not in str(error):
                raise
            time.sleep(0.5 * (attempt + 1))  # others make the tables right now
    raise AssertionError


@contextmanager
def sentences(address: str) -> Iterator[None]:
    """Failures of the database as one sentence."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ValueError(f"{error.name} is not installed; pip install 'bitwright[postgresql]'") from None
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        cause = error.__cause__ or error
        first = str(cause).strip().splitlines()[0]
        raise ValueError(
            f"the database at {without_password(address)} does not answer ({without_password(first)})"
        ) from None


def _take(storage: RDBStorage, made: Setup | None) -> tuple[Setup, int, Any] | None:
    """A trial that waits, now this worker's, first of the search that it knows already."""
    studies = [study for study in storage.get_all_studies() if study.study_name.startswith(PREFIX)]
    fields = set(Setup.__dataclass_fields__)  # other versions have others
    found = [
        (study._study_id, Setup.of(study.user_attrs[SETUP])) for study in studies
        if set(study.user_attrs.get(SETUP, ())) == fields
    ]  # fmt: skip
    for study, setup in sorted(found, key=lambda pair: pair[1] != made):
        for trial in storage.get_all_trials(study, deepcopy=False, states=(TrialState.WAITING,)):
            storage.record_heartbeat(trial._trial_id)  # before it runs: one that dies between is seen to have died
            with _ignoring_finished():
                if storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING):
                    return setup, trial._trial_id, trial.user_attrs[WORDS]
    return None


def _worth(answer: Answer) -> float:
    """What a study shows of it: the metric, or the largest damage."""
    if isinstance(answer, Figures):
        return answer.metric
    return max((value for *_, value in answer.values), default=0.0)


def _beat(storage: RDBStorage, trial: int) -> Callable[[], None]:
    def beat() -> None:
        try:
            storage.record_heartbeat(trial)
        except optuna.exceptions.StorageInternalError as error:
            raise OSError(str(error)) from None

    return beat


@contextmanager
def _ignoring_finished() -> Iterator[None]:
    with suppress(optuna.exceptions.UpdateFinishedTrialError):
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
