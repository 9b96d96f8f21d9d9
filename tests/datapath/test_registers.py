"""Registers, step by step, against plain Python integers and NumPy's own float types."""

from dataclasses import replace
from fractions import Fraction
from itertools import product as all_combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright.datapath import WIDE, Accumulator, Aligned, Datapath, Overflow, bits_for, certify, worst_sum
from bitwright.formats import BFLOAT16, E2M1, E4M3, E5M2, E8M0, FLOAT16, FLOAT32, Bounds, Int, Minifloat, Rounding
from bitwright.quantization import PerBlock, PerRow, PerTensor, QuantizedTensor, Quantizer, Scale

SIGNED, UNSIGNED = Int(4), Int(4, signed=False)


def tensor(values, format, *scales, codes=()):
    """The matrix of these elements, with scale codes of one unless given."""
    scales = scales or (Scale(PerTensor()),)
    quantizer = Quantizer(format, scales)
    rows, k = values.shape
    block = quantizer.block(rows, k)
    padded = np.pad(values.astype(np.float64), ((0, 0), (0, -k % block)))
    given = [*codes, *[None] * (len(scales) - len(codes))]
    stored = tuple(
        np.full(s.share.shape(rows, k), s.format.encode(np.ones(1))[0]) if c is None else np.asarray(c)
        for s, c in zip(scales, given, strict=True)
    )
    return QuantizedTensor(format.encode(padded).reshape(rows, -1, block), stored, None, k, quantizer)


def integers(seed, rows, k, low, high):
    return np.random.default_rng(seed).integers(low, high + 1, (rows, k))


def stepped(x_row, w_row, low, high, overflow):
    total = 0
    for a, b in zip(x_row.tolist(), w_row.tolist(), strict=True):
        total += a * b
        if overflow is Overflow.WRAP:
            total = (total - low) % (high - low + 1) + low
        elif overflow is Overflow.SATURATE:
            total = min(max(total, low), high)
        elif not low <= total <= high:
            raise OverflowError
    return total


@pytest.mark.parametrize("overflow", [Overflow.WRAP, Overflow.SATURATE])
@pytest.mark.parametrize("register", [Int(6), Int(8), Int(9, narrow=True), Int(7, signed=False), Int(12)], ids=repr)
def test_a_limited_inner_register_equals_a_loop_over_python_integers(register, overflow):
    x, w = integers(0, 5, 29, 0, 15), integers(1, 4, 29, -8, 7)
    found = Datapath(inner=Accumulator(register, overflow)).matmul(tensor(x, UNSIGNED), tensor(w, SIGNED))
    expected = np.asarray([[stepped(a, b, *register.range, overflow) for b in w] for a in x])
    np.testing.assert_array_equal(found.values, expected)
    assert found.overflows == int((expected != x @ w.T).sum())
    assert found.accumulations == 20


@given(
    st.integers(2, 16),
    st.integers(1, 40),
    st.integers(0, 2**32 - 1),
    st.sampled_from([Overflow.WRAP, Overflow.SATURATE]),
)
@settings(max_examples=50, deadline=None)
def test_any_width_equals_a_loop_over_python_integers(bits, k, seed, overflow):
    x, w = integers(seed, 2, k, 0, 15), integers(seed + 1, 2, k, -8, 7)
    found = Datapath(inner=Accumulator(Int(bits), overflow)).matmul(tensor(x, UNSIGNED), tensor(w, SIGNED))
    expected = [[stepped(a, b, *Int(bits).range, overflow) for b in w] for a in x]
    np.testing.assert_array_equal(found.values, expected)


def test_a_sum_that_was_promised_to_fit_and_does_not_is_an_error_that_names_the_width():
    x, w = np.full((1, 20), 15), np.full((1, 20), 7)
    with pytest.raises(OverflowError, match="8-bit"):
        Datapath(inner=Accumulator(Int(8))).matmul(tensor(x, UNSIGNED), tensor(w, SIGNED))


