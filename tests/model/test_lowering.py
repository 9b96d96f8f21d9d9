"""Every layer kind against the product it stands for, built in the plainest way: loops over pixels and taps, on codes.

A row of the input is a token, or a pixel's channels, quantized once. A patch is made of such codes, each with the scale
that it came with. The definition, `Datapath.matmul`, then does the arithmetic.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bitwright import kernels
from bitwright.comparison import DEFAULT_SCHEMES
from bitwright.config import from_text
from bitwright.datapath import Accumulator, Datapath, Product
from bitwright.formats import Int
from bitwright.model import layers
from bitwright.model.layers import FakeQuantizedLayer, QuantizedLayer
from bitwright.model.prepare import calibrate, freeze, prepare
from bitwright.model.task import Batch
from bitwright.quantization import PerBlock, PerTensor, QuantizedTensor

SCHEMES = (
    "integer(8, 8)",
    "integer(4, 4)",
    "integer(4, 4, input_range=None)",
    "integer(8, 8, zero=Zero.FITTED)",
    "integer(8, 8, input_share=PerRow(), input_range=None)",
    "integer(8, 8, accumulator_bits=12, overflow=Overflow.WRAP)",
    "integer(8, 8, accumulator_bits=12, overflow=Overflow.SATURATE)",
    "integer(8, 8, weight_share=PerBlock(4))",
    "integer(8, 8, input_share=PerBlock(4), input_range=None)",
    "integer(8, 8, input_share=PerRow(), input_range=None, weight_share=PerBlock(4))",
    "vs_quant(4, 4, 4, 4)",
    "vs_quant(4, 4, 4, None)",  # float32 scale products, which tie
    "vs_quant(4, 4, None, None)",
    "vs_quant(4, 4, 4, 4, vector=4)",
    "vs_quant(4, 4, scale_product=Int(6, signed=False, exponent=2))",
    "vs_quant(6, 6, 6, 6)",  # sums of more than 24 bits
    "vs_quant_chip()",
    "ant(4, 4)",
    "minifloat(4, 3)",
    "mxfp4()",
    "mxint8(block=8)",
    "mxfp8()",
    "nvfp4()",
    "nvfp4(four_over_six=True)",
    "overq(4, tile=8)",
    "overq_on()",
    "term_revealing()",
    "a2q(4, 8, 14)",
    "a2q(4, 8, 14, tile=8)",
    "wrapnet(4, 4, accumulator_bits=7)",
    "wrapnet(1, 3, accumulator_bits=5, slope=2)",
)  # fmt: skip

LAYERS = {
    "linear": (lambda: nn.Linear(20, 6), (5, 20)),
    "linear on tokens": (lambda: nn.Linear(33, 5, bias=False), (2, 3, 33)),
    "conv2d": (lambda: nn.Conv2d(20, 6, 3, padding=1), (2, 20, 4, 5)),
    "conv2d, stride and unequal padding": (
        lambda: nn.Conv2d(16, 4, (3, 2), stride=(2, 1), padding=(0, 2)),
        (2, 16, 5, 4),
    ),
    "conv2d, dilation": (lambda: nn.Conv2d(5, 4, 3, dilation=(2, 1), padding=(2, 0), bias=False), (2, 5, 5, 4)),
    "conv2d, same": (lambda: nn.Conv2d(6, 4, (3, 4), padding="same", dilation=(1, 2)), (2, 6, 4, 8)),
    "conv2d, pointwise": (lambda: nn.Conv2d(36, 4, 1, stride=2), (2, 36, 3, 3)),
    "conv2d, grouped": (lambda: nn.Conv2d(12, 6, 3, groups=3, padding=1), (2, 12, 4, 3)),
    "conv2d, grouped over several blocks": (lambda: nn.Conv2d(40, 4, 2, groups=2), (2, 40, 3, 3)),
    "conv2d, depthwise": (lambda: nn.Conv2d(18, 18, 3, groups=18, padding=1), (2, 18, 4, 3)),
    "conv2d, depthwise twice": (lambda: nn.Conv2d(5, 10, 3, groups=5, stride=2, padding=1), (2, 5, 5, 4)),
    "conv2d, one channel": (lambda: nn.Conv2d(1, 4, 3, padding=1), (3, 1, 4, 4)),
    "conv1d": (lambda: nn.Conv1d(18, 5, 3, padding=1, stride=2), (2, 18, 7)),
    "conv1d, depthwise": (lambda: nn.Conv1d(6, 6, 3, groups=6, dilation=2, padding="same"), (2, 6, 7)),
    "conv1d, valid": (lambda: nn.Conv1d(7, 4, 3, padding="valid"), (2, 7, 6)),
}

every_scheme = pytest.mark.parametrize("scheme", SCHEMES)
every_layer = pytest.mark.parametrize("kind", LAYERS)


class Case:
    """A layer of random weights, calibrated and frozen under a scheme, with inputs it was not calibrated on."""

    def __init__(self, kind: str, scheme: str, *, offset: float = 0.0) -> None:
        make, shape = LAYERS[kind]
        torch.manual_seed(0)
        self.layer = make().requires_grad_(False)
        # neighbouring channels of different size, so that blocks have different scales
        spread = torch.linspace(0.3, 3, shape[1] if kind.startswith("conv") else shape[-1])
        spread = spread.view(-1, *[1] * (len(shape) - 2)) if kind.startswith("conv") else spread
        seen, self.x = (torch.randn(2, *shape) + offset) * spread
        self.fake = calibrate(prepare(nn.Sequential(self.layer), from_text(scheme)), [Batch((seen,), torch.empty(0))])
        self.frozen = freeze(self.fake)

    @property
    def fake_layer(self) -> FakeQuantizedLayer:
        return self.fake[0]

    @property
    def frozen_layer(self) -> QuantizedLayer:
        return self.frozen[0]


@every_layer
@every_scheme
def test_a_layer_computes_the_unfolded_product_bit_for_bit(scheme, kind):
    case = Case(kind, scheme)
    y = case.frozen(case.x)
    by_reference, overflows, accumulations = expected(case.fake_layer, case.layer, case.x)
    np.testing.assert_array_equal(y.numpy(), by_reference.numpy())
    assert case.frozen_layer.overflows == overflows
    assert case.frozen_layer.accumulations == accumulations


DEFAULTS = tuple(s for s in DEFAULT_SCHEMES if not s.startswith("ant4_8"))  # a recipe of two of the others
WITH_ROUNDED_SCALES = "vs_quant_chip()"


@every_layer
@pytest.mark.parametrize("scheme", DEFAULTS)
def test_simulated_equals_exact_to_float_rounding(scheme, kind):
    case = Case(kind, scheme)
    simulated, exact = case.fake(case.x), case.frozen(case.x)
    lowering, fake = case.fake_layer.lowering, case.fake_layer
    x, w = fake._fake_input(case.x).double(), fake.fake_weight().double()
    magnitude = lowering.forward(x.abs(), w.abs())
    # with u = 2**-24: a float32 sum of K products errs by K·u·Σ|x||w| at most, in any order (Higham, sec. 4.2), and
    # decoded operands are rounded once each; the exact path adds at most K block sums in float32 and rounds its end
    # result; the bias adds a last rounding of either. Second-order terms are below the + 8.
    k = case.layer.weight[0].numel()
    tolerance = (2 * k + 8) * 2.0**-24 * (magnitude + exact.abs().double())
    if scheme == WITH_ROUNDED_SCALES:
        # one more difference: a product of two 8-bit scales is rounded to a multiple of 2**8, so by 2**7 at most
        tolerance = tolerance + 2.0**7 * unscaled(case)
    assert ((simulated.double() - exact.double()).abs() <= tolerance).all()


def unscaled(case: Case) -> Tensor:
    """Bound on an output's Σ|x||w| were every block scale 1: elements of at most 15 and 7, times the coarse scales."""
    stationary, fake = case.frozen_layer.stationary(), case.fake_layer
    coarse = float(fake.input_ranges[0].magnitude.max()) / (fake.input_quantizer.format.full_scale * 255)
    scales = stationary.operand.outside.flatten() * coarse * 15 * 7 * case.layer.weight[0].numel()
    return scales if isinstance(case.layer, nn.Linear) else scales.view(-1, *[1] * (case.x.dim() - 2))


