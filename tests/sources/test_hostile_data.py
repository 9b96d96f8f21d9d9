"""Damaged and hostile data ends in one sentence, in bounded memory, and nothing is written or run."""

import gzip
import io
import json
import struct
import tarfile
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
from torch import nn

from bitwright.sources import load_task
from bitwright.sources.pictures import decode
from bitwright.sources.readers import reader
from bitwright.sources.records import Picture

MiB = 2**20


def sentence(read) -> str:
    """What it ends with: one line, and not much memory on the way."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError) as caught:
            read()
        assert tracemalloc.get_traced_memory()[1] < 120 * MiB
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def all_of(path):
    return lambda: list(reader(path).records())


def tar_of(member: tarfile.TarInfo, content: bytes = b"") -> bytes:
    stored = io.BytesIO()
    with tarfile.open(fileobj=stored, mode="w") as opened:
        member.size = len(content)
        opened.addfile(member, io.BytesIO(content))
    return stored.getvalue()


def link(kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo("a.txt")
    info.type, info.linkname = kind, "/etc/passwd"
    return info


@pytest.mark.parametrize("name", ["../a.txt", "/a.txt", "x/../../a.txt", "a\\..\\b.txt"])
def test_names_that_leave_an_archive_are_refused(name, tmp_path):
    (tmp_path / "a.tar").write_bytes(tar_of(tarfile.TarInfo(name), b"x"))
    assert "leaves the archive" in sentence(all_of(tmp_path / "a.tar"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(kind, tmp_path):
    (tmp_path / "a.tar").write_bytes(tar_of(link(kind)))
    assert "is a link or a device" in sentence(all_of(tmp_path / "a.tar"))


def test_a_member_that_claims_a_huge_size_is_refused(tmp_path):
    info = tarfile.TarInfo("a.txt")
    info.size = 2**40
    (tmp_path / "a.tar").write_bytes(info.tobuf())
    assert "bytes, over" in sentence(all_of(tmp_path / "a.tar"))


def test_a_header_that_claims_a_huge_size_is_refused(tmp_path):
    """A pax header is read into memory by tarfile before its member is seen."""
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 2**33
    with gzip.open(tmp_path / "a.tar.gz", "wb", compresslevel=1) as opened:
        opened.write(info.tobuf())
        for _ in range(200):
            opened.write(bytes(MiB))
    assert "not a whole tar archive" in sentence(all_of(tmp_path / "a.tar.gz"))


@pytest.mark.parametrize("cut", [100, 700, 1100, 2000])
def test_a_truncated_archive_is_named(cut, tmp_path):
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as opened:
        for name in ("a.txt", "b.txt"):
            info = tarfile.TarInfo(name)
            info.size = 600
            opened.addfile(info, io.BytesIO(b"x" * 600))
    (tmp_path / "a.tar").write_bytes(whole.getvalue()[:cut])
    assert "a.tar" in sentence(all_of(tmp_path / "a.tar"))


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "parquet", "npz", "npy", "jsonl", "jsonl.gz", "txt.gz"])
@pytest.mark.parametrize("content", [b"", b"\x1f\x8b\x08\x00", bytes(range(256)) * 8, b"PAR1" + b"x" * 64 + b"PAR1"])
def test_noise_is_named(suffix, content, tmp_path):
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    if suffix in ("jsonl", "jsonl.gz", "txt.gz") and content == b"":
        assert not list(reader(path).records())  # an empty text
        return
    assert f"a.{suffix}" in sentence(all_of(path))


@pytest.mark.parametrize("suffix", ["jsonl.gz", "txt.gz"])
def test_a_gzip_file_that_ends_early_is_named(suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(gzip.compress(b'{"text": "a"}\n' * 1000)[:-20])
    assert "not a whole gzip file" in sentence(all_of(path))


@pytest.mark.parametrize("suffix", ["jsonl.gz", "txt.gz"])
def test_a_line_that_never_ends_is_refused(suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    with gzip.open(path, "wb", compresslevel=1) as opened:
        for _ in range(200):
            opened.write(b"a" * MiB)
    assert "cut it into shorter ones" in sentence(all_of(path))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("[" * 100_000, "is not JSON"), ("3", "is a int"), ("{}", "no columns"), ('{"txt": "a"}', "txt; wanted are"),
        ('{"text": 3}', "text is a int"), ('{"text": "a", "label": [1]}', "label is [1]"),
        ('{"text": "a", "score": "high"}', "a score is a finite number"), ('{"text": "a", "score": 1e999}', "finite"),
        ('{"tokens": [1.5]}', "whole numbers"), ('{"tokens": [-1]}', "whole numbers"),
        ('{"image": "/etc/passwd", "label": 0}', "paths are not read"), ("9" * 5000, "is not JSON"),
    ],
)  # fmt: skip
def test_a_line_that_is_no_record_is_named_by_its_number(line, words, tmp_path):
    (tmp_path / "a.jsonl").write_text("\n\n" + line)
    found = sentence(all_of(tmp_path / "a.jsonl"))
    assert words in found
    assert "line 3" in found


def png_header(width: int, height: int) -> bytes:
    """An image that says it is large."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(20_000, 20_000), (2**31 - 1, 2**31 - 1), (9_000, 9_000)])
