"""The section of prices: there only where an array was given, equal to the CSV, complete where prices are missing."""

import csv
import json
import re
import shutil
import subprocess
from dataclasses import fields, replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bitwright.report import write_csv, write_report
from bitwright.report.palette import PART_COLOURS
from bitwright.report.silicon import csv_columns, priced_rows, table_cells, table_columns
from bitwright.report.silicon_plots import SCATTERS, parts_plot, silicon_figures
from bitwright.result import ArrayWires, Comparison, Hardware, Priced, SchemePrice, Silicon, Wires

HARDWARE = Hardware(32, 32, "weight stationary", 128.0, 128.0, 128.0, "LPDDR4", 256, 500.0)
PARTS = tuple((part, 10.0 + i) for i, part in enumerate(PART_COLOURS))
HOSTILE = "</script><img src=x onerror=alert(2)>\"'&{{ 7 * 7 }}"


def price(scheme: str, i: int) -> SchemePrice:
    bits = 4 + i % 5
    operand = Wires(bits, bits + 1, i % 3, i % 2, 0, is_decoded=True)
    return SchemePrice(
        scheme, Priced(1.25 + i / 7, ("fitted", "measured"), ("CACTI", "generic45")),
        Priced(2.5 + i / 3, ("cited", "fitted", "measured"), ("LPDDR4", "CACTI", "generic45")),
        Priced(0.0123 + i / 900, ("counted",), ("cycles",)), array_mm2=0.3 + i / 9, array_uj=0.1, sram_uj=0.5,
        dram_uj=1.9, cycles=1000 + i, utilization=0.25, wires=ArrayWires(operand, operand, 16 + i, None, None, False,
        is_serial=False), parts_um2=PARTS, parts_sum_bits=24, parts_source="generic45, yosys",
        left_out=("pool: no matrix product",),
    )  # fmt: skip


@pytest.fixture(scope="session")
def priced(comparison: Comparison) -> Comparison:
    """Every scheme with a price, but one with a sentence, one with published cells and one without parts."""
    prices = [price(row.scheme, i) for i, row in enumerate(comparison.rows)]
    prices[1] = SchemePrice(prices[1].scheme, error="no integer array multiplies this")
    prices[0] = replace(prices[0], is_published=True)
    prices[3] = replace(prices[3], parts_um2=(), parts_note="nobody measured it")
    return replace(comparison, silicon=Silicon(HARDWARE, tuple(prices), ("slower than asked for",)))


