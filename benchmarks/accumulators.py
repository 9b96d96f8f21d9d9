"""Products through registers beside one float32 GEMM of the same shape.

    OMP_NUM_THREADS=1 python benchmarks/accumulators.py [--shapes 1024x1024x1024 3136x576x64] [--rounds 21] [--torch]

Weights are packed in every call, overflows counted, results scaled to float64.
"""

import argparse
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from timing import Case, Group, main

from bitwright import kernels
from bitwright.datapath import WIDE, Accumulator, Aligned, Datapath, Overflow
from bitwright.formats import BFLOAT16, E4M3, Int, Minifloat
from bitwright.kernels import Operand, Stationary, library, native
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
    "8 bits, checked at 24": (integers(8), Datapath(Accumulator(Int(24), Overflow.FORBID))),
    "8 bits, saturate at 16 by 16": (integers(8), Datapath(WIDE, saturating(16), tile=16)),
    "8 bits, saturate at 16 inside 64": (integers(8), Datapath(saturating(16), WIDE, tile=64)),
    "8 bits, saturate at 16 inside 64 and at 20": (integers(8), Datapath(saturating(16), saturating(20), tile=64)),
    "8 bits, wrap at 16 inside 64": (integers(8), Datapath(Accumulator(Int(16), Overflow.WRAP), WIDE, tile=64)),
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
ALWAYS = tuple(name for name in CASES if "saturate at" in name and "by" not in name and "inside" not in name)
RUN = 10
"""Products of one sign in a row, each the largest that there is: all sums leave their registers time and again."""


def groups(arguments: argparse.Namespace) -> Iterator[Group]:
    for text in arguments.shapes:
        m, k, n = map(int, text.split("x"))
        generator = torch.Generator().manual_seed(0)
        x, w = torch.randn(m, k, generator=generator), torch.randn(n, k, generator=generator)
        limit = Case("a float32 GEMM", lambda x=x, w=w: x @ w.T)
        yield Group(f"products, {text}", limit, list(cases(x, w, with_torch=arguments.torch)))
        runs = torch.where(torch.arange(k) // RUN % 2 == 0, 1.0, -1.0)
        worst = list(cases(torch.ones(m, k), runs.expand(n, k).contiguous(), ALWAYS, with_torch=arguments.torch))
        yield Group(f"products that saturate all the time, {text}", limit, worst)


def cases(x: torch.Tensor, w: torch.Tensor, names: Sequence[str] = (), *, with_torch: bool) -> Iterator[Case]:
    """All cases, or those of some names."""
    for name, (quantizers, datapath) in {**CASES, **(IN_TORCH if with_torch else {})}.items():
        if names and name not in names:
            continue
        is_unsigned = quantizers[0].format.bounds().lowest == 0
        left = kernels.quantize(quantizers[0], x.abs() if is_unsigned else x)
        right = Stationary(kernels.quantize(quantizers[1], w))
        for level in (library.LEVELS if name in ALWAYS else library.LOOPS)[1:] if name in CASES else ():
            with library.level(level) as used:
                if used != level:
                    continue
            run = partial(packed_again, datapath, left, right, level)
            yield Case(f"{name}, {level}", run, partial(difference, datapath, left, right, level))
        if with_torch:
            yield Case(f"{name}, torch", partial(in_torch, datapath, left, right))


def difference(datapath: Datapath, x: Operand, w: Stationary, level: str) -> str | None:
    """Of the first rows, from what torch finds."""
    part = x.take(slice(0, CHECKED_ROWS))
    values, *counts = packed_again(datapath, part, w, level)
    expected, *expected_counts = in_torch(datapath, part, w)
    if counts != expected_counts:
        return f"{counts} sums overflowed and in all, {expected_counts} expected"
    return None if torch.equal(values, expected) else "other values"


def packed_again(datapath: Datapath, x: Operand, w: Stationary, level: str) -> tuple[torch.Tensor, int, int]:
    w.packed.clear()
    with library.level(level):
        return native.matmul(datapath, x, w)


def in_torch(datapath: Datapath, x: Operand, w: Stationary) -> tuple[torch.Tensor, int, int]:
    with kernels.only("torch"):
        return kernels.matmul(datapath, x, w)


if __name__ == "__main__":
    main(
        __doc__,
        groups,
        ("--shapes", {"nargs": "+", "default": list(SHAPES), "help": "rows x K x outputs"}),
        ("--torch", {"action": "store_true", "help": "the torch kernels too"}),
    )
