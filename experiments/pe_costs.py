"""What the processing elements and vector units of the schemes take in gates: results/pe_costs.md and .csv.

    python experiments/pe_costs.py                             # the embedded library: about 3 minutes
    python experiments/pe_costs.py --liberty FOLDER            # and each open library of that folder: about 25 minutes
    python experiments/pe_costs.py --cache FOLDER              # keeps mapped netlists, so that a second run is quick

Every mapped netlist is compared with integer arithmetic before its figures count.
"""

import argparse
import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from amaranth.hdl import Module, signed
from amaranth.lib.wiring import Component, In, Out
from vector_units import PATTERNS, normal_work, synthesize_vector

from bitwright.cost.cells import generic_library
from bitwright.cost.library import Library
from bitwright.cost.library_open import OPEN, read_open
from bitwright.cost.power import HOROWITZ_FACTOR, energy_report
from bitwright.cost.simulate import Simulator
from bitwright.cost.simulate_check import check
from bitwright.cost.synthesis import synthesize
from bitwright.cost.synthesis_element import element_plan, synthesize_element
from bitwright.cost.synthesis_fpga import XILINX_7, count_fpga
from bitwright.cost.timing import analyse
from bitwright.rtl.decoder import Decoder
from bitwright.rtl.operand import Sign
from bitwright.rtl.plan import Plan
from bitwright.rtl.units import ProcessingElement, VectorUnit, vector_unit
from bitwright.rtl.verilog import rtlil
from bitwright.schemes import (
    ant,
    ant_type,
    integer,
    minifloat,
    mxfp4,
    mxfp6,
    mxfp8,
    mxint8,
    nvfp4,
    overq,
    term_revealing,
    vs_quant,
)
from bitwright.schemes.ant import flint

RESULT = Path(__file__).parent / "results" / "pe_costs.md"
PRODUCTS = 512
"""Of the longest sum, where a register has no width of its own."""

HOROWITZ_PJ = {"add 8": 0.03, "add 32": 0.1, "multiply 8": 0.2, "multiply 32": 3.1}
"""M. Horowitz, ISSCC 2014, fig. 1.1.9, 45 nm, 0.9 V."""


@dataclass(frozen=True)
class Row:
    """One circuit in one library."""

    circuit: str
    library: str
    sum_bits: int
    area_um2: float
    area_ge: float
    flip_flops: int
    period_ns: float
    energy_pj: float
    glitching_pj: float
    """With glitches."""
    patterns: int


def elements() -> dict[str, Plan]:
    """Elements by name; the number behind the slash is the width of the sum."""
    made = {}
    unsigned, both = integer(8, 4), overq(4, 8, precision_overwrite=True)
    for bits in (4, 8):
        for width in (16, 24, 32):
            made[f"int{bits} / {width}"] = element_plan(integer(bits, bits), accumulator_bits=width, sign=Sign.SIGNED)
    for name, scheme, width in (
        ("u4 × s8 / 24", unsigned, 24), ("u4 × s8 / 28", unsigned, 28), ("u8 × s8 / 24", integer(8, 8), 24),
        ("OverQ 4 × 8, range / 24", overq(4, 8), 24), (PRECISE, both, 28),
    ):  # fmt: skip
        made[name] = element_plan(scheme, accumulator_bits=width, sign=Sign.UNSIGNED)
    made["flint4 / 16"] = element_plan(ant_type("flint"), accumulator_bits=16, sign=Sign.SIGNED)
    made["flint4 / 24"] = element_plan(ant_type("flint"), accumulator_bits=24, sign=Sign.SIGNED)
    made["ANT 4: int, pot or flint / 24"] = element_plan(ant(), accumulator_bits=24, sign=Sign.SIGNED)
    made["Term Revealing, bit-parallel / 24"] = element_plan(term_revealing(), accumulator_bits=24, sign=Sign.SIGNED)
    for name, scheme in (
        ("VS-Quant 4, vectors of 16", vs_quant(4, 4)), ("MXFP4", mxfp4()), ("NVFP4", nvfp4()), ("MXFP6", mxfp6()),
        ("MXFP8", mxfp8()), ("MXINT8", mxint8()), ("E2M1", minifloat(2, 1)),
    ):  # fmt: skip
        plan = element_plan(scheme, k=PRODUCTS, sign=Sign.SIGNED)
        made[f"{name} / {plan.inner.bits}"] = plan
    return made


