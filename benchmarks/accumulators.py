"""Products through registers beside one float32 GEMM of the same shape, each first checked for equality.

    OMP_NUM_THREADS=1 python benchmarks/accumulators.py [--shapes 1024x1024x1024 3136x576x64] [--rounds 21] [--torch]

Shapes are rows x K x outputs. Single calls in shuffled order, `time.thread_time`, medians of ratios to torch's GEMM of
floats. Operands are packed in every call, overflows counted, results scaled to float64. The row `GEMM again` is the same
GEMM under another name: where it is not near 1, the machine is too noisy to read the rest. With `--torch` the torch
kernels are timed too.
"""

import argparse
import random
import time
from collections.abc import Callable

import numpy as np
import torch

from bitwright import kernels
from bitwright.datapath import WIDE, Accumulator, Aligned, Datapath, Overflow
from bitwright.formats import BFLOAT16, E4M3, Int, Minifloat
from bitwright.kernels import Operand, Stationary, Unsupported, library, native
from bitwright.quantization import PerRow, PerTensor, Quantizer, Scale
from bitwright.schemes import mxfp4, mxfp8, nvfp4

SHAPES = ("1024x1024x1024", "512x8192x512", "3136x576x64")
E5M8 = Minifloat(5, 8, bias=10)


def integers(bits: int) -> tuple[Quantizer, Quantizer]:
    """Unsigned inputs and signed weights."""
    x, w = Int(bits, signed=False), Int(bits, narrow=True)
    return Quantizer(x, (Scale(PerTensor()),)), Quantizer(w, (Scale(PerRow()),))


def saturating(bits: int) -> Accumulator:
    return Accumulator(Int(bits), Overflow.SATURATE)


E4M3S = (Quantizer(E4M3, (Scale(PerTensor()),)), Quantizer(E4M3, (Scale(PerRow()),)))
CASES: dict[str, tuple[tuple[Quantizer, Quantizer], Datapath]] = {
    "8 bits, wide": (integers(8), Datapath()),
    "8 bits, wrap at 16": (integers(8), Datapath(Accumulator(Int(16), Overflow.WRAP))),
    "4 bits, saturate at 10": (integers(4), Datapath(saturating(10))),
    "4 bits, saturate at 12": (integers(4), Datapath(saturating(12))),
    "8 bits, saturate at 16": (integers(8), Datapath(saturating(16))),
    "8 bits, saturate at 18": (integers(8), Datapath(saturating(18))),
    "8 bits, saturate at 20": (integers(8), Datapath(saturating(20))),
    "8 bits, saturate at 16 by 16": (integers(8), Datapath(WIDE, saturating(16), tile=16)),
    "4 bits, E5M8": (integers(4), Datapath(Accumulator(E5M8))),
    "4 bits, E5M8, rounded products": (integers(4), Datapath(Accumulator(E5M8), product=E5M8)),
    "4 bits, E5M8 by 16": (integers(4), Datapath(WIDE, Accumulator(E5M8), tile=16)),
    "MXFP4": ((mxfp4().weight, mxfp4().weight), mxfp4().datapath),
    "NVFP4": ((nvfp4().weight, nvfp4().weight), nvfp4().datapath),
}  # fmt: skip
IN_TORCH: dict[str, tuple[tuple[Quantizer, Quantizer], Datapath]] = {
    "MXFP8": ((mxfp8().weight, mxfp8().weight), mxfp8().datapath),
    "8 bits, E5M8": (integers(8), Datapath(Accumulator(E5M8))),
    "E4M3 into BFLOAT16": (E4M3S, Datapath(Accumulator(BFLOAT16))),
    "E4M3, 14 aligned bits by 32": (E4M3S, Datapath(WIDE, Accumulator(Minifloat(8, 13)), 32, product=Aligned(14))),
}
"""What the native library does not take."""
CHECKED_ROWS = 200


def jobs(shape: tuple[int, int, int], *, with_torch: bool) -> dict[str, Callable[[], object]]:
    """What is timed, by name; wrong results are an error."""
    m, k, n = shape
    generator = torch.Generator().manual_seed(0)
    x, w = torch.randn(m, k, generator=generator), torch.randn(n, k, generator=generator)
    found: dict[str, Callable[[], object]] = {"GEMM": lambda: x @ w.T, "GEMM again": lambda: x @ w.T}
    for name, (quantizers, datapath) in CASES.items():
        is_unsigned = quantizers[0].format.bounds().lowest == 0
        left = kernels.quantize(quantizers[0], x.abs() if is_unsigned else x)
        right = Stationary(kernels.quantize(quantizers[1], w))
        part = left.take(slice(0, CHECKED_ROWS))
        with kernels.only("torch"):
            expected = kernels.matmul(datapath, part, right)
        for level in library.LEVELS[1:]:
            with library.level(level) as used:
                if used != level:
                    continue
                values, *counts = native.matmul(datapath, part, right)
            if not torch.equal(values, expected[0]) or tuple(counts) != expected[1:]:
                raise AssertionError(f"{name} with {level} is WRONG")
            found[f"{name}, {level}"] = lambda d=datapath, a=left, b=right, on=level: packed_again(d, a, b, on)
        if with_torch:
            found[f"{name}, torch"] = lambda d=datapath, a=left, b=right: in_torch(d, a, b)
    if with_torch:
        for name, (quantizers, datapath) in IN_TORCH.items():
            left, right = kernels.quantize(quantizers[0], x), Stationary(kernels.quantize(quantizers[1], w))
            found[f"{name}, torch"] = lambda d=datapath, a=left, b=right: in_torch(d, a, b)
    return found


def packed_again(datapath: Datapath, x: Operand, w: Stationary, level: str) -> object:
    w.packed.clear()
    with library.level(level):
        return native.matmul(datapath, x, w)


def in_torch(datapath: Datapath, x: Operand, w: Stationary) -> object:
    with kernels.only("torch"):
        try:
            return kernels.matmul(datapath, x, w)
        except NotImplementedError as reason:
            raise Unsupported(str(reason)) from reason


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--torch", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    shuffle = random.Random(0).shuffle
    for text in arguments.shapes:
        m, k, n = map(int, text.split("x"))
        chosen = jobs((m, k, n), with_torch=arguments.torch)
        times: dict[str, list[float]] = {name: [] for name in chosen}
        for _ in range(arguments.rounds):
            order = list(chosen)
            shuffle(order)
            for name in order:
                start = time.thread_time()
                chosen[name]()
                times[name].append(time.thread_time() - start)
        print(
            f"{text}, one thread: time over that of a float32 GEMM, median and quartiles of {arguments.rounds} rounds"
        )
        for name, own in times.items():
            low, middle, high = np.percentile(np.divide(own, times["GEMM"]), [25, 50, 75])
            print(f"  {name:42} {middle:7.2f}  [{low:.2f}, {high:.2f}]", flush=True)


if __name__ == "__main__":
    main()
