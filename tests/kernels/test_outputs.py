"""Exact sums to outputs, and sums of one channel: every level of the native library against plain torch."""

from dataclasses import replace

import pytest
import torch

from bitwright import kernels
from bitwright.config import from_text
from bitwright.datapath import Accumulator, Datapath
from bitwright.formats import FLOAT32, Int
from bitwright.kernels import Operand, Stationary, library
from bitwright.kernels.native import outputs as native_outputs
from bitwright.kernels.outputs import digits

needs_library = pytest.mark.skipif(library.library() is None, reason="the native library is not installed")
every_level = pytest.mark.usefixtures("instructions")


def rescaled(sums, rows, columns, bias):
    with kernels.only("torch"):
        return kernels.rescale(sums, rows, columns, bias)


@every_level
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("m", "n"), [(1, 1), (3, 17), (16, 64), (5, 100), (0, 4), (4, 0)])
@pytest.mark.parametrize("is_a_row", [True, False])
@pytest.mark.parametrize("has_bias", [True, False])
def test_sums_are_scaled_in_float64_and_rounded_once_before_the_bias(dtype, m, n, is_a_row, has_bias):
    generator = torch.Generator().manual_seed(m * 100 + n)
    sums = torch.randint(-(2**23), 2**23, (m, n), generator=generator).to(dtype)
    sums[:, : n // 3] = -0.0
    rows = torch.rand(m if is_a_row else 1, 1, dtype=torch.float64, generator=generator) * 1e-3
    columns = torch.rand(n, 1, dtype=torch.float64, generator=generator) * 2.0**-100  # some end up subnormal
    bias = torch.randn(n, generator=generator) * 1e-30 if has_bias else None
    expected = rescaled(sums, rows, columns, bias)
    with kernels.only("native"):
        found = kernels.rescale(sums, rows, columns, bias)
    assert torch.equal(found.view(torch.int32), expected.view(torch.int32))


@needs_library
def test_sums_may_be_scaled_in_their_own_memory():
    sums = torch.arange(-8.0, 8).view(4, 4)
    scales = torch.full((1, 1), 0.1).double(), torch.linspace(1, 2, 4).double()[:, None]
    expected = rescaled(sums, *scales, None)
    with kernels.only("native"):
        assert kernels.rescale(sums, *scales, out=sums).data_ptr() == sums.data_ptr()
    assert torch.equal(sums, expected)


def in_order(x, weight, size, stride, dilation, corner, dtype):
    """A loop over taps, each for all outputs at once."""
    (down, across), (height, width) = size, weight.shape[:2]
    padded = torch.zeros(x.shape[0], 64, 64, weight.shape[2], dtype=dtype)
    top, left = corner
    padded[:, top : top + x.shape[1], left : left + x.shape[2]] = x[..., : weight.shape[2]].to(dtype)
    total = torch.zeros(x.shape[0], down, across, weight.shape[2], dtype=dtype)
    for i in range(height):
        for j in range(width):
            y, z = i * dilation[0], j * dilation[1]
            rows = slice(y, y + (down - 1) * stride[0] + 1, stride[0])
            columns = slice(z, z + (across - 1) * stride[1] + 1, stride[1])
            total = total + padded[:, rows, columns] * weight[i, j].to(dtype)
    return total


GEOMETRIES = {
    "3 by 3": ((9, 7), (3, 3), (1, 1), (1, 1), (1, 1), (9, 7)),
    "stride 2": ((9, 8), (3, 3), (2, 2), (1, 1), (1, 1), (5, 4)),
    "dilated": ((9, 7), (3, 2), (1, 2), (3, 2), (2, 3), (7, 6)),
    "wider than the image": ((2, 2), (5, 5), (1, 1), (1, 1), (2, 2), (2, 2)),
    "outputs of zeros alone": ((2, 3), (1, 1), (3, 3), (1, 1), (3, 3), (3, 3)),
    "no padding": ((6, 6), (2, 3), (1, 1), (1, 1), (0, 0), (5, 4)),
    "one axis": ((1, 20), (1, 5), (1, 3), (1, 1), (0, 2), (1, 7)),
}


@every_level
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("channels", "pitch"), [(1, 1), (15, 16), (18, 32), (64, 64), (96, 96), (147, 150)])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_taps_of_a_channel_are_added_in_their_order(dtype, channels, pitch, geometry):
    size, kernel, stride, dilation, corner, out_size = GEOMETRIES[geometry]
    generator = torch.Generator().manual_seed(channels)
    x = torch.randn(2, *size, pitch, generator=generator)
    weight = torch.randn(*kernel, channels, generator=generator)
    x, weight = (t.half().float() for t in (x, weight))  # products that float32 holds, sums that it rounds
    out = torch.full((2, *out_size, channels), torch.nan, dtype=dtype)
    kernels.depthwise(x, weight, out, stride, dilation, corner)
    assert torch.equal(out, in_order(x, weight, out_size, stride, dilation, corner, dtype))


