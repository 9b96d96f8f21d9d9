"""Every kernel equals the reference, bit for bit; and what no kernel takes is said aloud."""

import warnings
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright import kernels
from bitwright.datapath import Accumulator, Datapath, Overflow
from bitwright.formats import (
    BFLOAT16,
    E2M1,
    E2M3,
    E3M2,
    E4M3,
    E5M2,
    E8M0,
    FLOAT16,
    FLOAT32,
    MXINT8_ELEMENT,
    Int,
    Minifloat,
    Rounding,
    Specials,
    Table,
)  # fmt: skip
from bitwright.kernels import Operand, SlowKernel, Stationary, Unsupported
from bitwright.kernels.rounding import round_to
from bitwright.model.surrogate import FakeQuantizer
from bitwright.quantization import (
    MinimumError,
    PerBlock,
    PerColumns,
    PerRow,
    PerTensor,
    PerTile,
    Quantizer,
    Range,
    Scale,
    ScaleValue,
    Statistics,
    Zero,
)  # fmt: skip
from bitwright.schemes import (
    CATALOGUE,
    a2q,
    ant,
    ant_type,
    combined,
    integer,
    minifloat,
    mxfp4,
    mxfp6,
    mxfp8,
    mxint8,
    nvfp4,
    overq,
    overq_on,
    term_revealing,
    vs_quant,
    vs_quant_chip,
)  # fmt: skip
from bitwright.schemes.ant import TYPES, flint, power_of_two
from bitwright.schemes.mx import CeilingRule, RoundedRule
from bitwright.schemes.overq import Overwrite, Pick
from bitwright.schemes.term_revealing import Recoding, TermBudget
from bitwright.testing import matrices, quantizers

DETERMINISTIC = [r for r in Rounding if r is not Rounding.STOCHASTIC]
FORMATS = [
    Int(1), Int(2), Int(4), Int(4, signed=False), Int(8, narrow=True), Int(8, signed=False, exponent=8), Int(8,
    exponent=-3), Int(16),
    E2M1, E2M3, E3M2, E4M3, E5M2, E8M0, MXINT8_ELEMENT, Minifloat(3, 0), Minifloat(1, 2), Minifloat(2, 3, bias=-3),
    Minifloat(3, 4, signed=False, specials=Specials.IEEE), Minifloat(4, 3, subnormal=False, signed=False),
    *[TYPES[t](b, s) for t in ("flint", "pot", "float") for b in (3, 4, 5) for s in (True, False)], flint(8),
    power_of_two(6),
    Table((-1, 1), (0, 0)), Table((0, 1, -3, 9), (0, 2, 0, 1)),
]  # fmt: skip


@pytest.mark.parametrize("rounding", DETERMINISTIC)
@pytest.mark.parametrize("format", FORMATS, ids=repr)
def test_all_values_midpoints_and_float32_neighbours_round_as_in_the_reference(format, rounding):
    codes = np.arange(2**format.bits)
    grid = np.unique(format.decode(codes[~format.is_reserved(codes)]))
    level = np.concatenate([grid, (grid[1:] + grid[:-1]) / 2, grid[1:] * 0.3 + grid[:-1] * 0.7]).astype(np.float32)
    level = np.concatenate([level, np.nextafter(level, np.float32(np.inf)), np.nextafter(level, np.float32(-np.inf))])
    level = np.concatenate([level, np.float32([0, 1e-40, -1e-40, 1e-20, -1e-20, 1e30, -1e30, 3e38, -3e38])])
    try:
        found = round_to(format, torch.from_numpy(level.copy()), rounding)
    except Unsupported:
        assert format in (flint(8), TYPES["pot"](5, False)) or format.bits > 5, (
            "the small formats of the catalogue are fast"
        )
        return
    np.testing.assert_array_equal(found.numpy(), format.decode(format.encode(level, rounding)))


@pytest.mark.parametrize("format", [FLOAT16, BFLOAT16, FLOAT32], ids=["FLOAT16", "BFLOAT16", "FLOAT32"])
def test_wide_floats_round_as_in_the_reference(format):
    level = np.ldexp(
        np.random.default_rng(0).normal(size=4000), np.random.default_rng(1).integers(-40, 17, 4000)
    ).astype(np.float32)
    bits = np.random.default_rng(2).integers(0, 2**15, 2000) << 13 | 0x1000  # midpoints of FLOAT16's mantissas
    level = np.concatenate([level, (bits | 0x30000000 & 0x7F7FFFFF).astype(np.int32).view(np.float32)])
    level = level[np.isfinite(level) & (np.abs(level) < 1e38)]
    found = round_to(format, torch.from_numpy(level), Rounding.NEAREST_EVEN)
    np.testing.assert_array_equal(found.numpy(), format.decode(format.encode(level)))


