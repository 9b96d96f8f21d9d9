"""The table of measured cells: its stamp, what it answers at its points, between them and beyond."""

import itertools
import math
import sys
from dataclasses import replace
from hashlib import sha256
from importlib.metadata import version

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="measured cells need pyarrow: pip install 'bitwright[cost]'")

from bitwright.config import from_text
from bitwright.cost.figure import Cited, Fitted, Measured
from bitwright.cost.mac import published_mac
from bitwright.cost.table import SHIPPED, CellTable, Origin, read_table, shipped_table, write_table
from bitwright.cost.table_cells import cells_of, measured_cells, measured_vectors
from bitwright.cost.table_find import Finder
from bitwright.cost.table_fit import Integers, Lines, Polynomial
from bitwright.cost.table_names import operand_name
from bitwright.cost.table_need import needs
from bitwright.cost.widths import factors, widest_mac
from bitwright.formats import E2M1, Int
from bitwright.gemm import Gemm, LayerGemm
from bitwright.schemes import CATALOGUE
from bitwright.schemes.ant import flint

LAYER = LayerGemm("layer", Gemm(m=64, k=256, n=32))


def mac(scheme, library="generic45", layer=LAYER):
    return measured_cells(library)(((layer, from_text(scheme)),))


def integer_points(library="generic45"):
    """Elements of the scheme integer(w, x) that serve inputs of either sign, with their register."""
    for row in shipped_table().of(library):
        widths = row.scheme.removeprefix("integer(").removesuffix(")").split(", ")
        if row.unit == "element" and len(widths) == 2 and row.scheme.startswith("integer"):
            w, x = map(int, widths)
            if row.x == f"s{x + 1}":
                yield row, w, x


def test_a_table_comes_back_as_it_was_written(tmp_path):
    table = replace(shipped_table(), rows=shipped_table().rows[:5])
    write_table(table, tmp_path / "cells.parquet")
    assert read_table(tmp_path / "cells.parquet") == table


def test_a_changed_table_does_not_fit_its_stamp(tmp_path):
    import pyarrow.parquet as parquet

    table = replace(shipped_table(), rows=shipped_table().rows[:5])
    write_table(table, tmp_path / "cells.parquet")
    content = parquet.read_table(tmp_path / "cells.parquet")
    areas = content["area_um2"].to_pylist()
    place = content.column_names.index("area_um2")
    changed = content.set_column(place, "area_um2", [[areas[0] * 0.9, *areas[1:]]])
    parquet.write_table(changed, tmp_path / "cells.parquet")
    with pytest.raises(ValueError, match="does not fit its stamp"):
        read_table(tmp_path / "cells.parquet")


def test_another_parquet_file_is_no_table(tmp_path):
    import pyarrow
    import pyarrow.parquet as parquet

    parquet.write_table(pyarrow.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="is no table of cells of this version"):
        read_table(tmp_path / "other.parquet")


def test_a_missing_table_is_named_with_what_writes_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no table of cells at .*none\.parquet; write it again with"):
        read_table(tmp_path / "none.parquet")


def test_without_pyarrow_a_sentence_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'bitwright\[cost\]', or ask for --library published"):
        read_table(tmp_path / "cells.parquet")


def test_the_shipped_table_is_small_and_every_circuit_in_it_was_checked():
    from importlib.resources import files

    assert len((files("bitwright.cost") / "data" / SHIPPED).read_bytes()) < 300_000
    assert all(row.patterns > 0 for row in shipped_table().rows)


def test_at_its_points_the_table_answers_what_was_measured():
    points = list(integer_points())
    assert len(points) > 50
    for row, w, x in points:
        found = mac(f"integer({w}, {x}, accumulator_bits={row.register_bits}, overflow=Overflow.WRAP)")
        assert found.area_um2.value == row.area_um2
        assert isinstance(found.area_um2, Measured)
        assert found.energy_pj.value == pytest.approx(row.energy_pj * found.calibration)


def test_the_measured_elements_are_those_that_are_generated_today():
    """Else experiments/cost_table.py has to measure them again."""
    pytest.importorskip("amaranth", reason="circuits need amaranth: pip install 'bitwright[rtl]'")
    from bitwright.cost.synthesis_element import element_plan
    from bitwright.rtl.units import ProcessingElement
    from bitwright.rtl.verilog import rtlil

    if version("amaranth") != shipped_table().tools["amaranth"]:
        pytest.skip("another release of amaranth writes other texts")
    for row, w, x in list(integer_points())[::25]:
        made = element_plan(from_text(f"integer({w}, {x})"), accumulator_bits=row.register_bits)
        assert sha256(rtlil(ProcessingElement(made), "element").encode()).hexdigest() == row.sha256


