import copy
import pickle
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bitwright import kernels
from bitwright.comparison import DEFAULT_SCHEMES
from bitwright.config import from_text
from bitwright.model.layers import FakeQuantizedLayer, QuantizedEmbedding, QuantizedLayer
from bitwright.model.measure import layer_results, model_bits, stored_bits, weight_bits
from bitwright.model.prepare import calibrate, freeze, observe, prepare, quantize
from bitwright.model.task import Batch
from bitwright.recipe import Promotion, Recipe, Rule
from bitwright.schemes import integer, mxfp4

INT8, INT4 = integer(8, 8), integer(4, 4)

ONE_A_FAMILY = (
    "integer(8, 8)", "integer(8, 8, zero=Zero.FITTED)", "integer(8, None)", "vs_quant(4, 4)", "ant(4, 4)",
    "minifloat(4, 3)", "mxfp4()", "nvfp4(four_over_six=True)",
)  # fmt: skip


class Network(nn.Module):
    """Convolutions of three kinds, attention over the pixels, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.projection = nn.Linear(8, 24)
        self.head = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        pixels = self.depthwise(self.stem(images).relu()).relu().flatten(2).transpose(1, 2)
        query, key, value = self.projection(pixels).chunk(3, -1)
        return self.head(functional.scaled_dot_product_attention(query, key, value)).mean(1)


class Calls(nn.Module):
    """Any function of an input, beside a layer."""

    def __init__(self, function) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.layer(x))


def seeded(make, *args):
    torch.manual_seed(0)
    return make(*args).requires_grad_(False).eval()


def images(seed: int = 0) -> Tensor:
    return torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(seed))


def calibrated(scheme: str = "integer(8, 8)", model: nn.Module | None = None, x: Tensor | None = None) -> nn.Module:
    x = images() if x is None else x
    prepared = prepare(model or seeded(Network), from_text(scheme), (x,))
    return calibrate(prepared, [Batch((x,), torch.empty(0))])


@cache
def ready(scheme: str) -> nn.Module:
    """`calibrated`, once a scheme, for tests that do not change the model."""
    return calibrated(scheme)


def status(prepared: nn.Module) -> dict[str, str]:
    return {row.name: row.status for row in prepared.coverage}


def formats(model: nn.Module) -> dict[str, int]:
    """Bits of each layer's weight format."""
    return {m.name: m.weight_quantizer.format.bits for m in model.modules() if isinstance(m, FakeQuantizedLayer)}


@pytest.mark.parametrize("scheme", DEFAULT_SCHEMES)
def test_a_whole_network_equals_the_reference_kernels_bit_for_bit(scheme):
    prepared = ready(scheme)
    fast, simulated = freeze(prepared)(images(1)), prepared(images(1))
    with kernels.only("reference"):
        slow, slowly_simulated = freeze(prepared)(images(1)), prepared(images(1))
    np.testing.assert_array_equal(fast.numpy(), slow.numpy())
    np.testing.assert_array_equal(simulated.numpy(), slowly_simulated.numpy())


@pytest.mark.parametrize("scheme", ["integer(4, 4)", "vs_quant(4, 4)"])
def test_calibration_by_the_reference_kernels_finds_the_same(scheme):
    expected = freeze(ready(scheme))(images(1))
    with kernels.only("reference"):
        prepared = calibrated(scheme)
    np.testing.assert_array_equal(freeze(prepared)(images(1)).numpy(), expected.numpy())


@pytest.mark.parametrize("scheme", ONE_A_FAMILY)
def test_a_calibrated_model_exports_and_computes_the_same(scheme):
    prepared = ready(scheme)
    exported = torch.export.export(prepared, (images(),)).module()
    np.testing.assert_array_equal(exported(images(1)).detach().numpy(), prepared(images(1)).detach().numpy())


@pytest.mark.parametrize("scheme", ["integer(8, 8)", "vs_quant(4, 4)", "mxfp4()", "integer(4, None)"])
def test_a_frozen_models_state_fits_another_frozen_copy(scheme):
    first = freeze(calibrated(scheme))
    torch.manual_seed(1)
    second = freeze(calibrated(scheme, Network().requires_grad_(False)))
    for model in (first, second):  # so that derived values exist and must be dropped
        model(images())
    second.load_state_dict(first.state_dict())
    for layer, other in zip(layers_of(first), layers_of(second), strict=True):
        np.testing.assert_array_equal(layer.quantized_weight().decode(), other.quantized_weight().decode())
        np.testing.assert_array_equal(layer.stationary().operand.decode(), other.stationary().operand.decode())