LANES = [
    Int(4, signed=False), Int(3, narrow=True), Int(8, signed=False), Int(2, signed=False), flint(4, signed=False),
    flint(4),
]  # fmt: skip


@pytest.mark.parametrize("rounding", DETERMINISTIC)
@pytest.mark.parametrize("pick", Pick)
@pytest.mark.parametrize("lane", LANES, ids=repr)
def test_lanes_that_overwrite_neighbours_equal_the_reference(lane, pick, rounding):
    generator = np.random.default_rng(0)
    for cascade, tile, kinds in product([1, 2, 4, 9], [None, 1, 5, 16], [(True, False), (False, True), (True, True)]):
        if kinds[1] and not isinstance(lane, Int):
            continue
        format = Overwrite(lane, kinds[0], cascade, kinds[1], pick, tile)
        level = (generator.standard_t(2, (7, 3, 23)) * lane.full_scale * 0.35).astype(np.float32)
        level[generator.random(level.shape) < 0.3] = 0
        tied = generator.random(level.shape) < 0.3
        level[tied] = np.round(level[tied] * 2) / 2
        level = np.abs(level) if lane.bounds().lowest == 0 else level
        found = round_to(format, torch.from_numpy(level), rounding)
        np.testing.assert_array_equal(
            found.numpy(), format.decode(format.encode(level, rounding)), err_msg=repr(format)
        )


@pytest.mark.parametrize("recoding", Recoding)
@pytest.mark.parametrize("largest", [15, 127, 128, 255])
def test_term_budgets_equal_the_reference(largest, recoding):
    generator = np.random.default_rng(0)
    for group, budget, is_signed in product([1, 2, 8, 16], [None, 1, 2, 3, 12, 24], [True, False]):
        if budget is not None and budget > group * TermBudget(largest, recoding=recoding).most_terms:
            continue
        format = TermBudget(largest, is_signed, group, budget, recoding)
        level = (generator.standard_t(3, (5, 2, 43)) * largest * 0.3).astype(np.float32)
        level = level if is_signed else np.abs(level)
        found = round_to(format, torch.from_numpy(level), Rounding.NEAREST_AWAY)
        np.testing.assert_array_equal(found.numpy(), format.decode(format.encode(level)), err_msg=repr(format))


def sample(seed, rows, k, *, signed=True):
    x = np.random.default_rng(seed).standard_t(3, (rows, k)).astype(np.float32)
    x[0, : k // 2] = 0
    return x if signed else np.abs(x)


def by_kernel(quantizer, x, ranges=()):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowKernel)
        return kernels.quantize(quantizer, torch.from_numpy(x.copy()), ranges)


def assert_same_operand(found, expected):
    np.testing.assert_array_equal(found.elements.numpy(), expected.elements.numpy())
    np.testing.assert_array_equal(found.outside.numpy(), expected.outside.numpy())
    assert (found.inside is None) == (expected.inside is None)
    if found.inside is not None:
        np.testing.assert_array_equal(found.inside.numpy(), expected.inside.numpy())
    assert found.k == expected.k


