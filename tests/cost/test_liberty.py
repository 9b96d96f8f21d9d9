import pytest

from bitwright.cost.cells import generic_library
from bitwright.cost.liberty import read_liberty
from bitwright.cost.liberty_groups import parse_group, split_cells, words
from bitwright.cost.library import Table

TINY = """/* a comment /* that opens twice */
library (tiny) {
  time_unit : "1ps"
  voltage_unit : "1V";
  nom_voltage : 0.7;
  leakage_power_unit : 1uW;
  capacitive_load_unit (1, pf);
  default_input_pin_cap : 0.002;
  lu_table_template (loads_first) {
    variable_1 : total_output_net_capacitance; variable_2 : input_net_transition;
    index_1 ("0.001, 0.003"); index_2 ("10, 20, 30");
  }
  cell ("ND2") { area : 2.0; cell_leakage_power : 0.5
    pin (A) { direction : input; capacitance : 0.001 }
    pin (B) { direction : input; }
    pin (Y) { direction : output; function : "(A*B)'";
      timing () { related_pin : "A B"; timing_sense : negative_unate;
        cell_rise (loads_first) { values ("1, 2, 3", \\
                                          "4, 5, 6"); }
        cell_fall (scalar) { values ("7"); }
      }
      internal_power () { related_pin : "A"; power (scalar) { values ("2"); } }
    }
  }
  cell (PROBE) { area : 1; dont_use : true;
    pin (Y) { direction : output; function : "A"; } pin (A) { direction : input; } }
  cell (EDF) { area : 9;
    leakage_power () { when : "A"; value : 1; } leakage_power () { value : 3; }
    ff (IQ, IQN) { clocked_on : "CK"; next_state : "(E D) | (!E IQ)"; clear : "!R"; }
    pin (CK, D, E, R) { direction : input; }
    pin (QN) { direction : output; function : "IQN"; }
  }
}
"""


def tiny(**how):
    return read_liberty("tiny", [TINY], **how)


def test_units_become_ours():
    cell = tiny().cell("ND2")
    assert cell.by_name["A"].capacitance_ff == pytest.approx(1)
    assert cell.by_name["B"].capacitance_ff == pytest.approx(2), "the library's default"
    assert cell.leakage_nw == pytest.approx(500)
    (energy,) = cell.by_name["Y"].energies
    assert energy.rise.at(0.0, 0.0) == energy.fall.at(0.0, 0.0) == pytest.approx(2000), "picofarads times volts squared"


def test_tables_turn_to_slew_by_load():
    one, two = tiny().cell("ND2").by_name["Y"].arcs
    assert (one.source, two.source) == ("A", "B")
    assert one.rise.slews_ns == pytest.approx((0.01, 0.02, 0.03))
    assert one.rise.loads_ff == pytest.approx((1, 3))
    assert one.rise.at(0.02, 1.0) == pytest.approx(0.002)
    assert one.rise.at(0.01, 3.0) == pytest.approx(0.004)
    assert one.fall.at(0.5, 9.0) == pytest.approx(0.007)


def test_a_cell_of_the_smallest_nand_is_one_gate():
    assert tiny().gate_area_um2 == 2.0


def test_cells_that_are_not_to_be_used_are_left_out_of_the_text_too():
    assert set(tiny().cells) == {"ND2", "EDF"}
    assert set(tiny(unused=["E*"]).cells) == {"ND2"}
    assert "PROBE" not in tiny().liberty[0]
    assert set(read_liberty("again", tiny().liberty).cells) == {"ND2", "EDF"}


def test_an_enable_flip_flop_reads_its_own_state():
    cell = tiny().cell("EDF")
    assert cell.inputs == ("CK", "D", "E", "R")
    assert cell.leakage_nw == pytest.approx(2000), "the mean over the states"
    next_state = cell.flip_flop.next_state
    assert [next_state({"E": e, "D": d, "IQ": q}) for e, d, q in [(1, 1, 0), (1, 0, 1), (0, 0, 1), (0, 1, 0)]] == [
        1,
        0,
        1,
        0,
    ]
    assert cell.flip_flop.clear({"R": 0}) == 1


def test_a_library_of_several_texts_is_one():
    second = TINY.replace("ND2", "ND9").replace("EDF", "EDG")
    assert set(read_liberty("two", [TINY, second]).cells) == {"ND2", "EDF", "ND9", "EDG"}


def test_a_library_without_a_nand_is_refused():
    with pytest.raises(ValueError, match="bare has no two-input NAND"):
        read_liberty("bare", [TINY.replace("(A*B)'", "A*B")])


def test_a_text_without_cells_is_refused():
    with pytest.raises(ValueError, match="no cells in a Liberty text"):
        read_liberty("empty", ["library (x) { }"])


def test_an_unknown_cell_is_named_with_its_library():
    with pytest.raises(KeyError, match="tiny has no cell FOO"):
        tiny().cell("FOO")


def test_lists_broken_over_lines_are_one_list():
    assert words('"1, 2", \\\n "3"') == ("1, 2", "3")
    assert words("1,pf") == ("1", "pf")


def test_cells_split_without_reading_them():
    head, cells, tail = split_cells(TINY)
    assert list(cells) == ["ND2", "PROBE", "EDF"]
    assert parse_group(head).arguments == ("tiny",)
    assert tail.split() == ["}"]


def test_a_table_goes_on_in_a_straight_line_beyond_its_edges():
    table = Table((1.0, 2.0), (0.0, 10.0), ((1.0, 2.0), (3.0, 6.0)))
    assert table.at(1.5, 5.0) == pytest.approx(3.0)
    assert table.at(3.0, 0.0) == pytest.approx(5.0)
    assert table.at(1.0, 20.0) == pytest.approx(3.0)


def test_a_table_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="2 slews and 1 loads"):
        Table((1.0, 2.0), (0.0,), ((1.0, 2.0),))


def test_the_reader_reads_back_its_own_text():
    ours = generic_library()
    again = read_liberty(ours.name, ours.liberty)
    assert {name: again.cell(name) for name in again.cells} == {name: ours.cell(name) for name in ours.cells}
