"""ANT's accelerator figures, computed again: results/ant_hardware.md, each beside the published one.

    python experiments/ant_hardware.py        # 10 seconds

Published: ant_simulator/results/ant_res.csv of clevercool/ANT-Quantization, two decimals, kept in
results/ant_published.csv; C. Guo et al., MICRO 2022.
"""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ant_hardware_networks import DESIGNS, LAYERS, layers

from bitwright.cost.ant_simulator import Run, simulate

RESULTS = Path(__file__).parent / "results"
FIGURES: dict[str, Callable[[Run], float]] = {
    "time": lambda run: run.cycles, "static": lambda run: run.static_nj, "dram": lambda run: run.dram_nj,
    "buffer": lambda run: run.buffer_nj, "core": lambda run: run.core_nj,
}  # fmt: skip
ENERGIES = ("static", "dram", "buffer", "core")
BASE = "AdaFloat"
MEAN = "mean"
BISCALED = ("VGG16", "ResNet50")
"""The networks that energies of BiScaled are published, and averaged, of; its mean time is of all networks."""

Key = tuple[str, str, str]
"""Figure, network, design."""


class Gain(NamedTuple):
    """How many times less than another design, as the geometric mean over the networks."""

    time: float
    energy: float


def total(design: str, network: str) -> Run:
    """Cycles and energies of a network, summed over its layers."""
    return Run(*map(sum, zip(*(simulate(DESIGNS[design], *layer) for layer in layers(design, network)), strict=True)))  # type: ignore[arg-type]


def normalised(totals: dict[tuple[str, str], Run]) -> dict[Key, float]:
    """Times over the base design's time, energies over its whole energy; means over networks are arithmetic."""
    ours: dict[Key, float] = {}
    for (design, network), run in totals.items():
        base = totals[BASE, network]
        for figure, of in FIGURES.items():
            ours[figure, network, design] = of(run) / (base.cycles if figure == "time" else base.energy_nj)
    for design in DESIGNS:
        for figure in FIGURES:
            networks = BISCALED if design == "BiScaled" and figure != "time" else tuple(LAYERS)
            ours[figure, MEAN, design] = float(np.mean([ours[figure, network, design] for network in networks]))
    return ours


def gain(totals: dict[tuple[str, str], Run], other: str) -> Gain:
    """Of ANT-OS over another design."""
    pairs = [(totals[other, network], totals["ANT-OS", network]) for network in LAYERS]
    return Gain(
        _geomean([a.cycles / b.cycles for a, b in pairs]), _geomean([a.energy_nj / b.energy_nj for a, b in pairs])
    )


def published() -> dict[Key, str]:
    """Two decimals each, as printed."""
    with (RESULTS / "ant_published.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {(r["figure"], r["network"], design): r[design] for r in rows for design in DESIGNS if r[design]}


def main() -> None:
    totals = {(design, network): total(design, network) for network in LAYERS for design in DESIGNS}
    ours, theirs = normalised(totals), published()
    of_networks = sum(network != MEAN for _, network, _ in theirs)
    equal = sum(f"{ours[key]:.2f}" == text for key, text in theirs.items())
    gains = {other: gain(totals, other) for other in ("BitFusion", "OLAccel", "AdaFloat")}
    head = ["| network | " + " | ".join(DESIGNS) + " |", "| --- |" + " ---: |" * len(DESIGNS)]
    lines = [
        "# ANT: cycles and energy of its accelerator", "",
        "Made by `python experiments/ant_hardware.py`. The artifact's analytic simulator, written anew from its "
        "description (`bitwright.cost.ant_simulator`), on its own layer lists, 64 samples. An analytic model, no "
        "measurement.", "",
        f"Of {len(theirs)} published figures ({of_networks} of networks, the others means) {equal} come out to both "
        "decimals.", "",
        "What the artifact calls a geometric mean is an arithmetic one of ratios. True geometric means of ANT-OS:", "",
        "| over | speed-up | less energy |", "| --- | --- | --- |",
        *(f"| {other} | {found.time:.3f} | {found.energy:.3f} |" for other, found in gains.items()), "",
        "Published in the abstract, over BitFusion: 2.8 and 2.5.", "",
        "## Cycles", "", *head,
        *(f"| {n} | " + " | ".join(f"{totals[d, n].cycles:,}" for d in DESIGNS) + " |" for n in LAYERS),
    ]  # fmt: skip
    for figure in FIGURES:
        what, over = ("Time", "time") if figure == "time" else (f"Energy, {figure}", "whole energy")
        lines += ["", f"## {what}", "", f"Over AdaFloat's {over}; ours to three decimals (published).", "", *head]
        for network in (*LAYERS, MEAN):
            keys = [(figure, network, design) for design in DESIGNS]
            cells = [f"{ours[key]:.3f} ({theirs[key]})" if key in theirs else "–" for key in keys]
            lines.append(f"| {network} | " + " | ".join(cells) + " |")
    (RESULTS / "ant_hardware.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def _geomean(ratios: list[float]) -> float:
    return float(np.exp(np.mean(np.log(ratios))))


if __name__ == "__main__":
    main()
