"""Squared errors of representations, summed in one order everywhere, so that kernels find the same sums bit for bit."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from bitwright.quantization.granularity import Granularity
from bitwright.quantization.scale import Range

if TYPE_CHECKING:
    from bitwright.quantization.quantizer import Quantizer

LANES, BLOCK = 16, 4096

Ranges = tuple[Range | None, ...]

SquaredErrors = Callable[["Quantizer", np.ndarray, Sequence[Ranges], Granularity], np.ndarray]
"""Squared error of each cell under each of several ranges: the reference below, or a kernel equal to it."""


def squared_errors(
    quantizer: "Quantizer", x: Float[np.ndarray, "rows k"], trials: Sequence[Ranges], share: Granularity
) -> Float[np.ndarray, "trials down across"]:
    """Sum of (decode(quantize(x)) - x)² over each cell, in float64, for each trial's ranges."""
    return np.stack([sum_cells(share, (quantizer.quantize(x, ranges).decode() - x) ** 2) for ranges in trials])


def sum_cells(share: Granularity, x: Float[np.ndarray, "rows k"]) -> Float[np.ndarray, "down across"]:
    """Sum over each cell, whose elements follow each other row by row, in the order of `sum_last`."""
    rows, k = x.shape
    height, width = share.cell(rows, k)
    down, across = share.shape(rows, k)
    padded = np.pad(x, ((0, down * height - rows), (0, across * width - k)))
    cells = padded.reshape(down, height, across, width).transpose(0, 2, 1, 3)
    return sum_last(cells.reshape(down, across, height * width))


def sum_last(x: Float[np.ndarray, "*shape n"]) -> Float[np.ndarray, "*shape"]:
    """Sum over the last axis, of blocks of 4096 and then of their sums.

    In a block, lane i of 16 adds elements i, i + 16, ... in order; then halves of the lanes are added.
    """
    if x.shape[-1] > BLOCK:
        return sum_last(sum_last(_split(x, BLOCK)))
    lanes = _split(x, LANES).sum(-2, initial=0.0)  # outer axes are added in order
    while lanes.shape[-1] > 1:
        half = lanes.shape[-1] // 2
        lanes = lanes[..., :half] + lanes[..., half:]
    return lanes[..., 0]


def _split(x: Float[np.ndarray, "*shape n"], size: int) -> Float[np.ndarray, "*shape parts size"]:
    """The last axis in parts, padded with zeros."""
    *outer, n = x.shape
    padding = [(0, 0)] * len(outer) + [(0, -n % size)]
    return np.ascontiguousarray(np.pad(x, padding)).reshape(*outer, -(-n // size), size)
