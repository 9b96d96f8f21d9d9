"""A search that is killed at random ends with the front of an undisturbed one."""

import random
from pathlib import Path

import pytest

pytest.importorskip("optuna")


EXPERIMENTS = Path(__file__).parents[1] / "experiments"


@pytest.fixture
def search_kills(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    return pytest.importorskip("search_kills")


@pytest.mark.slow
def test_a_search_that_is_killed_ends_with_the_front_of_an_undisturbed_one(tmp_path, search_kills):
    calm, hit = tmp_path / "calm", tmp_path / "hit"
    search_kills.undisturbed(calm, 24, 128)
    outcome = search_kills.disturbed(hit, 24, 128, 3, random.Random(1), search_kills.finished(calm).total())
    assert outcome.drivers + outcome.workers == 3
    assert max(outcome.evaluations.values()) == 1
    assert search_kills.front_of(hit) == search_kills.front_of(calm)
