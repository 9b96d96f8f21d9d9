"""Processes that do jobs: a network and its candidates are made once, by one of which the others are copies.

So a second worker costs no time and little memory, and one that dies has a successor at once.
"""

import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol, runtime_checkable

from bitwright.search.point import Alone, Answer, Assignment, Damage, Design, Figures, Job, answer_kind, job_of
from bitwright.search.store import Store


@runtime_checkable
class Evaluates(Protocol):
    """What a worker has of an `Evaluator`."""

    def figures(self, assignment: Assignment, /) -> Figures: ...

    def damage(self, what: Alone, /) -> Damage: ...


@dataclass(frozen=True)
class Setup:
    """All that a worker needs to know, as plain values; the same on every machine."""

    model: str  # as the command line names it
    data: str | None
    limit: int | None
    schemes: tuple[str, ...]
    held_out: float
    folder: str = ""  # of results, which workers share with the driver; none where it is empty
    threads: int = 1
    source: str = ""  # of the driver's code; any where it is empty

    @staticmethod
    def of(values: dict[str, Any]) -> "Setup":
        return Setup(**{**values, "schemes": tuple(values["schemes"])})

    def evaluator(self) -> Evaluates:
        """The network with its candidates. ValueError where the model or its data cannot be had here."""
        import torch

        from bitwright.comparison import Bench, source_hash
        from bitwright.search.candidates import Candidates
        from bitwright.search.evaluate import Evaluator
        from bitwright.sources import load_task

        if self.source not in ("", source_hash()):
            raise ValueError(
                f"the bitwright of worker process {os.getpid()} on {os.uname().nodename} is not the driver's; "
                "install the same version on all machines"
            )
        torch.set_num_threads(self.threads)
        bench = Bench.build(load_task(self.model, self.data), self.limit, lambda *_: None)
        return Evaluator(Candidates.of(bench, self.schemes), self.held_out)


EvaluatorOf = Callable[[Setup], Evaluates]
MENDABLE = (ValueError, OSError, ImportError)
"""What a user can mend: it ends a search with one sentence."""


def done_by(evaluator: Evaluates, store: Store | None, job: Job) -> Answer:
    """The answer: from the store, and into it, where there is one."""

    def make() -> Answer:
        return evaluator.figures(job.assignment) if isinstance(job, Design) else evaluator.damage(job)

    return make() if store is None else store.get(job.key, make, answer_kind(job))


def answered(setup: Setup, evaluator: Evaluates, words: Any) -> Answer:
    """The same of a job's words, with the folder of the setup."""
    return done_by(evaluator, Store(Path(setup.folder)) if setup.folder else None, job_of(words))


def main(evaluator_of: EvaluatorOf = Setup.evaluator) -> None:
    """Makes the evaluator of the last argument, a setup, and then a copy of itself for each socket that it is given.

    Sockets come over the one that is standard input, and a copy serves it: the first line is a setup with a folder,
    each other one a job. What it says are lines too: {"ready": process}, then answers; {"failed": sentence} ends it.
    """
    os.dup2(2, 1)  # what libraries print
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the driver's to handle
    control, failure, evaluator = socket.socket(fileno=0), "", None
    try:
        evaluator = evaluator_of(Setup.of(json.loads(sys.argv[-1])))
    except MENDABLE as error:
        failure = str(error)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who asked for a copy sees its end
    while handles := socket.recv_fds(control, 1, 1)[1]:
        with socket.socket(fileno=handles[0]) as line:
            if evaluator is None:
                with suppress(ConnectionError):
                    _sayer(line)({"failed": failure})
            elif os.fork() == 0:
                control.close()
                _serve(line, evaluator)


def _serve(line: socket.socket, evaluator: Evaluates) -> NoReturn:
    """To the end of its input; what the original would do at its own exit is not for its copies."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        _answer(line, evaluator)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _answer(line: socket.socket, evaluator: Evaluates) -> None:
    say = _sayer(line)
    try:
        with line.makefile() as words:
            if not (first := words.readline()):
                return
            setup = Setup.of(json.loads(first))
            say({"ready": os.getpid()})
            for job in words:
                say(asdict(answered(setup, evaluator, json.loads(job))))
    except ConnectionError:
        return  # the driver is gone
    except MENDABLE as error:
        say({"failed": str(error)})


def _sayer(line: socket.socket) -> Callable[[object], None]:
    return lambda value: line.sendall(f"{json.dumps(value)}\n".encode())


if __name__ == "__main__":
    main()
