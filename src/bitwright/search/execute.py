"""Where assignments are evaluated: here, or in processes that are started again when they die."""

import json
import os
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from queue import SimpleQueue

from bitwright.search.evaluate import Evaluator
from bitwright.search.point import Design, Figures
from bitwright.search.store import Store
from bitwright.search.worker import Setup

ATTEMPTS = 3
"""Times that an assignment is tried whose worker dies."""


class Executor(ABC):
    """Evaluates designs, in any order and place; each result is in the store before it comes back."""

    @abstractmethod
    def evaluate(self, designs: Sequence[Design], done: Callable[[Design, Figures], None]) -> None:
        """Calls `done` with each design as it is ready, from this thread or another, one at a time."""

    def close(self) -> None:  # noqa: B027  # most have nothing to close
        """Ends its workers."""


class Here(Executor):
    """One after the other in this process."""

    def __init__(self, evaluator: Evaluator, store: Store | None = None) -> None:
        self.evaluator, self.store = evaluator, store

    def evaluate(self, designs: Sequence[Design], done: Callable[[Design, Figures], None]) -> None:
        for design in designs:

            def make(design: Design = design) -> Figures:
                return self.evaluator.figures(design.assignment)

            done(design, make() if self.store is None else self.store.get(design.key, make))


class Processes(Executor):
    """Workers on this machine, one thread of torch each. One that dies is started again and its design tried again."""

    def __init__(self, setup: Setup, count: int) -> None:
        self.setup, self.count = setup, count
        self._idle: SimpleQueue[subprocess.Popen[str]] = SimpleQueue()
        self._all: set[subprocess.Popen[str]] = set()
        for _ in range(count):
            self._idle.put(self._start())

    def evaluate(self, designs: Sequence[Design], done: Callable[[Design, Figures], None]) -> None:
        lock = threading.Lock()

        def one(design: Design) -> None:
            figures = self._figures(design)
            with lock:
                done(design, figures)

        with ThreadPoolExecutor(self.count) as pool:
            for future in [pool.submit(one, design) for design in designs]:
                future.result()

    def close(self) -> None:
        for process in self._all:
            process.kill()
        for process in self._all:
            process.wait()

    @property
    def pids(self) -> list[int]:
        """Of the workers that are alive."""
        return [process.pid for process in self._all if process.poll() is None]

    def _start(self) -> subprocess.Popen[str]:
        environment = os.environ | {"OMP_NUM_THREADS": str(self.setup.threads)}
        process = subprocess.Popen(
            [sys.executable, "-m", "bitwright.search.worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        self._all.add(process)
        _send(process, asdict(self.setup))
        return process

    def _figures(self, design: Design) -> Figures:
        for _ in range(ATTEMPTS):
            process = self._idle.get()
            assert process.stdout is not None, "asked for"
            _send(process, design.layers)
            line = process.stdout.readline()
            if line.endswith("\n"):
                self._idle.put(process)
                return Figures(**json.loads(line))
            process.wait()
            self._all.discard(process)
            self._idle.put(self._start())
        return Figures(0.0, None, None, None, 0, 0.0, f"its worker died {ATTEMPTS} times")


def _send(process: subprocess.Popen[str], value: object) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps(value) + "\n")
        process.stdin.flush()
    except BrokenPipeError:
        pass  # it died: its output says so too