SCHEMES = {
    "integer": integer(), "integer 4": integer(4, 4), "asymmetric": integer(zero=Zero.FITTED), "16 bits": integer(16,
    16),
    "blocks": integer(weight_share=PerBlock(16), input_share=PerBlock(32), input_range=None),
    "tiles": integer(weight_share=PerTile(2, 16)),
    "wrapping": integer(4, 4, accumulator_bits=9, overflow=Overflow.WRAP), "per row": integer(input_share=PerRow(),
    input_range=None),
    "saturating": integer(4, 4, accumulator_bits=9, overflow=Overflow.SATURATE),
    "vs_quant": vs_quant(), "vs_quant 8": vs_quant(4, 8, 6, 10), "vs_quant wide scales": vs_quant(8, 8, 18, 18),
    "vs_quant floats": vs_quant(weight_scale_bits=None, input_scale_bits=None),
    "vs_quant half": vs_quant(weight_scale_bits=None),
    "vs_quant rounded": vs_quant(scale_product=Int(6, signed=False, exponent=2)),
    "vs_quant static": vs_quant(input_vectors=MinimumError(100, 101)), "chip": vs_quant_chip(),
    "ant": ant(), "pot": ant_type("pot"), "flint": ant_type("flint"), "float": ant_type("float"),
    "fp8": minifloat(), "fp8 wide": minifloat(5, 2), "fp4": minifloat(2, 1, weight_share=PerBlock(32)),
    "mxfp4": mxfp4(), "mxfp4 16": mxfp4(CeilingRule(), block=16), "mxfp4 rounded": mxfp4(RoundedRule(),
    Rounding.NEAREST_AWAY),
    "mxfp6": mxfp6(), "mxfp6 wide": mxfp6(E3M2, RoundedRule()), "mxfp8": mxfp8(), "mxfp8 wide": mxfp8(E5M2),
    "nvfp4": nvfp4(), "nvfp4 4/6": nvfp4(four_over_six=True), "nvfp4 ct": nvfp4(zero_scale=0.125, smallest_scale=0.0),
    "overq": overq(tile=16), "overq all": overq(3, precision_overwrite=True, signed=True, pick=Pick.LARGEST),
    "overq vectors": overq_on(), "overq flint": overq_on(ant_type("flint", 4, 4)),
    "bounded": a2q(), "bounded tiles": a2q(accumulator_bits=12, tile=16),
    "bounded wide": a2q(8, 8, 20, each_sign=False),
    "terms": term_revealing(), "terms as found": term_revealing(recoding=Recoding.HESE_ARTIFACT, quirks=True),
    "terms in blocks": term_revealing(weight_share=PerBlock(16)), "overq and ant": combined(),
    "overq and terms": combined(overq(), term_revealing()), "overq and nvfp4": combined(overq(), nvfp4()),
}  # fmt: skip
SHAPES = [(1, 1, 1), (3, 2, 16), (5, 4, 37), (4, 3, 150)]
_resolved: dict = {}


def resolved(name, m, n, k, signed):
    """Both quantizers, their ranges and values: searched once, as several tests want them."""
    key = (name, m, n, k, signed)
    if key not in _resolved:
        x, w = sample(k, m, k, signed=signed), sample(k + 1, n, k)
        scheme = SCHEMES[name]
        parts = []
        for chosen, values in ((scheme.input, x), (scheme.weight, w)):
            seen = Statistics.of(values)
            quantizer = chosen.fit(seen, kernels.squared_errors)
            parts += [quantizer, quantizer.estimate(seen, kernels.squared_errors), values]
        _resolved[key] = parts
    return _resolved[key]


@pytest.fixture(params=[True, False], ids=["signed", "unsigned"])
def signed(request):
    return request.param


@pytest.mark.filterwarnings("ignore::bitwright.kernels.SlowKernel")
@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
@pytest.mark.parametrize("name", SCHEMES)
class TestSchemes:
    def test_quantizing_equals_the_reference(self, name, m, n, k, signed):
        x_quantizer, x_ranges, x, w_quantizer, w_ranges, w = resolved(name, m, n, k, signed)
        for quantizer, ranges, values in ((x_quantizer, x_ranges, x), (w_quantizer, w_ranges, w)):
            expected = Operand.of(quantizer.quantize(values, ranges))
            assert_same_operand(by_kernel(quantizer, values, ranges), expected)
            with kernels.only("torch", "reference"):
                assert_same_operand(by_kernel(quantizer, values, ranges), expected)

    def test_products_overflows_and_accumulations_equal_the_reference(self, name, m, n, k, signed):
        x_quantizer, x_ranges, x, w_quantizer, w_ranges, w = resolved(name, m, n, k, signed)
        a, b = x_quantizer.quantize(x, x_ranges), w_quantizer.quantize(w, w_ranges)
        datapath = SCHEMES[name].datapath
        expected = datapath.matmul(a, b)
        values, overflows, accumulations = kernels.matmul(datapath, Operand.of(a), Stationary(Operand.of(b)))
        np.testing.assert_array_equal(values.numpy(), expected.values)
        assert (overflows, accumulations) == (expected.overflows, expected.accumulations)

    def test_the_reference_behind_the_kernels_is_the_reference(self, name, m, n, k, signed):
        x_quantizer, x_ranges, x, w_quantizer, w_ranges, w = resolved(name, m, n, k, signed)
        a, b = x_quantizer.quantize(x, x_ranges), w_quantizer.quantize(w, w_ranges)
        datapath = SCHEMES[name].datapath
        with kernels.only("reference"):
            values, overflows, accumulations = kernels.matmul(datapath, Operand.of(a), Stationary(Operand.of(b)))
        expected = datapath.matmul(a, b)
        np.testing.assert_array_equal(values.numpy(), expected.values)
        assert (overflows, accumulations) == (expected.overflows, expected.accumulations)


