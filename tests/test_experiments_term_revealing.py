"""The arithmetic behind the tables of experiments/term_revealing.py, on the published figures alone."""

from pathlib import Path

import pytest

pytest.importorskip("torch")

EXPERIMENTS = Path(__file__).parents[1] / "experiments"


@pytest.fixture
def setup(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    return pytest.importorskip("term_revealing_setup")


@pytest.mark.parametrize(
    ("network", "times"),
    [("ResNet-18", [12.2, 18.7]), ("VGG-16", [14.2, 22.4]), ("MobileNet-v2", [4.8, 5.6]), ("LSTM", [3.2, 3.5])],
)
def test_the_published_figures_give_the_reductions_at_equal_quality_that_the_specification_derives(
    setup, network, times
):
    from bitwright.model.task import Perplexity, Top1

    lines = setup.published_iso((Perplexity if network == "LSTM" else Top1)(), network)
    assert [round(line[5].times, 1) for line in lines] == times


@pytest.mark.parametrize(("network", "macs"), [("ResNet-18", 1695547392), ("LSTM", 7570745000), ("MLP", 668672)])
def test_the_published_term_pairs_are_those_of_the_operating_points(setup, network, macs):
    for point, figure in setup.published(network).items():
        assert round(point.pairs(macs)) == figure.pairs
