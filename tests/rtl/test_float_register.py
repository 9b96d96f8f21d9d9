"""Float outer registers: sums, scaled tile sums and whole totals are the definition's, bit for bit."""

import itertools

import numpy as np
import pytest

pytest.importorskip("amaranth", reason="circuits need amaranth: pip install 'bitwright[rtl]'")

from bitwright.datapath import WIDE, Accumulator, Datapath, Overflow
from bitwright.formats import BFLOAT16, E4M3, E5M2, E8M0, FLOAT16, FLOAT32, Int, Minifloat, Rounding
from bitwright.rtl.float_register import FloatAdder, FloatRegister, float_register
from bitwright.rtl.operand import Sign
from bitwright.rtl.plan import plan
from bitwright.rtl.units import Collector
from bitwright.schemes import combined, integer, mxfp4, mxfp8, mxint8, nvfp4, vs_quant
from bitwright.testing.rtl import assert_vector_unit_equals_golden, case, evaluate
from bitwright.testing.rtl_arrays import assert_array_equals_golden

ROUNDINGS = [r for r in Rounding if r is not Rounding.STOCHASTIC]
EDGES = [
    0.0, 1.0, 1 + 2.0**-23, 1 - 2.0**-24, 2.0**-149, 2.0**-126, 2.0**-126 - 2.0**-149, 2.0**-125, 2.0**24, 2.0**24 - 1,
    2.0**127, float(np.finfo(np.float32).max), float(np.finfo(np.float32).max) - 2.0**104, 2.0**103, 2.0**102, np.inf,
]  # fmt: skip


def floats(codes):
    return np.asarray(codes, np.uint32).view(np.float32).astype(np.float64)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("format", [Minifloat(3, 1), Minifloat(2, 2), Minifloat(4, 0)], ids=["E3M1", "E2M2", "E4M0"])
def test_every_sum_of_a_small_format_is_rounded_once(format, rounding):
    codes, negative_zero = range(2**format.bits), 1 << (format.bits - 1)
    held, addend = np.asarray([pair for pair in itertools.product(codes, codes) if pair[0] != negative_zero]).T
    found = evaluate(FloatAdder(FloatRegister(format, rounding)), {"held": held, "addend": addend})["sum"]
    golden = Accumulator(format, rounding=rounding).add(format.decode(held)[None], format.decode(addend)[None])[0]
    np.testing.assert_array_equal(format.decode(np.asarray(found)), golden)
    assert negative_zero not in found


def test_float32_sums_are_the_machines_at_every_edge():
    rng = np.random.default_rng(0)
    edges = [sign * value for value in EDGES for sign in (1, -1)]
    pairs = [*itertools.product(edges, edges)]
    exponent = rng.integers(-149, 127, 300)
    near = (
        np.ldexp(rng.uniform(-2, 2, 300), exponent),
        np.ldexp(rng.uniform(-2, 2, 300), exponent + rng.integers(-30, 30, 300)),
    )
    with np.errstate(over="ignore"):
        values = np.concatenate([np.asarray(pairs), np.stack(near, 1)]).astype(np.float32)
    values = values[~((values[:, 0] == 0) & np.signbit(values[:, 0]))]
    codes = values.view(np.uint32)
    found = evaluate(FloatAdder(FloatRegister(FLOAT32)), {"held": codes[:, 0], "addend": codes[:, 1]})["sum"]
    with np.errstate(over="ignore", invalid="ignore"):
        golden = values[:, 0] + values[:, 1]
    is_number = ~np.isnan(golden)
    np.testing.assert_array_equal(np.isnan(floats(found)), ~is_number)
    np.testing.assert_array_equal(np.asarray(found)[is_number], golden.view(np.uint32)[is_number])


def test_other_registers_stop_at_their_largest_value():
    register = FloatRegister(FLOAT32, Rounding.TOWARD_ZERO)
    largest = int(FLOAT32.encode(np.asarray([FLOAT32.full_scale]))[0])
    assert evaluate(FloatAdder(register), {"held": [largest], "addend": [largest]})["sum"] == [largest]


