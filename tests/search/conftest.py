"""A small search: the embedded digits network on few samples, three schemes."""

import sys
from pathlib import Path

import pytest

from bitwright.comparison import Bench
from bitwright.cost.table_cells import cells_of
from bitwright.model.zoo import EMBEDDED
from bitwright.search.candidates import Candidates
from bitwright.search.evaluate import Evaluator
from bitwright.search.prices import Prices
from bitwright.search.sensitivity import Measure

sys.path.insert(0, str(Path(__file__).parent))  # toy.py, which is a program too

SCHEMES = ("integer(8, 8)", "integer(4, 4)", "nvfp4()")


@pytest.fixture(scope="session")
def candidates():
    return Candidates.of(Bench.build(EMBEDDED["digits"], 120, lambda *_: None), SCHEMES)


@pytest.fixture(scope="session")
def prices(candidates):
    return Prices(candidates, cells_of("generic45"))


@pytest.fixture(scope="session")
def evaluator(candidates):
    return Evaluator(candidates)


@pytest.fixture(scope="session")
def damages(candidates):
    return Measure(candidates).kl(candidates.choices)
