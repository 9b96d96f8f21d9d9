"""Learned norms: equal to their definition, gradients of the specification, and a bound that training never breaks."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.model.layers import FakeQuantizedLayer, QuantizedLayer
from bitwright.model.train import cross_entropy, learn_norms, log_norm_excess, norm_excess, penalised
from bitwright.model.weight_norm import LearnedNorm, projected, unchanged
from bitwright.quantization.weight_norm import NormBound, normalised
from bitwright.schemes.a2q import L1Bounded

V1 = torch.tensor([[0.5, -0.25, 0.125, 0.375, -0.5, 0.0625, -0.125, 0.3125]])
UPSTREAM = torch.tensor([[1, -2, 3, 0.5, -1, 2, 0.25, -0.75]])


def norm_of(t: float, d: float, bound: NormBound, rows: int = 1, tiles: int = 1) -> LearnedNorm:
    made = LearnedNorm(torch.ones(rows, tiles), torch.ones(rows, 1), bound, float(bound.largest))
    nn.init.constant_(made.log_norm, t)
    nn.init.constant_(made.log_scale, d)
    return made


def a2q_bound(p: int, *, centred: bool = False) -> NormBound:
    """Of 4-bit weights and 4-bit unsigned inputs."""
    largest = 2 ** (p - 1) - 1
    return NormBound(7, 2 * largest / 15 if centred else largest / 16, centred)


@pytest.mark.parametrize(
    ("d", "t", "p", "of_t", "of_d"),
    [
        (-4, 0, 9, 0.0, 0.3249127),
        (-4, -1, 16, 0.2960316, 0.0758130 - 0.2960316),
        (-4, 3, 16, 1.1552453, 2.2310674 - 1.1552453),
    ],
)
def test_gradients_of_norm_and_scale_are_those_of_the_specification(d, t, p, of_t, of_d):
    norm = norm_of(t, d, a2q_bound(p))
    norm(V1).backward(UPSTREAM)
    assert norm.log_norm.grad is not None
    assert norm.log_scale.grad is not None
    # the specification prints seven decimals
    np.testing.assert_allclose(norm.log_norm.grad.item(), of_t, atol=2e-7)
    np.testing.assert_allclose(norm.log_scale.grad.item(), of_d, atol=2e-7)


def soft(v, t, d, bound, straight):
    """The same by automatic differentiation: truncation passes gradients, clipping does not."""
    if bound.is_centred:
        v = v - v.mean(2, keepdim=True)
    s = d.exp2()
    aim = (t.exp2() / s).clamp(max=bound.norm)
    level = v * (aim / v.abs().sum(2))[..., None]
    whole = level + (level.detach() * (1 + 2.0**-20)).trunc() - level.detach() if straight else level
    return whole.clamp(-bound.largest, bound.largest).flatten(1) * s


@pytest.mark.parametrize("centred", [False, True], ids=["A2Q", "A2Q+"])
@pytest.mark.parametrize("tile", [None, 16])
@pytest.mark.parametrize("t", [-2.0, 1.0, 6.0])
def test_gradients_are_those_of_the_formula(centred, tile, t):
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(20, 48, generator=generator, dtype=torch.float64)
    upstream = torch.randn(20, 48, generator=generator)
    bound = NormBound(7, 20.3, centred, tile)
    tiles, size = bound.shape(48)
    norm = norm_of(t, -3.0, bound, 20, tiles)
    with torch.no_grad():
        norm.log_norm += torch.randn(20, tiles, generator=generator)
        norm.log_scale += torch.randn(20, 1, generator=generator)
    rows = v.float().requires_grad_()
    norm(rows).backward(upstream)
    exact = [x.detach().double().requires_grad_() for x in (rows, norm.log_norm, norm.log_scale)]
    soft(exact[0].view(20, tiles, size), *exact[1:], bound, straight=True).backward(upstream.double())
    for found, expected in zip((rows, norm.log_norm, norm.log_scale), exact, strict=True):
        assert found.grad is not None
        assert expected.grad is not None
        largest = float(expected.grad.abs().max())
        # results are rounded to float32 once, sums of 48 terms cancel to a few of their last bits
        np.testing.assert_allclose(found.grad.numpy(), expected.grad.numpy(), rtol=1e-6, atol=1e-6 * max(largest, 1))


@pytest.mark.parametrize("centred", [False, True], ids=["A2Q", "A2Q+"])
@pytest.mark.parametrize("tile", [None, 7])
def test_torch_gives_the_integers_of_the_reference(centred, tile):
    generator = np.random.default_rng(3)
    for k in (1, 5, 16, 65):
        bound = a2q_bound(9, centred=centred)
        bound = NormBound(bound.largest, bound.norm, centred, tile)
        tiles, _ = bound.shape(k)
        v = generator.normal(size=(400, k)).astype(np.float32)
        v[::7], v[1::7] = 0, np.rint(v[1::7])
        norm = norm_of(0, 0, bound, 400, tiles)
        with torch.no_grad():
            norm.log_norm.copy_(torch.from_numpy(generator.uniform(-4, 8, (400, tiles))))
            norm.log_scale.copy_(torch.from_numpy(np.rint(generator.uniform(-8, 2, (400, 1)))))
        found = norm(torch.from_numpy(v)).detach().numpy() / np.exp2(norm.log_scale.detach().numpy())
        expected = normalised(v, norm.log_norm.detach().numpy(), norm.log_scale.detach().numpy(), bound)
        np.testing.assert_array_equal(found, expected)


def test_a_row_of_zeros_stays_finite_and_can_leave_zero():
    rows = torch.zeros(1, 4, requires_grad=True)
    norm = norm_of(0, -2, a2q_bound(9))
    out = norm(rows)
    out.backward(torch.ones(1, 4))
    assert not out.any()
    assert rows.grad is not None
    assert bool(rows.grad.isfinite().all())
    assert bool((rows.grad != 0).all())


def test_the_regulariser_takes_what_is_beyond_the_bound():
    model = nn.Sequential(norm_of(3, -4, a2q_bound(9)))
    bound = 255 / 16
    assert norm_excess(model).item() == pytest.approx(8 - bound / 16, rel=1e-6)
    assert log_norm_excess(model).item() == pytest.approx(3 - (math.log2(bound) - 4), rel=1e-6)
    model = nn.Sequential(norm_of(-1, -4, a2q_bound(9)))
    assert norm_excess(model).item() == log_norm_excess(model).item() == 0


class Network(nn.Module):
    """A strided, a grouped, a depthwise convolution, a recurrent and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.grouped = nn.Conv2d(3, 8, 3, stride=2), nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.depthwise, self.recurrent = nn.Conv2d(8, 8, 3, groups=8), nn.GRU(8, 6, batch_first=True)
        self.last = nn.Linear(6, 4)

    def forward(self, x):
        x = self.depthwise(self.grouped(self.first(x).relu()).relu()).relu()
        return self.last(self.recurrent(x.flatten(2).movedim(1, 2))[0][:, -1])


