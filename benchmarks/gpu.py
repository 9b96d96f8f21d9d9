"""Fake quantization by every implementation: on a GPU where there is one, else compiled, eager and native code here.

    OMP_NUM_THREADS=1 python benchmarks/gpu.py [--megabytes 4] [--rounds 51]

Single calls in shuffled order, medians of ratios to a copy into memory that is there; each is first checked for
equality. `copy again` is the same copy under another name: where it is not near 1, the machine is too noisy to read
the rest. Calls on a GPU are timed by its own events, here by `time.thread_time`. Compiling needs a C++ compiler.
"""

import argparse
import random
import time
from collections.abc import Callable

import numpy as np
import torch

from bitwright import kernels
from bitwright.formats import Int
from bitwright.quantization import PerTensor, Quantizer, Range, Scale
from bitwright.schemes import mxfp4, nvfp4, vs_quant
from bitwright.schemes.ant import flint

QUANTIZERS = {
    "int8, a tensor": Quantizer(Int(8), (Scale(PerTensor()),)),
    "flint4, a tensor": Quantizer(flint(4), (Scale(PerTensor()),)),
    "VS-Quant 4/4": vs_quant(4, 4).weight, "MXFP4": mxfp4().weight, "NVFP4": nvfp4().weight,
}  # fmt: skip
COLUMNS = 1024


def cases(x: torch.Tensor) -> tuple[dict[str, Callable[[], object]], dict[str, float]]:
    """What is timed, by name, and seconds of compiling; wrong results are an error."""
    out = torch.empty_like(x)
    found: dict[str, Callable[[], object]] = {"copy": lambda: out.copy_(x), "copy again": lambda: out.copy_(x)}
    compiling = {}
    for name, quantizer in QUANTIZERS.items():
        ranges = tuple(None if s.share.splits_k else _largest(x, s.share.shape(*x.shape)) for s in quantizer.scales)

        def best(quantizer: Quantizer = quantizer, ranges: tuple = ranges) -> torch.Tensor:
            return kernels.fake_quantize(quantizer, x, ranges, out=out)

        def in_torch(run: Callable[[], torch.Tensor] = best) -> torch.Tensor:
            with kernels.only("torch"):
                return run()

        compiled = torch.compile(kernels.traced(quantizer, x, ranges), fullgraph=True)

        def in_compiled(compiled: Callable = compiled) -> torch.Tensor:
            return out.copy_(compiled(x))

        expected, start = in_torch().clone(), time.perf_counter()
        in_compiled()
        compiling[name] = time.perf_counter() - start
        fastest = "Triton" if x.is_cuda else "native"
        for kind, run in ((fastest, best), ("compiled", in_compiled), ("torch", in_torch)):
            out.zero_()
            if not torch.equal(run(), expected):
                raise AssertionError(f"{name}, {kind} is WRONG")
            found[f"{name}, {kind}"] = run
    return found, compiling


def _largest(x: torch.Tensor, shape: tuple[int, int]) -> Range:
    """Of each row, or of all."""
    magnitude = (x.abs().amax(1, keepdim=True) if shape[0] > 1 else x.abs().amax()[None, None]).cpu()
    return Range(-magnitude.numpy(), magnitude.numpy())


def seconds(run: Callable[[], object], is_there: bool) -> float:
    """Of one call."""
    if not is_there:
        start = time.thread_time()
        run()
        return time.thread_time() - start
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[4])
    parser.add_argument("--rounds", type=int, default=51)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    is_there = torch.cuda.is_available()
    place = torch.cuda.get_device_name() if is_there else "no GPU: one thread of the processor"
    shuffle = random.Random(0).shuffle
    for megabytes in arguments.megabytes:
        x = torch.randn(megabytes * 2**18 // COLUMNS, COLUMNS, generator=torch.Generator().manual_seed(0))
        chosen, compiling = cases(x.to("cuda" if is_there else "cpu"))
        times: dict[str, list[float]] = {name: [] for name in chosen}
        for _ in range(arguments.rounds):
            order = list(chosen)
            shuffle(order)
            for name in order:
                times[name].append(seconds(chosen[name], is_there))
        print(f"{place}, {megabytes} MB: time over that of a copy, median and quartiles of {arguments.rounds} rounds")
        for name, own in times.items():
            low, middle, high = np.percentile(np.divide(own, times["copy"]), [25, 50, 75])
            print(f"  {name:28} {middle:7.2f}  [{low:.2f}, {high:.2f}]")
        print("  seconds of compiling: " + ", ".join(f"{name} {taken:.1f}" for name, taken in compiling.items()))


if __name__ == "__main__":
    main()
