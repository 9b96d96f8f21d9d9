"""Rows of .npz and .npy files, one at a time: of a compressed array too, only what is asked for is inflated."""

import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.lib import format as npy

from bitwright.sources.records import LARGEST_FILE, Reader, Row, Tokens

HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


@final
@dataclass(frozen=True)
class Header:
    """Shape and type of a stored array."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def row_bytes(self) -> int:
        return int(np.prod(self.shape[1:], dtype=object)) * self.dtype.itemsize


@final
@dataclass(frozen=True)
class Arrays(Reader):
    """An .npz of `x` (first axis samples) and `y` (classes), and `calibration` (inputs that are not tested on).

    Integers in `x` without `y` are rows of tokens.
    """

    path: Path
    inputs: str = "x"

    def records(self, is_wanted: Callable[[int], bool] = lambda index: True) -> Iterator[tuple[int, Row | Tokens]]:
        with self._opened() as stored, ExitStack() as stack:
            names = members(stored)
            header, inputs = stack.enter_context(array(stored, names[self.inputs], self.path))
            is_tokens = "y" not in names and np.issubdtype(header.dtype, np.integer)
            classes, targets = None, None
            if not is_tokens and self.inputs == "x":
                classes, targets = stack.enter_context(array(stored, names["y"], self.path))
                self._require_one_each(header, classes)
            for index in range(header.shape[0]):
                x = row(inputs, header, self.path)
                y = -1 if targets is None or classes is None else row(targets, classes, self.path)
                if is_wanted(index):
                    where = f"{self.path}, {self.inputs}[{index}]"
                    yield index, Tokens(x, where) if is_tokens else Row(x.astype(np.float32), int(y), where)

    def count(self) -> int:
        with self._opened() as stored, array(stored, members(stored)[self.inputs], self.path) as (header, _):
            return header.shape[0]

    @property
    def calibration(self) -> "Arrays | None":
        """The inputs that only calibrate, where the file has them."""
        with self._opened() as stored:
            return Arrays(self.path, "calibration") if "calibration" in members(stored) else None

    def _require_one_each(self, x: Header, y: Header) -> None:
        if not np.issubdtype(y.dtype, np.integer) or len(y.shape) != 1:
            raise Unreadable(f"{self.path}: y is {y.dtype}{list(y.shape)}; it must be a whole number for each sample")
        if x.shape[0] != y.shape[0]:
            raise Unreadable(
                f"{self.path}: {x.shape[0]} inputs and {y.shape[0]} targets found; there must be one target an input"
            )

    @contextmanager
    def _opened(self) -> Iterator[zipfile.ZipFile]:
        with readable(self.path), zipfile.ZipFile(self.path) as stored:
            names = members(stored)
            if "x" not in names:
                raise Unreadable(f"{self.path} holds {', '.join(names)}; it needs x (inputs) and y (classes)")
            with array(stored, names["x"], self.path) as (header, _):
                if "y" not in names and not np.issubdtype(header.dtype, np.integer):
                    raise Unreadable(f"{self.path} holds {', '.join(names)}; it needs x (inputs) and y (classes)")
            yield stored


@final
@dataclass(frozen=True)
class TokenArray(Reader):
    """An .npy of token ids: one long text, or a text a row. Read through the file, never whole."""

    path: Path

    def records(self, is_wanted: Callable[[int], bool] = lambda index: True) -> Iterator[tuple[int, Tokens]]:
        stored = self._mapped()
        rows = stored[None] if stored.ndim == 1 else stored
        for index in range(len(rows)):
            if is_wanted(index):
                yield index, Tokens(rows[index], f"{self.path}[{index}]")

    def count(self) -> int:
        stored = self._mapped()
        return 1 if stored.ndim == 1 else len(stored)

    def _mapped(self) -> np.ndarray:
        with readable(self.path):
            stored = np.load(self.path, mmap_mode="r", allow_pickle=False)
        if not isinstance(stored, np.ndarray) or not np.issubdtype(stored.dtype, np.integer) or stored.ndim > 2:
            raise ValueError(f"{self.path} holds no token ids; inputs with classes are saved by np.savez(x=..., y=...)")
        return stored


class Unreadable(ValueError):
    """Said as it is."""


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """What NumPy and zipfile say of a damaged file, in one sentence."""
    try:
        yield
    except Unreadable:
        raise
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise ValueError(
            f"{path} is not an array file that NumPy reads without pickle ({error}); save it with np.savez"
        ) from None


def members(stored: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    return {info.filename.removesuffix(".npy"): info for info in stored.infolist()}


@contextmanager
def array(stored: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> Iterator[tuple[Header, BufferedIOBase]]:
    """An array's header, and its file at the first row."""
    with stored.open(info) as opened:
        version = npy.read_magic(opened)
        if version not in HEADERS:
            raise ValueError(f"{info.filename} has version {version}")
        shape, is_fortran, dtype = HEADERS[version](opened)
        header = Header(shape, dtype)
        if dtype.hasobject or not shape:
            raise ValueError(f"{info.filename} is {dtype} of shape {shape}")
        if is_fortran and len(shape) > 1:
            raise Unreadable(f"{path}: {info.filename} is stored by columns; save np.ascontiguousarray of it")
        if header.row_bytes > LARGEST_FILE:
            raise Unreadable(f"{path}: a sample of {info.filename} has {header.row_bytes} bytes, over {LARGEST_FILE}")
        if header.row_bytes * shape[0] > info.file_size:
            raise ValueError(f"{info.filename} is shorter than its shape {shape}")
        yield header, opened  # type: ignore[misc]  # a ZipExtFile is one


def row(opened: BufferedIOBase, header: Header, path: Path) -> Any:
    content = opened.read(header.row_bytes)
    if len(content) != header.row_bytes:
        raise ValueError("it ends early")
    return np.frombuffer(content, header.dtype).reshape(header.shape[1:])
