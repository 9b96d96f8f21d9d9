"""Term Revealing's cell in gates, its energy in both modes, and what that makes of the networks: latency and energy.

    BITWRIGHT_DATA=<folder> python experiments/term_revealing_energy.py --cache FOLDER      # about 8 minutes

Writes results/term_revealing_energy.md. Budgets are those of results/term_revealing_cnns.md that agree with the float
network as often as 8 bits do. Published: 7.4 times less latency and 4.8 times less energy than plain quantization on
the same system, means over six networks, H. T. Kung et al., SC 2020, arXiv:2007.06389.
"""

import argparse
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from layer_codes import LayerCodes, layer_codes

from bitwright.cost.cells import generic_library
from bitwright.cost.glitch import library_activity
from bitwright.cost.layer_workload import layer_element_workload
from bitwright.cost.library import Library
from bitwright.cost.power import energy_report
from bitwright.cost.simulate import Simulator
from bitwright.cost.synthesis import Synthesis, synthesize
from bitwright.cost.synthesis_element import element_plan
from bitwright.rtl.operand import Sign
from bitwright.rtl.term_serial import CoefficientSum, PairSum, ShiftSum, TermSerialDot
from bitwright.rtl.units import ProcessingElement
from bitwright.rtl.verilog import rtlil
from bitwright.schemes import integer
from bitwright.schemes.term_revealing import Recoding, TermBudget

RESULTS = Path(__file__).parent / "results"
RESULT = RESULTS / "term_revealing_energy.md"
TASK, GROUP, MAGNITUDE_BITS = "resnet8", 8, 8
LONGEST = 1024
"""Products of the longest sum."""

STREAMS, GROUPS, SAMPLED = 16, 2, 160
"""Cells at work, groups that each of them takes, and cycles whose glitches are counted."""

PUBLISHED_LATENCY, PUBLISHED_ENERGY = 7.4, 4.8
X, W = TermBudget(255, signed=False), TermBudget(128)
"""As the scheme has 8 bits."""

OF_SEVEN = 49 / 64
"""The paper counts seven bits a side."""


class Budget(NamedTuple):
    """Terms of a group's weights and of each input; None for all bits, as plain quantization takes them."""

    weights: int | None
    data: int | None

    @property
    def cycles(self) -> int:
        """A group takes: every kept weight term meets every slot of its input."""
        if self.weights is None or self.data is None:
            return GROUP * MAGNITUDE_BITS**2
        return self.weights * self.data


PLAIN = Budget(None, None)


@dataclass(frozen=True)
class Cycle:
    """Energy of one clock, pJ, and the share of clocks that add a pair."""

    without_glitches: float
    with_glitches: float
    active: float


def budgets() -> dict[str, Budget]:
    """By network, from the table of our own results."""
    text = (RESULTS / "term_revealing_cnns.md").read_text()
    rows = re.findall(r"^\| (\w+) \| \d+ \| 8 bit \|[^|]+\|[^|]+\|[^|]+\| k=(\d+) s=(\d+):", text, re.MULTILINE)
    return {name: Budget(int(k), int(s)) for name, k, s in rows}


