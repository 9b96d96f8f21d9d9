"""The page of a search: self-contained, safe, its columns sorted by what they show, and complete for what was found."""

import csv
import json
import re
import shutil
import subprocess
from dataclasses import replace

import pytest

from bitwright.report import notation, search, search_page
from bitwright.result_search import Costs, Design, Figures, Gain, Machine, Point, SearchResult, Trust

HOSTILE = "</script><script>alert(1)</script>{{ 7 * 7 }}"
SCHEMES = ("integer(8, 8)", "nvfp4()")


def point(first, second, metric, energy, origin="search"):
    figures = Figures(metric, metric - 1, 99.0, 20.0, 40, 0.1)
    costs = Costs(1.5, 0.2, energy, 0.01, 5000.0, 12000.0, 18.0, ("measured",))
    return Point(Design((("conv1", first), ("head", second)), Machine("16x16")), costs, 2e-3, figures, origin)


@pytest.fixture
def result(comparison):
    wide, narrow = SCHEMES
    points = (point(wide, wide, 98.0, 5.0, "uniform"), point(wide, narrow, 97.5, 4.0), point(narrow, narrow, 90.0, 3.0))
    damages = (("conv1", wide, 7.8e-6), ("conv1", narrow, 5.2e-5), ("head", wide, 1.3e-7), ("head", narrow, 0.0))
    return SearchResult(
        comparison.info, ("energy<=6uJ",), ("energy",), SCHEMES, (Machine("16x16"),), "generic45", "kl", "nsga2", 0, 3,
        3, 0, 0, 1.0, 0.5, 98.5, ("conv1", "head"), damages, (), points, (0, 1, 2), 0, None,
        (Trust("loss of the metric", 0.9, 3),), (Gain(wide, Machine("16x16"), 98.0, 97.0, None, 0.0, 0.0),),
    )  # fmt: skip


def page_of(result, folder):
    search_page.write_report(result, folder / "search.html")
    return (folder / "search.html").read_text()


def test_the_page_fetches_nothing_and_is_the_same_twice(result, tmp_path):
    page = page_of(result, tmp_path)
    assert page == page_of(result, tmp_path)
    assert not re.findall(r"<(?:script|link|img)[^>]*\b(?:src|href)=\"(?!data:)", page)


def test_hostile_names_stay_text(result, tmp_path):
    layers = ("conv1", HOSTILE)
    points = tuple(
        replace(p, design=replace(p.design, layers=tuple(zip(layers, (SCHEMES[0], HOSTILE), strict=True))))
        for p in result.points
    )
    page = page_of(replace(result, layers=layers, points=points, schemes=(*SCHEMES, HOSTILE)), tmp_path)
    assert "<script>alert(1)" not in page
    assert "{{ 7" in page
    for text in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page):
        json.loads(text)


def test_where_every_evaluation_fails_the_finding_says_why(result):
    figures = Figures(0.0, None, None, None, 40, 0.1, "conv1 overflows")
    failing = replace(result.points[0], figures=figures)
    told = search.finding(replace(result, points=(failing,), front=(), chosen=None, nearest=failing))
    assert f"{told.before}{told.scheme}{told.after}" == "No design could be evaluated: conv1 overflows."


def test_the_verdict_says_by_how_much_mixed_designs_lose(result):
    own = result.gains[0]
    beaten = replace(own, mixed=1, mixed_gain=0.5, mixed_held_out_gain=-0.1)
    lost = replace(own, mixed=1, mixed_gain=-1.25, mixed_held_out_gain=0.0)
    assert search.verdict(replace(result, gains=(own, beaten, lost, lost))) == (
        "Mixed designs of no more area × delay and energy beat 1 of 4 uniform ones (0 of them on held-out samples "
        "too), equal 0 and lose to 2, by 1.25 points at most; beside 1 there is no mixed design that takes as little."
    )
    assert "beat 0 of 1 uniform ones; beside 1 there is" in search.verdict(result)


def test_columns_are_sorted_by_the_numbers_that_they_show(result, tmp_path):
    cells = re.findall(r'<td data-key="([^"]*)" class="(\w+)">([^<]*)</td>', page_of(result, tmp_path))
    keys = {shown: (key, kind) for key, kind, shown in cells}
    assert keys["7.80×10⁻⁶"] == ("7.8e-06", "number")
    assert keys["16x16"] == ("16x16", "text")
    assert keys["nvfp4()"] == ("nvfp4()", "text")


def test_costs_that_are_not_known_are_no_numbers(result, tmp_path):
    lost = replace(result.points[0], costs=None, figures=None, refused="no such cell")
    search_page.write_csv(replace(result, points=(*result.points, lost)), tmp_path / "designs.csv")
    *_, row = csv.DictReader((tmp_path / "designs.csv").read_text().splitlines())
    assert (row["area_mm2"], row["energy_uj"], row["cycles"], row["breaks"]) == ("", "", "", "no such cell")


def test_what_stands_behind_the_cells_is_said_in_the_terminal_too(result):
    costs = replace(result.points[0].costs, left_out=("slower than asked for",))
    said = search_page.lines(replace(result, points=(replace(result.points[0], costs=costs), *result.points[1:])))
    assert "its cells: slower than asked for" in said


@pytest.mark.parametrize(
    ("text", "value"),
    [("−0.67", -0.67), ("+1.50", 1.5), ("1.23×10⁻⁶", 1.23e-6), ("−2.00×10⁷", -2e7), ("<16", 16.0), ("1,234", 1234.0),
     ("16x16", None), ("–", None), ("e5", None), ("", None)],
)  # fmt: skip
def test_a_text_that_shows_a_number_has_its_value(text, value):
    assert notation.value(text) == value


@pytest.mark.parametrize("number", [0.0, -0.5, 12.25, 1e6, -3e8, 2.5e-7])
def test_what_notation_writes_it_reads(number):
    assert notation.value(notation.scientific(number)) == pytest.approx(number, rel=5e-3)
    assert notation.value(notation.decimal(number, 2)) == pytest.approx(number, rel=5e-3, abs=5e-3)


def test_a_key_has_room_for_each_scheme_whatever_the_front_is(result):
    many = replace(result, schemes=tuple(f"integer({n}, 8)" for n in range(20, 38)) + SCHEMES)
    figure = search.layers_plot(many)
    margin, bar = figure["layout"]["margin"], figure["data"][0]["colorbar"]
    assert bar["len"] == search.KEY * 20 <= figure["layout"]["height"] - margin["t"]


def test_the_table_has_a_line_for_each_design(result, tmp_path):
    search_page.write_csv(result, tmp_path / "designs.csv")
    with (tmp_path / "designs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["metric"], row["energy_uj"], row["head"]) for row in rows] == [
        ("98.0", "5.0", SCHEMES[0]), ("97.5", "4.0", SCHEMES[1]), ("90.0", "3.0", SCHEMES[1])
    ]  # fmt: skip


BROWSER = shutil.which("chromium")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
         "--virtual-time-budget=6000", "--enable-logging=stderr", "--dump-dom")  # fmt: skip


@pytest.mark.skipif(BROWSER is None, reason="chromium is not on PATH")
def test_a_browser_draws_the_three_figures_without_complaint(result, tmp_path):
    page_of(result, tmp_path)
    command = [BROWSER, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", (tmp_path / "search.html").as_uri()]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    body = re.sub(r"<script.*?</script>", "", run.stdout, flags=re.DOTALL)
    assert body.count('class="main-svg"') >= 3
    assert "beat 0 of 1 uniform ones" in body
    assert "CONSOLE" not in run.stderr
