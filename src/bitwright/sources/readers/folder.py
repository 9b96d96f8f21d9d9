"""A folder with one folder of images a class."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import final

from bitwright.sources.pictures import SUFFIXES
from bitwright.sources.records import LARGEST_FILE, Picture, Reader


@final
@dataclass(frozen=True)
class ImageFolder(Reader):
    """Images of each class's folder, classes and images in alphabetical order."""

    path: Path

    @cached_property
    def files(self) -> tuple[tuple[Path, str], ...]:
        classes = sorted(p for p in self.path.iterdir() if p.is_dir())
        found = tuple((f, c.name) for c in classes for f in sorted(c.iterdir()) if f.suffix.lower() in SUFFIXES)
        if not found:
            raise ValueError(f"{self.path} holds no images; it needs one folder of {', '.join(SUFFIXES)} files a class")
        return found

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted({name for _, name in self.files}))

    def records(self, is_wanted: Callable[[int], bool] = lambda index: True) -> Iterator[tuple[int, Picture]]:
        for index, (file, name) in enumerate(self.files):
            if is_wanted(index):
                if file.stat().st_size > LARGEST_FILE:
                    raise ValueError(f"{file} has {file.stat().st_size} bytes; images of {LARGEST_FILE} are read")
                yield index, Picture(file.read_bytes(), name, str(file))

    def count(self) -> int:
        return len(self.files)
