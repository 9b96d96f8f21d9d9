"""Jobs in those of Slurm, by submitit: a job array for each generation, answers through the shared folder."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bitwright.search.execute import ATTEMPTS, Done, Executor
from bitwright.search.point import Job, answer_kind, failed, words_of
from bitwright.search.store import Store
from bitwright.search.worker import MENDABLE, EvaluatorOf, Setup, answered

POLL = 1.0
"""Seconds between looks at the folder and at the queue."""


class Slurm(Executor):
    """At most `workers` jobs at once, each with a part of the work. What a job that dies leaves is submitted again.

    `words` are options of submitit's AutoExecutor, as "slurm_partition=cpu,timeout_min=60"; "cluster=local" and
    "cluster=debug" run jobs without Slurm.
    """

    def __init__(
        self, setup: Setup, workers: int, words: str = "", evaluator_of: EvaluatorOf = Setup.evaluator
    ) -> None:
        try:
            import submitit
        except ImportError:
            raise ValueError("submitit is not installed; pip install 'bitwright[slurm]'") from None
        options = dict(_option(word) for word in words.split(",") if word.strip())
        self.setup, self.workers, self.evaluator_of = setup, workers, evaluator_of
        self.store = Store(Path(setup.folder))
        try:
            cluster = options.pop("cluster", "slurm")  # where none is named and none is there, submitit would run here
            self._executor = submitit.AutoExecutor(self.store.folder / "jobs", cluster=cluster)
            self._executor.update_parameters(**{"timeout_min": 24 * 60, "name": "bitwright", **options})
        except (RuntimeError, NameError, ValueError, TypeError) as error:
            raise ValueError(f"Slurm cannot be used ({error}); run where sbatch is, or choose other workers") from None
        self._jobs: list[Any] = []

    def evaluate(self, jobs: Sequence[Job], done: Done) -> None:
        waiting = {job.key: job for job in jobs}
        for _ in range(ATTEMPTS):
            self._submit(list(waiting.values()))
            while waiting:
                is_over = all(job.done() for job in self._jobs)
                for key, job in list(waiting.items()):
                    if (answer := self.store.find(key, answer_kind(job))) is not None:
                        del waiting[key]
                        done(job, answer)
                if is_over:
                    break
                time.sleep(POLL)
            self._raise_sentences()
            if not waiting:
                return
        for job in waiting.values():
            done(job, failed(job, f"its jobs died {ATTEMPTS} times"))

    def close(self) -> None:
        for job in self._jobs:
            if not job.done():
                job.cancel()

    @property
    def jobs(self) -> Sequence[Any]:
        """Submitit's jobs of the last generation."""
        return self._jobs

    def _submit(self, jobs: Sequence[Job]) -> None:
        words = [words_of(job) for job in jobs]
        parts = [part for i in range(self.workers) if (part := words[i :: self.workers])]
        with self._executor.batch():
            self._jobs = [
                self._executor.submit(evaluate_all, asdict(self.setup), part, self.evaluator_of) for part in parts
            ]

    def _raise_sentences(self) -> None:
        for job in self._jobs:
            if job.done() and job.exception() is None and job.result():
                raise ValueError(job.result())


def evaluate_all(setup: dict, jobs: Sequence[Any], evaluator_of: Callable[[Setup], Any]) -> str:
    """A job of Slurm's: does these, by their words, into the folder. The sentence where it cannot, else nothing."""
    own = Setup.of(setup)
    try:
        evaluator = evaluator_of(own)
        for words in jobs:
            answered(own, evaluator, words)
    except MENDABLE as error:
        return str(error)
    return ""


def _option(word: str) -> tuple[str, Any]:
    name, equals, value = word.strip().partition("=")
    if not equals:
        raise ValueError(f"an option {word!r} of Slurm found; write it as name=value, such as timeout_min=60")
    return name, int(value) if value.isdigit() else value