@pytest.mark.parametrize("scheme", ["integer(8, 8", "integer(4, 8", "integer(4, 4", "integer(5, 7"])
def test_a_wider_register_takes_more_area(scheme):
    areas = [mac(f"{scheme}, accumulator_bits={n}, overflow=Overflow.WRAP)").area_um2.value for n in range(12, 37)]
    assert all(a < b for a, b in itertools.pairwise(areas))


@pytest.mark.parametrize(
    ("scheme", "kind"),
    [
        ("integer(8, 8, accumulator_bits=24, overflow=Overflow.WRAP)", Measured),
        ("integer(8, 8, accumulator_bits=27, overflow=Overflow.WRAP)", Fitted),
        ("integer(3, 7, accumulator_bits=29, overflow=Overflow.WRAP)", Fitted),
        ("integer(8, 8, accumulator_bits=60, overflow=Overflow.WRAP)", (Fitted, Cited)),
        ("integer(16, 16)", (Fitted, Cited)),
    ],
)
def test_the_origin_is_always_told(scheme, kind):
    found = mac(scheme)
    assert isinstance(found.area_um2, kind)
    is_published = found.area_um2 == widest_mac([(LAYER, from_text(scheme))]).area_um2
    assert is_published == any("published multipliers" in remark for remark in found.remarks)
    assert is_published == (kind == (Fitted, Cited))


@pytest.mark.parametrize("scheme", [factory() for factory in CATALOGUE], ids=[f.__name__ for f in CATALOGUE])
def test_every_scheme_of_the_catalogue_has_a_cell_that_says_what_it_is(scheme):
    found = measured_cells()(((LAYER, scheme),))
    assert "generic45" in found.remarks[0]
    assert found.edge is not None


@pytest.mark.parametrize("library", sorted(shipped_table().origins))
def test_every_library_has_the_elements_of_the_catalogue(library):
    """Term Revealing's serial cells are in the first one alone."""
    for scheme in (factory() for factory in CATALOGUE if factory.__name__ != "term_revealing"):
        (remark, *_) = measured_cells(library)(((LAYER, scheme),)).remarks
        assert remark.startswith("element "), remark
        assert library in remark


def test_the_fold_of_a_register_is_part_of_its_edge():
    plain, folded = (mac(scheme).edge.column_um2.value for scheme in (
        "integer(2, 3, accumulator_bits=8, overflow=Overflow.WRAP)", "wrapnet()"
    ))  # fmt: skip
    row = next(
        row for row in shipped_table().of("generic45") if (row.unit, row.register_bits, row.scales) == ("fold", 8, "1")
    )
    assert folded - plain == pytest.approx(row.area_um2)
    assert not any("fold" in remark for remark in mac("wrapnet()").remarks)


def test_the_scale_hardware_of_a_block_is_part_of_the_cell():
    plain = "integer(4, 4, accumulator_bits=12, overflow=Overflow.WRAP)"
    vsq = mac("vs_quant(4, 4)")
    collector = next(r for r in shipped_table().of("generic45") if (r.unit, r.scales) == ("collector", "u4*u4"))
    assert vsq.area_um2.value - mac(plain).area_um2.value == pytest.approx(collector.area_um2 / 16, rel=0.35)


def test_vector_units_share_one_register_among_their_lanes():
    work = ((LAYER, from_text("integer(8, 8)")),)
    assert measured_vectors()(work).area_um2.value < measured_cells()(work).area_um2.value


def test_layers_without_a_common_cell_are_priced_as_the_largest():
    work = tuple((LAYER, from_text(scheme)) for scheme in ("integer(8, 8)", "vs_quant(4, 4)"))
    found = measured_cells()(work)
    assert found.area_um2.value == mac("integer(8, 8)").area_um2.value
    assert "no measured cell serves all layers" in found.remarks[-1]


def test_a_cell_that_stands_in_for_one_of_fewer_formats_says_so():
    work = ((LAYER, from_text("combined(ant_type('flint'), ant())")),)
    (remark, *_) = measured_cells()(work).remarks
    assert "the smallest that reads flint4|uflint4 × flint4|pot4|s4" in remark
    assert "the smallest" not in mac("ant()").remarks[0]


