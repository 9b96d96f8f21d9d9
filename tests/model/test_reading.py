"""One stored model, read at several operating points."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.datapath import Accumulator
from bitwright.formats import Int
from bitwright.model.layers import QuantizedLayer
from bitwright.model.prepare import calibrate, freeze, prepare
from bitwright.model.task import Batch
from bitwright.schemes import integer, term_revealing
from bitwright.schemes.term_revealing import Recoding, with_budget

POINTS = [(8, 2), (12, 3), (20, 1), (None, None), (16, 4)]


def network():
    torch.manual_seed(0)
    layers = nn.Conv2d(5, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=16), nn.ReLU(), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(16 * 16, 7)).eval()


def frozen(scheme, model, x):
    return freeze(prepared(scheme, model, x))


def prepared(scheme, model, x):
    return calibrate(prepare(model, scheme, (x,)), [Batch((x,), torch.empty(0))])


@pytest.fixture
def x():
    return torch.randn(4, 5, 6, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("recoding", [Recoding.HESE, Recoding.HESE_ARTIFACT, Recoding.BINARY])
@pytest.mark.parametrize("make", [frozen, prepared], ids=["exact", "simulated"])
def test_reading_stored_codes_at_a_budget_equals_quantizing_the_weights_for_it(make, recoding, x):
    model = network()
    stored = make(term_revealing(budget=24, data_terms=4, recoding=recoding), model, x)
    for budget, terms in POINTS:
        with bw.reading(stored, weight=with_budget(budget), input=with_budget(terms)):
            found = stored(x)
        afresh = copy.deepcopy(stored)
        for mine, other in zip(
            layers_of(afresh), layers_of(make(scheme(budget, terms, recoding), model, x)), strict=True
        ):
            mine.weight_quantizer = other.weight_quantizer
            # ranges were searched for the stored point's terms, so only the format follows
            mine.input_quantizer = other.input_quantizer
            torch.testing.assert_close(codes(mine), codes(other), rtol=0, atol=0)
        torch.testing.assert_close(found, afresh(x), rtol=0, atol=0)


def scheme(budget, terms, recoding):
    return term_revealing(budget=budget, data_terms=terms, recoding=recoding)


def layers_of(model):
    return [m for m in model.modules() if hasattr(m, "weight_quantizer")]


def codes(layer):
    return layer.codes if isinstance(layer, QuantizedLayer) else layer.weight


def test_the_operating_point_ends_with_the_block_also_after_an_error(x):
    model = frozen(term_revealing(), network(), x)
    before = model(x)
    with pytest.raises(RuntimeError, match="mine"), bw.reading(model, weight=with_budget(1), input=with_budget(1)):
        raise RuntimeError("mine" if not torch.equal(model(x), before) else "the point changed nothing")
    torch.testing.assert_close(model(x), before, rtol=0, atol=0)


def test_fewer_terms_are_further_from_the_float_network(x):
    model = network()
    stored = frozen(term_revealing(budget=24, data_terms=4), model, x)
    noise = []
    for budget, terms in [(24, 4), (12, 2), (4, 1)]:
        with bw.reading(stored, weight=with_budget(budget), input=with_budget(terms)):
            noise.append((stored(x) - model(x)).square().mean().item())
    assert noise == sorted(noise)


def test_a_format_with_other_codes_is_refused_with_the_layer(x):
    model = frozen(integer(), network(), x)
    with (
        pytest.raises(ValueError, match=r"layer 0: .*does not read the codes"),
        bw.reading(model, weight=lambda _: Int(4)),
    ):
        pass


def test_a_budget_whose_sums_a_register_may_not_hold_is_refused(x):
    narrow = term_revealing(budget=1, data_terms=1)
    certified = [layer.certificate.inner_bits for layer in layers_of(frozen(narrow, network(), x))]
    narrow = replace(narrow, datapath=replace(narrow.datapath, inner=Accumulator(Int(max(certified)))))
    model = frozen(narrow, network(), x)
    with pytest.raises(ValueError, match=r"layer .*accumulator"), bw.reading(model, weight=with_budget(24)):
        pass
