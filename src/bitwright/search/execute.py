"""Where jobs are done: here, or in processes that have a successor when they die."""

import json
import os
import signal
import socket
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
    """Workers on this machine, one thread of torch each. One that dies has a successor, and its job is tried again."""

    def __init__(self, setup: Setup, count: int, original: "Original") -> None:
        self.setup, self.count, self._original = setup, count, original
        self._idle: SimpleQueue[_Copy] = SimpleQueue()
        self._all: set[_Copy] = set()
        self._is_closed = False
        for _ in range(count):
            self._start()

    def evaluate(self, jobs: Sequence[Job], done: Done) -> None:
        in_threads(jobs, self._answer, done, self.count, self.close)

    def close(self) -> None:
        self._is_closed = True
        for copy in list(self._all):
            copy.end()

    @property
    def pids(self) -> list[int]:
        """Of the workers that have started and are alive."""
        return [copy.pid for copy in list(self._all) if copy.pid is not None and not copy.is_over]

    def _start(self) -> None:
        copy = _Copy(self._original.line(), self.setup)
        self._all.add(copy)
        self._idle.put(copy)

    def _answer(self, job: Job) -> Answer:
        has_started = False
        for _ in range(ATTEMPTS):
            copy = self._idle.get()
            try:
                answer = copy.ask(job)
            except ValueError:
                self._idle.put(copy)  # so that who waits for one goes on, and sees that it ended
                raise
            if answer is not None:
                self._idle.put(copy)
                return answer
            has_started |= copy.pid is not None
            self._all.discard(copy)
            self._start()
            if self._is_closed:
                self.close()
                raise ValueError("the search was stopped")
        if not has_started:
            raise ValueError(f"workers die before they evaluate anything, {ATTEMPTS} in turn; see why with one worker")
        return failed(job, f"its worker died {ATTEMPTS} times")


class Original:
    """The process that makes the network and its candidates, and then copies of itself; one that dies is made again.

    It starts at once, and ends with the block.
    """

    def __init__(self, setup: Setup, command: Sequence[str] = WORKER) -> None:
        self._command = [*command, json.dumps(asdict(setup))]
        self._environment = os.environ | {"OMP_NUM_THREADS": str(setup.threads)}
        self._lock = threading.Lock()
        self._begin()

    def __enter__(self) -> "Original":
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    @property
    def pid(self) -> int:
        return self._process.pid

    def line(self) -> socket.socket:
        """To a copy that is made when the original is ready."""
        own, other = socket.socketpair()
        with other, self._lock:
            try:
                socket.send_fds(self._control, [b"."], [other.fileno()])
            except ConnectionError:  # it died
                self._end()
                self._begin()
                socket.send_fds(self._control, [b"."], [other.fileno()])
        return own

    def _begin(self) -> None:
        self._control, other = socket.socketpair()
        with other:
            self._process = subprocess.Popen(self._command, stdin=other.fileno(), env=self._environment)

    def _end(self) -> None:
        self._control.close()
        self._process.kill()
        self._process.wait()


class _Copy:
    """A worker and the socket to it."""

    def __init__(self, line: socket.socket, setup: Setup) -> None:
        self.pid: int | None = None  # from when it is ready
        self.is_over = False
        self._line, self._words = line, line.makefile()
        self._send(asdict(setup))

    def ask(self, job: Job) -> Answer | None:
        """Its answer; None where it died. ValueError with the sentence that it ends with."""
        self._send(words_of(job))
        while (answer := self._receive()) is not None:
            if "failed" in answer:
                self.end()
                raise ValueError(answer["failed"])
            if "ready" not in answer:
                return answer_of(answer)
            self.pid = answer["ready"]
        self.end()
        return None

    def end(self) -> None:
        """At once; a thread that waits for its answer sees that it died."""
        self.is_over = True
        with suppress(OSError):
            self._line.shutdown(socket.SHUT_RDWR)
        if self.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        self._words.close()
        self._line.close()

    def _receive(self) -> dict | None:
        try:
            line = self._words.readline()
        except (ConnectionError, ValueError):  # it died, or was ended
            return None
        return json.loads(line) if line.endswith("\n") else None

    def _send(self, value: object) -> None:
        with suppress(OSError):  # it died, or was ended: its output says so too
            self._line.sendall(f"{json.dumps(value)}\n".encode())


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
