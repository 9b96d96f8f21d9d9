"""The native library, the NumPy definition and compressed-tensors make the same bytes of a weight."""

import ctypes
import json

import numpy as np
import pytest
import torch

from bitwright.checkpoint import Entry, Float8, Integers, Mx, Nvfp4, codes
from bitwright.formats import E2M1, E2M3, E4M3, Int
from bitwright.native_library import library_path
from bitwright.quantization import PerTensor, PerTile

KINDS = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
needs_library = pytest.mark.skipif(library_path() is None, reason="installed without the native library")

INTEGERS = [Integers(bits, group, zero) for bits in range(2, 9) for group in (128, None) for zero in (False, True)]
OTHERS = [
    Integers(4, 32), Integers(8, None, has_inputs=True), Integers(8, None, True, has_inputs=True),
    Integers(4, 128, has_inputs=True), Nvfp4(), Mx(E2M1), Mx(E2M3), Mx(E4M3, has_inputs=True), Float8(),
    Float8(PerTensor()), Float8(PerTile(128, 128), has_inputs=True),
]  # fmt: skip
FORMATS = [*INTEGERS, *OTHERS]


def weights(kind, rows=40, k=256, seed=0):
    """Rows of many magnitudes, with zeros, ties and tiny values."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(rows, k, generator=generator) * torch.exp2(torch.randint(-8, 3, (rows, 1), generator=generator))
    w[1], w[2, :128] = 0, 0
    w[3, :16] = torch.tensor([6, 0.25, -0.25, 0.75, 1.25, -1.75, 2.5, 3.5, 5, -5, -0.0, 1e-6, -1e-6, 0, 7.5, -7.5])
    w[4] = torch.arange(k) / 8 - 16
    w[5] *= 1e-6
    w[6], w[7] = w[6].abs(), -w[7].abs()
    return w.to(KINDS[kind])


def raw(w, kind):
    """As the bytes of a file are seen."""
    return w.view(torch.uint16).numpy() if kind == "BF16" else w.numpy()


def bytes_of(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def peer(w, format):
    """What compressed-tensors stores under the configuration that we write, with ranges from minimum and maximum."""
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

    described = json.loads(json.dumps(format.config()))
    layout = described.pop("format")
    scheme = QuantizationScheme(targets=["Linear"], **described, format=layout)
    args = scheme.weights
    more = {"global_scale": generate_gparam(w.min(), w.max())} if args.strategy == "tensor_group" else {}
    if args.strategy == "tensor":
        low, high = w.amin(), w.amax()
    elif args.strategy == "channel":
        low, high = w.amin(1, keepdim=True), w.amax(1, keepdim=True)
    elif args.strategy == "block":
        padded = torch.nn.functional.pad(w, (0, -w.shape[1] % 128, 0, -w.shape[0] % 128))
        tiles = padded.unflatten(0, (-1, 128)).unflatten(2, (-1, 128)).transpose(1, 2).flatten(2)
        low, high = tiles.amin(2), tiles.amax(2)
    else:
        groups = w.unflatten(1, (-1, args.group_size))
        low, high = groups.amin(2), groups.amax(2)
    scale, zero = calculate_qparams(low, high, args, **more)
    state = {"weight": w, "weight_scale": scale, "weight_zero_point": zero}
    if more:
        state["weight_global_scale"] = more["global_scale"]
    return BaseCompressor.get_value_from_registry(layout).compress(state, scheme)


def ours(w, kind, format):
    """The tensors that replace `m.weight`, by name, as bytes."""
    entry = Entry("weight", kind, tuple(w.shape))
    largest = float(w.abs().max())
    constants = format.constants(entry, largest)
    contents = [np.ascontiguousarray(c).tobytes() for c in format.quantize(raw(w, kind), kind, largest)]
    entries = format.entries(entry)
    assert [e.bytes for e in entries] == [len(c) for c in (*contents, *constants)]
    return {e.name: content for e, content in zip(entries, (*contents, *constants), strict=True)}


@needs_library
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("format", FORMATS, ids=repr)
def test_the_library_equals_the_definition(format, kind, monkeypatch):
    w = weights(kind, 64, 2432)
    found = ours(w, kind, format)
    monkeypatch.setattr(codes, "_native", lambda: None)
    assert found == ours(w, kind, format)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("format", FORMATS, ids=repr)
def test_the_bytes_are_compressed_tensors_own(format, kind):
    w = weights(kind)
    expected = {name: bytes_of(tensor) for name, tensor in peer(w, format).items()}
    assert ours(w, kind, format) == expected


@needs_library
def test_all_half_and_bfloat_values_are_read_as_numpy_reads_them(monkeypatch):
    for kind in ("F16", "BF16"):
        values = torch.from_numpy(np.arange(1 << 16, dtype=np.uint16).view(np.int16)).view(KINDS[kind])
        w = values[torch.isfinite(values)]
        w = w[: len(w) // 128 * 128].view(-1, 128)
        found = ours(w, kind, Integers())
        with monkeypatch.context() as without:
            without.setattr(codes, "_native", lambda: None)
            assert found == ours(w, kind, Integers())


@needs_library
@pytest.mark.parametrize("level", range(3))
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("element", [Int(2), Int(3), Int(4), Int(6), Int(8), E2M1, E2M3, E4M3], ids=repr)
def test_every_value_gets_the_defined_code_under_any_scale_at_every_level(element, kind, level, monkeypatch):
    """Scales of the weight's own type, any other, and those at float32's ends."""
    generator = np.random.default_rng(0)
    values = np.arange(1 << 16, dtype=np.uint16)
    x = values.view(np.float16) if kind == "F16" else values
    x = x[np.isfinite(codes.widen(x, kind if kind != "F32" else "BF16"))]
    if kind == "F32":
        with np.errstate(over="ignore"):
            x = codes.widen(x, "BF16") * generator.choice(np.float32([1, 1.1, 1 + 2**-23]), len(x))
        x = x[np.isfinite(x)]
    x = np.concatenate([x, np.zeros(-len(x) % 256, x.dtype)]).reshape(-1, 256)
    scales = np.exp2(generator.uniform(-30, 0, (8, len(x), 8))).astype(np.float32)
    scales[::4] = np.exp2(generator.uniform(-120, 120, scales[::4].shape))
    scales[1::4] = np.exp2(np.rint(generator.uniform(-20, 20, scales[1::4].shape)))
    scales[2] = 2.0**-127
    if kind == "F16":
        scales = np.clip(scales, 2.0**-24, 2.0**15)
    native = codes._native()
    try:
        if native.bitwright_use_level(level) != level:
            pytest.skip("this machine has no such instructions")
        for scale in scales:
            for is_rounded, by in ((True, codes.round_to(scale, kind)), (False, scale)):
                levels = codes.Levels(kind, 32, by, is_rounded=is_rounded)
                found = codes.packed_codes(x, element, levels)
                with monkeypatch.context() as without:
                    without.setattr(codes, "_native", lambda: None)
                    with np.errstate(over="ignore", under="ignore"):
                        expected = codes.packed_codes(x, element, levels)
                np.testing.assert_array_equal(found, expected)
    finally:
        native.bitwright_use_level(-1)


@pytest.mark.parametrize("has_library", [False, pytest.param(True, marks=needs_library)])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("format", [Integers(), Integers(4, 128, True), Mx(E2M1), Float8()], ids=repr)
def test_a_value_that_is_not_finite_is_refused_wherever_it_is(format, wrong, kind, has_library, monkeypatch):
    if not has_library:
        monkeypatch.setattr(codes, "_native", lambda: None)
    for place in (0, 31, 32, 200, 255):
        w = weights(kind)
        w[9, place] = wrong
        with pytest.raises(codes.NotFinite):
            format.quantize(raw(w, kind), kind, 0.0)


@needs_library
def test_calls_of_the_library_refuse_what_is_no_job():
    with pytest.raises(ctypes.ArgumentError):
        codes._native().bitwright_checkpoint_codes(1.5, 1)
