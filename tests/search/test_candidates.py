import itertools

import pytest
import torch

from bitwright.config import from_text
from bitwright.cost.table_cells import cells_of
from bitwright.model.measure import layer_results, model_bits
from bitwright.model.prepare import freeze, prepare, resolve
from bitwright.model.products import products
from bitwright.pricing import price
from bitwright.search.candidates import Candidates
from bitwright.search.point import Design, Machine, recipe_of, recipe_text
from bitwright.search.prices import Prices
from bitwright.search.strategies import ant4_8, chooses_types, integer_bits, mixquant


def mixed(candidates):
    turn = itertools.cycle(candidates.schemes)
    return Design(tuple((name, next(turn)) for name in candidates.names), Machine("16x16"))


def frozen(candidates, recipe):
    bench = candidates.bench
    prepared = resolve(prepare(bench.model, recipe, bench.calibration[0].inputs), bench.seen)
    return prepared, freeze(prepared)


def test_a_network_put_together_computes_as_the_recipe_prepared_at_once(candidates, evaluator):
    design = mixed(candidates)
    _, network = frozen(candidates, recipe_of(design, candidates.schemes))
    batch = evaluator.searched.batches[0]
    with torch.no_grad():
        expected = candidates.task.forward(network, batch)
        found = candidates.task.forward(candidates.frozen(design.assignment), batch)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_without_an_assignment_the_network_is_the_float_one(candidates, evaluator):
    batch = evaluator.searched.batches[0]
    with torch.no_grad():
        torch.testing.assert_close(
            candidates.task.forward(candidates.frozen({}), batch),
            candidates.task.forward(candidates.bench.model, batch),
        )


@pytest.mark.parametrize("is_mixed", [True, False])
def test_bytes_and_accumulators_are_those_of_the_comparison(candidates, prices, is_mixed):
    design = mixed(candidates) if is_mixed else Design(tuple((n, "integer(4, 4)") for n in candidates.names))
    prepared, network = frozen(candidates, recipe_of(design, candidates.schemes))
    layers = layer_results(prepared, network)
    assert round(candidates.model_bytes(design.assignment)) == model_bits(prepared, layers)[2]
    assert prices.accumulator_bits(design.assignment) == max(layer.accumulator_bits for layer in layers)


@pytest.mark.parametrize("is_mixed", [True, False])
def test_costs_are_those_of_the_price(candidates, prices, is_mixed):
    design = (
        mixed(candidates) if is_mixed else Design(tuple((n, "nvfp4()") for n in candidates.names), Machine("16x16"))
    )
    recipe = recipe_of(design, candidates.schemes)

    def source(_):
        return products(candidates.task, recipe)[:2]

    (expected,) = price(source, ["nvfp4()"], prices.accelerator(design.machine), cells=prices.cells)
    found, cost = prices.of(design), expected.cost
    assert found.cycles == cost.cycles
    assert found.area_mm2 == pytest.approx(cost.area_um2.value / 1e6)
    assert found.energy_uj == pytest.approx(cost.energy_pj.value / 1e6, rel=1e-3)  # formats are chosen on other samples


def test_cells_that_are_slower_than_the_clock_are_said(candidates):
    design = Design(tuple((n, "nvfp4()") for n in candidates.names), Machine("16x16"))
    slow, fast = (Prices(candidates, cells_of("generic45"), {"clock_mhz": clock}).of(design) for clock in (2000.0, 1.0))
    assert [r for r in slow.left_out if r.startswith("slower than the 2000 MHz asked for, unless pipelined: ")]
    assert not [r for r in fast.left_out if "slower" in r]


def test_the_recipes_text_makes_the_recipe(candidates):
    design = mixed(candidates)
    assert from_text(recipe_text(design)) == recipe_of(design, candidates.schemes)
    uniform = Design(tuple((n, "nvfp4()") for n in candidates.names))
    assert from_text(recipe_text(uniform)) == from_text("nvfp4()")


def test_schemes_with_names_or_of_other_modules_make_a_recipe_that_is_read_again(tmp_path, monkeypatch):
    (tmp_path / "their_schemes.py").write_text(
        "from bitwright.schemes import integer\nfrom bitwright.scheme import Scheme\n"
        "def narrow(bits: int) -> Scheme:\n    return integer(bits, bits)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    texts = ("mine = integer(8, 8)", "nvfp4 = integer(4, 4)", "their_schemes:narrow(6)")
    design = Design(tuple(zip("abc", texts, strict=True)))
    assert from_text(recipe_text(design)) == recipe_of(design, {text: from_text(text) for text in texts})
    for text in texts:
        assert from_text(recipe_text(Design((("a", text),)))) == from_text(text)


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ([], "no scheme to choose from"), (["ant4_8(promoted=2)"], "assigns schemes to layers itself"),
        (["kept_ends(integer(4, 4))"], "assigns schemes"), (["integr(8, 8)"], "did you mean"),
        (["integer(8, 8)", "wide = integer(8,8)"], "'wide = .*' are the same scheme"),
    ],
)  # fmt: skip
def test_what_is_no_choice_is_refused(candidates, texts, words):
    with pytest.raises(ValueError, match=words):
        Candidates.of(candidates.bench, texts)


def test_a_scheme_that_a_layer_cannot_have_is_refused_there_with_its_reason(candidates):
    narrow = "integer(8, 8, accumulator_bits=18)"
    found = Candidates.of(candidates.bench, ["integer(8, 8)", narrow])
    refused = {name for (name, text), why in found.refused.items() if text == narrow} if found.choices else set()
    assert refused
    assert refused == {name for name in found.names if narrow not in found.choices[name]}


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("integer(4, 8)", (4, 8)), ("mine = integer(4, 8)", (4, 8)), ("Recipe((Rule('*', integer(6, 4)),))", (6, 4)),
        ("integer(weight_bits=3, zero=Zero.FITTED)", (3, 8)), ("ant(8, 8)", (8, 8)),
        ("ant(4, 4)", None), ("vs_quant(4, 4)", None), ("mxint8()", None), ("wrapnet(2, 4)", None), ("nvfp4()", None),
        ("overq(4, 4)", None),
    ],
)  # fmt: skip
def test_schemes_of_integers_are_known_by_what_they_are(candidates, text, bits):
    (scheme,) = Candidates.of(candidates.bench, [text]).schemes.values()
    assert integer_bits(scheme) == bits


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("ant(4, 4)", True), ("mine = ant(input_bits=4)", True), ("ant(8, 8)", False), ("ant(4, 8)", False),
        ("ant_type('flint')", False), ("nvfp4(four_over_six=True)", False), ("integer(4, 4)", False),
    ],
)  # fmt: skip
def test_schemes_that_choose_a_type_are_known_by_what_they_are(text, is_one):
    assert chooses_types(from_text(text), 4) == is_one


def test_strategies_find_named_schemes(candidates):
    texts = ["wide = integer(8, 8)", "Recipe((Rule('*', integer(4, 4)),))", "mine = ant(4, 4)"]
    found = Candidates.of(candidates.bench, texts)
    damages = {(name, text): 1.0 for name in found.names for text in texts}
    promoted = ant4_8(found, damages, Machine())
    assert {design.schemes for design in promoted} >= {("mine = ant(4, 4)",), ("wide = integer(8, 8)",)}
    assert {text for design in mixquant(found, Machine()) for text in design.schemes} == set(texts[:2])
    assert recipe_of(promoted[3], found.schemes) == from_text(recipe_text(promoted[3]))
