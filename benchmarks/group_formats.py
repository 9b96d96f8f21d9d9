"""OverQ, Term Revealing and searches over ranges beside a copy of the same tensor, native and in torch.

    OMP_NUM_THREADS=1 python benchmarks/group_formats.py [--rounds 51]

Floats in, floats out. Activations are those of a ReLU, channels last, with 2.8 % outliers beyond 4 bits. A search's
time is that of 75 candidates and their choice; its second row decodes each candidate and sums in NumPy.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from timing import Case, Group, main

from bitwright import kernels
from bitwright.formats import Format, Int, Rounding
from bitwright.kernels import library
from bitwright.quantization import (
    Granularity,
    MinimumError,
    PerRow,
    PerTensor,
    Quantizer,
    Range,
    Scale,
    Statistics,
    sum_cells,
)
from bitwright.schemes.ant import flint
from bitwright.schemes.overq import Overwrite, Pick
from bitwright.schemes.term_revealing import TermBudget

ACTIVATIONS = {"8x64x56x56": (8 * 56 * 56, 64), "8x256x14x14": (8 * 14 * 14, 256)}
WEIGHTS = {"512x4608": (512, 4608), "4096x4096": (4096, 4096)}
CLIP = 1.91
"""Standard deviations at the lanes' largest value: 2.8 % of a Gaussian's ReLU lie beyond."""

LANE = Int(4, signed=False)
OVERWRITING = {
    "u4": LANE,
    "OverQ range, c = 1": Overwrite(LANE, cascade=1, tile=128),
    "OverQ range, c = 4": Overwrite(LANE, cascade=4, tile=128),
    "OverQ range, c = 4, largest": Overwrite(LANE, cascade=4, tile=128, pick=Pick.LARGEST),
    "OverQ precision": Overwrite(LANE, range_overwrite=False, precision_overwrite=True),
    "OverQ range and precision, c = 4": Overwrite(LANE, cascade=4, precision_overwrite=True, tile=128),
    "data terms, s = 3": TermBudget(255, False, 1, 3),
}
REVEALING = {
    "s8": Int(8),
    "Term Revealing, g = 8, k = 12": TermBudget(128, True, 8, 12),
    "Term Revealing, g = 16, k = 24": TermBudget(128, True, 16, 24),
}


def groups(arguments: argparse.Namespace) -> Iterator[Group]:
    generator = torch.Generator().manual_seed(0)
    for name, shape in ACTIVATIONS.items():
        x = torch.relu(torch.randn(*shape, generator=generator))
        yield fake_quantization(f"neighbours, ReLU {name}", OVERWRITING, Rounding.NEAREST_UP, x, CLIP)
    for name, shape in WEIGHTS.items():
        w = torch.randn(*shape, generator=generator)
        largest = float(w.abs().max())
        yield fake_quantization(f"terms, weights {name}", REVEALING, Rounding.NEAREST_AWAY, w, largest)
    yield searches(torch.randn(128, 1152, generator=generator))


def fake_quantization(
    name: str, formats: dict[str, Format], rounding: Rounding, x: torch.Tensor, largest: float
) -> Group:
    """Quantized and decoded, in the library and in torch."""
    out = torch.empty_like(x)
    cases = []
    for label, format in formats.items():
        quantizer = Quantizer(format, (Scale(PerTensor()),), rounding)
        ranges = (Range(np.full((1, 1), -largest), np.full((1, 1), largest)),)

        def run(quantizer: Quantizer = quantizer, ranges: tuple = ranges) -> torch.Tensor:
            return kernels.fake_quantize(quantizer, x, ranges, out=out)

        def in_torch(run: Callable[[], torch.Tensor] = run) -> torch.Tensor:
            with kernels.only("torch"):
                return run()

        def check(run: Callable[[], torch.Tensor] = run, in_torch: Callable = in_torch) -> str | None:
            return _difference(run, in_torch().clone())

        cases += [Case(label, run, check), Case(f"{label}, torch", in_torch)]
    return Group(name, _copy(x), cases)


def searches(w: torch.Tensor) -> Group:
    """ANT's clip ratios, 75 of them, for a weight's rows."""
    seen, cases = Statistics.of(w.numpy()), []
    for label, format in {"int4": Int(4), "flint4": flint(4)}.items():
        quantizer = Quantizer(format, (Scale(PerRow(), range=MinimumError()),), Rounding.NEAREST_UP)

        def run(quantizer: Quantizer = quantizer) -> np.ndarray:
            return quantizer.estimate(seen, kernels.squared_errors)[0].high  # type: ignore[union-attr]

        def one_by_one(quantizer: Quantizer = quantizer) -> np.ndarray:
            return quantizer.estimate(seen, _by_decoding)[0].high  # type: ignore[union-attr]

        def check(run: Callable[[], np.ndarray] = run, quantizer: Quantizer = quantizer) -> str | None:
            same = np.array_equal(run(), quantizer.estimate(seen)[0].high)  # type: ignore[union-attr]
            return None if same else "another range than the reference's"

        cases += [Case(f"75 ranges of {label}", run, check), Case(f"75 ranges of {label}, one by one", one_by_one)]
    return Group("range search, weights 128x1152", _copy(w), cases)


def _by_decoding(quantizer: Quantizer, x: np.ndarray, trials: Sequence[tuple], share: Granularity) -> np.ndarray:
    return np.stack(
        [sum_cells(share, (kernels.represent(quantizer, x, t) - x).astype(np.float64) ** 2) for t in trials]
    )


def _difference(run: Callable[[], torch.Tensor], expected: torch.Tensor) -> str | None:
    """The set of instructions whose result differs."""
    for level in library.LEVELS:
        with library.level(level) as used, kernels.only("native"):
            if used == level and not torch.equal(run(), expected):
                return f"{level} differs from torch"
    return None


def _copy(x: torch.Tensor) -> Case:
    out = torch.empty_like(x)
    return Case("copy", lambda: out.copy_(x))


if __name__ == "__main__":
    main(__doc__ or "", groups)
