"""What encoding costs: OverQ and Term Revealing beside plain integers, on the activations of a MobileNet-class layer.

    OMP_NUM_THREADS=1 python benchmarks/group_formats.py

Interleaved rounds, medians; the ratio to integers is the claim, as machines differ.
"""

import statistics
import time

import torch

from bitwright import kernels
from bitwright.config import from_text
from bitwright.quantization import BySign, Quantizer, Statistics

PIXELS, CHANNELS, ROUNDS = 56 * 56, 144, 15
INPUTS = {
    "integer(8, 4), input": "integer(8, 4)",
    "overq(4, cascade=1)": "overq(4, cascade=1)",
    "overq(4, cascade=4)": "overq(4)",
    "overq(4, cascade=8)": "overq(4, cascade=8)",
    "overq(4, cascade=4, precision_overwrite=True)": "overq(4, precision_overwrite=True)",
    "overq(4, pick=Pick.LARGEST)": "overq(4, pick=Pick.LARGEST)",
    "term_revealing(), input": "term_revealing()",
}
WEIGHTS = {"integer(8, 8), weight": "integer(8, 8)", "term_revealing(), weight": "term_revealing()"}


def main() -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    x = torch.relu(torch.randn(PIXELS, CHANNELS, generator=generator))
    w = torch.randn(PIXELS, CHANNELS, generator=generator)
    seen = Statistics.of(x[:512].numpy())
    cases = []
    for name, text in INPUTS.items():
        chosen = from_text(text).input
        chosen = chosen.fit(seen, kernels.represent) if isinstance(chosen, BySign) else chosen
        cases.append((name, chosen, x, chosen.estimate(seen, kernels.represent)))
    cases += [(name, from_text(text).weight, w, ()) for name, text in WEIGHTS.items()]
    seconds: dict[str, list[float]] = {name: [] for name, *_ in cases}
    for _ in range(ROUNDS):
        for name, quantizer, values, ranges in cases:
            seconds[name].append(timed(quantizer, values, ranges))
    plain = statistics.median(next(iter(seconds.values())))
    print(f"{PIXELS} pixels x {CHANNELS} channels, one thread, median of {ROUNDS}")
    for name, times in seconds.items():
        median = statistics.median(times)
        print(f"{name:48} {median / x.numel() * 1e9:6.1f} ms per million elements   {median / plain:5.2f} x")


def timed(quantizer: Quantizer, values: torch.Tensor, ranges: tuple) -> float:
    start = time.perf_counter()
    kernels.quantize(quantizer, values, ranges)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
