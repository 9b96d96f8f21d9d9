"""safetensors files as streams: a header of names, types, shapes and places, then bytes.

https://github.com/huggingface/safetensors, format description: 8 bytes of the header's length, JSON, data.
"""

import glob
import json
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bitwright.checkpoint.disk import Buffer, Reader, Writer

SIZES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I64": 8, "I32": 4, "I16": 2,
    "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
"""Bytes of an element."""

CHUNK = 8 << 20
"""Bytes that are read at a time."""

LONGEST_HEADER = 100_000_000
"""Bytes; the limit of the format's own library."""


@dataclass(frozen=True)
class Entry:
    """One tensor of a file."""

    name: str
    dtype: str  # as the header spells it: BF16, F8_E4M3
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count * SIZES[self.dtype]


class TensorFile:
    """A safetensors file that is read in pieces. One that is cut short, or no such file, raises ValueError.

    Files may share the buffer that their pieces lie in.
    """

    def __init__(self, path: Path, buffer: Buffer | None = None) -> None:
        self.path, self._buffer = path, buffer
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 2 <= length <= LONGEST_HEADER:
                raise ValueError(f"{path} is not a safetensors file; fetch it again")
            content = file.read(length)
        try:
            header = json.loads(content)
            self.metadata: dict[str, str] = header.pop("__metadata__", {})
            self.entries = {n: Entry(n, e["dtype"], _sizes(e["shape"])) for n, e in header.items()}
            places = [_sizes(e["data_offsets"]) for e in header.values()]
            self._places = {n: (8 + length + e["data_offsets"][0]) for n, e in header.items()}
            ends = [8 + length + place[1] for place in places]
            is_whole = all(
                e["data_offsets"][1] - e["data_offsets"][0] == self.entries[n].bytes for n, e in header.items()
            )
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
            raise ValueError(
                f"{path} has a header that is not safetensors' ({type(error).__name__}: {str(error)[:80]}); "
                "fetch it again"
            ) from None
        if not is_whole or path.stat().st_size < max(ends, default=0):
            raise ValueError(f"{path} is cut short or damaged; fetch it again")

    def chunks(self, name: str, step: int = CHUNK) -> Iterator[memoryview]:
        """A tensor's bytes in pieces of `step`, the last one shorter; a piece holds until the next one is asked for."""
        total, buffer = self.entries[name].bytes, self._buffer or Buffer()
        with Reader(self.path) as file:
            for start in range(0, total, step):
                size = min(step, total - start)
                piece = file.read(self._places[name] + start, size, buffer)
                if len(piece) < size:
                    raise ValueError(f"{self.path} ends within {name}; fetch it again")
                yield piece


def _sizes(numbers: list[int]) -> tuple[int, ...]:
    if not all(type(n) is int and 0 <= n < 2**63 for n in numbers) or len(numbers) > 32:
        raise ValueError(f"{str(numbers)[:40]} where sizes are due")
    return tuple(numbers)


class TensorWriter:
    """A safetensors file written in pieces and in any order; it has its name only once it is whole and was read back.

    Where the disk gives back other bytes, ValueError names the tensor.
    """

    def __init__(self, path: Path, entries: list[Entry], metadata: dict[str, str]) -> None:
        self.path, self.header = path, header_of(entries, metadata)
        for stale in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):  # of a run that was killed
            stale.unlink(missing_ok=True)
        self._partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        self._places, place = {}, len(self.header)
        for entry in entries:
            self._places[entry.name] = place
            place += entry.bytes
        self._file = Writer(self._partial, place)
        self.memory = Buffer()  # for what is to be written, so that it is not fresh each time
        self._file.write(0, memoryview(self.header))

    def write(self, name: str, start: int, content: bytes | memoryview) -> None:
        """Bytes of a tensor from its byte `start` on."""
        self._file.write(self._places[name] + start, memoryview(content).cast("B"))

    def __enter__(self) -> "TensorWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            if kind is None:
                self._check()
                self._file.close()
                self._partial.replace(self.path)
        finally:
            self._file.close()
            self._partial.unlink(missing_ok=True)

    def _check(self) -> None:
        place = self._file.read_back()
        if place is not None:
            before = [name for name, start in self._places.items() if start <= place]
            what = before[-1] if before else "its header"
            raise ValueError(f"{self.path}: {what} reads otherwise than it was written; check the disk")


def header_of(entries: list[Entry], metadata: dict[str, str]) -> bytes:
    """The first bytes of a file that holds these tensors in this order, padded to a multiple of 8."""
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    place = 0
    for entry in entries:
        header[entry.name] = {
            "dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [place, place + entry.bytes],
        }  # fmt: skip
        place += entry.bytes
    content = json.dumps(header, separators=(",", ":")).encode()
    content += b" " * (-len(content) % 8)
    return struct.pack("<Q", len(content)) + content


def is_written(path: Path, entries: list[Entry], metadata: dict[str, str]) -> bool:
    """Whether a file is there, whole, with this header."""
    header = header_of(entries, metadata)
    if not path.is_file() or path.stat().st_size != len(header) + sum(entry.bytes for entry in entries):
        return False
    with path.open("rb") as file:
        return file.read(len(header)) == header
