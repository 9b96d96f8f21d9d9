"""Results on disk: one JSON file a row, written atomically, keyed by everything that decides its content."""

import dataclasses
import hashlib
import json
import os
import secrets
import shutil
import types
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

T = TypeVar("T")


def key_of(*parts: object) -> str:
    """Short content key of JSON-able parts."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def write_json(path: Path, value: Any) -> None:
    """A dataclass as JSON, all or nothing: temporary file, flush to disk, rename. A full disk raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(dataclasses.asdict(value), indent=1, allow_nan=False) + "\n").encode())


def write_atomically(path: Path, content: bytes) -> None:
    """Bytes to a file that is either the old one or wholly the new one."""
    with _replacing(path) as file:
        file.write(content)


def copy_atomically(source: Path, path: Path) -> None:
    """A file's content and times likewise. A link is followed at `source` and replaced at `path`."""
    with source.open("rb") as given, _replacing(path) as file:
        shutil.copyfileobj(given, file)
    shutil.copystat(source, path)


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the name of another, or of a link, once it is whole."""
    name = path.parent / f".{path.name}.{secrets.token_hex(8)}"
    try:
        handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)  # less the umask, as open() does
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException as error:
        name.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


def read_json(path: Path, kind: type[T]) -> T:
    """A dataclass read back. ValueError naming the file where it is not such a value."""
    try:
        return _build(kind, json.loads(path.read_text()))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not a {kind.__name__} of this version ({error}); delete it to compute it again"
        ) from None


def _build(kind: Any, value: Any) -> Any:
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        present = [
            f.name for f in dataclasses.fields(kind) if f.name in value or f.default is dataclasses.MISSING
        ]  # a file from before a field was added lacks it
        return kind(**{name: _build(hints[name], value[name]) for name in present})
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple and len(args) == 2 and args[1] is Ellipsis:
        return tuple(_build(args[0], v) for v in value)
    if origin is tuple:
        return tuple(_build(a, v) for a, v in zip(args, value, strict=True))
    if origin is types.UnionType:
        return None if value is None else _build(next(a for a in args if a is not type(None)), value)
    return value
