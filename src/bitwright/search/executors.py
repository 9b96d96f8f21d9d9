"""One word says where designs are evaluated: "local", "slurm", "ray", or the address of a database."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from bitwright.search.execute import Executor, Here, Original, Processes
from bitwright.search.store import Store
from bitwright.search.worker import Evaluates, Setup

ExecutorOf = Callable[[Evaluates, Store | None], Executor]

PLACES = ("local", "slurm", "ray", "postgresql://USER@HOST/NAME")


@contextmanager
def executor_of(name: str, setup: Setup, workers: int) -> Iterator[ExecutorOf]:
    """What `driver.search` takes as its executor; processes that it starts at once end with the block.

    "local" is this process for one worker, else processes of this machine. Options of Slurm follow a colon, as in
    "slurm:slurm_partition=cpu,timeout_min=60"; so does the address of a Ray cluster that is not found by itself. An
    address of a database is one where any number of `bitwright worker ADDRESS` evaluate. ValueError for other words.
    """
    if workers < 1:
        raise ValueError(f"{workers} workers found; at least 1 is needed")
    kind, _, rest = name.partition(":")
    if (kind not in ("local", "slurm", "ray") and "://" not in name) or (kind == "local" and rest):
        raise ValueError(f"there are no workers by {name!r}; choose from {', '.join(PLACES)}")
    if name == "local" and workers == 1:
        yield Here
    elif name == "local":
        with Original(setup) as original:
            yield lambda _, store: Processes(_in(store, setup, name), workers, original)
    else:
        yield lambda _, store: _elsewhere(name, _checked(_in(store, setup, name)), workers, store)


def _elsewhere(name: str, setup: Setup, workers: int, store: Store | None) -> Executor:
    kind, _, rest = name.partition(":")
    assert store is not None, "there is a folder"
    if kind == "slurm":
        from bitwright.search.slurm import Slurm

        return Slurm(setup, workers, rest)
    if kind == "ray":
        from bitwright.search.ray_cluster import Ray

        return Ray(setup, workers, rest, store)
    from bitwright.search.queue import Queue

    if workers > 1:
        raise ValueError(f"{workers} workers beside a database found; start each by bitwright worker ADDRESS")
    return Queue(setup, name, store)


def _in(store: Store | None, setup: Setup, name: str) -> Setup:
    """With the folder that workers share with the driver."""
    if store is None:
        raise ValueError(f"workers by {name!r} need a folder for their results; give one")
    return replace(setup, folder=str(store.folder.absolute()))


def _checked(setup: Setup) -> Setup:
    """For workers that may have other code than this process."""
    from bitwright.comparison import source_hash

    return replace(setup, source=source_hash())
