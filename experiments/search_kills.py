"""A search whose driver and workers are killed at random, beside the same search undisturbed: the fronts are equal.

    python experiments/search_kills.py --kills 20 --page experiments/results/search_kills.md

Kills are SIGKILL, of the driver or of a worker in mid-evaluation, drawn with a seed; a killed driver is started again.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from bitwright.search.store import Store

SCHEMES = ("integer(8, 8)", "integer(4, 8)", "integer(4, 4)", "ant(4, 4)")

DRIVER = f"""
import sys
from pathlib import Path
from bitwright.model.zoo import TASKS
from bitwright.search.driver import Question, search
from bitwright.search.executors import executor_of
from bitwright.search.worker import Setup
question = Question(schemes={SCHEMES}, trials=int(sys.argv[2]), limit=int(sys.argv[3]), population=10, held_out=0.5)
setup = Setup("digits", None, question.limit, question.schemes, question.held_out)
with executor_of("local", setup, 2) as executor:
    search(TASKS["digits"], question, folder=Path(sys.argv[1]), executor=executor)
"""


@dataclass
class Outcome:
    """What happened to a disturbed search."""

    drivers: int  # killed
    workers: int  # killed
    evaluations: Counter[str]  # finished, by design or layer


def started(folder: Path, trials: int, limit: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", DRIVER, str(folder), str(trials), str(limit)]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


def undisturbed(folder: Path, trials: int, limit: int) -> None:
    if started(folder, trials, limit).wait():
        raise SystemExit("the undisturbed search failed")


def finished(folder: Path) -> Counter[str]:
    """How often each design was evaluated, or layer measured, to its end."""
    return Counter(key for log in folder.glob("*/log") for key in Store(log.parent).log())


def disturbed(
    folder: Path, trials: int, limit: int, kills: int, generator: random.Random, answers: int
) -> Outcome:  # fmt: skip
    """Runs to its end; kills fall where workers are at work, spread over the `answers` that the search needs.

    Half of them are of the driver, in an order that is drawn.
    """
    outcome, driver = Outcome(0, 0, Counter()), started(folder, trials, limit)
    are_drivers = [i % 2 == 0 for i in range(kills)]
    generator.shuffle(are_drivers)
    while not (folder / "search.json").exists():
        time.sleep(0.01)
        if (status := driver.poll()) is not None and not (folder / "search.json").exists():
            raise SystemExit(f"the search failed by itself ({status})")
        done = outcome.drivers + outcome.workers
        if done >= kills or finished(folder).total() < answers * done / kills:
            continue
        workers = [pid for lease in folder.glob("*/leases/*.[0-9]*") if (pid := _worker(lease))]
        if not workers:
            continue
        time.sleep(generator.uniform(0, 0.1))  # of an evaluation
        if are_drivers[done]:
            driver.kill()
            driver.wait()
            outcome.drivers += 1
            driver = started(folder, trials, limit)
        else:
            try:
                os.kill(generator.choice(workers), signal.SIGKILL)
                outcome.workers += 1
            except ProcessLookupError:
                continue
    driver.wait()
    outcome.evaluations = finished(folder)
    return outcome


def front_of(folder: Path) -> list[object]:
    import json

    found = json.loads((folder / "search.json").read_text())
    points = [found["points"][index] for index in found["front"]]
    for point in points:
        point["figures"].pop("seconds")
    return points


def _worker(lease: Path) -> int | None:
    """The process that holds a lease, where it lives."""
    try:
        _, pid = lease.read_text().split()
        os.kill(int(pid), 0)
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return None
    return int(pid)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--limit", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--page", type=Path)
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        calm, hit = Path(name, "calm"), Path(name, "hit")
        undisturbed(calm, words.trials, words.limit)
        outcome = disturbed(
            hit, words.trials, words.limit, words.kills, random.Random(words.seed), finished(calm).total()
        )
        fronts = front_of(calm), front_of(hit)
    twice = sum(count > 1 for count in outcome.evaluations.values())
    lines = [
        "# A search that is killed",
        "",
        f"`python experiments/search_kills.py --kills {words.kills} --trials {words.trials} --limit {words.limit}`: "
        "the `digits` network, two workers.",
        "",
        "| | |",
        "|---|---|",
        f"| drivers killed | {outcome.drivers} |",
        f"| workers killed at work | {outcome.workers} |",
        f"| designs evaluated, and layers measured | {len(outcome.evaluations)} |",
        f"| of them more than once to the end | {twice} |",
        f"| designs on the front | {len(fronts[0])} |",
        f"| front equal to that of the undisturbed search | {'yes' if fronts[0] == fronts[1] else 'no'} |",
    ]
    print("\n".join(lines))
    if words.page:
        words.page.write_text("\n".join(lines) + "\n")
    if fronts[0] != fronts[1] or twice:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
