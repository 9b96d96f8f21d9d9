"""What quantization-aware training costs: one step beside a float step, ours, torch's and Brevitas' in one process.

    OMP_NUM_THREADS=2 python benchmarks/training_step.py [--threads 2] [--only NAME ...]

The model is the ResNet-8 of MLPerf Tiny on 3 × 32 × 32 inputs in batches of 64, with BatchNorm in training mode; a step
is forward, backward and SGD. `float, channels last` is the layout of memory that quantized convolutions compute in,
which torch does not choose by itself. torch's fake quantization and Brevitas are measured where they are installed.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial

import torch
from timing import Case, Group, main
from torch import nn

import bitwright as bw
from bitwright.model.train import learn_norms, learn_ranges
from bitwright.model.zoo.networks_images import TinyResNet

GENERATOR = torch.Generator().manual_seed(0)
X, Y = torch.randn(64, 3, 32, 32, generator=GENERATOR), torch.randint(0, 10, (64,), generator=GENERATOR)

Prepare = Callable[[nn.Module], object]


def nothing(model: nn.Module) -> None:
    """Ranges stay as calibrated."""


OURS: dict[str, tuple[str, Prepare]] = {
    "LSQ, 8 bits": ("integer(8, 8, weight_range=MinimumError())", learn_ranges),
    "LSQ, 4 bits": ("integer(4, 4, weight_range=MinimumError())", learn_ranges),
    "A2Q+, 8 bits, P = 16": ("a2q(8, 8, 16)", learn_norms), "A2Q+, 4 bits, P = 12": ("a2q(4, 4, 12)", learn_norms),
    "A2Q, 8 bits, P = 16": ("a2q(8, 8, 16, each_sign=False)", learn_norms),
    "A2Q+ in tiles of 64": ("a2q(8, 8, 16, tile=64)", learn_norms),
    "VS-Quant 4/4": ("vs_quant(4, 4)", nothing), "integers, 8 bits": ("integer(8, 8)", nothing),
    "ANT, 4 bits": ("ant(4, 4)", nothing), "NVFP4": ("nvfp4()", nothing), "MXFP4": ("mxfp4()", nothing),
}  # fmt: skip
"""Schemes, and what is learned about their scales."""


def float_model() -> nn.Module:
    torch.manual_seed(0)
    return TinyResNet()


def ours(scheme: str, learn: Prepare) -> nn.Module:
    """A prepared model, calibrated on the batch."""
    model = bw.calibrate(bw.prepare(float_model(), bw.from_text(scheme), (X,)), [bw.Batch((X,), Y)])
    learn(model)
    return model


def replaced(make: Callable[[nn.Module, bool], nn.Module]) -> nn.Module:
    """The model with each convolution and linear layer made anew; the second argument: whether inputs have signs."""
    model = float_model()
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    for name in names:
        parent, _, last = name.rpartition(".")
        layer = model.get_submodule(name)
        model.get_submodule(parent)._modules[last] = make(layer, name == names[0])
    return model


class TorchLayer(nn.Module):
    """A layer between torch's own fused fake quantizers: uint8 or int8 inputs a tensor, int8 weights a channel."""

    def __init__(self, layer: nn.Module, is_signed: bool) -> None:
        super().__init__()
        from torch.ao import quantization

        self.layer = layer
        lowest, highest, dtype = (-128, 127, torch.qint8) if is_signed else (0, 255, torch.quint8)
        self.input = quantization.FusedMovingAvgObsFakeQuantize(
            quantization.MovingAverageMinMaxObserver, quant_min=lowest, quant_max=highest, dtype=dtype
        )
        self.weight = quantization.default_fused_per_channel_wt_fake_quant()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        layer, x, weight = self.layer, self.input(x), self.weight(self.layer.weight)
        if isinstance(layer, nn.Linear):
            return nn.functional.linear(x, weight, layer.bias)
        return nn.functional.conv2d(x, weight, layer.bias, layer.stride, layer.padding)


def peers() -> dict[str, Callable[[], nn.Module]]:
    """Models of torch's fake quantization, and of Brevitas at 8 bits as its examples use it, where it is installed."""
    found: dict[str, Callable[[], nn.Module]] = {"torch.ao int8": partial(replaced, TorchLayer)}
    try:
        import brevitas.nn as qnn
        from brevitas import quant
    except ImportError:
        return found

    def layer(of: nn.Module, is_signed: bool, weight: type, options: dict[str, int]) -> nn.Module:
        shared = {
            "weight_quant": weight, "bias": of.bias is not None, "input_collect_stats_steps": 1, **options,
            "input_quant": quant.Int8ActPerTensorFloat if is_signed else quant.Uint8ActPerTensorFloat,
        }  # fmt: skip
        if isinstance(of, nn.Linear):
            return qnn.QuantLinear(of.in_features, of.out_features, **shared)
        return qnn.QuantConv2d(
            of.in_channels, of.out_channels, of.kernel_size[0], of.stride, padding=of.padding, **shared
        )

    register = {"weight_accumulator_bit_width": 16}
    for name, weight, options in (
        ("Brevitas int8", quant.Int8WeightPerChannelFloat, {}),
        ("Brevitas A2Q, P = 16", quant.Int8AccumulatorAwareWeightQuant, register),
        ("Brevitas A2Q+, P = 16", quant.Int8AccumulatorAwareZeroCenterWeightQuant, register),
    ):
        found[name] = partial(replaced, partial(layer, weight=weight, options=options))
    return found


def stepper(model: nn.Module) -> Callable[[], None]:
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X), Y).backward()
        optimizer.step()

    for _ in range(2):
        step()
    return step


def groups(arguments: argparse.Namespace) -> Iterator[Group]:
    rows: dict[str, Callable[[], nn.Module]] = {
        "float, channels last": lambda: float_model().to(memory_format=torch.channels_last),
        **{name: partial(ours, *setting) for name, setting in OURS.items()},
    }
    others = peers()
    chosen = [name for name in rows | others if not arguments.only or name in arguments.only]
    cases = [Case(name, stepper((rows | others)[name]()), note="peer" if name in others else "") for name in chosen]
    yield Group("a training step of ResNet-8, batch 64", Case("float step", stepper(float_model())), cases)


if __name__ == "__main__":
    main(__doc__ or "", groups, ("--only", {"nargs": "+", "default": [], "metavar": "NAME"}))
