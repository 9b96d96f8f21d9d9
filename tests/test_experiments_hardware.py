"""What the hardware experiments stand on: a layer's codes as its product sees them, and the models around circuits."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("amaranth", reason="amaranth is not installed")

EXPERIMENTS = Path(__file__).parents[1] / "experiments"


@pytest.fixture
def experiments(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))


@pytest.fixture(scope="module")
def digits():
    """Under a scheme whose scales vary along K, and one of neighbours' digits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXPERIMENTS))
        from layer_codes import layer_codes

        return {scheme: layer_codes("digits", scheme) for scheme in ("vs_quant(4, 4)", "overq(4, 8)")}


@pytest.mark.parametrize("scheme", ["vs_quant(4, 4)", "overq(4, 8)"])
def test_a_layers_codes_multiply_to_what_the_layer_computes(experiments, digits, scheme):
    """Windows and weights lie in one order, scales with them: products of decoded codes are the convolution's."""
    import torch
    from layer_codes import bench

    from bitwright.config import from_text
    from bitwright.model.layers import FakeQuantizedLayer
    from bitwright.model.prepare import calibrate, prepare
    from bitwright.model.watch import watch
    from bitwright.model.zoo import TASKS

    folded, calibration, forward = bench("digits")
    prepared = calibrate(prepare(folded, from_text(scheme), calibration[0].first(1).inputs), calibration, forward)
    outputs = {}

    def see(layer, x):
        without = layer.bias
        layer.bias = None
        outputs[str(layer.name)] = layer.forward(x)
        layer.bias = without

    layers = [m for m in prepared.modules() if isinstance(m, FakeQuantizedLayer)]
    with torch.no_grad():
        watch(TASKS["digits"], prepared, layers, next(iter(TASKS["digits"].test(2))), see)
    for codes in digits[scheme]:
        y = outputs[codes.name]
        rows = (y.movedim(1, -1) if y.dim() > 2 else y).reshape(-1, y.shape[1]).numpy()
        product = codes.x.decode() @ codes.w.decode().T
        np.testing.assert_allclose(product, rows, atol=1e-4 * np.abs(rows).max())  # float32 sums of a layer


def test_a_layers_multiplications_are_those_of_one_image(digits):
    convolution = next(layer for layer in digits["overq(4, 8)"] if layer.name == "blocks.0.body.0")
    assert convolution.macs == 8 * 8 * 16 * 144


def test_slots_of_term_pairs_add_up_to_the_product_of_kept_terms(experiments, monkeypatch):
    import term_revealing_energy as experiment

    rng = np.random.default_rng(0)
    x, w = rng.integers(0, 256, 16), rng.integers(0, 2**9, 16) & 0b1_0111_1111
    for budget in (experiment.PLAIN, experiment.Budget(16, 3)):
        recoding = experiment.Recoding.BINARY if budget is experiment.PLAIN else experiment.Recoding.HESE
        x_format = experiment.replace(experiment.X, budget=budget.data, recoding=recoding)
        w_format = experiment.replace(experiment.W, group=8, budget=budget.weights, recoding=recoding)
        found = experiment.slots(list(x_format.kept(x)), list(w_format.kept(w)), budget)
        assert len(found["enable"]) == 2 * budget.cycles
        pairs = found["enable"] * (1 - 2 * found["is_negative"]) << (found["x_exponent"] + found["w_exponent"])
        values = [np.subtract(*(m.astype(np.int64) for m in masks)) for masks in (x_format.kept(x), w_format.kept(w))]
        assert pairs.sum() == (values[0] * values[1]).sum()


def test_a_share_that_never_shrinks_makes_up_the_difference(experiments):
    from vs_quant_hardware import fixed_share

    share = fixed_share(ours=40.0, base=100.0, published=0.63)
    whole = 100 / (1 - share)
    assert (40 + share * whole) / whole == pytest.approx(0.63)
    assert fixed_share(ours=63.0, base=100.0, published=0.63) == pytest.approx(0.0)


def test_equal_elements_give_ants_published_array(experiments):
    import ant_elements

    one = ant_elements.Element(79.57, 1.0)
    found = {("x", f"{name} / 16"): one for name in ("int4", "flint4")} | {
        ("x", "flint4 decoder"): ant_elements.Element(0.0, 0.0)
    }
    assert ant_elements.ant(found, "x", 16) == ant_elements.DESIGNS["ANT-OS"]


def test_budgets_of_all_networks_are_found(experiments):
    import term_revealing_energy as experiment

    found = experiment.budgets()
    assert len(found) == 10
    assert found["resnet20"] == experiment.Budget(16, 3)