def golden_step(scheme, made, sums, scales, total):
    """One step of `Datapath.multiply`, of given tile sums and scales."""
    datapath = scheme.datapath
    product = scales[0] * scales[1]
    if datapath.scale_product is not None:
        product = datapath.scale_product.decode(datapath.scale_product.encode(product, datapath.scale_rounding))
    with np.errstate(over="ignore", invalid="ignore"):
        addend = datapath.outer.round(np.ldexp(np.asarray([float(s) for s in sums]), made.unit)[None] * product)
        return datapath.outer.add(total[None], addend)[0]


def assert_collector_equals_golden(scheme, count):
    """Tile sums, scales and totals of all sizes; returns the golden totals."""
    made = plan(scheme, k=64, sign=Sign.SIGNED)
    low, high = made.outer.tile_sum
    rng = np.random.default_rng(1)
    sums = [int(rng.integers(0, 2**30)) * high >> int(rng.integers(30, 34 + high.bit_length())) for _ in range(count)]
    sums = [max(low, -s) if i % 2 else s for i, s in enumerate(sums)]
    sums[:4] = [0, low, high, min(2**60 + 2**36 + 1, high)]  # the last is a tie of float32 once float64 has rounded it
    formats = [f or Int(1, signed=False) for f in (made.outer.scale.x, made.outer.scale.w)]
    codes = [rng.integers(0, 2 ** (f.bits - f.signed), count) for f in formats]
    if formats[0] == E8M0:  # so that sums of all sizes occur, subnormal ones and infinity among them
        codes[1] = np.clip(254 - codes[0] + rng.integers(-170, 150, count), 0, 254)
        codes[0][3] = codes[1][3] = 127
    codes = [np.where(f.is_reserved(c), 0, c) for f, c in zip(formats, codes)]
    scales = [np.ones(count) if f.bits == 1 else f.decode(c) for f, c in zip(formats, codes)]
    register = made.outer.register.format
    # half of the totals nearly cancel the addend
    near = -golden_step(scheme, made, sums, scales, np.zeros(count)) * (1 + 2.0 ** -rng.integers(1, 24, count))
    total = np.where(rng.random(count) < 0.5, near, rng.normal(0, 1, count))
    total = register.encode(np.where(np.isfinite(total), total, 0.0))
    total[register.decode(total) == 0] = 0
    inputs = {"sum": sums, "x_scale": codes[0], "w_scale": codes[1], "total_in": total}
    late, latency = {"total_in": made.outer.held_at}, made.outer.latency  # in cycles after the sums
    inputs = {
        name: [0] * late.get(name, 0) + [*values] + [0] * (latency - late.get(name, 0))
        for name, values in inputs.items()
        if name in Collector(made).signature.members
    }
    found = np.asarray(evaluate(Collector(made), inputs, clocked=True)["total"][latency:])
    golden = golden_step(scheme, made, sums, scales, register.decode(total))
    np.testing.assert_array_equal(made.outer.values(found, made.unit), golden)
    return golden


@pytest.mark.parametrize(
    "scheme", [mxfp4(block=8), mxfp8(E5M2, block=8), mxint8(block=8), nvfp4(), vs_quant(3, 6, None, None, vector=8)],
    ids=["mxfp4", "mxfp8", "mxint8", "nvfp4", "vs_quant"],
)  # fmt: skip
def test_scaled_tile_sums_of_any_size_are_added_as_defined(scheme):
    is_power = plan(scheme).outer.scale.x == E8M0
    golden = assert_collector_equals_golden(scheme, 150 if is_power else 50)
    if is_power:
        assert np.isinf(golden).any()
        assert np.abs(golden[golden != 0]).min() < 2.0**-126


