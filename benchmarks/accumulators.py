"""What stepping a register costs: each kind beside one float32 GEMM of the same shape, and beside the reference.

    OMP_NUM_THREADS=1 python benchmarks/accumulators.py

8-bit integers, an E4M3 row each, and tiles. Interleaved rounds, medians; ratios of one run are the claim, as machines
differ. The reference takes a part of the rows, scaled up: it is stepped along K, so its time grows with them.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from bitwright import kernels
from bitwright.datapath import WIDE, Accumulator, Aligned, Datapath, Overflow
from bitwright.formats import BFLOAT16, E4M3, FLOAT16, Format, Int, Minifloat, Rounding
from bitwright.kernels import Operand, Stationary
from bitwright.quantization import PerRow, PerTensor, Quantizer, Scale

M, N, K = 1024, 64, 576
REFERENCE_ROWS, ROUNDS = 32, 9
E5M8 = Minifloat(5, 8, bias=10)
INTEGERS = (Int(8, signed=False), Int(8, narrow=True))
CASES: dict[str, tuple[tuple[Format, Format], Datapath]] = {
    "wide": (INTEGERS, Datapath()),
    "wrap, 16 bits": (INTEGERS, Datapath(Accumulator(Int(16), Overflow.WRAP))),
    "saturate, 16 bits": (INTEGERS, Datapath(Accumulator(Int(16), Overflow.SATURATE))),
    "saturate, tiles of 16": (INTEGERS, Datapath(WIDE, Accumulator(Int(16), Overflow.SATURATE), tile=16)),
    "wrap in tiles of 16, saturate": (
        INTEGERS,
        Datapath(Accumulator(Int(14), Overflow.WRAP), Accumulator(Int(16), Overflow.SATURATE), tile=16),
    ),
    "E5M8": (INTEGERS, Datapath(Accumulator(E5M8))),
    "E5M8, products rounded": (INTEGERS, Datapath(Accumulator(E5M8), product=E5M8)),
    "E5M8, truncated": (INTEGERS, Datapath(Accumulator(E5M8, rounding=Rounding.TOWARD_ZERO))),
    "E5M8, tiles of 16": (INTEGERS, Datapath(WIDE, Accumulator(E5M8), tile=16)),
    "E4M3, 14 aligned bits, tiles of 32": (
        (E4M3, E4M3),
        Datapath(WIDE, Accumulator(Minifloat(8, 13), rounding=Rounding.TOWARD_ZERO), tile=32, product=Aligned(14)),
    ),
    "E4M3 into E8M13": ((E4M3, E4M3), Datapath(Accumulator(Minifloat(8, 13)))),
    "E4M3 into FLOAT16": ((E4M3, E4M3), Datapath(Accumulator(FLOAT16))),
    "E4M3 into BFLOAT16": ((E4M3, E4M3), Datapath(Accumulator(BFLOAT16))),
}  # fmt: skip


def main() -> None:
    torch.set_num_threads(1)
    generator = np.random.default_rng(0)
    x = np.abs(generator.normal(size=(M, K))).astype(np.float32)
    w = generator.normal(size=(N, K)).astype(np.float32)
    jobs: dict[str, Callable[[], object]] = {
        "float32 GEMM": lambda a=torch.from_numpy(x), b=torch.from_numpy(w): a @ b.T
    }
    references = {}
    for name, (formats, datapath) in CASES.items():
        a, b = (Quantizer(f, (Scale(s),)).quantize(v) for f, s, v in zip(formats, (PerTensor(), PerRow()), (x, w)))
        left, right = Operand.of(a), Stationary(Operand.of(b))
        jobs[name] = lambda d=datapath, p=left, q=right: kernels.matmul(d, p, q)
        part = left.take(slice(0, REFERENCE_ROWS))
        references[name] = lambda d=datapath, p=part, q=right: with_reference(d, p, q)
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    slow: dict[str, list[float]] = {name: [] for name in references}
    for job in jobs.values():
        job()
    for i in range(ROUNDS):
        for name, job in jobs.items():
            seconds[name].append(timed(job))
        for name, job in references.items():
            if i < 3:
                slow[name].append(timed(job) * M / REFERENCE_ROWS)
    gemm = statistics.median(seconds["float32 GEMM"])
    print(f"{M} x {K} by {K} x {N}, one thread, medians of {ROUNDS}; float32 GEMM {1e3 * gemm:.2f} ms")
    print(f"{'register':32} {'ns a product':>12} {'x GEMM':>9} {'reference x':>12}")
    for name in CASES:
        median = statistics.median(seconds[name])
        ratio = statistics.median(slow[name]) / median
        print(f"{name:32} {1e9 * median / (M * N * K):12.2f} {median / gemm:9.1f} {ratio:12.1f}")


def with_reference(datapath: Datapath, x: Operand, w: Stationary) -> object:
    with kernels.only("reference"):
        return kernels.matmul(datapath, x, w)


def timed(job: Callable[[], object]) -> float:
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
