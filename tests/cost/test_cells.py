from itertools import product

import pytest

from bitwright.cost.cells import (
    FLIP_FLOP_TRANSISTORS,
    STAGES,
    Process,
    effort,
    generic_liberty,
    generic_library,
    network_function,
    transistors,
)

LIBRARY = generic_library()
MEANING = {
    "INV": lambda a: 1 - a,
    "BUF": lambda a: a,
    "NAND3": lambda a, b, c: 1 - a * b * c,
    "NOR2": lambda a, b: (1 - a) * (1 - b),
    "AND2": lambda a, b: a * b,
    "OR3": lambda a, b, c: int(a + b + c > 0),
    "XOR2": lambda a, b: a ^ b,
    "XNOR2": lambda a, b: 1 - (a ^ b),
    "AOI22": lambda a, b, c, d: 1 - (a * b | c * d),
    "OAI211": lambda a, b, c, d: 1 - (a | b) * c * d,
}


@pytest.mark.parametrize("name", MEANING)
def test_a_cell_computes_what_its_name_says(name):
    function = network_function(name)
    pins = sorted(function.inputs)
    for row in product((0, 1), repeat=len(pins)):
        assert function(dict(zip(pins, row))) == MEANING[name](*row)


@pytest.mark.parametrize("name", STAGES)
def test_the_text_says_the_function_of_the_stages(name):
    read = LIBRARY.cell(f"{name}_X1").by_name["Y"].function
    composed = network_function(name)
    for row in product((0, 1), repeat=len(composed.inputs)):
        values = dict(zip(composed.inputs, row))
        assert read(values) == composed(values)


@pytest.mark.parametrize("name", STAGES)
def test_the_gate_equivalents_of_a_cell_are_its_transistors_over_four(name):
    assert LIBRARY.cell(f"{name}_X1").area_um2 / LIBRARY.gate_area_um2 == pytest.approx(transistors(name) / 4)


def test_the_unit_of_area_is_the_nand_and_a_flip_flop_takes_six():
    assert LIBRARY.gate_area_um2 == LIBRARY.cell("NAND2_X1").area_um2
    assert LIBRARY.cell("DFF_X1").area_um2 / LIBRARY.gate_area_um2 == pytest.approx(FLIP_FLOP_TRANSISTORS / 4)


@pytest.mark.parametrize(
    ("stage", "pin", "thirds"),
    [("A", "A", 3), ("A & B", "A", 4), ("A & B & C", "B", 5), ("A | B", "A", 5), ("A | B | C", "C", 7),
     ("A & B | C", "A", 6), ("A & B | C", "C", 5), ("A & B | C & D", "D", 6)],
)  # fmt: skip
def test_the_logical_effort_is_that_of_the_book(stage, pin, thirds):
    """Sutherland, Sproull and Harris, "Logical Effort", ch. 4: NAND (n+2)/3, NOR (2n+1)/3, and-or-invert 2 and 5/3."""
    assert effort(stage, pin) == pytest.approx(thirds / 3)


def test_an_inverter_with_four_of_its_kind_has_the_delay_of_the_rule_of_thumb():
    process = Process(slew_share=0.0)
    inverter = generic_library(process).cell("INV_X1")
    (arc,) = inverter.by_name["Y"].arcs
    delay_ns = arc.rise.at(0.01, 4 * inverter.by_name["A"].capacitance_ff)
    assert delay_ns * 1000 == pytest.approx(process.fanout4_ps_per_um * process.feature_nm / 1000, rel=1e-3)


def test_a_wider_inverter_drives_the_same_load_faster():
    delays = [LIBRARY.cell(f"INV_X{drive}").by_name["Y"].arcs[0].rise.at(0.01, 20.0) for drive in (1, 2, 4)]
    assert delays == sorted(delays, reverse=True)


def test_smaller_features_make_smaller_and_faster_cells():
    small = generic_library(Process(feature_nm=22.0))
    assert small.gate_area_um2 / LIBRARY.gate_area_um2 == pytest.approx((22 / 45) ** 2)
    assert small.name == "generic22"
    slow, fast = (library.cell("XOR2_X1").by_name["Y"].arcs[0].rise.at(0.01, 5.0) for library in (LIBRARY, small))
    assert fast < slow


def test_energy_and_leakage_are_positive_everywhere():
    for name in LIBRARY.cells:
        cell = LIBRARY.cell(name)
        energies = [energy.rise.at(0.01, 2.0) for pin in cell.pins for energy in pin.energies]
        assert cell.leakage_nw > 0
        assert energies
        assert min(energies) > 0, name


def test_the_text_is_the_same_every_time():
    assert generic_liberty() == generic_liberty()
    assert generic_library() is generic_library()
