"""How many designs a minute one worker and two evaluate, and what a search takes beside evaluation.

    python benchmarks/search.py [TASK] [--trials 200] [--limit N] [--database postgresql://USER@HOST/NAME]

Each search has a fresh folder, the same seed and so the same designs. "Start" is all before the first generation: data,
float model, candidates, sensitivities, allocation, and what seeds take; of it "waited" is for workers. "Search" is what
generations take beside evaluation: proposals, prices, bookkeeping. With a database two processes of `bitwright worker`
evaluate besides. One worker is timed by its processor, so that a loaded machine matters less; others by the clock.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from bitwright.model.zoo import TASKS
from bitwright.search import Question, search
from bitwright.search.execute import Executor
from bitwright.search.executors import executor_of
from bitwright.search.store import Store
from bitwright.search.study import Study
from bitwright.search.worker import Evaluates, Setup


def main(name: str, trials: int, limit: int | None, database: str | None) -> None:
    torch.set_num_threads(1)
    print(
        "where       designs  evaluated  seconds  start  waited  evaluation  search  designs a minute  "
        "search over evaluation"
    )
    for workers in (1, 2):
        print(_line(name, "local", workers, trials, limit))
    if database:
        with _workers(database, 2):
            print(_line(name, database, 2, trials, limit))


@contextmanager
def _workers(database: str, count: int) -> Iterator[None]:
    """Processes of `bitwright worker`."""
    command = [sys.executable, "-m", "bitwright.cli", "worker", database]
    environment, nothing = os.environ | {"OMP_NUM_THREADS": "1"}, subprocess.DEVNULL
    running = [subprocess.Popen(command, stdout=nothing, stderr=nothing, env=environment) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.terminate()
            process.wait()


def _line(name: str, where: str, workers: int, trials: int, limit: int | None) -> str:
    question = Question(trials=trials, limit=limit)
    setup = Setup(name, None, limit, question.schemes, question.held_out)
    spent = {"waited": 0.0}
    clock = time.process_time if workers == 1 else time.perf_counter
    run = Study.run

    def timed(study: Study, *args: object) -> None:
        spent["start"], spent["before"], spent["waited"] = clock() - started, spent["waited"], 0.0
        run(study, *args)  # type: ignore[arg-type]

    def waiting(evaluator: Evaluates, store: Store | None) -> Executor:
        executor = make(evaluator, store)
        evaluate = executor.evaluate

        def evaluated(*words: object) -> None:
            begun = clock()
            evaluate(*words)  # type: ignore[arg-type]
            spent["waited"] += clock() - begun

        executor.evaluate = evaluated  # type: ignore[method-assign]
        return executor

    Study.run = timed  # type: ignore[method-assign]
    try:
        started = clock()
        with tempfile.TemporaryDirectory() as folder, executor_of(where, setup, workers) as make:
            found = search(TASKS[name], question, folder=Path(folder), executor=waiting)
            seconds = clock() - started
    finally:
        Study.run = run  # type: ignore[method-assign]
    rest = seconds - spent["start"] - spent["waited"]
    rate, overhead = 60 * len(found.points) / seconds, rest / (spent["before"] + spent["waited"])
    parts = [spent["start"], spent["before"], spent["waited"], rest]
    return (
        f"{workers} {where.partition(':')[0]:10s}{len(found.points):7d}  {found.evaluated:9d}  {seconds:7.1f}  "
        f"{parts[0]:5.1f}  {parts[1]:6.1f}  {parts[2]:10.1f}  {parts[3]:6.2f}  {rate:16.0f}  {overhead:22.3f}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", nargs="?", default="digits")
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--database", help="one more search by two workers that ask this database")
    given = parser.parse_args()
    main(given.task, given.trials, given.limit, given.database)