@pytest.mark.parametrize(
    "outer",
    [
        Accumulator(FLOAT16), Accumulator(BFLOAT16, rounding=Rounding.TOWARD_ZERO), Accumulator(E5M2),
        Accumulator(Minifloat(5, 3), rounding=Rounding.NEAREST_AWAY), Accumulator(E4M3, rounding=Rounding.FLOOR),
    ],
    ids=["FLOAT16", "BFLOAT16", "E5M2", "E5M3", "E4M3"],
)  # fmt: skip
def test_tiles_are_added_in_floats_of_any_format_and_rounding(outer):
    assert_collector_equals_golden(combined(integer(4, 4), integer(4, 4), Datapath(WIDE, outer, tile=4)), 60)
    assert_collector_equals_golden(combined(nvfp4(), nvfp4(), Datapath(WIDE, outer)), 60)
    assert_vector_unit_equals_golden(case(combined(integer(4, 4), integer(4, 4), Datapath(WIDE, outer, tile=2)), k=6))


@pytest.mark.parametrize("product", [FLOAT32, Minifloat(5, 1), Int(4, signed=False, exponent=-3)], ids=repr)
def test_products_of_float_scales_are_rounded_before_they_are_used(product):
    base = vs_quant(3, 6, None, None, vector=4)
    datapath = Datapath(outer=Accumulator(FLOAT32), scale_product=product, scale_rounding=Rounding.NEAREST_UP)
    assert_collector_equals_golden(combined(base, base, datapath), 50)


@pytest.mark.parametrize("scheme", [mxfp4(block=8), nvfp4()], ids=["mxfp4", "nvfp4"])
def test_an_array_of_several_folds_keeps_the_float_sum(scheme):
    assert_array_equals_golden(case(scheme, k=32, columns=4, examples=False), 4, 2)


@pytest.mark.parametrize("overflow", [Overflow.FORBID, Overflow.WRAP])
def test_a_fixed_point_register_holds_sums_of_float_scales_exactly(overflow):
    outer = WIDE if overflow is Overflow.FORBID else Accumulator(Int(40), overflow)
    exact = Datapath(WIDE, outer, scale_product=Int(36, signed=False, exponent=-18))
    operands = case(combined(nvfp4(), nvfp4(), exact), k=64)
    assert_vector_unit_equals_golden(operands)


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_powers_of_two_beyond_a_fixed_point_product_are_rounded_and_saturate(rounding):
    narrow = Datapath(WIDE, WIDE, scale_product=Int(6, signed=False, exponent=-4), scale_rounding=rounding)
    assert_vector_unit_equals_golden(case(combined(mxfp4(block=4), mxfp4(block=4), narrow), k=16))


def test_an_integer_register_names_the_product_that_float_scales_need():
    with pytest.raises(ValueError, match=r"use scale_product=Int\(36, signed=False, exponent=-18\)"):
        plan(combined(nvfp4(), nvfp4(), Datapath(WIDE, WIDE)))
    with pytest.raises(ValueError, match=r"use a scale_product of Int, or a float accumulator"):
        plan(combined(mxfp4(), mxfp4(), Datapath(WIDE, WIDE)))


def test_only_registers_that_may_overflow_know_infinity():
    assert plan(nvfp4()).outer.register.infinity is None
    assert plan(mxfp4()).outer.register.infinity == 0x7F800000


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_a_bounded_register_never_reaches_its_largest_value(rounding):
    accumulator, total = Accumulator(Minifloat(5, 1), rounding=rounding), np.zeros((1, 1))
    for tiles in range(1, 100):
        total = accumulator.add(total, np.full((1, 1), 1.5))
        if float_register(accumulator, 1.5, tiles).is_bounded:
            assert total < accumulator.format.full_scale
    assert (total == accumulator.format.full_scale) == (rounding is Rounding.CEILING)


def test_unsigned_floats_are_no_register():
    unsigned = Accumulator(Minifloat(4, 3, signed=False))
    with pytest.raises(ValueError, match="use integers, or a signed Minifloat"):
        plan(combined(nvfp4(), nvfp4(), Datapath(WIDE, unsigned)))
