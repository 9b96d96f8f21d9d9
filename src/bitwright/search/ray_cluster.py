"""Jobs in actors of a Ray cluster, which Ray starts again on another node when they or their node die.

No folder is shared: answers come back to the driver, which writes them.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from queue import SimpleQueue
from typing import Any

from bitwright.search.execute import ATTEMPTS, Done, Executor, in_threads
from bitwright.search.point import Answer, Job, answer_kind, answer_of, words_of
from bitwright.search.store import Store
from bitwright.search.worker import MENDABLE, EvaluatorOf, Setup, answered


class Ray(Executor):
    """`workers` actors of one core each, on the cluster at `address`, or the one that Ray finds, or a new one."""

    def __init__(
        self, setup: Setup, workers: int, address: str, store: Store, evaluator_of: EvaluatorOf = Setup.evaluator
    ) -> None:
        try:
            import ray
        except ImportError:
            raise ValueError("ray is not installed; pip install 'bitwright[ray]'") from None
        self._ray, self.store, self.workers = ray, store, workers
        if not ray.is_initialized():
            try:
                ray.init(address or None, log_to_driver=False, logging_level="ERROR")
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise ValueError(f"no Ray cluster answers at {address or 'its usual address'} ({error})") from None
        actor = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=ATTEMPTS)(_Actor)
        own = asdict(replace(setup, folder=""))
        self.actors = [actor.remote(own, evaluator_of) for _ in range(workers)]
        self._idle: SimpleQueue[Any] = SimpleQueue()
        for each in self.actors:
            self._idle.put(each)

    def evaluate(self, jobs: Sequence[Job], done: Done) -> None:
        def one(job: Job) -> Answer:
            return self.store.get(job.key, lambda: self._answer(job), answer_kind(job))

        in_threads(jobs, one, done, self.workers, self.close)

    def close(self) -> None:
        for actor in self.actors:
            self._ray.kill(actor)

    def _answer(self, job: Job) -> Answer:
        actor = self._idle.get()
        try:
            answer = self._ray.get(actor.answer.remote(words_of(job)))
        except self._ray.exceptions.RayActorError as error:
            raise ValueError(f"a Ray actor died {ATTEMPTS} times ({str(error).splitlines()[0]})") from None
        finally:
            self._idle.put(actor)
        if isinstance(answer, str):
            raise ValueError(answer)
        return answer_of(answer)


class _Actor:
    """A worker that answers in plain values, or the sentence why it cannot."""

    def __init__(self, setup: dict, evaluator_of: EvaluatorOf) -> None:
        self.setup, self.sentence = Setup.of(setup), ""
        try:
            self.evaluator = evaluator_of(self.setup)
        except MENDABLE as error:
            self.sentence = str(error)

    def answer(self, words: Any) -> dict | str:
        if self.sentence:
            return self.sentence
        try:
            return asdict(answered(self.setup, self.evaluator, words))
        except MENDABLE as error:
            return str(error)

    def process(self) -> int:
        """Its number."""
        import os

        return os.getpid()