def written(comparison: Comparison, folder: Path) -> str:
    write_report(comparison, folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")


def section(text: str) -> str:
    return text.partition('<section id="silicon">')[2].partition("</section>")[0]


class Rows(HTMLParser):
    """Sort keys and texts of the cells of a table's body, a scheme each."""

    def __init__(self, text: str):
        super().__init__()
        self.found: dict[str, list[tuple[str, str]]] = {}
        self._scheme: str | None = None
        self._is_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        about = dict(attrs)
        if tag == "tr":
            self._scheme = about.get("data-scheme")
        self._is_cell = tag == "td" and self._scheme is not None
        if self._is_cell:
            self.found.setdefault(self._scheme, []).append((about["data-key"], ""))

    def handle_data(self, data: str) -> None:
        if self._is_cell:
            key, text = self.found[self._scheme][-1]
            self.found[self._scheme][-1] = (key, text + data)


def test_a_comparison_without_an_array_has_no_section_figure_or_column(comparison, tmp_path):
    text = written(comparison, tmp_path)
    assert 'id="silicon"' not in text
    assert "Accuracy and silicon" not in text
    assert silicon_figures(comparison) == {}
    write_csv(comparison, tmp_path / "t.csv")
    header = (tmp_path / "t.csv").read_text().splitlines()[0]
    assert "area_mm2" not in header


def test_sections_and_figures_are_numbered_without_a_gap(priced, comparison, tmp_path):
    for each in (priced, comparison):
        text = written(each, tmp_path)
        for numbers in (re.findall(r"<h2><span>(\d+)</span>", text), re.findall(r"<b>Figure (\d+)\.</b>", text)):
            assert [int(n) for n in numbers] == list(range(1, len(numbers) + 1))


def test_values_of_the_page_are_those_of_the_csv_file(priced, tmp_path):
    rows = Rows(section(written(priced, tmp_path))).found
    write_csv(priced, tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(encoding="utf-8", newline="") as file:
        lines = {line["scheme"]: line for line in csv.DictReader(file)}
    columns = [column.key for column in table_columns(priced)[1:]]
    shared = [key for key in columns if key in {column.key for column in csv_columns()} | {"metric"}]
    assert {"metric", "area_mm2", "area_origin", "energy_uj", "energy_origin", "delay_ms", "delay_origin"} == set(
        shared
    )
    assert len(rows) == len(priced_rows(priced)) > 8
    for scheme, cells in rows.items():
        assert {key: cells[columns.index(key)][0] for key in shared} == {key: lines[scheme][key] for key in shared}


def test_a_scheme_without_a_price_keeps_its_row_and_has_a_reason(priced, tmp_path):
    text, scheme = section(written(priced, tmp_path)), priced.rows[1].scheme
    cells = Rows(text).found[scheme]
    assert cells[0][1] != "–"
    assert {cell.strip() for _, cell in cells[1:]} == {"–"}
    assert "no integer array multiplies this" in text
    write_csv(priced, tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(encoding="utf-8", newline="") as file:
        line = list(csv.DictReader(file))[1]
    assert (line["area_mm2"], line["price_error"]) == ("", "no integer array multiplies this")
    assert float(line["metric"]) == priced.rows[1].metric


def test_origins_notes_and_gaps_are_said(priced, tmp_path):
    text = section(written(priced, tmp_path))
    for words in ("fitted + measured (CACTI; generic45)", "slower than asked for", "pool: no matrix product",
                  "nobody measured it", "32 × 32 elements, weight stationary, 500 MHz"):  # fmt: skip
        assert words in text


@pytest.mark.parametrize("name", SCATTERS)
def test_every_priced_scheme_is_a_mark_and_published_cells_are_open_and_off_the_front(priced, name):
    figure = silicon_figures(priced)[name]
    marks = [trace for trace in figure["data"] if trace["mode"] == "markers"]
    shown = {scheme for t in marks for scheme, x in zip(t["customdata"], t["x"]) if x is not None}
    assert shown == {each.row.scheme for each in priced_rows(priced) if each.price.error is None}
    symbols = {}
    for trace in marks:
        symbol = trace["marker"]["symbol"]
        symbols |= dict(zip(trace["customdata"], symbol if isinstance(symbol, list) else [symbol] * len(trace["x"])))
    is_open = symbols[priced.rows[0].scheme].endswith("-open")
    assert is_open == (name != "delay-plot")
    on_front = {y for trace in figure["data"] if trace["mode"] == "lines" for y in trace["y"]}
    assert (priced.rows[0].metric in on_front) != is_open


def test_published_cells_compete_for_no_best_area_but_for_the_metric(priced):
    columns = [column.key for column in table_columns(priced)[1:]]
    best = {key: [] for key in columns}
    for found, line in zip(priced_rows(priced), table_cells(priced), strict=True):
        for key, cell in zip(columns, line, strict=True):
            best[key] += [found.row.scheme] if cell.is_best else []
    assert best["metric"] == best["delay_ms"] == [priced.rows[0].scheme]
    assert best["area_mm2"] == best["energy_uj"] == [priced.rows[2].scheme]  # the second has no price


def test_where_all_cells_are_published_none_is_open(priced):
    prices = tuple(replace(each, is_published=True) for each in priced.silicon.prices)
    alike = replace(priced, silicon=replace(priced.silicon, prices=prices))
    assert "-open" not in json.dumps(silicon_figures(alike))


def test_bars_hold_every_part_of_each_element(priced):
    figure = parts_plot(priced)
    assert [trace["name"] for trace in figure["data"]] == list(PART_COLOURS)
    for i, found in enumerate(each for each in priced_rows(priced) if each.price.parts_um2):
        assert [trace["x"][i] for trace in figure["data"]] == [area for _, area in found.price.parts_um2]


def test_every_priced_scheme_can_be_drawn_and_one_is(priced, tmp_path):
    text = section(written(priced, tmp_path))
    options = re.findall(r'<option value="([^"]*)" data-drawing="(\d+)"', text)
    drawings = re.findall(r'<div class="drawing"( hidden)?>(<svg.*?</svg>)</div>', text, re.DOTALL)
    assert len(options) == sum(each.price.wires is not None for each in priced_rows(priced))
    assert {int(i) for _, i in options} == set(range(len(drawings)))
    assert sum(not hidden for hidden, _ in drawings) == 1
    for _, svg in drawings:
        ElementTree.fromstring(svg)


def test_equal_wires_share_a_drawing(priced, tmp_path):
    same = priced.silicon.prices[0].wires
    prices = tuple(replace(each, wires=each.wires and same) for each in priced.silicon.prices)
    text = section(written(replace(priced, silicon=replace(priced.silicon, prices=prices)), tmp_path))
    assert text.count('<div class="drawing"') == 1


def test_a_comparison_whose_prices_all_failed_says_why(comparison, tmp_path):
    prices = tuple(SchemePrice(row.scheme, error="no price at all") for row in comparison.rows)
    text = written(replace(comparison, silicon=Silicon(HARDWARE, prices)), tmp_path)
    assert "no price at all" in section(text)
    assert not any(f'data-figure="{name}"' in text for name in SCATTERS)


def test_hostile_words_of_prices_stay_text(priced, tmp_path):
    prices = tuple(
        replace(each, parts_note=HOSTILE, parts_source=HOSTILE, left_out=(HOSTILE,), error=each.error and HOSTILE)
        for each in priced.silicon.prices
    )
    silicon = replace(priced.silicon, prices=prices, notes=(HOSTILE,), hardware=replace(HARDWARE, dram=HOSTILE))
    text = section(written(replace(priced, silicon=silicon), tmp_path))
    assert "<img" not in text
    assert "<script" not in text


def test_twenty_four_schemes_add_less_than_two_hundred_kilobytes(comparison, tmp_path):
    base = [row for row in comparison.rows if row.error is None]
    rows = tuple(replace(base[i % len(base)], scheme=f"{base[i % len(base)].scheme[:-1]}, {i})") for i in range(24))
    bare = replace(comparison, rows=rows)
    prices = tuple(price(row.scheme, i) for i, row in enumerate(rows))
    assert len({each.wires for each in prices}) == 24
    full = replace(bare, silicon=Silicon(HARDWARE, prices))
    assert len(written(full, tmp_path).encode()) - len(written(bare, tmp_path).encode()) < 200_000


def test_every_record_of_prices_has_a_name_for_its_unit():
    names = {f.name for f in fields(SchemePrice) if "float" in str(f.type) or "Priced" in str(f.type)}
    assert {name.rpartition("_")[2] for name in names if name != "utilization"} <= {"mm2", "uj", "ms", "um2"}


BROWSER = shutil.which("chromium")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
         "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
         "--virtual-time-budget=6000", "--enable-logging=stderr")  # fmt: skip


@pytest.mark.skipif(BROWSER is None, reason="chromium is not on PATH")
def test_a_click_on_a_mark_draws_that_array_and_marks_its_row(priced, tmp_path):
    page, scheme = tmp_path / "click.html", priced.rows[5].scheme
    click = (
        f"<script>setTimeout(() => document.getElementById('area-plot').emit('plotly_click', "
        f"{{ points: [{{ customdata: {json.dumps(scheme)} }}] }}), 500)</script></body>"
    )
    page.write_text(written(priced, tmp_path).replace("</body>", click), encoding="utf-8")
    command = [BROWSER, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    body = re.sub(r"<script.*?</script>", "", run.stdout, flags=re.DOTALL)
    assert "CONSOLE" not in run.stderr
    (row,) = re.findall(r'<tr[^>]*class="chosen"[^>]*>', body)
    assert f'data-scheme="{scheme}"' in row
    index = re.search(rf'<option value="{re.escape(scheme)}" data-drawing="(\d+)"', body)[1]
    drawings = re.findall(r'<div class="drawing"([^>]*)>', body)
    assert [i for i, about in enumerate(drawings) if "hidden" not in about] == [int(index)]
