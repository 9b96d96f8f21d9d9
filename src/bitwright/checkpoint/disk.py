"""Files read and written past the system's cache where that is possible, and read back after they were written.

Through the cache, each byte is copied once more and takes a fresh page, which costs more than the work on it. Past it,
offsets, lengths and addresses are whole blocks; the edges of a piece go through the cache, and so does everything
where the system or the file's place refuses.
"""

import ctypes
import errno
import mmap
import os
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from bitwright.native_library import NativeLibrary, library_path

BLOCK = 4096
"""Bytes; a multiple of what devices ask for."""

STEP = 8 << 20
"""Bytes that are handed over at a time."""

SHORT = 1 << 16
"""Bytes below which a piece goes through the cache."""


class Buffer:
    """Memory that is used again for each piece, and grows with the largest."""

    def __init__(self) -> None:
        self._memory = memoryview(b"")

    def view(self, size: int) -> memoryview:
        """Writable bytes from the start of a page on; those of the view before this one."""
        if len(self._memory) < size:
            made = mmap.mmap(-1, -(-size // BLOCK) * BLOCK)
            if hasattr(mmap, "MADV_HUGEPAGE"):
                made.madvise(mmap.MADV_HUGEPAGE)
            self._memory = memoryview(made)
        return self._memory[:size]


class Reader:
    """A file open for reading."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self._direct = _open_direct(path, os.O_RDONLY)

    def read(self, place: int, size: int, buffer: Buffer) -> memoryview:
        """Bytes from `place` on, fewer where the file ends; they hold until the buffer is used again."""
        start, end = place // BLOCK * BLOCK, -(-(place + size) // BLOCK) * BLOCK
        view, got = buffer.view(end - start), 0
        if self._direct is not None and size >= SHORT:
            try:
                while start + got < place + size and got % BLOCK == 0:
                    more = os.preadv(self._direct, [view[got : got + STEP]], start + got)
                    got += more
                    if not more:
                        break
                return view[place - start : min(got, place - start + size)]
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._direct = _closed(self._direct)
        content, got = view[place - start : place - start + size], 0
        self._file.seek(place)
        while got < size and (more := self._file.readinto(content[got:])):
            got += more
        return content[:got]

    def close(self) -> None:
        self._file.close()
        self._direct = _closed(self._direct)

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Writer:
    """A new file of `size` bytes, written in pieces and in any order."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self._file = path.open("xb", buffering=0)  # never through a link
        self._file.truncate(size)
        self._direct = _open_direct(path, os.O_WRONLY)
        self._buffer = Buffer()
        self._written: list[tuple[int, int, int]] = []

    def write(self, place: int, content: memoryview) -> None:
        self._written.append((place, len(content), _digest()(content)))
        head = -place % BLOCK
        body = (len(content) - head) // BLOCK * BLOCK
        if self._direct is None or body < SHORT:
            return self._through_cache(place, content)
        self._through_cache(place, content[:head])
        self._past_cache(place + head, content[head : head + body])
        self._through_cache(place + head + body, content[head + body :])

    def _past_cache(self, place: int, content: memoryview) -> None:
        assert self._direct is not None
        done = 0
        while done < len(content):
            piece = content[done : done + STEP]
            view = self._buffer.view(len(piece))
            view[:] = piece
            try:
                more = os.pwritev(self._direct, [view], place + done)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._direct = _closed(self._direct)
                return self._through_cache(place + done, content[done:])
            done += more // BLOCK * BLOCK

    def _through_cache(self, place: int, content: memoryview) -> None:
        self._file.seek(place)
        while content:
            content = content[self._file.write(content) :]

    def close(self) -> None:
        self._file.close()
        self._direct = _closed(self._direct)

    def read_back(self) -> int | None:
        """Once everything is on the device: where a piece that reads otherwise than it was written starts, or None."""
        os.fsync(self._file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # so that the device is asked
        with Reader(self.path) as reader:
            for place, size, digest in sorted(self._written):
                content = reader.read(place, size, self._buffer)
                if len(content) != size or _digest()(content) != digest:
                    return place
        return None


def _open_direct(path: Path, flags: int) -> int | None:
    if not hasattr(os, "O_DIRECT") or not hasattr(os, "preadv"):
        return None
    try:
        return os.open(path, flags | os.O_DIRECT)
    except OSError:  # the place has no such transfers; where it is the file that cannot be opened, it was said before
        return None


def _closed(descriptor: int | None) -> int | None:
    """None, instead of what was open."""
    if descriptor is not None:
        os.close(descriptor)
    return None


@cache
def _digest() -> Callable[[memoryview], int]:
    """A number that another content of any one 32-bit word changes."""
    path = library_path()
    found = None if path is None else NativeLibrary(str(path))
    if found is None or not hasattr(found, "bitwright_ran_out_of_memory"):
        return zlib.crc32
    function = found.bitwright_digest
    function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_int64], ctypes.c_uint64

    def digest(content: memoryview) -> int:
        at = np.frombuffer(content, np.uint8).ctypes.data if len(content) else None
        return int(function(at, len(content)))

    return digest
