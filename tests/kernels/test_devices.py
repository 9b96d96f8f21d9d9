"""The torch kernels run where their tensors are, with the same results."""

import copy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bitwright import kernels
from bitwright.datapath import Accumulator, Cyclic, Datapath, Overflow
from bitwright.formats import E2M1, FLOAT16, FLOAT32, Int, Rounding
from bitwright.kernels import Stationary
from bitwright.model.prepare import calibrate, freeze, prepare
from bitwright.model.task import Batch
from bitwright.quantization import PerBlock, PerColumns, PerRow, PerTensor, Quantizer, Range, Scale, Statistics, Zero
from bitwright.schemes import CATALOGUE, integer, mxfp4, nvfp4, overq, vs_quant

sys.path.insert(0, str(Path(__file__).parent))
from pretend import Pretender, gpu

pytestmark = pytest.mark.filterwarnings("ignore::bitwright.kernels.SlowKernel")


def sample(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_same(found, expected):
    for name in ("elements", "inside", "outside"):
        a, b = getattr(found, name), getattr(expected, name)
        assert (a is None) == (b is None)
        if a is not None:
            assert isinstance(a, Pretender), name
            assert torch.equal(a.inner, b), name


def test_a_pretender_refuses_to_meet_tensors_of_the_processor():
    with gpu() as device:
        there = torch.ones(2).to(device)
        with pytest.raises(RuntimeError, match="on cpu"):
            there + torch.ones(2)
        with pytest.raises((RuntimeError, TypeError)):
            there.numpy()
        assert torch.equal((there + torch.tensor(1.0)).cpu(), torch.full((2,), 2.0))


def test_a_pretender_divides_by_numbers_as_a_gpu_does():
    with gpu() as device:
        x = torch.arange(100.0).to(device)
        assert not torch.equal((x / 6.0).cpu(), torch.arange(100.0) / 6.0)
        assert torch.equal((x / x.new_full((1,), 6.0)).cpu(), torch.arange(100.0) / 6.0)


@pytest.mark.parametrize("factory", CATALOGUE, ids=lambda f: f.__name__)
def test_every_scheme_quantizes_and_multiplies_there_as_here(factory):
    scheme = factory()
    parts = []
    for seed, chosen in enumerate((scheme.input, scheme.weight)):
        x = sample(seed, 6, 70)
        seen = Statistics.of(x.numpy())
        quantizer = chosen.fit(seen, kernels.squared_errors)
        ranges = quantizer.estimate(seen, kernels.squared_errors)
        with kernels.only("torch", "reference"):
            expected = kernels.quantize(quantizer, x, ranges)
        with gpu() as device:
            found = kernels.quantize(quantizer, x.to(device), ranges)
            assert torch.equal(kernels.fake_quantize(quantizer, x.to(device), ranges).cpu(), expected.decode())
        assert_same(found, expected)
        parts.append((found, expected))
    (x, x_here), (w, w_here) = parts
    with kernels.only("torch", "reference"):
        expected = kernels.matmul(scheme.datapath, x_here, Stationary(w_here))
    with gpu():
        found = kernels.matmul(scheme.datapath, x, Stationary(w))
    assert torch.equal(found[0].inner, expected[0])
    assert found[1:] == expected[1:]


QUANTIZERS = [
    Quantizer(Int(4), (Scale(PerRow()),), rounding) for rounding in Rounding if rounding is not Rounding.STOCHASTIC
] + [
    Quantizer(E2M1, (Scale(PerBlock(16)),)), Quantizer(Int(4), (Scale(PerColumns(8)),)),
    nvfp4(four_over_six=True).weight,
    Quantizer(Int(4), (Scale(PerTensor()), Scale(PerBlock(16), Int(6, signed=False)))),
]  # fmt: skip


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=repr)
def test_every_kind_of_scale_quantizes_there_as_here(quantizer):
    x = sample(0, 5, 37)
    with kernels.only("torch", "reference"):
        expected = kernels.quantize(quantizer, x)
    with gpu() as device:
        found = kernels.quantize(quantizer, x.to(device))
    assert_same(found, expected)


def test_zero_points_are_there():
    quantizer = Quantizer(Int(8, signed=False), (Scale(PerRow()),), zero=Zero.FITTED)
    x = sample(0, 6, 40)
    ranges = (Range(x.numpy().min(1, keepdims=True), x.numpy().max(1, keepdims=True)),)
    with kernels.only("torch"):
        expected = kernels.quantize(quantizer, x, ranges)
    with gpu() as device:
        found = kernels.quantize(quantizer, x.to(device), ranges)
    assert_same(found, expected)


REGISTERS = [
    Datapath(), Datapath(inner=Accumulator(Int(7), Overflow.WRAP)),
    Datapath(inner=Accumulator(Int(7), Overflow.SATURATE)),
    Datapath(inner=Accumulator(FLOAT32)), Datapath(inner=Accumulator(FLOAT16, rounding=Rounding.TOWARD_ZERO)),
    Datapath(outer=Accumulator(FLOAT16), tile=8), Datapath(outer=Accumulator(Int(9), Overflow.SATURATE), tile=8),
    Datapath(inner=Accumulator(Int(7), Overflow.WRAP), outer=Accumulator(Int(9), Overflow.WRAP), tile=16),
    Datapath(inner=Accumulator(Int(8), Overflow.WRAP, readout=Cyclic(3))),
]  # fmt: skip


@pytest.mark.parametrize(
    "scale", [(Scale(PerRow()),), (Scale(PerRow()), Scale(PerBlock(16), Int(3, signed=False)))], ids=len
)
@pytest.mark.parametrize("datapath", REGISTERS, ids=repr)
def test_every_register_works_there_as_here(datapath, scale):
    x, w = (Quantizer(Int(4), scale).quantize(np.asarray(sample(seed, rows, 40))) for seed, rows in ((0, 4), (1, 3)))
    x, w = kernels.Operand.of(x), kernels.Operand.of(w)
    with kernels.only("torch", "reference"):
        expected = kernels.matmul(datapath, x, Stationary(w))
    with gpu() as device:
        found = kernels.matmul(datapath, x.to(device), Stationary(w.to(device)))
    assert torch.equal(found[0].inner, expected[0])
    assert found[1:] == expected[1:]


def test_what_only_the_reference_takes_comes_back_to_the_device():
    quantizer = Quantizer(Int(4, signed=False), (Scale(PerTensor()),), zero=Zero.FITTED)
    with gpu() as device, pytest.warns(kernels.SlowKernel):
        found = kernels.quantize(quantizer, sample(0, 2, 3).to(device))
    assert_same(found, kernels.Operand.of(quantizer.quantize(sample(0, 2, 3).numpy())))


@pytest.mark.parametrize("scheme", [integer(4, 4), mxfp4(), overq(), vs_quant()], ids=lambda s: s.source[:20])
def test_a_network_evaluates_there_as_here_simulated_and_exact(scheme):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Flatten(),
        nn.Linear(288, 5),
    ).eval()  # fmt: skip
    x = sample(0, 2, 3, 8, 8)
    simulated = calibrate(prepare(network, scheme, (x,)), [Batch((x,), torch.zeros(2))])
    exact = freeze(copy.deepcopy(simulated))
    for model in (simulated, exact):
        with torch.no_grad(), kernels.only("native", "torch", "reference"):
            expected = model(x)
            with gpu() as device:
                for module in model.modules():
                    for tensors in (module._parameters, module._buffers):
                        tensors.update({k: t.detach().to(device) for k, t in tensors.items() if t is not None})
                found = model(x.to(device))
        assert torch.equal(found.inner, expected)
