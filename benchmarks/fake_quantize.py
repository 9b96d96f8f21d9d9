"""Fake quantization beside a copy of the same matrix: native loops and torch kernels, each first checked for equality.

    OMP_NUM_THREADS=1 python benchmarks/fake_quantize.py [--megabytes 4 64] [--rounds 51] [--torch] [--threads 1]

Single calls in shuffled order, `time.thread_time` (with several threads the wall's), medians of ratios to a copy into
memory that is there. The row `copy again` is the same copy under another name: where it is not near 1, the machine is
too noisy to read the rest. Rows with `alloc` return new memory; `clone` is the copy that does.
"""

import argparse
import random
import time
from collections.abc import Callable

import numpy as np
import torch

from bitwright import kernels
from bitwright.formats import Int
from bitwright.kernels import library
from bitwright.quantization import PerTensor, Quantizer, Range, Scale
from bitwright.schemes import mxfp4, mxfp8, nvfp4, vs_quant
from bitwright.schemes.ant import flint, power_of_two

QUANTIZERS = {
    "int8, a tensor": Quantizer(Int(8), (Scale(PerTensor()),)),
    "flint4, a tensor": Quantizer(flint(4), (Scale(PerTensor()),)),
    "PoT4, a tensor": Quantizer(power_of_two(4), (Scale(PerTensor()),)),
    "VS-Quant 4/4": vs_quant(4, 4).weight, "MXFP4": mxfp4().weight, "MXFP8": mxfp8().weight, "NVFP4": nvfp4().weight,
}  # fmt: skip
ALLOCATED = ("int8, a tensor", "NVFP4")
COLUMNS = 1024


def cases(x: torch.Tensor, with_torch: bool) -> dict[str, Callable[[], object]]:
    """What is timed, by name; wrong results are an error."""
    out = torch.empty_like(x)
    found: dict[str, Callable[[], object]] = {"copy": lambda: out.copy_(x), "copy again": lambda: out.copy_(x)}
    found["clone"] = x.clone
    for name, quantizer in QUANTIZERS.items():
        ranges = tuple(
            None if scale.share.splits_k else _largest(x, scale.share.shape(*x.shape)) for scale in quantizer.scales
        )

        def run(
            quantizer: Quantizer = quantizer, ranges: tuple = ranges, out: torch.Tensor | None = out
        ) -> torch.Tensor:
            return kernels.fake_quantize(quantizer, x, ranges, out=out)

        def in_torch(run: Callable[[], torch.Tensor] = run) -> torch.Tensor:
            with kernels.only("torch"):
                return run()

        expected = in_torch().clone()
        for level in library.LEVELS[1:]:

            def at_level(run: Callable[..., torch.Tensor] = run, level: str = level, **more: None) -> torch.Tensor:
                with library.level(level):
                    return run(**more)

            with library.level(level) as used:
                if used != level:
                    continue
            if not torch.equal(at_level(), expected):
                raise AssertionError(f"{name} with {level} is WRONG")
            found[f"{name}, {level}"] = at_level
            if name in ALLOCATED:
                found[f"{name}, {level}, alloc"] = lambda at_level=at_level: at_level(out=None)
        if with_torch:
            found[f"{name}, torch"] = in_torch
    return found


def _largest(x: torch.Tensor, shape: tuple[int, int]) -> Range:
    """Of each row, or of all."""
    magnitude = x.abs().amax(1, keepdim=True) if shape[0] > 1 else x.abs().amax()[None, None]
    return Range(-magnitude.numpy(), magnitude.numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[4, 64])
    parser.add_argument("--rounds", type=int, default=51)
    parser.add_argument("--torch", action="store_true", help="time the torch kernels as well")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    now = time.thread_time if arguments.threads == 1 else time.perf_counter
    shuffle = random.Random(0).shuffle
    for megabytes in arguments.megabytes:
        x = torch.randn(megabytes * 2**18 // COLUMNS, COLUMNS, generator=torch.Generator().manual_seed(0))
        chosen = cases(x, arguments.torch)
        times: dict[str, list[float]] = {name: [] for name in chosen}
        for _ in range(arguments.rounds):
            order = list(chosen)
            shuffle(order)
            for name in order:
                start = now()
                chosen[name]()
                times[name].append(now() - start)
        print(
            f"{megabytes} MB, {arguments.threads} threads: time over that of a copy, median and quartiles of "
            f"{arguments.rounds} rounds"
        )
        for name, own in times.items():
            ratios = np.divide(own, times["copy"])
            low, middle, high = np.percentile(ratios, [25, 50, 75])
            print(f"  {name:32} {middle:7.2f}  [{low:.2f}, {high:.2f}]")


if __name__ == "__main__":
    main()