def layers_of(model: nn.Module) -> list[QuantizedLayer]:
    return [m for m in model.modules() if isinstance(m, QuantizedLayer)]


def test_a_frozen_model_passes_through_meta_and_back():
    frozen = freeze(calibrated())
    expected, state = frozen(images(1)), frozen.state_dict()
    empty = copy.deepcopy(frozen).to("meta")
    assert {k: (v.shape, v.dtype) for k, v in empty.state_dict().items()} == {
        k: (v.shape, v.dtype) for k, v in state.items()
    }
    empty.to_empty(device="cpu").load_state_dict(state)
    assert torch.equal(empty(images(1)), expected)


@pytest.mark.parametrize("scheme", ["integer(8, 8)", "mxfp4()", "integer(4, None)"])
def test_a_model_in_float64_keeps_its_codes_and_its_precision(scheme):
    for model in (calibrated(scheme), freeze(calibrated(scheme))):
        single, double = model(images(1)), copy.deepcopy(model).to(torch.float64)(images(1).double())
        assert double.dtype == torch.float64
        # int8 rounds a few hidden values to the next code where float64 differs in the last bit of float32
        torch.testing.assert_close(double.float(), single, rtol=0, atol=0.05)


def test_a_model_in_bfloat16_stays_in_bfloat16():
    model = seeded(Network).to(torch.bfloat16)
    x = images().bfloat16()
    prepared = calibrated(model=model, x=x)
    assert prepared(x).dtype == freeze(prepared)(x).dtype == torch.bfloat16


def test_moving_to_the_processor_changes_nothing():
    frozen = freeze(calibrated())
    expected = frozen(images(1))
    assert torch.equal(frozen.to("cpu")(images(1)), expected)


@pytest.mark.parametrize("step", [lambda m: m, freeze])
def test_a_deep_copy_computes_the_same_and_is_independent(step):
    model = step(calibrated())
    expected = model(images(1))
    duplicate = copy.deepcopy(model)
    assert torch.equal(duplicate(images(1)), expected)
    duplicate.load_state_dict({k: torch.zeros_like(v) for k, v in duplicate.state_dict().items()})
    assert torch.equal(model(images(1)), expected)
    assert not torch.equal(duplicate(images(1)), expected)


@pytest.mark.parametrize("change", ["load", "assign", "step"])
def test_changed_weights_are_simulated_from_the_next_call_on(change):
    prepared = calibrated()
    prepared(images(1))
    doubled = {k: 2 * v for k, v in prepared.state_dict().items()}
    if change == "step":
        with torch.no_grad():
            for name, parameter in prepared.named_parameters():
                parameter.copy_(doubled[name])
    else:
        prepared.load_state_dict(doubled, assign=change == "assign")
    layer = prepared.get_submodule("head")
    ranges = layer.weight_ranges
    assert ranges == (None,)  # weights are scaled as they come
    torch.testing.assert_close(
        layer.fake_weight(), 2 * calibrated().get_submodule("head").fake_weight(), rtol=0, atol=0
    )


def test_the_callers_model_is_left_as_it_was():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).train()
    before = copy.deepcopy(model.state_dict())
    x = torch.randn(8, 4)
    freeze(calibrate(prepare(model, INT8, (x,)), [Batch((x,), torch.empty(0))]))
    assert model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_a_model_that_is_one_layer_is_quantized():
    x = torch.randn(3, 4)
    prepared = calibrated(model=seeded(nn.Linear, 4, 4), x=x)
    assert isinstance(prepared, FakeQuantizedLayer)
    assert isinstance(freeze(prepared), QuantizedLayer)


