"""Products with packed weights: exact where inputs are integers, to their sums' rounding where they are floats."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bitwright import kernels
from bitwright.datapath import WIDE, Accumulator, Datapath
from bitwright.formats import E2M1, E4M3, E8M0, FLOAT32, Int, Minifloat, Rounding, Table
from bitwright.kernels import Operand, PackedWeight, Unsupported, library
from bitwright.kernels.native import packed as native
from bitwright.quantization import PerBlock, PerRow, PerTensor, QuantizedTensor, Quantizer, Range, Scale
from bitwright.schemes import mxfp4, nvfp4, vs_quant
from bitwright.schemes.ant import flint, power_of_two

needs_library = pytest.mark.skipif(library.library() is None, reason="installed without the native library")
UNIT = 2.0**-24

WEIGHTS = {
    "NVFP4": nvfp4().weight, "MXFP4": mxfp4().weight, "VS-Quant": vs_quant().weight,
    "flint4": Quantizer(flint(4), (Scale(PerRow()),)), "PoT4": Quantizer(power_of_two(4), (Scale(PerTensor()),)),
    "int4": Quantizer(Int(4), (Scale(PerBlock(24)),)),
    "PoT4 in blocks": Quantizer(power_of_two(4), (Scale(PerBlock(8)),)),
    "unsigned flint4": Quantizer(flint(4, signed=False), (Scale(PerRow()), Scale(PerBlock(16), E4M3))),
    "int3": Quantizer(Int(3), (Scale(PerRow()),)),
    "a codebook": Quantizer(
        Table((-7, -5, -3, 0, 1, 2, 5, 60), (0,) * 8),
        (Scale(PerBlock(32), E8M0, Rounding.CEILING, largest=1.0),),
    ),
}  # fmt: skip
INPUTS = {
    "int8": Quantizer(Int(8), (Scale(PerRow()),)), "uint8": Quantizer(Int(8, signed=False), (Scale(PerTensor()),)),
    "E2M1": Quantizer(E2M1, (Scale(PerRow()),)), "NVFP4": nvfp4(input_range=None).input, "MXFP4": mxfp4().input,
}  # fmt: skip
SHAPES = [(1, 1, 8), (9, 17, 100), (3, 37, 272)]


@pytest.fixture(params=[*library.LEVELS, "torch"])
def implementation(request):
    """The library at each level of instructions, and torch."""
    if request.param == "torch":
        with kernels.only("torch", "reference"):
            yield request.param
        return
    if library.library() is None:
        pytest.skip("installed without the native library")
    with library.level(request.param) as used, kernels.only("native", "torch"):
        if used != request.param:
            pytest.skip(f"this machine has no {request.param}")
        yield used


def matrix(shape, seed=0):
    generator = np.random.default_rng(seed)
    return (generator.standard_t(3, shape) * np.exp2(generator.integers(-3, 3, (shape[0], 1)))).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", WEIGHTS)
def test_float_inputs_give_the_exact_product_to_the_rounding_of_its_sums(name, shape, implementation):
    m, n, k = shape
    weight = WEIGHTS[name].quantize(matrix((n, k)))
    x, bias = matrix((m, k), 1), matrix((1, n), 2)[0]
    found = kernels.packed_linear(PackedWeight.of(weight), torch.from_numpy(bias))(torch.from_numpy(x)).numpy()
    decoded = weight.decode()
    exact = x.astype(np.float64) @ decoded.T + bias
    # each product takes part in at most k + 3 rounded operations, the last two of them the coarse scale and the bias
    bound = (k + 3) * UNIT * (np.abs(x).astype(np.float64) @ np.abs(decoded).T + np.abs(exact) + np.abs(bias))
    assert (np.abs(found - exact) <= bound * 1.01).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("of_input", INPUTS)
@pytest.mark.parametrize("name", WEIGHTS)
def test_integer_inputs_give_the_datapaths_own_result(name, of_input, shape, implementation):
    m, n, k = shape
    weight, quantizer = WEIGHTS[name].quantize(matrix((n, k))), INPUTS[of_input]
    x = matrix((m, k), 1)
    x = np.abs(x) if of_input == "uint8" else x
    blocks = [q.block(9, k) for q in (WEIGHTS[name], quantizer) if q.scales[-1].share.splits_k]
    if len(set(blocks)) > 1:
        return
    outer = WIDE if name == "VS-Quant" and len(blocks) == 1 else Accumulator(FLOAT32)
    datapath = Datapath(outer=outer, scale_product=FLOAT32 if FLOAT32 in scale_formats(name, of_input) else None)
    operand = quantizer.quantize(x)
    expected = datapath.matmul(operand, weight).values.astype(np.float32)
    product = kernels.packed_matmul(datapath, quantizer, PackedWeight.of(weight), None)
    np.testing.assert_array_equal(product(Operand.of(operand)).numpy(), expected)


def scale_formats(name, of_input):
    return [q.scales[-1].format for q in (WEIGHTS[name], INPUTS[of_input]) if q.scales[-1].share.splits_k]


@needs_library
@pytest.mark.parametrize("of_input", ["int8", "NVFP4"])
@pytest.mark.parametrize("name", ["NVFP4", "flint4", "PoT4"])
def test_the_library_takes_the_common_schemes_itself(name, of_input):
    if (name, of_input) != ("NVFP4", "NVFP4") and of_input == "NVFP4":
        of_input = "E2M1"
    weight = PackedWeight.of(WEIGHTS[name].quantize(matrix((20, 64))))
    native.IntegerProduct(Datapath(), INPUTS[of_input], weight, None)


@pytest.mark.parametrize("name", ["PoT4", "NVFP4", "a codebook"])
def test_extreme_integers_do_not_overflow_on_the_way(name, implementation):
    n, k = 33, 512
    quantizer = WEIGHTS[name]
    values = quantizer.format.decode(np.arange(2**quantizer.format.bits))
    codes = np.where(np.arange(n)[:, None] % 2, values.argmax(), values.argmin())
    like = quantizer.quantize(np.ones((n, k), np.float32))
    weight = QuantizedTensor(np.broadcast_to(codes[..., None], like.codes.shape), like.scales, None, k, quantizer)
    for of_input, value in (("int8", -128), ("int8", 127), ("uint8", 255)):
        given = (Range(np.full((1, 1), -128.0), np.full((1, 1), 128.0)),) if of_input == "int8" else ()
        x = INPUTS[of_input].quantize(np.full((2, k), value, np.float32), given)
        expected = Datapath().matmul(x, weight).values.astype(np.float32)
        product = kernels.packed_matmul(Datapath(), INPUTS[of_input], PackedWeight.of(weight), None)
        np.testing.assert_array_equal(product(Operand.of(x)).numpy(), expected)


@needs_library
@pytest.mark.parametrize("k", [1024, 4096, 32768])
@pytest.mark.parametrize("bits", [4, 8])
def test_the_largest_sums_of_integer_scales_are_exact_within_32_bits_and_beyond(bits, k, implementation):
    quantizer = Quantizer(Int(4), (Scale(PerRow()), Scale(PerBlock(16), Int(bits, signed=False))))
    w = np.full((17, k), 1.0, np.float32) * np.where(np.arange(17) % 2, 1, -1)[:, None].astype(np.float32)
    weight, datapath = quantizer.quantize(w), Datapath(outer=WIDE)
    x = INPUTS["int8"].quantize(np.full((1, k), -1, np.float32))
    expected = datapath.matmul(x, weight).values.astype(np.float32)
    product = kernels.packed_matmul(datapath, INPUTS["int8"], PackedWeight.of(weight), None)
    np.testing.assert_array_equal(product(Operand.of(x)).numpy(), expected)


@pytest.mark.parametrize("level", library.LEVELS[1:])
@pytest.mark.parametrize("name", ["NVFP4", "flint4"])
def test_a_tokens_result_depends_on_neither_threads_nor_neighbours(name, level, monkeypatch):
    monkeypatch.setattr(native, "WORK", 1)
    weight = PackedWeight.of(WEIGHTS[name].quantize(matrix((90, 160))))
    x = torch.from_numpy(matrix((15, 160), 1))
    before = torch.get_num_threads()
    with library.level(level) as used:
        if used != level:
            pytest.skip(f"this machine has no {level}")
        product = native.FloatProduct(weight, None)
        alone = torch.cat([product(row[None]) for row in x])
        try:
            for threads in (1, 2, 5):
                torch.set_num_threads(threads)
                assert torch.equal(product(x), alone)
        finally:
            torch.set_num_threads(before)


@pytest.mark.parametrize("name", WEIGHTS)
def test_packing_keeps_every_code(name):
    weight = WEIGHTS[name].quantize(matrix((21, 104)))
    found = PackedWeight.of(weight).quantized()
    np.testing.assert_array_equal(found.codes, weight.codes)
    for a, b in zip(found.scales, weight.scales, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", WEIGHTS)
def test_codes_found_by_value_are_the_references(name):
    x = matrix((21, 104))
    x[3] = 0
    x[:, 5] = -1e-9
    operand = kernels.quantize(WEIGHTS[name], torch.from_numpy(x))
    found = PackedWeight.quantize(WEIGHTS[name], torch.from_numpy(x), operand).quantized()
    expected = WEIGHTS[name].quantize(x)
    np.testing.assert_array_equal(found.codes, expected.codes)
    for a, b in zip(found.scales, expected.scales, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", WEIGHTS)
def test_panels_are_the_decoded_weight_without_its_coarse_scales(name, monkeypatch):
    monkeypatch.setattr("bitwright.kernels.packed.PANEL", 1)
    weight = WEIGHTS[name].quantize(matrix((37, 104)))
    packed = PackedWeight.of(weight)
    found = torch.cat([panel for _, panel in packed.panels()]).double() * packed.outside[:, None]
    np.testing.assert_array_equal(found.float().numpy(), weight.decode().astype(np.float32))


@pytest.mark.parametrize("rows", [0, 3])
def test_no_tokens_or_none_of_the_weight_are_no_special_case(rows, implementation):
    product = kernels.packed_linear(PackedWeight.of(WEIGHTS["NVFP4"].quantize(matrix((5, 32)))), None)
    assert product(torch.ones(rows, 32)).shape == (rows, 5)


@pytest.mark.parametrize(
    ("quantizer", "named"),
    [
        (Quantizer(Int(5), (Scale(PerRow()),)), "4 bits"),
        (Quantizer(Int(4), (Scale(PerBlock(12)),)), "multiples of 8"),
    ],
)
def test_what_cannot_be_packed_is_named(quantizer, named):
    with pytest.raises(Unsupported, match=named):
        PackedWeight.of(quantizer.quantize(matrix((4, 24))))


@pytest.mark.parametrize("format", [Int(8), Int(8, narrow=True), Int(4)], ids=repr)
def test_inputs_quantized_on_the_way_give_the_datapaths_own_result(format, implementation):
    quantizer = Quantizer(format, (Scale(PerRow()),))
    weight = WEIGHTS["NVFP4"].quantize(matrix((20, 100)))
    x = np.concatenate([matrix((6, 100), 1), np.zeros((1, 100)), np.full((1, 100), 1e-42), np.full((1, 100), -1e30)])
    x = x.astype(np.float32)
    x[0, :50] = np.arange(50) / 2 * np.abs(x[0]).max() / 127
    product = kernels.packed_layer(Datapath(), quantizer, (), PackedWeight.of(weight), None)
    expected = Datapath().matmul(quantizer.quantize(x), weight).values.astype(np.float32)
    np.testing.assert_array_equal(product(torch.from_numpy(x)).numpy(), expected)
    x[3, 4] = np.nan
    with pytest.raises(ValueError, match=r"\(3, 4\)"):
        product(torch.from_numpy(x))


@needs_library
def test_threads_that_are_in_the_library_at_once_do_not_meet(monkeypatch):
    quantized = WEIGHTS["NVFP4"].quantize(matrix((20, 64)))
    product = native.FloatProduct(PackedWeight.of(quantized), None)
    x, y = torch.from_numpy(matrix((3, 64), 1)), torch.from_numpy(matrix((5, 64), 2))
    expected, other = product(x), product(y)
    multiply, during = product.library.bitwright_multiply_packed_floats, []

    def begin_another(job, threads):
        if not during:
            during.append(None)
            during[0] = product(y)  # as a second thread, after the first has said what it wants
        multiply(job, threads)

    level = product.library.bitwright_level
    monkeypatch.setattr(
        product, "library", SimpleNamespace(bitwright_multiply_packed_floats=begin_another, bitwright_level=level)
    )
    assert torch.equal(product(x), expected)
    assert torch.equal(during[0], other)


@pytest.mark.parametrize("bias", [120, 127, 128, 140])
def test_scales_that_float32_holds_as_denormals_are_decoded_right_or_refused(bias):
    quantizer = Quantizer(E2M1, (Scale(PerBlock(16), Minifloat(5, 3, bias=bias, signed=False)),))
    w = (np.random.default_rng(0).standard_normal((16, 32)) * 2.0**-115).astype(np.float32)
    packed = PackedWeight.of(quantizer.quantize(w))
    x = torch.eye(32)
    try:
        found = native.FloatProduct(packed, None)(x)
    except Unsupported:
        assert bias > 127
    else:
        assert bias <= 127
        np.testing.assert_array_equal(found.numpy().T, quantizer.quantize(w).decode())
