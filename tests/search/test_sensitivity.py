from copy import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from toy import Toy

from bitwright.comparison import Bench
from bitwright.model.task import Top1
from bitwright.model.zoo import EMBEDDED
from bitwright.search.candidates import Candidates
from bitwright.search.driver import measured
from bitwright.search.execute import Here
from bitwright.search.sensitivity import MEASURES, Measure, questions
from bitwright.search.store import Store
from bitwright.search.strategies import mixquant_widths
from bitwright.search.tape import Tape


@pytest.fixture(scope="module")
def measure(candidates):
    return Measure(candidates, samples=24)


def test_a_network_in_float_has_no_damage(measure):
    assert measure.of({}) == 0


def test_eight_bits_damage_every_layer_less_than_four(damages, candidates):
    for name in candidates.names:
        assert damages[name, "integer(8, 8)"] < damages[name, "integer(4, 4)"]


def test_the_error_of_a_layer_is_that_of_its_output(measure, candidates):
    found = measure.error(candidates.choices)
    name, text = candidates.names[0], "integer(4, 4)"
    layer, inputs = candidates.float_layers[name], []
    candidates.frozen({})
    hook = layer.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    (batch,) = measure.batches
    with torch.no_grad():
        candidates.task.forward(candidates.frozen({}), batch)
        hook.remove()
        y, z = layer(inputs[0]), candidates.layer(name, text).exact(inputs[0])
    assert found[name, text] == pytest.approx(float((z - y).square().sum() / y.square().sum()), rel=1e-4)


def test_the_fisher_damage_of_a_linear_head_is_the_quadratic_form_of_its_softmax(measure, candidates):
    """Of the last layer the loss's gradient is known: probabilities less the chosen class."""
    name, text = "head", "integer(4, 4)"
    assert candidates.names[-1] == name or name in candidates.names
    found = measure.fisher(candidates.choices)
    (tape,) = measure.tapes
    outputs = tape.outputs
    p = torch.softmax(outputs.double(), -1)
    gradient = p - torch.nn.functional.one_hot(outputs.argmax(-1), p.shape[-1])
    wrong = tape.play({name: text}).double() - outputs.double()
    assert found[name, text] == pytest.approx(float((wrong * gradient).square().sum() / 2 / len(p)), rel=1e-3)


def test_masks_leave_the_weights_as_they_were(measure, candidates):
    before = {n: candidates.float_layers[n].weight.detach().clone() for n in candidates.names}
    found = measure.masked_kl(candidates.choices)
    assert all(value >= 0 for value in found.values())
    for name, weight in before.items():
        torch.testing.assert_close(candidates.float_layers[name].weight.detach(), weight, rtol=0, atol=0)


@pytest.mark.parametrize("name", MEASURES)
def test_parts_of_a_measure_are_the_whole(candidates, evaluator, measure, name):
    """So that they may be measured anywhere, in any order."""
    whole = MEASURES[name](measure, candidates.choices)
    parts = questions(candidates, name)
    values = [value for part in reversed(parts) for value in evaluator.damage(part).values]
    assert {pair[:2] for pair in values} == set(whole)
    again = {(name, text): value for name, text, value in values}
    assert again == MEASURES[name](Measure(candidates), candidates.choices)


def test_a_measured_damage_is_not_measured_again(candidates, evaluator, tmp_path):
    def ask(executor):
        return measured(executor, candidates, ("kl",), lambda *_: None)[0]

    first = ask(Here(evaluator, Store(tmp_path)))
    files = list(tmp_path.glob("damages/*.json"))
    assert len(files) == len(candidates.names)
    assert ask(Here(Toy(0), Store(tmp_path))) == first


@pytest.mark.parametrize("most_bytes", [2**30, 100_000, 0])
def test_a_tape_plays_what_a_run_of_the_whole_network_gives(candidates, most_bytes):
    tape = Tape(candidates, candidates.bench.calibration[0].first(8), most_bytes)
    for changed in ({}, {candidates.names[-1]: "integer(4, 4)"}, dict.fromkeys(candidates.names[3:5], "nvfp4()")):
        played = tape.play(changed)
        with torch.no_grad():
            expected = candidates.task.forward(candidates.frozen(changed), tape.batch)
        torch.testing.assert_close(played, expected, rtol=0, atol=0)


def test_layers_before_a_changed_one_are_not_computed_again(candidates):
    tape, runs = Tape(candidates, candidates.bench.calibration[0].first(8)), []
    hooks = [
        layer.register_forward_hook(lambda *_, n=name: runs.append(n))
        for name, layer in candidates.float_layers.items()
    ]
    tape.play({tape.names[-2]: "integer(4, 4)"})
    for hook in hooks:
        hook.remove()
    assert runs == [tape.names[-1]]


def test_an_unknown_measure_is_refused(candidates):
    with pytest.raises(ValueError, match="choose from kl"):
        questions(candidates, "hessian")


class LossesCalledPerplexity(Top1):
    """Of a network that gives losses, not logits."""

    name, is_of_logits = "perplexity", False


def test_outputs_are_logits_where_the_metric_says_so_whatever_its_name(candidates):
    task = copy(candidates.task)
    task.metric = LossesCalledPerplexity()
    other = Candidates.of(replace(candidates.bench, task=task), list(candidates.schemes))
    name, texts = next(iter(other.choices.items()))
    found = Measure(other, samples=8).kl({name: texts[-1:]})[name, texts[-1]]
    measure = Measure(candidates, samples=8)
    tape = measure.tapes[0]
    exact, wrong = tape.outputs.double(), tape.play({name: texts[-1]}).double()
    error = (exact - wrong).square().sum(1) / exact.square().sum(1).mean()
    assert found == pytest.approx(float(error.mean()))


@pytest.mark.parametrize(("multiplier", "bits"), [(2.0, 8), (5.0, 7), (20.0, 6), (100.0, 5), (1000.0, 4)])
def test_mixquant_gives_a_gaussian_the_widths_of_its_error_ratios(multiplier, bits):
    """Ratios to 8 bits: {2: 6957, 3: 1321, 4: 290, 5: 70, 6: 16, 7: 3.9}."""
    weight = np.random.default_rng(0).normal(size=200_000)
    assert mixquant_widths([weight], multiplier) == [bits]


def test_mixquant_needs_a_multiplier_of_at_least_one():
    with pytest.raises(ValueError, match="at least 1"):
        mixquant_widths([np.ones(3)], 0.5)


@pytest.fixture(scope="module")
def transformer():
    bench = Bench.build(EMBEDDED["pydoc"], 2, lambda *_: None)
    return Candidates.of(bench, ("integer(8, 8)", "integer(4, 4)"))


def test_errors_are_measured_of_attention_and_embeddings_too(transformer):
    kinds = {type(transformer.float_layers[name]).__name__ for name in transformer.names}
    assert len(kinds) == 3
    found = Measure(transformer, samples=2).error(transformer.choices)
    for name, texts in transformer.choices.items():
        assert 0 < found[name, texts[0]] < found[name, texts[-1]]


def test_a_tape_plays_attention_and_embeddings(transformer):
    tape = Tape(transformer, transformer.bench.calibration[0].first(2))
    for name in (tape.names[1], tape.names[-2]):
        played = tape.play({name: "integer(4, 4)"})
        with torch.no_grad():
            expected = transformer.task.forward(transformer.frozen({name: "integer(4, 4)"}), tape.batch)
        torch.testing.assert_close(played, expected, rtol=0, atol=0)
