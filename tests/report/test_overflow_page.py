"""The page of a sweep over accumulator widths: self-contained, safe, and complete for what a sweep may hold."""

import csv
import json
import re
from dataclasses import replace

import pytest

from bitwright.report import overflow, overflow_page
from bitwright.result import NeededBits, OverflowPoint, OverflowSweep

HOSTILE = "</script><script>alert(1)</script>{{ 7 * 7 }}"


@pytest.fixture
def sweep(comparison):
    layers = (NeededBits("conv1", 27, 20, (5, 0, 9, 40, 46)), NeededBits("head", 64, 18, (0, 50, 30, 20)))
    points = (
        *(OverflowPoint("wrap", b, m, 90.0, r, (r, 0.0), 0.1)
          for b, m, r in ((5, 97.5, 0.0), (4, 97.0, 0.2), (3, 9.0, 0.9))),
        *(OverflowPoint("float", b, m, None, None, (), 0.1) for b, m in ((8, 97.8), (7, 80.0))),
    )  # fmt: skip
    behaviours = {"wrap": "two's complement wraps around", "float": "E5, every sum rounded"}
    return OverflowSweep(comparison.info, "integer(8, 8)", behaviours, layers, points)


def page_of(sweep, folder):
    overflow_page.write_report(sweep, folder / "page.html")
    return (folder / "page.html").read_text()


def test_the_page_fetches_nothing_and_is_the_same_twice(sweep, tmp_path):
    page = page_of(sweep, tmp_path)
    assert page == page_of(sweep, tmp_path)
    assert not re.findall(r"<(?:script|link|img)[^>]*\b(?:src|href)=\"(?!data:)", page)


def test_hostile_names_stay_text(sweep, tmp_path):
    layers = (replace(sweep.layers[0], name=HOSTILE), *sweep.layers[1:])
    page = page_of(replace(sweep, scheme=HOSTILE, layers=layers), tmp_path)
    assert "<script>alert(1)" not in page
    assert "{{ 7" in page
    for text in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page):
        json.loads(text)


def test_the_narrowest_register_has_no_wider_one_that_fails(sweep):
    assert overflow.narrowest(sweep, "wrap") == 4
    assert overflow.narrowest(sweep, "float") == 8
    lost = replace(sweep, points=(replace(sweep.points[0], metric=20.0), *sweep.points[1:]))
    assert overflow.narrowest(lost, "wrap") is None
    assert "not at these widths: wrap" in overflow.finding(lost).text


def test_the_share_beyond_a_register_is_that_of_wider_sums(sweep):
    assert [overflow.beyond(sweep.layers[0], bits) for bits in (0, 3, 4, 5, 9)] == [1, 0.86, 0.46, 0, 0]


def test_bars_beyond_the_register_stand_out(sweep):
    figure = overflow.histograms(sweep)
    slider = figure["layout"]["sliders"][0]
    step = next(s for s in slider["steps"] if s["label"] == "3")
    first = step["args"][0]["marker.color"][0]
    assert len(set(first[:3])) == 1
    assert len(set(first[3:])) == 1
    assert first[0] != first[3]


def test_floats_alone_have_no_overflow_to_show(sweep, tmp_path):
    floats = replace(sweep, behaviours={"float": "E5"}, points=sweep.points[3:])
    assert overflow.rates(floats) is None
    assert "rates-plot" not in page_of(floats, tmp_path)


def test_the_csv_files_hold_every_point_and_count(sweep, tmp_path):
    overflow_page.write_csv(sweep, tmp_path / "a.csv")
    overflow_page.write_needed_bits_csv(sweep, tmp_path / "b.csv")
    with (tmp_path / "a.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(line["behaviour"], int(line["bits"])) for line in lines] == [(p.behaviour, p.bits) for p in sweep.points]
    assert lines[1]["overflow_rate conv1"] == "0.2"
    with (tmp_path / "b.csv").open() as file:
        assert [sum(int(v) for k, v in line.items() if k.startswith("sums")) for line in csv.DictReader(file)] == [
            100,
            100,
        ]


def test_a_metric_whose_small_values_are_good_is_drawn_and_judged(sweep, perplexity, tmp_path):
    points = tuple(replace(p, metric=p.metric + 12.3) for p in sweep.points)
    other = replace(sweep, info=perplexity.info, points=points)
    assert "perplexity" in page_of(other, tmp_path)
    assert overflow.narrowest(other, "wrap") is None
