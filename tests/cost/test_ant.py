"""ANT's simulator against the artifact: cycles to the last one, its published table to both decimals."""

from pathlib import Path

import pytest

from bitwright.cost.ant_simulator import FIXED_6, Design, Shape, WeightStationary, simulate

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
ANT, ANT_WS, ADAFLOAT = Design(32, 32), Design(32, 32, flow=WeightStationary()), Design(32, 28)
CONVOLUTION, LINEAR = Shape(3, 224, 64, 64, 64), Shape(1, 1, 768, 768, 8192)


@pytest.mark.parametrize(
    ("design", "shape", "bits", "cycles", "stall"),
    [
        (ANT, CONVOLUTION, 4, 28901616, 240), (ANT_WS, CONVOLUTION, 4, 28901529, 153),
        (ADAFLOAT, CONVOLUTION, 8, 173408300, 44), (ANT, LINEAR, 4, 1179744, 96), (ANT_WS, LINEAR, 4, 1179713, 65),
        (ADAFLOAT, LINEAR, 8, 5505223, 199), (Design(16, 18), LINEAR, 4, 4325477, 101),
        (Design(32, 80, FIXED_6), LINEAR, 6, 1966383, 303),
    ],
)  # fmt: skip
def test_a_layer_takes_the_cycles_and_stalls_of_the_artifact(design, shape, bits, cycles, stall):
    run = simulate(design, shape, bits)
    assert (run.cycles, run.stall) == (cycles, stall)


@pytest.fixture
def experiment(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    return pytest.importorskip("ant_hardware")


@pytest.mark.parametrize(
    ("network", "layers"),
    [("VGG16", 16), ("ResNet18", 21), ("ResNet50", 54), ("InceptionV3", 95), ("ViT", 49), ("BERT-MNLI", 74)],
)
def test_the_lists_have_the_artifacts_number_of_layers(experiment, network, layers):
    assert len(experiment.layers("AdaFloat", network)) == layers
    assert len(experiment.layers("BitFusion", network)) == layers + (network == "ViT")


@pytest.mark.parametrize(
    ("network", "design", "cycles"),
    [
        ("ViT", "ANT-WS", 435783792), ("ViT", "AdaFloat", 1238271082), ("BERT-MNLI", "ANT-OS", 194686184),
        ("BERT-CoLA", "BitFusion", 679518064), ("BERT-SST-2", "OLAccel", 618200556),
        ("BERT-SST-2", "BiScaled", 280795056),
    ],
)  # fmt: skip
def test_a_network_takes_the_cycles_of_the_artifact(experiment, network, design, cycles):
    assert experiment.total(design, network).cycles == cycles


@pytest.mark.slow
def test_every_published_figure_comes_out_to_both_decimals(experiment):
    totals = {(d, n): experiment.total(d, n) for n in experiment.LAYERS for d in experiment.DESIGNS}
    ours, published = experiment.normalised(totals), experiment.published()
    of_networks = [key for key in published if key[1] != experiment.MEAN]
    assert (len(of_networks), len(published)) == (210, 240)
    assert {key: f"{ours[key]:.2f}" for key in published} == published
    assert [round(value, 2) for value in experiment.gain(totals, "BitFusion")] == [2.83, 2.49]
    assert [round(value, 2) for value in experiment.gain(totals, "OLAccel")] == [3.30, 1.91]
    assert [round(value, 2) for value in experiment.gain(totals, "AdaFloat")] == [4.10, 3.27]
    assert totals["ANT-OS", "VGG16"].cycles == 245986176
    assert totals["ANT-WS", "InceptionV3"].cycles == 194614739
    assert totals["BitFusion", "ResNet50"].cycles == 174900120


def test_the_kept_result_says_that_every_figure_comes_out(experiment):
    text = (EXPERIMENTS / "results" / "ant_hardware.md").read_text()
    assert "Of 240 published figures (210 of networks, the others means) 240 come out to both decimals." in text
    assert "| BitFusion | 2.827 | 2.491 |" in text