def test_an_image_that_would_fill_the_memory_is_refused(size):
    assert "pixels" in sentence(lambda: decode(Picture(png_header(*size), 0, "a.png")))


@pytest.mark.parametrize("content", [b"", b"noise", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", None])
def test_what_is_no_image_is_refused(content, picture):
    found = picture((1, 2, 3), (64, 64))[:-40] if content is None else content
    assert "a.png is no image" in sentence(lambda: decode(Picture(found, 0, "a.png")))


def test_an_array_that_is_shorter_than_it_says_is_refused(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (2**40, 1)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as stored:
        stored.writestr("x.npy", header.getvalue() + bytes(40))
        stored.writestr("y.npy", header.getvalue().replace(b"<f4", b"<i4") + bytes(40))
    assert "shorter than its shape" in sentence(all_of(tmp_path / "a.npz"))


def test_a_pickled_array_is_never_read(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([{}, {}], object), y=np.zeros(2, int))
    assert "without pickle" in sentence(all_of(tmp_path / "a.npz"))


@pytest.mark.parametrize("label", [-1, 3, 10**9])
def test_a_class_that_the_model_has_not_is_named(label, tmp_path, model_folder):
    lines = [json.dumps({"text": "cat", "label": value}) for value in (0, label)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    task = load_task(model_folder("classifier"), tmp_path / "a.jsonl")
    assert f"class {label} found" in sentence(lambda: list(task.test()))


def test_a_class_beyond_the_outputs_of_a_plain_module_is_named(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((4, 1), np.float32), y=np.array([0, 5, 0, 1]))
    task = load_task(nn.Linear(1, 3), tmp_path / "a.npz")
    (batch,) = task.test()
    assert "class 5 found, and the model has 3" in sentence(lambda: task.forward(task.load(), batch))


def test_tokens_that_the_model_has_not_are_named(tmp_path, model_folder):
    np.save(tmp_path / "a.npy", np.arange(60))
    task = load_task(model_folder("llama"), tmp_path / "a.npy")
    assert "tokens 0 to 59 found" in sentence(lambda: list(task.test()))


@pytest.mark.parametrize(
    ("name", "words"),
    [("a.csv", "is no data that is read"), ("s-{3..1}.tar", "names no shards"), ("s-{0..1}.tar", "s-0.tar of")],
)
def test_a_path_that_nothing_reads_is_named(name, words, tmp_path):
    assert words in sentence(lambda: reader(tmp_path / name))


def test_an_empty_set_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n")
    assert "holds no samples" in sentence(lambda: load_task(nn.Linear(1, 1), tmp_path / "a.jsonl"))
