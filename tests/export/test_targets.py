"""Every scheme of the catalogue in every target: held, and equal in its engine; or refused by layer."""

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.export import TARGETS, Tracing, ways_out
from bitwright.schemes import CATALOGUE, FOLDED

pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")
pytest.importorskip("onnxscript", reason="needs the extra onnx")

pytestmark = pytest.mark.filterwarnings("ignore")  # of the converter and the qonnx package

NEEDS = {"qonnx": "qonnx"}
X = torch.randn(3, 5, 3, 3, generator=torch.Generator().manual_seed(0))


class Tiny(nn.Module):
    """A padded convolution whose channels fill no block, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(5, 6, 2, padding=1), nn.Linear(6, 4)

    def forward(self, x):
        return self.last(torch.relu(self.first(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def trace():
    return Tracing()


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    tiny, made = Tiny().eval(), {}

    def of(factory):
        if factory not in made:
            made[factory] = tiny, bw.quantize(tiny, factory(), [X])
        return made[factory]

    return of


FLOATS = {"integer", "vs_quant", "ant", "ant_type", "minifloat", "mxfp4", "mxfp6", "mxfp8", "mxint8", "nvfp4", "a2q"}
HOLDING = {
    "bundle": {factory.__name__ for factory in (*CATALOGUE, *FOLDED)},
    "onnx": FLOATS,
    "onnx-integers": {"integer", "a2q"},
    "onnx-native": FLOATS,
    "qonnx": FLOATS,
}


@pytest.mark.parametrize("factory", [*CATALOGUE, *FOLDED], ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", HOLDING)
def test_a_scheme_is_held_and_equal_or_refused_by_layer(name, factory, models, trace, tmp_path):
    target = TARGETS[name]
    model, frozen = models(factory)
    reason = target.refusal(frozen)
    assert (reason is None) == (factory.__name__ in HOLDING[name]), reason
    require(name)
    path = tmp_path / f"model{target.suffix}"
    if reason is None:
        target.write(frozen, path, (X,), trace)
        assert target.verify(path, frozen, model, (X,)).startswith("equal")
        return
    with pytest.raises(ValueError, match=r"^layer (first|last): .* cannot hold .*; targets that can: bundle"):
        target.write(frozen, path, (X,), trace)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["nvfp4()", "vs_quant(4, 8)", "mxfp4()"])
@pytest.mark.parametrize("name", ["onnx", "onnx-native", "qonnx"])
def test_filters_of_one_channel_that_fill_no_whole_number_of_blocks_are_held(name, text, tmp_path):
    require(name)
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(1, 3, 7)).eval(), torch.randn(1, 1, 8, 8)
    frozen, target, path = bw.quantize(model, text, [x]), TARGETS[name], tmp_path / "model"
    target.write(frozen, path, (x,), Tracing())
    assert target.verify(path, frozen, model, (x,)).startswith("equal")


GRAPHS = [name for name in HOLDING if name != "bundle"]


def require(name):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], reason=f"needs the extra {NEEDS[name]}")


class Mixing(nn.Module):
    """One head of attention over embedded tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 8)

    def forward(self, token):
        x = self.table(token)
        return nn.functional.scaled_dot_product_attention(x, x, x)


@pytest.mark.parametrize("name", HOLDING)
def test_attention_and_embeddings_are_held(name, tmp_path):
    require(name)
    torch.manual_seed(0)
    token, target, path = torch.randint(20, (2, 5)), TARGETS[name], tmp_path / "model"
    model = Mixing().eval()
    frozen = bw.quantize(model, "integer(8, 8)", [token])
    target.write(frozen, path, (token,), Tracing())
    assert target.verify(path, frozen, model, (token,)).startswith("equal")


@pytest.mark.parametrize("name", GRAPHS)
def test_a_layer_that_differs_is_named_with_the_engine(name, trace, tmp_path):
    require(name)
    torch.manual_seed(0)
    model, target, path = Tiny().eval(), TARGETS[name], tmp_path / "model"
    frozen = bw.quantize(model, "integer(8, 8)", [X])
    target.write(frozen, path, (X,), trace)
    frozen.last.codes[0, 0, 0] ^= 64
    frozen.last.forget()
    with pytest.raises(ValueError, match=rf"layer last: \d+ integers of its (weight|sums) .* in {target.engine}"):
        target.verify(path, frozen, model, (X,))


def test_a_checkpoint_needs_a_model_of_transformers(models):
    assert set(TARGETS) == {*HOLDING, "compressed-tensors"}
    _, frozen = models(CATALOGUE[0])
    assert "models of transformers" in TARGETS["compressed-tensors"].refusal(frozen)


def test_the_targets_that_hold_a_model_are_named(models):
    assert ways_out(models(next(f for f in CATALOGUE if f.__name__ == "nvfp4"))[1]) == (
        "targets that can: bundle, onnx, onnx-native, qonnx"
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["onnx", "onnx-integers", "onnx-native", "qonnx"])
def test_a_model_in_another_float_is_refused_with_the_way_out(name, dtype, tmp_path):
    require(name)
    model, x = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)).eval().to(dtype), torch.randn(3, 8, dtype=dtype)
    frozen = bw.quantize(model, "integer(8, 8)", [x])
    match = (
        rf"0\.bias is in {str(dtype)[6:]}, and the file computes in float32: call \.float\(\).*targets that can: bundle"
    )
    with pytest.raises(ValueError, match=match):
        TARGETS[name].write(frozen, tmp_path / "model", (x,), Tracing())
