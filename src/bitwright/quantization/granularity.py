"""Who shares a scale. Every granularity is a grid of equal rectangles over a matrix [rows, k]."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Shaped


class Granularity(ABC):
    """A grid over a matrix [rows, k], K last."""

    splits_k: ClassVar[bool]
    """Whether scales vary along K, and so stay inside a dot product's sum."""

    @abstractmethod
    def cell(self, rows: int, k: int) -> tuple[int, int]:
        """Rows and columns of one cell."""

    def shape(self, rows: int, k: int) -> tuple[int, int]:
        """Cells down and across."""
        height, width = self.cell(rows, k)
        return -(-rows // height), -(-k // width)

    def reduce(self, function: np.ufunc, x: Shaped[np.ndarray, "rows k"]) -> Shaped[np.ndarray, "down across"]:
        """function.reduce over each cell."""
        height, width = self.cell(*x.shape)
        columns = function.reduceat(x, np.arange(0, x.shape[1], width), axis=1)
        return function.reduceat(columns, np.arange(0, x.shape[0], height), axis=0)

    def expand(self, cells: Shaped[np.ndarray, "down across"], rows: int, k: int) -> Shaped[np.ndarray, "rows k"]:
        """Each cell's value at every element of the cell. A single row or column of cells serves all of them.

        Of a matrix without columns there are no cells, and ones serve.
        """
        if not cells.shape[1]:
            return np.ones((rows, k), cells.dtype)
        height, width = self.cell(rows, k)
        down = np.arange(rows) // height if cells.shape[0] > 1 else np.zeros(rows, int)
        across = np.arange(k) // width if cells.shape[1] > 1 else np.zeros(k, int)
        return cells[down[:, None], across]


@dataclass(frozen=True)
class PerTensor(Granularity):
    """One scale."""

    splits_k: ClassVar[bool] = False

    def cell(self, rows: int, k: int) -> tuple[int, int]:
        return max(rows, 1), max(k, 1)


@dataclass(frozen=True)
class PerRow(Granularity):
    """One scale a row: an output channel of a weight, a token of an activation."""

    splits_k: ClassVar[bool] = False

    def cell(self, rows: int, k: int) -> tuple[int, int]:
        return 1, max(k, 1)


@dataclass(frozen=True)
class PerBlock(Granularity):
    """One scale for each `size` consecutive elements of a row."""

    splits_k: ClassVar[bool] = True

    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"PerBlock: a block of {self.size} elements found; it needs at least 1")

    def cell(self, rows: int, k: int) -> tuple[int, int]:
        return 1, max(min(self.size, k), 1)


@dataclass(frozen=True)
class PerTile(Granularity):
    """One scale for each rows × columns rectangle (DeepSeek-V3's 128 × 128 weights)."""

    splits_k: ClassVar[bool] = True

    rows: int
    columns: int

    def __post_init__(self) -> None:
        if self.rows < 1 or self.columns < 1:
            raise ValueError(f"PerTile: {self.rows} × {self.columns} found; a tile needs at least 1 × 1")

    def cell(self, rows: int, k: int) -> tuple[int, int]:
        return max(min(self.rows, rows), 1), max(min(self.columns, k), 1)


@dataclass(frozen=True)
class PerColumns(Granularity):
    """One scale for each `size` consecutive columns, the same for all rows: static scales of an input's vectors."""

    splits_k: ClassVar[bool] = True

    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"PerColumns: a vector of {self.size} elements found; it needs at least 1")

    def cell(self, rows: int, k: int) -> tuple[int, int]:
        return max(rows, 1), max(min(self.size, k), 1)