def vectors() -> dict[str, VectorUnit]:
    """Sixteen lanes with the register that sums of so many products need."""
    schemes = {"int8": integer(8, 8), "int4": integer(4, 4), "VS-Quant 4/4/4/4": vs_quant(4, 4)}
    return {f"{name}, 16 lanes": vector_unit(s, 16, k=PRODUCTS, sign=Sign.SIGNED) for name, s in schemes.items()}


def element_row(name: str, plan: Plan, library: Library, cache: Path | None) -> Row:
    report = synthesize_element(plan, library, rng=np.random.default_rng(0), cache=cache)
    area = report.area
    return Row(
        name, library.name, plan.inner.bits, area.area_um2, area.area_ge, area.flip_flops,
        report.timing.period_ns, report.energy.total_pj, report.energy.glitching_pj, report.verdict.patterns,
    )  # fmt: skip


def vector_row(name: str, unit: VectorUnit, library: Library, cache: Path | None) -> Row:
    """Checked on random codes from an empty register; energy of one product, of normal operands and held weights."""
    rng = np.random.default_rng(0)
    report = synthesize_vector(unit, library, cache, rng)
    energy = report.energy(normal_work(unit, rng, reset=PRODUCTS // unit.lanes))
    area, plan = report.area, unit.plan
    register = plan.inner if plan.outer is None else plan.outer.register
    return Row(
        name, library.name, register.bits, area.area_um2, area.area_ge, area.flip_flops,
        analyse(report.synthesis.netlist, library).period_ns, energy.total_pj / unit.lanes,
        energy.glitching_pj / unit.lanes, PATTERNS,
    )  # fmt: skip


class Operator(Component):
    """One operation on two integers."""

    def __init__(self, bits: int, operation: Callable, result_bits: int) -> None:
        self.operation = operation
        super().__init__({"x": In(signed(bits)), "w": In(signed(bits)), "y": Out(signed(result_bits))})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.y.eq(self.operation(self.x, self.w))
        return m


def operator_pj(library: Library, cache: Path | None) -> dict[str, float]:
    """Switching and internal energy of Horowitz' operators on uniform operands."""
    found = {}
    for name in HOROWITZ_PJ:
        kind, bits = name.split()
        n = int(bits)
        operation = (lambda a, b: a + b) if kind == "add" else (lambda a, b: a * b)
        circuit = synthesize(
            rtlil(Operator(n, operation, n if kind == "add" else 2 * n), "operator"), library, cache=cache
        )
        rng = np.random.default_rng(0)
        if 2 * n < 63:
            verdict = check(circuit.netlist, library.cells, lambda v, f=operation: {"y": f(v["x"], v["w"])}, rng=rng)
            assert verdict.holds, verdict.counterexample
        low, high = -(2 ** (n - 1)), 2 ** (n - 1)
        work = {port: rng.integers(low, high, (64, 64)) for port in ("x", "w")}
        energy = energy_report(circuit.netlist, library, Simulator(circuit.netlist, library.cells).run(work))
        found[name] = energy.switching_pj + energy.internal_pj
    return found


A2Q, OVERQ, ANT = "A2Q, arXiv:2308.13504", "OverQ, arXiv:1910.06909", "ANT, arXiv:2208.14286"
PRECISE = "OverQ 4 × 8, range and precision / 28"
RATIOS = (
    ("int4, sum of 16 bits for 32", "int4 / 16", "int4 / 32", f"narrow sums save area ({A2Q})"),
    ("int8, sum of 16 bits for 32", "int8 / 16", "int8 / 32", "the same"),
    ("int4 for int8, sums of 24 bits", "int4 / 24", "int8 / 24", ""),
    ("OverQ, range, for u4 × s8", "OverQ 4 × 8, range / 24", "u4 × s8 / 24", f"small increase ({OVERQ})"),
    ("OverQ, both, for u4 × s8 of 24 bits", PRECISE, "u4 × s8 / 24", "the same"),
    ("OverQ, both, for u4 × s8 of 28 bits", PRECISE, "u4 × s8 / 28", "the same"),
    ("u8 × s8 for u4 × s8", "u8 × s8 / 24", "u4 × s8 / 24", "what OverQ avoids"),
    ("flint4 for int4", "flint4 / 24", "int4 / 24", ""),
    ("flint4 decoder for its element", "flint4 decoder", "flint4 / 24", f"tiny ({ANT})"),
    ("VS-Quant's vector unit for int8's", "VS-Quant 4/4/4/4, 16 lanes", "int8, 16 lanes", "0.63 (0.76), see below"),
    ("VS-Quant's vector unit for int4's", "VS-Quant 4/4/4/4, 16 lanes", "int4, 16 lanes", "what the scales take"),
)


def decoder_row(library: Library, cache: Path | None) -> Row:
    decoder = synthesize(rtlil(Decoder(flint(4)), "decoder"), library, cache=cache)
    area, period = decoder.report, analyse(decoder.netlist, library).period_ns
    return Row("flint4 decoder", library.name, 0, area.area_um2, area.area_ge, 0, period, 0.0, 0.0, 0)


def measure(library: Library, cache: Path | None) -> list[Row]:
    rows = [element_row(name, plan, library, cache) for name, plan in elements().items()]
    rows.append(decoder_row(library, cache))
    rows += [vector_row(name, unit, library, cache) for name, unit in vectors().items()]
    print(f"{library.name}: {len(rows)} circuits", flush=True)
    return rows


def lut_rows(cache: Path | None) -> list[tuple[str, int, int]]:
    """Look-up tables and carries of some elements on a Xilinx 7 part, multipliers not in blocks."""
    chosen = [n for n in elements() if n.startswith(("int", "u4 × s8 / 24", "OverQ 4 × 8, range / 24"))]
    found = []
    for name in chosen:
        count = count_fpga(
            rtlil(ProcessingElement(elements()[name]), "element"), XILINX_7.without_blocks(), cache=cache
        )
        found.append((name, count.luts, count.carries))
    return found


def page(rows: list[Row], tool: str, luts: list[tuple[str, int, int]], operators: dict[str, float]) -> str:
    libraries = list(dict.fromkeys(row.library for row in rows))
    by = {(row.circuit, row.library): row for row in rows}
    own = libraries[0]
    lines = [
        "# Processing elements in gates", "",
        f"Made by `python experiments/pe_costs.py` with {tool}, `synth -booth` and ABC for the smallest area; "
        "vector units with `-noalumacc` too. An element of a weight-stationary array holds a weight, passes "
        "its input on, adds one product to the sum from above; decoders stand at the array's edge. Gate "
        "equivalents (GE) count the library's smallest two-input NAND. The mapped netlist of every element "
        "and vector unit was compared with integer arithmetic: all pairs of operands with random sums, or as "
        "many random cases as the CSV says. Periods are static timing, 1 fF a pin. Energies are those of "
        "normal operands and held weights at 500 MHz: E0 without glitches, a lower bound, E1 with them, of an "
        "event-driven simulation with the library's delays, inertial. Differences below 5 % are noise of the "
        "mapping. No placement.", "",
        f"## {own}", "", "Behind the slash: bits of the sum.", "",
        "| circuit | GE | flip-flops | period, ns | E0, pJ a product | E1, pJ | E1 / E0 |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]  # fmt: skip
    for row in rows:
        if row.library == own:
            energy = "– | – | –"
            if row.energy_pj:
                more = row.glitching_pj / row.energy_pj
                energy = f"{row.energy_pj:.2f} | {row.glitching_pj:.2f} | {more:.2f}"
            lines.append(f"| {row.circuit} | {row.area_ge:,.0f} | {row.flip_flops} | {row.period_ns:.2f} | {energy} |")
    lines += ["", "## Ratios of area", "", "In brackets of energy where both have one: E0, E1.", ""]
    lines += [
        "| ratio | " + " | ".join(libraries) + " | published |",
        "| --- |" + " ---: |" * len(libraries) + " --- |",
    ]
    for label, one, other, published in RATIOS:
        cells = []
        for library in libraries:
            a, b = by[one, library], by[other, library]
            energy = ""
            if a.energy_pj and b.energy_pj:
                energy = f" ({a.energy_pj / b.energy_pj:.2f}, {a.glitching_pj / b.glitching_pj:.2f})"
            cells.append(f"{a.area_um2 / b.area_um2:.2f}{energy}" if a.energy_pj else f"{a.area_um2 / b.area_um2:.3f}")
        lines.append(f"| {label} | " + " | ".join(cells) + f" | {published} |")
    lines += [
        "", "VS-Quant (arXiv:2102.04503) publishes 37 % less area and 24 % less energy for a whole processing element "
        "with its buffers, against 8 bits. Here are its multipliers, adders and registers alone, for sums of "
        f"{PRODUCTS} products, with the scale product in full; with buffers: `vs_quant_hardware.md`.", "",
        "## Gate equivalents in every library", "",
    ]  # fmt: skip
    lines += ["| circuit | " + " | ".join(libraries) + " |", "| --- |" + " ---: |" * len(libraries)]
    for circuit in dict.fromkeys(row.circuit for row in rows):
        lines.append(
            f"| {circuit} | " + " | ".join(f"{by[circuit, library].area_ge:,.0f}" for library in libraries) + " |"
        )
    if luts:
        lines += ["", "## Look-up tables on a Xilinx 7 part", "", "| element | LUT | CARRY4 |", "| --- | ---: | ---: |"]
    lines += [f"| {name} | {count} | {carries} |" for name, count, carries in luts]
    lines += [
        "", "## Energy against Horowitz", "",
        f"Operators in {own} on uniform operands, switching and internal energy, beside M. Horowitz, ISSCC 2014. The "
        f"geometric mean, {HOROWITZ_FACTOR:g}, is `HOROWITZ_FACTOR` in `cost.power`; no energy above is scaled by it.",
        "", "| operator | here, pJ | Horowitz, pJ | factor |", "| --- | ---: | ---: | ---: |",
    ]  # fmt: skip
    lines += [f"| {n} | {pj:.3f} | {HOROWITZ_PJ[n]:g} | {HOROWITZ_PJ[n] / pj:.2f} |" for n, pj in operators.items()]
    mean = np.exp(np.mean([np.log(HOROWITZ_PJ[n] / pj) for n, pj in operators.items()]))
    return "\n".join([*lines, f"| geometric mean | | | {mean:.2f} |"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--liberty", type=Path)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--only", nargs="*", default=list(OPEN))
    given = parser.parse_args()
    own, rows = generic_library(), []
    tool = synthesize(rtlil(Decoder(flint(4)), "decoder"), own, cache=given.cache).report.tool
    operators = operator_pj(own, given.cache)
    for library in (own, *(read_open(name, given.liberty) for name in given.only if given.liberty)):
        rows += measure(library, given.cache)
        write(page(rows, tool, [], operators), rows)
    text = page(rows, tool, lut_rows(given.cache), operators)
    write(text, rows)
    print(text)


def write(text: str, rows: list[Row]) -> None:
    """After each library, so that a run that is stopped leaves what it has."""
    RESULT.write_text(text)
    with RESULT.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Row.__annotations__)
        writer.writerows([f"{v:.6g}" if isinstance(v, float) else v for v in vars(row).values()] for row in rows)


if __name__ == "__main__":
    main()
