"""The native library equals the reference bit for bit, for every set of instructions."""

import multiprocessing
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from bitwright import kernels
from bitwright.formats import E2M1, E2M3, E3M2, E4M3, E5M2, E8M0, MXINT8_ELEMENT, Int, Minifloat, Rounding, Table
from bitwright.kernels import Unsupported
from bitwright.kernels.native import scalars as native
from bitwright.quantization import PerBlock, PerRow, PerTensor, Quantizer, Range, Scale, ScaleValue, Zero
from bitwright.schemes import CATALOGUE, mxfp4, mxint8, nvfp4, vs_quant
from bitwright.schemes.ant import TYPES, flint
from bitwright.testing import matrices, quantizers

pytestmark = pytest.mark.usefixtures("instructions")

WIDE_STEPS = Minifloat(2, 3, bias=-3)
FORMATS = [
    Int(1), Int(2), Int(4), Int(4, signed=False), Int(8, narrow=True), Int(8, signed=False, exponent=8),
    Int(8, exponent=-3), Int(16), Int(24),
    E2M1, E2M3, E3M2, E4M3, E5M2, MXINT8_ELEMENT, Minifloat(1, 2), WIDE_STEPS,
    Minifloat(3, 4, signed=False),
    *[TYPES[t](b, s) for t in ("flint", "pot", "float") for b in (3, 4, 5) for s in (True, False)],
    Table((0, 1, 3, 9), (0, 0, 0, 0)), Table((-1, 1), (0, 0)),
]  # fmt: skip
ASYMMETRIC = (Rounding.FLOOR, Rounding.CEILING)
"""Roundings that treat signs differently, which tables do not take."""


def unit(format, rounding=Rounding.NEAREST_EVEN):
    """A quantizer whose only scale is 1."""
    return Quantizer(format, (Scale(PerTensor()),), rounding), (
        Range(*[np.full((1, 1), s * format.full_scale) for s in (-1, 1)]),
    )


@pytest.mark.parametrize("rounding", native.ROUNDINGS)
@pytest.mark.parametrize("format", FORMATS, ids=repr)
def test_all_values_midpoints_and_their_float32_neighbours_round_as_in_the_reference(format, rounding):
    codes = np.arange(2 ** min(format.bits, 16))
    grid = np.unique(format.decode(codes[~format.is_reserved(codes)]))
    level = np.concatenate([grid, (grid[1:] + grid[:-1]) / 2, grid[1:] * 0.3 + grid[:-1] * 0.7]).astype(np.float32)
    level = np.concatenate([level, np.nextafter(level, np.float32(np.inf)), np.nextafter(level, np.float32(-np.inf))])
    level = np.concatenate([level, np.float32([0, -0.0, 1e-40, -1e-40, 1e-20, -1e-20, 1e30, -1e30, 3e38, -3e38])])
    quantizer, ranges = unit(format, rounding)
    try:
        found = native.quantize(quantizer, torch.from_numpy(level[None]), ranges)
    except Unsupported:
        is_table = isinstance(format, Table) or not getattr(format, "mantissa_bits", 1)
        assert (is_table and (rounding in ASYMMETRIC or not _is_symmetric(format))) or format == WIDE_STEPS
        return
    np.testing.assert_array_equal(found.elements.numpy()[0, 0], format.decode(format.encode(level, rounding)))


def _is_symmetric(format):
    values = np.unique(format.decode(np.arange(2**format.bits)))
    return 0 in values and (values[0] == 0 or np.array_equal(values, -values[::-1])) and sum(values > 0) <= 16


BLOCKS = [
    Quantizer(element, (*coarse, Scale(PerBlock(block), scale, rounding, **more)), divide_by=divide_by)
    for element, coarse, (scale, rounding, more), block, divide_by in product(
        [E2M1, Int(4), Int(4, signed=False), flint(4)],
        [(), (Scale(PerRow()),), (Scale(PerTensor()),)],
        [
            (E8M0, Rounding.FLOOR, {"full_scale": 4.0, "largest": 1.0}), (E8M0, Rounding.CEILING, {"largest": 1.0}),
            (E4M3, Rounding.NEAREST_EVEN, {}), (E4M3, Rounding.NEAREST_EVEN, {"smallest": 2.0**-9, "zero_as": 0.125}),
            (Int(6, signed=False), Rounding.NEAREST_EVEN, {}),
            (E8M0, Rounding.FLOOR, {"full_scale": 4.0, "largest": 1.0, "magnitude_format": Minifloat(8, 1)}),
        ],
        [5, 16, 32],
        ScaleValue,
    )
]  # fmt: skip