@pytest.mark.parametrize("overflow", ["WRAP", "SATURATE"])
@every_layer
def test_a_narrow_accumulator_overflows_and_says_how_often(kind, overflow):
    case = Case(kind, f"integer(8, 8, accumulator_bits=12, overflow=Overflow.{overflow})")
    case.frozen(case.x)
    assert 0 < case.frozen_layer.overflows <= case.frozen_layer.accumulations


def test_the_chip_saturates_its_24_bits_and_counts_it():
    torch.manual_seed(0)
    layer = nn.Linear(64 * 12, 2).requires_grad_(False)
    layer.weight.fill_(1.0)  # every product the largest: 12 blocks of 64 · 7 · 15 · 254 need 25 bits
    x = torch.ones(3, 64 * 12)
    prepared = calibrate(prepare(nn.Sequential(layer), from_text("vs_quant_chip()")), [Batch((x,), torch.empty(0))])
    frozen = freeze(prepared)
    y = frozen(x)
    by_reference, overflows, accumulations = expected(prepared[0], layer, x)
    np.testing.assert_array_equal(y.numpy(), by_reference.numpy())
    assert frozen[0].overflows == overflows == 6
    assert frozen[0].accumulations == accumulations


@pytest.mark.parametrize("scheme", ["integer(4, 4)", "integer(4, 4, input_range=None)", "mxfp4()", "nvfp4()"])
@pytest.mark.parametrize("kind", ["linear on tokens", "conv2d", "conv2d, grouped", "conv2d, depthwise"])
def test_outputs_do_not_depend_on_how_many_samples_are_worked_on_at_a_time(kind, scheme, monkeypatch):
    case = Case(kind, scheme)
    together = case.frozen(case.x)
    monkeypatch.setattr(layers, "AT_A_TIME", 1)
    assert torch.equal(case.frozen(case.x), together)


