"""VS-Quant's processing element, its buffers counted, against the 8-bit one: results/vs_quant_hardware.md.

    BITWRIGHT_DATA=<folder> python experiments/vs_quant_hardware.py --cache FOLDER      # about 10 minutes

S. Dai et al., MLSys 2021, arXiv:2102.04503: areas and energies of its figures 4 to 7, read off within 0.02, those named
in its text exact. The chip: B. Keller et al., JSSC 58(4), 2023. Without the data folder the real layers are left out.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from layer_codes import layer_codes
from vector_units import VectorReport, normal_work, synthesize_vector

from bitwright.cost.cells import generic_library
from bitwright.cost.layer_workload import layer_vector_workload, zeros
from bitwright.cost.library import Library
from bitwright.cost.memory import Sram
from bitwright.cost.power import HOROWITZ_FACTOR
from bitwright.cost.synthesis import synthesize
from bitwright.datapath import WIDE, Datapath, Requantize
from bitwright.formats import Int, Rounding
from bitwright.model.data import data_folder
from bitwright.quantization import BySign, Quantizer
from bitwright.rtl.operand import Sign
from bitwright.rtl.requantize import Requantizer
from bitwright.rtl.units import VectorUnit, vector_unit
from bitwright.rtl.vector_quantizer import VectorQuantizer
from bitwright.rtl.verilog import rtlil
from bitwright.scheme import Scheme
from bitwright.schemes import integer, vs_quant, vs_quant_chip

RESULT = Path(__file__).parent / "results" / "vs_quant_hardware.md"
LANES, UNITS, LONGEST = 16, 16, 4096
WEIGHTS_KB, INPUTS_KB, SUMS = 32, 8, 64
"""Elements of the buffers, in KB at 8 bits, and sums a unit keeps; the paper does not print them, so ours."""

FEW_LANES = (2, 4)
"""Of the vector quantizers that are synthesised; a lane more takes the same again."""

REUSE = 16
"""Inputs that meet a weight vector before the next is read."""


@dataclass(frozen=True)
class Point:
    """W/A/ws/as; 0 scale bits where an operand has no scale for each vector. Published figures are over 8/8/-/-."""

    weight: int
    input: int
    weight_scale: int
    input_scale: int
    energy: float | None = None
    performance_per_area: float | None = None
    product_bits: int = 0
    """Of the scale product when it is rounded; 0 keeps it whole."""

    def __str__(self) -> str:
        scales = "/".join(str(bits or "-") for bits in (self.weight_scale, self.input_scale))
        kept = f", product of {self.product_bits}" if self.product_bits else ""
        return f"{self.weight}/{self.input}/{scales}{kept}"

    def scheme(self) -> Scheme:
        vectors = vs_quant(self.weight, self.input, self.weight_scale or 4, self.input_scale or 4)
        plain = integer(self.weight, self.input)
        weight = vectors.weight if self.weight_scale else plain.weight
        inputs = vectors.input if self.input_scale else plain.input
        if not self.weight_scale and not self.input_scale:
            return plain
        whole = self.weight_scale + self.input_scale
        kept = Int(self.product_bits, signed=False, exponent=whole - self.product_bits) if self.product_bits else None
        datapath = Datapath(outer=WIDE, scale_product=kept, scale_rounding=Rounding.NEAREST_UP)
        return Scheme(inputs, weight, datapath, vectors.source)

    def unit(self, sign: Sign) -> VectorUnit:
        return vector_unit(self.scheme(), LANES, k=LONGEST, sign=sign)


BASE = Point(8, 8, 0, 0, 1.0, 1.0)
NETWORKS = {
    "ResNet-50 (unsigned inputs)": (Sign.UNSIGNED, (
        BASE, Point(6, 6, 0, 0, 0.77, 1.28), Point(4, 4, 0, 0, 0.49), Point(4, 4, 4, 4, 0.64),
        Point(4, 4, 4, 4, 0.43, None, 6), Point(4, 4, 4, 4, 0.37, None, 4), Point(4, 4, 4, 6, 0.76, 1.59),
        Point(4, 6, 4, 0, 0.57, 1.57), Point(4, 3, 4, 6, 0.72, 1.64), Point(6, 3, 0, 4, 0.55, 1.35),
        Point(6, 4, 0, 6, 1.08, 1.31), Point(6, 8, 6, 0, 0.98, 1.14),
    )),
    "BERT (signed inputs)": (Sign.SIGNED, (
        BASE, Point(6, 8, 0, 0, 0.82, 1.23), Point(4, 8, 6, 10, 1.34, 1.35), Point(3, 8, 6, 10, 1.19, 1.56),
        Point(3, 8, 4, 10, 1.04, 1.61), Point(4, 8, 0, 10, 0.99, 1.50), Point(3, 6, 6, 10, 1.0, 1.65),
    )),
}  # fmt: skip

REAL_TASK, REAL_POINTS = "resnet8", ("4/4/4/4", "4/4/4/6", "6/6/-/-", "4/4/-/-", "8/8/-/-")


@dataclass(frozen=True)
class Costs:
    """Of one element of 16 units: areas in µm², energies of a cycle in pJ, logic on Horowitz' scale."""

    datapath_um2: float
    buffers_um2: float
    quantizer_um2: float | None
    datapath_pj: float
    glitching_pj: float
    buffers_pj: float

    @property
    def area_um2(self) -> float:
        """With buffers, without the quantizer."""
        return self.datapath_um2 + self.buffers_um2

    @property
    def least_pj(self) -> float:
        """Without glitches."""
        return self.datapath_pj + self.buffers_pj

    @property
    def energy_pj(self) -> float:
        return self.glitching_pj + self.buffers_pj


