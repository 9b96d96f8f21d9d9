"""Unrolled transposed convolutions compute what torch's do, whatever their geometry, in float and under a scheme."""

import copy
import pickle
from functools import cache
from itertools import product

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import bitwright
from bitwright.config import from_text
from bitwright.model.certify import certify_model
from bitwright.model.layers import FakeQuantizedLayer, QuantizedLayer
from bitwright.model.prepare import calibrate, freeze, prepare
from bitwright.model.task import Batch
from bitwright.model.transform import UnrolledTransposed, correct_bias, unroll_transposed

INPUTS, OUTPUTS = 4, 6


def random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def seeded(make, *sizes, dtype=torch.float64, **options) -> nn.Module:
    torch.manual_seed(0)
    return make(*sizes, dtype=dtype, **options).eval()


def assert_is_torchs(found: Tensor, layer: nn.Module, x: Tensor, **arguments) -> None:
    """Both sums of at most K products and a bias, in whatever order: K·u·Σ|x||w| each."""
    expected = layer(x, **arguments)
    magnitudes = copy.deepcopy(layer)
    with torch.no_grad():
        for parameter in magnitudes.parameters():
            parameter.abs_()
    unit = torch.finfo(x.dtype).eps / 2
    tolerance = 2 * (layer.weight[:, 0].numel() + 1) * unit * magnitudes(x.abs(), **arguments)
    assert found.shape == expected.shape
    assert ((found - expected).abs() <= tolerance).all()


@pytest.mark.parametrize(("groups", "bias"), [(1, True), (2, False), (2, True)])
@pytest.mark.parametrize("dilation", [1, 2, 3, 4])
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_an_unrolled_convolution_of_one_axis_is_torchs(stride, dilation, groups, bias):
    for kernel, (padding, length) in product(range(1, 5), ((0, 1), (1, 3), (2, 2))):
        for more in range(max(stride, dilation)):
            if (length - 1) * stride - 2 * padding + dilation * (kernel - 1) + 1 + more > 0:
                layer = seeded(
                    nn.ConvTranspose1d, INPUTS, OUTPUTS, kernel, stride, padding, more, groups, bias, dilation
                )
                x = random(2, INPUTS, length)
                assert_is_torchs(UnrolledTransposed(layer)(x), layer, x)


