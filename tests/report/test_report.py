"""The report page: self-contained, safe, deterministic, and complete for what a comparison may hold."""

import csv
import json
import math
import re
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from bitwright.report import summary_columns, summary_rows, write_csv, write_report
from bitwright.report.finding import finding, pareto, standard_error
from bitwright.report.labels import Label, boxes, overlap, place
from bitwright.report.notation import DASH, decimal, per_cent, signed, size
from bitwright.report.pictures import svg
from bitwright.report.provenance import bibtex, coverage_tables
from bitwright.report.scatter import scatter
from bitwright.result import Comparison, LayerResult, SchemeResult

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{ 7 * 7 }}"


class Page(HTMLParser):
    """Elements of a page with their attributes; scripts with their text."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open == "script":
            self.scripts[-1] += data
        elif self._open != "style":
            self.words.append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def written(comparison: Comparison, folder: Path) -> str:
    write_report(comparison, folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")


def emptied(record: LayerResult | SchemeResult) -> LayerResult | SchemeResult:
    """The record with every figure that may be None so."""
    optional = [f.name for f in fields(record) if f.name != "error" and type(None) in getattr(f.type, "__args__", ())]
    return replace(record, **dict.fromkeys(optional))


@pytest.fixture(scope="module")
def page(comparison: Comparison, tmp_path_factory) -> Page:
    return Page(written(comparison, tmp_path_factory.mktemp("page")))


@pytest.fixture(scope="module")
def hostile(comparison: Comparison) -> Comparison:
    first = comparison.rows[0]
    layer = replace(first.layers[0], name=HOSTILE, kind=HOSTILE, input_format=HOSTILE)
    coverage = replace(first.coverage[0], name=HOSTILE, kind=HOSTILE, status=HOSTILE, reason=HOSTILE)
    picture = replace(first.pictures[0], layer=HOSTILE, operand=HOSTILE, format=HOSTILE)
    row = replace(first, scheme=HOSTILE, title=HOSTILE, layers=(layer,), coverage=(coverage,), pictures=(picture,))
    failed = replace(comparison.rows[-1], scheme=HOSTILE + "2", error=HOSTILE)
    text = {f.name: HOSTILE for f in fields(comparison.info) if f.type is str}
    info = replace(comparison.info, **text, hashes={HOSTILE: HOSTILE}, versions={HOSTILE: HOSTILE})
    return Comparison(info, (row, failed))


def test_page_refers_to_nothing_outside_itself(page):
    references = [
        value
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "action", "data", "poster", "xlink:href")
    ]
    assert references
    assert all(value.startswith(("#", "data:")) for value in references)


def test_style_of_the_page_fetches_nothing(comparison, tmp_path):
    style = re.search(r"<style>(.*?)</style>", written(comparison, tmp_path), re.DOTALL).group(1)
    assert "url(" not in style
    assert "@import" not in style


def test_policy_of_the_page_forbids_fetching(page):
    (policy,) = [attributes["content"] for _, attributes in page.elements if "http-equiv" in attributes]
    assert "default-src 'none'" in policy
    assert "http" not in policy


def test_plotly_is_inline_once(page):
    assert sum("plotly.js v" in script for script in page.scripts) == 1


def test_same_comparison_gives_the_same_bytes(comparison, tmp_path):
    assert written(comparison, tmp_path) == written(comparison, tmp_path)


def test_order_of_hashes_and_versions_changes_nothing(comparison, tmp_path):
    info = comparison.info
    turned = replace(info, hashes=dict(reversed(info.hashes.items())), versions=dict(reversed(info.versions.items())))
    assert written(comparison, tmp_path) == written(replace(comparison, info=turned), tmp_path)


def test_bytes_do_not_depend_on_the_hash_seed(tmp_path):
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import conftest as c\n"
        "from pathlib import Path; from bitwright.report import write_report\n"
        "rows = tuple(c.scheme_result(i, s[5], 0) for i, s in enumerate(c.SCHEMES[:3]))\n"
        "write_report(c.Comparison(c.INFO, rows), Path(sys.argv[2]))"
    )
    for seed in "01":
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)}
        command = [sys.executable, "-c", program, str(Path(__file__).parent), str(tmp_path / seed)]
        subprocess.run(command, env=environment, check=True)
    assert (tmp_path / "0").read_bytes() == (tmp_path / "1").read_bytes()


def test_hostile_names_add_no_element(hostile, tmp_path):
    page = Page(written(hostile, tmp_path))
    assert page.count("img") == 0
    assert not any("onerror" in attributes for _, attributes in page.elements)
    # plotly, two figures, the page's own
    assert page.count("script") == 4


def test_hostile_names_are_shown_as_they_are(hostile, tmp_path):
    page = Page(written(hostile, tmp_path))
    assert HOSTILE in page.words


def test_hostile_names_stay_text_in_figures(hostile, tmp_path):
    page = Page(written(hostile, tmp_path))
    figures = [json.loads(script) for script in page.scripts if script.startswith("{")]
    assert len(figures) == 2
    assert "<script" not in json.dumps(figures)
    assert "<img" not in json.dumps(figures)


def test_every_scheme_has_a_line(page, comparison):
    for row in comparison.rows:
        assert row.scheme in page.words


def test_a_failed_scheme_shows_its_sentence(page, comparison):
    assert comparison.rows[-1].error in page.words


def test_a_comparison_without_rows_has_a_page(comparison, tmp_path):
    page = Page(written(Comparison(comparison.info), tmp_path))
    assert "No scheme was compared." in page.words


def test_a_comparison_of_failures_has_a_page(comparison, tmp_path):
    page = Page(written(replace(comparison, rows=comparison.rows[-1:]), tmp_path))
    assert "None of the 1 scheme produced a result." in page.words


def test_a_single_scheme_has_a_page_without_best_marks(comparison, tmp_path):
    text = written(replace(comparison, rows=comparison.rows[:1]), tmp_path)
    assert not any("best" in (a.get("class") or "").split() for _, a in Page(text).elements)


def test_a_scheme_without_figures_shows_dashes_with_reasons(comparison, tmp_path):
    row = comparison.rows[0]
    bare = replace(emptied(row), layers=tuple(map(emptied, row.layers)))
    page = Page(written(replace(comparison, rows=(bare,)), tmp_path))
    absent = [a for tag, a in page.elements if tag == "td" and "absent" in (a.get("class") or "")]
    assert len(absent) > 100
    assert all(attributes.get("title") for attributes in absent)
    assert "None" not in "".join(page.words).replace("None of the", "")


def test_figures_without_limit_have_a_page(comparison, tmp_path):
    row, infinite = comparison.rows[0], math.inf
    layer = replace(row.layers[0], output_sqnr_db=infinite, weight_sqnr_db=math.nan)
    odd = replace(row, metric=math.nan, output_sqnr_db=infinite, layers=(layer,))
    assert "∞" in Page(written(replace(comparison, rows=(odd,)), tmp_path)).words


def test_perplexity_over_two_decades_has_a_logarithmic_axis(perplexity):
    assert scatter(perplexity)["layout"]["yaxis"]["type"] == "log"


def test_perplexity_in_a_narrow_range_has_a_linear_axis(perplexity):
    narrow = replace(perplexity, rows=tuple(r for r in perplexity.rows if r.metric and r.metric < 20))
    assert "type" not in scatter(narrow)["layout"]["yaxis"]


def test_accuracy_is_never_logarithmic(comparison):
    assert not any(
        "log" in str(axis.get("type")) for key, axis in scatter(comparison)["layout"].items() if "axis" in key
    )


def test_a_collapsed_scheme_breaks_the_axis_and_keeps_the_others_apart(comparison):
    layout = scatter(comparison)["layout"]
    assert layout["yaxis2"]["range"][1] <= layout["yaxis"]["range"][0]
    whole = replace(comparison, rows=tuple(row for row in comparison.rows if row.metric != 61.05))
    assert "yaxis2" not in scatter(whole)["layout"]


@pytest.mark.parametrize("name", ["comparison", "perplexity"])
def test_the_scatter_shows_every_measured_scheme_once(name, request):
    comparison = request.getfixturevalue(name)
    points = [y for trace in scatter(comparison)["data"] if trace["mode"] == "markers" for y in trace["y"]]
    assert sorted(points) == sorted(row.metric for row in comparison.rows if row.metric is not None)


def test_every_button_changes_as_many_traces_as_there_are(comparison):
    figure = scatter(comparison)
    for button in figure["layout"]["updatemenus"][0]["buttons"]:
        data, _ = button["args"]
        assert len(data["x"]) == len(data["y"]) == len(figure["data"])


def test_the_pareto_front_holds_what_no_point_beats():
    assert pareto([4, 8, 4, 3, 6], [1.0, 0.1, 0.9, 5.0, 2.0]) == [3, 2, 1]


def test_labels_keep_off_one_another_and_stay_inside():
    labels = [Label(300 + 7 * i, 200 + 5 * (i % 3), 90, 15) for i in range(6)]
    points = boxes([(label.x - 7, label.y - 7, label.x + 7, label.y + 7) for label in labels])
    offsets = place(labels, frame=boxes([(0, 0, 600, 400)])[0], points=points, lines=boxes([]))
    placed = np.concatenate([label.at(np.array([offset])) for label, offset in zip(labels, offsets)])
    assert (placed >= 0).all()
    assert (placed <= [600, 400, 600, 400]).all()
    assert (overlap(placed, points) == 0).all()
    # each text overlaps itself alone
    np.testing.assert_array_equal(overlap(placed, placed) > 0, np.eye(6, dtype=bool))


def test_the_finding_names_the_cheapest_scheme_within_a_point(comparison):
    assert finding(comparison).scheme == "vs_quant(weight_bits=4, input_bits=4)"


def test_the_finding_names_the_closest_scheme_where_none_is_near(comparison):
    poor = replace(comparison, rows=comparison.rows[2:4])
    assert finding(poor).before == "No scheme stays within 1 point of float; the closest is "
    assert finding(poor).scheme == "integer(4, 4)"


def test_a_lower_perplexity_is_the_better_one(perplexity):
    assert finding(perplexity).scheme == "integer(8, 8)"
    best = [row.scheme for row in summary_rows(perplexity) if row.cells[1].is_best]
    assert best == ["mxfp8()"]


def test_the_standard_error_is_binomial(comparison, perplexity):
    # sqrt(0.5 * 0.5 / 100) is exact
    assert standard_error(replace(comparison.info, float_metric=50.0, samples=100)) == 5.0
    assert standard_error(perplexity.info) is None


def test_a_row_has_a_cell_for_every_column(comparison):
    assert {len(row.cells) for row in summary_rows(comparison)} == {len(summary_columns(comparison))}


def test_csv_keeps_full_precision(comparison, tmp_path):
    write_csv(comparison, tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["scheme"] for line in lines] == [row.scheme for row in comparison.rows]
    assert float(lines[3]["overflow_rate"]) == comparison.rows[3].overflow_rate
    assert lines[-1]["metric"] == ""
    assert lines[-1]["error"] == comparison.rows[-1].error


def test_equal_coverage_is_told_once(comparison):
    shared = coverage_tables(comparison)
    assert len(shared) == 2
    assert sum(len(table.schemes) for table in shared) == sum(bool(row.coverage) for row in comparison.rows)


def test_bibtex_balances_its_braces_whatever_the_names(hostile, comparison):
    for entry in map(bibtex, (hostile, comparison)):
        bare = re.sub(r"\\[{}]", "", entry)
        assert bare.count("{") == bare.count("}")


def test_a_picture_without_levels_or_counts_is_drawn(comparison):
    picture = comparison.rows[0].pictures[0]
    for odd in (replace(picture, grid=()), replace(picture, edges=(), counts=()),
                replace(picture, edges=(), counts=(), grid=()), replace(picture, counts=(0,) * len(picture.counts)),
                replace(picture, grid=(0.0,))):  # fmt: skip
        assert "nan" not in svg(odd, "#000000")


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        (decimal(-0.001, 2), "0.00"),
        (decimal(-1.5, 1), "−1.5"),
        (decimal(math.inf, 1), "∞"),
        (decimal(2.5e7, 2), "2.50×10⁷"),
        (signed(0.004, 2), "0.00"),
        (signed(0.25, 2), "+0.25"),
        (per_cent(0.0), "0"),
        (per_cent(0.000032), "0.0032"),
        (per_cent(3e-9), "3.00×10⁻⁷"),
        (size(1_089_896), "1.09 MB"),
        (DASH, "–"),
    ],
)
def test_numbers_are_printed_as_journals_do(printed, expected):
    assert printed == expected


def test_tables_need_only_the_standard_library():
    program = "import sys; import bitwright.report.tables; print(any(m in sys.modules for m in ('plotly', 'jinja2')))"
    run = subprocess.run([sys.executable, "-c", program], env={"PYTHONPATH": ":".join(sys.path)}, check=True,
                         capture_output=True, text=True)  # fmt: skip
    assert run.stdout == "False\n"


@pytest.mark.parametrize("missing", ["jinja2", "plotly"])
def test_a_missing_dependency_names_the_extra(missing, comparison, tmp_path, monkeypatch):
    for module in [name for name in sys.modules if name.startswith("bitwright.report.plots")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delattr(sys.modules["bitwright.report"], "plots", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=re.escape("pip install 'bitwright[report]'")):
        write_report(comparison, tmp_path / "report.html")


BROWSER = shutil.which("chromium")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
         "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
         "--virtual-time-budget=6000", "--enable-logging=stderr")  # fmt: skip


def browse(page: Path, folder: Path, *action: str) -> subprocess.CompletedProcess[str]:
    command = [BROWSER, *FLAGS, f"--user-data-dir={folder / 'profile'}", *action, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@pytest.mark.skipif(BROWSER is None, reason="chromium is not on PATH")
@pytest.mark.parametrize("name", ["comparison", "perplexity", "hostile"])
def test_a_browser_draws_the_figures_without_complaint(name, request, tmp_path):
    page = tmp_path / "report.html"
    write_report(request.getfixturevalue(name), page)
    run = browse(page, tmp_path, "--dump-dom")
    body = re.sub(r"<script.*?</script>", "", run.stdout, flags=re.DOTALL)
    assert body.count('class="main-svg"') >= 4
    assert 'class="hm"' in body
    assert 'class="point"' in body
    assert "CONSOLE" not in run.stderr


@pytest.mark.skipif(BROWSER is None, reason="chromium is not on PATH")
def test_a_click_on_a_heading_sorts_and_leaves_failures_last(comparison, tmp_path):
    page = tmp_path / "report.html"
    click = "<script>document.querySelectorAll('table.summary th button')[1].click()</script></body>"
    page.write_text(written(comparison, tmp_path).replace("</body>", click), encoding="utf-8")
    dom = re.sub(r"<script.*?</script>", "", browse(page, tmp_path, "--dump-dom").stdout, flags=re.DOTALL)
    body = dom.partition('class="summary')[2].partition("<tbody>")[2].partition("</tbody>")[0]
    schemes = re.findall(r'<th scope="row" data-key="([^"]*)"', body)
    measured = sorted((row for row in comparison.rows if row.metric is not None), key=lambda row: row.metric)
    assert schemes == [*(row.scheme for row in measured), comparison.rows[-1].scheme]


@pytest.mark.skipif(BROWSER is None, reason="chromium is not on PATH")
def test_a_screenshot_of_the_page_is_not_blank(comparison, tmp_path):
    image = pytest.importorskip("PIL.Image", reason="reading the screenshot needs pillow")
    page = tmp_path / "report.html"
    write_report(comparison, page)
    browse(page, tmp_path, f"--screenshot={tmp_path / 'page.png'}", "--window-size=1200,2400")
    with image.open(tmp_path / "page.png") as picture:
        assert picture.size == (1200, 2400)
        # the plot's own region holds axes, marks and text in many colours
        assert len(picture.convert("RGB").crop((80, 560, 1120, 1080)).getcolors(maxcolors=2**24)) > 50
