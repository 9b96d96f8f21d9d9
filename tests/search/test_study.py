"""Generations over designs of which some cannot be computed, or fail."""

from types import SimpleNamespace

import pytest

from bitwright.result_search import Costs, Figures
from bitwright.search.budget import Budget
from bitwright.search.execute import Here
from bitwright.search.point import Damage, Machine
from bitwright.search.prices import Prices
from bitwright.search.study import SAMPLERS, Study, Terms, front

TEXTS = ("wide", "narrow", "refused", "failing")


class Evaluator:
    def figures(self, assignment):
        if "failing" in assignment.values():
            return Figures(0.0, None, None, None, 4, 0.0, "it fails")
        return Figures(90.0 + list(assignment.values()).count("wide"), None, None, None, 4, 0.0)

    def damage(self, what):
        return Damage((), 0.0)


class ToyPrices(Prices):
    def __init__(self):
        self.candidates = SimpleNamespace(choices=dict.fromkeys("abc", TEXTS))

    def of(self, design):
        texts = list(design.assignment.values())
        if "refused" in texts:
            raise ValueError("no element computes it")
        return Costs(1.0, 1.0, 1.0 + texts.count("wide"), 1.0, 1.0, 1.0, 1.0)


@pytest.fixture(params=SAMPLERS)
def study(request):
    budget = Budget.of(["energy<=3uJ"])
    terms = Terms(80, 0, 10, request.param, ("energy",), budget, (Machine(),), True, 93.0)
    made = Study(terms, ToyPrices(), {}, Here(Evaluator()))
    made.run([])
    return made


def test_what_cannot_be_computed_has_no_costs_and_says_why(study):
    refused = [p for d, p in study.points.items() if "refused" in d.schemes]
    assert refused
    for point in refused:
        assert (point.costs, point.figures, point.excess) == (None, None, ())
        assert not point.is_feasible
        assert point.refused == "no element computes it"


def test_a_search_goes_on_beside_what_cannot_be_computed_or_fails(study):
    best = front(list(study.points.values()), study.terms)
    assert best[0].metric == 92.0, "two wide layers are within the budget"
    assert all("refused" not in p.design.schemes and "failing" not in p.design.schemes for p in best)
    assert not any(point.excess for point in best)