def pairs(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


@given(
    kernel=pairs(1, 5), stride=pairs(1, 4), padding=pairs(0, 3), more=pairs(0, 3), dilation=pairs(1, 3),
    size=pairs(1, 4), groups=st.sampled_from([1, 2]), bias=st.booleans(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_an_unrolled_convolution_of_two_axes_is_torchs(kernel, stride, padding, more, dilation, size, groups, bias):
    for n, k, s, p, m, d in zip(size, kernel, stride, padding, more, dilation, strict=True):
        assume(m < max(s, d) and (n - 1) * s - 2 * p + d * (k - 1) + 1 + m > 0)
    layer = seeded(nn.ConvTranspose2d, INPUTS, OUTPUTS, kernel, stride, padding, more, groups, bias, dilation)
    x = random(2, INPUTS, *size)
    assert_is_torchs(UnrolledTransposed(layer)(x), layer, x)


def test_a_float32_convolution_is_torchs_to_float_rounding():
    layer = seeded(nn.ConvTranspose2d, INPUTS, OUTPUTS, 4, 2, 1, dtype=torch.float32)
    x = random(2, INPUTS, 5, 3).float()
    assert_is_torchs(UnrolledTransposed(layer)(x), layer, x)


GEOMETRIES = {
    "a tap an output": {"kernel_size": 2, "stride": 2},
    "two taps an axis": {"kernel_size": 4, "stride": 2, "padding": 1},
    "uneven": {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
    "gaps": {"kernel_size": 2, "stride": 3},
    "gaps, dilated": {"kernel_size": 3, "stride": 2, "dilation": 2},
    "stride 1": {"kernel_size": 3, "dilation": 2, "padding": 1},
    "depthwise": {"kernel_size": 4, "stride": 2, "padding": 1, "groups": INPUTS},
}

every_geometry = pytest.mark.parametrize("geometry", GEOMETRIES)


def layer_of(geometry: str, axes: int = 2, **options) -> nn.Module:
    make = (nn.ConvTranspose1d, nn.ConvTranspose2d)[axes - 1]
    return seeded(make, INPUTS, 2 * INPUTS, **GEOMETRIES[geometry], **options)


def convolutions(unrolled: nn.Module) -> dict[str, nn.Module]:
    return {name: m for name, m in unrolled.named_children() if isinstance(m, nn.Conv1d | nn.Conv2d)}


@every_geometry
def test_each_tap_stands_in_one_phase(geometry):
    layer = layer_of(geometry)
    with torch.no_grad():
        layer.weight.copy_(torch.arange(layer.weight.numel()).view_as(layer.weight))
    weights = [convolution.weight.flatten() for convolution in convolutions(UnrolledTransposed(layer)).values()]
    assert torch.equal(torch.cat(weights).sort().values, layer.weight.flatten())


@pytest.mark.parametrize("axes", [1, 2])
@every_geometry
def test_gradients_are_torchs(geometry, axes):
    layer = layer_of(geometry, axes)
    unrolled = unroll_transposed(layer)
    inputs = []
    for module in (layer, unrolled):
        x = random(2, INPUTS, *(3, 4)[:axes]).requires_grad_()
        module(x).square().sum().backward()
        inputs.append(x.grad)
    close = {"rtol": 1e-12, "atol": 1e-10}  # float64 sums of under 1000 terms, each below 100
    torch.testing.assert_close(inputs[1], inputs[0], **close)
    by_phase = copy.deepcopy(layer)
    with torch.no_grad():
        by_phase.weight.copy_(layer.weight.grad)
    expected = convolutions(UnrolledTransposed(by_phase))
    for name, convolution in convolutions(unrolled).items():
        torch.testing.assert_close(convolution.weight.grad, expected[name].weight, **close)
        torch.testing.assert_close(convolution.bias.grad, layer.bias.grad, **close)


@every_geometry
def test_every_output_size_that_torch_takes_is_torchs(geometry):
    layer, x = layer_of(geometry), random(2, INPUTS, 3, 4)
    unrolled = UnrolledTransposed(layer)
    least = [size - more for size, more in zip(layer(x).shape[2:], layer.output_padding, strict=True)]
    for more in product(*(range(s) for s in layer.stride)):
        size = [n + m for n, m in zip(least, more, strict=True)]
        assert_is_torchs(unrolled(x, output_size=size), layer, x, output_size=size)
        whole = torch.Size([2, 2 * INPUTS, *size])
        assert unrolled(x, whole).shape == whole


@pytest.mark.parametrize("axes", [1, 2])
def test_one_sample_is_torchs(axes):
    layer, x = layer_of("uneven", axes), random(INPUTS, *(3, 4)[:axes])
    assert_is_torchs(UnrolledTransposed(layer)(x), layer, x)


def test_phases_that_meet_no_tap_are_the_bias_alone():
    layer = layer_of("gaps")
    unrolled, y = UnrolledTransposed(layer), UnrolledTransposed(layer)(random(2, INPUTS, 3, 4))
    assert set(convolutions(unrolled)) == {"phase_0_0", "phase_0_1", "phase_1_0", "phase_1_1"}
    for part in (y[:, :, 2::3], y[..., 2::3]):
        assert torch.equal(part, layer.bias.view(-1, 1, 1).expand_as(part))


@every_geometry
def test_all_phases_share_one_bias(geometry):
    unrolled = UnrolledTransposed(layer_of(geometry))
    assert len({id(p) for name, p in unrolled.named_parameters(remove_duplicate=False) if name.endswith("bias")}) == 1


def test_parameters_that_do_not_learn_stay_so():
    assert not any(p.requires_grad for p in unroll_transposed(layer_of("gaps").requires_grad_(False)).parameters())


def test_the_mode_of_the_module_is_kept():
    layer = layer_of("uneven")
    assert all(module.training for module in unroll_transposed(layer.train()).modules())
    assert not any(module.training for module in unroll_transposed(layer.eval()).modules())


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_an_unrolled_convolution_can_be_copied_and_pickled(duplicate):
    unrolled, x = UnrolledTransposed(layer_of("gaps")), random(2, INPUTS, 3, 4)
    assert torch.equal(duplicate(unrolled)(x), unrolled(x))


def test_fields_that_callers_read_are_kept():
    layer = layer_of("uneven")
    layer.alphabet = "abc"
    unrolled = unroll_transposed(layer)
    for field in (
        "in_channels", "out_channels", "kernel_size", "stride", "padding", "output_padding", "dilation", "groups",
        "alphabet",
    ):  # fmt: skip
        assert getattr(unrolled, field) == getattr(layer, field)


def test_a_shared_layer_stays_shared():
    layer = layer_of("uneven")
    model = unroll_transposed(nn.ModuleDict({"a": layer, "b": nn.Sequential(layer)}))
    assert isinstance(model["a"], UnrolledTransposed)
    assert model["a"] is model["b"][0]


def test_the_callers_model_is_left_as_it_was():
    model = nn.Sequential(layer_of("gaps"))
    before = copy.deepcopy(model.state_dict())
    unrolled = unroll_transposed(model)
    with torch.no_grad():
        for parameter in unrolled.parameters():
            parameter.zero_()
    assert isinstance(model[0], nn.ConvTranspose2d)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


# Errors


@pytest.mark.parametrize(
    ("shape", "arguments", "message"),
    [
        ((4, 3), (), r"ConvTranspose2d: the input has shape \(4, 3\); give 4 channels in front of the last 2 axes"),
        ((2, 3, 3, 3), (), r"has shape \(2, 3, 3, 3\); give 4 channels"),
        ((2, 4, 3, 3), ([4, 6],), r"an output size of \(4, 6\) is not possible .* give \(5, 5\) to \(6, 6\)"),
        ((2, 4, 3, 3), ([6, 7],), r"an output size of \(6, 7\) is not possible"),
        ((2, 4, 3, 3), ([6],), r"an output size of \(6,\) is not possible"),
        ((2, 4, 3, 3), ([8, 6, 6],), r"an output size of \(8, 6, 6\) is not possible"),
        ((2, 4, 0, 3), (), r"has an output of size \(0, 6\); give a larger input or less padding"),
    ],
)
def test_wrong_arguments_are_named(shape, arguments, message):
    with pytest.raises(ValueError, match=message):
        UnrolledTransposed(layer_of("uneven"))(torch.zeros(shape, dtype=torch.float64), *arguments)


class Doubled(nn.ConvTranspose2d):
    def forward(self, input, output_size=None):
        return 2 * super().forward(input, output_size)


class Renamed(nn.ConvTranspose1d):
    """Keeps the forward of its class."""


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Doubled(4, 4, 2), "Doubled changes the forward of its class"),
        (lambda: parametrizations.weight_norm(nn.ConvTranspose2d(4, 4, 2)), "its weight is computed"),
    ],
)
def test_what_cannot_be_unrolled_is_left_alone_and_named_with_the_reason(make, reason):
    model = nn.ModuleDict({"odd": make(), "known": Renamed(4, 4, 2)})
    kind = type(model["odd"])
    prepared = prepare(model, from_text("integer(8, 8)"))
    rows = {row.name: row for row in prepared.coverage}
    assert type(prepared["odd"]) is kind
    assert rows["odd"].status == "unsupported"
    assert reason in rows["odd"].reason
    assert rows["known.phase_0"].status == "quantized"


# Under a scheme


class Decoder(nn.Module):
    """Four by four to sixteen by sixteen, in three ways; one of the layers runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.up = nn.Sequential(nn.ConvTranspose2d(8, 8, 4, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.again = self.up[0]
        self.depthwise = nn.ConvTranspose2d(8, 8, 3, padding=1, groups=8)
        self.out = nn.ConvTranspose2d(8, 2, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.depthwise(self.again(self.up(self.stem(x).relu())).relu()))


class Wave(nn.Module):
    """Along one axis."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.ConvTranspose1d(6, 8, 5, 2, 2, 1)
        self.norm = nn.BatchNorm1d(8)
        self.second = nn.ConvTranspose1d(8, 4, 3, 2, dilation=2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.first(x)).relu()
        return self.second(y, output_size=[2 * y.shape[-1] + 3])


MODELS = {"decoder": (Decoder, (2, 3, 4, 4)), "wave": (Wave, (2, 6, 7))}

SCHEMES = (
    "integer(8, 8)", "integer(8, 8, zero=Zero.FITTED)", "integer(4, None)", "vs_quant(4, 4, 4, 4, vector=4)",
    "nvfp4()", "overq(4)", "a2q(4, 8, accumulator_bits=16)",
)  # fmt: skip

every_model = pytest.mark.parametrize("name", MODELS)


def model_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = MODELS[name][0]().requires_grad_(False).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor in (module.running_mean, module.running_var, module.weight, module.bias):
                tensor.uniform_(0.5, 1.5)
    return model


def data(name: str, seed: int) -> Tensor:
    return torch.randn(MODELS[name][1], generator=torch.Generator().manual_seed(seed))


def batch(name: str) -> Batch:
    return Batch((data(name, 1),), torch.empty(0))


@cache
def calibrated(name: str, scheme: str) -> nn.Module:
    return calibrate(prepare(model_of(name), from_text(scheme), (data(name, 1),)), [batch(name)])


def quantized_layers(model: nn.Module) -> dict[str, QuantizedLayer]:
    return {m.name: m for m in model.modules() if isinstance(m, QuantizedLayer)}


@pytest.mark.parametrize("scheme", SCHEMES)
@every_model
def test_every_simulated_product_equals_the_exact_one_to_float_rounding(name, scheme):
    fake = copy.deepcopy(calibrated(name, scheme))
    exact_layers, compared = quantized_layers(freeze(fake)), set()

    def compare(layer: FakeQuantizedLayer, args, simulated: Tensor) -> None:
        compared.add(layer.name)
        exact = exact_layers[layer.name](args[0])
        x, w = layer._fake_input(args[0]).double(), layer.fake_weight().double()
        # as in test_lowering: K·u·Σ|x||w| for the float32 sum, as much for sums over blocks, u for each last rounding
        magnitude = layer.lowering.forward(x.abs(), w.abs())
        bias = 0 if layer.bias is None else layer.bias.abs().double().view(-1, *[1] * (x.dim() - 2))
        tolerance = (2 * layer.weight[0].numel() + 8) * 2.0**-24 * (magnitude + exact.abs().double() + bias)
        assert ((simulated.double() - exact.double()).abs() <= tolerance).all(), layer.name

    for module in fake.modules():
        if isinstance(module, FakeQuantizedLayer):
            module.register_forward_hook(compare)
    fake(data(name, 2))
    assert compared == set(exact_layers)


@every_model
def test_a_model_of_eight_bits_stays_near_the_float_model(name):
    model, x = model_of(name), data(name, 2)
    frozen = bitwright.quantize(model, "integer(8, 8)", calibration=[data(name, 1), x])
    error = (frozen(x) - model(x)).square().mean()
    assert error < 1e-3 * model(x).square().mean()  # 30 dB; a step of 8 bits is 40 dB below its range
    assert not any(isinstance(m, nn.BatchNorm1d) for m in frozen.modules())


def test_coverage_names_the_phases_and_counts_their_calls():
    counts = {r.name: (r.kind, r.status, r.count) for r in calibrated("decoder", "integer(8, 8)").coverage}
    products = {
        "stem": 1, "depthwise.phase_0_0": 1,
        "up.0.phase_0_0": 2, "up.0.phase_0_1": 2, "up.0.phase_1_0": 2, "up.0.phase_1_1": 2,
        "out.phase_0_0": 1, "out.phase_0_1": 1, "out.phase_1_0": 1, "out.phase_1_1": 1,
    }  # fmt: skip
    others = {"up.1": ("BatchNorm2d", "float", 1), "up.2": ("ReLU", "float", 1)}
    assert counts == {name: ("Conv2d", "quantized", count) for name, count in products.items()} | others


@every_model
def test_bounded_weights_fit_the_register_that_their_certificate_proves(name):
    frozen = freeze(calibrated(name, "a2q(4, 8, accumulator_bits=16)"))
    layers = quantized_layers(frozen)
    certificates = {c.name: c for c in certify_model(frozen)}
    assert set(certificates) == set(layers)
    for certificate in certificates.values():
        assert certificate.exact_bits <= certificate.available_bits == 16
    frozen(data(name, 2))
    assert sum(layer.overflows for layer in layers.values()) == 0


def test_k_of_a_certificate_counts_the_taps_that_meet():
    k = {c.name: c.k for c in certify_model(freeze(calibrated("decoder", "integer(8, 8)")))}
    assert {k[f"up.0.phase_{i}_{j}"] for i in (0, 1) for j in (0, 1)} == {8 * 2 * 2}  # 4 by 4 taps at stride 2
    assert {k[f"out.phase_{i}_{j}"] for i in (0, 1) for j in (0, 1)} == {8}
    assert k["depthwise.phase_0_0"] == 9


def test_corrected_biases_give_each_phase_the_mean_of_the_float_model():
    name = "wave"
    corrected = correct_bias(calibrated(name, "integer(4, 4)"), model_of(name), [batch(name)])
    means = [m(data(name, 1))[..., 1::2].mean((0, 2)) for m in (corrected, model_of(name))]
    # the last layer's own mean is exact but for float32 sums of under 100 values of about 1
    torch.testing.assert_close(means[0], means[1], rtol=0, atol=1e-5)


def test_a_prepared_model_learns_with_one_bias():
    model = calibrate(prepare(model_of("wave").requires_grad_(True), from_text("integer(4, 4)")), [batch("wave")])
    model(data("wave", 1)).square().sum().backward()
    phases = [m for m in model.modules() if isinstance(m, FakeQuantizedLayer)]
    assert len({id(m.bias) for m in phases}) == 2
    assert all(m.weight.grad.abs().sum() > 0 for m in phases)
