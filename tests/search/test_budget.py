import pytest

from bitwright.result_search import Costs
from bitwright.search.budget import Budget, Quality

PERPLEXITY = Quality("perplexity", is_per_cent=False, higher_is_better=False)
PSNR = Quality("PSNR", is_per_cent=False)
COSTS = Costs(0.5, 0.1, 20.0, 2.0, 1e6, 4000.0, 18.0)


@pytest.mark.parametrize(
    ("text", "quantity", "bound"),
    [
        ("area<=0.5mm2", "area", 0.5), ("area <= 2e5 um2", "area", 0.2), ("energy<=20uJ", "energy", 20),
        ("energy<=1.5mJ", "energy", 1500), ("energy<=300nJ", "energy", 0.3), ("latency<=2ms", "delay", 2),
        ("delay<=50us", "delay", 0.05), ("cycles<=1M", "cycles", 1e6), ("model<=100kB", "model", 1e5),
        ("size<=1MiB", "model", 2**20), ("accumulator<=16bits", "accumulator", 16), ("top1>=0.69", "metric", 69),
        ("top1>=69%", "metric", 69), ("accuracy>=69", "metric", 69), ("drop<=1%", "drop", 1),
        ("drop<=0.5", "drop", 0.5), ("energy<=.5uJ", "energy", 0.5), ("energy<=5.uJ", "energy", 5),
    ],
)  # fmt: skip
def test_a_limit_is_in_the_unit_of_its_figure(text, quantity, bound):
    (limit,) = Budget.of([text]).limits
    assert limit.quantity == quantity
    assert limit.bound == pytest.approx(bound)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("area", "write a quantity"), ("area<=x", "write a quantity"), ("volume<=1", "choose from area"),
        ("area<=1kg", "area takes"), ("area>=1mm2", "which is a cost"), ("top1<=0.9", "on its good side"),
        ("enery<=1uJ", "did you mean 'energy'"), ("top1>=1mm2", "metric takes none or %"),
        ("top1>=69dB", "metric takes none or %"), ("area<=1.2.3mm2", "write a quantity"),
    ],
)  # fmt: skip
def test_what_is_no_limit_is_refused_with_what_is_allowed(text, words):
    with pytest.raises(ValueError, match=words):
        Budget.of([text])


def test_a_metric_that_is_good_when_small_is_limited_from_above():
    (limit,) = Budget.of(["perplexity<=4.5"], PERPLEXITY).limits
    assert (limit.bound, limit.is_most) == (4.5, True)
    with pytest.raises(ValueError, match="good side"):
        Budget.of(["perplexity>=4.5"], PERPLEXITY)


def test_limits_that_are_broken_are_named_with_the_part_by_which():
    budget = Budget.of(["area<=0.4mm2, energy<=20uJ", "accumulator<=16"])
    assert budget.excess(COSTS) == (("area<=0.4mm2", pytest.approx(0.25)), ("accumulator<=16", pytest.approx(0.125)))


def test_a_metric_and_its_loss_to_float_are_judged():
    budget = Budget.of(["top1>=0.9, drop<=2"])
    assert budget.metric_excess(95.0, 1.0) == ()
    assert [text for text, _ in budget.metric_excess(80.0, 15.0)] == ["top1>=0.9", "drop<=2"]


def test_a_metric_in_decibels_is_limited_in_decibels_and_not_in_per_cent():
    (limit,) = Budget.of(["psnr>=30dB"], PSNR).limits
    assert limit.bound == 30
    with pytest.raises(ValueError, match="metric takes none or dB"):
        Budget.of(["psnr>=30%"], PSNR)


@pytest.mark.parametrize(
    ("text", "quality", "names"),
    [
        ("perplexity>=20", Quality(), "top-1 accuracy: .*metric, top1, accuracy"),
        ("top1>=0.9", PERPLEXITY, "perplexity: .*metric, perplexity"),
        ("accuracy>=0.9", PSNR, "PSNR: .*metric, psnr"),
    ],
)
def test_another_metric_than_the_networks_own_is_refused_with_its_names(text, quality, names):
    with pytest.raises(ValueError, match=names):
        Budget.of([text], quality)


def test_a_metric_goes_by_every_word_of_its_name():
    assert Quality("Spearman correlation").words == ("metric", "spearman", "correlation")
    assert Budget.of(["Correlation>=0.8"], Quality("Spearman correlation")).limits[0].bound == 80
