"""Native products through registers equal the reference bit for bit, for every set of instructions."""

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from bitwright.datapath import WIDE, Accumulator, Cyclic, Datapath, Overflow
from bitwright.formats import BFLOAT16, E2M1, E4M3, E8M0, FLOAT32, Int, Minifloat, Rounding
from bitwright.kernels import Operand, Stationary, Unsupported, library, matmul, only
from bitwright.kernels.native import multiply as native
from bitwright.kernels.native import products, registers
from bitwright.quantization import PerBlock, PerRow, PerTensor, Quantizer, Scale
from bitwright.schemes import mxfp4, mxint8, nvfp4

pytestmark = pytest.mark.usefixtures("instructions")


@pytest.fixture(params=library.LEVELS)
def instructions(request):
    """Each level of instructions that the machine has."""
    with library.level(request.param) as used:
        if used != request.param:
            pytest.skip(f"this machine has no {request.param}")
        yield used


U8, S8, U4, S4 = Int(8, signed=False), Int(8, narrow=True), Int(4, signed=False), Int(4, narrow=True)
TOWARD_ZERO = Rounding.TOWARD_ZERO


def operands(formats, m, n, k, seed=0, *, is_worst=False, scales=None):
    """Random rows, or all elements at the ends of their formats."""
    generator = np.random.default_rng(seed)
    made = []
    for rows, format, share in zip((m, n), formats, (PerTensor(), PerRow()), strict=True):
        x = generator.standard_t(3, (rows, k)).astype(np.float32)
        x = np.sign(x) * 10 if is_worst else x
        x = np.abs(x) if format.bounds().lowest == 0 else x
        made.append(Quantizer(format, scales or (Scale(share),)).quantize(x))
    return made


def assert_equals_reference(datapath, a, b):
    expected = datapath.matmul(a, b)
    values, overflows, sums = native.matmul(datapath, Operand.of(a), Stationary(Operand.of(b)))
    np.testing.assert_array_equal(values.numpy(), expected.values)
    assert (overflows, sums) == (expected.overflows, expected.accumulations)
    return expected.overflows


def assert_equals_reference_or_is_refused(datapath, a, b):
    """Both raise OverflowError, or neither."""
    try:
        datapath.matmul(a, b)
    except OverflowError:
        with pytest.raises(OverflowError):
            native.matmul(datapath, Operand.of(a), Stationary(Operand.of(b)))
        return None
    return assert_equals_reference(datapath, a, b)