@needs_library
@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_no_output(threads, monkeypatch):
    monkeypatch.setattr(native_outputs, "LARGE", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    x, weight = torch.randn(3, 5, 4, 20), torch.randn(3, 3, 20)
    x, weight = x.half().float(), weight.half().float()
    out = torch.empty(3, 5, 4, 20)
    kernels.depthwise(x, weight, out, (1, 1), (1, 1), (1, 1))
    assert torch.equal(out, in_order(x, weight, (5, 4), (1, 1), (1, 1), (1, 1), torch.float32))
    scales = torch.full((1, 1), 0.3).double(), torch.linspace(1, 2, 20).double()[:, None]
    expected = rescaled(out.view(-1, 20), *scales, None)
    assert torch.equal(kernels.rescale(out.view(-1, 20), *scales), expected)


def operands(scheme: str, x: torch.Tensor, w: torch.Tensor) -> tuple[Datapath, Operand, Stationary]:
    chosen = from_text(scheme)
    quantizers = [q.signed if hasattr(q, "signed") else q for q in (chosen.input, chosen.weight)]
    x, w = (Operand.of(q.quantize(t.numpy())) for q, t in zip(quantizers, (x, w), strict=True))
    return chosen.datapath, x, Stationary(w)


@pytest.mark.parametrize(
    ("scheme", "carrier"),
    [
        ("integer(8, 8, input_range=None)", torch.float32),
        ("integer(12, 12, input_range=None)", torch.float64),
        ("minifloat(4, 3)", torch.float64),
        ("vs_quant(4, 4, 4, 4, input_range=None)", torch.float32),
        ("vs_quant(8, 8, 8, 8, input_range=None)", torch.float64),
        ("integer(30, 30, input_range=None)", None),
        ("mxfp4()", None),
        ("vs_quant(4, 4, None, None)", None),
    ],
)
def test_one_float_sum_is_as_wide_as_its_bound_asks_for_and_is_the_reference(scheme, carrier):
    generator = torch.Generator().manual_seed(0)
    datapath, x, w = operands(scheme, torch.randn(7, 64, generator=generator), torch.randn(5, 64, generator=generator))
    one = kernels.one_sum(datapath, x, w)
    assert (None if one is None else one.carrier) == carrier
    bias, found = torch.randn(5, generator=generator), torch.empty(7, 5)
    counts = kernels.outputs(datapath, x, w, found, bias)
    with kernels.only("reference"):
        expected = torch.empty(7, 5)
        assert kernels.outputs(datapath, x, w, expected, bias) == counts
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("scheme", "count"),
    [
        ("integer(8, 8, input_range=None)", 1),
        ("integer(12, 12, input_range=None)", 2),
        ("vs_quant(6, 6, 6, 6, input_range=None)", 2),
        ("integer(8, 20, input_range=None)", 2),
        ("integer(14, 16, input_range=None)", 3),
        ("vs_quant(8, 8, 8, 8, input_range=None)", 0),
    ],
)
def test_digits_add_up_to_the_elements_and_have_sums_that_float32_holds(scheme, count):
    generator = torch.Generator().manual_seed(2)
    datapath, x, w = operands(scheme, torch.randn(7, 64, generator=generator), torch.randn(5, 64, generator=generator))
    one = kernels.one_sum(datapath, x, w)
    found = digits(one, x, w)
    assert len(found) == count
    assert all(float(digit.abs().max()) * 2.0**-x.unit * w.scaled_norm < 2**24 for _, digit in found)
    if found:
        assert torch.equal(sum(factor * digit.double() for factor, digit in found), x.scaled.double())


@pytest.mark.parametrize(("bits", "overflow"), [(15, "FORBID"), (11, "WRAP"), (11, "SATURATE")])
def test_a_register_that_the_bound_exceeds_is_looked_at_closely(bits, overflow):
    generator = torch.Generator().manual_seed(1)
    scheme = f"integer(6, 6, input_range=None, accumulator_bits={bits}, overflow=Overflow.{overflow})"
    datapath, x, w = operands(scheme, torch.randn(9, 80, generator=generator), torch.randn(4, 80, generator=generator))
    assert x.largest * w.norm > 2 ** (bits - 1)
    found, expected = torch.empty(9, 4), torch.empty(9, 4)
    counts = kernels.outputs(datapath, x, w, found)
    with kernels.only("reference"):
        assert kernels.outputs(datapath, x, w, expected) == counts
    assert torch.equal(found, expected)
    assert (counts[0] > 0) == (overflow != "FORBID")


def test_taps_are_added_in_order_only_where_float32_holds_every_product():
    x, w = torch.randn(6, 32), torch.randn(4, 32)
    datapath, x, w = operands("mxfp8()", x, w)
    assert kernels.sum_in_order(datapath, x, w) is not None
    tiny = replace(x, inside=x.inside * 2.0**-110)
    assert kernels.sum_in_order(datapath, tiny, w) is None
    huge = replace(x, inside=x.inside * 2.0**100)
    assert kernels.sum_in_order(datapath, huge, w) is None
    assert kernels.sum_in_order(datapath, replace(x, inside=None), w) is None
    for other in (
        replace(datapath, scale_product=FLOAT32),
        replace(datapath, inner=Accumulator(Int(40))),
        replace(datapath, outer=Accumulator(None)),
    ):
        assert kernels.sum_in_order(other, x, w) is None
    assert kernels.sum_in_order(*operands("vs_quant(4, 4, None, None)", torch.randn(6, 32), torch.randn(4, 32))) is None