@pytest.mark.parametrize("k", [1, 16, 33, 160, 2100])
def test_scales_and_elements_of_blocks_equal_the_reference(k):
    generator = np.random.default_rng(k)
    x = (generator.standard_t(2, (3, k)) * np.exp2(generator.integers(-30, 30, (3, 1)))).astype(np.float32)
    x[1, : k // 2] = 0
    for quantizer in BLOCKS if k < 2000 else BLOCKS[::7]:
        found = native.quantize(quantizer, torch.from_numpy(x))
        expected = kernels.Operand.of(quantizer.quantize(x))
        np.testing.assert_array_equal(found.inside.numpy(), expected.inside.numpy(), err_msg=repr(quantizer))
        np.testing.assert_array_equal(found.elements.numpy(), expected.elements.numpy(), err_msg=repr(quantizer))


def test_scales_reach_the_largest_power_of_two():
    x = torch.full((1, 64), 2e38)
    found = native.quantize(mxint8().weight, x)
    expected = kernels.Operand.of(mxint8().weight.quantize(x.numpy()))
    assert float(found.inside[0, 0]) == 2.0**127
    np.testing.assert_array_equal(found.inside.numpy(), expected.inside.numpy())
    np.testing.assert_array_equal(found.elements.numpy(), expected.elements.numpy())


@settings(max_examples=60, deadline=None)
@given(quantizer=quantizers(), x=matrices())
def test_what_the_library_takes_equals_the_reference(quantizer, x):
    try:
        found = native.quantize(quantizer, torch.from_numpy(x.astype(np.float32)))
    except (Unsupported, native.NotFinite):
        return
    expected = kernels.Operand.of(quantizer.quantize(x.astype(np.float32)))
    np.testing.assert_array_equal(found.elements.numpy(), expected.elements.numpy())
    np.testing.assert_array_equal(found.outside.numpy(), expected.outside.numpy())


CASES = {
    "int8": Quantizer(Int(8), (Scale(PerRow()),)), "flint": Quantizer(flint(4), (Scale(PerTensor()),)),
    "two coarse levels": Quantizer(Int(4), (Scale(PerTensor()), Scale(PerRow(), E4M3))),
    "vs_quant": vs_quant().weight, "mxfp4": mxfp4().weight, "nvfp4": nvfp4().weight,
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
class TestDecoded:
    def test_decoded_values_are_those_of_the_elements(self, name):
        x = torch.from_numpy(np.random.default_rng(0).standard_t(3, (7, 83)).astype(np.float32))
        with kernels.only("torch"):
            expected = kernels.fake_quantize(CASES[name], x)
        assert torch.equal(kernels.fake_quantize(CASES[name], x), expected)

    def test_results_go_into_the_tensor_that_is_given_also_the_input(self, name):
        x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
        expected, out = kernels.fake_quantize(CASES[name], x), torch.empty_like(x)
        assert kernels.fake_quantize(CASES[name], x, out=out) is out
        assert torch.equal(out, expected)
        kernels.fake_quantize(CASES[name], x, out=x)
        assert torch.equal(x, expected)

    def test_results_that_would_replace_what_is_still_to_be_read_are_refused(self, name):
        memory = torch.randn(6, 64, generator=torch.Generator().manual_seed(0))
        before = memory.clone()
        for x, out in ((memory[:5], memory[1:]), (memory[1:], memory[:5]), (memory.T[:, :6].T[:5], memory[1:])):
            with pytest.raises(ValueError, match="in part"):
                kernels.fake_quantize(CASES[name], x, out=out)
        assert torch.equal(memory, before)
        kernels.fake_quantize(CASES[name], memory[:3], out=memory[3:])  # beside each other

    def test_strided_and_empty_matrices(self, name):
        x = torch.randn(64, 10, generator=torch.Generator().manual_seed(0))
        assert torch.equal(
            kernels.fake_quantize(CASES[name], x.T), kernels.fake_quantize(CASES[name], x.T.contiguous())
        )
        with pytest.raises(Unsupported, match="empty"):
            native.fake_quantize(CASES[name], torch.empty(0, 32))

    def test_threads_change_nothing(self, name, monkeypatch):
        x = torch.randn(9, 640, generator=torch.Generator().manual_seed(0))
        expected = kernels.fake_quantize(CASES[name], x)
        monkeypatch.setattr(native, "LARGE", 1)
        before = torch.get_num_threads()
        try:
            for threads in (2, 3, 16):
                torch.set_num_threads(threads)
                assert torch.equal(kernels.fake_quantize(CASES[name], x), expected)
        finally:
            torch.set_num_threads(before)

    @pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
    def test_a_value_that_is_not_finite_is_named(self, name, bad):
        x = torch.ones(3, 5000)
        x[1, 4321] = bad
        with pytest.raises(ValueError, match=r"\(1, 4321\)"):
            kernels.fake_quantize(CASES[name], x)


def _neighbours(x, steps=3):
    """Each float32 and the next ones on both sides."""
    bits = np.abs(x).astype(np.float32).view(np.int32)[:, None] + np.arange(-steps, steps + 1, dtype=np.int32)
    return np.copysign(np.maximum(bits, 0).view(np.float32), x[:, None]).ravel()


def test_levels_are_those_of_a_division_to_the_last_bit():
    """Quotients half a unit in the last place apart from midpoints of floats, as near as quotients come to them.

    Levels of 24-bit integers from 2**22 on have one bit behind the point: any other last bit is another integer.
    """
    generator = np.random.default_rng(0)
    divisors = np.concatenate([2**24 - 1 - 2 * np.arange(300), 2**23 + 1 + 2 * np.arange(300)])
    divisors = np.concatenate([divisors, generator.integers(2**22, 2**23, 1400) * 2 + 1])
    rows = []
    for divisor in divisors.tolist():
        nearest = [s * pow(2**power, -1, divisor) % divisor for power in (24, 25) for s in (1, -1)]
        row = [x if x >= 2**23 else x + divisor for x in nearest]
        rows.append([*[x if x < 2**24 else 2**23 for x in row], 2**24 - 1, divisor - 1, divisor, 2**23])
    x = np.asarray(rows, np.float32) * np.float32(2.0**21)
    x = np.concatenate([x, x * 2, -x], 1)
    divisors = divisors[:, None].astype(np.float32)
    quantizer = Quantizer(Int(24), (Scale(PerRow(), full_scale=2.0**22),))
    for exponent in (0, -90, -120, 60):
        by = divisors * np.float32(2.0**exponent)
        scaled = x * np.float32(2.0**exponent)
        ranges = (Range(-by * np.float32(2.0**22), by * np.float32(2.0**22)),)
        found = native.quantize(quantizer, torch.from_numpy(scaled), ranges).elements.numpy()[:, 0]
        np.testing.assert_array_equal(found, np.clip(np.rint(scaled / by), -(2**23), 2**23 - 1))


@pytest.mark.parametrize("rounding", [r for r in native.ROUNDINGS if r not in ASYMMETRIC])
@pytest.mark.parametrize(
    "format",
    [TYPES[t](b, s) for t, b, s in product(("flint", "pot"), (3, 4), (True, False)) if (t, b, s) != ("pot", 4, False)],
    ids=repr,
)
def test_thresholds_that_are_moved_to_the_elements_equal_a_division(format, rounding):
    grid = np.unique(format.decode(np.arange(2**format.bits)))
    level = np.concatenate([grid, (grid[1:] + grid[:-1]) / 2])
    generator = np.random.default_rng(0)
    scales = np.concatenate([generator.uniform(1, 2, 60), [1, 1e-38, 3e-42, 1e-45, 1e36]]).astype(np.float32)
    quantizer = Quantizer(format, (Scale(PerRow(), full_scale=1.0),), rounding)
    rows = []
    with np.errstate(over="ignore"):
        for scale in scales:
            row = _neighbours((level * np.float64(scale)).astype(np.float32), 10)
            rows.append(np.resize(row[np.isfinite(row)], 777))
    x = np.stack(rows)
    ranges = (Range(-scales[:, None], scales[:, None]),)
    try:
        found = native.quantize(quantizer, torch.from_numpy(x), ranges)
    except Unsupported:
        return
    expected = kernels.Operand.of(quantizer.quantize(x, ranges))
    np.testing.assert_array_equal(found.elements.numpy(), expected.elements.numpy())
    decoded = native.fake_quantize(quantizer, torch.from_numpy(x), ranges)
    np.testing.assert_array_equal(decoded.numpy(), expected.decode().numpy())


@pytest.mark.parametrize("name", ["int8", "vs_quant", "nvfp4", "mxfp4"])
def test_chunks_of_any_magnitudes_equal_the_reference(name):
    """From denormals to the largest floats in one chunk of blocks, and blocks of zeros."""
    generator = np.random.default_rng(1)
    x = generator.normal(size=(8, 4096)).astype(np.float32)
    x *= np.exp2(generator.integers(-149, 120, (8, 256))).astype(np.float32).repeat(16, 1)
    x[3, :640], x[4] = 0, x[4] * np.float32(2.0**-30)
    x[5] = np.abs(x[5]).clip(1e-3, 1e3)
    found = native.quantize(CASES[name], torch.from_numpy(x))
    expected = kernels.Operand.of(CASES[name].quantize(x))
    np.testing.assert_array_equal(found.elements.numpy(), expected.elements.numpy())
    decoded = native.fake_quantize(CASES[name], torch.from_numpy(x))
    np.testing.assert_array_equal(decoded.numpy(), expected.decode().numpy())


@pytest.mark.parametrize("is_given", [True, False])
@pytest.mark.parametrize("share", [PerRow(), PerTensor()])
def test_zero_points_equal_the_reference(share, is_given):
    quantizer = Quantizer(Int(8, signed=False), (Scale(share),), zero=Zero.FITTED)
    x = np.random.default_rng(0).normal(1, 2, (6, 40)).astype(np.float32)
    x[2], x[3] = np.abs(x[2]), 0
    ranges = (Range(share.reduce(np.minimum, x), share.reduce(np.maximum, x)),) if is_given else ()
    found = native.quantize(quantizer, torch.from_numpy(x), ranges)
    np.testing.assert_array_equal(
        found.elements.numpy(), kernels.Operand.of(quantizer.quantize(x, ranges)).elements.numpy()
    )


def _child(connection, x):  # nothing of torch that has threads of its own: those hang after a fork
    connection.send(float(kernels.fake_quantize(CASES["int8"], x).numpy().sum()))


def test_a_forked_process_computes_with_threads(monkeypatch):
    monkeypatch.setattr(native, "LARGE", 1)
    x = torch.ones(4, 1 << 20)
    kernels.fake_quantize(CASES["int8"], x)  # threads of the parent have run
    receiving, sending = multiprocessing.Pipe(False)
    child = multiprocessing.get_context("fork").Process(target=_child, args=(sending, x))
    child.start()
    assert receiving.poll(60), "the child hangs"
    assert receiving.recv() == 4 << 20
    child.join()


def test_every_scheme_of_the_catalogue_has_a_path_that_is_said():
    """What the library leaves to torch among the catalogue's own formats: group formats."""
    left = set()
    for factory in CATALOGUE:
        scheme = factory()
        for chosen in (scheme.input, scheme.weight):
            for quantizer in getattr(chosen, "quantizers", [chosen]):
                try:
                    native.element(quantizer.format, quantizer.rounding)
                except (Unsupported, AttributeError):
                    left.add(type(getattr(quantizer, "format", quantizer)).__name__)
    assert left <= {"L1Bounded", "Overwrite", "TermBudget", "BySign", "BestOf"}, left


def test_a_zero_point_fitted_to_each_block_is_the_references():
    quantizer = Quantizer(Int(4, signed=False), (Scale(PerBlock(16)),), zero=Zero.FITTED)
    x = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    with pytest.warns(kernels.SlowKernel):
        found = kernels.fake_quantize(quantizer, x)
    np.testing.assert_array_equal(found.numpy(), quantizer.quantize(x.numpy()).decode().astype(np.float32))
