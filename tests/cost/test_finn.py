"""The gains of narrow accumulators that the specification derives from FINN's formulas, to the digit."""

from dataclasses import replace

import pytest

from bitwright.cost.finn import CONSTANT, FACTOR, MatrixVectorUnit, minimized


def unit(bits, processors, lanes, accumulator_bits=32, output_bits=-1):
    output = bits if output_bits == -1 else output_bits
    return MatrixVectorUnit(64, 576, processors, lanes, bits, bits, accumulator_bits, output)


@pytest.mark.parametrize(
    ("bits", "processors", "lanes", "narrower", "gains"),
    [
        (4, 1, 1, (0, 4, 8), (1.50, 1.76, 2.11)),
        (4, 4, 16, (0, 4, 8), (1.34, 1.49, 1.68)),
        (8, 1, 1, (0, 8), (1.22, 1.75)),
        (4, 64, 64, (0, 8), (1.14, 1.24)),
        (8, 64, 64, (0, 8), (1.15, 1.44)),
    ],
)
def test_look_up_tables_saved_against_a_32_bit_accumulator(bits, processors, lanes, narrower, gains):
    wide = unit(bits, processors, lanes)
    needed = minimized(32, wide)
    found = [wide.luts() / replace(wide, accumulator_bits=needed - less).luts() for less in narrower]
    assert tuple(round(gain, 2) for gain in found) == gains


@pytest.mark.parametrize(("bits", "needed"), [(4, 18), (8, 26)])
def test_the_formats_ask_for_a_width_that_no_wider_register_exceeds(bits, needed):
    assert [minimized(p, unit(bits, 1, 1)) for p in (12, needed, 32)] == [12, needed, needed]


def test_one_processor_of_one_lane_costs_what_the_formulas_say():
    assert unit(4, 1, 1, 18).luts() == CONSTANT + FACTOR * (24 + 8 + 18 + 15 * 18 * 2)
    assert unit(4, 1, 1, 18, None).luts() == CONSTANT + FACTOR * (24 + 8 + 18)


def test_multipliers_in_dsp_slices_leave_the_tables():
    plain = unit(4, 4, 16, 18)
    assert plain.luts() - plain.luts_with_dsp() == pytest.approx(FACTOR * 4 * 16 * 3 * 8)
    assert plain.dsps == 64


def test_weights_in_tables_cost_their_bits_for_every_64_words():
    plain = unit(4, 4, 16, 18)
    assert plain.cycles == 16 * 36
    assert plain.luts_with_distributed_weights() - plain.luts() == pytest.approx(4 * 16 * 4 * 9)


@pytest.mark.parametrize(
    ("processors", "lanes", "bits", "memories"),
    [(1, 1, 1, 3), (1, 1, 2, 5), (1, 1, 4, 9), (2, 1, 4, 9), (4, 1, 4, 9), (4, 16, 4, 15)],
)
def test_block_memories_follow_the_shape_of_the_weights(processors, lanes, bits, memories):
    assert unit(bits, processors, lanes).block_memories() == memories


def test_lanes_that_do_not_divide_the_inputs_are_refused():
    with pytest.raises(ValueError, match="1 processors of 5 lanes do not divide 64 outputs of 576 inputs"):
        unit(4, 1, 5)
