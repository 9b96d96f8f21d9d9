"""Keeps lines of a native library from standard output, which it writes past its own options and past Python."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from tempfile import TemporaryFile


@contextmanager
def without_lines(start: str) -> Iterator[None]:
    """Lines that begin so are dropped from what this process writes meanwhile; all others come when it ends."""
    sys.stdout.flush()
    try:
        own = os.dup(1)
    except OSError:  # no standard output
        yield
        return
    with TemporaryFile() as kept:
        os.dup2(kept.fileno(), 1)
        try:
            yield
        finally:
            sys.stdout.flush()
            ctypes.CDLL(None).fflush(None)  # C's own buffer
            os.dup2(own, 1)
            os.close(own)
            kept.seek(0)
            lines = b"".join(line for line in kept if not line.startswith(start.encode()))
            with suppress(BrokenPipeError):
                while lines:
                    lines = lines[os.write(1, lines) :]
