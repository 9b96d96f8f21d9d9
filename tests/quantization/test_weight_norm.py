"""A2Q's integers from direction, norm and scale: the specification's vectors, and the bound on random rows."""

import numpy as np
import pytest

from bitwright.datapath.widths import Span, certify_sums
from bitwright.quantization.weight_norm import NormBound, normalised

# made with Brevitas 0.13.4 and an independent reference, which agree
V1 = (0.5, -0.25, 0.125, 0.375, -0.5, 0.0625, -0.125, 0.3125)
V2 = (0.75, 0.5, 0.25, 0.125, 0.625, 0.5, 0.375, 0.875)
V3 = (0.5, -0.5, 0.5, -0.5)
VECTORS = (  # v, M, N, P, centred, signed inputs, d, t, integers, lowest and highest sum, exact P
    (V1, 4, 4, 16, False, False, -4, 3, (7, -7, 7, 7, -7, 3, -7, 7), -315, 465, 10),
    (V1, 4, 4, 8, False, False, -4, 3, (1, 0, 0, 1, -1, 0, 0, 1), -15, 45, 7),
    (V1, 4, 4, 8, False, True, -4, 3, (3, -1, 0, 2, -3, 0, 0, 2), -84, 81, 8),
    (V1, 4, 4, 8, True, False, -4, 3, (3, -2, 0, 2, -4, 0, -1, 1), -105, 90, 8),
    (V1, 4, 4, 9, False, False, -4, 0, (3, -1, 0, 2, -3, 0, 0, 2), -60, 105, 8),
    (V1, 4, 4, 9, False, False, -4, 3, (3, -1, 0, 2, -3, 0, 0, 2), -60, 105, 8),
    (V1, 4, 4, 9, True, False, -4, 3, (7, -5, 1, 5, -7, 0, -3, 4), -225, 255, 9),
    (V1, 8, 8, 16, False, False, -7, 4, (28, -14, 7, 21, -28, 3, -7, 17), -12495, 19380, 16),
    (V1, 8, 8, 16, True, False, -7, 4, (52, -37, 7, 37, -68, 0, -22, 30), -32385, 32130, 16),
    (V2, 4, 4, 9, False, False, -4, 3, (2, 1, 0, 0, 2, 1, 1, 3), 0, 150, 9),
    (V2, 8, 8, 16, True, False, -7, 4, (42, 0, -42, -64, 21, 0, -21, 64), -32385, 32385, 16),
    (V3, 8, 8, 16, True, False, -7, 4, (64, -64, 64, -64), -32640, 32640, 16),
    (V3, 8, 8, 12, False, False, -7, 4, (1, -1, 1, -1), -510, 510, 10),
)


def bound(m: int, n: int, p: int, *, centred: bool, signed: bool = False, tile: int | None = None) -> NormBound:
    largest = 2 ** (p - 1) - 1
    return NormBound(
        2 ** (m - 1) - 1, 2 * largest / (2**n - 1) if centred else largest * 2.0 ** (signed - n), centred, tile
    )


def inputs(n: int, *, signed: bool) -> Span:
    return Span(-(2 ** (n - 1)), 2 ** (n - 1) - 1) if signed else Span(0, 2**n - 1)


@pytest.mark.parametrize(("v", "m", "n", "p", "centred", "signed", "d", "t", "q", "low", "high", "bits"), VECTORS)
def test_integers_sums_and_widths_are_those_of_the_specification(v, m, n, p, centred, signed, d, t, q, low, high, bits):
    found = normalised(
        np.array([v]),
        np.full((1, 1), float(t)),
        np.full((1, 1), float(d)),
        bound(m, n, p, centred=centred, signed=signed),
    )
    np.testing.assert_array_equal(found, [q])
    x = inputs(n, signed=signed)
    positive, negative = found.clip(min=0).sum(), -found.clip(max=0).sum()
    assert (x.low * positive - x.high * negative, x.high * positive - x.low * negative) == (low, high)
    assert Span(low, high).bits == bits


def rows_of_every_kind(generator: np.random.Generator, count: int, k: int) -> np.ndarray:
    """Gaussian, sparse, zero, constant and small-integer rows: ties and ratios that float arithmetic meets exactly."""
    kinds = (
        generator.normal(size=(count, k)),
        generator.normal(size=(count, k)) * (generator.random((count, k)) < 0.05),
        np.zeros((count, k)),
        np.full((count, k), 0.5) * generator.choice([-1.0, 1.0], (count, k)),
        generator.integers(-3, 4, (count, k)) / 8,
    )
    return np.stack(kinds)[np.arange(count) % len(kinds), np.arange(count)].astype(np.float32)


@pytest.mark.parametrize("centred", [False, True], ids=["A2Q", "A2Q+"])
@pytest.mark.parametrize("tile", [None, 16])
def test_ten_thousand_rows_never_need_more_than_the_register_has(centred, tile):
    generator = np.random.default_rng(0)
    for _ in range(50):
        k, m, n = int(generator.integers(1, 300)), int(generator.integers(2, 9)), int(generator.integers(1, 9))
        p = int(generator.integers(n + 2, n + m + 9))
        signed = not centred and bool(generator.integers(2))
        limit = bound(m, n, p, centred=centred, signed=signed, tile=tile)
        tiles, size = limit.shape(k)
        v = rows_of_every_kind(generator, 200, k)
        t, d = generator.uniform(-6, 12, (200, tiles)), generator.uniform(-8, 2, (200, 1))
        q = normalised(v, np.where(generator.random(t.shape) < 0.3, np.rint(t), t), np.rint(d), limit)
        assert np.abs(q).max(initial=0) <= limit.largest
        assert not q[(v == 0).all(1)].any()
        assert certify_sums(q, inputs(n, signed=signed), tile=size).exact_bits <= p


def test_levels_that_are_integers_stay_them():
    """At d = log2(max|v| / largest) in float32 the largest weight must not fall one code short."""
    v = np.random.default_rng(1).normal(size=(500, 40)).astype(np.float32)
    d = np.log2(np.abs(v).max(1, keepdims=True) / 7).astype(np.float32)
    t = np.log2(np.abs(v).sum(1, keepdims=True)).astype(np.float32)
    q = normalised(v, t, d, bound(4, 4, 32, centred=False))
    assert (np.abs(q).max(1) == 7).all()