class Shared(nn.Module):
    """One layer that stands in two places, and one weight in two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 6)
        self.first = nn.Linear(6, 6)
        self.second = self.first
        self.output = nn.Linear(6, 10, bias=False)
        self.output.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.output(self.second(self.first(self.embedding(tokens)).relu()))


def test_a_shared_layer_is_one_layer_before_and_after_freezing():
    tokens = torch.arange(10).view(2, 5)
    prepared = calibrated(model=seeded(Shared), x=tokens)
    assert prepared.first is prepared.second
    assert {r.name: r.count for r in prepared.coverage}["first"] == 2
    frozen = freeze(prepared)
    assert isinstance(frozen.second, QuantizedLayer)
    assert frozen.first is frozen.second
    frozen(tokens)


def test_a_tied_weight_is_quantized_on_both_sides():
    tokens = torch.arange(10).view(2, 5)
    prepared = calibrated("mxfp4()", seeded(Shared), tokens)
    assert isinstance(prepared.embedding, QuantizedEmbedding)
    np.testing.assert_array_equal(prepared.embedding.weight.numpy(), prepared.output.fake_weight().numpy())


@pytest.mark.parametrize("scheme", ["mxfp4()", "vs_quant(4, 8)", "integer(4, 8)"])
def test_a_tied_weight_counts_once(scheme):
    tokens = torch.arange(10).view(2, 5)
    prepared = calibrated(scheme, seeded(Shared), tokens)
    layers = layer_results(prepared, None)
    matrices = [prepared.first, prepared.output]
    bits = sum(weight_bits(m) * m.weight.numel() for m in matrices)
    elements = sum(m.weight.numel() for m in matrices)
    assert model_bits(prepared, layers)[0] == bits / elements
    assert model_bits(prepared, layers)[2] == round((bits + 32 * 6) / 8)  # the bias of `first`
    assert [layer.name for layer in layers if layer.weight_sizes is None] == ["embedding"]


def test_a_tied_weight_that_is_stored_in_two_ways_counts_twice():
    tokens = torch.arange(10).view(2, 5)
    float_table = Recipe((Rule("embedding", None), Rule("*", from_text("integer(8, 8)"))))
    other_table = Recipe((Rule("embedding", from_text("integer(4, 8)")), Rule("*", from_text("integer(8, 8)"))))
    batch = Batch((tokens,), torch.empty(0))
    models = [calibrate(prepare(seeded(Shared), r, (tokens,)), [batch]) for r in (float_table, other_table)]
    in_float, in_codes = (model_bits(model, layer_results(model, None))[2] for model in models)
    assert in_float - in_codes == 60 * (32 - stored_bits(models[1].embedding.quantized)) / 8


def test_an_embedding_is_stored_as_codes():
    tokens = torch.arange(10).view(2, 5)
    frozen = freeze(calibrated("integer(4, 8)", seeded(Shared), tokens))
    stored = {name: t.dtype for name, t in frozen.state_dict().items() if name.startswith("embedding")}
    assert stored == {"embedding.codes": torch.uint8, "embedding.scales_0": torch.int64}
    different = seeded(Shared)
    nn.init.normal_(different.embedding.weight)
    other = freeze(calibrated("integer(4, 8)", different, tokens))
    assert not torch.equal(other(tokens), frozen(tokens))
    other.load_state_dict(frozen.state_dict())
    assert torch.equal(other.embedding.weight, frozen.embedding.weight)
    assert torch.equal(other.embedding(tokens), frozen.embedding(tokens))


def test_a_frozen_model_is_pickled():
    tokens = torch.arange(10).view(2, 5)
    frozen = freeze(calibrated("integer(4, 8)", seeded(Shared), tokens))
    assert torch.equal(pickle.loads(pickle.dumps(frozen))(tokens), frozen(tokens))


def test_a_submodule_named_inner_keeps_its_name():
    model = nn.ModuleDict({"inner": nn.Linear(4, 4), "outer": nn.Linear(4, 4)})
    prepared = prepare(model, INT8)
    assert [m.name for m in prepared.modules() if isinstance(m, FakeQuantizedLayer)] == ["inner", "outer"]


# What is not quantized is named


class OwnEncoderLayer(nn.TransformerEncoderLayer):
    def forward(self, src: Tensor, *args, **kwargs) -> Tensor:
        return super().forward(2 * src, *args, **kwargs)


@pytest.mark.parametrize(
    ("make", "x", "reason"),
    [
        (lambda: nn.ConvTranspose3d(4, 4, 2), torch.randn(2, 4, 3, 3, 3), "transposed"),
        (lambda: nn.Conv3d(4, 4, 1), torch.randn(2, 4, 2, 2, 2), "three-dimensional"),
        (lambda: nn.EmbeddingBag(4, 4), torch.zeros(2, 3, dtype=torch.long), "bags"),
        (lambda: OwnEncoderLayer(4, 2, 8, batch_first=True), torch.randn(2, 3, 4), "changes the forward"),
    ],
)
def test_an_unsupported_layer_is_named_with_the_reason(make, x, reason):
    model = nn.Sequential()
    model.add_module("odd", seeded(make))
    prepared = prepare(nn.ModuleDict({"odd": model.odd, "known": nn.Linear(2, 2)}), INT8)
    (row,) = (r for r in prepared.coverage if r.name == "odd")
    assert row.status == "unsupported"
    assert reason in row.reason


def test_multihead_attention_with_keys_of_its_own_is_left_alone_and_named():
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True, add_zero_attn=True)
            self.output = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.output(self.attention(x, x, x, need_weights=False)[0])

    x = torch.randn(2, 3, 4)
    model = seeded(Attends)
    prepared = calibrated(model=model, x=x)
    assert status(prepared)["attention"] == "unsupported"
    assert isinstance(freeze(prepared).output, QuantizedLayer)
    assert torch.equal(prepared.attention(x, x, x)[0], model.attention(x, x, x)[0])


def test_a_transformer_encoder_layer_with_its_own_forward_computes_in_float():
    x = torch.randn(2, 3, 4)
    model = nn.Sequential(OwnEncoderLayer(4, 2, 8, batch_first=True), nn.Linear(4, 2)).eval().requires_grad_(False)
    frozen = freeze(calibrated(model=model, x=x))
    assert torch.equal(frozen[0](x), model[0](x))


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x: x @ x.T, "matmul"),
        (lambda x: torch.matmul(x, x.T), "matmul"),
        (lambda x: x.matmul(x.T), "matmul"),
        (lambda x: x.mm(x.T), "mm"),
        (lambda x: torch.bmm(x[None], x.T[None]), "bmm"),
        (lambda x: torch.einsum("ij,kj->ik", x, x), "einsum"),
        (lambda x: torch.addmm(x, x, x.T[:, :1].expand(4, 4)), "addmm"),
        (lambda x: torch.tensordot(x, x, 2), "tensordot"),
        (lambda x: x.mv(x[0]), "mv"),
        (lambda x: torch.linalg.multi_dot([x, x.T, x]), "multi_dot"),
        (lambda x: functional.linear(x, x), "linear"),
        (lambda x: functional.conv1d(x.T[None], x[:, :, None]), "conv1d"),
        (lambda x: functional.conv_transpose1d(x.T[None], x.T[:, :, None]), "conv_transpose1d"),
    ],
)
def test_a_product_outside_of_a_layer_is_named(function, name):
    prepared = prepare(Calls(function), INT8, (torch.randn(3, 4),))
    rows = [r for r in prepared.coverage if r.status == "unsupported"]
    assert [(r.name, r.kind) for r in rows] == [("(model)", name)]


def test_a_layer_that_changes_its_forward_is_left_alone():
    class Scaled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    prepared = prepare(nn.ModuleDict({"odd": Scaled(4, 4), "plain": nn.Linear(4, 4)}), INT8)
    assert (status(prepared)["odd"], status(prepared)["plain"]) == ("unsupported", "quantized")


# Rules


def stack() -> nn.Sequential:
    model = nn.Sequential()
    for name, layer in (
        ("stem", nn.Conv2d(3, 4, 1)), ("body", nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1))),
        ("flatten", nn.Flatten()), ("head", nn.Linear(144, 2)),
    ):  # fmt: skip
        model.add_module(name, layer)
    return model.requires_grad_(False)


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ((Rule("*", INT8),), {"stem": 8, "body.0": 8, "body.1": 8, "head": 8}),
        ((Rule("first", INT8), Rule("*", INT4)), {"stem": 8, "body.0": 4, "body.1": 4, "head": 4}),
        ((Rule("last", INT8), Rule("*", INT4)), {"stem": 4, "body.0": 4, "body.1": 4, "head": 8}),
        ((Rule("Conv2d", INT8), Rule("Linear", INT4)), {"stem": 8, "body.0": 8, "body.1": 8, "head": 4}),
        ((Rule("body.*", INT4),), {"body.0": 4, "body.1": 4}),
        ((Rule("re:^(stem|head)$", INT4),), {"stem": 4, "head": 4}),
        ((Rule("stem", None), Rule("*", INT4)), {"body.0": 4, "body.1": 4, "head": 4}),
    ],
)
def test_the_first_rule_that_matches_decides(rules, expected):
    assert formats(calibrated_by(Recipe(rules))) == expected


def calibrated_by(recipe: Recipe) -> nn.Module:
    return calibrate(prepare(seeded(stack), recipe, (images(),)), [Batch((images(),), torch.empty(0))])


def test_last_is_the_last_that_runs_not_the_last_that_is_defined():
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.stem = nn.Linear(4, 2), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.stem(x))

    prepared = prepare(Backwards(), Recipe((Rule("last", INT8),)), (torch.randn(2, 4),))
    assert isinstance(prepared.head, FakeQuantizedLayer)
    assert isinstance(prepared.stem, nn.Linear)


@pytest.mark.parametrize(
    ("layers", "hint"), [("bodi.*", "body"), ("Conv3d", "Conv2d"), ("re:^heads$", "head"), ("zzzzzz", "")]
)
def test_a_rule_that_matches_nothing_is_an_error_with_the_nearest_name(layers, hint):
    with pytest.raises(ValueError, match=f"{layers.replace('^', '.').replace('$', '.')!s}.* matches no layer.*{hint}"):
        prepare(stack(), Recipe((Rule(layers, INT8),)))


def test_a_rule_that_is_no_regular_expression_is_an_error():
    with pytest.raises(ValueError, match=r"'re:\(' is not a regular expression"):
        Rule("re:(", INT8)


def test_layers_that_no_rule_names_are_said_to_stay_in_float():
    prepared = prepare(stack(), Recipe((Rule("head", INT8), Rule("stem", None))))
    reasons = {row.name: row.reason for row in prepared.coverage}
    assert reasons["head"] == ""
    assert reasons["stem"] == "its rule keeps it in float"
    assert reasons["body.0"] == "no rule names it"


def test_promotion_moves_the_worst_layers():
    prepared = calibrated_by(Recipe((Rule("*", INT4),), Promotion(2, INT8, always=("head",))))
    bits = formats(prepared)
    assert sorted(bits.values()) == [4, 4, 8, 8]
    assert bits["head"] == 8
    errors = {name: error_at_4_bits(name) for name in bits if name != "head"}
    assert bits[max(errors, key=errors.get)] == 8


def error_at_4_bits(name: str) -> float:
    layer = calibrated_by(Recipe((Rule("*", INT4),))).get_submodule(name)
    x, w = layer.seen.sample, layer.weight
    represented = kernels.represent(layer.input_quantizer, x, layer.input_ranges)
    return float(np.square(represented - x).mean()) + float((layer.fake_weight() - w).square().mean())


def test_a_promotion_of_a_layer_that_is_not_there_is_an_error():
    with pytest.raises(ValueError, match="'heda', which is no quantized layer; did you mean 'head'"):
        calibrated_by(Recipe((Rule("*", INT4),), Promotion(2, INT8, always=("heda",))))


# Bad data


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_named_with_its_index(value):
    model = stack()
    model.body[1].weight[2, 1, 0, 0] = value
    with pytest.raises(ValueError, match=rf"layer body\.1: weight\[2, 1, 0, 0\] is {value}"):
        prepare(model, INT8)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_input_that_is_not_finite_is_named_by_layer_and_index(value):
    x = images()
    x[0, 1, 0, 2] = value  # row 2, channel 1 of the stem
    with pytest.raises(ValueError, match=r"layer stem: the value at row, column \(2, 1\) is"):
        calibrate(prepare(stack(), INT8), [Batch((x,), torch.empty(0))])
    prepared = calibrated_by(Recipe((Rule("*", INT8),)))
    for model in (prepared, freeze(prepared)):
        with pytest.raises(ValueError, match=r"layer stem: the value at row, column \(2, 1\) is"):
            model(x)


def test_no_calibration_data_is_an_error():
    with pytest.raises(ValueError, match="the calibration data is empty"):
        observe(prepare(stack(), INT8), [])
    with pytest.raises(ValueError, match="the calibration data is empty"):
        quantize(stack(), INT8, [])


def test_freezing_before_calibration_is_an_error():
    with pytest.raises(ValueError, match="not calibrated; call calibrate before freeze"):
        freeze(prepare(stack(), INT8))


def test_a_layer_that_calibration_does_not_reach_is_named():
    model = nn.ModuleDict({"used": nn.Linear(3, 3), "idle": nn.Linear(3, 3)})
    model.forward = lambda x: model["used"](x)
    prepared = prepare(model, INT8)
    with pytest.raises(ValueError, match="layer idle: no calibration data reached this layer"):
        calibrate(prepared, [Batch((torch.randn(2, 3),), torch.empty(0))], lambda m, batch: m["used"](*batch.inputs))


def test_a_register_that_is_too_narrow_is_named_with_the_width_that_would_do():
    prepared = calibrated("integer(8, 8, accumulator_bits=12)")
    with pytest.raises(
        ValueError, match=r"layer stem: these weights need a \d+-bit inner accumulator, the datapath has 12"
    ):
        freeze(prepared)


# All steps in one


@pytest.mark.parametrize(
    "batches",
    [
        lambda x: [Batch((x,), torch.empty(0))],
        lambda x: [(x,)],
        lambda x: [x],
        lambda x: [{"images": x}],
        lambda x: iter([x[:1], x[1:]]),
    ],
    ids=["batch", "arguments", "tensor", "keywords", "iterator"],
)
def test_quantize_takes_calibration_data_in_every_form(batches):
    frozen = quantize(seeded(Network), mxfp4(), batches(images()))  # its ranges do not depend on the batches
    assert torch.equal(frozen(images(1)), freeze(calibrated("mxfp4()"))(images(1)))
