"""The points that a layer's weights may take once its scales are fixed, and what chooses among them."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from bitwright.formats import Format, Rounding
from bitwright.model.layers import FakeQuantizedLayer
from bitwright.quantization import Quantizer, Range, ScaleValue


@dataclass(frozen=True)
class Grid:
    """Elements of a scalar format times scales that no longer change."""

    format: Format
    scale: Float[np.ndarray, "rows k"]

    def __post_init__(self) -> None:
        bounds = self.format.bounds()
        if self.format.run > 1 or bounds.reach or bounds.norm1 is not None or bounds.norm1_of_sign is not None:
            raise ValueError(
                f"{self.format} encodes neighbours together, so its weights cannot be chosen one at a time; "
                "use a format whose codes stand alone"
            )

    def levels(self, values: Float[np.ndarray, "rows k"]) -> Float[np.ndarray, "rows k"]:
        """Values in units of their scales; zero under a scale of zero."""
        return _divide(values, self.scale)

    def level(self, column: int, values: Float[np.ndarray, " rows"]) -> Float[np.ndarray, " rows"]:
        """One column of `levels`."""
        return _divide(values, self.scale[:, column])

    def round(self, level: Float[np.ndarray, " rows"], rounding: Rounding) -> Float[np.ndarray, " rows"]:
        """Elements that stand for the levels."""
        return self.format.decode(self.format.encode(level, rounding))

    def take(self, rows: slice) -> "Grid":
        return replace(self, scale=self.scale[rows])

    @staticmethod
    def stacked(grids: Sequence["Grid"]) -> "Grid":
        """The rows of several grids of one format, one grid after the other."""
        return replace(grids[0], scale=np.concatenate([grid.scale for grid in grids]))


class Choice(NamedTuple):
    """What one column of weights becomes."""

    weights: Float[np.ndarray, " rows"]  # on the grid
    aims: Float[np.ndarray, " rows"]  # what was rounded: the targets, less what a constraint took


class Rounder(ABC):
    """Chooses weights on a grid for one column of targets after the other. May remember its choices."""

    @abstractmethod
    def choose(self, column: int, targets: Float[np.ndarray, " rows"]) -> Choice: ...


@dataclass(frozen=True)
class Nearest(Rounder):
    """The nearest point of the grid."""

    grid: Grid

    def choose(self, column: int, targets: Float[np.ndarray, " rows"]) -> Choice:
        element = self.grid.round(self.grid.level(column, targets), Rounding.NEAREST_EVEN)
        return Choice(element * self.grid.scale[:, column], targets)


@dataclass(frozen=True)
class Pinned:
    """A layer's weights, the scales that its quantizer sets for them, and the quantizer that reads chosen ones back."""

    weights: Float[np.ndarray, "rows k"]
    grid: Grid
    quantizer: Quantizer
    ranges: tuple[Range, ...]

    @staticmethod
    def of(layer: FakeQuantizedLayer) -> "Pinned":
        """Scales from the layer's present weights. A quantizer of weights that look at neighbours raises ValueError."""
        quantizer = layer.weight_quantizer
        if quantizer is None:
            raise ValueError("the model is not calibrated; call calibrate first")
        rows = layer.lowering.weight_rows(layer.real_weight().detach().float(), layer.block).numpy()
        ranges = tuple(quantizer.find_ranges(rows, layer.weight_ranges))
        # any rounding but to nearest, or another divisor than the stored scale, would move points of the grid
        quantizer = replace(quantizer, divide_by=ScaleValue.STORED, rounding=Rounding.NEAREST_EVEN)
        return Pinned(rows.astype(np.float64), _grid(quantizer, rows, ranges), quantizer, ranges)

    @property
    def together(self) -> int:
        """Consecutive rows that share a scale, at the level that the fewest share."""
        return min(scale.share.cell(*self.weights.shape)[0] for scale in self.quantizer.scales)

    def widened(self, factors: Float[np.ndarray, " rows"]) -> "Pinned":
        """The same with the scales of each row multiplied; levels that more rows share than `together` stay."""
        ranges = []
        for scale, found in zip(self.quantizer.scales, self.ranges, strict=True):
            height, _ = scale.share.cell(*self.weights.shape)
            factor = factors[::height, None].astype(found.low.dtype)
            ranges.append(Range(found.low * factor, found.high * factor) if height == self.together else found)
        grid = _grid(self.quantizer, self.weights.astype(np.float32), tuple(ranges))
        return replace(self, grid=grid, ranges=tuple(ranges))

    def give_(self, layer: FakeQuantizedLayer, weights: Float[np.ndarray, "rows k"]) -> None:
        """Weights on the grid become the layer's, with ranges that keep their scales at `freeze`."""
        rows = torch.from_numpy(weights)
        real = layer.lowering.weight_from_rows(rows, layer.weight.shape, layer.block).to(layer.weight)
        # a parameter of its own: an embedding may share the old one
        layer.weight = nn.Parameter(real.contiguous(), requires_grad=layer.weight.requires_grad)
        layer.weight_quantizer, layer._weight_ranges = self.quantizer, self.ranges
        layer.norm = None
        if "weight" in layer.steps:
            del layer.steps["weight"]
        layer.forget()
        stored = layer.lowering.weight_rows(layer.weight.detach().float(), layer.block).numpy()
        read = self.quantizer.quantize(stored, self.ranges).decode()
        assert np.array_equal(read, weights), "weights on the grid are read back unchanged"


def _grid(quantizer: Quantizer, rows: Float[np.ndarray, "rows k"], ranges: tuple[Range, ...]) -> Grid:
    quantized = quantizer.quantize(rows, ranges)
    if quantized.zero_points is not None:
        raise ValueError("weights with a fitted zero point are not stored; use a symmetric weight quantizer")
    scale = np.repeat(quantized.scale(), quantized.codes.shape[2], 1)[:, : rows.shape[1]]
    return Grid(quantizer.format, scale)


def _divide(values: Float[np.ndarray, "*rows"], scale: Float[np.ndarray, "*rows"]) -> Float[np.ndarray, "*rows"]:
    return np.divide(values, scale, out=np.zeros_like(values), where=scale > 0)