def buffers(point: Point, sum_bits: int) -> tuple[float, float]:
    """Area, and energy of a cycle: an input vector, one weight vector a unit every `REUSE`, sums read and written."""
    area = energy = 0.0
    for bits, scale, kilobytes, vectors in (
        (point.weight, point.weight_scale, WEIGHTS_KB, UNITS / REUSE), (point.input, point.input_scale, INPUTS_KB, 1.0),
    ):  # fmt: skip
        word = LANES * bits + scale
        memory = Sram(max(2.0, kilobytes * word / (LANES * 8)), word)
        area += memory.area_um2.value
        energy += vectors * word * memory.read_pj_per_bit.value
    sums = Sram(max(2.0, SUMS * UNITS * sum_bits / 8192), 256)
    moved = UNITS * sum_bits * (sums.read_pj_per_bit.value + sums.write_pj_per_bit.value)
    return area + sums.area_um2.value, energy + moved


def quantizer_um2(point: Point, sign: Sign, sum_bits: int, library: Library, cache: Path | None) -> float | None:
    """What makes outputs inputs again: a requantizer, an output a clock; for vectors, a vector a clock.

    None for vectors of more than 4 bits, where our unit has a comparator for each of hundreds of codes and lanes, and
    with scales beyond 4 bits, which take the same again.
    """
    output = Int(16) if point.input_scale else Int(point.input, signed=sign is Sign.SIGNED)
    own = Requantizer(Requantize(16), output, min(sum_bits, 32))
    area = synthesize(rtlil(own, "requantizer"), library, cache=cache).report.area_um2
    if not point.input_scale:
        return area
    if point.input > 4 or point.input_scale > 4:
        return None
    small, large = (
        synthesize(rtlil(VectorQuantizer(quantizer(point, sign, lanes), Int(16)), "vectors"), library, cache=cache)
        for lanes in FEW_LANES
    )
    each = (large.report.area_um2 - small.report.area_um2) / (FEW_LANES[1] - FEW_LANES[0])
    return area + small.report.area_um2 + (LANES - FEW_LANES[0]) * each


def quantizer(point: Point, sign: Sign, lanes: int) -> Quantizer:
    """Of inputs, with vectors of so many lanes."""
    inputs = vs_quant(point.weight, point.input, 4, point.input_scale, vector=lanes).input
    assert isinstance(inputs, BySign), "a format for each sign"
    chosen = inputs.unsigned if sign is Sign.UNSIGNED else inputs.signed
    assert isinstance(chosen, Quantizer), "one format"
    return chosen