@every_layer
@pytest.mark.parametrize("names", [("torch", "reference"), ("reference",)])
@pytest.mark.parametrize("scheme", ["integer(8, 8)", "minifloat(4, 3)", "vs_quant(4, 4, 4, 4)", "nvfp4()"])
def test_every_implementation_gives_the_same_outputs_and_counts(scheme, names, kind):
    case = Case(kind, scheme)
    y = case.frozen(case.x)
    layer = case.frozen_layer
    counts, layer.overflows, layer.accumulations = (layer.overflows, layer.accumulations), 0, 0
    with kernels.only(*names):
        assert torch.equal(case.frozen(case.x), y)
    assert (layer.overflows, layer.accumulations) == counts


def test_the_reference_reaches_convolutions(monkeypatch):
    case, calls = Case("conv2d, depthwise", "integer(8, 8)"), []
    multiply = Datapath.multiply
    monkeypatch.setattr(Datapath, "multiply", lambda *a: calls.append(1) or multiply(*a))
    case.frozen(case.x)
    assert not calls
    with kernels.only("reference"):
        case.frozen(case.x)
    assert len(calls) == 18


@pytest.mark.parametrize("make", [lambda: nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect")])
def test_padding_with_anything_but_zeros_is_refused_by_the_layers_name(make):
    model = nn.Sequential()
    model.add_module("stem", make())
    with pytest.raises(ValueError, match=r"layer stem: padding mode 'reflect' is not quantized; only zeros are"):
        prepare(model, from_text("integer(8, 8)"))


def expected(fake: FakeQuantizedLayer, layer: nn.Module, x: Tensor) -> tuple[Tensor, int, int]:
    """The layer's output by the reference, sums that overflowed, and sums in all."""
    y, products = linear(fake, x) if isinstance(layer, nn.Linear) else convolution(fake, layer, x)
    if layer.bias is not None:
        y = y + (layer.bias if isinstance(layer, nn.Linear) else layer.bias.view(-1, *[1] * (y.dim() - 2)))
    return y, sum(p.overflows for p in products), sum(p.accumulations for p in products)


def linear(fake: FakeQuantizedLayer, x: Tensor) -> tuple[Tensor, list[Product]]:
    rows = fake.input_quantizer.quantize(x.reshape(-1, x.shape[-1]).numpy(), fake.input_ranges)
    weight = fake.weight_quantizer.quantize(fake.weight.detach().numpy(), fake.weight_ranges)
    product = fake.scheme.datapath.matmul(rows, weight)
    return torch.from_numpy(product.values.astype(np.float32)).view(*x.shape[:-1], -1), [product]


def convolution(fake: FakeQuantizedLayer, layer: nn.Conv1d | nn.Conv2d, x: Tensor) -> tuple[Tensor, list[Product]]:
    down, across = ((1, *layer(x).shape[2:]))[-2:]
    weight, products = quantized_filters(fake, layer), []
    outputs = layer.out_channels // layer.groups
    for group in range(layer.groups):
        own = slice(group * outputs, (group + 1) * outputs)
        filters = replace(
            weight, codes=weight.codes[own], scales=tuple(s[own] if len(s) > 1 else s for s in weight.scales)
        )
        products.append(fake.scheme.datapath.matmul(patches(fake, layer, x, group, (down, across)), filters))
    y = np.concatenate([p.values.astype(np.float32) for p in products], 1).reshape(len(x), down, across, -1)
    y = torch.from_numpy(y).movedim(-1, 1)
    return (y.squeeze(2) if x.dim() == 3 else y), products


def quantized_filters(fake: FakeQuantizedLayer, layer: nn.Conv1d | nn.Conv2d) -> QuantizedTensor:
    """Rows of K = (taps, channels), channels padded to whole blocks; of one channel the taps alone."""
    weight = layer.weight.detach().flatten(2).transpose(1, 2).numpy()  # [n, taps, channels]
    if weight.shape[2] > 1:
        block = channel_unit(fake)
        weight = np.pad(weight, ((0, 0), (0, 0), (0, -weight.shape[2] % block)))
    return fake.weight_quantizer.quantize(weight.reshape(len(weight), -1), fake.weight_ranges)


def patches(
    fake: FakeQuantizedLayer, layer: nn.Conv1d | nn.Conv2d, x: Tensor, group: int, size: tuple[int, int]
) -> QuantizedTensor:
    """Codes of every patch of one group, [batch · down · across, K]."""
    image = (x.unsqueeze(2) if x.dim() == 3 else x).movedim(1, -1).contiguous()  # [batch, height, width, channels]
    batch, height, width, channels = image.shape
    own = channels // layer.groups
    together = channels if own == 1 else own  # channels that are quantized as one row
    rows = fake.input_quantizer.quantize(image.reshape(-1, together).numpy(), fake.input_ranges)
    codes = rows.codes.reshape(len(rows.codes), -1)[:, :together].reshape(image.shape)
    moving = not isinstance(rows.quantizer.scales[-1].share, PerTensor)  # the finest scale is not one for all
    scale = rows.quantizer.scales[-1].share.expand(rows.scales[-1], *rows.shape).reshape(image.shape)
    unit = channel_unit(fake)
    padded = own + -own % unit if own > 1 else 1
    zero = rows.quantizer.format.encode(np.zeros(1))[0] if rows.zero_points is None else rows.zero_points[0, 0]
    taps = list(np.ndindex((1, *layer.kernel_size)[-2:]))
    patch = np.full((batch, *size, len(taps), padded), zero)
    patch_scale = np.zeros((batch, *size, len(taps), padded), np.int64)
    (top, left), stride, dilation = start(layer), (1, *layer.stride)[-2:], (1, *layer.dilation)[-2:]
    channel = slice(group * own, (group + 1) * own)
    for b, i, j in np.ndindex(batch, *size):
        for t, (u, v) in enumerate(taps):
            y, z = i * stride[0] + u * dilation[0] - top, j * stride[1] + v * dilation[1] - left
            if 0 <= y < height and 0 <= z < width:
                patch[b, i, j, t, :own] = codes[b, y, z, channel]
                patch_scale[b, i, j, t, :own] = scale[b, y, z, channel]
    count = batch * size[0] * size[1]
    if not moving:
        return replace(rows, codes=patch.reshape(count, 1, -1), k=len(taps) * padded)
    block = min(block_size(fake.input_quantizer), padded) if block_size(fake.input_quantizer) > 1 else padded
    fine = replace(rows.quantizer.scales[-1], share=PerBlock(block))
    return replace(
        rows, codes=patch.reshape(count, -1, block), k=len(taps) * padded,
        scales=(*rows.scales[:-1], patch_scale.reshape(count, -1, block)[:, :, 0]),
        quantizer=replace(rows.quantizer, scales=(*rows.quantizer.scales[:-1], fine)),
    )  # fmt: skip


def start(layer: nn.Conv1d | nn.Conv2d) -> tuple[int, int]:
    """Zeros above and to the left of the image."""
    if layer.padding == "same":
        given = [d * (k - 1) // 2 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    else:
        given = [0] * len(layer.kernel_size) if layer.padding == "valid" else list(layer.padding)
    top, left = (0, *given)[-2:]
    return top, left


def channel_unit(fake: FakeQuantizedLayer) -> int:
    """Channels of a tap are padded to a multiple of this: blocks of scales, and runs of the weight's format."""
    return max(block_size(fake.weight_quantizer), block_size(fake.input_quantizer), fake.weight_quantizer.format.run)


def block_size(quantizer) -> int:
    """Length of a block along K, 1 where no scale varies along it."""
    share = quantizer.scales[-1].share
    return share.size if isinstance(share, PerBlock) else 1


def test_a_register_of_a_block_is_not_asked_to_hold_the_sum_over_blocks():
    torch.manual_seed(0)
    x, model = torch.randn(4, 16, 6, 6), nn.Sequential(nn.Conv2d(16, 8, 3)).requires_grad_(False)
    scheme = from_text("vs_quant(4, 4)")
    batch = [Batch((x,), torch.empty(0))]
    frozen = freeze(calibrate(prepare(model, scheme, (x,)), batch))
    narrow = replace(scheme.datapath, inner=Accumulator(Int(frozen[0].certificate.inner_bits)))
    exact = freeze(calibrate(prepare(model, replace(scheme, datapath=narrow), (x,)), batch))
    torch.testing.assert_close(exact(x), frozen(x), rtol=0, atol=0)
    assert exact[0].overflows == 0
