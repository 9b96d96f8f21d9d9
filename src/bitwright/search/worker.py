"""A process that does jobs: a network and its candidates are made once, then one line in, one line out."""

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

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
    """The first line of standard input is a setup, each other one a job; ends with its input.

    Answers are lines too: {"ready": true} when the evaluator is made, then answers; {"failed": sentence} ends it.
    """
    say = _own_output()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the driver's to handle
    try:
        setup = Setup.of(json.loads(sys.stdin.readline()))
        evaluator = evaluator_of(setup)
        say({"ready": True})
        for line in sys.stdin:
            say(asdict(answered(setup, evaluator, json.loads(line))))
    except BrokenPipeError:
        return  # the driver is gone
    except MENDABLE as error:
        say({"failed": str(error)})


def _own_output() -> Callable[[object], None]:
    """Writes lines where standard output was; what others print goes to standard error."""
    handle = os.dup(1)
    os.dup2(2, 1)

    def say(value: object) -> None:
        line = f"{json.dumps(value)}\n".encode()
        while line:
            line = line[os.write(handle, line) :]

    return say


if __name__ == "__main__":
    main()
