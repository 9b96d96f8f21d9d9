"""Stored samples in a fixed order, and the readers that bring them in."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Samples:
    """Inputs as stored, images as pixels and texts as token ids, each with its target."""

    inputs: Sequence[Any] | np.ndarray
    targets: Sequence[Any] | np.ndarray

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.targets):
            raise ValueError(f"{len(self.inputs)} inputs have {len(self.targets)} targets; each input needs one")

    def __len__(self) -> int:
        return len(self.inputs)

    def part(self, first: int, stop: int) -> "Samples":
        return Samples(self.inputs[first:stop], self.targets[first:stop])


class Reader(ABC):
    """A stored collection of samples."""

    @property
    @abstractmethod
    def files(self) -> tuple[str, ...]:
        """What is read, relative to the data folder."""

    @abstractmethod
    def read(self, folder: Path, chosen: range) -> Samples:
        """The samples at these positions of the collection."""
