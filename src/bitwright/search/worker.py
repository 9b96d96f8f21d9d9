"""A process that evaluates assignments: a network and its candidates are made once, then one line in, one line out."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitwright.search.point import Design, Figures
from bitwright.search.store import Store

if TYPE_CHECKING:
    from bitwright.search.evaluate import Evaluator


@dataclass(frozen=True)
class Setup:
    """All that a worker needs to know, as plain values; the same on every machine."""

    model: str  # as the command line names it
    data: str | None
    limit: int | None
    schemes: tuple[str, ...]
    held_out: float
    folder: str  # of results
    threads: int = 1

    @staticmethod
    def of(values: dict[str, Any]) -> "Setup":
        return Setup(**{**values, "schemes": tuple(values["schemes"])})

    def evaluator(self) -> "Evaluator":
        """The network with its candidates. ValueError where the model or its data cannot be had here."""
        import torch

        from bitwright.comparison import Bench
        from bitwright.search.candidates import Candidates
        from bitwright.search.evaluate import Evaluator
        from bitwright.sources import load_task

        torch.set_num_threads(self.threads)
        task = load_task(self.model, self.data)
        bench = Bench.build(task, self.limit, lambda *_: None)
        return Evaluator(Candidates.of(bench, self.schemes), self.held_out)


def evaluate_all(setup: Setup, layers: Sequence[Sequence[Sequence[str]]]) -> list[Figures]:
    """Figures of assignments, [name, scheme's text] of each layer; those in the folder are read. For batch jobs."""
    evaluator, store = setup.evaluator(), Store(Path(setup.folder))
    return [_figures(evaluator, store, one) for one in layers]


def _figures(evaluator: "Evaluator", store: Store, layers: Sequence[Sequence[str]]) -> Figures:
    design = Design(tuple((name, text) for name, text in layers))
    return store.get(design.key, lambda: evaluator.figures(design.assignment))


def main() -> None:
    """The first line of standard input is a setup, each other one an assignment; ends with its input."""
    setup = Setup.of(json.loads(sys.stdin.readline()))
    evaluator, store = setup.evaluator(), Store(Path(setup.folder))
    for line in sys.stdin:
        print(json.dumps(asdict(_figures(evaluator, store, json.loads(line)))), flush=True)


if __name__ == "__main__":
    main()
