"""What is read from a register that wraps: the source's formula, its vectors, and a loop over Python integers."""

from fractions import Fraction

import numpy as np
import pytest

from bitwright.datapath import WIDE, Accumulator, Cyclic, Datapath, Overflow
from bitwright.formats import FLOAT32, Int
from bitwright.quantization import PerRow, PerTensor, QuantizedTensor, Quantizer, Scale


def register(bits: int, slope: int) -> Accumulator:
    return Accumulator(Int(bits), Overflow.WRAP, readout=Cyclic(slope))


def read_sum(accumulator: Accumulator, z: int) -> int:
    start = np.zeros((1, 1), np.int64)
    return int(accumulator.read(accumulator.add(start, np.full((1, 1), z)))[0, 0])


def cyclic(z: int, bits: int, slope: int) -> Fraction:
    """The formula of arXiv:2007.13242, branch by branch."""
    half = 2 ** (bits - 1)
    m = (z + half) % 2**bits - half
    end = Fraction(slope, slope + 1) * half
    if m > end:
        return Fraction(slope * (half - m))
    if m < -end:
        return Fraction(-slope * (half + m))
    return Fraction(m)


@pytest.mark.parametrize(
    ("slope", "z", "expected"),
    [
        (1, 10, 10), (1, 64, 64), (1, 100, 28), (1, 127, 1), (1, 128, 0), (1, 200, -56), (1, -129, 1), (1, 300, 44),
        (2, 85, 85), (2, 86, 84), (2, 100, 56), (2, 127, 2),
    ],
)  # fmt: skip
def test_an_8_bit_register_is_read_as_in_the_specification(slope, z, expected):
    assert read_sum(register(8, slope), z) == expected


@pytest.mark.parametrize("slope", [1, 2, 3, 8])
@pytest.mark.parametrize("bits", [2, 3, 8])
def test_every_sum_is_read_by_the_formula(bits, slope):
    sums = range(-3 * 2**bits, 3 * 2**bits)
    assert [read_sum(register(bits, slope), z) for z in sums] == [cyclic(z, bits, slope) for z in sums]


@pytest.mark.parametrize("slope", [1, 2, 5])
def test_neighbouring_sums_are_read_within_a_slope_of_each_other_wherever_they_wrap(slope):
    found = np.asarray([read_sum(register(6, slope), z) for z in range(-200, 200)])
    assert np.abs(np.diff(found)).max() <= slope


def test_reading_stays_exact_in_the_widest_register():
    assert read_sum(register(62, 1), 2**60 + 1) == 2**60 - 1
    with pytest.raises(ValueError, match="more than 64 bits"):
        register(62, 4)


def matrices(m: int, n: int, k: int):
    x_format, w_format = Int(3, signed=False), Int(2, narrow=True)
    x, w = np.random.default_rng(0).integers(0, 8, (m, k)), np.random.default_rng(1).integers(-1, 2, (n, k))
    made = []
    for values, format, share in ((x, x_format, PerTensor()), (w, w_format, PerRow())):
        codes = np.full(share.shape(*values.shape), FLOAT32.encode(np.full(1, 0.5))[0])
        quantizer = Quantizer(format, (Scale(share),))
        made.append(QuantizedTensor(format.encode(values.astype(float))[:, None], (codes,), None, k, quantizer))
    return x, w, *made


@pytest.mark.parametrize("slope", [1, 3])
def test_a_product_is_what_is_read_from_each_register_times_the_scales(slope):
    x, w, a, b = matrices(5, 4, 90)
    found = Datapath(register(6, slope), WIDE).matmul(a, b)
    sums = x @ w.T
    np.testing.assert_array_equal(found.values, [[float(cyclic(int(z), 6, slope)) / 4 for z in row] for row in sums])
    assert found.overflows == int(((sums < -32) | (sums > 31)).sum()) > 0


def test_each_tile_has_a_register_that_is_read():
    x, w, a, b = matrices(5, 4, 90)
    found = Datapath(register(5, 1), WIDE, tile=30)
    tiles = np.einsum("mtk,ntk->mnt", x.reshape(5, 3, 30), w.reshape(4, 3, 30))
    expected = [[sum(cyclic(int(z), 5, 1) for z in row) / 4 for row in column] for column in tiles]
    np.testing.assert_array_equal(found.matmul(a, b).values, np.asarray(expected, float))


@pytest.mark.parametrize("slope", [0, -1])
def test_a_slope_that_is_no_positive_integer_is_refused(slope):
    with pytest.raises(ValueError, match="at least 1"):
        Cyclic(slope)


@pytest.mark.parametrize(
    ("format", "overflow", "advice"),
    [
        (Int(8), Overflow.FORBID, "choose Overflow.WRAP"), (Int(8), Overflow.SATURATE, "choose Overflow.WRAP"),
        (Int(8, signed=False), Overflow.WRAP, "choose Int"), (Int(8, narrow=True), Overflow.WRAP, "choose Int"),
        (FLOAT32, Overflow.WRAP, "choose Int"), (None, Overflow.WRAP, "choose Int"),
    ],
)  # fmt: skip
def test_only_a_twos_complement_register_that_wraps_has_a_readout(format, overflow, advice):
    with pytest.raises(ValueError, match=advice):
        Accumulator(format, overflow, readout=Cyclic())


def test_an_outer_register_has_no_readout():
    with pytest.raises(ValueError, match="inner register only"):
        Datapath(outer=register(8, 1))
