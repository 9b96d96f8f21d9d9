"""What workers are asked for: how well a network with a scheme for each layer computes, and what schemes do alone."""

import time
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from bitwright.model.evaluate import Reference, evaluate
from bitwright.model.task import Batch
from bitwright.search.candidates import Candidates
from bitwright.search.point import Alone, Assignment, Damage, Figures
from bitwright.search.sensitivity import MEASURES, Measure

HELD_OUT = 0.5
"""Part of each test batch that no decision of a search sees."""


class Evaluator:
    """Evaluates assignments exactly, and layers alone.

    The searched samples are the first of each batch, the held-out ones the rest.
    """

    def __init__(self, candidates: Candidates, held_out: float = HELD_OUT) -> None:
        self.candidates = candidates
        whole = candidates.bench.against
        self.searched, self.kept = (_part(candidates, whole, held_out, is_kept=kept) for kept in (False, True))

    @property
    def float_metric(self) -> float:
        """Of the searched samples."""
        return self.searched.metric

    def figures(self, assignment: Assignment) -> Figures:
        """Of one assignment; a failure is a sentence in it."""
        started = time.perf_counter()
        task, against = self.candidates.task, self.searched
        try:
            network = self.candidates.frozen(assignment)
            found = evaluate(task, network, against)
            kept = evaluate(task, network, self.kept).metric if self.kept.batches else None
        except (ValueError, OverflowError) as error:
            return Figures(0.0, None, None, None, against.samples, time.perf_counter() - started, str(error))
        seconds = time.perf_counter() - started
        return Figures(found.metric, kept, found.agreement, found.output_sqnr_db, against.samples, seconds)

    def damage(self, what: Alone) -> Damage:
        """Of layers alone, on the calibration data."""
        started = time.perf_counter()
        found = MEASURES[what.measure](self._measure, dict(what.choices))
        values = tuple((name, text, value) for (name, text), value in found.items())
        return Damage(values, time.perf_counter() - started)

    @cached_property
    def _measure(self) -> Measure:
        return Measure(self.candidates)


def _part(candidates: Candidates, whole: Reference, held_out: float, *, is_kept: bool) -> Reference:
    """Of each batch's samples the first ones, or the rest."""
    batches, outputs, statistics = [], [], []
    metric = candidates.task.metric
    for batch, output in zip(whole.batches, whole.outputs, strict=True):
        count = len(batch.targets)
        kept = round(count * held_out)
        part = slice(count - kept, count) if is_kept else slice(0, count - kept)
        if part.start == part.stop:
            continue
        batches.append(_slice(batch, part))
        outputs.append(output[part])
        statistics.append(metric.measure(outputs[-1], batches[-1].targets))
    import numpy as np

    value = metric.reduce(np.concatenate(statistics)) if statistics else float("nan")
    return Reference(value, tuple(batches), tuple(outputs))


def _slice(batch: Batch, part: slice) -> Batch:
    def cut(x: Tensor) -> Tensor:
        return x[part]

    inputs = {n: cut(x) for n, x in batch.inputs.items()} if isinstance(batch.inputs, dict) else tuple(
        map(cut, batch.inputs)
    )  # fmt: skip
    return replace(batch, inputs=inputs, targets=torch.as_tensor(batch.targets)[part])
