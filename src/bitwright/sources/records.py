"""What data holds, before a network's processor or tokenizer has seen it."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from bitwright.model.task import Batch

MiB = 2**20

LARGEST_FILE = 256 * MiB
"""Of one image or text inside an archive, and of one line."""

LARGEST_IMAGE = 64 * MiB
"""Pixels."""


@final
@dataclass(frozen=True)
class Picture:
    """An image file's content and its class."""

    content: bytes
    label: int | str
    where: str


@final
@dataclass(frozen=True)
class Words:
    """A text or two, with a class, a score or nothing."""

    texts: tuple[str, ...]
    target: int | str | float | None
    where: str
    continues: bool = False
    """It goes on from the record before."""


@final
@dataclass(frozen=True)
class Tokens:
    """Ids that a tokenizer made earlier."""

    ids: np.ndarray
    where: str


@final
@dataclass(frozen=True)
class Row:
    """One sample of an array, and its class."""

    x: np.ndarray
    y: int
    where: str


Record = Picture | Words | Tokens | Row | Batch


class Reader(ABC):
    """Stored samples in a fixed order, read again at every pass and never all at once."""

    path: Path | str

    @abstractmethod
    def records(self, is_wanted: Callable[[int], bool] = lambda index: True) -> Iterator[tuple[int, Any]]:
        """The wanted records, each with its position."""

    @abstractmethod
    def count(self) -> int:
        """How many there are."""

    @property
    def names(self) -> tuple[str, ...]:
        """Class names that the data itself orders; none where records hold numbers."""
        return ()

    def digest(self) -> bytes:
        """Of the stored bytes."""
        return digest(self.path)


def digest(path: Path | str) -> bytes:
    """SHA-256 of a file, or of a folder's names and files."""
    found = hashlib.sha256()
    path = Path(path)
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        found.update(str(file.relative_to(path)).encode())
        with file.open("rb") as opened:
            while part := opened.read(MiB):
                found.update(part)
    return found.digest()
