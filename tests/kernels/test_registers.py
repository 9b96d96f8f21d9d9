"""Registers whose every step matters: the torch kernels alone, bit for bit equal to the reference."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from bitwright import kernels
from bitwright.datapath import WIDE, Accumulator, Aligned, Datapath, Overflow
from bitwright.formats import (
    BFLOAT16,
    E2M1,
    E4M3,
    E5M2,
    E8M0,
    FLOAT16,
    FLOAT32,
    Int,
    Minifloat,
    Rounding,
    Specials,
)  # fmt: skip
from bitwright.kernels import Operand, Stationary
from bitwright.kernels.registers import Rounder, sum_to_odd
from bitwright.quantization import PerBlock, PerRow, PerTensor, Quantizer, Scale

DETERMINISTIC = [r for r in Rounding if r is not Rounding.STOCHASTIC]
FLOATS = {
    "E5M8": Minifloat(5, 8), "E8M5": Minifloat(8, 5), "BFLOAT16": BFLOAT16, "FLOAT16": FLOAT16,
    "E8M13": Minifloat(8, 13),
    "E8M1": Minifloat(8, 1), "E3M4": Minifloat(3, 4), "E5M8 shifted": Minifloat(5, 8, bias=6), "FLOAT32": FLOAT32,
    "E4M3": E4M3,
}  # fmt: skip
ELEMENTS = {
    "integers": (Int(8, signed=False), Int(8, narrow=True)), "few bits": (Int(3, signed=False), Int(3)),
    "E4M3": (E4M3, E4M3), "E5M2": (E5M2, E5M2), "mixed": (E5M2, Int(4)), "fraction": (Int(8, exponent=-9), E2M1),
    "coarse": (Int(4, exponent=9), Int(4)),
}  # fmt: skip


def operands(formats, scales, m, n, k, seed, *, is_worst=False):
    """Random rows, or all elements at the ends of their formats."""
    generator = np.random.default_rng(seed)
    made = []
    for rows, format, levels in zip((m, n), formats, scales, strict=True):
        x = generator.standard_t(2, (rows, k)).astype(np.float32)
        if is_worst:
            x = np.sign(x) * 10
        x = np.abs(x) if format.bounds().lowest == 0 else x
        made.append(Quantizer(format, levels).quantize(x))
    return made


def assert_equals_reference(datapath, a, b):
    expected = datapath.matmul(a, b)
    # exact sums of products of E5M2 have more bits than float64
    has_integers = datapath.inner.is_integer or datapath.outer.is_integer
    is_too_wide = has_integers and a.quantizer.format == b.quantizer.format == E5M2
    with kernels.only(*["torch", "reference"][: 1 + is_too_wide]):
        values, overflows, accumulations = kernels.matmul(datapath, Operand.of(a), Stationary(Operand.of(b)))
    np.testing.assert_array_equal(values.numpy(), expected.values)
    assert (overflows, accumulations) == (expected.overflows, expected.accumulations)
    return expected


WHOLE = ((Scale(PerTensor()),), (Scale(PerRow()),))
BLOCKS = ((Scale(PerTensor()), Scale(PerBlock(8), Int(4, signed=False))),) * 2
POWERS = ((Scale(PerBlock(8), E8M0),), (Scale(PerBlock(16), E8M0),))


@pytest.mark.parametrize("is_worst", [False, True], ids=["random", "worst"])
@pytest.mark.parametrize("elements", ELEMENTS)
@pytest.mark.parametrize("register", FLOATS)
def test_a_float_inner_register_equals_the_reference(register, elements, is_worst):
    a, b = operands(ELEMENTS[elements], WHOLE, 4, 3, 45, 0, is_worst=is_worst)
    inner = Accumulator(FLOATS[register])
    for product in (None, FLOATS[register], Minifloat(5, 2, specials=Specials.IEEE)):
        assert_equals_reference(Datapath(inner, product=product), a, b)


@pytest.mark.filterwarnings("ignore::bitwright.kernels.SlowKernel")
@pytest.mark.parametrize("elements", ELEMENTS)
@pytest.mark.parametrize("rounding", DETERMINISTIC)
def test_a_float_register_of_any_rounding_equals_the_reference(rounding, elements):
    a, b = operands(ELEMENTS[elements], WHOLE, 4, 3, 45, 1)
    for register in (Minifloat(5, 8), Minifloat(8, 3)):
        inner = Accumulator(register, rounding=rounding)
        assert_equals_reference(Datapath(inner), a, b)
        assert_equals_reference(Datapath(inner, product=Minifloat(8, 4)), a, b)
        assert_equals_reference(Datapath(WIDE, inner, tile=5), a, b)


@pytest.mark.parametrize("scales", [WHOLE, POWERS, BLOCKS], ids=["whole", "powers", "blocks"])
@pytest.mark.parametrize("tile", [None, 1, 4])
@pytest.mark.parametrize("register", FLOATS)
def test_a_float_outer_register_over_any_tile_equals_the_reference(register, tile, scales):
    a, b = operands(ELEMENTS["few bits"], scales, 4, 3, 45, 2)
    assert_equals_reference(Datapath(WIDE, Accumulator(FLOATS[register]), tile=tile), a, b)
    assert_equals_reference(Datapath(Accumulator(FLOATS[register]), Accumulator(FLOAT32), tile=tile), a, b)


@pytest.mark.parametrize("scales", [WHOLE, BLOCKS], ids=["whole", "blocks"])
@pytest.mark.parametrize("tile", [None, 1, 4, 8])
@pytest.mark.parametrize("outer", [Overflow.WRAP, Overflow.SATURATE])
@pytest.mark.parametrize("inner", [None, Overflow.WRAP, Overflow.SATURATE])
def test_every_width_and_tile_of_two_integer_registers_equals_the_reference(inner, outer, tile, scales):
    a, b = operands(ELEMENTS["few bits"], scales, 3, 4, 45, 3)
    overflows = 0
    for bits in range(2, 14):
        first = WIDE if inner is None else Accumulator(Int(bits), inner)
        datapath = Datapath(first, Accumulator(Int(bits + 1), outer), tile)
        overflows += assert_equals_reference(datapath, a, b).overflows
    assert overflows or (tile is None and inner is None and scales == WHOLE), "the case is worth its name"


@pytest.mark.parametrize("overflow", [Overflow.WRAP, Overflow.SATURATE])
@pytest.mark.parametrize("is_worst", [False, True], ids=["random", "worst"])
@pytest.mark.parametrize("bits", [*range(2, 24), 30, 40])
def test_every_width_of_one_integer_register_equals_the_reference(bits, is_worst, overflow):
    a, b = operands(ELEMENTS["integers"], WHOLE, 3, 4, 45, 4, is_worst=is_worst)
    for register in (Int(bits), Int(bits, narrow=True), Int(bits, signed=False)):
        assert_equals_reference(Datapath(Accumulator(register, overflow)), a, b)


REGISTERS = st.one_of(
    st.just(WIDE),
    st.builds(
        Accumulator,
        st.builds(Int, st.integers(2, 20)),
        st.sampled_from([Overflow.WRAP, Overflow.SATURATE]),
    ),
    st.builds(
        Accumulator,
        st.builds(Minifloat, st.integers(2, 8), st.integers(1, 14)),
        rounding=st.sampled_from(DETERMINISTIC),
    ),
)


@pytest.mark.filterwarnings("ignore::bitwright.kernels.SlowKernel")
@given(
    inner=REGISTERS, outer=REGISTERS, tile=st.sampled_from([None, 1, 2, 4, 8]), scales=st.sampled_from([WHOLE, BLOCKS]),
    elements=st.sampled_from(list(ELEMENTS)), k=st.integers(1, 40), seed=st.integers(0, 2**20),
    product=st.sampled_from([None, Minifloat(8, 2)]), is_worst=st.booleans(),
)  # fmt: skip
@settings(max_examples=40, deadline=None, phases=[Phase.generate])
def test_any_pair_of_registers_equals_the_reference(inner, outer, tile, scales, elements, k, seed, product, is_worst):
    a, b = operands(ELEMENTS[elements], scales, 3, 2, k, seed, is_worst=is_worst)
    assert_equals_reference(Datapath(inner, outer, tile, product=product), a, b)


@pytest.mark.parametrize("is_worst", [False, True], ids=["random", "worst"])
@pytest.mark.parametrize("elements", ELEMENTS)
@pytest.mark.parametrize("bits", [1, 5, 14, 30])
def test_aligned_products_equal_the_reference(bits, elements, is_worst):
    for scales, tile in ((WHOLE, 32), (WHOLE, 7), (BLOCKS, 4)):
        a, b = operands(ELEMENTS[elements], scales, 4, 3, 45, 6, is_worst=is_worst)
        for outer in (Accumulator(FLOAT32), Accumulator(Minifloat(8, 13), rounding=Rounding.TOWARD_ZERO)):
            expected = Datapath(WIDE, outer, tile, product=Aligned(bits)).matmul(a, b)
            with kernels.only("torch"):
                found, _, sums = kernels.matmul(
                    Datapath(WIDE, outer, tile, product=Aligned(bits)), Operand.of(a), Stationary(Operand.of(b))
                )
            np.testing.assert_array_equal(found.numpy(), expected.values)
            assert sums == expected.accumulations


def test_chunks_of_rows_do_not_show(monkeypatch):
    a, b = operands(ELEMENTS["integers"], WHOLE, 20, 3, 30, 5)
    monkeypatch.setattr(kernels.registers, "CHUNK", 9)
    for inner in (Accumulator(Int(14), Overflow.SATURATE), Accumulator(Minifloat(5, 8))):
        assert_equals_reference(Datapath(inner), a, b)
        assert_equals_reference(Datapath(inner, tile=7), a, b)
    assert_equals_reference(Datapath(WIDE, Accumulator(BFLOAT16), 7, product=Aligned(9)), a, b)


@pytest.mark.parametrize("names", [("torch",), ("reference",)])
@pytest.mark.parametrize(
    "datapath", [Datapath(Accumulator(Int(8)), tile=4), Datapath(WIDE, Accumulator(Int(8)), tile=1)]
)
def test_a_partial_sum_beyond_a_promise_is_an_error_even_where_the_end_fits(datapath, names):
    x, w = np.full((1, 3), 15, np.float32), np.asarray([[7, 7, -8]], np.float32)  # 105, 210, 90
    one = (Scale(PerTensor(), full_scale=None),)
    a = replace(Quantizer(Int(4, signed=False), one).quantize(x))
    b = Quantizer(Int(4), one).quantize(w)
    b = replace(b, codes=np.asarray([7, 7, 8]).reshape(b.codes.shape))
    with kernels.only(*names), pytest.raises(OverflowError, match="8-bit"):
        kernels.matmul(datapath, Operand.of(a), Stationary(Operand.of(b)))


@pytest.mark.parametrize("rounding", DETERMINISTIC)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "format", [Minifloat(2, 1), Minifloat(4, 3), Minifloat(3, 5, bias=9), Minifloat(6, 2)], ids=repr
)
def test_all_values_midpoints_and_their_neighbours_round_as_in_the_format(format, dtype, rounding):
    codes = np.arange(2**format.bits)
    grid = np.unique(format.decode(codes[~format.is_reserved(codes)]))
    level = np.concatenate([grid, (grid[1:] + grid[:-1]) / 2, 3 * grid])
    step = 2.0 ** (format.smallest_exponent - format.mantissa_bits - 3)
    level = np.concatenate([level, level + step, level - step])
    for unit in (0, -3 - format.mantissa_bits + format.smallest_exponent):
        rounder = Rounder.of(format, rounding, unit)
        if dtype == torch.float32 and (unit == 0 or not rounder.fits_float32):  # it carries whole numbers alone
            continue
        given = torch.from_numpy(np.ldexp(level, -unit)).to(dtype)
        values = np.ldexp(given.double().numpy(), unit)
        found = np.ldexp(rounder.round(given.clone(), out=torch.empty_like(given)).double().numpy(), unit)
        np.testing.assert_array_equal(found, format.decode(format.encode(values, rounding)))


def test_sums_to_odd_equal_the_reference():
    from bitwright.datapath.accumulator import sum_to_odd as reference

    generator = np.random.default_rng(0)
    a, b = (np.ldexp(generator.normal(size=(50, 40)), generator.integers(-70, 70, (50, 40))) for _ in range(2))
    np.testing.assert_array_equal(sum_to_odd(torch.from_numpy(a), torch.from_numpy(b)).numpy(), reference(a, b))
