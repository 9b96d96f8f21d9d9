"""How many designs a minute one worker and two evaluate, and what a search takes beside evaluation.

    python benchmarks/search.py [TASK] [--trials 200] [--limit N]

Each search has a fresh folder, the same seed and so the same designs. "Start" is all before the first generation: data,
float model, candidates, sensitivities, allocation; "search" is what generations take beside evaluation: proposals,
prices, bookkeeping.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch

from bitwright.model.zoo import TASKS
from bitwright.search import Question, search
from bitwright.search.executors import executor_of
from bitwright.search.study import Study
from bitwright.search.worker import Setup


def main(name: str, trials: int, limit: int | None) -> None:
    torch.set_num_threads(1)
    print("workers  designs  evaluated  seconds  start  evaluation  search  designs a minute  search over evaluation")
    for workers in (1, 2):
        print(_line(name, workers, trials, limit))


def _line(name: str, workers: int, trials: int, limit: int | None) -> str:
    question = Question(trials=trials, limit=limit)
    setup = Setup(name, None, limit, question.schemes, question.held_out)
    spent: dict[str, float] = {}
    run = Study.run

    def timed(study: Study, *args: object) -> None:
        spent["start"] = time.perf_counter() - started
        evaluate = study.executor.evaluate
        spent["waited"] = 0.0

        def waiting(*words: object) -> None:
            begun = time.perf_counter()
            evaluate(*words)  # type: ignore[arg-type]
            spent["waited"] += time.perf_counter() - begun

        study.executor.evaluate = waiting  # type: ignore[method-assign]
        run(study, *args)  # type: ignore[arg-type]

    Study.run = timed  # type: ignore[method-assign]
    try:
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            found = search(TASKS[name], question, folder=Path(folder), executor=executor_of("local", setup, workers))
    finally:
        Study.run = run  # type: ignore[method-assign]
    rest = found.seconds - spent["start"] - spent["waited"]
    rate, overhead = 60 * len(found.points) / found.seconds, rest / spent["waited"]
    return (
        f"{workers:7d}  {len(found.points):7d}  {found.evaluated:9d}  {found.seconds:7.1f}  {spent['start']:5.1f}  "
        f"{spent['waited']:10.1f}  {rest:6.2f}  {rate:16.0f}  {overhead:22.3f}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", nargs="?", default="digits")
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--limit", type=int)
    given = parser.parse_args()
    main(given.task, given.trials, given.limit)
