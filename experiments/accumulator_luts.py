"""Look-up tables and gates against the width of the accumulator, by our own synthesis: results/accumulator_luts.md.

    BITWRIGHT_DATA=<folder> python experiments/accumulator_luts.py --cache FOLDER      # about 5 minutes

Multiply-accumulate elements and dot products of 16 lanes on Xilinx 7 and iCE40 parts, multipliers in look-up tables,
and in the embedded cell library. Then whole networks, a unit for each layer: registers of 32 bits, of the data types'
bound, and of the width that the layer's weights are certified for. Published: 2.3 times fewer look-up tables than with
32 bits on average at 99.2 % of the float metric, I. Colbert et al., ICCV 2023, arXiv:2308.13504, by FINN's estimate.
"""

import argparse
from dataclasses import dataclass, replace
from functools import cache as remembered
from pathlib import Path

from layer_codes import bench

from bitwright.config import from_text
from bitwright.cost.cells import generic_library
from bitwright.cost.finn import MatrixVectorUnit
from bitwright.cost.synthesis import WIDE_SUMS, synthesize
from bitwright.cost.synthesis_element import element_plan
from bitwright.cost.synthesis_fpga import ICE40, XILINX_7, Fpga, count_fpga
from bitwright.model.layers import FakeQuantizedLayer
from bitwright.model.prepare import calibrate, prepare, prove
from bitwright.rtl.operand import Sign
from bitwright.rtl.plan import plan
from bitwright.rtl.units import ProcessingElement, VectorUnit
from bitwright.rtl.verilog import rtlil
from bitwright.schemes import integer

RESULT = Path(__file__).parent / "results" / "accumulator_luts.md"
WIDTHS = {4: (8, 12, 16, 24, 32), 8: (16, 24, 32)}
LANES, PROCESSORS = 16, 4
"""Of a layer's unit."""

ELEMENT, DOT_PRODUCT = "element", "dot product of 16"
PARTS = {"Xilinx 7": XILINX_7, "iCE40": ICE40}
WIDE = 32


@dataclass(frozen=True)
class Layer:
    """A layer's product and the widths its register may have."""

    name: str
    k: int
    n: int
    bound: int
    certified: int


def element(bits: int, width: int) -> str:
    made = element_plan(integer(bits, bits), accumulator_bits=width, sign=Sign.UNSIGNED)
    return rtlil(ProcessingElement(made), "element")


def dot_product(bits: int, width: int) -> str:
    """A step of 16 products and its register."""
    made = plan(integer(bits, bits), k=LANES, sign=Sign.UNSIGNED)
    return rtlil(VectorUnit(replace(made, inner=replace(made.inner, bits=width)), LANES), "vector")


CIRCUITS = {ELEMENT: element, DOT_PRODUCT: dot_product}
OF_ELEMENTS = tuple((ELEMENT, part) for part in (*PARTS, "GE"))
COLUMNS = {4: (*OF_ELEMENTS, (DOT_PRODUCT, "Xilinx 7"), (DOT_PRODUCT, "GE")), 8: OF_ELEMENTS}


class Counts:
    """Look-up tables and gates of the circuits, each mapped once."""

    def __init__(self, cache: Path | None) -> None:
        self.luts = remembered(lambda circuit, part, bits, width: self._luts(circuit, PARTS[part], bits, width, cache))
        self.gates = remembered(lambda circuit, bits, width: self._gates(circuit, bits, width, cache))

    def _luts(self, circuit: str, part: Fpga, bits: int, width: int, cache: Path | None) -> int:
        found = count_fpga(CIRCUITS[circuit](bits, width), part.without_blocks(), cache=cache).luts
        print(circuit, part.name, bits, width, found, flush=True)
        return found

    def _gates(self, circuit: str, bits: int, width: int, cache: Path | None) -> float:
        return synthesize(CIRCUITS[circuit](bits, width), generic_library(), WIDE_SUMS, cache=cache).report.area_ge


