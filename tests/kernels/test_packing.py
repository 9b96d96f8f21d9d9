"""Packed codes are the bytes of the reference, and are read back as the matrix that it decodes."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from bitwright import kernels
from bitwright.formats import BFLOAT16, E2M1, E3M2, E4M3, E5M2, E8M0, Int, Minifloat, Rounding
from bitwright.kernels import Unsupported, library
from bitwright.kernels.native import pack_matrix, unpack_matrix
from bitwright.quantization import PerBlock, PerRow, PerTensor, PerTile, Quantizer, Range, Scale, Zero
from bitwright.schemes import mxfp4, mxfp6, mxfp8, mxint8, nvfp4, vs_quant
from bitwright.schemes.ant import flint, power_of_two
from bitwright.testing import matrices, quantizers

pytestmark = pytest.mark.skipif(library.library() is None, reason="installed without the native library")

FORMATS = [
    *[Int(b, s) for b in range(2, 9) for s in (True, False)], E2M1, E3M2, E4M3, E5M2, Minifloat(2, 2), Minifloat(2, 4),
    flint(4), flint(4, signed=False), flint(3), power_of_two(4),
]  # fmt: skip
SCALES = [
    (Scale(PerTensor()),), (Scale(PerRow()),), (Scale(PerTensor()), Scale(PerBlock(16), E4M3)),
    (Scale(PerBlock(32), E8M0, Rounding.FLOOR, full_scale=1.0, largest=1.0),), (Scale(PerBlock(5)),),
    (Scale(PerRow()), Scale(PerBlock(7), Int(4, signed=False))), (Scale(PerTensor()), Scale(PerRow(), E4M3)),
]  # fmt: skip
SCHEMES = {
    "mxfp4": mxfp4(), "mxfp6": mxfp6(), "mxfp8": mxfp8(), "mxint8": mxint8(), "nvfp4": nvfp4(), "vs_quant": vs_quant()
}  # fmt: skip


def matrix(rows, k):
    generator = np.random.default_rng(k)
    x = (generator.standard_t(2, (rows, k)) * np.exp2(generator.integers(-20, 20, (rows, 1)))).astype(np.float32)
    x[0, : k // 3] = 0
    x[-1, ::3] *= np.float32(1e-4)
    x[:, -1] = -0.0
    return x


def compare(quantizer, x, ranges=()):
    expected = quantizer.quantize(x, ranges)
    found = pack_matrix(quantizer, torch.from_numpy(x), ranges)
    assert bytes(found) == expected.pack(), repr(quantizer)
    np.testing.assert_array_equal(found.unpacked().codes, expected.codes)
    with kernels.only("reference"):
        decoded = kernels.unpack(found)
    assert torch.equal(unpack_matrix(found), decoded)
    assert torch.equal(decoded, kernels.fake_quantize(quantizer, torch.from_numpy(x), ranges))


@pytest.mark.parametrize("scales", SCALES, ids=range(len(SCALES)))
@pytest.mark.parametrize("format", FORMATS, ids=repr)
def test_bytes_and_decoded_values_equal_the_reference(format, scales):
    for k in (1, 83):
        compare(Quantizer(format, scales), matrix(4, k))


@pytest.mark.parametrize("name", SCHEMES)
def test_schemes_are_packed_as_in_the_reference(name):
    for k in (32, 611):
        compare(SCHEMES[name].weight, matrix(5, k))


@settings(max_examples=60, deadline=None)
@given(quantizer=quantizers(), x=matrices())
def test_what_the_library_packs_equals_the_reference(quantizer, x):
    x = x.astype(np.float32)
    try:
        found = pack_matrix(quantizer, torch.from_numpy(x))
    except (Unsupported, ValueError):
        return
    assert bytes(found) == quantizer.quantize(x).pack()


@pytest.mark.parametrize("exponent", [0, 1, 2, 30, 120])
def test_levels_that_underflow_to_zero_lose_their_sign_and_those_that_round_to_it_keep_it(exponent):
    smallest = np.float32(1e-45) * np.arange(0, 9, dtype=np.float32)
    x = np.concatenate([-smallest, smallest, np.float32([-1e-30, -1e-10, -0.1, 0.1])])[None]
    magnitude = np.full((1, 1), 6 * 1.2 * 2.0**exponent)
    compare(Quantizer(E2M1, (Scale(PerTensor()),)), x, (Range(-magnitude, magnitude),))


@pytest.mark.parametrize(
    ("quantizer", "x"),
    [
        (Quantizer(Int(12), (Scale(PerRow()),)), matrix(2, 20)),
        (Quantizer(Int(4), (Scale(PerTile(2, 8)),)), matrix(4, 20)),
        (Quantizer(Int(4), (Scale(PerRow(), BFLOAT16),)), matrix(4, 20)),
        (Quantizer(Int(8, signed=False), (Scale(PerRow()),), zero=Zero.FITTED), np.abs(matrix(2, 20)) + 1),
    ],
)
def test_what_the_library_does_not_pack_the_reference_does_and_says_so(quantizer, x):
    expected = quantizer.quantize(x)
    with kernels.only("reference"):
        found = kernels.pack(quantizer, torch.from_numpy(x))
    assert bytes(found) == expected.pack()
    np.testing.assert_array_equal(found.unpacked().decode(), expected.decode())


def test_codes_that_stand_for_no_number_are_refused():
    x = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    packed = pack_matrix(mxfp8().weight, x)
    packed.codes[1, 3] = 0x7F
    with pytest.raises(ValueError, match="no number"):
        unpack_matrix(packed)


def test_values_whose_float32_sum_is_no_number_are_read_back():
    x = torch.tensor([[3e38, -3e38]]).repeat(2, 64)
    packed = kernels.pack(Quantizer(E4M3, (Scale(PerTensor()),)), x)
    torch.testing.assert_close(kernels.unpack(packed), x, rtol=2**-22, atol=0)  # a scale, and a product with it


def test_nan_is_named_and_threads_and_levels_change_nothing(monkeypatch):
    x = torch.randn(9, 640, generator=torch.Generator().manual_seed(0))
    expected = bytes(kernels.pack(nvfp4().weight, x))
    for threads, name in product((1, 3), library.LEVELS):
        monkeypatch.setattr("bitwright.kernels.native.packing.threads_for", lambda _, threads=threads: threads)
        with library.level(name):
            assert bytes(kernels.pack(nvfp4().weight, x)) == expected
    x[4, 5] = float("nan")
    with pytest.raises(ValueError, match=r"\(4, 5\)"):
        kernels.pack(nvfp4().weight, x)
