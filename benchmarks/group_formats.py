"""OverQ and Term Revealing beside a copy of the same tensor: native loops and torch kernels, first checked as equal.

    OMP_NUM_THREADS=1 python benchmarks/group_formats.py [--rounds 51]

Floats in, floats out. Single calls in shuffled order, `time.thread_time`, medians of ratios to a copy into memory that
is there. The row `copy again` is the same copy under another name: where it is not near 1, the machine is too noisy to
read the rest. Activations are those of a ReLU, channels last, with about 3 % outliers in 4 bits; torch kernels run
every eighth round.
"""

import argparse
import random
import time
from collections.abc import Callable

import numpy as np
import torch

from bitwright import kernels
from bitwright.formats import Int, Rounding
from bitwright.kernels import library
from bitwright.quantization import PerTensor, Quantizer, Range, Scale
from bitwright.schemes.overq import Overwrite, Pick
from bitwright.schemes.term_revealing import TermBudget

ACTIVATIONS = {"8x64x56x56": (8 * 56 * 56, 64), "8x256x14x14": (8 * 14 * 14, 256)}
WEIGHTS = {"512x4608": (512, 4608), "4096x4096": (4096, 4096)}
CLIP = 2.2
"""Standard deviations at the lanes' largest value: 2.8 % of a Gaussian's ReLU, outliers and all, lie beyond."""

LANE = Int(4, signed=False)
OVERWRITING = {
    "u4": LANE,
    "range, c = 1": Overwrite(LANE, cascade=1),
    "range, c = 4": Overwrite(LANE, cascade=4, tile=128),
    "range, c = 4, largest": Overwrite(LANE, cascade=4, tile=128, pick=Pick.LARGEST),
    "precision": Overwrite(LANE, range_overwrite=False, precision_overwrite=True),
    "range and precision, c = 4": Overwrite(LANE, cascade=4, precision_overwrite=True, tile=128),
    "data terms, s = 3": TermBudget(255, False, 1, 3),
}
REVEALING = {
    "s8": Int(8),
    "g = 8, k = 12": TermBudget(128, True, 8, 12),
    "g = 16, k = 24": TermBudget(128, True, 16, 24),
}
TORCH_EVERY = 8


def cases(formats: dict, rounding: Rounding, x: torch.Tensor, largest: float) -> dict[str, Callable[[], object]]:
    """What is timed, by name; wrong results are an error."""
    out = torch.empty_like(x)
    found: dict[str, Callable[[], object]] = {"copy": lambda: out.copy_(x), "copy again": lambda: out.copy_(x)}
    for name, format in formats.items():
        quantizer = Quantizer(format, (Scale(PerTensor()),), rounding)
        ranges = (Range(np.full((1, 1), -largest), np.full((1, 1), largest)),)

        def run(quantizer: Quantizer = quantizer, ranges: tuple = ranges) -> torch.Tensor:
            return kernels.fake_quantize(quantizer, x, ranges, out=out)

        def in_torch(run: Callable[[], torch.Tensor] = run) -> torch.Tensor:
            with kernels.only("torch"):
                return run()

        expected = in_torch().clone()
        for level in library.LEVELS:
            with library.level(level) as used, kernels.only("native"):
                if used == level and not torch.equal(run(), expected):
                    raise AssertionError(f"{name} with {level} is WRONG")
        found[name], found[f"{name}, torch"] = run, in_torch
    return found


def report(title: str, chosen: dict[str, Callable[[], object]], rounds: int) -> None:
    """Ratios to the copy of the same round."""
    shuffle = random.Random(0).shuffle
    ratios: dict[str, list[float]] = {name: [] for name in chosen}
    for round in range(rounds):
        order = [name for name in chosen if round % TORCH_EVERY == 0 or not name.endswith("torch")]
        shuffle(order)
        seconds = {}
        for name in order:
            start = time.thread_time()
            chosen[name]()
            seconds[name] = time.thread_time() - start
        for name, own in seconds.items():
            ratios[name].append(own / seconds["copy"])
    print(f"{title}, one thread: time over that of a copy, median and quartiles of {rounds} rounds")
    for name, own in ratios.items():
        low, middle, high = np.percentile(own, [25, 50, 75])
        print(f"  {name:34} {middle:8.2f}  [{low:.2f}, {high:.2f}]")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=51)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    for name, shape in ACTIVATIONS.items():
        x = torch.relu(torch.randn(*shape, generator=generator))
        report(name, cases(OVERWRITING, Rounding.NEAREST_UP, x, CLIP), arguments.rounds)
    for name, shape in WEIGHTS.items():
        w = torch.randn(*shape, generator=generator)
        report(name, cases(REVEALING, Rounding.NEAREST_AWAY, w, float(w.abs().max())), arguments.rounds)


if __name__ == "__main__":
    main()
