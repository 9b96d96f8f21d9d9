"""What workers are asked for: how well a network with a scheme for each layer computes, and what schemes do alone."""

import math
import time
from collections.abc import Iterator
from functools import cached_property

import numpy as np
from torch import Tensor

from bitwright.model.evaluate import Reference, evaluate, require_finite
from bitwright.model.task import Batch, Metric
from bitwright.search.candidates import Candidates
from bitwright.search.point import Alone, Assignment, Damage, Figures
from bitwright.search.question import HELD_OUT
from bitwright.search.sensitivity import MEASURES, Measure

Pairs = Iterator[tuple[Batch, Tensor]]
"""Batches with the float network's outputs."""


class Evaluator:
    """Evaluates assignments exactly, and layers alone.

    The searched samples are the first of each batch, the held-out ones the rest. ValueError where they are too few
    for the metric.
    """

    def __init__(self, candidates: Candidates, held_out: float = HELD_OUT) -> None:
        self.candidates = candidates
        whole, metric = candidates.bench.against, candidates.task.metric
        self.searched, self.kept = (_part(whole, metric, held_out, is_kept=kept) for kept in (False, True))
        for part in (self.searched, self.kept) if held_out else (self.searched,):
            if not math.isfinite(part.metric):
                raise ValueError(
                    f"{self.searched.samples} samples to search on and {self.kept.samples} held out are too few for "
                    f"{metric.name}; take more samples, or hold out another part of them"
                )

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
            kept = evaluate(task, network, self.kept).metric if self.kept.samples else None
            for value in (found.metric, kept):
                require_finite(task.metric, value)
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


def _part(whole: Reference, metric: Metric, held_out: float, *, is_kept: bool) -> Reference:
    """Of each batch's samples the first ones, or the rest; those that `whole` does not keep are made again here too."""
    kept = list(_cut(zip(whole.batches, whole.outputs, strict=True), held_out, is_kept=is_kept))
    before = sum(len(batch.targets) for batch in whole.batches)

    def others() -> Pairs:
        return _cut(whole.others(), held_out, before, is_kept=is_kept)

    statistics, other_samples = [metric.measure(output, batch.targets) for batch, output in kept], 0
    for batch, output in others():
        statistics.append(metric.measure(output, batch.targets))
        other_samples += len(batch.targets)
    value = metric.reduce(np.concatenate(statistics)) if statistics else math.nan
    return Reference(value, tuple(b for b, _ in kept), tuple(y for _, y in kept), others, other_samples)


def _cut(pairs: Pairs, held_out: float, before: int = 0, *, is_kept: bool) -> Pairs:
    """A part of each batch, so that the part of all samples is right also where batches are of one."""
    for batch, output in pairs:
        after = before + len(batch.targets)
        first = len(batch.targets) - (round(after * held_out) - round(before * held_out))
        part = slice(first, None) if is_kept else slice(first)
        cut, before = batch.part(part), after
        if len(cut.targets):
            yield cut, output[part]
