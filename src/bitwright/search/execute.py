"""Where jobs are done: here, or in processes that are started again when they die."""

import json
import os
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict
from queue import SimpleQueue
from typing import Any

from bitwright.search.point import Answer, Job, answer_of, failed, words_of
from bitwright.search.store import Store
from bitwright.search.worker import Evaluates, Setup, done_by

ATTEMPTS = 5
"""Times that a job is tried whose worker dies."""

WORKER = (sys.executable, "-m", "bitwright.search.worker")

Done = Callable[[Any, Any], None]
"""Called with a job and its answer."""


class Executor(ABC):
    """Does jobs, in any order and place; each answer is in the store before it comes back."""

    @abstractmethod
    def evaluate(self, jobs: Sequence[Job], done: Done) -> None:
        """Calls `done` with each job as it is ready, from this thread or another, one at a time.

        ValueError with a sentence where no worker can evaluate anything.
        """

    def close(self) -> None:  # noqa: B027  # most have nothing to close
        """Ends its workers."""


class Here(Executor):
    """One after the other in this process."""

    def __init__(self, evaluator: Evaluates, store: Store | None = None) -> None:
        self.evaluator, self.store = evaluator, store

    def evaluate(self, jobs: Sequence[Job], done: Done) -> None:
        for job in jobs:
            done(job, done_by(self.evaluator, self.store, job))


class Processes(Executor):
    """Workers on this machine, one thread of torch each. One that dies is started again and its job tried again."""

    def __init__(self, setup: Setup, count: int, command: Sequence[str] = WORKER) -> None:
        self.setup, self.count, self.command = setup, count, command
        self._idle: SimpleQueue[_Process] = SimpleQueue()
        self._all: set[_Process] = set()
        self._is_closed = False
        for _ in range(count):
            self._start()

    def evaluate(self, jobs: Sequence[Job], done: Done) -> None:
        in_threads(jobs, self._answer, done, self.count, self.close)

    def close(self) -> None:
        self._is_closed = True
        for process in list(self._all):
            process.end()

    @property
    def pids(self) -> list[int]:
        """Of the workers that are alive."""
        return [process.pid for process in list(self._all) if process.is_alive]

    def _start(self) -> None:
        process = _Process(self.setup, self.command)
        self._all.add(process)
        self._idle.put(process)

    def _answer(self, job: Job) -> Answer:
        has_started = False
        for _ in range(ATTEMPTS):
            process = self._idle.get()
            try:
                answer = process.ask(job)
            except ValueError:
                self._idle.put(process)  # so that who waits for one goes on, and sees that it ended
                raise
            if answer is not None:
                self._idle.put(process)
                return answer
            has_started |= process.is_ready
            self._all.discard(process)
            self._start()
            if self._is_closed:
                self.close()
                raise ValueError("the search was stopped")
        if not has_started:
            raise ValueError(f"workers die before they evaluate anything, {ATTEMPTS} in turn; see why with one worker")
        return failed(job, f"its worker died {ATTEMPTS} times")


class _Process:
    """A worker and the pipes to it."""

    def __init__(self, setup: Setup, command: Sequence[str]) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": str(setup.threads)}
        self.is_ready = False
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.pid = self._process.pid
        self._send(asdict(setup))

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, job: Job) -> Answer | None:
        """Its answer; None where it died. ValueError with the sentence that it ends with."""
        self._send(words_of(job))
        while (answer := self._receive()) is not None:
            if "failed" in answer:
                self.end()
                raise ValueError(answer["failed"])
            if "ready" not in answer:
                return answer_of(answer)
            self.is_ready = True
        self.end()
        return None

    def end(self) -> None:
        """At once; a thread that waits for its answer sees that it died."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                pipe.close()  # type: ignore[union-attr]

    def _receive(self) -> dict | None:
        assert self._process.stdout is not None, "asked for"
        line = "" if self._process.stdout.closed else self._process.stdout.readline()
        return json.loads(line) if line.endswith("\n") else None

    def _send(self, value: object) -> None:
        assert self._process.stdin is not None, "asked for"
        try:
            self._process.stdin.write(json.dumps(value) + "\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):
            pass  # it died, or was ended: its output says so too


def in_threads(
    jobs: Sequence[Job], one: Callable[[Job], Answer], done: Done, count: int, stop: Callable[[], None]
) -> None:
    """Calls `one` for several jobs at once; the first failure, or an interrupt, stops all."""
    lock = threading.Lock()

    def work(job: Job) -> None:
        answer = one(job)
        with lock:
            done(job, answer)

    with ThreadPoolExecutor(count) as pool:
        try:
            for future in as_completed([pool.submit(work, job) for job in jobs]):
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            stop()
            raise
