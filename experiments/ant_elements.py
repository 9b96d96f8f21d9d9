"""ANT's comparison with our own elements in it: results/ant_elements.md.

    python experiments/ant_elements.py        # 2 minutes

The analytic simulator of results/ant_hardware.md takes area and energy of its elements from C. Guo et al., MICRO 2022,
where ANT's and BitFusion's are equally large. Here ANT's differ from BitFusion's as our synthesised flint and integer
elements do (results/pe_costs.csv): fewer of them fit into the same area, and each takes more energy.
"""

import csv
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ant_hardware import total
from ant_hardware_networks import DESIGNS, LAYERS, layers

from bitwright.cost.ant_simulator import FUSED_8_4, Design, Processor, Run, simulate

RESULTS = Path(__file__).parent / "results"
RESULT = RESULTS / "ant_elements.md"
SIZE, DECODERS = 32, 128
"""Rows of every array, each of two by two elements, and decoders at the edges of 64 by 64."""

OTHERS = ("BitFusion", "OLAccel", "AdaFloat")
PUBLISHED_UM2, PUBLISHED_DECODER_UM2 = 79.57, 4.9
"""28 nm; as our notes have them, not looked up again."""


class Element(NamedTuple):
    """Area in µm², and energy with glitches in pJ."""

    area: float
    energy: float


class Gain(NamedTuple):
    """Geometric means over the networks: how many times less than another design."""

    time: float
    energy: float


def elements() -> dict[tuple[str, str], Element]:
    with (RESULTS / "pe_costs.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {(r["library"], r["circuit"]): Element(float(r["area_um2"]), float(r["glitching_pj"])) for r in rows}


def scaled(processor: Processor, area: float, energy: float) -> Processor:
    """Leakage goes with area."""
    return replace(processor, leakage_nw=processor.leakage_nw * area, dynamic_nw=processor.dynamic_nw * energy)


def ant(found: dict[tuple[str, str], Element], library: str, sum_bits: int) -> Design:
    """As many columns of flint elements as fit where the integer ones were, decoders counted."""
    flint, integer = (found[library, f"{name} / {sum_bits}"] for name in ("flint4", "int4"))
    decoders = DECODERS * found[library, "flint4 decoder"].area
    whole = 4 * SIZE * SIZE * integer.area - decoders
    columns = int(whole / (4 * SIZE * flint.area))
    processor = scaled(FUSED_8_4, flint.area / integer.area, flint.energy / integer.energy)
    return Design(SIZE, columns, processor)


def int8(found: dict[tuple[str, str], Element], library: str, sum_bits: int) -> Design:
    """Elements of eight bits only, as many as fit where four of four bits were for each."""
    eight, four = (found[library, f"{name} / {sum_bits}"] for name in ("int8", "int4"))
    area, energy = eight.area / (4 * four.area), eight.energy / (4 * four.energy)
    made = scaled(FUSED_8_4, area, energy)
    return Design(SIZE, int(SIZE / area), replace(made, narrowest_bits=8))


def run(design: Design, network: str, bits: int | None = None) -> Run:
    """ANT's layers and precisions, or all of one."""
    runs = [simulate(design, shape, bits or own) for shape, own in layers("ANT-OS", network)]
    return Run(*map(sum, zip(*runs, strict=True)))  # type: ignore[arg-type]


def gain(ours: dict[str, Run], others: dict[str, Run]) -> Gain:
    ratios = np.array([(others[n].cycles / ours[n].cycles, others[n].energy_nj / ours[n].energy_nj) for n in LAYERS])
    return Gain(*np.exp(np.log(ratios).mean(0)).tolist())


def main() -> None:
    found = elements()
    libraries = list(dict.fromkeys(library for library, _ in found))
    published = {other: {n: total(other, n) for n in LAYERS} for other in (*OTHERS, "ANT-OS")}
    lines = [
        HEAD, "",
        "| elements of ANT | flint / int4, area | energy | decoders | array | "
        + " | ".join(f"{other}: time, energy" for other in OTHERS) + " | int8 alone: time, energy |",
        "| --- | ---: | ---: | ---: | --- |" + " --- |" * (len(OTHERS) + 1),
    ]  # fmt: skip
    cells = [gain(published["ANT-OS"], published[other]) for other in OTHERS]
    lines.append(
        f"| published | 1.00 | 1.00 | {100 * PUBLISHED_DECODER_UM2 * DECODERS / (4096 * PUBLISHED_UM2):.2f} % | "
        f"{DESIGNS['ANT-OS'].rows} × {DESIGNS['ANT-OS'].columns} | "
        + " | ".join(f"{g.time:.2f}, {g.energy:.2f}" for g in cells) + " | – |"
    )  # fmt: skip
    for sum_bits in (16, 24):
        for library in libraries:
            design = ant(found, library, sum_bits)
            flint, four = (found[library, f"{name} / {sum_bits}"] for name in ("flint4", "int4"))
            ours = {n: run(design, n) for n in LAYERS}
            eight = {n: run(int8(found, library, sum_bits), n, 8) for n in LAYERS}
            share = DECODERS * found[library, "flint4 decoder"].area / (4 * SIZE * design.columns * flint.area)
            cells = [gain(ours, published[other]) for other in OTHERS] + [gain(ours, eight)]
            lines.append(
                f"| {library}, sums of {sum_bits} | {flint.area / four.area:.2f} | {flint.energy / four.energy:.2f} | "
                f"{100 * share:.2f} % | {design.rows} × {design.columns} | "
                + " | ".join(f"{g.time:.2f}, {g.energy:.2f}" for g in cells) + " |"
            )  # fmt: skip
            print(lines[-1], flush=True)
            RESULT.write_text("\n".join(lines) + "\n")


HEAD = """# ANT: its comparison with our elements

Made by `python experiments/ant_elements.py`. How many times less time and energy ANT-OS takes than another design, as
geometric means over the eight networks of its analytic simulator. Ours: area and energy (with glitches) of a flint
element over an integer one, decoders at the array's edge, and the 8-bit element of the last column over four of 4 bits.
As published: energy and area of the integer element at 28 nm, all of OLAccel, AdaFloat and BitFusion, buffers, DRAM,
static power, and the precision of every layer; those designs cannot be synthesised from what is public. The array has
32 rows of elements fused two by two and as many columns as fit into the area of 32 × 32 integer ones. "int8 alone": an
array of 8-bit elements of that area, all layers at 8 bits, so that the gain of 4-bit layers stands alone. A published
decoder takes 4.9 µm², an element 79.57 µm².

Two things favour the others here. BitFusion's elements need shifters to be fused, which our plain integer element does
not have and ANT's exponents give for nothing; with them ours and the published figures would lie closer. And 23 to 26
columns divide few layers, so that some of the loss of time is what is left over at their ends."""


if __name__ == "__main__":
    main()
