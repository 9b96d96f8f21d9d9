"""How the benchmarks measure: ratios to a limit of the same run, so that a busy machine harms least.

Each case is checked first and called once to warm up; a wrong one is named and not timed. Then every round calls the
limit and each case once, in shuffled order, and gives one ratio a case; medians and quartiles of those are the result.
The limit takes part twice: where its ratio to itself is outside `QUIET`, the group is marked as noisy.
On one thread the clock is the thread's own (`time.thread_time`), on more it is the wall's.
"""

import argparse
import gc
import json
import os
import platform
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

QUIET = (0.97, 1.03)
FEW_ROUNDS = 7


@dataclass(frozen=True)
class Case:
    """What is timed. `check` says what is wrong with its result, or gives None. A peer's `note` begins with "peer"."""

    name: str
    run: Callable[[], object]
    check: Callable[[], str | None] = lambda: None
    note: str = ""


@dataclass(frozen=True)
class Group:
    """Cases that one limit bounds: a copy, a float product, a float step."""

    name: str
    limit: Case
    cases: list[Case]


@dataclass(frozen=True)
class Measured:
    """Time of a case over that of its group's limit."""

    group: str
    case: str
    limit: str
    threads: int
    median: float
    low: float
    high: float
    milliseconds: float
    rounds: int
    is_noisy: bool
    note: str = ""


def measure(
    group: Group, threads: int, rounds: int = 101, seconds: float = 20.0, clock: Callable[[], float] = time.thread_time,
    few: int = FEW_ROUNDS,
) -> list[Measured]:  # fmt: skip
    """A case that used up `seconds` is left out of further rounds, once it has a few."""
    again = Case(f"{group.limit.name}, again", group.limit.run)
    right = []
    for case in [group.limit, again, *group.cases]:
        problem = case.check()
        if problem:
            print(f"{group.name}: {case.name} is WRONG: {problem}")
            continue
        case.run()
        right.append(case)
    own: dict[str, list[float]] = {case.name: [] for case in right}
    ratios: dict[str, list[float]] = {case.name: [] for case in right}
    shuffle = random.Random(0).shuffle
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            active = [c for c in right if sum(own[c.name]) < seconds or len(own[c.name]) < few]
            shuffle(active)
            if group.limit not in active:
                active.append(group.limit)
            for case in active:
                start = clock()
                case.run()
                own[case.name].append(clock() - start)
            for case in active:
                ratios[case.name].append(own[case.name][-1] / own[group.limit.name][-1])
    finally:
        gc.enable()
    quartiles = {case.name: np.percentile(ratios[case.name], [25, 50, 75]) for case in right}
    is_noisy = not QUIET[0] <= quartiles[again.name][1] <= QUIET[1]
    return [
        Measured(
            group.name, case.name, group.limit.name, threads, *(float(quartiles[case.name][i]) for i in (1, 0, 2)),
            1e3 * float(np.median(own[case.name])), len(own[case.name]), is_noisy, case.note,
        )
        for case in right
    ]  # fmt: skip


def table(measured: Iterable[Measured]) -> str:
    """As text, a group after the other."""
    lines, group = [], None
    for m in measured:
        if m.group != group:
            group = m.group
            threads = "one thread" if m.threads == 1 else f"{m.threads} threads"
            noise = ", NOISY: the limit differs from itself" if m.is_noisy else ""
            lines.append(f"{m.group}, {threads}: time over {m.limit}{noise}")
        spread = f"[{m.low:.2f}, {m.high:.2f}]"
        lines.append(f"  {m.case:44} {m.median:9.2f}  {spread:18} {m.milliseconds:10.3f} ms  {m.rounds:4}  {m.note}")
    return "\n".join(lines)


def main(
    description: str, groups: Callable[[argparse.Namespace], Iterable[Group]], *options: tuple, by_wall: bool = False,
    seconds: float = 20.0, few: int = FEW_ROUNDS,
) -> None:  # fmt: skip
    """Command line of a benchmark: measures its groups, prints them, and adds them to a file of JSON lines.

    `options` are (name, settings of `add_argument`). `by_wall`: the work is not done by this thread.
    `seconds` is what a case takes about, unless that is less than a `few` rounds.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=101)
    parser.add_argument("--seconds", type=float, default=seconds, help="at most about this long a case")
    parser.add_argument("--json", type=Path, help="lines of JSON are added to this file")
    for name, settings in options:
        parser.add_argument(name, **settings)
    arguments = parser.parse_args()
    _use_threads(arguments.threads)
    clock = time.perf_counter if by_wall or arguments.threads > 1 else time.thread_time
    for group in groups(arguments):
        before = os.getloadavg()[0]
        measured = measure(group, arguments.threads, arguments.rounds, arguments.seconds, clock, few)
        print(table(measured), flush=True)
        if arguments.json:
            with arguments.json.open("a") as file:
                for m in measured:
                    file.write(json.dumps({**asdict(m), "environment": _environment(before)}) + "\n")


def _use_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    if torch.get_num_threads() != threads:
        raise SystemExit(f"{threads} threads asked for, torch uses {torch.get_num_threads()}")


def _environment(load_before: float) -> dict[str, object]:
    import torch

    from bitwright.kernels import library

    own = library.library()
    return {
        "python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(), "native": own and library.LEVELS[own.bitwright_level()],
        "load": [round(load_before, 2), round(os.getloadavg()[0], 2)], "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