def pairs(layer: LayerCodes, budget: Budget, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """What a cell's ports see: groups of a layer's products, slot by slot. [cycles, streams]"""
    recoding = Recoding.BINARY if budget is PLAIN else Recoding.HESE
    x_format = replace(X, budget=budget.data, recoding=recoding)
    w_format = replace(W, group=GROUP, budget=budget.weights, recoding=recoding)
    x, w = (tensor.codes.reshape(len(tensor.codes), -1) for tensor in (layer.x, layer.w))
    row, column = rng.integers(0, len(x), STREAMS), rng.integers(0, len(w), STREAMS)
    start = rng.integers(0, max(1, x.shape[1] // GROUP - GROUPS + 1), STREAMS) * GROUP
    lanes = start[:, None] + np.arange(GROUPS * GROUP)
    x_masks, w_masks = x_format.kept(x[row[:, None], lanes]), w_format.kept(w[column[:, None], lanes])
    ports = [slots([m[s] for m in x_masks], [m[s] for m in w_masks], budget) for s in range(STREAMS)]
    work = {port: np.stack([p[port] for p in ports], 1) for port in ports[0]}
    first = np.zeros_like(work["enable"])
    first[0] = 1
    return work | {"first": first}


def slots(x_masks: list[np.ndarray], w_masks: list[np.ndarray], budget: Budget) -> dict[str, np.ndarray]:
    """One stream: for each weight term the slots of its input; plain quantization goes through all bits of both."""
    found = []
    for group in range(GROUPS):
        lanes = range(group * GROUP, (group + 1) * GROUP)
        if budget is PLAIN:
            met = [(lane, w, x) for lane in lanes for w in range(MAGNITUDE_BITS) for x in range(MAGNITUDE_BITS)]
        else:
            assert budget.data is not None
            kept = [(lane, e) for lane in lanes for e in bits_of(w_masks, lane)]
            met = []
            for lane, e in kept:
                data = bits_of(x_masks, lane)
                met += [(lane, e, data[i] if i < len(data) else -1) for i in range(budget.data)]
            met += [(0, 0, -1)] * (budget.cycles - len(met))
        for lane, w, x in met:
            has = x >= 0 and bool(
                sum(int(m[lane]) >> w & 1 for m in w_masks) and sum(int(m[lane]) >> x & 1 for m in x_masks)
            )
            negative = has and bool((int(w_masks[1][lane]) >> w & 1) ^ (int(x_masks[1][lane]) >> x & 1))
            found.append((has, negative, max(x, 0), w))
    names = ("enable", "is_negative", "x_exponent", "w_exponent")
    return dict(zip(names, np.array(found, np.int64).T, strict=True))


def bits_of(masks: list[np.ndarray], lane: int) -> list[int]:
    """Exponents of the terms, the largest first."""
    present = int(masks[0][lane] | masks[1][lane])
    return [e for e in reversed(range(present.bit_length())) if present >> e & 1]


def cycle_energy(synthesis: Synthesis, library: Library, works: list[dict[str, np.ndarray]]) -> Cycle:
    """Mean over the layers' work."""
    found = []
    for work in works:
        netlist, cycles = synthesis.netlist, len(work["enable"])
        trace = Simulator(netlist, library.cells).run(work)
        check_sum(trace.outputs["total"], work)
        activity = library_activity(netlist, library, work, transitions=min(SAMPLED, cycles - 1))
        report = energy_report(netlist, library, trace, activity=activity)
        found.append((report.total_pj, report.glitching_pj, float(work["enable"].mean())))
    return Cycle(*(float(np.mean(column)) for column in zip(*found, strict=True)))


def check_sum(total: np.ndarray, work: dict[str, np.ndarray]) -> None:
    """The register holds the sum of the pairs before."""
    added = work["enable"] * (1 - 2 * work["is_negative"]) << (work["x_exponent"] + work["w_exponent"])
    np.testing.assert_array_equal(total[1:], np.cumsum(added, axis=0)[:-1])


def element_energy(
    library: Library, cache: Path | None, bits: int, layers: list[LayerCodes]
) -> tuple[float, float, float]:
    """Of a bit-parallel 8-bit element, on the same layers: GE, and pJ a product without and with glitches."""
    made = element_plan(integer(8, 8), accumulator_bits=bits, sign=Sign.UNSIGNED)
    synthesis = synthesize(rtlil(ProcessingElement(made), "element"), library, cache=cache)
    found = []
    for layer in layers:
        work = layer_element_workload(made, layer.x, layer.w, np.random.default_rng(0))
        trace = Simulator(synthesis.netlist, library.cells).run(work)
        activity = library_activity(synthesis.netlist, library, work)
        report = energy_report(synthesis.netlist, library, trace, activity=activity)
        found.append((report.total_pj, report.glitching_pj))
    return (synthesis.report.area_ge, *(float(np.mean(column)) for column in zip(*found, strict=True)))


def chosen(layers: tuple[LayerCodes, ...]) -> list[LayerCodes]:
    """The widest convolutions: of all kinds of layers, four."""
    return [layer for layer in layers if layer.x.k >= 64 and len(layer.x.codes) > 16][:4]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cache", type=Path)
    cache, library = parser.parse_args().cache, generic_library()
    points = budgets()
    plain_codes = chosen(layer_codes(TASK, "integer(8, 8)"))
    term_codes = chosen(layer_codes(TASK, "term_revealing(8, 8)"))
    cells = {}
    for make in (ShiftSum, CoefficientSum):
        unit: PairSum = make(X, W, LONGEST)
        synthesis = synthesize(rtlil(unit, "pairs"), library, cache=cache)
        energies = {}
        for budget in (PLAIN, *dict.fromkeys(points.values())):
            works = [pairs(layer, budget, np.random.default_rng(0)) for layer in term_codes]
            energies[budget] = cycle_energy(synthesis, library, works)
            print(make.__name__, budget, energies[budget], flush=True)
        cells[make.__name__] = (synthesis.report, unit.bits, energies)
    bits = cells["ShiftSum"][1]
    element = element_energy(library, cache, bits, plain_codes)
    dot = TermSerialDot(replace(X, budget=3), replace(W, group=GROUP, budget=16), GROUP, LONGEST, ShiftSum)
    dot_report = synthesize(rtlil(dot, "dot"), library, cache=cache).report
    lines = [HEAD, "", "| circuit | GE | flip-flops | pJ, E0 | E1 | |", "| --- | ---: | ---: | ---: | ---: | --- |"]
    for name, (report, width, energies) in cells.items():
        for budget, label in ((PLAIN, "a clock of plain bits"), (points["resnet8"], "a clock of kept terms")):
            e = energies[budget]
            lines.append(
                f"| {name}, {width} bits | {report.area_ge:,.0f} | {report.flip_flops} | {e.without_glitches:.2f} | "
                f"{e.with_glitches:.2f} | {label}, a pair in {100 * e.active:.0f} % |"
            )
    lines += [
        f"| bit-parallel element, 8 × 8, {bits} bits | {element[0]:,.0f} | | {element[1]:.2f} | {element[2]:.2f} "
        "| a product |",
        f"| dot product of {GROUP}, with encoders and terms (k=16, s=3) | {dot_report.area_ge:,.0f} | "
        f"{dot_report.flip_flops} | | | |",
        "", "## Networks", "", NETWORKS, "",
        "| network | k, s | latency, 8 bits / revealed | of 7 bits | energy, shift and add | energy, coefficients "
        "| revealed / bit-parallel, energy | throughput of equal area |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]  # fmt: skip
    columns: list[list[float]] = []
    for network, budget in points.items():
        latency = PLAIN.cycles / budget.cycles
        gains = [
            latency * energies[PLAIN].with_glitches / energies[budget].with_glitches
            for _, _, energies in cells.values()
        ]
        report, _, energies = cells["ShiftSum"]
        against = energies[budget].with_glitches * budget.cycles / GROUP / element[2]
        speed = GROUP / budget.cycles * element[0] / report.area_ge
        columns.append([latency, OF_SEVEN * latency, *gains, against, speed])
        lines.append(
            f"| {network} | {budget.weights}, {budget.data} | {latency:.1f} | {OF_SEVEN * latency:.1f} | "
            f"{gains[0]:.1f} | {gains[1]:.1f} | "
            f"{against:.1f} | {speed:.2f} |"
        )
    means = [f"{np.mean(column):.1f}" for column in zip(*columns, strict=True)]
    of_seven = [f"{OF_SEVEN * np.mean([c[i] for c in columns]):.1f}" for i in (2, 3)]
    lines += [
        f"| mean | | {' | '.join(means[:5])} | {np.mean([c[-1] for c in columns]):.2f} |",
        f"| mean, of 7 bits | | | {means[1]} | {' | '.join(of_seven)} | | |",
        f"| *published mean* | | | {PUBLISHED_LATENCY} | {PUBLISHED_ENERGY} | {PUBLISHED_ENERGY} | | |",
    ]
    RESULT.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


HEAD = f"""# Term Revealing: its cell in gates

Made by `python experiments/term_revealing_energy.py`. `ShiftSum` shifts and adds one pair of terms a clock,
`CoefficientSum` counts the pairs of each exponent, as the paper's cell does; synthesised to `generic45`, for sums of
{LONGEST} products, without the registers that hold weight terms and without encoders. Driven with the layers of {TASK}:
plain quantization goes through all {MAGNITUDE_BITS} · {MAGNITUDE_BITS} pairs of bits of a product, Term Revealing
through k·s slots of a group of {GROUP}; a slot that has no pair takes its clock. E1 counts glitches. Every sum was
checked."""

NETWORKS = """Latency from the slots alone. Energy is that of the cells' clocks, plain quantization over Term Revealing;
the published one is of a whole system on an FPGA. The paper counts seven bits a side, for which plain quantization
takes 49 / 64 of the clocks and about as much of the energy: the last mean. "Revealed / bit-parallel": energy of a
product in the cell that shifts over that of the 8-bit element, which takes all products whole. "Throughput of equal
area": products a clock of cells that shift over elements that fill the same area."""


if __name__ == "__main__":
    main()
