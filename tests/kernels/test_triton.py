"""Kernels in Triton equal the reference bit for bit: on a GPU where there is one, else in Triton's interpreter."""

import math
from itertools import product

import numpy as np
import pytest
import torch

from bitwright import kernels
from bitwright.datapath import Accumulator, Datapath, Overflow
from bitwright.formats import E2M1, E2M3, E4M3, E5M2, E8M0, FLOAT32, Int, Minifloat, Rounding, Table
from bitwright.kernels import Operand, Stationary, Unsupported
from bitwright.kernels.native.scalars import ROUNDINGS
from bitwright.model import surrogate
from bitwright.quantization import PerBlock, PerRow, PerTensor, Quantizer, Range, Scale, ScaleValue, Zero
from bitwright.schemes import a2q, integer, mxfp4, mxint8, nvfp4, vs_quant
from bitwright.schemes.ant import TYPES, flint
from bitwright.schemes.overq import Overwrite, Pick
from bitwright.schemes.term_revealing import Recoding, TermBudget

gpu = pytest.importorskip("bitwright.kernels.gpu", reason="the extra `gpu` is not installed")  # see conftest.py

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

pytestmark = [
    pytest.mark.skipif(
        DEVICE == "cpu" and not gpu.INTERPRETED, reason="Triton was imported before it could be told to interpret"
    ),
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton"),  # NumPy's, where a mask follows
]

FORMATS = [
    Int(1), Int(4), Int(4, signed=False), Int(8, narrow=True), Int(8, signed=False, exponent=8), Int(8, exponent=-3),
    Int(24), E2M1, E2M3, E4M3, E5M2, Minifloat(1, 2), Minifloat(3, 4, signed=False),
    *[TYPES[t](4, s) for t in ("flint", "pot", "float") for s in (True, False)], TYPES["flint"](5, True),
    Table((0, 1, 3, 9), (0, 0, 0, 0)),
]  # fmt: skip


def there(x):
    """A NumPy array, or a tensor, where the kernels run."""
    return (torch.from_numpy(x) if isinstance(x, np.ndarray) else x).to(DEVICE)


def assert_same_operand(found, expected):
    np.testing.assert_array_equal(found.elements.cpu().numpy(), expected.elements.numpy())
    np.testing.assert_array_equal(found.outside.cpu().numpy(), expected.outside.numpy())
    assert (found.inside is None) == (expected.inside is None)
    if found.inside is not None:
        np.testing.assert_array_equal(found.inside.cpu().numpy(), expected.inside.numpy())


@pytest.mark.parametrize("format", FORMATS, ids=repr)
def test_all_values_midpoints_and_their_float32_neighbours_round_as_in_the_reference(format):
    codes = np.unique(np.linspace(0, 2**format.bits - 1, min(2**format.bits, 4096)).astype(int))
    grid = np.unique(format.decode(codes[~format.is_reserved(codes)]))
    level = np.concatenate([grid, (grid[1:] + grid[:-1]) / 2, grid[1:] * 0.3 + grid[:-1] * 0.7]).astype(np.float32)
    level = np.concatenate([level, np.nextafter(level, np.float32(np.inf)), np.nextafter(level, np.float32(-np.inf))])
    level = np.concatenate([level, np.float32([0, -0.0, 1e-40, -1e-40, 1e-20, -1e-20, 1e30, -1e30, 3e38, -3e38])])
    one = Range(*[np.full((1, 1), s * format.full_scale) for s in (-1, 1)])
    taken = 0
    for rounding in ROUNDINGS:
        try:
            found = gpu.fake_quantize(Quantizer(format, (Scale(PerTensor()),), rounding), there(level[None]), (one,))
        except Unsupported:
            continue
        taken += 1
        expected = format.decode(format.encode(level, rounding))
        np.testing.assert_array_equal(found.cpu().numpy()[0], expected, err_msg=repr(rounding))
    assert taken >= (5 if isinstance(format, Table) or not getattr(format, "mantissa_bits", 1) else 7)


BLOCKS = [
    Quantizer(element, (*coarse, Scale(PerBlock(block), scale, rounding, **more)), divide_by=divide_by)
    for element, coarse, (scale, rounding, more), block, divide_by in product(
        [E2M1, Int(4, signed=False), flint(4)],
        [(), (Scale(PerRow()),), (Scale(PerTensor()),)],
        [
            (E8M0, Rounding.FLOOR, {"full_scale": 4.0, "largest": 1.0}), (E8M0, Rounding.CEILING, {"largest": 1.0}),
            (E4M3, Rounding.NEAREST_EVEN, {"smallest": 2.0**-9, "zero_as": 0.125}),
            (Int(6, signed=False), Rounding.NEAREST_EVEN, {}),
            (E8M0, Rounding.FLOOR, {"full_scale": 4.0, "largest": 1.0, "magnitude_format": Minifloat(8, 1)}),
        ],
        [5, 16],
        ScaleValue,
    )
]  # fmt: skip


