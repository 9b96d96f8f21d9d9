"""Accumulator to next code: multiplier, rounding shifter, zero point and saturation of `datapath.Requantize`."""

from amaranth.hdl import Module, Mux, Shape, signed, unsigned
from amaranth.lib.wiring import In, Out

from bitwright.datapath import Requantize
from bitwright.formats import Int
from bitwright.rtl.multiply import multiply
from bitwright.rtl.round import saturated, shift_right
from bitwright.rtl.term import named, shape_of
from bitwright.rtl.unit import Unit


class Requantizer(Unit):
    """clip(round(accumulator · multiplier / 2**shift) + zero point). Combinational.

    accumulator  in: signed, `accumulator_bits` wide
    multiplier   in: FixedPoint.multiplier
    shift        in: FixedPoint.shift - shifts.start, at most shifts[-1] - shifts.start
    zero_point   in: an integer of the output format
    result       out: its code

    `shifts` begins where `Requantize.fixed_point` does, for a factor of one and more. Beyond its end a factor is so
    small that every shift gives the same: use the last.
    """

    def __init__(self, requantize: Requantize, output: Int, accumulator_bits: int = 32) -> None:
        if not 2 <= accumulator_bits <= 32:
            raise ValueError(f"Requantizer: an accumulator of {accumulator_bits} bits found; 2 to 32 are possible")
        self.requantize, self.output, self.accumulator_bits = requantize, output, accumulator_bits
        self.shifts = range(requantize.multiplier_bits - 2, accumulator_bits + requantize.multiplier_bits + 1)
        super().__init__(
            {
                "accumulator": In(signed(accumulator_bits)),
                "multiplier": In(unsigned(requantize.multiplier_bits - 1)),
                "shift": In(shape_of(0, self.shifts[-1] - self.shifts.start)),
                "zero_point": In(Shape(output.bits, output.signed)),
                "result": Out(unsigned(output.bits)),
            },
            requantize, output, accumulator_bits,
        )  # fmt: skip

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rule = self.requantize
        product = multiply(m, "product", self.accumulator, self.multiplier)
        shifts = range(self.shifts.stop - self.shifts.start)
        if rule.first_rounding is None:
            start = self.shifts.start
            shift = named(m, "places", shape_of(0, self.shifts[-1]), self.shift + start)
            scaled = shift_right(m, "scaled", product, shift, rule.rounding, shifts=self.shifts)
        else:
            # the first shift is by one place less where the factor is one or more
            least = self.shifts.start
            is_less = self.shift == 0
            first = named(m, "first_places", shape_of(0, least + 1), Mux(is_less, least, least + 1))
            high = shift_right(m, "high", product, first, rule.first_rounding, shifts=range(least, least + 2))
            rest = named(m, "rest_places", self.shift.shape(), Mux(is_less, 0, self.shift - 1))
            scaled = shift_right(m, "scaled", high, rest, rule.rounding, shifts=shifts[:-1])
        shifted = named(m, "shifted", signed(max(len(scaled), self.output.bits + 1) + 1), scaled + self.zero_point)
        m.d.comb += self.result.eq(saturated(m, "saturated", shifted, *self.output.range))
        return m
