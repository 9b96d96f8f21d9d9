"""ANT: fixed-length adaptive types, among them flint, chosen for each tensor by least squared error.

C. Guo et al., "ANT: exploiting adaptive numerical data type for low-bit deep neural network quantization", MICRO 2022.
Where paper and artifact (clevercool/ANT-Quantization, commit bc84067) could differ, this follows the artifact.
Differs from the artifact: grids keep their integers instead of being normalised to a largest value of 10.
"""

from collections.abc import Callable

from bitwright.datapath import WIDE, Accumulator, Datapath
from bitwright.formats import FLOAT32, Format, Int, Minifloat, Rounding, Table
from bitwright.quantization import BestOf, BySign, Granularity, MinimumError, PerRow, PerTensor, Quantizer, Scale
from bitwright.scheme import Scheme

SOURCE = "Guo et al., MICRO 2022; clevercool/ANT-Quantization@bc84067"


def flint(bits: int, signed: bool = True) -> Table:
    """Float-int: a leading-one prefix code, finest in the middle of its range. Signed ones are sign and magnitude.

    A magnitude code {m, r} of b bits has base r and exponent 0 for m = 0; base r << 1 and exponent 2·LZD(r) for
    m = 1; and 100…0 is 2**(2(b-1)).
    """
    b = bits - signed
    if b < 2:
        raise ValueError(f"flint: {bits} bits found; signed flint needs at least 3, unsigned at least 2")
    half = 2 ** (b - 1)
    upper = [(r << 1, 2 * (b - 1 - r.bit_length())) for r in range(1, half)]
    return _sign_magnitude([(r, 0) for r in range(half)] + [(1, 2 * (b - 1))] + upper, signed)


def power_of_two(bits: int, signed: bool = True) -> Table:
    """0 and ±2**i for i from 0 to 2**b - 2, with b magnitude bits."""
    b = bits - signed
    if b < 1:
        raise ValueError(f"power_of_two: {bits} bits found; at least one bit must be left for the magnitude")
    return _sign_magnitude([(0, 0)] + [(1, i) for i in range(2**b - 1)], signed)


def float_type(bits: int, signed: bool = True, exponent_bits: int = 3) -> Minifloat:
    """The artifact's float: 3 exponent bits where they fit, the rest mantissa, with subnormals."""
    b = bits - signed
    exponent_bits = min(exponent_bits, b)
    return Minifloat(exponent_bits, b - exponent_bits, bias=1, signed=signed)


TYPES: dict[str, Callable[[int, bool], Format]] = {
    "int": lambda bits, signed: Int(bits, signed),
    "flint": flint,
    "pot": power_of_two,
    "float": float_type,
}
"""Candidates in the artifact's order, which decides ties."""


def ant(
    weight_bits: int = 4,
    input_bits: int | None = 4,
    types: tuple[str, ...] = ("int", "pot", "flint"),
    *,
    lowest_ratio: int = 75,
    highest_ratio: int = 150,
) -> Scheme:
    """One type a tensor; weight scales per row, one static input scale; clip ratios searched in per cent.

    The default is the paper's IP-F. Above 6 bits only integers are tried, from ratio 0.95, as in the artifact.
    """
    unknown = [t for t in types if t not in TYPES]
    if unknown or not types:
        raise ValueError(f"ant: types {types} found; choose from {tuple(TYPES)}")

    def candidates(bits: int, signed: bool, share: Granularity) -> BestOf:
        wide = bits > 6
        search = MinimumError(95 if wide else lowest_ratio, highest_ratio)
        names = [t for t in TYPES if t in (("int",) if wide else types)]
        scale = Scale(share, range=search)
        return BestOf(tuple(Quantizer(TYPES[t](bits, signed), (scale,), Rounding.NEAREST_UP) for t in names))

    weight = candidates(weight_bits, True, PerRow())
    datapath = Datapath(inner=WIDE, outer=Accumulator(FLOAT32), scale_product=FLOAT32)
    if input_bits is None:
        return Scheme(None, weight, datapath, SOURCE)
    chosen = BySign(candidates(input_bits, False, PerTensor()), candidates(input_bits, True, PerTensor()))
    return Scheme(chosen, weight, datapath, SOURCE)


def ant_type(type: str = "flint", weight_bits: int = 4, input_bits: int | None = 4) -> Scheme:
    """ANT with one type for every tensor: how much does the choice give?"""
    scheme = ant(weight_bits, input_bits, (type,))
    return Scheme(scheme.input, scheme.weight, scheme.datapath, SOURCE)


def _sign_magnitude(magnitudes: list[tuple[int, int]], signed: bool) -> Table:
    codes = magnitudes + [(-base, exponent) for base, exponent in magnitudes] if signed else magnitudes
    return Table(tuple(base for base, _ in codes), tuple(exponent for _, exponent in codes))
