"""Sums of squared errors have one order."""

import numpy as np
import pytest

from bitwright.formats import Int
from bitwright.quantization import (
    PerBlock,
    PerColumns,
    PerRow,
    PerTensor,
    PerTile,
    Quantizer,
    Range,
    Scale,
    squared_errors,
    sum_cells,
    sum_last,
)  # fmt: skip


def in_order(x):
    """The definition, element by element."""
    if len(x) > 4096:
        return in_order(np.asarray([in_order(x[i : i + 4096]) for i in range(0, len(x), 4096)]))
    lanes = [0.0] * 16
    for i, value in enumerate(x.tolist()):
        lanes[i % 16] += value
    while len(lanes) > 1:
        half = len(lanes) // 2
        lanes = [a + b for a, b in zip(lanes[:half], lanes[half:], strict=True)]
    return lanes[0]


@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 100, 4096, 5000, 70000])
@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3)])
def test_sixteen_lanes_add_in_order_and_then_their_halves(n, shape):
    x = np.random.default_rng(n).lognormal(0, 5, (*shape, n))
    found = np.asarray(sum_last(x))
    assert found.shape == shape
    assert found.ravel().tolist() == [in_order(row) for row in x.reshape(int(np.prod(shape)), n)]


@pytest.mark.parametrize("share", [PerTensor(), PerRow(), PerBlock(16), PerColumns(11), PerTile(4, 3)], ids=repr)
@pytest.mark.parametrize("shape", [(1, 1), (8, 33), (20, 528)])
def test_a_cell_is_summed_row_by_row(share, shape):
    x = np.random.default_rng(0).lognormal(0, 5, shape)
    height, width = share.cell(*shape)
    down, across = share.shape(*shape)
    padded = np.zeros((down * height, across * width))  # short cells end in zeros
    padded[: shape[0], : shape[1]] = x
    expected = [
        [in_order(padded[i : i + height, j : j + width].ravel()) for j in range(0, across * width, width)]
        for i in range(0, down * height, height)
    ]
    np.testing.assert_array_equal(sum_cells(share, x), expected)


def test_errors_are_those_of_the_decoded_values_before_they_are_narrowed():
    x = np.float32([[0.1, 0.7, -0.3]])
    quantizer = Quantizer(Int(8), (Scale(PerTensor()),))
    ranges = (Range(np.full((1, 1), -0.7), np.full((1, 1), 0.7)),)
    wrong = quantizer.quantize(x, ranges).decode() - x
    assert squared_errors(quantizer, x, [ranges] * 2, PerTensor()).tolist() == [[[in_order((wrong**2)[0])]]] * 2
