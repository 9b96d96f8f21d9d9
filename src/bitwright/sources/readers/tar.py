"""WebDataset archives: members that share a name up to its first dot are one sample. Nothing is ever extracted."""

import lzma
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path, PurePosixPath
from typing import Any, final

from bitwright.sources.pictures import SUFFIXES
from bitwright.sources.readers.columns import LABELS, label, record
from bitwright.sources.readers.lines import decoded
from bitwright.sources.records import LARGEST_FILE, Picture, Reader, Tokens, Words

SHARDS = re.compile(r"\{(\d+)\.\.(\d+)\}")
MOST_SHARDS = 100_000


@final
@dataclass(frozen=True)
class TarShards(Reader):
    """Images with `.cls` or `.json`, or texts; `shard-{000..009}.tar` names ten files."""

    path: str

    def records(
        self, is_wanted: Callable[[int], bool] = lambda index: True
    ) -> Iterator[tuple[int, Picture | Words | Tokens]]:
        for index, (parts, where) in enumerate(self._samples(is_wanted)):
            if is_wanted(index):
                yield index, sample(parts, where)

    def count(self) -> int:
        return sum(1 for _ in self._samples(lambda index: False))

    def digest(self) -> bytes:
        from bitwright.sources.records import digest

        return b"".join(map(digest, self.shards))

    @property
    def shards(self) -> list[Path]:
        return expanded(self.path)

    def _samples(self, is_wanted: Callable[[int], bool]) -> Iterator[tuple[dict[str, bytes], str]]:
        index = 0
        for shard in self.shards:
            with archive(shard) as opened:
                key, parts = None, dict[str, bytes]()
                for member in opened:
                    require_plain(member, shard)
                    if member.isdir():
                        continue
                    name, extension = named(member.name)
                    if name != key:
                        if key is not None:
                            yield parts, f"{shard}, {key}"
                            index += 1
                        key, parts = name, {}
                    parts[extension] = content(opened, member, shard) if is_wanted(index) else b""
                require_end(opened, shard)
                if key is not None:
                    yield parts, f"{shard}, {key}"
                    index += 1


class Bounded:
    """A file that is never asked for more at once than one member may have: headers lie about their size too."""

    def __init__(self, opened: BufferedIOBase) -> None:
        self.opened = opened

    def read(self, size: int) -> bytes:
        if size > LARGEST_FILE:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self.opened.read(size)

    def seek(self, position: int) -> int:
        return self.opened.seek(position)

    def tell(self) -> int:
        return self.opened.tell()


@contextmanager
def archive(path: Path) -> Iterator[tarfile.TarFile]:
    """An open archive, compressed or not, whose damage is said in one sentence."""
    import bz2
    import gzip

    openers: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}
    with path.open("rb") as raw:
        start = raw.read(2)
    opened = openers.get(start, open)(path, "rb")
    try:
        with opened, tarfile.open(fileobj=Bounded(opened), mode="r:") as found:  # type: ignore[call-overload]
            yield found
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is not a whole tar archive ({error}); fetch it again") from None


def expanded(pattern: str) -> list[Path]:
    """The files that `{000..009}` stands for."""
    found = SHARDS.search(pattern)
    if found is None:
        return [Path(pattern)]
    first, last = int(found[1]), int(found[2])
    if last < first or last - first >= MOST_SHARDS:
        raise ValueError(f"{pattern}: {found[0]} names no shards, or over {MOST_SHARDS}; write {{first..last}}")
    return [
        path
        for number in range(first, last + 1)
        for path in expanded(f"{pattern[: found.start()]}{number:0{len(found[1])}d}{pattern[found.end() :]}")
    ]


def require_plain(member: tarfile.TarInfo, shard: Path) -> None:
    """Names stay inside the archive, members are files, and their size is bounded."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\\" in member.name or "\0" in member.name:
        raise ValueError(f"{shard}: the member {member.name!r} leaves the archive; make it anew with relative names")
    if not (member.isreg() or member.isdir()) or member.issparse():
        raise ValueError(f"{shard}: the member {member.name!r} is a link or a device; only files are read")
    if member.size > LARGEST_FILE:
        raise ValueError(f"{shard}: the member {member.name!r} has {member.size} bytes, over {LARGEST_FILE}")


def require_end(opened: tarfile.TarFile, shard: Path) -> None:
    """An archive ends with blocks of zeros; tarfile takes a header that is cut off for the end too."""
    opened.fileobj.seek(opened.offset)
    if opened.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise ValueError(f"{shard} is not a whole tar archive (it has no end); fetch it again")


def named(name: str) -> tuple[str, str]:
    """Key and extension: the file's name is cut at its first dot."""
    path = PurePosixPath(name)
    stem, _, extension = path.name.partition(".")
    return str(path.parent / stem), extension.lower()


def content(opened: tarfile.TarFile, member: tarfile.TarInfo, shard: Path) -> bytes:
    file = opened.extractfile(member)
    assert file is not None, "asked to be a file before"
    found = file.read()
    if len(found) != member.size:
        raise ValueError(f"{shard} is not a whole tar archive ({member.name} ends early); fetch it again")
    return found


def sample(parts: Mapping[str, bytes], where: str) -> Picture | Words | Tokens:
    """An image with its class, or the columns of a .json, or a text."""
    row = columns(parts, where)
    image = next((name for name in parts if f".{name.rpartition('.')[2]}" in SUFFIXES), None)
    if image is not None:
        return Picture(parts[image], label(row, where), where)
    return record(row, where)


def columns(parts: Mapping[str, bytes], where: str) -> dict[str, Any]:
    import json

    row: dict[str, Any] = {}
    if "json" in parts:
        try:
            found = json.loads(parts["json"])
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where}.json is not JSON ({error}); write one object") from None
        row |= found if isinstance(found, dict) else {"label": found}
    for name in ("cls", "label"):
        if name in parts:
            word = decoded(parts[name], Path(f"{where}.{name}")).strip()
            row = {key: value for key, value in row.items() if key not in LABELS} | {"label": number_or_name(word)}
    if "txt" in parts:
        row.setdefault("text", decoded(parts["txt"], Path(f"{where}.txt")))
    return row


def number_or_name(word: str) -> int | str:
    return int(word) if word.isdecimal() and len(word) < 10 else word