def width_table(counts: Counts, bits: int, columns: tuple[tuple[str, str], ...]) -> list[str]:
    lines = [
        "| register | " + " | ".join(f"{circuit}: {part}" for circuit, part in columns) + " | FINN's model, 16 lanes |",
        "| ---: |" + " ---: |" * (len(columns) + 1),
    ]

    def value(circuit: str, part: str, width: int) -> float:
        return counts.gates(circuit, bits, width) if part == "GE" else counts.luts(circuit, part, bits, width)

    def finn(width: int) -> float:
        return MatrixVectorUnit(1, LANES, 1, LANES, bits, bits, width).luts()

    for width in WIDTHS[bits]:
        cells = [f"{v:,.0f} ({value(c, p, WIDE) / v:.2f})" for c, p in columns for v in [value(c, p, width)]]
        lines.append(f"| {width} | " + " | ".join(cells) + f" | {finn(width):,.0f} ({finn(WIDE) / finn(width):.2f}) |")
    return lines


def layers(task: str, scheme: str) -> list[Layer]:
    """Every layer with the widths that its formats ask for and that its weights are proved to need."""
    folded, calibration, forward = bench(task)
    prepared = calibrate(prepare(folded, from_text(scheme), calibration[0].first(1).inputs), calibration, forward)
    found = []
    for layer in prepared.modules():
        if isinstance(layer, FakeQuantizedLayer):
            proof = prove(layer)
            assert proof.bound is not None
            assert proof.certificate is not None
            n, k = layer.weight.shape[0], layer.weight[0].numel()
            found.append(Layer(str(layer.name), k, n, proof.bound, proof.certificate.inner_bits))
    return found


def network_table(counts: Counts, task: str, bits: int, schemes: dict[str, str]) -> list[str]:
    """A unit of four processors of 16 lanes for each layer; sums leave as they are."""
    lines = [
        "| network | scheme | widths | Xilinx 7 | FINN's model | with thresholds |",
        "| --- | --- | --- | ---: | ---: | ---: |",
    ]
    first: list[float] = []
    for label, scheme in schemes.items():
        found = layers(task, scheme)
        choices = {"certified": [x.certified for x in found]}
        if not first:
            choices = {"32 bits": [WIDE] * len(found), "data types": [x.bound for x in found]} | choices
        for name, widths in choices.items():
            totals = [float(sum(PROCESSORS * counts.luts(DOT_PRODUCT, "Xilinx 7", bits, w) for w in widths))]
            for output in (None, bits):
                units = [
                    MatrixVectorUnit(
                        -(-x.n // PROCESSORS) * PROCESSORS, LANES, PROCESSORS, LANES, bits, bits, w, output
                    )
                    for x, w in zip(found, widths, strict=True)
                ]
                totals.append(sum(unit.luts() for unit in units))
            first = first or totals
            cells = [f"{t:,.0f} ({a / t:.2f})" for t, a in zip(totals, first, strict=True)]
            span = f"{min(widths)} to {max(widths)}" if name != "32 bits" else "32"
            lines.append(f"| {task} | {label} | {name}, {span} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cache", type=Path)
    counts = Counts(parser.parse_args().cache)
    lines = [HEAD]
    for bits in (4, 8):
        lines += ["", f"## {bits}-bit weights and inputs", "", *width_table(counts, bits, COLUMNS[bits])]
        RESULT.write_text("\n".join(lines) + "\n")
    lines += ["", "## Networks, 4-bit weights and inputs", "", NETWORKS, ""]
    for task, width in (("digits", 10), ("resnet8", 12)):
        schemes = {"integer(4, 4)": "integer(4, 4)", f"a2q(4, 4, {width})": f"a2q(4, 4, {width})"}
        lines += [*network_table(counts, task, 4, schemes), ""]
        RESULT.write_text("\n".join(lines).rstrip() + "\n")


HEAD = """# Accumulators in look-up tables and gates

Made by `python experiments/accumulator_luts.py`. Unsigned inputs; `synth_xilinx` and `synth_ice40` of yosys with
multipliers in look-up tables (`booth`), counted, not placed; gate equivalents of `generic45`. In brackets: times fewer
than with 32 bits. FINN's column is its estimate for one processor of 16 lanes without thresholds (Xilinx/finn@39f0c9a).
The published gain, 2.3 times on average (arXiv:2308.13504), is FINN's estimate with thresholds of fused activations."""

NETWORKS = f"""Each layer has a unit of {PROCESSORS} dot products of {LANES} lanes with a register of the layer's own
width. "Certified" is what the weights are proved to need; `a2q` projects the weights after training, its metrics are in
`accumulators_*.md`. "With thresholds" is FINN's model with an activation of 4 bits fused."""


if __name__ == "__main__":
    main()
