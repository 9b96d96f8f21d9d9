"""What narrow accumulators save in FINN's model of look-up tables: results/finn_luts.md.

    python experiments/finn_luts.py        # a second

The formulas of Xilinx/finn@39f0c9a. Published: 2.3 times fewer look-up tables on average, I. Colbert et al., ICCV 2023,
arXiv:2308.13504, over networks, boards and foldings that the paper's abstract does not name.
"""

from dataclasses import replace
from pathlib import Path

from bitwright.cost.finn import MatrixVectorUnit, minimized

RESULT = Path(__file__).parent / "results" / "finn_luts.md"
INPUTS, OUTPUTS = 576, 64
FOLDINGS = ((1, 1), (4, 16), (64, 64))
NARROWER = (0, 4, 8, 10)


def unit(bits: int, processors: int, lanes: int, accumulator_bits: int = 32) -> MatrixVectorUnit:
    """With weights, inputs and outputs of so many bits, thresholds fused."""
    return MatrixVectorUnit(OUTPUTS, INPUTS, processors, lanes, bits, bits, accumulator_bits, bits)


def without_activation() -> float:
    """The most that any of the units saves where sums leave as they are."""
    gains = []
    for bits in (4, 8):
        for folding in FOLDINGS:
            wide = replace(unit(bits, *folding), output_bits=None)
            gains.append(wide.luts() / replace(wide, accumulator_bits=minimized(32, wide) - max(NARROWER)).luts())
    return max(gains)


def main() -> None:
    lines = [
        "# FINN: look-up tables and accumulators", "",
        "Made by `python experiments/finn_luts.py`. FINN's own estimate, not a synthesis: one matrix-vector unit of "
        f"{INPUTS} inputs and {OUTPUTS} outputs, multipliers in look-up tables, weights in block memory, an activation "
        "of as many bits as inputs and weights fused. P* is the width that the formats ask for. In brackets: times "
        "fewer look-up tables than with 32 bits.", "",
        "Nearly all of the saving comes from the thresholds of the fused activation, which are as wide as the "
        f"accumulator; without it, no unit of the table saves more than {without_activation():.2f} times.", "",
        "| bits | PE, SIMD | P* | 32 bits | " + " | ".join(f"P*-{n}" if n else "P*" for n in NARROWER) + " |",
        "| --- | --- | --- | ---: |" + " ---: |" * len(NARROWER),
    ]  # fmt: skip
    for bits in (4, 8):
        for processors, lanes in FOLDINGS:
            wide = unit(bits, processors, lanes)
            needed = minimized(32, wide)
            luts = [replace(wide, accumulator_bits=needed - n).luts() for n in NARROWER]
            cells = [f"{value:,.0f} ({wide.luts() / value:.2f})" for value in luts]
            lines.append(
                f"| {bits} | {processors}, {lanes} | {needed} | {wide.luts():,.0f} | " + " | ".join(cells) + " |"
            )
    RESULT.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
