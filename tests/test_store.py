import dataclasses
import errno
import json
import os
from dataclasses import dataclass

import pytest

from bitwright import store
from bitwright.result import (
    Comparison,
    Compressibility,
    Coverage,
    LaneRow,
    LayerResult,
    NeighbourResult,
    OutlierCoverage,
    Picture,
    RunInfo,
    SchemeResult,
    TermPairs,
)
from bitwright.store import key_of, read_json, write_atomically, write_json


def filled(kind: type, **given):
    """A value of a dataclass, each field of its own number."""
    values = {}
    for number, field in enumerate(dataclasses.fields(kind)):
        values[field.name] = f"text {number}" if field.type in (str, str | None) else number + 0.5
        if field.type in (int, int | None):
            values[field.name] = number
    return kind(**values | given)


LAYER = filled(LayerResult, input_range=(-0.1, 1 / 3), weight_sizes=Compressibility(9, 2, 3, 36, 17.5, 20, 24, 40, 48))
PICTURE = filled(Picture, edges=(0.0, 0.1, 0.2), counts=(3, 4), grid=(0.0, 1.0))
NEIGHBOURS = filled(NeighbourResult, coverage=(filled(OutlierCoverage), filled(OutlierCoverage, cascade=8)))
LANES = {"levels": (0.5, 17.25), "plain": (1.0, 15.0), "digits": (1.0, 1.0), "decoded": (1.0, 17.0)}
MEASURES = {
    "neighbours": (NEIGHBOURS, filled(NeighbourResult, coverage=(), precise=None)),
    "lane_row": filled(LaneRow, states=("OWN", "HIGH"), **LANES),
    "term_pairs": (filled(TermPairs, has_terms=True),),
}
ROW = filled(SchemeResult, layers=(LAYER, LAYER), coverage=(filled(Coverage),), pictures=(PICTURE,), **MEASURES)
INFO = filled(RunInfo, higher_is_better=True, hashes={"weights": "ab"}, versions={"torch": "2"})
EMPTY = SchemeResult("integer(8, 8)", "ä \u2028 \x00", *[None] * 9, seconds=1e-300, error="one sentence")


@pytest.mark.parametrize(
    "value", [ROW, EMPTY, Comparison(INFO, (ROW, EMPTY)), Comparison(INFO)], ids=lambda v: type(v).__name__
)
def test_what_is_written_is_read_back_equal(value, tmp_path):
    write_json(tmp_path / "new" / "value.json", value)
    assert read_json(tmp_path / "new" / "value.json", type(value)) == value


def test_a_row_from_before_a_figure_was_added_is_read_without_it(tmp_path):
    write_json(tmp_path / "row.json", ROW)
    old = json.loads((tmp_path / "row.json").read_text())
    for name in MEASURES:
        del old[name]
    (tmp_path / "row.json").write_text(json.dumps(old))
    expected = dataclasses.replace(ROW, neighbours=(), lane_row=None, term_pairs=())
    assert read_json(tmp_path / "row.json", SchemeResult) == expected


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_have_the_mode_that_the_users_mask_leaves(mask, mode, tmp_path):
    before = os.umask(mask)
    try:
        write_json(tmp_path / "value.json", Number(1.0))
        write_json(tmp_path / "value.json", Number(2.0))
    finally:
        os.umask(before)
    assert (tmp_path / "value.json").stat().st_mode & 0o777 == mode


@dataclass(frozen=True)
class Number:
    value: float


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_json_does_not_have_is_refused_and_nothing_is_written(value, tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "value.json", Number(value))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_no_other(step, tmp_path, monkeypatch):
    path = tmp_path / "value.json"
    write_json(path, Number(1.0))

    def full(*arguments) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(store.os, step, full)
    with pytest.raises(OSError, match=r"No space left on device: '.*value\.json'"):
        write_json(path, Number(2.0))
    assert list(tmp_path.iterdir()) == [path]
    assert read_json(path, Number) == Number(1.0)


def test_a_reader_sees_the_old_content_or_the_new_one_whole(tmp_path, monkeypatch):
    path = tmp_path / "value"
    write_atomically(path, b"old")
    seen, replace = [], os.replace

    def watched(source: str, target: str) -> None:
        seen.append(path.read_bytes())
        replace(source, target)

    monkeypatch.setattr(store.os, "replace", watched)
    write_atomically(path, b"new" * 1000)
    assert seen == [b"old"]
    assert path.read_bytes() == b"new" * 1000


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        write_json(tmp_path / "file" / "value.json", Number(1.0))


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "null", "{}", '{"info": {}, "rows": []}', "\x00"])
def test_content_of_another_kind_is_named_with_the_way_out(content, tmp_path):
    path = tmp_path / "value.json"
    path.write_text(content)
    with pytest.raises(
        ValueError, match=r"value\.json is not a Comparison of this version .*; delete it to compute it again"
    ):
        read_json(path, Comparison)


def test_keys_follow_content_not_order():
    assert key_of({"a": 1, "b": (2, 3)}) == key_of({"b": [2, 3], "a": 1})
    assert len({key_of(*parts) for parts in (("a", "b"), ("ab",), ("b", "a"), ("a", "b", None), ())}) == 5