def batch_of(count: int = 24) -> bw.Batch:
    generator = torch.Generator().manual_seed(0)
    return bw.Batch((torch.randn(count, 3, 11, 11, generator=generator),), torch.arange(count) % 4)


def prepared(scheme: str) -> nn.Module:
    torch.manual_seed(0)
    batch = batch_of()
    return bw.calibrate(bw.prepare(Network(), bw.from_text(scheme), batch.inputs), [batch])


SCHEMES = (
    "a2q(4, 4, 9)", "a2q(4, 4, 9, each_sign=False)", "a2q(8, 8, 16)", "a2q(4, 4, 8, tile=8)",
    "a2q(3, 5, 11, each_sign=False, has_signed_inputs=True)",
)  # fmt: skip


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("start", [projected, unchanged], ids=["projected", "unchanged"])
def test_training_keeps_the_bound_and_exports_the_integers_it_trained(scheme, start):
    model = prepared(scheme)
    assert learn_norms(model, start) == learn_norms(model, start)  # the second time nothing is left to do
    batch = batch_of()
    loss = penalised(cross_entropy, norm_excess)
    history = bw.train(model, [batch], bw.Training(epochs=12, learning_rate=0.02), loss=loss)
    assert history.losses[-1] < history.losses[0]
    frozen = bw.freeze(model)  # proves each layer's register
    with torch.no_grad():
        # sums are exact; scales multiply them in another order
        torch.testing.assert_close(frozen(*batch.inputs), model(*batch.inputs), rtol=1e-4, atol=1e-5)
    layers = {m.name: m for m in model.modules() if isinstance(m, FakeQuantizedLayer)}
    assert len(layers) > 5
    for layer in frozen.modules():
        if isinstance(layer, QuantizedLayer):
            source = layers[layer.name]
            assert isinstance(source.weight_quantizer.format, L1Bounded)
            stored = layer.quantized_weight()
            v = source.lowering.weight_rows(source.weight.detach(), source.block).numpy()
            trained = normalised(
                v, source.norm.log_norm.detach().numpy(), source.norm.log_scale.detach().numpy(), source.norm.bound
            )
            np.testing.assert_array_equal(stored.elements().reshape(trained.shape), trained)