def test_forbidding_overflow_looks_at_every_step_and_not_only_at_the_end():
    x, w = np.asarray([[15, 15, 15]]), np.asarray([[7, 7, -8]])  # 105, 210, 90
    with pytest.raises(OverflowError):
        Datapath(inner=Accumulator(Int(8))).matmul(tensor(x, UNSIGNED), tensor(w, SIGNED))


@pytest.mark.parametrize("tile", [None, 4, 8, 16])
def test_a_tile_is_one_inner_sum(tile):
    x, w = integers(2, 3, 40, 0, 15), integers(3, 2, 40, -8, 7)
    datapath = Datapath(inner=Accumulator(Int(8), Overflow.SATURATE), tile=tile)
    found = datapath.matmul(tensor(x, UNSIGNED), tensor(w, SIGNED))
    size = tile or 40
    expected = [
        [
            sum(stepped(a[i : i + size], b[i : i + size], -128, 127, Overflow.SATURATE) for i in range(0, 40, size))
            for b in w
        ]
        for a in x
    ]
    np.testing.assert_array_equal(found.values, expected)  # few small integers: float32 adds them exactly
    assert found.accumulations == 6 * (-(-40 // size) + (size < 40))


@pytest.mark.parametrize("overflow", [Overflow.WRAP, Overflow.SATURATE])
def test_a_limited_outer_register_equals_a_loop_over_python_integers(overflow):
    x, w = integers(4, 3, 40, 0, 15), integers(5, 2, 40, -8, 7)
    scale_format = Int(4, signed=False)
    x_scales, w_scales = integers(6, 3, 5, 0, 15), integers(7, 2, 5, 0, 15)
    scales = (Scale(PerRow()), Scale(PerBlock(8), scale_format))
    a, b = tensor(x, UNSIGNED, *scales, codes=(None, x_scales)), tensor(w, SIGNED, *scales, codes=(None, w_scales))
    found = Datapath(outer=Accumulator(Int(14), overflow)).matmul(a, b)
    block_sums = np.einsum("mtv,ntv->mnt", x.reshape(3, 5, 8), w.reshape(2, 5, 8))
    factors = x_scales[:, None] * w_scales[None]
    expected = [
        [stepped(block_sums[i, j], factors[i, j], *Int(14).range, overflow) for j in range(2)] for i in range(3)
    ]
    np.testing.assert_array_equal(found.values, expected)
    assert found.overflows == int((expected != (block_sums * factors).sum(2)).sum()) > 0


@pytest.mark.parametrize(("format", "dtype"), [(FLOAT32, np.float32), (FLOAT16, np.float16)])
def test_a_float_outer_register_equals_numpy_s_own_arithmetic(format, dtype):
    generator = np.random.default_rng(8)
    quantizer = Quantizer(E2M1, (Scale(PerBlock(8)),))
    x, w = (quantizer.quantize(generator.normal(size=(n, 61)).astype(np.float32)) for n in (4, 3))
    found = Datapath(outer=Accumulator(format)).matmul(x, w).values
    sums = np.einsum("mtv,ntv->mnt", x.elements(), w.elements()) * (x.scale()[:, None] * w.scale()[None])
    total = np.zeros((4, 3), dtype)
    for t in range(sums.shape[2]):
        total = total + sums[:, :, t].astype(dtype)
    np.testing.assert_array_equal(found, total.astype(np.float64))


@pytest.mark.parametrize(("format", "dtype"), [(FLOAT32, np.float32), (FLOAT16, np.float16)])
def test_a_float_inner_register_rounds_each_product_and_sum_of_real_values(format, dtype):
    x, w = (np.random.default_rng(seed).normal(size=(3, 50)) * 4 for seed in (9, 10))
    a, b = tensor(x, E4M3), tensor(w, E4M3)
    found = Datapath(inner=Accumulator(format)).matmul(a, b)
    total = np.zeros((3, 3), dtype)
    for i in range(50):
        product = a.decode()[:, i, None] * b.decode()[None, :, i]
        total = total + product.astype(dtype)
    np.testing.assert_array_equal(found.values, total.astype(np.float64))
    assert found.overflows == 0


def nearest(format, exact):
    """The format's value closest to a fraction, ties to the even code, by looking at all of them."""
    codes = np.arange(2**format.bits)
    codes = codes[~format.is_reserved(codes)]
    values = [Fraction(v) for v in format.decode(codes).tolist()]
    at = min(range(len(codes)), key=lambda i: (abs(values[i] - exact), codes[i] % 2))
    return values[at]


@pytest.mark.parametrize("elements", [E4M3, E5M2, Int(8)], ids=repr)
@pytest.mark.parametrize("product", [None, Minifloat(4, 2)], ids=["exact products", "rounded products"])
@pytest.mark.parametrize("format", [Minifloat(5, 3), Minifloat(6, 2), Minifloat(4, 5)], ids=repr)
def test_a_float_register_rounds_each_exact_sum_once(format, product, elements):
    x, w = (np.random.default_rng(seed).standard_t(2, (2, 40)) * 3 for seed in (9, 10))
    a, b = tensor(x, elements), tensor(w, elements)
    found = Datapath(Accumulator(format), product=product).matmul(a, b).values
    for i, j in all_combinations(range(2), range(2)):
        total = Fraction(0)
        for p, q in zip(a.decode()[i].tolist(), b.decode()[j].tolist(), strict=True):
            term = Fraction(p) * Fraction(q)
            total = nearest(format, total + (term if product is None else nearest(product, term)))
        assert found[i, j] == total


def test_a_sum_that_float64_cannot_hold_is_rounded_once_all_the_same():
    x, w = np.asarray([[2.0**-16, 1.25 * 2.0**15]]), np.asarray([[2.0**-16, 2.0**15]])
    found = Datapath(Accumulator(Minifloat(8, 1))).matmul(tensor(x, E5M2), tensor(w, E5M2))
    assert found.values[0, 0] == 1.5 * 2.0**30  # 1.25·2**30 alone is a tie, and goes down; 2**-32 more goes up


@pytest.mark.parametrize("format", [Minifloat(4, 3), Minifloat(5, 2)], ids=repr)
def test_a_float_register_stops_at_its_largest_value_and_keeps_subnormals(format):
    smallest = 2.0 ** (format.smallest_exponent - format.mantissa_bits)
    x = np.asarray([[448.0] * 20, [-448.0] * 20, [smallest] + [0] * 19])
    w = np.asarray([[448.0] * 20, [1.0] + [0] * 19])
    found = Datapath(Accumulator(format)).matmul(tensor(x, E5M2), tensor(w, E5M2)).values
    np.testing.assert_array_equal(found[:2, 0], [format.full_scale, -format.full_scale])
    assert found[2, 1] == smallest


@pytest.mark.parametrize("rounding", [Rounding.TOWARD_ZERO, Rounding.FLOOR, Rounding.NEAREST_AWAY])
def test_a_float_register_rounds_as_it_is_told(rounding):
    x, w = (np.random.default_rng(seed).normal(size=(3, 30)) * 4 for seed in (9, 10))
    a, b = tensor(x, E4M3), tensor(w, E4M3)
    format = Minifloat(6, 5)
    total = np.zeros((3, 3))
    for i in range(30):  # few bits: float64 is exact
        total = format.decode(format.encode(total + a.decode()[:, i, None] * b.decode()[None, :, i], rounding))
    found = Datapath(Accumulator(format, rounding=rounding)).matmul(a, b)
    np.testing.assert_array_equal(found.values, total)


@pytest.mark.parametrize(
    ("register", "said"),
    [({"format": FLOAT16, "rounding": Rounding.STOCHASTIC}, "random"), ({"format": E8M0}, "no zero to start from")],
)
def test_a_register_that_cannot_be_built_is_refused(register, said):
    with pytest.raises(ValueError, match=said):
        Accumulator(**register)


@pytest.mark.parametrize("overflow", [Overflow.WRAP, Overflow.SATURATE])
@pytest.mark.parametrize("tile", [1, 4, 8, 40, 64])
def test_saturation_a_tile_clamps_when_its_exact_sum_is_added(tile, overflow):
    x, w = integers(2, 3, 40, 0, 15), integers(3, 2, 40, -8, 7)
    found = Datapath(WIDE, Accumulator(Int(8), overflow), tile).matmul(tensor(x, UNSIGNED), tensor(w, SIGNED))
    tiles = [(x[:, i : i + tile] @ w[:, i : i + tile].T).astype(int) for i in range(0, 40, tile)]
    expected = [
        [stepped(np.asarray([t[i, j] for t in tiles]), np.ones(len(tiles), int), -128, 127, overflow) for j in range(2)]
        for i in range(3)
    ]
    np.testing.assert_array_equal(found.values, expected)
    assert found.overflows == int((np.asarray(expected) != x @ w.T).sum())
    assert found.accumulations == 6 * (len(tiles) + 1)


@pytest.mark.parametrize("tile", [8, 64])
def test_an_outer_register_of_tiles_is_certified_without_block_scales(tile):
    w = tensor(integers(3, 2, 40, -8, 7), SIGNED)
    x = Quantizer(UNSIGNED, (Scale(PerTensor()),))
    whole = Datapath().certify(w, x, UNSIGNED.bounds())
    proof = Datapath(WIDE, Accumulator(), tile).certify(w, x, UNSIGNED.bounds())
    assert (proof.outer_low, proof.outer_high) == (whole.inner_low, whole.inner_high)
    narrow = Accumulator(Int(proof.outer_bits - 1))
    with pytest.raises(ValueError, match="-bit outer accumulator"):
        Datapath(WIDE, narrow, tile).require_fit(proof)
    for fitting in (Accumulator(Int(proof.outer_bits)), replace(narrow, overflow=Overflow.SATURATE)):
        Datapath(WIDE, fitting, tile).require_fit(proof)


def aligned(values, bits, tile, register=FLOAT32):
    """The sum of these products with ones."""
    datapath = Datapath(WIDE, Accumulator(register, rounding=Rounding.TOWARD_ZERO), tile, product=Aligned(bits))
    ones = np.ones((1, len(values)))
    return datapath.matmul(tensor(np.asarray([values]), Int(20)), tensor(ones, Int(20))).values[0, 0]


def test_aligned_products_lose_what_lies_below_the_largest_one_s_bits():
    assert aligned([2**13, 1, 1, 1], 14, 4) == 2**13 + 3
    assert aligned([2**14, 1, 1, 1], 14, 4) == 2**14  # 15 bits: the ones are cut off one by one
    assert aligned([2**14, 1, 1, 1], 14, 2) == 2**14 + 2  # the second tile has its own exponent
    assert aligned([2**14, 2, 3, 1], 14, 4) == 2**14 + 4
    assert aligned([2**14, -1, 0, 0], 14, 4) == 2**14 - 2  # a shift of two's complement goes down
    assert aligned([2**14, 1, 1, 1], 14, 2, Minifloat(8, 13)) == 2**14 + 2


def test_14_bits_beside_448_end_at_one_32nd():
    for power, is_kept in ((-4, True), (-5, True), (-6, False)):
        x = tensor(np.asarray([[448.0, 2.0**power]]), E4M3)
        found = Datapath(WIDE, Accumulator(FLOAT32), 32, product=Aligned(14)).matmul(x, tensor(np.ones((1, 2)), E4M3))
        assert (found.values[0, 0] > 448) == is_kept


@pytest.mark.parametrize(
    "changes", [{"tile": None}, {"inner": Accumulator(Int(9))}, {"outer": WIDE}, {"inner": Accumulator(FLOAT16)}]
)
def test_aligned_products_need_tiles_and_a_float_register(changes):
    with pytest.raises(ValueError, match="tile by tile, into a float register"):
        Datapath(**({"tile": 32, "product": Aligned()} | changes))


def test_a_bfloat16_register_loses_small_addends():
    x = np.asarray([[256.0, 1, 1, 1]])
    found = Datapath(inner=Accumulator(BFLOAT16)).matmul(tensor(x, E4M3), tensor(np.ones((1, 4)), E4M3))
    assert found.values[0, 0] == 256


def test_a_scale_product_may_be_rounded_to_a_format():
    scales = (Scale(PerBlock(2), Int(8, signed=False)),)
    x = tensor(np.ones((1, 4)), SIGNED, *scales, codes=([[200, 15]],))
    w = tensor(np.ones((1, 4)), SIGNED, *scales, codes=([[3, 4]],))
    kept = Datapath(outer=Accumulator(), scale_product=Int(8, signed=False, exponent=8)).matmul(x, w)
    assert kept.values[0, 0] == 2 * 2 * 256  # 600 becomes 2 and 60 becomes 0, in units of 256


def test_float_block_scales_need_a_float_outer_register():
    x = tensor(np.ones((1, 4)), SIGNED, Scale(PerBlock(2)), codes=([np.float32([0.5, 0.5]).view(np.int32)],))
    with pytest.raises(ValueError, match="integer block scales"):
        Datapath(outer=Accumulator()).matmul(x, tensor(np.ones((1, 4)), SIGNED))


@pytest.mark.parametrize(
    ("x_block", "w_block", "tile", "said"), [(6, 4, None, "one must divide the other"), (8, 8, 3, "choose a divisor")]
)
def test_blocks_and_tiles_that_do_not_nest_are_refused(x_block, w_block, tile, said):
    x, w = (tensor(np.ones((1, 24)), SIGNED, Scale(PerBlock(b))) for b in (x_block, w_block))
    with pytest.raises(ValueError, match=said):
        Datapath(tile=tile).matmul(x, w)


@pytest.mark.parametrize(
    ("x_block", "w_block", "inner"), [(16, 32, 16), (32, 16, 16), (40, 8, 8), (64, 64, 40), (16, 64, 16)]
)
def test_an_inner_sum_is_as_long_as_the_smaller_block(x_block, w_block, inner):
    x, w = (Quantizer(SIGNED, (Scale(PerBlock(b)),)) for b in (x_block, w_block))
    assert Datapath().inner_elements(x, w, 3, 40) == inner


def test_blocks_of_two_sizes_give_the_exact_product():
    x, w = integers(11, 3, 50, 0, 15), integers(12, 2, 50, -8, 7)
    fine, coarse = integers(13, 3, 7, 1, 15), integers(14, 2, 4, 1, 15)
    scale = Int(4, signed=False)
    a = tensor(x, UNSIGNED, Scale(PerBlock(8), scale), codes=(fine,))
    b = tensor(w, SIGNED, Scale(PerBlock(16), scale), codes=(coarse,))
    expected = (x * np.repeat(fine, 8, 1)[:, :50]) @ (w * np.repeat(coarse, 16, 1)[:, :50]).T
    np.testing.assert_array_equal(Datapath(outer=Accumulator()).matmul(a, b).values, expected)


@pytest.mark.parametrize(
    ("low", "high", "bits"), [(0, 0, 1), (0, 1, 2), (-1, 0, 1), (-2, 1, 2), (-128, 127, 8), (-129, 0, 9), (0, 128, 9)]
)
def test_the_width_that_holds_a_range(low, high, bits):
    assert bits_for(low, high) == bits


@given(st.integers(-(10**9), 0), st.integers(0, 10**9))
def test_no_narrower_register_holds_the_range(low, high):
    bits = bits_for(low, high)
    assert Int(bits).range[0] <= low
    assert high <= Int(bits).range[1]
    if bits > 1:
        assert low < -(2 ** (bits - 2)) or high > 2 ** (bits - 2) - 1


@pytest.mark.parametrize(
    ("x", "w"),
    [(Int(2), Int(2)), (Int(2, signed=False), Int(2)), (Int(2, narrow=True), Minifloat(1, 1)), (E2M1, Int(2))],
    ids=repr,
)
def test_the_worst_sum_is_the_extreme_over_all_inputs_and_weights(x, w):
    x_units = (
        np.unique(x.decode(np.arange(2**x.bits)[~x.is_reserved(np.arange(2**x.bits))]))
        * 2.0 ** -x.bounds().exponent.start
    )
    w_units = np.unique(w.decode(np.arange(2**w.bits))) * 2.0 ** -w.bounds().exponent.start
    sums = [
        a * b + c * d for a, c in all_combinations(x_units, repeat=2) for b, d in all_combinations(w_units, repeat=2)
    ]
    assert worst_sum(x.bounds(), w.bounds(), 2) == (min(sums), max(sums))


def test_a_promised_norm_limits_the_worst_sum():
    w = Int(4).bounds()._replace(norm1=10.0)
    assert worst_sum(UNSIGNED.bounds(), w, 1000) == (-150, 150)
    assert worst_sum(UNSIGNED.bounds(), w, 1) == (-120, 105)


def test_a_certificate_is_the_extreme_over_all_inputs():
    for seed in range(10):
        w = integers(seed, 2, 4, -8, 7)
        found = certify(tensor(w, SIGNED), Int(2).bounds(), 4)
        sums = [np.dot(row, x) for row in w for x in all_combinations(range(-2, 2), repeat=4)]
        assert (found.inner_low, found.inner_high) == (min(sums), max(sums))
        assert found.outer_bits is None


def test_a_certificate_of_tiles_looks_at_each_tile():
    w = integers(20, 3, 6, -8, 7)
    found = certify(tensor(w, SIGNED), Int(2, signed=False).bounds(), 2)
    sums = [np.dot(row[i : i + 2], x) for row in w for i in (0, 2, 4) for x in all_combinations(range(4), repeat=2)]
    assert (found.inner_low, found.inner_high) == (min(sums), max(sums))


def test_an_outer_certificate_is_the_extreme_over_all_inputs_and_scales():
    w, scales = integers(21, 2, 4, -8, 7), integers(22, 2, 2, 0, 3)
    x_quantizer = Quantizer(Int(2), (Scale(PerBlock(2), Int(2, signed=False)),))
    b = tensor(w, SIGNED, Scale(PerBlock(2), Int(2, signed=False)), codes=(scales,))
    found = Datapath(outer=Accumulator()).certify(b, x_quantizer, Int(2).bounds())
    sums = [
        sum(s[t] * scales[j, t] * np.dot(w[j, 2 * t : 2 * t + 2], x[2 * t : 2 * t + 2]) for t in (0, 1))
        for j in (0, 1) for s in all_combinations(range(4), repeat=2) for x in all_combinations(range(-2, 2), repeat=4)
    ]  # fmt: skip
    assert (found.outer_low, found.outer_high) == (min(sums), max(sums))


def test_a_certificate_never_asks_for_more_than_the_worst_sum():
    for seed in range(5):
        b = tensor(integers(seed, 3, 17, -8, 7), SIGNED)
        low, high = worst_sum(UNSIGNED.bounds(), SIGNED.bounds(), 17)
        found = certify(b, UNSIGNED.bounds(), 17)
        assert low <= found.inner_low
        assert found.inner_high <= high


def test_a_register_that_wraps_or_saturates_needs_no_proof():
    b = tensor(np.full((1, 20), 7), SIGNED)
    certificate = certify(b, UNSIGNED.bounds(), 20)
    for overflow in (Overflow.WRAP, Overflow.SATURATE):
        Datapath(inner=Accumulator(Int(4), overflow)).require_fit(certificate)
    with pytest.raises(ValueError, match="need a 13-bit inner accumulator, the datapath has 4"):
        Datapath(inner=Accumulator(Int(4))).require_fit(certificate)


def test_unit_bounds_are_exact_integers():
    assert Bounds(3, range(-1, 2), -6.0, 6.0).units == (-12, 12)
    assert E4M3.bounds().units == (-448 * 2**9, 448 * 2**9)


def test_sums_beyond_64_bits_stay_exact():
    wide = Minifloat(5, 2, bias=15)
    largest = replace(tensor(np.full((1, 8), wide.full_scale), wide))
    found = Datapath().matmul(largest, largest)
    assert found.values[0, 0] == 8 * wide.full_scale**2