SMALL = {
    "wrap": Datapath(inner=Accumulator(Int(7), Overflow.WRAP)), "saturate": Datapath(inner=Accumulator(Int(7),
    Overflow.SATURATE)),
    "narrow": Datapath(inner=Accumulator(Int(9, narrow=True), Overflow.WRAP)), "tile": Datapath(tile=8),
    "tile wrap": Datapath(inner=Accumulator(Int(7), Overflow.WRAP), tile=16),
    "half": Datapath(outer=Accumulator(FLOAT16), tile=8),
    "float": Datapath(inner=Accumulator(FLOAT32)), "outer wrap": Datapath(outer=Accumulator(Int(9), Overflow.WRAP)),
    "outer saturate": Datapath(outer=Accumulator(Int(9), Overflow.SATURATE)),
    "outer wide": Datapath(outer=Accumulator(Int(40))),
    "both": Datapath(inner=Accumulator(Int(8), Overflow.SATURATE), outer=Accumulator(Int(9), Overflow.SATURATE)),
    "rounded": Datapath(outer=Accumulator(Int(20)), scale_product=Int(3, signed=False, exponent=2)),
}  # fmt: skip


OVERFLOWING = {"wrap", "saturate", "tile wrap", "both"}


@pytest.mark.filterwarnings("ignore::bitwright.kernels.SlowKernel")
@pytest.mark.parametrize(
    "shares",
    [("row", "row"), ("block", "block"), ("block", "row"), ("row", "block"), ("block", "wide"), ("tensor", "columns")],
)
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("k", [16, 40, 70])
def test_registers_that_overflow_do_so_as_in_the_reference(name, shares, k):
    integer_scale = Int(3, signed=False)
    levels = {
        "row": (Scale(PerRow()),), "tensor": (Scale(PerTensor()),), "block": (Scale(PerRow()), Scale(PerBlock(16),
        integer_scale)),
        "wide": (Scale(PerTensor()), Scale(PerBlock(32), integer_scale)), "columns": (Scale(PerTensor()),
        Scale(PerColumns(16), integer_scale)),
    }  # fmt: skip
    x_quantizer, w_quantizer = (
        Quantizer(f, levels[s]) for f, s in zip((Int(3, signed=False), Int(3)), shares, strict=True)
    )
    generator = np.random.default_rng(k)
    a = x_quantizer.quantize(generator.uniform(0, 1, (4, k)).astype(np.float32))
    b = w_quantizer.quantize(generator.uniform(-0.6, 1, (3, k)).astype(np.float32))
    expected = SMALL[name].matmul(a, b)
    if name in OVERFLOWING and k == 70:
        assert expected.overflows > 0, "the case is worth its name"
    values, overflows, accumulations = kernels.matmul(SMALL[name], Operand.of(a), Stationary(Operand.of(b)))
    np.testing.assert_array_equal(values.numpy(), expected.values)
    assert (overflows, accumulations) == (expected.overflows, expected.accumulations)


@pytest.mark.filterwarnings("ignore::bitwright.kernels.SlowKernel")
@pytest.mark.parametrize("names", [("torch",), ("reference",), ("torch", "reference")])
def test_a_broken_promise_is_an_error_in_every_implementation(names):
    quantizer = Quantizer(Int(4, narrow=True), (Scale(PerRow()),))
    ones = quantizer.quantize(np.ones((2, 40), np.float32))
    with kernels.only(*names), pytest.raises(OverflowError, match="8-bit"):
        kernels.matmul(Datapath(inner=Accumulator(Int(8))), Operand.of(ones), Stationary(Operand.of(ones)))


