"""What OverQ adds to a processing element, its encoders amortised over the array: results/overq_hardware.md.

    python experiments/overq_hardware.py --cache FOLDER                        # the embedded library: 3 minutes
    BITWRIGHT_DATA=<folder> python experiments/overq_hardware.py --cache FOLDER --liberty FOLDER      # 10 minutes

Published: "small area increases", R. Zhao et al., arXiv:1910.06909v2, abstract; no figure of it is public.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from layer_codes import LayerCodes, layer_codes

from bitwright.cost.cells import generic_library
from bitwright.cost.glitch import library_activity
from bitwright.cost.layer_workload import layer_element_workload, zeros
from bitwright.cost.library import Library
from bitwright.cost.library_open import read_open
from bitwright.cost.power import energy_report
from bitwright.cost.simulate import Simulator
from bitwright.cost.synthesis import Synthesis, synthesize
from bitwright.cost.synthesis_element import check_element, element_plan, synthesize_element, workload
from bitwright.formats import Int
from bitwright.model.data import data_folder
from bitwright.rtl.decoder import OperandDecoder
from bitwright.rtl.encode import Encoder
from bitwright.rtl.operand import Sign
from bitwright.rtl.overq_encoder import OverwriteEncoder
from bitwright.rtl.plan import Plan
from bitwright.rtl.units import ProcessingElement
from bitwright.rtl.verilog import rtlil
from bitwright.schemes import integer, overq

RESULT = Path(__file__).parent / "results" / "overq_hardware.md"
LIBRARIES = ("osu018", "sg13g2", "sky130hd", "asap7")
ARRAYS = (16, 32, 128)
LANES = 16
"""Of the encoder and decoder that are synthesised; their area grows with the lanes."""

LEVEL = Int(12, signed=False, exponent=-4)
"""What every encoder sees: inputs up to sixteen times the largest payload, and four fractions."""

BASE, RANGE, BOTH, WIDER, EIGHT = "u4 × s8", "OverQ, range", "OverQ, range and precision", "u4 × s8 / 28", "u8 × s8"


@dataclass(frozen=True)
class Edge:
    """Area of encoding and decoding a lane, µm²."""

    encoder_um2: float
    decoder_um2: float


def plans() -> dict[str, Plan]:
    both = overq(4, 8, precision_overwrite=True)
    return {
        BASE: element_plan(integer(8, 4), accumulator_bits=24, sign=Sign.UNSIGNED),
        RANGE: element_plan(overq(4, 8), accumulator_bits=24, sign=Sign.UNSIGNED),
        BOTH: element_plan(both, accumulator_bits=24, sign=Sign.UNSIGNED),
        WIDER: element_plan(integer(8, 4), accumulator_bits=28, sign=Sign.UNSIGNED),
        f"{RANGE} / 28": element_plan(overq(4, 8), accumulator_bits=28, sign=Sign.UNSIGNED),
        f"{BOTH} / 28": element_plan(both, accumulator_bits=28, sign=Sign.UNSIGNED),
        EIGHT: element_plan(integer(8, 8), accumulator_bits=24, sign=Sign.UNSIGNED),
    }


def edges(library: Library, cache: Path | None) -> dict[str, Edge]:
    """Encoders of 16 lanes; plain integers round and clip, eight bits only clip."""
    found = {}
    for name, scheme, level in (
        (BASE, integer(8, 4), LEVEL), (RANGE, overq(4, 8), LEVEL),
        (BOTH, overq(4, 8, precision_overwrite=True), LEVEL), (EIGHT, integer(8, 8), LEVEL),
    ):  # fmt: skip
        format = scheme.input.unsigned.format
        made = element_plan(scheme, accumulator_bits=24, sign=Sign.UNSIGNED)
        if isinstance(format, Int):
            encoder = synthesize(rtlil(Encoder(format, level), "encoder"), library, cache=cache).report.area_um2
            found[name] = Edge(encoder, 0.0)
            continue
        encoder = synthesize(rtlil(OverwriteEncoder(format, level, LANES), "encoder"), library, cache=cache)
        decoder = synthesize(rtlil(OperandDecoder(made.x, LANES), "decoder"), library, cache=cache)
        found[name] = Edge(encoder.report.area_um2 / LANES, decoder.report.area_um2 / LANES)
    return found


def area_table(library: Library, cache: Path | None) -> tuple[list[str], dict[str, float]]:
    rows, areas = [], {}
    base = None
    for name, made in plans().items():
        report = synthesize_element(made, library, rng=np.random.default_rng(0), cache=cache)
        base = base or report
        areas[name] = report.area.area_um2
        rows.append(
            f"| {name} | {made.inner.bits} | {report.area.area_ge:,.0f} | "
            f"{report.area.area_um2 / base.area.area_um2:.3f} | "
            f"{report.energy.total_pj / base.energy.total_pj:.2f} | "
            f"{report.energy.glitching_pj / base.energy.glitching_pj:.2f} | {report.timing.period_ns:.2f} |"
        )
    return rows, areas


def array_table(areas: dict[str, float], edge: dict[str, Edge]) -> list[str]:
    """Of square arrays with an encoder and a decoder a row, over u4 × s8's with its own encoders."""
    lines = ["| array | " + " | ".join((RANGE, BOTH, EIGHT)) + " |", "| --- | ---: | ---: | ---: |"]
    for size in ARRAYS:
        whole = {
            name: size * size * areas[name] + size * (edge[name].encoder_um2 + edge[name].decoder_um2)
            for name in (BASE, RANGE, BOTH, EIGHT)
        }
        cells = [f"{whole[name] / whole[BASE]:.3f}" for name in (RANGE, BOTH, EIGHT)]
        lines.append(f"| {size} × {size} | " + " | ".join(cells) + " |")
    gates = ", ".join(f"{name} {e.encoder_um2:.0f} and {e.decoder_um2:.0f}" for name, e in edge.items())
    return [*lines, "", f"Encoder and decoder of a lane, µm²: {gates}."]