@pytest.mark.parametrize("scheme", ["a2q(4, 4, 9, each_sign=False)", "a2q(4, 4, 9)"], ids=["A2Q", "A2Q+"])
def test_the_projection_starts_nearer_to_the_float_weights(scheme):
    """Relative errors of a random ResNet18 fall from 0.980 to 0.939 (A2Q) and 0.950 to 0.900 (A2Q+) at 12 bits."""

    @torch.no_grad()
    def error(start) -> float:
        model = prepared(scheme)
        layers = [m for m in model.modules() if isinstance(m, FakeQuantizedLayer)]
        before = [layer.weight.detach().clone() for layer in layers]
        learn_norms(model, start)
        wrong = [(layer.fake_weight() - b).square().sum() for layer, b in zip(layers, before, strict=True)]
        return float(sum(wrong)) / float(sum(b.square().sum() for b in before))

    assert error(projected) < error(unchanged) < 1


def test_a_checkpoint_resumes_learned_norms(tmp_path):
    def run(epochs: int, path):
        model = prepared("a2q(4, 4, 9)")
        learn_norms(model)
        bw.train(model, [batch_of()], bw.Training(epochs=epochs, learning_rate=0.01), checkpoint=path)
        return model.state_dict()

    straight = run(4, tmp_path / "a")
    run(4, tmp_path / "b")
    for name, tensor in run(4, tmp_path / "b").items():
        assert torch.equal(tensor, straight[name]), name


def test_a_model_without_bounded_weights_is_refused():
    with pytest.raises(ValueError, match=r"bounds its norm; use a scheme such as a2q"):
        learn_norms(prepared("integer(4, 4)"))
    with pytest.raises(ValueError, match="call learn_norms"):
        norm_excess(prepared("integer(4, 4)"))


def test_a_float_input_to_a_bounded_layer_names_the_layer():
    scheme = bw.from_text("a2q(4, 4, 9)")
    weight_only = bw.Scheme(None, scheme.weight, scheme.datapath)
    batch = batch_of()
    with pytest.raises(ValueError, match=r"layer first: .* the input stays in float .* give the scheme an input"):
        bw.calibrate(bw.prepare(Network(), weight_only, batch.inputs), [batch])


def test_an_infeasible_width_names_the_smallest():
    with pytest.raises(ValueError, match="accumulator_bits=9 is the least"):
        bw.from_text("a2q(8, 8, 8)")
    bw.from_text("a2q(8, 8, 9)")
    with pytest.raises(ValueError, match="accumulator_bits=6 is the least"):
        bw.from_text("a2q(4, 4, 5, each_sign=False)")
    bw.from_text("a2q(4, 4, 6, each_sign=False)")