def costs(point: Point, sign: Sign, library: Library, cache: Path | None) -> tuple[Costs, VectorReport]:
    unit = point.unit(sign)
    report = synthesize_vector(unit, library, cache, np.random.default_rng(0))
    energy = report.energy(normal_work(unit, np.random.default_rng(0)))
    register = unit.plan.inner if unit.plan.outer is None else unit.plan.outer.register
    area, moved = buffers(point, register.bits)
    scale = HOROWITZ_FACTOR * UNITS
    quantizer = quantizer_um2(point, sign, register.bits, library, cache)
    print(f"{point} {sign.name}: {report.area.area_ge:,.0f} GE, {energy.total_pj:.2f} pJ", flush=True)
    return Costs(
        UNITS * report.area.area_um2, area, quantizer, scale * energy.total_pj, scale * energy.glitching_pj, moved
    ), report


def fixed_share(ours: float, base: float, published: float) -> float:
    """Part of the baseline that would have to stay as it is for the published ratio."""
    fixed = (published * base - ours) / (1 - published)
    return fixed / (base + fixed)


def table(sign: Sign, points: tuple[Point, ...], library: Library, cache: Path | None) -> list[str]:
    found = {str(point): costs(point, sign, library, cache)[0] for point in points}
    base = found[str(BASE)]
    lines = [
        "| W/A/ws/as | units, area | E0 | E1 | with buffers, area | E0 | E1 | with quantizer, area "
        "| published area | energy | fixed share, area |",
        "| --- |" + " ---: |" * 10,
    ]
    for point in points:
        c = found[str(point)]
        area = None if point.performance_per_area is None else 1 / point.performance_per_area
        whole = share = "–"
        if c.quantizer_um2 is not None and base.quantizer_um2 is not None:
            whole = f"{(c.area_um2 + c.quantizer_um2) / (base.area_um2 + base.quantizer_um2):.2f}"
        if area and point != BASE:
            share = f"{100 * fixed_share(c.area_um2, base.area_um2, area):.0f} %"
        published = [f"{ratio:.2f}" if ratio else "–" for ratio in (area, point.energy)]
        lines.append(
            f"| {point} | {c.datapath_um2 / base.datapath_um2:.2f} | {c.datapath_pj / base.datapath_pj:.2f} | "
            f"{c.glitching_pj / base.glitching_pj:.2f} | {c.area_um2 / base.area_um2:.2f} | "
            f"{c.least_pj / base.least_pj:.2f} | {c.energy_pj / base.energy_pj:.2f} | "
            f"{whole} | {' | '.join(published)} | {share} |"
        )
    units, energy = base.datapath_um2 / base.area_um2, base.glitching_pj / base.energy_pj
    lines += [
        "",
        f"Of 8/8/-/- with buffers, units are {100 * units:.0f} % of the area, {100 * energy:.0f} % of the energy.",
    ]
    return lines


def real_table(library: Library, cache: Path | None) -> list[str]:
    """Energy of a unit's step on the layers of a network against normal operands."""
    points = {str(p): p for _, points in NETWORKS.values() for p in points}
    lines = [
        f"| W/A/ws/as | normal, E0 | E1 | {REAL_TASK}, E0 | E1 | real / normal, E1 | zeros of inputs | layers |",
        "| --- |" + " ---: |" * 7,
    ]
    base: tuple[float, float] | None = None
    for name in reversed(REAL_POINTS):
        point = points[name]
        unit = point.unit(Sign.UNSIGNED)
        report = synthesize_vector(unit, library, cache, np.random.default_rng(0))
        normal = report.energy(normal_work(unit, np.random.default_rng(0)))
        kept = [layer for layer in layer_codes(REAL_TASK, text_of(point)) if usable(layer, point)]
        macs = np.array([layer.macs for layer in kept], float)
        energies = [
            report.energy(layer_vector_workload(unit, layer.x, layer.w, np.random.default_rng(0))) for layer in kept
        ]
        e0, e1 = (
            float(np.average([getattr(e, f) for e in energies], weights=macs)) for f in ("total_pj", "glitching_pj")
        )
        share = float(np.average([zeros(layer.x) for layer in kept], weights=macs))
        base = base or (normal.glitching_pj, e1)
        lines.append(
            f"| {name} | {normal.total_pj:.2f} | {normal.glitching_pj:.2f} ({normal.glitching_pj / base[0]:.2f}) | "
            f"{e0:.2f} | {e1:.2f} ({e1 / base[1]:.2f}) | {e1 / normal.glitching_pj:.2f} | {100 * share:.0f} % | "
            f"{len(kept)} |"
        )
        print(lines[-1], flush=True)
    return lines


