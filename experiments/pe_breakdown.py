"""What the parts of the catalogue's processing elements take: the package's cost/pe_parts.csv, results/pe_breakdown.md.

    python experiments/pe_breakdown.py                    # the embedded library: about 10 minutes
    python experiments/pe_breakdown.py --cache FOLDER     # keeps mapped netlists, so that a second run is quick

Elements take inputs of either sign; a sum without a width of its own holds 4096 products. Schemes of which there is no
circuit are named in the page.
"""

import argparse
import csv
import importlib.resources
from dataclasses import asdict, fields
from pathlib import Path

from bitwright.comparison import DEFAULT_SCHEMES
from bitwright.config import from_text
from bitwright.cost.cells import generic_library
from bitwright.cost.parts import IN_ELEMENT, TABLE, ElementParts
from bitwright.cost.synthesis_parts import measure_parts
from bitwright.scheme import Scheme
from bitwright.schemes import CATALOGUE, FOLDED

RESULT = Path(__file__).parent / "results" / "pe_breakdown.md"
BITS = range(2, 9)
MORE = (
    *(f"integer({bits}, {bits})" for bits in BITS), "integer(4, 8)", "integer(8, 4)", "integer(2, 8)",
    *(f"ant({bits}, {bits})" for bits in (3, 4, 5, 6)), "ant_type('int')", "ant_type('pot')", "ant_type('flint')",
    *(f"vs_quant({bits}, {bits})" for bits in (3, 4, 6, 8)), "vs_quant(4, 8)",
    *(f"overq({bits}, {other})" for bits, other in ((3, 3), (4, 4), (4, 8), (5, 8), (6, 8))),
    "overq(4, 8, precision_overwrite=True)", "minifloat(2, 1)", "minifloat(2, 3)", "minifloat(3, 2)", "minifloat(4, 3)",
    "minifloat(5, 2)", *(f"a2q(4, 4, {bits})" for bits in (10, 12, 14, 16)), "a2q(8, 8, 16)", "a2q(8, 8, 20)",
)  # fmt: skip
"""Besides the schemes that `bitwright compare` starts with and the catalogue's defaults."""

PARTS = ("multiplier", "shifter", "neighbour", "adder", "sum register", "operand registers")


def schemes() -> dict[str, Scheme]:
    """By text, each once; recipes mix several and are left out."""
    texts = [*DEFAULT_SCHEMES, *MORE, *(f"{make.__name__}()" for make in (*CATALOGUE, *FOLDED))]
    found: dict[str, Scheme] = {}
    for text in texts:
        scheme = from_text(text)
        if isinstance(scheme, Scheme) and scheme not in found.values():
            found[text] = scheme
    return found


def measured(cache: Path | None) -> tuple[list[ElementParts], dict[str, str]]:
    """Elements, and why a scheme has none."""
    library, rows, left = generic_library(), [], {}
    for text, scheme in schemes().items():
        try:
            rows.append(measure_parts(text, scheme, library, cache=cache))
        except ValueError as error:
            left[text] = str(error)
        print(text, left.get(text) or f"{rows[-1].parts_um2:.0f} um2", flush=True)
    return rows, left


def page(rows: list[ElementParts], left: dict[str, str]) -> str:
    ratios = sorted(row.parts_um2 / row.element_um2 for row in rows)
    lines = [
        "# Parts of processing elements", "",
        f"Made by `python experiments/pe_breakdown.py` with {rows[0].tool} and {rows[0].library}: µm² of the gates "
        "that lead to each wire between parts, in a flat netlist that keeps these wires. Adding up the parts gives "
        f"{ratios[0]:.3f} to {ratios[-1]:.3f} of the element mapped without boundaries, "
        f"{ratios[len(ratios) // 2]:.3f} in the median. Decoders stand at the edge: one a row, one a column; so does "
        "the collector, which has the scales and the outer register. Inputs of either sign, sums of 4096 products.", "",
        "| scheme | bits of the sum | " + " | ".join(PARTS) + " | sum of parts | input decoder | weight decoder | "
        "collector |", "| --- |" + " ---: |" * (len(PARTS) + 5),
    ]  # fmt: skip
    for row in rows:
        cells = [getattr(row, name) for name in IN_ELEMENT]
        cells += [row.parts_um2, row.input_decoder_um2, row.weight_decoder_um2, row.collector_um2]
        lines.append(
            f"| `{row.scheme}` | {row.sum_bits} | " + " | ".join(f"{c:,.0f}" if c else "–" for c in cells) + " |"
        )
    if left:
        lines += ["", "No circuit:", "", *(f"- `{text}`: {reason}" for text, reason in left.items())]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cache", type=Path)
    rows, left = measured(parser.parse_args().cache)
    with Path(str(importlib.resources.files("bitwright.cost") / TABLE)).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([f.name for f in fields(ElementParts)])
        writer.writerows([round(v, 3) if isinstance(v, float) else v for v in asdict(row).values()] for row in rows)
    RESULT.write_text(page(rows, left))


if __name__ == "__main__":
    main()
