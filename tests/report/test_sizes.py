"""What stored weights could shrink to, in the page and in the CSV files."""

import csv
from dataclasses import replace

import pytest

from bitwright.report import write_csv, write_layers_csv, write_report
from bitwright.report.sizes import layer_cells, layer_columns, layer_note, scheme_cells, scheme_columns, whole
from bitwright.result import Comparison, Compressibility


def sizes(index: int) -> Compressibility:
    """Of 1000 weights of 4 bits with a scale of 8 bits for each 100."""
    zeros = 100 * index
    return Compressibility(1000, zeros, 80, 4000, 3000.0 - zeros, 1000 + 4 * (1000 - zeros), 12 * (1000 - zeros),
                           3600, 3400)  # fmt: skip


@pytest.fixture(scope="module")
def sized(comparison: Comparison) -> Comparison:
    """Two schemes with sizes, of which the second has one layer more in float, one without, and a failure."""
    first, second, third, *_, failed = comparison.rows
    layers = tuple(replace(layer, weight_sizes=sizes(i)) for i, layer in enumerate(first.layers[:4]))
    return Comparison(comparison.info, (
        replace(first, layers=layers), replace(second, layers=(*layers[:2], second.layers[2])), third, failed,
    ))  # fmt: skip


def rows_of(path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_report_without_sizes_has_no_such_section(comparison, tmp_path):
    write_report(comparison, tmp_path / "report.html")
    assert "Stored weights" not in (tmp_path / "report.html").read_text()


def test_the_page_lists_schemes_and_layers(sized, tmp_path):
    write_report(sized, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    section = page[page.index('<section id="sizes">') : page.index('<section id="coverage">')]
    assert section.count("<details>") == 2
    assert 'href="#sizes"' in page
    assert "4 layers; most zeros in stage1.1.conv1: 30.0 %" in section


def test_the_network_is_the_sum_of_its_layers(sized):
    row = sized.rows[0]
    assert whole(row).elements == 4000
    assert whole(row).sparsity == 0.15
    assert whole(sized.rows[1]).elements == 2000, "the layer in float has no codes"
    assert whole(sized.rows[2]) is None


def test_ratios_count_the_scales():
    one = sizes(0)
    assert one.entropy == 3.0
    assert one.over_float == 32_000 / 3080
    assert one.over_packed == 4080 / 3080


def test_every_line_has_a_cell_for_every_column(sized):
    assert {len(line) + 1 for line in scheme_cells(sized)} == {len(scheme_columns(sized))}
    assert {len(line) for line in layer_cells(sized, sized.rows[0])} == {len(layer_columns(sized))}


def test_the_best_of_each_column_is_marked(sized):
    zeros = [line[0] for line in scheme_cells(sized)]
    assert [(cell.text, cell.is_best) for cell in zeros] == [("15.0", True), ("5.0", False)]


def test_the_note_names_no_layer_where_none_has_zeros(sized):
    assert layer_note(replace(sized.rows[0], layers=sized.rows[0].layers[:1])) == "1 layer"


def test_the_schemes_file_has_sizes_in_bytes_scales_included(sized, tmp_path):
    write_csv(sized, tmp_path / "results.csv")
    first, _, third, failed = rows_of(tmp_path / "results.csv")
    assert float(first["packed_bytes"]) == 4 * (4000 + 80) / 8
    assert float(first["lzma_bytes"]) == 4 * (3600 + 80) / 8
    assert third["lzma_bytes"] == failed["lzma_bytes"] == ""


def test_the_layers_file_has_a_line_for_each_layer_of_each_scheme(sized, tmp_path):
    write_layers_csv(sized, tmp_path / "layers.csv")
    lines = rows_of(tmp_path / "layers.csv")
    assert [(line["scheme"], line["layer"]) for line in lines] == [
        (row.scheme, layer.name) for row in sized.rows for layer in row.layers
    ]
    assert float(lines[1]["weight_entropy_bits"]) == 2.9
    with (tmp_path / "layers.csv").open() as file:
        header = next(csv.reader(file))
    assert len(header) == len(set(header))
