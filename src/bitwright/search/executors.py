"""One word says where designs are evaluated: "local", "slurm", "ray", or the address of a database."""

from collections.abc import Callable
from dataclasses import replace

from bitwright.search.execute import Executor, Here, Processes
from bitwright.search.store import Store
from bitwright.search.worker import Evaluates, Setup

ExecutorOf = Callable[[Evaluates, Store | None], Executor]

PLACES = ("local", "slurm", "ray", "postgresql://USER@HOST/NAME")


def executor_of(name: str, setup: Setup, workers: int) -> ExecutorOf:
    """What `driver.search` takes as its executor.

    "local" is this process for one worker, else processes of this machine. Options of Slurm follow a colon, as in
    "slurm:slurm_partition=cpu,timeout_min=60"; so does the address of a Ray cluster that is not found by itself. An
    address of a database is one where any number of `bitwright worker ADDRESS` evaluate. ValueError for other words.
    """
    if workers < 1:
        raise ValueError(f"{workers} workers found; at least 1 is needed")
    kind, _, rest = name.partition(":")
    if name == "local" and workers == 1:
        return Here

    def make(evaluator: Evaluates, store: Store | None) -> Executor:
        if store is None:
            raise ValueError(f"workers by {name!r} need a folder for their results; give one")
        own = _checked(replace(setup, folder=str(store.folder.absolute())))
        if name == "local":
            return Processes(own, workers)
        if kind == "slurm":
            from bitwright.search.slurm import Slurm

            return Slurm(own, workers, rest)
        if kind == "ray":
            from bitwright.search.ray_cluster import Ray

            return Ray(own, workers, rest, store)
        from bitwright.search.queue import Queue

        if workers > 1:
            raise ValueError(f"{workers} workers beside a database found; start each by bitwright worker ADDRESS")
        return Queue(own, name, store)

    if (kind not in ("local", "slurm", "ray") and "://" not in name) or (kind == "local" and rest):
        raise ValueError(f"there are no workers by {name!r}; choose from {', '.join(PLACES)}")
    return make


def _checked(setup: Setup) -> Setup:
    """For workers that may have other code than this process."""
    from bitwright.comparison import source_hash

    return replace(setup, source=source_hash())
