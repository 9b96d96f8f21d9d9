"""Hypothesis strategies: formats, quantizers, and matrices with the values that break arithmetic."""

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from bitwright.formats import E2M1, E2M3, E3M2, E4M3, E5M2, E8M0, Format, Int, Minifloat, Rounding, Specials, Table
from bitwright.quantization import (
    Granularity,
    PerBlock,
    PerColumns,
    PerRow,
    PerTensor,
    PerTile,
    Quantizer,
    Scale,
    ScaleValue,
)

Draw = Callable[..., Any]
"""What a composite strategy is given; Hypothesis's own protocol cannot be checked at run time."""

_DETERMINISTIC = [r for r in Rounding if r is not Rounding.STOCHASTIC]


def roundings() -> st.SearchStrategy[Rounding]:
    """Every rounding that needs no generator."""
    return st.sampled_from(_DETERMINISTIC)


def integers(largest_bits: int = 16) -> st.SearchStrategy[Int]:
    """Integers and fixed point, signed or not."""
    return st.builds(
        Int, st.integers(2, largest_bits), signed=st.booleans(), narrow=st.booleans(), exponent=st.integers(-8, 8)
    )


def minifloats() -> st.SearchStrategy[Minifloat]:
    """Small floats that have a zero, named ones among them."""
    split = st.builds(
        Minifloat, st.integers(2, 5), st.integers(1, 4), bias=st.none() | st.integers(-4, 16), signed=st.booleans(),
        specials=st.sampled_from(Specials),
    )  # fmt: skip
    return st.sampled_from([E2M1, E2M3, E3M2, E4M3, E5M2]) | split


@st.composite
def tables(draw: Draw) -> Table:
    """Codebooks of dyadic values with a positive largest one; repeated values are allowed."""
    count = 2 ** draw(st.integers(1, 4))
    significands = draw(st.lists(st.integers(-15, 15), min_size=count - 1, max_size=count - 1))
    exponents = draw(st.lists(st.integers(-3, 5), min_size=count, max_size=count))
    return Table((*significands, draw(st.integers(1, 15))), tuple(exponents))


def formats() -> st.SearchStrategy[Format]:
    """Scalar formats of every kind in the core."""
    return integers() | minifloats() | tables()


def levels() -> st.SearchStrategy[float]:
    """Finite levels: zeros, ties, subnormals, huge and small ones, ordinary ones."""
    special = [
        0.0,
        -0.0,
        0.5,
        -0.5,
        1.5,
        2.5,
        0.25,
        0.75,
        5.0,
        5e-324,
        -1e-310,
        2.0**-149,
        1e-30,
        3.4e38,
        -3.4e38,
        1e300,
    ]
    return (
        st.sampled_from(special) | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-300, 300).map(float)
    )


@st.composite
def matrices(
    draw: Draw, rows: st.SearchStrategy[int] | None = None, k: st.SearchStrategy[int] | None = None
) -> np.ndarray:
    """float32 [rows, k]: one seed draws the bulk, then zeros, equal values, ties, subnormals and outliers are put in.

    Magnitudes stay within 2**±40, so that squares and scales stay normal float32; subnormals are beside them,
    not alone.
    """
    m, n = draw(rows or st.integers(1, 5)), draw(k or st.integers(1, 70))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["normal", "uniform", "integers", "zeros", "sparse", "positive", "wide"]))
    x = {
        "normal": lambda: generator.normal(size=(m, n)),
        "uniform": lambda: generator.uniform(-1, 1, (m, n)),
        "integers": lambda: generator.integers(-12, 13, (m, n)) / 2,  # ties under a scale of one
        "zeros": lambda: np.zeros((m, n)),
        "sparse": lambda: generator.normal(size=(m, n)) * (generator.random((m, n)) < 0.1),
        "positive": lambda: np.abs(generator.standard_t(2, (m, n))),
        "wide": lambda: np.ldexp(generator.normal(size=(m, n)), generator.integers(-20, 20, (m, n))),
    }[kind]()
    scale = 2.0 ** draw(st.integers(-20, 20))
    x = (x * scale).astype(np.float32)
    if draw(st.booleans()):
        x[draw(st.integers(0, m - 1)), draw(st.integers(0, n - 1))] = draw(
            st.sampled_from([0.0, -0.0, 1e-40, -1e-40, scale])
        )
    return x


def granularities() -> st.SearchStrategy[Granularity]:
    """Every granularity, blocks of a few sizes."""
    sizes = st.sampled_from([1, 3, 8, 16, 32])
    return (
        st.sampled_from([PerTensor(), PerRow()]) | st.builds(PerBlock, sizes) | st.builds(PerColumns, sizes)
        | st.builds(PerTile, st.sampled_from([1, 2, 3]), sizes)
    )  # fmt: skip


@st.composite
def quantizers(draw: Draw) -> Quantizer:
    """One level of float32 or power-of-two scales, or a float32 level over integer or E4M3 ones."""
    format = draw(integers(8) | minifloats() | tables().filter(lambda t: 0 in t.significands))
    rounding, divide_by = draw(roundings()), draw(st.sampled_from(ScaleValue))
    if draw(st.booleans()):
        share = draw(granularities())
        scale = draw(st.sampled_from([Scale(share), Scale(share, E8M0, Rounding.CEILING)]))
        return Quantizer(format, (scale,), rounding, divide_by)
    coarse = Scale(draw(st.sampled_from([PerTensor(), PerRow()])))
    fine = PerBlock(draw(st.sampled_from([4, 16])))
    stored = draw(st.sampled_from([Int(4, signed=False), Int(6, signed=False), E4M3]))
    return Quantizer(format, (coarse, Scale(fine, stored)), rounding, divide_by)