def text_of(point: Point) -> str:
    if point.weight_scale:
        return f"vs_quant({point.weight}, {point.input}, {point.weight_scale}, {point.input_scale})"
    return f"integer({point.weight}, {point.input})"


def usable(layer, point: Point) -> bool:
    """Unsigned inputs in whole vectors."""
    whole = layer.x.codes.shape[2] == LANES if point.input_scale else layer.x.codes.shape[2] % LANES == 0
    return whole and not layer.is_signed and len(layer.x.codes) > REUSE


def chip_lines(library: Library, cache: Path | None) -> list[str]:
    """The chip's vectors of 64 with a scale product of 8 bits, against plain 4-bit integers of as many lanes."""
    reports = {}
    for name, scheme in (("INT4", integer(4, 4)), ("INT4-VSQ", vs_quant_chip()), ("INT8", integer(8, 8))):
        lanes = 32 if name == "INT8" else 64
        unit = vector_unit(scheme, lanes, k=LONGEST, sign=Sign.SIGNED)
        report = synthesize_vector(unit, library, cache, np.random.default_rng(0))
        energy = report.energy(normal_work(unit, np.random.default_rng(0)))
        reports[name] = (report.area.area_ge, energy.total_pj / lanes, energy.glitching_pj / lanes)
        print(name, reports[name], flush=True)
    base = reports["INT4"]
    published = {"INT4": 1.0, "INT4-VSQ": 1.01, "INT8": 2.76}
    lines = ["| datapath | GE | E0, pJ a product | E1 | E0 over INT4 | E1 | published |", "| --- |" + " ---: |" * 6]
    lines += [
        f"| {name} | {ge:,.0f} | {e0:.2f} | {e1:.2f} | {e0 / base[1]:.2f} | {e1 / base[2]:.2f} | "
        f"{published[name]:.2f} |"
        for name, (ge, e0, e1) in reports.items()
    ]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cache", type=Path)
    cache = parser.parse_args().cache
    library = generic_library()
    lines = [HEAD]
    for title, (sign, points) in NETWORKS.items():
        lines += ["", f"## {title}", "", *table(sign, points, library, cache)]
        RESULT.write_text("\n".join(lines) + "\n")
    lines += ["", "## The 5 nm chip's datapath", "", CHIP, "", *chip_lines(library, cache)]
    RESULT.write_text("\n".join(lines) + "\n")
    try:
        data_folder()
    except (FileNotFoundError, ValueError, KeyError) as error:
        print(f"no real layers: {error}")
    else:
        lines += ["", f"## Driven with the layers of {REAL_TASK}", "", REAL, "", *real_table(library, cache)]
    RESULT.write_text("\n".join(lines) + "\n")


HEAD = f"""# VS-Quant: area and energy of a processing element

Made by `python experiments/vs_quant_hardware.py`. {UNITS} vector units of {LANES} lanes, synthesised to `generic45` and
checked (sums of {LONGEST} products, scale products whole unless said), with the buffers of {WEIGHTS_KB} KB of 8-bit
weights, {INPUTS_KB} KB of inputs and {SUMS} sums a unit; other precisions hold as many elements, with their scales
(CACTI at 45 nm). The paper's sizes are not printed, so these are ours. All figures are over 8/8/-/-. Energies of normal
operands, unit energies times {HOROWITZ_FACTOR:g} so that they stand on the buffers' scale, E0 without glitches, E1 with
them; a weight vector meets {REUSE} inputs, sums are read and written at each step. "Fixed share": the part of the 8-bit
element that would have to be there besides and never shrink for the published area to come out, ours being what it is;
below zero ours is the larger.

"With quantizer" counts our unit that makes scales and codes of 16 outputs in a clock (`VectorQuantizer`, from those of
2 and 4 lanes, a lane more taking the same again); an output a clock would do, so it is the dearest way."""

CHIP = """Vectors of 64, 8-bit scales, their product cut to 8 bits, 24 bits of sum (B. Keller et al., JSSC 58(4), 2023).
Published: energy of the datapath over INT4's, per operation; INT8 has 32 lanes. Ours multiplies the scale product with
a sum that no register holds, which is what its glitches cost."""

REAL = """Inputs in the order in which a convolution has them, weights and scales of the layers, each weighted by its
multiplications; pJ a step of 16 lanes, in brackets over 8/8/-/-. Layers whose channels do not fill vectors are left
out."""


if __name__ == "__main__":
    main()
