"""What quantization-aware training costs: one step against a float step, ours and Brevitas interleaved in one process.

    python benchmarks/training_step.py

The model has three convolutions (3, 32, 64, 64 channels) and a linear layer, inputs are 32 × 32 in batches of 32. A
step is forward, backward and SGD, on one thread. Ratios are medians over rounds, of wall time and of the process' own
time, which other work on the machine disturbs less; two float models tell the noise.
Brevitas is measured where it is installed (`pip install brevitas==0.13.4 dependencies==2.0.1 unfoldNd`).
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

import bitwright as bw
from bitwright.model.train import learn_norms

X, Y = torch.randn(32, 3, 32, 32), torch.randint(0, 10, (32,))

SCHEMES = {
    "integer(8, 8)": False, "integer(4, 4)": False, "a2q(8, 8, 16)": True, "a2q(4, 4, 12)": True,
    "a2q(8, 8, 16, each_sign=False)": True, "a2q(8, 8, 16, tile=64)": True, "vs_quant(4, 4)": False, "ant(4, 4)": False,
    "nvfp4()": False, "mxfp4()": False,
}  # fmt: skip
"""Schemes, and whether norms are learned."""


def network(
    conv: Callable[..., nn.Module], relu: Callable[[], nn.Module], linear: Callable[..., nn.Module]
) -> nn.Module:
    """The model of the comparison, of anyone's layers."""
    torch.manual_seed(0)
    return nn.Sequential(
        conv(3, 32, 3, padding=1), relu(), nn.MaxPool2d(2), conv(32, 64, 3, padding=1), relu(), nn.MaxPool2d(2),
        conv(64, 64, 3, padding=1), relu(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear(64, 10),
    )  # fmt: skip


def float_network() -> nn.Module:
    return network(nn.Conv2d, nn.ReLU, nn.Linear)


def ours(scheme: str, *, learns: bool) -> nn.Module:
    """A prepared model in training mode."""
    batch = bw.Batch((X,), Y)
    prepared = bw.calibrate(bw.prepare(float_network(), bw.from_text(scheme), (X,)), [batch])
    if learns:
        learn_norms(prepared)
    return prepared


def brevitas_models() -> dict[str, nn.Module]:
    """The peer's own layers at 8 bits, as its examples use them; empty where it is not installed."""
    try:
        import brevitas.nn as qnn
        from brevitas.quant import (
            Int8AccumulatorAwareWeightQuant,
            Int8AccumulatorAwareZeroCenterWeightQuant,
            Int8ActPerTensorFloat,
            Int8WeightPerChannelFloat,
            Uint8ActPerTensorFloat,
        )
    except ImportError as error:
        print(f"Brevitas is not measured: {error}")
        return {}
    models = {}
    for name, weight in {
        "brevitas int8": Int8WeightPerChannelFloat,
        "brevitas A2Q, P = 16": Int8AccumulatorAwareWeightQuant,
        "brevitas A2Q+, P = 16": Int8AccumulatorAwareZeroCenterWeightQuant,
    }.items():
        options = {} if weight is Int8WeightPerChannelFloat else {"weight_accumulator_bit_width": 16}
        inputs = iter([Int8ActPerTensorFloat, *[Uint8ActPerTensorFloat] * 3])

        def conv(a: int, b: int, k: int, padding: int, w=weight, o=options, i=inputs) -> nn.Module:
            quantizer = next(i)
            return qnn.QuantConv2d(
                a, b, k, padding=padding, weight_quant=w, input_quant=quantizer, input_collect_stats_steps=1, **o
            )

        def linear(a: int, b: int, w=weight, o=options, i=inputs) -> nn.Module:
            return qnn.QuantLinear(
                a, b, bias=True, weight_quant=w, input_quant=next(i), input_collect_stats_steps=1, **o
            )

        models[name] = network(conv, nn.ReLU, linear)
    return models


def stepper(model: nn.Module) -> Callable[[], None]:
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X), Y).backward()
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    models = {"float": float_network(), "float again": float_network()}
    models |= {text: ours(text, learns=learns) for text, learns in SCHEMES.items()} | brevitas_models()
    steps = {name: stepper(model) for name, model in models.items()}
    for step in steps.values():
        for _ in range(3):
            step()
    wall: dict[str, list[float]] = {name: [] for name in steps}
    own: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            start, began = time.perf_counter(), time.process_time()
            step()
            wall[name].append(time.perf_counter() - start)
            own[name].append(time.process_time() - began)
    print(f"{'model':34s} {'ms':>7s} {'wall':>7s} {'process':>8s}   quartiles of process")
    for name in steps:
        walls, owns = ([t / f for t, f in zip(times[name], times["float"], strict=True)] for times in (wall, own))
        low, middle, high = statistics.quantiles(owns, n=4)
        print(
            f"{name:34s} {1e3 * statistics.median(own[name]):7.1f} {statistics.median(walls):6.2f}× {middle:7.2f}×   "
            f"{low:.2f} to {high:.2f}"
        )


if __name__ == "__main__":
    main()