def energy(synthesis: Synthesis, library: Library, work: dict[str, np.ndarray]) -> tuple[float, float]:
    """Without and with glitches, pJ a product."""
    trace = Simulator(synthesis.netlist, library.cells).run(work)
    activity = library_activity(synthesis.netlist, library, work)
    found = energy_report(synthesis.netlist, library, trace, activity=activity)
    return found.total_pj, found.glitching_pj


def real_table(task: str, library: Library, cache: Path | None) -> list[str]:
    """Elements driven with the layers of a network against normal operands."""
    lines = [
        "| element | zeros of inputs | normal, E0 | E1 | real, E0 | E1 | real / normal, E1 | E1 over u4 × s8, normal "
        "| real |",
        "| --- |" + " ---: |" * 8,
    ]
    base: tuple[float, float] | None = None
    for name, text in (
        (BASE, "integer(8, 4)"), (RANGE, "overq(4, 8)"), (f"{BOTH} / 28", "overq(4, 8, precision_overwrite=True)"),
        (EIGHT, "integer(8, 8)"),
    ):  # fmt: skip
        made = plans()[name]
        synthesis = synthesize(rtlil(ProcessingElement(made), "element"), library, cache=cache)
        assert check_element(synthesis.netlist, library, made, np.random.default_rng(0)).holds
        normal = energy(synthesis, library, workload(made, np.random.default_rng(0)))
        layers = [layer for layer in layer_codes(task, text) if usable(layer)]
        macs = np.array([layer.macs for layer in layers], float)
        found = [
            energy(synthesis, library, layer_element_workload(made, l.x, l.w, np.random.default_rng(0))) for l in layers
        ]
        real = tuple(float(np.average([f[i] for f in found], weights=macs)) for i in (0, 1))
        base = base or (normal[1], real[1])
        share = float(np.average([zeros(layer.x) for layer in layers], weights=macs))
        lines.append(
            f"| {name} | {100 * share:.0f} % | {normal[0]:.2f} | {normal[1]:.2f} | {real[0]:.2f} | {real[1]:.2f} | "
            f"{real[1] / normal[1]:.2f} | {normal[1] / base[0]:.2f} | {real[1] / base[1]:.2f} |"
        )
        print(lines[-1], flush=True)
    return lines


def summary(ratios: list[dict[str, float]]) -> str:
    """Areas over u4 × s8's, as ranges over the libraries."""
    spans = [f"{name} {min(r[name] for r in ratios):.2f} to {max(r[name] for r in ratios):.2f}"
             for name in (RANGE, BOTH, EIGHT)]  # fmt: skip
    return f"Element over u4 × s8 at 24 bits, {len(ratios)} libraries: {', '.join(spans)}."


def usable(layer: LayerCodes) -> bool:
    """Of unsigned inputs and more than a few rows."""
    return not layer.is_signed and len(layer.x.codes) > 16 and layer.x.codes.shape[2] >= 16


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--liberty", type=Path)
    parser.add_argument("--cache", type=Path)
    given = parser.parse_args()
    own = generic_library()
    lines, ratios = [HEAD, "", ""], []
    for library in (own, *(read_open(name, given.liberty) for name in LIBRARIES if given.liberty)):
        rows, areas = area_table(library, given.cache)
        ratios.append({name: area / areas[BASE] for name, area in areas.items()})
        lines[2] = summary(ratios)
        lines += ["", f"## {library.name}", "", *ELEMENT_HEAD, *rows, ""]
        lines += array_table(areas, edges(library, given.cache))
        RESULT.write_text("\n".join(lines) + "\n")
        print("\n".join(lines[-16:]), flush=True)
    try:
        data_folder()
    except (FileNotFoundError, ValueError) as error:
        print(f"no real layers: {error}")
        return
    for task in ("digits", "resnet8"):
        lines += ["", f"## Driven with the layers of {task}, {own.name}", "", *real_table(task, own, given.cache)]
        RESULT.write_text("\n".join(lines) + "\n")


ELEMENT_HEAD = (
    "| element | sum bits | GE | area over u4 × s8 | E0 over it | E1 over it | period, ns |",
    "| --- |" + " ---: |" * 6,
)

HEAD = """# OverQ: what it adds to an array

Made by `python experiments/overq_hardware.py`. Inputs of 4 bits, weights of 8, unsigned inputs; every element checked
against integer arithmetic. An array has an encoder and a decoder for each row and elements in rows times columns; the
encoders (cascade 4) take 12-bit levels, of which 4 are fractions, and those of plain integers round and clip the same
levels. Published (arXiv:1910.06909v2, abstract): "small area increases". Energies of normal operands and held weights;
E1 with glitches. Elements of 28 bits keep the sums of 24 with four fractions below."""


if __name__ == "__main__":
    main()
