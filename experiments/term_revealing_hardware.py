"""Term Revealing's system: cycles with and without it, beside the published ratios: results/term_revealing_hardware.md.

    python experiments/term_revealing_hardware.py        # a second

Published: H. T. Kung et al., SC 2020, arXiv:2007.06389, fig. of FPGA results, from visualize/fpga_results.py of
BradMcDanel/term-quantization@c2c4a1e. The budgets of that figure are not published; those here are the ones that the
ratios imply at groups of 8.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from term_revealing_networks import NETWORKS

from bitwright.cost.schedule import Array, Cell, WeightStationary, bit_serial, term_serial

RESULT = Path(__file__).parent / "results" / "term_revealing_hardware.md"
ROWS, COLUMNS, GROUP = 64, 128, 8
QUANTIZED = bit_serial(group=GROUP, weight_bits=7, data_bits=7)
"""Eight bits: seven of magnitude a side, every pair of them."""

SAMPLES = {"MLP": 64}
"""At once; others one image, or all words. One image would leave the perceptron's array waiting to be filled."""


class Published(NamedTuple):
    """Times better than plain quantization on the same system, and the budget that the latency implies."""

    latency: float
    energy: float
    budget: int
    data_terms: int


PUBLISHED = {
    "MLP": Published(6.2, 4.1, 21, 3), "VGG-16": Published(10.8, 7.0, 12, 3), "ResNet-18": Published(8.8, 5.9, 15, 3),
    "MobileNet-v2": Published(7.3, 4.6, 18, 3), "EfficientNet-b0": Published(8.1, 5.2, 16, 3),
    "LSTM": Published(3.3, 2.1, 20, 6),
}  # fmt: skip


class Ratios(NamedTuple):
    """Ours: of the bounds, and of whole networks on the array with its filling."""

    bound: float
    cycles: float
    quantized_cycles: int
    revealed_cycles: int


def ratios(network: str) -> Ratios:
    """Depthwise layers are left out on both sides, as the paper's counts leave them out."""
    revealed = term_serial(group=GROUP, budget=PUBLISHED[network].budget, data_terms=PUBLISHED[network].data_terms)
    before, after = cycles(network, QUANTIZED), cycles(network, revealed)
    return Ratios(QUANTIZED.steps / revealed.steps, before / after, before, after)


def cycles(network: str, cell: Cell) -> int:
    samples = SAMPLES.get(network, 1)
    layers = [layer.batched(samples) for layer in NETWORKS[network] if "depthwise" not in layer.name]
    return sum(WeightStationary().compute_cycles(Array(ROWS, COLUMNS, cell), layer.gemm) for layer in layers)


def mean(figure: str) -> float:
    """Of the published ratios: the paper's headline."""
    return float(np.mean([getattr(p, figure) for p in PUBLISHED.values()]))


def power() -> float:
    """Of the system with Term Revealing over without: geometric mean of the published latency over energy."""
    return float(np.exp(np.mean([np.log(p.latency / p.energy) for p in PUBLISHED.values()])))


def main() -> None:
    more = power()
    ours = {network: ratios(network) for network in PUBLISHED}
    rows = [
        f"| {network} | {p.budget}, {p.data_terms} | {ours[network].bound:.2f} | {ours[network].cycles:.2f} | "
        f"{p.latency} | {ours[network].cycles / more:.2f} | {p.energy} | {ours[network].quantized_cycles:,} | "
        f"{ours[network].revealed_cycles:,} |"
        for network, p in PUBLISHED.items()
    ]
    bound, cycles = (float(np.mean([getattr(r, name) for r in ours.values()])) for name in ("bound", "cycles"))
    latency, energy = mean("latency"), mean("energy")
    rows.append(f"| mean | | {bound:.2f} | {cycles:.2f} | {latency:.2f} | {cycles / more:.2f} | {energy:.2f} | | |")
    heads = ("network", "k, s", "bound", "cycles, ours", "latency, published", "energy, ours", "energy, published",
             "cycles, 8 bits", "cycles, revealed")  # fmt: skip
    text = f"""# Term Revealing: latency and energy of its system

Made by `python experiments/term_revealing_hardware.py`. An analytic model, no measurement: a weight-stationary array
of {ROWS} x {COLUMNS} cells, groups of {GROUP} weights, a pair of terms a cycle and cell. Plain 8-bit quantization takes
{GROUP}·7·7 cycles a group, Term Revealing k·s. "Bound" is their ratio, "cycles" that of the whole network with folds
that do not fill the array and its filling (first layers included, depthwise layers and linear layers behind
convolutions left out; one image, 350 words, and {SAMPLES["MLP"]} images of the MLP, as one would wait for the filling).

The published figure does not say k and s. Those here are whole numbers that its latency implies, so the agreement of
the latency shows that the model's form can be right, not that it is; for the MLP and the LSTM several pairs give the
same ratio. Energy follows from the latency with one constant for all networks: with Term Revealing the system takes
{more:.2f} times the power (its encoders and comparators are off otherwise), fitted to the six published pairs.

The published means, {latency:.1f} and {energy:.1f}, are arithmetic means of the ratios.

| {" | ".join(heads)} |
| --- | --- |{" ---: |" * (len(heads) - 2)}
"""
    RESULT.write_text(text + "\n".join(rows) + "\n")
    print(text + "\n".join(rows))


if __name__ == "__main__":
    main()