@given(x=matrices(), quantizer=quantizers())
@settings(max_examples=300, deadline=None)
def test_quantizing_any_matrix_equals_the_reference(x, quantizer):
    assert_same_operand(by_kernel(quantizer, x), Operand.of(quantizer.quantize(x)))


@given(
    x=matrices(),
    share=st.sampled_from([PerTensor(), PerRow(), PerBlock(8), PerTile(2, 8)]),
    bits=st.integers(2, 8),
    low=st.floats(-3, 0),
    high=st.floats(0, 3),
)
@settings(max_examples=100, deadline=None)
def test_fitted_zero_points_equal_the_reference(x, share, bits, low, high):
    quantizer = Quantizer(Int(bits, signed=False), (Scale(share),), zero=Zero.FITTED)
    shape = share.shape(*x.shape)
    ranges = (Range(np.full(shape, low), np.full(shape, high)),)
    x = np.clip(x, -1e6, 1e6)
    assert_same_operand(by_kernel(quantizer, x, ranges), Operand.of(quantizer.quantize(x, ranges)))


@pytest.mark.filterwarnings("ignore::bitwright.kernels.SlowKernel")
@pytest.mark.parametrize("share", [PerTensor(), PerRow(), PerBlock(8), PerTile(2, 8)], ids=repr)
def test_zero_points_from_the_matrix_at_hand_equal_the_reference(share):
    quantizer = Quantizer(Int(4, signed=False), (Scale(share),), zero=Zero.FITTED)
    x = sample(0, 5, 37)
    assert_same_operand(by_kernel(quantizer, x), Operand.of(quantizer.quantize(x)))


@pytest.mark.filterwarnings("ignore::bitwright.kernels.SlowKernel")
@pytest.mark.parametrize("share", [PerTensor(), PerRow()], ids=repr)
@pytest.mark.parametrize(
    ("format", "stored"), [(Int(16), FLOAT16), (Int(8), Int(18, signed=False)), (Int(8), Int(8, signed=False))], ids=str
)
def test_elements_under_wide_scales_are_rounded_once_on_the_way_to_float32(format, stored, share):
    quantizer = Quantizer(format, (Scale(share), Scale(PerBlock(16), stored)), divide_by=ScaleValue.IDEAL)
    x = sample(0, 9, 333)
    expected = torch.from_numpy(quantizer.quantize(x).decode().astype(np.float32))
    for names in (("native", "torch", "reference"), ("torch", "reference")):
        with kernels.only(*names):
            assert torch.equal(kernels.fake_quantize(quantizer, torch.from_numpy(x)), expected)
            made = FakeQuantizer(quantizer)(torch.from_numpy(x).requires_grad_())
            assert torch.equal(made.detach(), expected)


@pytest.mark.filterwarnings("ignore::bitwright.kernels.SlowKernel")
def test_tiles_without_scales_are_multiplied_by_one_as_the_product_of_scales_rounds_it():
    quantizer = Quantizer(Int(4), (Scale(PerRow()),))
    a, b = (quantizer.quantize(sample(seed, 3, 40)) for seed in (0, 1))
    for exponent in (0, 1, 2):
        datapath = Datapath(outer=Accumulator(), tile=8, scale_product=Int(4, signed=False, exponent=exponent))
        expected = datapath.matmul(a, b)
        found = kernels.matmul(datapath, Operand.of(a), Stationary(Operand.of(b)))
        np.testing.assert_array_equal(found[0].numpy(), expected.values)
        out = torch.empty(3, 3)
        kernels.outputs(datapath, Operand.of(a), Stationary(Operand.of(b)), out)
        np.testing.assert_array_equal(out.numpy(), expected.values.astype(np.float32))


@pytest.mark.parametrize("names", [("native", "torch", "reference"), ("torch", "reference"), ("reference",)])
@pytest.mark.filterwarnings("ignore::bitwright.kernels.SlowKernel")
def test_rounded_scale_products_that_stay_fractional_are_refused_by_integer_registers(names):
    quantizer = Quantizer(Int(4), (Scale(PerBlock(8), E8M0),))
    a = Operand.of(quantizer.quantize(np.full((2, 16), 0.3, np.float32)))
    datapath = Datapath(outer=Accumulator(), scale_product=FLOAT32)
    with kernels.only(*names), pytest.raises(ValueError, match="integer block scales"):
        kernels.matmul(datapath, a, Stationary(a))


