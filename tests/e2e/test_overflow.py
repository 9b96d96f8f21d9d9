"""`bitwright overflow` as a stranger meets it."""

import csv

import pytest

from bitwright.result import OverflowSweep
from bitwright.store import read_json


def test_the_embedded_network_gets_tables_a_page_and_files(here, tmp_path):
    done = here("overflow", "digits", "-w", "17,18", "-b", "wrap,saturate", "-b", "float", "--limit", "30")
    assert done.status == 0
    assert done.err == ""
    assert done.out.splitlines()[0].startswith("digits under integer(8, 8): float top-1 accuracy ")
    folder = tmp_path / "runs" / "digits-overflow"
    found = read_json(folder / "overflow.json", OverflowSweep)
    assert [(p.behaviour, p.bits) for p in found.points] == [
        (name, bits) for name in ("wrap", "saturate", "float") for bits in (18, 17)
    ]
    with (folder / "overflow.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [float(line["metric"]) for line in lines] == [p.metric for p in found.points]
    assert lines[-1]["overflow_rate"] == ""
    with (folder / "needed_bits.csv").open() as file:
        assert [line["layer"] for line in csv.DictReader(file)] == [layer.name for layer in found.layers]
    page = (folder / "overflow.html").read_text()
    assert all(f'data-figure="{name}"' in page for name in ("width-plot", "rates-plot", "needed-plot"))
    assert done.out.splitlines()[-1].endswith("overflow.html")


def test_a_network_of_ones_own_is_swept_from_the_proved_width(here, write_task):
    done = here("overflow", write_task(), "-b", "wrap", "-o", "out")
    assert done.status == 0
    widths = [int(line.split()[0]) for line in done.out.splitlines()[4:15]]
    assert widths == list(range(widths[0], widths[0] - 11, -1))
    assert f"proves that {widths[0]} bits never overflow" in done.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-s", "mxfp4()"), "scales that vary along K"),
        (("-s", "integer(8, None)"), "quantize the inputs too"),
        (("-w", "12-22"), "is no list of widths; write 12..22"),
        (("-w", "1..60"), "found; 2 to 48 do"),
        (("-b", "wrapp"), "there is no behaviour 'wrapp'"),
        (("--tile", "0"), "--tile"),
        (("-s", "integr(8)"), "did you mean"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(here, write_task, arguments, words):
    done = here("overflow", write_task(), *arguments)
    assert done.status == 2
    assert words in done.sentence