SIZES = [(1, 1, 1), (7, 5, 2), (9, 130, 33), (13, 3, 515), (200, 3, 20)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("formats", [(U8, S8), (S8, S8), (U4, S4), (Int(9, exponent=-3), Int(3, exponent=5))], ids=str)
def test_ragged_sizes_of_every_register_equal_the_reference(size, formats):
    a, b = operands(formats, *size)
    product = formats[0].full_scale * formats[1].full_scale * 2.0 ** -(formats[0].exponent + formats[1].exponent)
    bits = int(product).bit_length() + 2
    for register in (
        WIDE, Accumulator(Int(bits), Overflow.WRAP), Accumulator(Int(bits), Overflow.WRAP, readout=Cyclic(1)),
        Accumulator(Int(bits), Overflow.SATURATE), Accumulator(Int(bits, narrow=True), Overflow.SATURATE),
    ):  # fmt: skip
        assert_equals_reference(Datapath(register), a, b)
    for tile in (1, 3, 16, 50):
        assert_equals_reference(Datapath(WIDE, Accumulator(Int(bits), Overflow.SATURATE), tile=tile), a, b)
        assert_equals_reference(Datapath(WIDE, Accumulator(Int(bits), Overflow.WRAP), tile=tile), a, b)


@pytest.mark.parametrize("overflow", [Overflow.WRAP, Overflow.SATURATE])
@pytest.mark.parametrize("is_worst", [False, True], ids=["random", "worst"])
@pytest.mark.parametrize("formats", [(U8, S8), (U4, S4), (Int(2), Int(2))], ids=str)
def test_every_width_equals_the_reference(formats, is_worst, overflow):
    a, b = operands(formats, 3, 5, 40, is_worst=is_worst)
    found = 0
    for bits in (*range(2, 20), 24, 28, 29, 30, 31, 32):
        for register in (Int(bits), Int(bits, narrow=True), Int(bits, signed=False)):
            try:
                found += assert_equals_reference(Datapath(Accumulator(register, overflow)), a, b)
            except Unsupported:
                assert bits > 30, "narrower registers are all taken"
    assert found, "the case is worth its name"


@pytest.mark.parametrize("bits", range(2, 17))
@pytest.mark.parametrize("side", [-1, 1])
def test_a_sum_at_its_limit_stays_and_one_beyond_is_clipped(bits, side):
    limit = 2 ** (bits - 1) - (side > 0)
    largest = min(limit, 127)
    steps = [largest] * (limit // largest) + [limit % largest]
    for extra in (0, 1):
        column = np.asarray([*steps, extra, 0, -1, -1], np.int64)
        b = integers(side * column[None].repeat(40, 0), Int(9))
        a = integers(np.ones((7, len(column))), Int(2))
        datapath = Datapath(Accumulator(Int(bits), Overflow.SATURATE))
        assert assert_equals_reference(datapath, a, b) == 280 * extra


def integers(values, format):
    """A matrix of these integers under a scale of one."""
    made = Quantizer(format, (Scale(PerTensor()),)).quantize(np.ones(values.shape, np.float32) * format.full_scale)
    codes = format.encode(values.astype(np.float64), Rounding.NEAREST_EVEN).reshape(made.codes.shape)
    return replace(made, codes=codes)


def test_sums_that_leave_and_come_back_to_the_exact_one_are_not_overflows():
    x = integers(np.asarray([[1, 1, 1, 1]]), Int(2))
    w = integers(np.asarray([[7, 7, -7, -7], [7, 7, -7, 0], [-8, -8, 8 - 1, 1]]), Int(5))
    for bits in (4, 5, 6):
        assert_equals_reference(Datapath(Accumulator(Int(bits), Overflow.SATURATE)), x, w)


def runs(k, length):
    """1 and -1 in runs of some length, so that sums go up and down [k]."""
    return np.where(np.arange(k) // length % 2, -1, 1)


@pytest.mark.parametrize("length", [1, 9, 40, 300], ids=lambda n: f"runs of {n}")
@pytest.mark.parametrize("bits", [9, 12, 16, 17, 18, 21])
def test_sums_that_leave_and_come_back_all_the_time_equal_the_reference(bits, length):
    m, n, k = 9, 70, 530
    generator = np.random.default_rng(bits)
    size, x = 2 ** min(bits // 2, 7) - 1, np.full((m, k), 2 ** min(bits // 2, 8) - 1)
    w = size * runs(k, length) * np.ones((n, 1), int)
    w[n // 2 :, generator.integers(0, k, 100)] = 0
    x[m // 2 :, generator.integers(0, k, 100)] //= 3
    a, b = integers(x, Int(9)), integers(w, S8)
    for register in (Int(bits), Int(bits, signed=False)):
        found = assert_equals_reference(Datapath(Accumulator(register, Overflow.SATURATE)), a, b)
        assert found or length * size * x.max() < register.range[1]


@pytest.mark.parametrize("bits", [4, 5, 7])
def test_sums_a_whole_register_from_the_exact_ones_are_counted(bits):
    steps = np.asarray([2 ** (bits - 1) - 1] * 2 + [1] * 3)  # 2**bits + 1 in all, clipped to one below 2**(bits - 1)
    k = 2 ** (bits - 1) - 1
    a = integers(np.ones((60, 90)), Int(2))
    w = np.zeros((80, 90))
    w[::3, : len(steps)] = steps
    w[1::3, :k] = 1
    datapath = Datapath(Accumulator(Int(bits), Overflow.SATURATE))
    equal = integers(np.where(np.arange(90) < 4, 2 ** (bits - 2), 0) + np.zeros((80, 1)) + w * 0, Int(8))
    for b in (integers(w, Int(8)), equal):
        assert_equals_reference(datapath, a, b)


@settings(max_examples=20, deadline=None)
@given(
    bits=st.integers(10, 24), length=st.integers(1, 90), seed=st.integers(0, 999), k=st.integers(1, 300),
    size=st.sampled_from([(1, 1), (17, 40), (8, 32)]),
)  # fmt: skip
def test_a_sum_that_must_fit_is_exact_or_refused_as_the_reference_refuses_it(bits, length, seed, k, size):
    generator = np.random.default_rng(seed)
    x = generator.integers(0, 256, (size[0], k))
    w = runs(k, length) * generator.integers(0, 128, (size[1], k))
    a, b = integers(x, Int(9)), integers(w, S8)
    for register in (Int(bits), Int(bits, signed=False)):
        datapath = Datapath(Accumulator(register))
        try:
            expected = datapath.matmul(a, b)
        except OverflowError:
            with pytest.raises(OverflowError, match=f"some sums do not fit the {bits}-bit accumulator; widen it"):
                native.matmul(datapath, Operand.of(a), Stationary(Operand.of(b)))
        else:
            values, overflows, sums = native.matmul(datapath, Operand.of(a), Stationary(Operand.of(b)))
            np.testing.assert_array_equal(values.numpy(), expected.values)
            assert (overflows, sums) == (0, expected.accumulations)


@pytest.mark.parametrize("kernels", ["native", "torch"])
def test_a_sum_that_leaves_its_register_on_the_way_is_refused_though_it_comes_back(kernels):
    a, b = integers(np.ones((3, 80)), Int(2)), integers(7 * runs(80, 10) * np.ones((5, 1)), Int(5))
    x, w = Operand.of(a), Stationary(Operand.of(b))
    for bits, is_refused in ((7, True), (8, False)):
        with only(kernels), pytest.raises(OverflowError) if is_refused else nullcontext():
            matmul(Datapath(Accumulator(Int(bits))), x, w)


FLOATS = [
    Minifloat(5, 8, bias=10),
    Minifloat(5, 8),
    Minifloat(8, 4),
    Minifloat(4, 3, bias=-2),
    BFLOAT16,
    Minifloat(8, 1),
]


@pytest.mark.parametrize("rounding", [Rounding.NEAREST_EVEN, TOWARD_ZERO])
@pytest.mark.parametrize("register", FLOATS, ids=str)
def test_narrow_float_registers_equal_the_reference(register, rounding):
    taken = 0
    for formats in ((U4, S4), (Int(3), Int(3)), (E2M1, Int(4))):
        for is_worst in (False, True):
            a, b = operands(formats, 2, 5, 33, is_worst=is_worst)
            inner = Accumulator(register, rounding=rounding)
            for datapath in (
                Datapath(inner), Datapath(inner, product=register), Datapath(WIDE, inner, tile=1),
                Datapath(WIDE, inner, tile=5), Datapath(WIDE, inner, tile=16),
            ):  # fmt: skip
                try:
                    assert_equals_reference(datapath, a, b)
                except Unsupported:
                    continue
                taken += 1
    assert taken or register.smallest_exponent - register.mantissa_bits > 0


QUANTIZERS = {
    "nvfp4": nvfp4().weight, "mxfp4": mxfp4().weight, "mxint8": mxint8().weight,
    "float32 scales": Quantizer(Int(8), (Scale(PerBlock(8)),)),
    "integer scales": Quantizer(Int(4), (Scale(PerRow()), Scale(PerBlock(16), Int(6, signed=False)))),
    "odd blocks": Quantizer(E2M1, (Scale(PerTensor()), Scale(PerBlock(5), E4M3))),
}  # fmt: skip


@pytest.mark.parametrize("size", [(1, 1, 3), (9, 37, 80), (50, 20, 400)], ids=str)
@pytest.mark.parametrize("name", QUANTIZERS)
def test_scaled_blocks_equal_the_reference(name, size):
    m, n, k = size
    generator = np.random.default_rng(1)
    spread = np.exp2(generator.integers(-9, 9, (m + n, 1)))
    x = (generator.standard_t(3, (m + n, k)) * spread).astype(np.float32)
    x[0, : k // 2] = 0
    quantizer = QUANTIZERS[name]
    a, b = quantizer.quantize(x[:m]), quantizer.quantize(x[m:])
    whole = Quantizer(Int(8), (Scale(PerRow()),)).quantize(x[m:])
    exact = FLOAT32 if name == "float32 scales" else None
    for product in {exact, FLOAT32}:
        datapath = Datapath(WIDE, Accumulator(FLOAT32), scale_product=product)
        assert_equals_reference(datapath, a, b)
        if k >= quantizer.block(n, k) and name not in ("odd blocks", "mxint8"):
            assert_equals_reference(datapath, a, whole)


@settings(max_examples=30, deadline=None)
@given(
    m=st.integers(1, 20), n=st.integers(1, 70), k=st.integers(1, 80), bits=st.integers(2, 24), seed=st.integers(0, 999),
    formats=st.sampled_from([(U8, S8), (U4, S4), (Int(3), Int(5))]), tile=st.sampled_from([None, 1, 4, 7, 16]),
    overflow=st.sampled_from([Overflow.WRAP, Overflow.SATURATE]), is_worst=st.booleans(),
)  # fmt: skip
def test_what_the_library_takes_equals_the_reference(m, n, k, bits, seed, formats, tile, overflow, is_worst):
    a, b = operands(formats, m, n, k, seed, is_worst=is_worst)
    register = Accumulator(Int(bits), overflow)
    datapath = Datapath(register) if tile is None else Datapath(WIDE, register, tile=tile)
    assert_equals_reference(datapath, a, b)


OUTER = [
    WIDE, Accumulator(FLOAT32), Accumulator(Int(30)), *(Accumulator(Int(12), overflow) for overflow in Overflow),
    Accumulator(Int(15, narrow=True), Overflow.SATURATE), Accumulator(Int(11), Overflow.WRAP),
    Accumulator(Minifloat(5, 8)), Accumulator(BFLOAT16, rounding=TOWARD_ZERO),
]  # fmt: skip


@pytest.mark.parametrize("is_worst", [False, True], ids=["random", "worst"])
@pytest.mark.parametrize("outer", OUTER, ids=str)
@pytest.mark.parametrize("overflow", Overflow, ids=str)
def test_a_register_that_tiles_leave_equals_the_reference_in_every_outer_one(overflow, outer, is_worst):
    overflows = 0
    for size, tile, bits in [((3, 2, 7), 3, 7), ((9, 35, 70), 16, 7), ((9, 3, 130), 64, 5), ((2, 3, 1030), 512, 8)]:
        a, b = operands((U4, S4), *size, is_worst=is_worst)
        datapath = Datapath(Accumulator(Int(bits), overflow), outer, tile=tile)
        overflows += assert_equals_reference_or_is_refused(datapath, a, b) or 0
    assert overflows or overflow is Overflow.FORBID


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 20), st.integers(1, 40), st.integers(1, 150), st.integers(1, 40), st.integers(2, 16),
    st.sampled_from(Overflow), st.sampled_from(OUTER), st.sampled_from([(U8, S8), (S8, S8), (U4, S4)]), st.booleans(),
)  # fmt: skip
def test_any_register_of_any_tile_equals_the_reference(m, n, k, tile, bits, overflow, outer, formats, is_worst):
    a, b = operands(formats, m, n, k, m * n, is_worst=is_worst)
    inner = Accumulator(Int(bits), overflow)
    try:
        assert_equals_reference_or_is_refused(Datapath(inner, outer, tile=tile), a, b)
    except Unsupported as reason:  # sums beyond what float32 steps exactly
        if outer.is_integer or "more than 24 bits" not in str(reason):
            raise
        reject()


@pytest.mark.parametrize("overflow", Overflow, ids=str)
@pytest.mark.parametrize("scheme", [nvfp4(), mxfp4()], ids=["NVFP4", "MXFP4"])
def test_blocks_whose_sums_leave_their_register_equal_the_reference(scheme, overflow):
    generator = np.random.default_rng(0)
    x, w = (generator.standard_normal((rows, 100)).astype(np.float32) for rows in (9, 21))
    a, b = scheme.input.quantize(x), scheme.weight.quantize(w)
    for bits in (7, 9, 20):
        datapath = replace(scheme.datapath, inner=Accumulator(Int(bits), overflow))
        assert_equals_reference_or_is_refused(datapath, a, b)


def test_a_tile_that_leaves_its_register_and_comes_back_is_refused():
    x, w = np.array([[7, 7, 7, 1]], np.float32), np.array([[7, 7, -7, -1]], np.float32)
    one = (Scale(PerTensor()),)
    a, b = (Quantizer(S4, one).quantize(v) for v in (x, w))
    with pytest.raises(OverflowError):
        native.matmul(Datapath(Accumulator(Int(7)), tile=4), Operand.of(a), Stationary(Operand.of(b)))


@pytest.mark.parametrize("unit", [-40, -60, 30])
def test_sums_of_blocks_are_rounded_where_float32_is_denormal_or_ends(unit):
    formats = Int(4, exponent=unit), Int(4, exponent=unit // 2)
    generator = np.random.default_rng(0)
    x, w = (np.ldexp(generator.standard_normal((rows, 64)), -40).astype(np.float32) for rows in (5, 6))
    a, b = (Quantizer(f, (Scale(PerBlock(16), E8M0),)).quantize(v) for f, v in zip(formats, (x, w), strict=True))
    assert_equals_reference(Datapath(), a, b)


def test_threads_rows_of_columns_and_views_do_not_show(monkeypatch):
    monkeypatch.setattr(registers, "LARGE", 1)
    a, b = operands((U4, S4), 301, 70, 90)
    x, w = Operand.of(a), Operand.of(b)
    datapath = Datapath(Accumulator(Int(9), Overflow.SATURATE))
    expected = datapath.matmul(a, b)
    view = Operand(x.elements.mT.contiguous().mT, None, x.outside[:1].expand(301, 1), x.k, x.quantizer)
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        try:
            for operand in (x, view):
                values, overflows, _ = native.matmul(datapath, operand, Stationary(w))
                np.testing.assert_array_equal(values.numpy(), expected.values)
                assert overflows == expected.overflows
        finally:
            torch.set_num_threads(before)


def test_outputs_that_cannot_overflow_are_exact_beside_those_that_do():
    w = np.ones((50, 64))
    w[::3] = 7
    a, b = integers(np.full((9, 64), 7), Int(4)), integers(w, Int(4))
    for bits in (10, 12):
        found = assert_equals_reference(Datapath(Accumulator(Int(bits), Overflow.SATURATE)), a, b)
        assert found == 9 * 17


def test_weights_are_packed_once_for_each_layout_and_few_are_kept():
    a, b = operands((U4, S4), 3, 4, 50)
    x, w = Operand.of(a), Stationary(Operand.of(b))
    native.matmul(Datapath(), x, w)
    kept = dict(w.packed)
    native.matmul(Datapath(), x, w)
    assert len(kept) == 1
    assert all(w.packed[key] is value for key, value in kept.items())
    for bits in range(8, 16):
        native.matmul(Datapath(Accumulator(Int(bits), Overflow.SATURATE)), x, w)
    assert len(w.packed) <= 4


@pytest.mark.parametrize(
    "datapath",
    [
        Datapath(Accumulator(Int(12), Overflow.WRAP, readout=Cyclic(1)), tile=4),
        Datapath(Accumulator(Minifloat(5, 8)), product=Minifloat(4, 3)), Datapath(Accumulator(FLOAT32)),
    ],
    ids=str,
)  # fmt: skip
def test_what_the_library_does_not_take_is_refused(datapath):
    a, b = operands((U8, S8), 3, 4, 50, is_worst=True)
    with pytest.raises(Unsupported):
        native.matmul(datapath, Operand.of(a), Stationary(Operand.of(b)))


@pytest.mark.parametrize("scales", [None, (Scale(PerBlock(16), E8M0),)], ids=["a row", "blocks"])
def test_no_rows_and_elements_of_too_many_bits_are_refused(scales):
    a, b = operands((Int(18 if scales is None else 50), Int(4)), 3, 4, 20, scales=scales)
    x, w = Operand.of(a), Stationary(Operand.of(b))
    with pytest.raises(Unsupported):
        native.matmul(Datapath(), x, w)
    with pytest.raises(Unsupported):
        native.matmul(Datapath(), x.take(slice(0, 0)), w)


class Crowded(dict):
    """Where other threads add so many layouts at once that none stays."""

    def __setitem__(self, key, value):
        super().__setitem__(key, value)
        self.clear()


def test_layouts_that_other_threads_crowd_out_serve_the_product_that_made_them():
    a, b = operands((U8, S8), 3, 40, 64)
    w = Stationary(Operand.of(b))
    vars(w)["packed"] = Crowded()
    datapath = Datapath(outer=Accumulator(Int(16), Overflow.SATURATE), tile=4)
    np.testing.assert_array_equal(native.matmul(datapath, Operand.of(a), w)[0].numpy(), datapath.matmul(a, b).values)


def test_few_layouts_are_kept():
    a, b = operands((U8, S8), 3, 40, 64)
    w = Stationary(Operand.of(b))
    for tile in (1, 2, 4, 8, 16, 32):
        native.matmul(Datapath(outer=Accumulator(Int(12), Overflow.SATURATE), tile=tile), Operand.of(a), w)
    assert len(w.packed) == 4


def test_a_library_whose_products_are_of_another_version_is_not_called(monkeypatch):
    a, b = operands((U8, S8), 3, 4, 6)
    products.products_library.cache_clear()
    monkeypatch.setattr(products.ctypes, "sizeof", lambda structure: 1)
    try:
        with pytest.raises(Unsupported, match="another version"):
            native.matmul(Datapath(), Operand.of(a), Stationary(Operand.of(b)))
    finally:
        products.products_library.cache_clear()
