"""An array of narrow typed multipliers computes products of wide integers in fewer rows and columns, bit for bit."""

import numpy as np
import pytest

pytest.importorskip("amaranth", reason="circuits need amaranth: pip install 'bitwright[rtl]'")

from bitwright.formats import Int
from bitwright.rtl.fused_array import FusedArray
from bitwright.schemes.ant import flint, power_of_two
from bitwright.testing.rtl import evaluate

X = (Int(4, signed=False), flint(4), Int(8, signed=False), Int(8))
W = (Int(4), flint(4), power_of_two(4), Int(8))
ROWS, COLUMNS, VECTORS = 4, 4, 6


def halves(codes):
    """Low and high halves of wide codes as neighbours along the last axis."""
    return np.stack([codes & 15, codes >> 4], -1).reshape(*codes.shape[:-1], -1)


def products(array, x, w, x_codes, w_codes, sum_in):
    """What leaves the array for x [vectors, elements] and w [outputs, elements]."""
    to_x, to_w = x_codes, w_codes.T  # [vectors, rows], [rows, columns]
    if x.bits == 8:
        to_x, to_w = halves(to_x), np.repeat(to_w, 2, axis=0)
    if w.bits == 8:
        to_w, sum_in = halves(to_w), np.stack([sum_in, np.zeros_like(sum_in)], -1).reshape(len(sum_in), -1)
    latency = ROWS + COLUMNS - 1
    clocks = ROWS + VECTORS + latency
    inputs = {name: np.zeros(clocks, int) for name, (_, is_input) in array.ports().items() if is_input}
    loading, streaming = slice(0, ROWS), slice(ROWS, ROWS + VECTORS)
    inputs["load"][loading] = inputs["valid"][streaming] = 1
    inputs["w_select"][loading], inputs["x_select"][streaming] = W.index(w), X.index(x)
    for c in range(COLUMNS):
        inputs[f"w_{c}"][loading] = to_w[::-1, c]
        inputs[f"sum_in_{c}"][streaming] = sum_in[:, c]
    for r in range(ROWS):
        inputs[f"x_{r}"][streaming] = to_x[:, r]
    found = evaluate(array, inputs, clocked=True)
    assert found["sum_valid"] == [0] * (ROWS + latency) + [1] * VECTORS
    step = 2 if w.bits == 8 else 1
    return np.stack([found[f"sum_{c}"][ROWS + latency :] for c in range(0, COLUMNS, step)], 1)


@pytest.mark.parametrize("w", W, ids=["int", "flint", "pot", "s8"])
@pytest.mark.parametrize("x", X, ids=["uint", "flint", "u8", "s8"])
def test_products_of_every_pair_of_formats(x, w):
    rng = np.random.default_rng(0)
    elements, outputs = ROWS * 4 // x.bits, COLUMNS * 4 // w.bits
    x_codes, w_codes = rng.integers(0, 2**x.bits, (VECTORS, elements)), rng.integers(0, 2**w.bits, (outputs, elements))
    x_codes[0], w_codes[0] = 2**x.bits - 1, 2 ** (w.bits - 1)  # extremes
    sum_in = rng.integers(-500, 500, (VECTORS, outputs))
    found = products(FusedArray(X, W, 64, ROWS, COLUMNS), x, w, x_codes, w_codes, sum_in)
    np.testing.assert_array_equal(found, x.decode(x_codes) @ w.decode(w_codes).T + sum_in)


def test_an_array_of_odd_sides_is_refused():
    with pytest.raises(ValueError, match="3 rows and 4 columns found; both are even"):
        FusedArray(X, W, 64, 3, 4)
