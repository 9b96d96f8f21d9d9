"""Files past the cache and through it: the same bytes, and what a disk damages is found."""

import errno
import os

import numpy as np
import pytest

from bitwright.checkpoint import Entry, TensorFile, TensorWriter, disk
from bitwright.checkpoint.disk import BLOCK, SHORT, Buffer, Reader, Writer
from bitwright.native_library import library_path

ENTRIES = [Entry("a", "U8", (3 * SHORT + 77,)), Entry("b", "U8", (5,)), Entry("c", "F32", (SHORT,))]


def refuse(*arguments):
    raise OSError(errno.EINVAL, "no direct transfers here")


@pytest.fixture(params=["past the cache", "through the cache", "refused when used"])
def ways(request, monkeypatch):
    if request.param == "through the cache":
        monkeypatch.setattr(disk, "_open_direct", lambda path, flags: None)
    elif request.param == "refused when used" and hasattr(os, "preadv"):
        monkeypatch.setattr(os, "preadv", refuse)
        monkeypatch.setattr(os, "pwritev", refuse)


def test_pieces_at_any_place_are_written_and_read_as_they_are(tmp_path, ways):
    random = np.random.default_rng(0)
    size = 40 * SHORT + 123
    content = random.bytes(size)
    cuts = np.unique([0, 1, BLOCK - 1, BLOCK, 3 * BLOCK, 20 * BLOCK + 1, *random.integers(0, size, 30), size])
    pieces = list(zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True))
    writer = Writer(tmp_path / "file", size)
    for start, end in random.permutation(pieces).tolist():
        writer.write(start, memoryview(content)[start:end])
    assert writer.read_back() is None
    writer.close()
    assert (tmp_path / "file").read_bytes() == content
    with Reader(tmp_path / "file") as reader:
        buffer = Buffer()
        for start, end in pieces:
            assert reader.read(start, end - start, buffer) == content[start:end]
        assert reader.read(size - 10, SHORT + 50, buffer) == content[-10:]


def test_a_large_piece_goes_over_in_steps(tmp_path, ways, monkeypatch):
    monkeypatch.setattr(disk, "STEP", 5 * BLOCK)
    content = np.random.default_rng(0).bytes(10 * SHORT)
    writer = Writer(tmp_path / "file", len(content))
    writer.write(0, memoryview(content))
    assert writer.read_back() is None
    writer.close()
    assert (tmp_path / "file").read_bytes() == content


@pytest.mark.parametrize(("name", "place"), [("a", 3 * SHORT + 76), ("a", SHORT), ("b", 4), ("c", 0)])
def test_a_byte_that_the_disk_changes_is_found_and_the_tensor_named(tmp_path, ways, name, place):
    path = tmp_path / "x.safetensors"

    def write_and_damage():
        with TensorWriter(path, ENTRIES, {}) as writer:
            for entry in ENTRIES:
                writer.write(entry.name, 0, bytes(entry.bytes))
            (partial,) = tmp_path.iterdir()
            starts = dict(zip((e.name for e in ENTRIES), np.cumsum([0, *(e.bytes for e in ENTRIES)]), strict=False))
            with partial.open("r+b") as file:
                file.seek(len(writer.header) + starts[name] + place)
                file.write(b"\1")

    with pytest.raises(ValueError, match=f"safetensors: {name} reads otherwise"):
        write_and_damage()
    assert not list(tmp_path.iterdir())


def test_tensors_that_lie_at_odd_bytes_are_read(tmp_path, ways):
    content = {e.name: np.random.default_rng(i).bytes(e.bytes) for i, e in enumerate(ENTRIES)}
    with TensorWriter(tmp_path / "x.safetensors", ENTRIES, {}) as writer:
        for name, part in content.items():
            writer.write(name, 0, part)
    file = TensorFile(tmp_path / "x.safetensors", Buffer())
    for name, part in content.items():
        assert b"".join(bytes(piece) for piece in file.chunks(name, 2 * SHORT + 1)) == part


@pytest.mark.skipif(library_path() is None, reason="installed without the native library")
@pytest.mark.parametrize("size", [0, 1, 3, 4, 511, 512, 513, 5000])
def test_the_digest_sees_every_byte_and_the_length_alike_at_every_level(size):
    from bitwright.kernels.library import library

    content = bytearray(np.random.default_rng(size).bytes(size))
    native = library()
    digest = disk._digest()
    try:
        found = {digest(memoryview(content)) for level in range(3) if native.bitwright_use_level(level) == level}
    finally:
        native.bitwright_use_level(-1)
    assert len(found) == 1
    others = {digest(memoryview(content + b"\0"))}
    for at in range(0, size, max(size // 100, 1)):
        content[at] ^= 1 << at % 8
        others.add(digest(memoryview(content)))
        content[at] ^= 1 << at % 8
    assert not found & others
