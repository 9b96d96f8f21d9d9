"""A number format and a scheme in one file, compared with two of the catalogue.

The format is a table of values: zero and ± powers of √2 rounded to eighths, finer than powers of two at 4 bits. From
the command line: bitwright compare -s 'own_scheme:half_steps(4)' in this folder.
"""

import bitwright as bw
from bitwright.model.zoo import TASKS


def half_step_format(bits: int) -> bw.Table:
    """Sign and magnitude; magnitude i > 0 is 2**((i - 1) / 2), in units of 1/8."""
    magnitudes = [0, *(round(8 * 2 ** (i / 2)) for i in range(2 ** (bits - 1) - 1))]
    significands = (*magnitudes, *(-m for m in magnitudes))
    return bw.Table(significands, exponents=(-3,) * len(significands))


def half_steps(bits: int = 4) -> bw.Scheme:
    """Weights and inputs in the format above: a scale a weight row, and one that each input tensor sets for itself."""
    element = half_step_format(bits)
    return bw.Scheme(
        input=bw.Quantizer(element, (bw.Scale(bw.PerTensor()),)),
        weight=bw.Quantizer(element, (bw.Scale(bw.PerRow()),)),
        source="an example, from nowhere",
    )


if __name__ == "__main__":
    print("values:", *half_step_format(4).values[:8])
    schemes = ["own_scheme:half_steps(4)", "integer(4, 4)", "ant_type('pot', 4, 4)"]
    for row in bw.compare(TASKS["digits"], schemes=schemes, limit=200, evaluation="exact").rows:
        print(f"{row.scheme:26s} {row.metric:5.1f} %, accumulators of up to {row.accumulator_bits} bits")