def test_what_lies_between_points_is_fitted_even_where_no_left_out_point_is_missed():
    line = Lines(({12: 24.0, 16: 32.0, 24: 48.0},))
    assert isinstance(line.at({12: 24.0, 16: 32.0}, 14).figure("here"), Fitted)


def test_unknown_libraries_are_one_sentence_with_those_at_hand():
    with pytest.raises(ValueError, match=r"no measured library 'tsmc5'; choose from .*generic45, .*or published"):
        cells_of("tsmc5")
    assert cells_of("published")(((LAYER, from_text("integer(8, 8)")),)) == published_mac(
        8, 8, factors(from_text("integer(8, 8)"), LAYER).accumulator
    )


def test_a_table_may_be_ones_own():
    shipped = shipped_table()
    mine = CellTable(shipped.of("generic45"), "mine", {}, {"generic45": Origin("mine", 45, 1.0, "")})
    found = measured_cells("generic45", mine)(((LAYER, from_text("integer(8, 8)")),))
    assert found.energy_pj.value == pytest.approx(
        mac("integer(8, 8)").energy_pj.value / mac("integer(8, 8)").calibration
    )


def test_worst_ratios_are_those_of_points_left_out():
    rng = np.random.default_rng(0)
    cells = [Integers(x, w, n, False, False) for x in (2, 4, 8) for w in (2, 3, 8) for n in (12, 16, 24)]
    values = [100 + 9 * c.x_bits * c.w_bits + 15 * c.register_bits + rng.normal(0, 20) for c in cells]
    fit = Polynomial(tuple(cells), tuple(values))
    ratios = []
    for i, (cell, value) in enumerate(zip(cells, values)):
        others = Polynomial((*cells[:i], *cells[i + 1 :]), (*values[:i], *values[i + 1 :]))
        found = float(others._predicted([cell])[0])
        ratios.append(max(found / value, value / found))
    assert fit.worst_ratio == pytest.approx(max(ratios))


def test_a_fit_that_its_points_do_not_support_may_be_wrong_by_any_ratio():
    cells = tuple(Integers(x, 4, 12, False, False) for x in (2, 4, 8))
    assert Polynomial(cells, (100.0, 40.0, 1.0)).worst_ratio == math.inf


def test_lines_state_how_far_points_lie_that_were_left_out():
    lines = Lines(({12: 24.0, 16: 40.0, 20: 48.0},))
    assert lines.worst_ratio == 40 / 36
    assert lines.slope == 3.0
    assert lines.worst_ratio_of_one == 28 / 24  # 12 bits from 16
    assert lines.at({12: 24.0, 20: 48.0}, 16).worst_ratio == lines.worst_ratio
    assert lines.at({12: 24.0, 20: 48.0}, 24).worst_ratio == lines.worst_ratio_of_one


def test_a_line_through_points_on_a_line_is_exact():
    lines = Lines(({12: 24.0, 16: 32.0, 24: 48.0, 32: 64.0},))
    assert (lines.worst_ratio, lines.worst_ratio_of_one, lines.slope) == (1.0, 1.0, 2.0)
    assert lines.at({12: 24.0, 16: 32.0}, 14).value == 28.0
    assert lines.at({12: 24.0}, 20).value == 40.0
    assert lines.at({12: 24.0, 16: 32.0}, 20).value == 40.0
    assert lines.at({12: 24.0}, 24) is None


def test_operands_are_named_after_their_formats():
    assert operand_name([Int(4, signed=False), Int(4, narrow=True)]) == "s5"
    assert operand_name([Int(8, signed=False)]) == "u8"
    assert operand_name([flint(4), Int(4)]) == "flint4|s4"
    assert operand_name([E2M1]) == "E2M1"


def test_two_activations_meet_in_one_multiplier():
    attention = LayerGemm("scores", Gemm(64, 32, 64, 4), is_of_activations=True)
    (found,) = needs([(LAYER, from_text("integer(4, 8)")), (attention, from_text("integer(4, 8)"))])
    assert (found.x_name, found.w_name) == ("s9", "s8")


def test_a_serial_cell_of_signed_inputs_serves_unsigned_ones_and_says_so():
    finder, w = Finder(shipped_table().of("generic45")), "terms(±128,8/12,HESE)"
    signed, unsigned = (finder.pairs(f"terms({sign}255,1/3,HESE)", w) for sign in ("±", ""))
    assert unsigned.estimates == signed.estimates
    assert "whose inputs may be signed" in unsigned.said
    assert "may be signed" not in signed.said
    assert finder.pairs("terms(255,1/7,HESE)", w) is None
