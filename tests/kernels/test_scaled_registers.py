"""Blocks whose scaled sums enter integer registers, or are wider than float32: native and equal to the reference."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright import kernels
from bitwright.datapath import WIDE, Accumulator, Datapath, Overflow
from bitwright.formats import E2M1, E4M3, E8M0, FLOAT32, Int, Rounding
from bitwright.kernels import Operand, Stationary, Unsupported, library
from bitwright.kernels.native import multiply as native
from bitwright.kernels.native import registers
from bitwright.quantization import PerBlock, PerRow, PerTensor, Quantizer, Scale
from bitwright.schemes import mxfp6, mxfp8, vs_quant_chip

pytestmark = pytest.mark.skipif(library.library() is None, reason="installed without the native library")

U4, S4, U8 = Int(4, signed=False), Int(4, narrow=True), Int(8, signed=False)
NEAREST = (Rounding.NEAREST_EVEN, Rounding.NEAREST_UP, Rounding.NEAREST_AWAY, Rounding.NEAREST_ZERO)
ROUNDINGS = (*NEAREST, Rounding.FLOOR, Rounding.CEILING, Rounding.TOWARD_ZERO)


@pytest.fixture(params=library.LEVELS, autouse=True)
def instructions(request):
    with library.level(request.param) as used:
        if used != request.param:
            pytest.skip(f"this machine has no {request.param}")
        yield used


def blocks(format, block, scale, coarse=PerTensor()):
    return Quantizer(format, (Scale(coarse), Scale(PerBlock(block), scale)))


def rows(m, k, seed=0, *, is_worst=False, is_signed=True):
    generator = np.random.default_rng(seed)
    x = generator.standard_t(3, (m, k)).astype(np.float32) * np.exp2(generator.integers(-5, 5, (m, 1)))
    x = np.sign(x) * 10 if is_worst else x
    return np.ascontiguousarray(x if is_signed else np.abs(x), np.float32)


def assert_equals_reference(datapath, a, b):
    expected = datapath.matmul(a, b)
    values, overflows, sums = native.matmul(datapath, Operand.of(a), Stationary(Operand.of(b)))
    np.testing.assert_array_equal(values.numpy(), expected.values)
    assert (overflows, sums) == (expected.overflows, expected.accumulations)
    return expected.overflows


def chip_rows(m, n, k, *, is_worst=False, block=64, scale=U8):
    a = blocks(U4, block, scale).quantize(rows(m, k, is_worst=is_worst, is_signed=False))
    return a, blocks(S4, block, scale, PerRow()).quantize(rows(n, k, 1, is_worst=is_worst))


@pytest.mark.parametrize("bits", [16, 18, 20, 22, 24])
@pytest.mark.parametrize("is_worst", [False, True], ids=["random", "worst"])
@pytest.mark.parametrize("size", [(1, 1, 64), (9, 37, 200), (13, 70, 1300)], ids=str)
def test_rounded_scale_products_in_a_saturating_register_equal_the_reference(size, is_worst, bits):
    a, b = chip_rows(*size, is_worst=is_worst)
    chip = replace(vs_quant_chip().datapath, outer=Accumulator(Int(bits), Overflow.SATURATE))
    overflows = assert_equals_reference(chip, a, b)
    if is_worst and bits == 18 and size[2] > 64:
        assert overflows, "the case is worth its name"


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("exponent", [0, 1, 5, 8])
def test_every_rounding_of_scale_products_equals_the_reference(rounding, exponent):
    a, b = chip_rows(5, 40, 96, block=8)
    for bits in (4, 8):
        product = Int(bits, signed=False, exponent=exponent)
        for outer in (WIDE, Accumulator(Int(14), Overflow.SATURATE), Accumulator(Int(12), Overflow.WRAP)):
            datapath = Datapath(outer=outer, scale_product=product, scale_rounding=rounding)
            assert_equals_reference(datapath, a, b)


def test_all_pairs_of_scale_codes_round_as_the_reference_does():
    codes = np.arange(256)
    a = blocks(U4, 2, U8).quantize(np.ones((256, 2), np.float32))
    b = blocks(S4, 2, U8, PerRow()).quantize(np.ones((256, 2), np.float32))
    a = replace(a, scales=(a.scales[0], codes[:, None].astype(a.scales[1].dtype)))
    b = replace(b, scales=(b.scales[0], codes[:, None].astype(b.scales[1].dtype)))
    for rounding in ROUNDINGS:
        assert_equals_reference(replace(vs_quant_chip().datapath, scale_rounding=rounding), a, b)


def test_one_operand_with_scales_inside_is_enough():
    a, b = chip_rows(6, 9, 80, block=16)
    plain = Quantizer(U4, (Scale(PerTensor()),)).quantize(rows(6, 80, is_signed=False))
    assert_equals_reference(Datapath(outer=Accumulator(Int(14), Overflow.SATURATE)), plain, b)
    assert_equals_reference(
        Datapath(outer=Accumulator(Int(14), Overflow.WRAP)),
        a,
        Quantizer(S4, b.quantizer.scales[:1]).quantize(rows(9, 80)),
    )


@settings(max_examples=15, deadline=None)
@given(
    m=st.integers(1, 20), n=st.integers(1, 40), k=st.integers(1, 60), bits=st.integers(12, 26), seed=st.integers(0, 99),
    block=st.sampled_from([1, 3, 16, 32, 64]), overflow=st.sampled_from([Overflow.WRAP, Overflow.SATURATE]),
    scale=st.sampled_from([U8, Int(4, signed=False), Int(3, signed=False, exponent=2)]),
    product=st.sampled_from([None, Int(8, signed=False, exponent=4), Int(6, signed=False)]),
)  # fmt: skip
def test_scaled_sums_of_any_size_equal_the_reference(m, n, k, bits, seed, block, overflow, scale, product):
    a = blocks(U4, block, scale).quantize(rows(m, k, seed, is_signed=False))
    b = blocks(S4, block, scale, PerRow()).quantize(rows(n, k, seed + 1))
    assert_equals_reference(Datapath(outer=Accumulator(Int(bits), overflow), scale_product=product), a, b)


def test_fractional_scales_long_blocks_and_promises_are_refused():
    a, b = chip_rows(3, 4, 32, is_worst=True, block=16)
    floats = [blocks(S4, 16, E4M3).quantize(rows(3, 32)) for _ in range(2)]
    far = [Quantizer(S4, (Scale(PerBlock(600), U8),)).quantize(rows(3, 1200)) for _ in range(2)]
    for datapath, operands in (
        (Datapath(outer=WIDE), floats), (Datapath(outer=Accumulator(Int(10))), (a, b)), (Datapath(outer=WIDE), far),
        (Datapath(outer=WIDE, scale_product=Int(8, exponent=-2)), (a, b)),
    ):  # fmt: skip
        with pytest.raises(Unsupported):
            native.matmul(
                datapath, *[f(Operand.of(t)) for f, t in zip((lambda o: o, Stationary), operands, strict=True)]
            )


@pytest.mark.parametrize("size", [(1, 1, 3), (9, 37, 80), (50, 20, 400)], ids=str)
@pytest.mark.parametrize("scheme", [mxfp8(), mxfp6()], ids=["mxfp8", "mxfp6"])
@pytest.mark.parametrize("is_worst", [False, True], ids=["random", "worst"])
def test_block_sums_of_more_than_24_bits_equal_the_reference(scheme, size, is_worst):
    m, n, k = size
    a, b = (
        scheme.input.quantize(rows(m, k, is_worst=is_worst)),
        scheme.weight.quantize(rows(n, k, 1, is_worst=is_worst)),
    )
    for product in (None, FLOAT32):
        assert_equals_reference(Datapath(scale_product=product), a, b)


@pytest.mark.parametrize("size", [2.0**-130, 2.0**-70, 2.0**50])
def test_scales_at_the_ends_of_float32_equal_the_reference(size):
    for format, scale in ((E4M3, E8M0), (E2M1, E8M0), (Int(8), FLOAT32)):
        quantizer = Quantizer(format, (Scale(PerBlock(32), scale),))
        a, b = quantizer.quantize(rows(5, 96) * np.float32(size)), quantizer.quantize(rows(7, 96) * np.float32(size))
        assert_equals_reference(Datapath(), a, b)


def test_long_blocks_and_all_codes_of_float_8_equal_the_reference():
    codes = np.arange(256)
    finite = codes[~E4M3.is_reserved(codes)]
    a = Quantizer(E4M3, (Scale(PerBlock(1024), E8M0),)).quantize(np.ones((3, 1024), np.float32))
    b = replace(a, codes=np.resize(finite, a.codes.shape).astype(a.codes.dtype))
    a = replace(a, codes=np.resize(finite[::-1], a.codes.shape).astype(a.codes.dtype))
    assert_equals_reference(Datapath(), a, b)


def test_threads_do_not_show(monkeypatch):
    monkeypatch.setattr(registers, "LARGE", 1)
    a, b = chip_rows(301, 70, 130, is_worst=True)
    chip = replace(vs_quant_chip().datapath, outer=Accumulator(Int(18), Overflow.SATURATE))
    c, d = (mxfp8().weight.quantize(rows(n, 130)) for n in (301, 70))
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        try:
            assert assert_equals_reference(chip, a, b)
            assert_equals_reference(Datapath(), c, d)
        finally:
            torch.set_num_threads(before)


@pytest.mark.filterwarnings("ignore::bitwright.kernels.SlowKernel")
def test_products_of_scales_that_round_up_to_long_steps_stay_exact():
    """A product of 1 becomes 2**30: sums of 2**57 of those."""
    quantizer = Quantizer(Int(24), (Scale(PerBlock(32), Int(4, signed=False), smallest=1.0),))
    generator = np.random.default_rng(0)
    a, b = (quantizer.quantize(generator.uniform(1, 2, (2, 2048)).astype(np.float32) * 2**22) for _ in range(2))
    step = Int(8, signed=False, exponent=30)
    datapath = Datapath(outer=WIDE, scale_product=step, scale_rounding=Rounding.CEILING)
    for names in (("native", "torch", "reference"), ("torch", "reference")):
        with kernels.only(*names):
            values, _, _ = kernels.matmul(datapath, Operand.of(a), Stationary(Operand.of(b)))
        np.testing.assert_array_equal(values.numpy(), datapath.matmul(a, b).values)
