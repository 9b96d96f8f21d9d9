"""Several full scales: each block as its nearest candidate has it, native and equal to the reference bit for bit."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright import kernels
from bitwright.formats import E2M1, E4M3, Int
from bitwright.kernels import Unsupported, library
from bitwright.kernels.native import choice, scalars
from bitwright.quantization import PerBlock, PerRow, PerTensor, Quantizer, Scale
from bitwright.schemes import nvfp4

pytestmark = pytest.mark.skipif(library.library() is None, reason="installed without the native library")

FOUR_OVER_SIX = nvfp4(four_over_six=True)


@pytest.fixture(params=library.LEVELS, autouse=True)
def instructions(request):
    with library.level(request.param) as used:
        if used != request.param:
            pytest.skip(f"this machine has no {request.param}")
        yield used


def assert_equals_reference(quantizer, x):
    expected = quantizer.quantize(x)
    found = scalars.quantize(quantizer, torch.from_numpy(x))
    np.testing.assert_array_equal(found.decode_exactly().numpy(), expected.decode())
    np.testing.assert_array_equal(found.elements.numpy(), expected.elements())
    with kernels.only("torch"):
        np.testing.assert_array_equal(kernels.quantize(quantizer, torch.from_numpy(x)).elements, found.elements)
    with kernels.only("native"):
        decoded = kernels.fake_quantize(quantizer, torch.from_numpy(x))
    np.testing.assert_array_equal(decoded.numpy(), found.decode().numpy())
    return expected


@pytest.mark.parametrize("shape", [(1, 1), (3, 16), (7, 50), (20, 333), (64, 512)], ids=str)
@pytest.mark.parametrize("quantizer", [FOUR_OVER_SIX.input, FOUR_OVER_SIX.weight], ids=["input", "weight"])
def test_four_over_six_equals_the_reference(quantizer, shape):
    generator = np.random.default_rng(0)
    x = generator.standard_t(3, shape) * np.exp2(generator.integers(-20, 20, (shape[0], 1)))
    x[0, : shape[1] // 2] = 0
    found = assert_equals_reference(quantizer, x.astype(np.float32))
    if shape[0] > 7:
        six = replace(quantizer, scales=(*quantizer.scales[:-1], replace(quantizer.scales[-1], full_scale=6.0)))
        assert (found.elements() != six.quantize(x.astype(np.float32)).elements()).any(), "both are chosen"


def test_multiples_of_half_a_step_whose_errors_often_tie_equal_the_reference():
    generator = np.random.default_rng(1)
    x = generator.integers(-24, 25, (100, 96)).astype(np.float32) / 4
    x[:, ::16] = 6.0
    assert_equals_reference(FOUR_OVER_SIX.weight, x)


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 9), k=st.integers(1, 90), block=st.sampled_from([1, 5, 16, 32, 64]), seed=st.integers(0, 99),
    full_scales=st.sampled_from([(6.0, 4.0), (4.0, 6.0, 3.0), (6.0, 6.0)]), format=st.sampled_from([E2M1, Int(4)]),
)  # fmt: skip
def test_any_blocks_and_candidates_equal_the_reference(rows, k, block, seed, full_scales, format):
    scales = Scale(PerTensor()), Scale(PerBlock(block), E4M3, full_scale=full_scales)
    x = np.random.default_rng(seed).standard_normal((rows, k)).astype(np.float32)
    assert_equals_reference(Quantizer(format, scales), x)


def test_threads_do_not_show(monkeypatch):
    monkeypatch.setattr(choice, "LARGE", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    x = np.random.default_rng(2).standard_normal((37, 100)).astype(np.float32)
    assert_equals_reference(FOUR_OVER_SIX.weight, x)


def test_several_full_scales_for_whole_rows_are_refused():
    with pytest.raises(Unsupported):
        scalars.quantize(Quantizer(E2M1, (Scale(PerRow(), full_scale=(6.0, 4.0)),)), torch.ones(3, 20))
