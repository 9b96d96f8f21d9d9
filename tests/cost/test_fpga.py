"""FPGA counts: what an array of counted circuits takes, and what is said where there are none."""

import hashlib
import json
from dataclasses import fields, replace
from importlib.resources import as_file, files

import pytest

pytest.importorskip("pyarrow", reason="counts need pyarrow: pip install 'bitwright[cost]'")

from pyarrow import parquet

from bitwright.config import from_text
from bitwright.cost.figure import Fitted, Measured
from bitwright.cost.fpga import (
    FAMILIES,
    FILE,
    RESOURCES,
    FpgaRow,
    FpgaTable,
    count_cells,
    shipped_fpga_table,
    write_fpga_table,
)
from bitwright.cost.table import Row, shipped_table
from bitwright.cost.table_cells import cells_of
from bitwright.cost.table_file import STAMP, stamp_of
from bitwright.cost.table_row import CircuitRow
from bitwright.gemm import Gemm, LayerGemm

WRAPPING = "integer(8, 8, accumulator_bits={}, overflow=Overflow.WRAP)"
LAYER = LayerGemm("layer", Gemm(m=64, k=256, n=32))


def counts(scheme, family="xc7", table=None):
    return count_cells(((LAYER, from_text(scheme)),), family, table)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_counted_element_is_answered_as_it_was_counted(family):
    rows = [row for row in shipped_fpga_table().rows if (row.family, row.unit) == (family, "element")]
    (row,) = [row for row in rows if (row.x, row.w, row.register_bits, row.saturates) == ("s9", "s8", 24, False)]
    cell = counts(WRAPPING.format(24), family).cell
    assert {name: figure.value for name, figure in cell.items()} == {name: getattr(row, name) for name in RESOURCES}
    assert all(isinstance(figure, Measured) for figure in cell.values())


def test_a_register_that_was_not_counted_lies_on_a_line_with_its_error():
    narrow, between, wide = (counts(WRAPPING.format(bits)).cell["flip_flops"] for bits in (24, 27, 30))
    assert between.value == (narrow.value + wide.value) / 2 == narrow.value + 3
    assert isinstance(between, Fitted)


def test_an_array_has_its_cells_and_its_edge():
    found = counts("integer(8, 8)")
    array = found.array(3, 5)
    for name in RESOURCES:
        assert (
            array[name].value == 15 * found.cell[name].value + 3 * found.row[name].value + 5 * found.column[name].value
        )


def test_every_count_is_of_a_circuit_that_the_table_of_cells_has_checked():
    checked = {row.sha256 for row in shipped_table().of("generic45")}
    assert {row.sha256 for row in shipped_fpga_table().rows} <= checked


@pytest.mark.parametrize("family", FAMILIES)
def test_half_as_many_bits_take_less_than_half_of_the_tables(family):
    small, large = (counts(f"integer({n}, {n})", family).cell["luts"].value for n in (4, 8))
    assert small < large / 2


def test_operands_that_were_not_counted_are_one_sentence():
    with pytest.raises(ValueError, match=r"no circuit for s17 × s16 was counted on xc7; count it by experiments/"):
        counts("integer(16, 16)")


def test_an_fpga_has_no_cells_with_areas():
    with pytest.raises(ValueError, match="xc7 is a family of FPGAs"):
        cells_of("xc7")


def test_a_table_of_ones_own_comes_back_as_it_was_written(tmp_path):
    table = FpgaTable(shipped_fpga_table().rows[:4], "mine", {"yosys": "one"})
    write_fpga_table(table, tmp_path / "fpga.parquet")
    about, rows = FILE.read(tmp_path / "fpga.parquet")
    assert (rows, about["command"]) == (table.rows, "mine")
    twice = FpgaTable(tuple(replace(row, luts=2 * row.luts) for row in shipped_fpga_table().rows), "mine", {})
    assert counts("integer(8, 8)", table=twice).cell["luts"].value == 2 * counts("integer(8, 8)").cell["luts"].value


@pytest.mark.parametrize("row", [Row, FpgaRow])
def test_every_table_says_first_which_circuit_a_row_is(row):
    """The stamps of written tables hold as long as the order of columns does."""
    named = [field.name for field in fields(row)]
    assert named[:9] == [*(field.name for field in fields(CircuitRow)), "library" if row is Row else "family"]


def test_a_stamp_is_over_the_columns_as_the_file_has_them():
    table = shipped_fpga_table()
    with as_file(files("bitwright.cost") / "data" / "fpga.parquet") as path:
        content = parquet.read_table(path)
    about = json.loads(content.schema.metadata[STAMP])
    stamp = about.pop("sha256")
    rows = [list(row.values()) for row in content.to_pylist()]
    assert stamp == stamp_of(table.about(), table.rows)
    assert stamp == hashlib.sha256(json.dumps([about, rows], sort_keys=True).encode()).hexdigest()