@pytest.mark.parametrize("share", [PerRow(), PerBlock(8), PerColumns(8), PerTile(2, 8)], ids=repr)
@pytest.mark.parametrize("seed", range(5))
def test_the_least_error_of_several_full_scales_equals_the_reference(share, seed):
    quantizer = Quantizer(E2M1, (Scale(share, full_scale=(6.0, 4.0)),))
    x = sample(seed, 5, 37)
    assert_same_operand(by_kernel(quantizer, x), Operand.of(quantizer.quantize(x)))


@pytest.mark.parametrize("rows", [1, 4, 5, 12])
@pytest.mark.parametrize(
    "scales",
    [
        (Scale(PerTile(3, 16)),), (Scale(PerTensor()), Scale(PerTile(4, 8), E4M3)), (Scale(PerTile(2, 1000)),),
        (Scale(PerTensor()), Scale(PerTile(2, 8), Int(4, signed=False))),
        (Scale(PerTile(5, 16), full_scale=(7.0, 5.0)),),
    ],
)  # fmt: skip
def test_tiles_of_rows_equal_the_reference_in_torch_alone(scales, rows):
    quantizer = Quantizer(Int(4), scales)
    x = sample(rows, rows, 37)
    with kernels.only("torch"):
        found = kernels.quantize(quantizer, torch.from_numpy(x))
    assert_same_operand(found, Operand.of(quantizer.quantize(x)))


@pytest.mark.parametrize("size", [(4, 16), (5, 37), (128, 20), (7, 3)], ids=str)
@pytest.mark.parametrize("format", [Int(4), E4M3, Int(8, signed=False)], ids=str)
@pytest.mark.parametrize("share", [PerTile(2, 8), PerTile(3, 16), PerTile(5, 100)], ids=str)
def test_tiles_of_rows_equal_the_reference_natively(share, format, size):
    quantizer = Quantizer(format, (Scale(share),))
    x = sample(0, *size) if format != Int(8, signed=False) else np.abs(sample(0, *size))
    expected = quantizer.quantize(x)
    with kernels.only("native", "torch"):
        assert_same_operand(kernels.quantize(quantizer, torch.from_numpy(x)), Operand.of(expected))
        into = torch.from_numpy(x.copy())
        found = kernels.fake_quantize(quantizer, into, out=into)
    np.testing.assert_array_equal(found.numpy(), expected.decode().astype(np.float32))


def test_near_ties_between_full_scales_fall_as_in_the_reference():
    generator = np.random.default_rng(0)
    # few distinct magnitudes in each block: many blocks err by the same amount under both scales
    x = generator.choice(np.float32([0, 1, -1, 0.5, 1.5, 3, 4, 6]), (200, 64)) * generator.choice(
        np.float32([1, 1.1, 0.7]), (200, 1)
    )
    quantizer = nvfp4(four_over_six=True).weight
    assert_same_operand(by_kernel(quantizer, x), Operand.of(quantizer.quantize(x)))


@pytest.mark.parametrize("magnitude", [1e-38, 1e-30, 1e30, 1e38])
@pytest.mark.parametrize("name", ["integer", "mxfp4", "nvfp4", "vs_quant", "fp8"])
def test_extreme_magnitudes_equal_the_reference(name, magnitude):
    scheme = SCHEMES[name]
    x = np.random.default_rng(0).uniform(-1, 1, (4, 70)).astype(np.float32) * np.float32(magnitude)
    w = np.random.default_rng(1).uniform(-1, 1, (3, 70)).astype(np.float32) / np.float32(magnitude)
    a, b = scheme.weight.quantize(x), scheme.weight.quantize(w)
    assert_same_operand(by_kernel(scheme.weight, x), Operand.of(a))
    expected = scheme.datapath.matmul(a, b)
    found, _, _ = kernels.matmul(scheme.datapath, Operand.of(a), Stationary(Operand.of(b)))
    np.testing.assert_array_equal(found.numpy(), expected.values)