@pytest.mark.parametrize("k", [1, 33, 160])
def test_scales_and_elements_of_blocks_equal_the_reference(k):
    generator = np.random.default_rng(k)
    x = (generator.standard_t(2, (3, k)) * np.exp2(generator.integers(-30, 30, (3, 1)))).astype(np.float32)
    x[1, : k // 2] = 0
    for quantizer in BLOCKS[:: 3 if k == 33 else 7]:
        assert_same_operand(gpu.quantize(quantizer, there(x)), Operand.of(quantizer.quantize(x)))


def test_scales_reach_the_largest_power_of_two_and_numbers_below_the_normal_range():
    for magnitude in (2e38, 1e-38, 1e-42):
        x = np.float32(magnitude) * np.linspace(-1, 1, 70, dtype=np.float32)[None]
        for scheme in (mxint8(), mxfp4(), nvfp4(), integer()):
            assert_same_operand(gpu.quantize(scheme.weight, there(x)), Operand.of(scheme.weight.quantize(x)))


CASES = {
    "int8": Quantizer(Int(8), (Scale(PerRow()),)), "flint": Quantizer(flint(4), (Scale(PerTensor()),)),
    "two coarse levels": Quantizer(Int(4), (Scale(PerTensor()), Scale(PerRow(), E4M3))),
    "vs_quant": vs_quant().weight, "mxfp4": mxfp4().weight, "nvfp4": nvfp4().weight, "mxint8": mxint8().weight,
    "several full scales": nvfp4(four_over_six=True).weight,
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
class TestDecoded:
    def test_decoded_values_are_torchs(self, name):
        x = torch.from_numpy(np.random.default_rng(0).standard_t(3, (7, 83)).astype(np.float32))
        with kernels.only("torch"):
            expected = kernels.fake_quantize(CASES[name], x)
        with kernels.only("triton"):
            assert torch.equal(kernels.fake_quantize(CASES[name], there(x)).cpu(), expected)

    def test_results_go_into_the_tensor_that_is_given_also_the_input(self, name):
        x = there(torch.randn(5, 64, generator=torch.Generator().manual_seed(0)))
        with kernels.only("triton"):
            expected, out = kernels.fake_quantize(CASES[name], x), torch.empty_like(x)
            assert kernels.fake_quantize(CASES[name], x, out=out) is out
            assert torch.equal(out, expected)
            kernels.fake_quantize(CASES[name], x, out=x)
            assert torch.equal(x, expected)

    def test_strided_matrices(self, name):
        x = there(torch.randn(64, 10, generator=torch.Generator().manual_seed(0)))
        with kernels.only("triton"):
            found = kernels.fake_quantize(CASES[name], x.T)
            assert torch.equal(found, kernels.fake_quantize(CASES[name], x.T.contiguous()))

    @pytest.mark.parametrize("bad", [float("nan"), -float("inf")])
    def test_a_value_that_is_not_finite_is_named(self, name, bad):
        x = torch.ones(3, 1500)
        x[1, 1234] = bad
        with kernels.only("triton"), pytest.raises(ValueError, match=r"\(1, 1234\)"):
            kernels.fake_quantize(CASES[name], there(x))


def test_zero_points_equal_the_reference():
    quantizer = Quantizer(Int(8, signed=False), (Scale(PerRow()),), zero=Zero.FITTED)
    x = np.random.default_rng(0).normal(1, 2, (6, 40)).astype(np.float32)
    ranges = (Range(x.min(1, keepdims=True), x.max(1, keepdims=True)),)
    found = gpu.quantize(quantizer, there(x), ranges)
    assert_same_operand(found, Operand.of(quantizer.quantize(x, ranges)))


def test_empty_matrices_are_left_to_others():
    with pytest.raises(Unsupported, match="empty"):
        gpu.quantize(CASES["int8"], torch.empty(3, 0, device=DEVICE))


LEVELS = [0, 0, 0, 0.3, 0.5, 1, 2.5, 3, 7, 7.5, 15.4, 15.5, 16, 20, 40, 200, 270, 1e9]
LANES = [
    Overwrite(lane, is_wide, cascade, is_fine, pick, tile)
    for lane, (is_wide, is_fine), cascade, pick, tile in product(
        [Int(4, signed=False), Int(3, narrow=True), Int(4, signed=False, exponent=-2)],
        [(True, False), (True, True)], [1, 4], Pick, [None, 2, 16],
    )
]  # fmt: skip


@pytest.mark.parametrize("k", [1, 5, 41])
def test_lanes_that_overwrite_their_neighbours_do_so_as_in_the_reference(k):
    generator = np.random.default_rng(k)
    for i, format in enumerate(LANES):
        rounding = ROUNDINGS[i % len(ROUNDINGS)]
        x = generator.choice(LEVELS, (3, k)) * format.unit
        if format.lane.bounds().lowest < 0:
            x = x * generator.choice([-1, 1], x.shape)
        x = x.astype(np.float32)
        found = gpu.round_to(format, there(x), rounding).cpu().numpy()
        expected = format.decode(format.encode(x, rounding))
        np.testing.assert_array_equal(found, expected, err_msg=f"{format} {rounding}")


@pytest.mark.parametrize("recoding", Recoding)
def test_the_terms_that_a_budget_keeps_are_the_references(recoding):
    generator = np.random.default_rng(0)
    for largest, group, budget, signed in product([128, 15], [1, 3, 8], [1, 5, None], [True, False]):
        if budget and budget > group * TermBudget(largest, recoding=recoding).most_terms:
            continue
        format = TermBudget(largest, signed, group, budget, recoding)
        x = generator.normal(0, largest / 2, (3, 37)).astype(np.float32)
        x = x if signed else abs(x)
        found = gpu.round_to(format, there(x), Rounding.NEAREST_AWAY).cpu().numpy()
        np.testing.assert_array_equal(found, format.decode(format.encode(x)), err_msg=repr(format))


def test_negative_levels_without_a_sign_are_named_as_by_the_reference():
    x = there(torch.tensor([[1.0, -2.0]]))
    for format in (Overwrite(Int(4, signed=False)), TermBudget(15, signed=False)):
        with pytest.raises(ValueError, match=r"\(0, 1\)|index"):
            gpu.round_to(format, x, Rounding.NEAREST_AWAY)


def test_formats_without_a_kernel_are_rounded_by_torch_on_the_same_device():
    weight = a2q().weight.quantizers[0] if hasattr(a2q().weight, "quantizers") else a2q().weight
    x = np.random.default_rng(0).normal(size=(4, 40)).astype(np.float32)
    assert_same_operand(gpu.quantize(weight, there(x)), Operand.of(weight.quantize(x)))


REGISTERS = [
    Accumulator(), Accumulator(Int(9), Overflow.WRAP), Accumulator(Int(9), Overflow.SATURATE),
    Accumulator(Int(9, narrow=True), Overflow.WRAP), Accumulator(Int(8, narrow=True), Overflow.SATURATE),
]  # fmt: skip


@pytest.mark.parametrize("tile", [None, 8])
@pytest.mark.parametrize("register", REGISTERS, ids=repr)
@pytest.mark.parametrize("name", ["int8", "mxfp4", "nvfp4", "vs_quant", "mxint8"])
def test_products_and_overflows_equal_the_reference(name, register, tile):
    generator = np.random.default_rng(0)
    datapath = Datapath(inner=register, outer=Accumulator(FLOAT32), tile=tile)
    for m, n, k in ((3, 2, 37), (66, 3, 20)):
        x, w = (CASES[name].quantize(generator.standard_normal((rows, k)).astype(np.float32)) for rows in (m, n))
        expected = datapath.matmul(x, w)
        found = gpu.matmul(datapath, Operand.of(x).to(DEVICE), Stationary(Operand.of(w).to(DEVICE)))
        np.testing.assert_array_equal(found[0].cpu().numpy(), expected.values)
        assert found[1:] == (expected.overflows, expected.accumulations)


def test_a_broken_promise_is_an_error():
    ones = Operand.of(Quantizer(Int(4, narrow=True), (Scale(PerRow()),)).quantize(np.ones((2, 40), np.float32)))
    with pytest.raises(OverflowError, match="8-bit"):
        gpu.matmul(Datapath(inner=Accumulator(Int(8))), ones.to(DEVICE), Stationary(ones.to(DEVICE)))


def test_integers_of_more_than_eight_bits_step_into_a_register_that_is_wide_enough():
    quantizer = Quantizer(Int(12), (Scale(PerRow()),))
    x = quantizer.quantize(np.random.default_rng(0).standard_normal((3, 20)).astype(np.float32))
    expected = Datapath().matmul(x, x)
    found = gpu.matmul(Datapath(), Operand.of(x).to(DEVICE), Stationary(Operand.of(x).to(DEVICE)))
    np.testing.assert_array_equal(found[0].cpu().numpy(), expected.values)


@pytest.mark.parametrize("share", [PerTensor(), PerRow()], ids=repr)
@pytest.mark.parametrize("format", [Int(4, narrow=True), Int(4, signed=False), flint(4), E2M1], ids=repr)
def test_the_gradient_of_a_learned_step_is_that_of_the_surrogate(format, share):
    quantizer = Quantizer(format, (Scale(share),))
    generator = torch.Generator().manual_seed(0)
    x, gradient = (torch.randn(5, 1100, generator=generator) for _ in range(2))
    step = torch.full(share.shape(*x.shape), 0.13)
    leaf, learned = x.clone().requires_grad_(), step.clone().requires_grad_()
    out = surrogate.fake_quantize(quantizer, leaf, surrogate.learned_ranges(quantizer, step), step=learned)
    out.backward(gradient)
    bounds = format.bounds()
    limits = bounds.lowest * surrogate.SLACK, bounds.highest * surrogate.SLACK
    of_x, of_step = gpu.backward(quantizer, there(x), there(step), there(gradient), limits)
    assert torch.equal(of_x.cpu(), leaf.grad)
    factor = 1 / math.sqrt(x.numel() / step.numel() * bounds.highest)
    # torch adds the same float32 terms in another order: n roundings of at most half an ulp of their sum
    terms = (gradient.abs() * bounds.highest * 2).sum() * factor
    torch.testing.assert_close(of_step.cpu() * factor, learned.grad, rtol=0, atol=float(terms) * 2.0**-24 * 32)
