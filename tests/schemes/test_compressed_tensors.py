"""NVFP4, MXFP4 and grouped integers against the compressed-tensors library itself, on random tensors.

One difference remains: for NVFP4 the library multiplies by a reciprocal global scale where ModelOpt, and so this
package, divides twice, which moves a block scale on the edge of a rounding by one code.
"""

import numpy as np
import pytest

from bitwright.formats import E2M1, E4M3, Int, pack
from bitwright.quantization import PerBlock, PerRow, PerTensor, Quantizer, Scale
from bitwright.schemes import mxfp4, nvfp4
from bitwright.schemes.mx import RoundedRule

pytest.importorskip("compressed_tensors", reason="compressed-tensors is an extra")
torch = pytest.importorskip("torch", reason="compressed-tensors computes in torch")

from compressed_tensors.compressors.mxfp6.helpers import pack_fp6_to_uint8  # noqa: E402
from compressed_tensors.compressors.nvfp4.helpers import pack_fp4_to_uint8, quantize_and_pack_fp4  # noqa: E402
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32  # noqa: E402
from compressed_tensors.quantization import QuantizationArgs  # noqa: E402
from compressed_tensors.quantization.lifecycle.forward import quantize as library_quantize  # noqa: E402
from compressed_tensors.quantization.utils.helpers import calculate_qparams, generate_gparam  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def tensor(seed, rows=8, k=256):
    x = np.random.default_rng(seed).standard_t(3, (rows, k)).astype(np.float32)
    x[0, :64] = 0
    return x


def group_extremes(x, size):
    groups = torch.from_numpy(x).unflatten(1, (-1, size))
    return groups.amin(2), groups.amax(2)


@pytest.mark.parametrize("seed", range(4))
def test_mxfp4_scales_and_bytes_are_those_of_the_library(seed):
    x = tensor(seed) * 2.0 ** (7 * seed - 14)
    args = QuantizationArgs(
        num_bits=4,
        type="float",
        strategy="group",
        group_size=32,
        symmetric=True,
        scale_dtype="torch.uint8",
        zp_dtype="torch.uint8",
    )
    scales, _ = calculate_qparams(*group_extremes(x.astype(np.float32), 32), args)
    t = mxfp4(RoundedRule()).weight.quantize(x.astype(np.float32))
    stored = t.quantizer.scales[0].format.decode(t.scales[0])
    is_zero = np.abs(x).reshape(8, -1, 32).max(2) == 0
    # a zero block's scale is 2**-127 here and the smallest float32 scale in the library's arithmetic; both store code 0
    np.testing.assert_array_equal(stored[~is_zero], scales.numpy()[~is_zero])
    packed = quantize_and_pack_fp4(torch.from_numpy(x.astype(np.float32)), scales.float(), group_size=32)
    np.testing.assert_array_equal(pack(t.codes.reshape(8, -1), 4), packed.numpy())


@pytest.mark.parametrize("seed", range(8))
def test_nvfp4_bytes_are_those_of_the_library_under_its_order_of_divisions(seed):
    x = tensor(seed)
    args = QuantizationArgs(
        num_bits=4,
        type="float",
        strategy="tensor_group",
        group_size=16,
        symmetric=True,
        scale_dtype="torch.float8_e4m3fn",
        zp_dtype="torch.float8_e4m3fn",
    )
    whole = torch.from_numpy(x)
    reciprocal = generate_gparam(whole.min(), whole.max())
    scales, _ = calculate_qparams(*group_extremes(x, 16), args, global_scale=reciprocal)
    packed = quantize_and_pack_fp4(whole, scales, global_scale=reciprocal, group_size=16).numpy()
    t = nvfp4(zero_scale=0.125, smallest_scale=0.0).weight.quantize(x)
    # the library stores 2688/amax, this package amax/2688: each rounded once, so their product is one to two roundings
    own = t.quantizer.scales[0].format.decode(t.scales[0])[0, 0]
    assert own * float(reciprocal[0]) == pytest.approx(1, rel=2.0**-22)
    codes = t.quantizer.scales[1].format.encode(scales.float().double().numpy())
    apart = codes - t.scales[1]
    assert np.abs(apart).max() <= 1, "a scale on the edge of a rounding may fall either way"
    assert np.mean(apart != 0) < 0.02
    same = np.repeat(apart == 0, 8, axis=1)
    differing = pack(t.codes.reshape(8, -1), 4)[same] != packed[same]
    # an element on a tie moves with the last bit of the scale; random float32 values meet a tie about once in 10**5
    assert differing.mean() < 1e-3


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group", [128, None])
@pytest.mark.parametrize("seed", range(2))
def test_integers_and_their_words_are_those_of_the_library(bits, group, seed):
    x = tensor(seed)
    strategy = {"strategy": "group", "group_size": group} if group else {"strategy": "channel"}
    args = QuantizationArgs(num_bits=bits, type="int", symmetric=True, **strategy)
    low, high = group_extremes(x, group or x.shape[1])
    scales, zero_points = calculate_qparams(low, high, args)
    theirs = library_quantize(torch.from_numpy(x), scales, zero_points, args, dtype=torch.int8)
    share = PerBlock(group) if group else PerRow()
    # symmetric scales span half of all codes: 7.5 and 127.5, so the most negative code is used
    t = Quantizer(Int(bits), (Scale(share, full_scale=(2**bits - 1) / 2),)).quantize(x)
    np.testing.assert_array_equal(t.elements().reshape(8, -1), theirs.numpy())
    words = pack_to_int32(theirs, bits).numpy()
    np.testing.assert_array_equal(
        pack((t.elements().reshape(8, -1) + 2 ** (bits - 1)).astype(int), bits).view("<i4"), words
    )


@pytest.mark.parametrize("bits", range(2, 9))
def test_dense_words_are_those_of_the_library(bits):
    values = np.random.default_rng(bits).integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (3, 64))
    words = pack_to_int32(torch.from_numpy(values.astype(np.int8)), bits).numpy()
    np.testing.assert_array_equal(pack(values + 2 ** (bits - 1), bits).view("<i4"), words)


def test_all_e2m1_values_pack_into_the_bytes_of_the_library():
    values = E2M1.decode(np.arange(16)).astype(np.float32)
    packed = pack_fp4_to_uint8(torch.from_numpy(values)[None]).numpy()[0]
    np.testing.assert_array_equal(pack(E2M1.encode(values), 4), packed)


def test_fp6_codes_pack_into_the_bytes_of_the_library():
    from bitwright.formats import E2M3

    values = E2M3.decode(np.arange(64)).astype(np.float32)
    packed = pack_fp6_to_uint8(torch.from_numpy(values)[None]).numpy()[0]
    np.testing.assert_array_equal(pack(E2M3.encode(values), 6), packed)


def test_e4m3_scales_saturate_as_the_library_clamps_them():
    scale = Scale(PerTensor(), E4M3)
    assert scale.format.decode(scale.format.encode(np.asarray([465.0, 1e9]))).tolist() == [448, 448]
