"""JSON Lines and plain text, gzipped or not: a bounded part of the file is in memory at a time."""

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import final

from bitwright.sources.readers.columns import record
from bitwright.sources.records import MiB, Picture, Reader, Tokens, Words

LONGEST_LINE = 16 * MiB
BLOCK = MiB
"""Characters of a plain text that are tokenised at once; a longer text is cut at ends of lines."""


@final
@dataclass(frozen=True)
class JsonLines(Reader):
    """An object a line."""

    path: Path

    def records(
        self, is_wanted: Callable[[int], bool] = lambda index: True
    ) -> Iterator[tuple[int, Picture | Words | Tokens]]:
        with text_of(self.path) as opened:
            for index, (number, line) in enumerate(filled(opened, self.path)):
                if is_wanted(index):
                    yield index, self._record(line, f"{self.path}, line {number}")

    def count(self) -> int:
        with text_of(self.path) as opened:
            return sum(1 for _ in filled(opened, self.path))

    def _record(self, line: bytes, where: str) -> Picture | Words | Tokens:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where} is not JSON ({error}); write one object a line") from None
        if not isinstance(row, dict):
            raise ValueError(f"{where} is a {type(row).__name__}; write one object a line")
        return record(row, where)


@final
@dataclass(frozen=True)
class PlainText(Reader):
    """One long text."""

    path: Path

    def records(self, is_wanted: Callable[[int], bool] = lambda index: True) -> Iterator[tuple[int, Words]]:
        with text_of(self.path) as opened:
            for index, block in enumerate(blocks(opened, self.path)):
                yield index, Words((block,), None, f"{self.path}, block {index}", continues=index > 0)

    def count(self) -> int:
        return 1


@contextmanager
def text_of(path: Path) -> Iterator[BufferedIOBase]:
    """The file's bytes, inflated as they are asked for."""
    opened: BufferedIOBase = gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # noqa: SIM115  closed below
    try:
        with opened:
            yield opened
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is not a whole gzip file ({error}); fetch it again") from None


def lines(opened: BufferedIOBase, path: Path) -> Iterator[tuple[int, bytes]]:
    number = 0
    while line := opened.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE:
            raise ValueError(f"{path}, line {number} has over {LONGEST_LINE} bytes; cut it into shorter ones")
        yield number, line


def filled(opened: BufferedIOBase, path: Path) -> Iterator[tuple[int, bytes]]:
    return ((number, line) for number, line in lines(opened, path) if line.strip())


def blocks(opened: BufferedIOBase, path: Path) -> Iterator[str]:
    kept: list[bytes] = []
    size = 0
    for _, line in lines(opened, path):
        kept.append(line)
        size += len(line)
        if size >= BLOCK:
            yield decoded(b"".join(kept), path)
            kept, size = [], 0
    if kept:
        yield decoded(b"".join(kept), path)


def decoded(content: bytes, path: Path) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from None
