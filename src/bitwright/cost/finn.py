"""FINN's model of the look-up tables of a matrix-vector unit, from the widths of weights, inputs and accumulator.

M. Blott et al., "FINN-R", ACM TRETS 11(3), 2018, with the constants of Xilinx/finn@39f0c9a, HLS variant. The width of
the accumulator multiplies the thresholds of a fused activation, 2**B - 1 for B output bits: there narrow ones save.
"""

from dataclasses import dataclass
from math import ceil

from bitwright.datapath.widths import data_type_bits

CONSTANT, FACTOR = 300, 1.1
LUTRAM_DEPTH = 64


@dataclass(frozen=True)
class MatrixVectorUnit:
    """A layer with `outputs` (MH) and `inputs` (MW), on `processors` (PE) of `lanes` (SIMD) each.

    Output bits are of an activation whose thresholds are fused; None where sums leave as they are.
    """

    outputs: int
    inputs: int
    processors: int
    lanes: int
    weight_bits: int
    input_bits: int
    accumulator_bits: int
    output_bits: int | None = None

    def __post_init__(self) -> None:
        if self.outputs % self.processors or self.inputs % self.lanes:
            raise ValueError(
                f"MatrixVectorUnit: {self.processors} processors of {self.lanes} lanes do not divide {self.outputs} "
                f"outputs of {self.inputs} inputs; choose divisors"
            )

    @property
    def cycles(self) -> int:
        """Of one vector."""
        return self.outputs // self.processors * (self.inputs // self.lanes)

    @property
    def memory_depth(self) -> int:
        """Words of the weight memory."""
        return self.cycles

    def luts(self) -> float:
        """With multipliers of look-up tables and weights in block memory."""
        return CONSTANT + FACTOR * self.processors * (
            self._multipliers() + self._adders() + self.accumulator_bits + self._thresholds()
        )

    def luts_with_distributed_weights(self) -> float:
        """With multipliers and weights in look-up tables."""
        words = ceil(self.memory_depth / LUTRAM_DEPTH)
        return self.luts() + self.processors * self.lanes * self.weight_bits * words

    def luts_with_dsp(self) -> float:
        """With multipliers in DSP slices, and weights in block memory."""
        return self.luts() - FACTOR * self.processors * self._multipliers()

    @property
    def dsps(self) -> int:
        """Slices where multipliers are in them."""
        return self.processors * self.lanes * ceil((self.weight_bits + self.input_bits) / 48)

    def block_memories(self) -> int:
        """18-kbit ones of the weights, by the shape that their width and depth ask for."""
        width, depth = self.lanes * self.weight_bits * self.processors, self.memory_depth
        if width == 1:
            return ceil(depth / 16384)
        if width == 2:
            return ceil(depth / 8192)
        for most, words in ((4, 4096), (9, 2048)):
            if width <= most:
                return ceil(depth / words) * ceil(width / most)
        if width <= 18 or depth > 512:
            return ceil(depth / 1024) * ceil(width / 18)
        return ceil(depth / 512) * ceil(width / 36)

    def _multipliers(self) -> int:
        product = self.weight_bits + self.input_bits
        return self.lanes * (2 * ceil(product / 6) - 1) * product

    def _adders(self) -> int:
        return (self.weight_bits + self.input_bits) * (2 * self.lanes - 1)

    def _thresholds(self) -> int:
        """Their memory, and their comparators."""
        if self.output_bits is None:
            return 0
        deep = ceil(self.outputs // self.processors / LUTRAM_DEPTH)
        return (2**self.output_bits - 1) * self.accumulator_bits * (deep + 1)


def minimized(accumulator_bits: int, unit: MatrixVectorUnit, *, is_input_signed: bool = False) -> int:
    """What FINN builds when it minimizes widths: never more than the formats ask for."""
    most = data_type_bits(unit.inputs, unit.input_bits, unit.weight_bits, is_input_signed=is_input_signed)
    return min(accumulator_bits, most)
