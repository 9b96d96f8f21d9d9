"""Term Revealing's system model: the artifact's operation counts, and the ratios of its published figure."""

from pathlib import Path

import pytest


@pytest.fixture
def experiment(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "experiments"))
    return pytest.importorskip("term_revealing_hardware")


@pytest.mark.parametrize(
    ("network", "word", "macs"),
    [
        ("MLP", "", 668672), ("VGG-16", "", 15259926528), ("ResNet-18", "", 1695547392), ("LSTM", "", 7570745000),
        ("MobileNet-v2", "pointwise", 267939840), ("MobileNet-v2", "depthwise", 20716416),
        ("EfficientNet-b0", "pointwise", 338537472),
    ],
)  # fmt: skip
def test_the_networks_have_the_multiplications_that_the_artifact_counts(experiment, network, word, macs):
    import term_revealing_networks

    assert term_revealing_networks.macs(network, word) == macs


def test_squeezing_layers_have_the_artifacts_multiplications_too(experiment):
    import term_revealing_networks as networks

    assert networks.macs("EfficientNet-b0", "squeeze") + networks.macs("EfficientNet-b0", "excite") == 627200


def test_the_published_means_are_arithmetic_means_of_the_networks(experiment):
    assert round(experiment.mean("latency"), 1) == 7.4
    assert round(experiment.mean("energy"), 1) == 4.8


def test_whole_networks_come_within_a_twentieth_of_the_published_latency(experiment):
    for network, published in experiment.PUBLISHED.items():
        assert experiment.ratios(network).cycles == pytest.approx(published.latency, rel=0.05)


def test_one_constant_of_power_turns_latency_into_the_published_energy_within_a_twentieth(experiment):
    for published in experiment.PUBLISHED.values():
        assert published.latency / experiment.power() == pytest.approx(published.energy, rel=0.05)
