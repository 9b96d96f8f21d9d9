"""The native library, the NumPy definition and compressed-tensors make the same bytes of a weight."""

import numpy as np
import pytest
import torch

from bitwright.checkpoint import Entry, Int4Groups, Nvfp4, formats
from bitwright.native_library import library_path

KINDS = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
needs_library = pytest.mark.skipif(library_path() is None, reason="installed without the native library")


def weights(kind, rows=12, k=256, seed=0):
    """Rows of many magnitudes, with zeros, ties and tiny values."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(rows, k, generator=generator) * torch.exp2(torch.randint(-8, 3, (rows, 1), generator=generator))
    w[1], w[2, :128] = 0, 0
    w[3, :16] = torch.tensor([6, 0.25, -0.25, 0.75, 1.25, -1.75, 2.5, 3.5, 5, -5, -0.0, 1e-6, -1e-6, 0, 7.5, -7.5])
    w[4] = torch.arange(k) / 8 - 16
    w[5] *= 1e-6
    return w.to(KINDS[kind])


def raw(w, kind):
    """As the bytes of a file are seen."""
    return w.view(torch.uint16).numpy() if kind == "BF16" else w.numpy()


def bytes_of(tensor):
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def peer(w, scheme):
    """What compressed-tensors packs, its scales set from minimum and maximum."""
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors.nvfp4.base import NVFP4PackedCompressor
    from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationScheme
    from compressed_tensors.quantization.quant_scheme import NVFP4A16, W4A16
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

    is_float = scheme == "nvfp4"
    chosen = QuantizationScheme(targets=["Linear"], **(NVFP4A16 if is_float else W4A16))
    groups = w.unflatten(1, (-1, 16 if is_float else 128))
    more = {"global_scale": generate_gparam(w.min(), w.max())} if is_float else {}
    scale, zero = calculate_qparams(groups.amin(2), groups.amax(2), chosen.weights, **more)
    state = {"weight": w, "weight_scale": scale, "weight_zero_point": zero}
    if is_float:
        state["weight_global_scale"] = more["global_scale"]
    compressor = NVFP4PackedCompressor if is_float else PackedQuantizationCompressor
    return compressor.compress(state, chosen), compressor, chosen


def ours(w, kind, format):
    largest = formats.largest_magnitude(raw(w, kind), kind)
    packed, scale = format.quantize(raw(w, kind), kind, largest)
    return packed, scale, format.constant(Entry("m.weight", kind, tuple(w.shape)), largest)


@needs_library
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("format", [Int4Groups(), Int4Groups(32), Int4Groups(64), Nvfp4()], ids=repr)
def test_the_library_equals_the_definition(format, kind, monkeypatch):
    w = weights(kind, 40, 2304)
    found = ours(w, kind, format)
    monkeypatch.setattr(formats, "_native", lambda: None)
    for a, b in zip(found, ours(w, kind, format), strict=True):
        assert bytes(a) == bytes(b)


@pytest.mark.parametrize("kind", KINDS)
def test_int4_is_compressed_tensors_own(kind):
    w = weights(kind)
    packed, scale, shape = ours(w, kind, Int4Groups())
    expected, _, _ = peer(w, "int4")
    assert scale.tobytes() == bytes_of(expected["weight_scale"])
    assert packed.tobytes() == bytes_of(expected["weight_packed"])
    assert shape == bytes_of(expected["weight_shape"])


@pytest.mark.parametrize("kind", KINDS)
def test_nvfp4_is_compressed_tensors_own(kind):
    w = weights(kind)
    packed, scale, global_scale = ours(w, kind, Nvfp4())
    expected, _, _ = peer(w, "nvfp4")
    assert global_scale == bytes_of(expected["weight_global_scale"])
    assert scale.tobytes() == bytes_of(expected["weight_scale"])
    assert packed.tobytes() == bytes_of(expected["weight_packed"])


@needs_library
def test_all_half_and_bfloat_values_are_read_as_numpy_reads_them():
    for kind in ("F16", "BF16"):
        codes = np.arange(1 << 16, dtype=np.uint16)
        values = torch.from_numpy(codes.view(np.int16)).view(KINDS[kind])
        w = values[torch.isfinite(values)]
        w = w[: len(w) // 128 * 128].view(-1, 128)
        packed, scale = Int4Groups().quantize(raw(w, kind), kind, 0.0)
        expected, expected_scale = formats.int4_groups(raw(w, kind), kind, 128)
        np.testing.assert_array_equal(scale, expected_scale)
        np.testing.assert_array_equal(packed, expected)
