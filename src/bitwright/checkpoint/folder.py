"""A folder of safetensors as one set of tensors by name, read one at a time. Nothing in it is executed."""

import filecmp
import json
from pathlib import Path
from typing import Any

import numpy as np

from bitwright.checkpoint.layouts import Raw
from bitwright.checkpoint.tensors import Entry, TensorFile
from bitwright.store import copy_atomically

INDEX, CONFIG = "model.safetensors.index.json", "config.json"
PICKLED = (".bin", ".pt", ".pth")
LARGEST_JSON = 64 << 20
"""Bytes of a configuration or an index."""

_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<u2", "BF16": "<u2", "F8_E4M3": "u1", "F8_E5M2": "u1", "F8_E8M0": "u1",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1",
    "BOOL": "u1",
}  # fmt: skip


class TensorFolder:
    """The tensors of a model's folder. Pickles, an index that leads elsewhere and damaged files raise ValueError."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, TensorFile] = {}
        for path in self._paths():
            file = TensorFile(path)
            for name in file.entries:
                if name in self._files:
                    raise ValueError(f"{folder}: {name} lies in both {self._files[name].path.name} and {path.name}")
                self._files[name] = file

    @property
    def entries(self) -> dict[str, Entry]:
        return {name: file.entries[name] for name, file in self._files.items()}

    @staticmethod
    def names_of(path: Path) -> list[str]:
        """The tensors of one file."""
        return list(TensorFile(path).entries)

    def read(self, name: str) -> Raw:
        """One tensor, whole."""
        entry = self._files[name].entries[name]
        content = b"".join(bytes(piece) for piece in self._files[name].chunks(name)) if entry.bytes else b""
        return Raw(name, entry.dtype, np.frombuffer(content, _DTYPES[entry.dtype]).reshape(entry.shape))

    def _paths(self) -> list[Path]:
        if not self.folder.is_dir():
            raise ValueError(f"{self.folder} is no folder; give that of a model: config.json and safetensors")
        index = self.folder / INDEX
        if not index.is_file():
            found = sorted(self.folder.glob("*.safetensors"))
            pickles = [p.name for pattern in ("*.bin", "*.pt", "*.pth") for p in self.folder.glob(pattern)]
            if not found and pickles:
                raise ValueError(
                    f"{self.folder} holds {pickles[0]}, a pickle, which may run code when it is read; load it where it "
                    "is trusted and save it with save_pretrained(..., safe_serialization=True)"
                )
            if not found:
                raise ValueError(f"{self.folder} holds no .safetensors file; give the folder of a model in that format")
            return found
        listed = read_config(index).get("weight_map")
        if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
            raise ValueError(f"{index} has no map from tensors to files; fetch it again")
        names = sorted(set(listed.values()))
        for name in names:
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise ValueError(f"{index} names {name!r}; only .safetensors files beside it are read")
            if not (self.folder / name).is_file():
                raise ValueError(f"{index} names {name}, which is not there; fetch it")
        return [self.folder / name for name in names]


def read_config(path: Path) -> dict[str, Any]:
    """A JSON object; ValueError where there is none."""
    if not path.is_file():
        raise ValueError(f"{path.parent} has no {path.name}; give the folder of a whole model")
    if path.stat().st_size > LARGEST_JSON:
        raise ValueError(f"{path} has {path.stat().st_size} bytes; at most {LARGEST_JSON} are read")
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({type(error).__name__}); fetch it again") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no JSON object; fetch it again")
    return found


def require_room_for_rest(source: Path, out: Path) -> None:
    """ValueError where `copy_rest` would overwrite what is another file, such as a README of one's own."""
    for path in _rest(source):
        there = out / path.name
        if there.exists() and not (there.is_file() and filecmp.cmp(path, there, shallow=False)):
            raise ValueError(
                f"{there} is there already and is not that of {source}; remove it, or choose another folder"
            )


def copy_rest(source: Path, out: Path) -> None:
    """What lies beside the weights, less pickled copies of them, its configuration and its index.

    The hub's cache is made of links, which are followed; a link in `out` is replaced, not written through.
    """
    for path in _rest(source):
        copy_atomically(path, out / path.name)


def _rest(source: Path) -> list[Path]:
    return [
        path for path in sorted(source.iterdir())
        if path.is_file() and path.suffix not in (".safetensors", *PICKLED) and path.name not in (CONFIG, INDEX)
    ]  # fmt: skip