@pytest.mark.parametrize("factory", CATALOGUE, ids=lambda f: f.__name__)
def test_no_scheme_of_the_catalogue_falls_back_to_the_reference(factory):
    scheme = factory()
    x, w = sample(0, 8, 128), sample(1, 6, 128)
    with warnings.catch_warnings():
        warnings.simplefilter("error", SlowKernel)
        parts = []
        for chosen, values in ((scheme.input, x), (scheme.weight, w)):
            seen = Statistics.of(values)
            quantizer = chosen.fit(seen, kernels.squared_errors)
            parts.append(
                kernels.quantize(quantizer, torch.from_numpy(values), quantizer.estimate(seen, kernels.squared_errors))
            )
        kernels.matmul(scheme.datapath, parts[0], Stationary(parts[1]))


def test_falling_back_is_said():
    quantizer = Quantizer(Int(4, signed=False), (Scale(PerTensor()),), zero=Zero.FITTED)
    with (
        kernels.only("torch", "reference"),
        pytest.warns(SlowKernel, match="the slow reference takes a zero point from the input at hand"),
    ):
        kernels.quantize(quantizer, torch.ones(2, 3))
    a = Operand.of(Quantizer(Int(4), (Scale(PerTensor()),)).quantize(np.ones((2, 8), np.float32)))
    with pytest.warns(SlowKernel, match="ties of Minifloat"):
        kernels.matmul(Datapath(Accumulator(Minifloat(4, 0))), a, Stationary(a))


def test_without_the_reference_there_is_an_error_instead_of_a_fallback():
    quantizer = Quantizer(Int(4, signed=False), (Scale(PerTensor()),), zero=Zero.FITTED)
    with kernels.only("torch"), pytest.raises(NotImplementedError, match="switched off"):
        kernels.quantize(quantizer, torch.ones(2, 3))


def test_only_ends_with_its_block():
    with kernels.only("reference"):
        pass
    assert kernels.dispatch._allowed.get() == kernels.dispatch.IMPLEMENTATIONS


def test_an_unknown_implementation_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="choose from"), kernels.only("cuda"):
        pass


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("names", [("torch",), ("reference",)])
def test_what_is_not_a_number_is_refused_with_its_place(value, names):
    x = torch.ones(3, 4)
    x[1, 2] = value
    with kernels.only(*names), pytest.raises(ValueError, match=r"\(1, 2\)"):
        kernels.quantize(Quantizer(Int(4), (Scale(PerTensor()),)), x)


def test_the_input_tensor_is_not_changed():
    x = torch.from_numpy(sample(0, 4, 40))
    before = x.clone()
    for name in ("integer", "mxfp4", "nvfp4", "vs_quant"):
        kernels.quantize(SCHEMES[name].weight, x)
    assert torch.equal(x, before)


def test_one_row_of_an_operand_is_that_row():
    t = SCHEMES["vs_quant"].weight.quantize(sample(0, 6, 40))
    part = Operand.of(t).take(slice(2, 4))
    np.testing.assert_array_equal(part.decode().numpy(), Operand.of(t).decode().numpy()[2:4])


def test_an_operand_decodes_to_the_reference_rounded_to_float32():
    for name in ("integer", "mxfp4", "nvfp4", "vs_quant"):
        t = SCHEMES[name].weight.quantize(sample(0, 6, 40))
        # float32 elements times a float32 scale inside, then a float64 scale outside: one rounding more than the
        # reference
        np.testing.assert_allclose(Operand.of(t).decode().numpy(), t.decode(), rtol=2.0**-23)


def test_replacing_how_elements_see_scales_changes_the_operand():
    quantizer = SCHEMES["vs_quant"].weight
    x = sample(3, 8, 64)
    stored = replace(quantizer, divide_by=ScaleValue.STORED)
    assert not torch.equal(by_kernel(quantizer, x).elements, by_kernel(stored, x).elements)


def test_fractional_scales_in_an_integer_register_are_refused_by_every_implementation():
    quantizer = mxint8().weight
    a, b = quantizer.quantize(sample(0, 4, 64)), quantizer.quantize(sample(1, 3, 64) / 100)
    datapath = Datapath(inner=Accumulator(Int(30)), outer=Accumulator())
    for implementations in (("torch", "reference"), ("reference",)):
        with (
            kernels.only(*implementations),
            warnings.catch_warnings(action="ignore", category=SlowKernel),
            pytest.raises(ValueError, match="integer block scales"),
        ):
            kernels.matmul(datapath, Operand.of(a), Stationary(Operand.of(b)))
