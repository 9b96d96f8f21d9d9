"""Which samples a search sees, whatever batches they come in."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from bitwright.model.evaluate import Reference
from bitwright.model.task import Batch, Top1
from bitwright.search.candidates import Candidates
from bitwright.search.evaluate import Evaluator


def cut(candidates, sizes):
    """The same samples in batches of these sizes, and what the float network gives for them."""
    inputs = torch.cat([batch.tensors[0] for batch in candidates.bench.against.batches])
    targets = torch.cat([batch.targets for batch in candidates.bench.against.batches])
    outputs = torch.cat(candidates.bench.against.outputs)
    parts = (x[: sum(sizes)].split(sizes) for x in (inputs, targets, outputs))
    return [(Batch((x,), t), y) for x, t, y in zip(*parts, strict=True)]


def over(candidates, reference, metric=None):
    task = copy.copy(candidates.task)
    task.metric = metric or task.metric
    return Candidates(replace(candidates.bench, task=task, against=reference), candidates.schemes)


def kept_in_memory(pairs):
    return Reference(0.0, tuple(batch for batch, _ in pairs), tuple(output for _, output in pairs))


def test_samples_that_are_not_kept_in_memory_are_searched_and_held_out_as_others(candidates):
    pairs, design = cut(candidates, [20, 20, 20]), dict.fromkeys(candidates.names, "integer(4, 4)")
    first, rest = pairs[:1], pairs[1:]
    lazy = replace(kept_in_memory(first), others=lambda: iter(rest), other_samples=40)
    whole, found = (Evaluator(over(candidates, r)) for r in (kept_in_memory(pairs), lazy))
    assert found.searched.samples == whole.searched.samples == 30
    assert found.float_metric == whole.float_metric
    same = [replace(each.figures(design), seconds=0.0) for each in (found, whole)]
    assert same[0] == same[1]


@pytest.mark.parametrize("sizes", [[1] * 10, [3, 3, 4], [10]])
@pytest.mark.parametrize("held_out", [0.0, 0.5, 0.3])
def test_the_part_that_is_held_out_is_of_all_samples_and_each_is_in_one_part(candidates, sizes, held_out):
    made = Evaluator(over(candidates, kept_in_memory(cut(candidates, sizes))), held_out)
    assert (made.searched.samples, made.kept.samples) == (10 - round(10 * held_out), round(10 * held_out))
    rows = [batch.tensors[0] for part in (made.searched, made.kept) for batch in part.batches]
    whole = torch.cat([batch.tensors[0] for batch, _ in cut(candidates, [10])])
    assert sorted(torch.cat(rows).flatten(1).tolist()) == sorted(whole.flatten(1).tolist())


@pytest.mark.parametrize(("samples", "held_out"), [(1, 0.5), (1, 0.9)])
def test_too_few_samples_to_search_or_to_hold_out_are_said(candidates, samples, held_out):
    with pytest.raises(ValueError, match=f"are too few for {Top1.name}; take more samples"):
        Evaluator(over(candidates, kept_in_memory(cut(candidates, [samples]))), held_out)


def test_a_figure_that_is_no_number_is_a_design_that_failed(candidates):
    class Undefined(Top1):
        name = "ratio"

        def reduce(self, statistics):
            return math.nan if np.mean(statistics) < self.least else 1.0

    metric = Undefined()
    metric.least = 0.0
    made = Evaluator(over(candidates, kept_in_memory(cut(candidates, [40])), metric))
    metric.least = 2.0
    figures = made.figures(dict.fromkeys(candidates.names, "integer(8, 8)"))
    assert figures.error == "the ratio is nan: too little of the network is left"
