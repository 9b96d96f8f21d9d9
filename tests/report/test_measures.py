"""Sections of schemes that overwrite neighbours or multiply terms: present where there is something to show."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from bitwright.report import lanes, write_report
from bitwright.report.neighbours import coverage_plot, layer_cells, layer_columns
from bitwright.report.term_pairs import millions, pairs_plot
from bitwright.result import Comparison, LaneRow, NeighbourResult, OutlierCoverage, TermPairs

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{ 7 * 7 }}"

LANES = LaneRow(
    layer="stage2.0.conv1", first_lane=32, tile=4, largest=15.0, radix=16,
    levels=(2.1, 22.6, 3.0, 0.2, 7.4, 0.0, 0.0, 40.0), plain=(2.0, 15.0, 3.0, 0.0, 7.0, 0.0, 0.0, 15.0),
    digits=(2.0, 7.0, 1.0, 3.0, 7.0, 6.0, 0.0, 15.0),
    states=("OWN", "OWN", "HIGH", "MOVED", "OWN", "LOW", "OWN", "OWN"),
    decoded=(2.0, 23.0, 3.0, 0.0, 7.375, 0.0, 0.0, 15.0),
)  # fmt: skip


def neighbour(index: int, cascade: int = 4, precise: float | None = None) -> NeighbourResult:
    zeros = 0.3 + 0.05 * index
    coverage = tuple(
        OutlierCoverage(c, 1 - (1 - zeros) ** c, 0.9 - 0.9 * (1 - zeros) ** c, 0.95 - 0.95 * (1 - zeros) ** c)
        for c in (1, 2, 4, 8)
    )
    return NeighbourResult(f"stage{index}.conv", 32, 32, 262_144, zeros, 0.01, cascade, coverage, precise)


def pairs(index: int, saving: float) -> TermPairs:
    macs = 1e6 * (1 + index)
    return TermPairs(f"stage{index}.conv", macs, 64 * macs, 64 * macs / saving, 30 * macs / saving, True)


def plain(index: int) -> TermPairs:
    macs = 1e6 * (1 + index)
    return TermPairs(f"stage{index}.conv", macs, 49 * macs, 49 * macs, 49 * macs, False)


@pytest.fixture(scope="module")
def measured(comparison: Comparison) -> Comparison:
    """Two schemes that overwrite, two with terms, one of plain integers, and one without a figure of its own."""
    first, second, third, fourth, fifth, sixth, *_ = comparison.rows
    layers = range(4)
    return Comparison(comparison.info, (
        replace(first, term_pairs=tuple(map(plain, layers))),
        replace(second, scheme="overq(4)", neighbours=tuple(map(neighbour, layers)),
                lane_row=replace(LANES, states=("OWN", "OWN", "HIGH", "MOVED", *["OWN"] * 4))),
        replace(third, scheme="overq(4, cascade=1, precision_overwrite=True)", lane_row=LANES,
                neighbours=(neighbour(0, 1, 0.4), replace(neighbour(1, 1, 0.3), coverage=()))),
        replace(fourth, scheme="term_revealing()", term_pairs=tuple(pairs(i, 14) for i in layers)),
        replace(fifth, scheme="term_revealing(budget=8)", term_pairs=tuple(pairs(i, 28) for i in layers)),
        sixth,
    ))  # fmt: skip


@pytest.fixture(scope="module")
def hostile(measured: Comparison) -> Comparison:
    def named(row, number):
        return replace(
            row, scheme=f"{HOSTILE}{number}", lane_row=row.lane_row and replace(row.lane_row, layer=HOSTILE),
            neighbours=tuple(replace(layer, name=HOSTILE) for layer in row.neighbours),
            term_pairs=tuple(replace(layer, name=HOSTILE) for layer in row.term_pairs),
        )  # fmt: skip

    return replace(measured, rows=tuple(named(row, i) for i, row in enumerate(measured.rows)))


def written(comparison: Comparison, folder: Path) -> str:
    """The page without its scripts' code."""
    write_report(comparison, folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")


def figures(page: str) -> dict[str, dict]:
    found = re.findall(r'<script type="application/json" data-figure="([^"]*)">(.*?)</script>', page, re.DOTALL)
    return {name: json.loads(text) for name, text in found}


def headings(page: str) -> list[str]:
    return [f"{number} {text}" for number, text in re.findall(r"<h2><span>(\d+)</span>([^<]*)</h2>", page)]


def test_a_report_without_such_rows_has_neither_section(comparison, tmp_path):
    page = written(comparison, tmp_path)
    assert headings(page)[3:] == ["4 Value grids", "5 Coverage", "6 Provenance"]
    assert set(figures(page)) == {"bits-plot", "layers-plot"}
    assert "#neighbours" not in page
    assert "#pairs" not in page


def test_sections_are_numbered_in_order(measured, tmp_path):
    page = written(measured, tmp_path)
    assert headings(page)[3:] == [
        "4 Value grids", "5 Overwritten neighbours", "6 Term pairs", "7 Coverage", "8 Provenance",
    ]  # fmt: skip
    assert re.findall(r"<b>(Figure \d)\.", page) == [f"Figure {i}" for i in range(1, 7)]
    assert re.findall(r"<b>(Table \d)\.", page) == ["Table 1", "Table 2", "Table 3"]
    assert set(re.findall(r'href="#(\w+)"', page)) == set(re.findall(r'<section id="(\w+)"', page))


def test_plain_integers_alone_have_no_term_pairs_to_show(measured, tmp_path):
    page = written(replace(measured, rows=(measured.rows[0], measured.rows[1])), tmp_path)
    assert "Term pairs" not in page
    assert pairs_plot(replace(measured, rows=measured.rows[:1])) is None


def test_same_measures_give_the_same_bytes(measured, tmp_path):
    assert written(measured, tmp_path) == written(measured, tmp_path)


def test_hostile_names_of_measures_add_no_element(hostile, tmp_path):
    page = written(hostile, tmp_path)
    assert "<img" not in re.sub(r"<script>.*?</script>", "", page, count=1, flags=re.DOTALL)
    assert "<script>alert" not in page
    text = json.dumps(figures(page))
    assert "<img" not in text


def test_every_overwriting_scheme_has_a_panel_with_its_layers(measured):
    figure = coverage_plot(measured)
    thin = [trace for trace in figure["data"] if trace["name"] == "a layer, measured"]
    assert [trace["yaxis"] for trace in thin] == ["y", "y2"]
    assert [sum(y is not None for y in trace["y"]) for trace in thin] == [4 * 4, 4]
    assert [note["text"] for note in figure["layout"]["annotations"]] == [
        "<b>overq(4)</b>", "<b>overq(4, cascade=1, precision_overwrite=True)</b>",
    ]  # fmt: skip
    assert [line["x0"] for line in figure["layout"]["shapes"]] == [4, 1]


def test_the_thick_line_is_the_median_of_the_layers(measured):
    (thick, *_) = [trace for trace in coverage_plot(measured)["data"] if trace["name"] == "median, measured"]
    layers = measured.rows[1].neighbours
    middle = [(layers[1].coverage[i].measured + layers[2].coverage[i].measured) / 2 for i in range(4)]
    assert thick["y"] == pytest.approx([100 * value for value in middle])


def test_many_schemes_have_panels_that_do_not_overlap(measured):
    row = measured.rows[1]
    rows = tuple(replace(row, scheme=f"overq({i})") for i in range(5))
    layout = coverage_plot(replace(measured, rows=rows))["layout"]
    spans = [
        (*layout[f"xaxis{n}"]["domain"], *layout[f"yaxis{n}"]["domain"])
        for n in ("", "2", "3", "4", "5")
    ]  # fmt: skip
    for i, (left, right, low, high) in enumerate(spans):
        assert 0 <= left < right <= 1
        assert -1e-9 <= low < high <= 1
        assert not any(
            left < r and o_left < right and low < h and o_low < high for o_left, r, o_low, h in spans[i + 1 :]
        )


def test_a_layer_without_outliers_says_so(measured):
    cells = layer_cells(measured.rows[2])
    assert [cell.note for cell in cells[1]].count("no outliers") == 12
    assert len(cells[0]) == len(layer_columns(measured.rows[2]))


def test_the_own_cascade_is_bold(measured):
    columns = layer_columns(measured.rows[1])
    bold = [column.key for column, cell in zip(columns, layer_cells(measured.rows[1])[0]) if cell.is_best]
    assert bold == ["measured_4", "expected_4", "shuffled_4"]


def test_the_lanes_show_every_digit_and_state():
    drawing = lanes.svg(LANES)
    digits = re.findall(r'class="digit"[^>]*>([^<]*)<', drawing)
    assert digits == ["2", "15", "3", "0", "7", "0", "0", "15", "2", "7", "1", "3", "7", "6", "0", "15"]
    assert re.findall(r'class="letter"[^>]*>(\w)<', drawing) == ["H", "M", "F"]
    assert re.findall(r'class="sum"[^>]*>([^<]*)<', drawing) == ["7+1·16", "7+6/16"]


def test_an_outlier_that_found_no_zero_is_shown_as_lost():
    before, after = lanes.svg(LANES).split('class="letter"')[0], lanes.svg(LANES).split('class="sum"')[-1]
    assert before.count("#fbe9df") == 4  # outline and cell of each outlier
    assert after.count("#fbe9df") == 1


@pytest.mark.parametrize(
    "change",
    [
        {"levels": (-2.1, -400.0, 3.0, 0.2, 7.4, 0.0, 0.0, 40.0), "decoded": (-2.0, -255.0, *LANES.decoded[2:])},
        {"levels": (0.0,) * 8, "plain": (0.0,) * 8, "digits": (0.0,) * 8, "decoded": (0.0,) * 8},
        {name: getattr(LANES, name)[:1] for name in ("levels", "plain", "digits", "states", "decoded")},
        {name: getattr(LANES, name) * 4 for name in ("levels", "plain", "digits", "states", "decoded")},
    ],
    ids=["signed and beyond the frame", "all zero", "one lane", "32 lanes"],
)
def test_odd_rows_of_lanes_are_drawn_inside_the_frame(change):
    drawing = lanes.svg(replace(LANES, **change))
    assert "nan" not in drawing
    assert all(float(x) <= 1040 for x in re.findall(r' x="([\d.]+)"', drawing))
    assert all(float(y) > 0 for y in re.findall(r' y="([-\d.]+)"', drawing))


def test_the_picture_with_most_kinds_of_states_comes_first(measured, tmp_path):
    page = written(measured, tmp_path)
    first = page.partition('<div class="lanes">')[2]
    assert first.index("precision_overwrite") < first.index("<details")


def test_every_scheme_with_pairs_is_drawn_once_and_bounds_with_it(measured):
    figure = pairs_plot(measured)
    marks = [trace for trace in figure["data"] if trace["mode"] == "markers"]
    counted = [trace["x"][0] for trace in marks if "bound" not in trace["name"]]
    bounds = [trace["x"][0] for trace in marks if "bound" in trace["name"]]
    assert counted == [millions(measured.rows[i], "counted") for i in (0, 3, 4)]
    assert bounds == [millions(measured.rows[i], "bound") for i in (3, 4)]
    labels = {note["text"] for note in figure["layout"]["annotations"]}
    assert {"term_revealing()", "term_revealing(budget=8)", "integer(8, 8)"} <= labels


def test_a_bound_that_does_not_hold_is_told(measured, tmp_path):
    row = measured.rows[3]
    short = replace(row.term_pairs[0], name="conv1", counted=2 * row.term_pairs[0].bound)
    rows = (*measured.rows[:3], replace(row, term_pairs=(short, *row.term_pairs[1:])))
    assert "counted beyond the bound in conv1" in written(replace(measured, rows=rows), tmp_path)
    assert "counted beyond the bound" not in written(measured, tmp_path)


BROWSER = shutil.which("chromium")


@pytest.mark.skipif(BROWSER is None, reason="chromium is not on PATH")
@pytest.mark.parametrize("name", ["measured", "hostile"])
def test_a_browser_draws_the_measures_without_complaint(name, request, tmp_path):
    page = tmp_path / "report.html"
    write_report(request.getfixturevalue(name), page)
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
             "--disable-background-networking", "--disable-sync", "--virtual-time-budget=6000",
             "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom")  # fmt: skip
    command = [BROWSER, *flags, page.as_uri()]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    body = re.sub(r"<script.*?</script>", "", run.stdout, flags=re.DOTALL)
    assert all(
        re.search(f'id="{name}"[^>]*><div class="plot-container', body) for name in ("neighbours-plot", "pairs-plot")
    )
    assert "CONSOLE" not in run.stderr
