"""What a search takes with one worker and with two, and how much of it is not evaluation.

    python benchmarks/search.py [TASK] [--trials 200 400] [--limit N] [--database postgresql://USER@HOST/NAME]

Each search has a fresh folder, the same seed and so the same designs. Seconds are of processors, so that others on the
machine matter little: the driver's, and of each time that it waits those of the busiest worker. "Start" is all before
the first generation, imports counted: data, float model, candidates, sensitivities, allocation and seeds; of it
"waited" is for workers. "Search" is what generations take beside evaluation: proposals, prices, bookkeeping, tables;
"over evaluation" is over that of all workers together.
With a database two processes of `bitwright worker` evaluate besides. "Clock" is what the search took on this machine.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from bitwright.model.zoo import TASKS
from bitwright.search import Question, search
from bitwright.search.execute import Executor
from bitwright.search.executors import executor_of
from bitwright.search.store import Store
from bitwright.search.study import Study
from bitwright.search.worker import Evaluates, Setup

Pids = Callable[[], Sequence[int]]


@dataclass
class Spent:
    """Seconds of processors."""

    imports: float
    driver: float = 0.0  # less what it evaluates itself
    waited: float = 0.0
    start: float = 0.0
    start_waited: float = 0.0
    evaluated: float = 0.0  # by all workers together

    @property
    def all(self) -> float:
        return self.imports + self.driver + self.waited


def main(name: str, trials: Sequence[int], limit: int | None, database: str | None) -> None:
    torch.set_num_threads(1)
    imports = time.process_time()
    heads = ("where", "trials", "networks", "seconds", "clock", "start", "waited", "evaluation", "search",
             "search over evaluation", "beside one worker")  # fmt: skip
    print("  ".join(heads))
    for count in trials:
        alone = None
        for where, workers in (("local", 1), ("local", 2), *([(database, 2)] if database else [])):
            with _workers(where) as pids:
                cells, seconds = _line(name, where, workers, count, limit, Spent(imports), pids)
            alone = alone or seconds
            cells = [f"{where.partition(':')[0]} {workers}", str(count), *cells, f"{alone / seconds:.2f}"]
            print("  ".join(cell.rjust(len(head)) for cell, head in zip(cells, heads, strict=True)), flush=True)


@contextmanager
def _workers(where: str) -> Iterator[Pids]:
    """Processes of `bitwright worker` where there is a database; who evaluates."""
    command = [sys.executable, "-m", "bitwright.cli", "worker", where]
    environment, nothing = os.environ | {"OMP_NUM_THREADS": "1"}, subprocess.DEVNULL
    running = [
        subprocess.Popen(command, stdout=nothing, stderr=nothing, env=environment)
        for _ in range(2 if "://" in where else 0)
    ]
    try:
        yield lambda: [process.pid for process in running]
    finally:
        for process in running:
            process.terminate()
            process.wait()


def _line(
    name: str, where: str, workers: int, trials: int, limit: int | None, spent: Spent, pids: Pids
) -> tuple[list[str], float]:
    question, is_here = Question(trials=trials, limit=limit), workers == 1
    setup = Setup(name, None, limit, question.schemes, question.held_out)
    run, begun = Study.run, time.process_time()

    def timed(study: Study, *args: object) -> None:
        spent.start_waited, before = spent.waited, spent.waited
        spent.start = spent.imports + time.process_time() - begun + (0.0 if is_here else before)
        run(study, *args)  # type: ignore[arg-type]

    def watched(evaluator: Evaluates, store: Store | None) -> Executor:
        executor = make(evaluator, store)
        evaluate = executor.evaluate
        of = (lambda: executor.pids) if where == "local" and not is_here else pids  # type: ignore[attr-defined]

        def evaluated(*words: object) -> None:
            own, before = time.process_time(), {pid: _seconds(pid) for pid in of()}
            evaluate(*words)  # type: ignore[arg-type]
            if is_here:
                spent.waited += time.process_time() - own
                spent.evaluated = spent.waited
                return
            if not spent.waited:  # the first time workers start, meanwhile the driver does
                spent.waited = max(0.0, max(map(_seconds, _children())) - spent.imports - (own - begun))
            taken = [_seconds(pid) - before.get(pid, 0.0) for pid in of()]
            spent.waited += max(taken)
            spent.evaluated += sum(taken)

        executor.evaluate = evaluated  # type: ignore[method-assign]
        return executor

    Study.run = timed  # type: ignore[method-assign]
    clock = time.perf_counter()
    try:
        own = executor_of(where, setup, workers if where == "local" else 1)
        with tempfile.TemporaryDirectory() as folder, own as make:
            found = search(TASKS[name], question, folder=Path(folder), executor=watched)
    finally:
        Study.run = run  # type: ignore[method-assign]
    clock = time.perf_counter() - clock
    spent.driver = time.process_time() - begun - (spent.waited if is_here else 0.0)
    rest, evaluation = spent.all - spent.start - (spent.waited - spent.start_waited), spent.waited - spent.start_waited
    figures = (spent.all, clock, spent.start, spent.start_waited, evaluation, rest)
    cells = [str(found.evaluated), *(f"{value:.1f}" for value in figures[:-1]), f"{rest:.2f}"]
    return [*cells, f"{rest / spent.evaluated:.3f}"], spent.all


def _children() -> list[int]:
    """Processes that this one has started."""
    return [int(word) for path in Path("/proc/self/task").glob("*/children") for word in path.read_text().split()]


def _seconds(pid: int) -> float:
    """Of processors that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", nargs="?", default="digits")
    parser.add_argument("--trials", type=int, nargs="+", default=[200])
    parser.add_argument("--limit", type=int)
    parser.add_argument("--database", help="one more search by two workers that ask this database")
    given = parser.parse_args()
    main(given.task, given.trials, given.limit, given.database)
