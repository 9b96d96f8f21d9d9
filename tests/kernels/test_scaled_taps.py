"""Channels alone under block scales in integer registers: native sums equal the reference's product of each channel."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bitwright import kernels
from bitwright.datapath import WIDE, Accumulator, Datapath, Overflow
from bitwright.formats import E4M3, Int, Rounding
from bitwright.kernels import Operand, Stationary, Unsupported, Window, library
from bitwright.kernels.native import outputs, scaled_taps
from bitwright.quantization import PerBlock, PerRow, PerTensor, Quantizer, Scale
from bitwright.schemes import vs_quant_chip

pytestmark = pytest.mark.skipif(library.library() is None, reason="installed without the native library")

U8, U4, S4 = Int(8, signed=False), Int(4, signed=False), Int(4, narrow=True)


@pytest.fixture(params=library.LEVELS, autouse=True)
def instructions(request):
    with library.level(request.param) as used:
        if used != request.param:
            pytest.skip(f"this machine has no {request.param}")
        yield used


def operands(image, channels, taps, *, block=16, scale=U8, is_worst=False):
    """Pixels [batch · height · width, channels] in blocks of channels, and a weight [channels, taps]."""
    generator = np.random.default_rng(0)
    x = np.abs(generator.standard_t(3, (int(np.prod(image)), channels)))
    w = generator.standard_t(3, (channels, taps))
    if is_worst:
        x, w = np.full_like(x, 3), np.full_like(w, -3)
    a = Quantizer(U4, (Scale(PerTensor()), Scale(PerBlock(block), scale))).quantize(x.astype(np.float32))
    b = Quantizer(S4, (Scale(PerRow()), Scale(PerBlock(taps), scale))).quantize(w.astype(np.float32))
    return Operand.of(a), Operand.of(b)


def by_products(datapath, x, image, w, window, size):
    """One product a channel, of unfolded pixels whose taps are blocks of their own, by the reference."""
    (batch, height, width), (down, across) = image, size
    channels, taps = w.rows, window.kernel[0] * window.kernel[1]
    block = x.elements.shape[2]
    pixels = x.flat()[:, :channels].view(batch, height, width, channels)
    scales = x.inside.repeat_interleave(block, 1)[:, :channels].view(batch, height, width, channels)
    values, overflows = torch.empty(batch, down, across, channels, dtype=torch.float64), 0
    patches, of_patches = (torch.zeros(batch, down, across, taps, channels) for _ in range(2))
    for b, d, a, i, j in np.ndindex(batch, down, across, *window.kernel):
        row = d * window.stride[0] + i * window.dilation[0] - window.corner[0]
        column = a * window.stride[1] + j * window.dilation[1] - window.corner[1]
        if 0 <= row < height and 0 <= column < width:
            patches[b, d, a, i * window.kernel[1] + j] = pixels[b, row, column]
            of_patches[b, d, a, i * window.kernel[1] + j] = scales[b, row, column]
    of_w = torch.ones(channels, taps) if w.inside is None else w.inside.expand(-1, taps)
    for c in range(channels):
        elements, inside = patches[..., c].reshape(-1, taps, 1), of_patches[..., c].reshape(-1, taps)
        rows = replace(x, elements=elements, inside=inside, outside=torch.ones(len(inside), 1).double(), k=taps)
        own = replace(
            w, elements=w.flat()[c : c + 1, :taps, None], inside=of_w[c : c + 1], outside=torch.ones(1, 1).double(),
        )  # fmt: skip
        with kernels.only("reference"):
            found, over, _ = kernels.matmul(datapath, rows, Stationary(own))
        values[..., c], overflows = found.view(batch, down, across), overflows + over
    return values, overflows


WINDOWS = {
    "3 × 3": (Window((3, 3), (1, 1), (1, 1), (1, 1)), (2, 5, 4), (5, 4)),
    "strides": (Window((3, 3), (2, 2), (1, 1), (0, 1)), (1, 6, 5), (3, 3)),
    "dilated, wide": (Window((1, 5), (1, 1), (1, 2), (0, 4)), (1, 2, 7), (2, 7)),
}


def assert_equals_reference(datapath, x, w, name):
    window, image, size = WINDOWS[name]
    out = torch.full((image[0], *size, w.rows), torch.nan)
    overflows = kernels.depthwise_scaled(datapath, x, image, w, window, out)
    expected, of_reference = by_products(datapath, x, image, w, window, size)
    np.testing.assert_array_equal(out.double().numpy(), expected.numpy())
    assert overflows == of_reference
    return overflows


@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize(("channels", "block"), [(5, 3), (19, 16)])
@pytest.mark.parametrize("bits", [16, 24])
def test_taps_in_a_saturating_register_equal_the_reference(name, channels, block, bits):
    window, image, _ = WINDOWS[name]
    chip = replace(vs_quant_chip().datapath, outer=Accumulator(Int(bits), Overflow.SATURATE))
    for is_worst in (False, True):
        x, w = operands(image, channels, window.kernel[0] * window.kernel[1], block=block, is_worst=is_worst)
        overflows = assert_equals_reference(chip, x, w, name)
    assert overflows or bits > 16, "the case is worth its name"


@pytest.mark.parametrize("rounding", [r for r in Rounding if r is not Rounding.STOCHASTIC])
def test_scale_products_of_taps_are_rounded_as_the_reference_does(rounding):
    x, w = operands((2, 5, 4), 5, 9, block=2, scale=Int(6, signed=False))
    for product in (None, Int(5, signed=False, exponent=5)):
        datapath = Datapath(outer=WIDE, scale_product=product, scale_rounding=rounding)
        assert_equals_reference(datapath, x, w, "3 × 3")
        assert_equals_reference(datapath, x, replace(w, inside=None), "3 × 3")


def test_threads_do_not_show(monkeypatch):
    monkeypatch.setattr(outputs, "LARGE", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert_equals_reference(vs_quant_chip().datapath, *operands((2, 5, 4), 17, 9), "3 × 3")


def test_what_the_library_does_not_take_is_refused():
    x, w = operands((2, 5, 4), 18, 9, is_worst=True)
    floats, _ = operands((2, 5, 4), 18, 9, scale=E4M3)
    window, image, size = WINDOWS["3 × 3"]
    for datapath, pixels in (
        (Datapath(), x), (Datapath(outer=Accumulator(Int(10))), x), (Datapath(outer=WIDE), floats),
        (Datapath(outer=WIDE), replace(x, inside=None)), (Datapath(Accumulator(Int(4)), outer=WIDE), x),
    ):  # fmt: skip
        with pytest.raises(Unsupported):
            scaled_taps.depthwise_scaled(datapath, pixels, image, w, window, torch.empty(2, *size, 18))


def test_several_filters_a_channel_are_refused():
    x, _ = operands((2, 5, 4), 9, 9)
    _, w = operands((2, 5, 4), 18, 9)
    window, image, size = WINDOWS["3 × 3"]
    with pytest.raises(Unsupported):
        scaled_taps.depthwise_scaled(vs_quant_chip().datapath, x, image, w, window, torch.empty(2, *size, 18))
