"""The closed forms against arrays simulated cycle by cycle, SCALE-Sim, and a buffer simulated tile by tile."""

from collections import OrderedDict
from itertools import permutations, product

import numpy as np
import pytest

from bitwright.cost.schedule import (
    DATAFLOWS,
    Array,
    Capacity,
    Cell,
    InputStationary,
    OutputStationary,
    Traffic,
    WeightStationary,
    Widths,
    bit_serial,
    plan,
    reloads,
    term_serial,
)
from bitwright.gemm import Gemm

ONE = Widths(1.0, 1.0, 1, 1.0)
ENDLESS = Capacity(1e12, 1e12, 1e12)
SHAPES = ((10, 7, 5), (3, 12, 9), (16, 16, 16), (1, 9, 20))  # m, n, k
# "Total Cycles" of SCALE-Sim 3.0.0 (GEMM mode, CALC bandwidth, 64 kB buffers, no layout), rows and columns, then SHAPES
SCALE_SIM = {
    ("ws", 4, 4): (79, 116, 415, 164), ("ws", 8, 4): (55, 125, 271, 170), ("ws", 5, 8): (25, 75, 255, 135),
    ("os", 4, 4): (65, 44, 351, 77), ("os", 8, 4): (59, 56, 207, 89), ("os", 5, 8): (31, 39, 215, 61),
    ("is", 4, 4): (101, 65, 415, 94), ("is", 8, 4): (74, 59, 271, 80), ("is", 5, 8): (45, 55, 255, 99),
}  # fmt: skip
# its SRAM reads of inputs and of weights on 8 rows and 4 columns
SCALE_SIM_READS = {
    "ws": ((100, 35), (81, 108), (1024, 256), (60, 180)), "os": ((100, 70), (81, 108), (1024, 512), (60, 180)),
    "is": ((50, 105), (27, 108), (256, 1024), (20, 180)),
}  # fmt: skip


def _padded(a, rows, columns):
    out = np.zeros((rows, columns), int)
    out[: a.shape[0], : a.shape[1]] = a
    return out


def _weight_stationary_fold(x, w, rows, columns):
    """x [t, k], w [n, k] of one fold: cycles until the last sum is out, and the sums [t, n]."""
    held = np.zeros((rows, columns), int)
    wanted = _padded(w.T, rows, columns)
    cycles = 0
    for i in range(rows):  # a row of weights a cycle comes in at the top and moves down
        held = np.vstack([wanted[rows - 1 - i], held[:-1]])
        cycles += 1
    right, down = np.zeros((rows, columns), int), np.zeros((rows, columns), int)
    sums, left = {}, len(x) * columns
    time = 0
    while left:
        entering = [x[time - r, r] if 0 <= time - r < len(x) and r < x.shape[1] else 0 for r in range(rows)]
        seen = np.hstack([np.array(entering)[:, None], right[:, :-1]])
        above = np.vstack([np.zeros(columns, int), down[:-1]])
        down, right = above + seen * held, seen
        for c in range(columns):
            if 0 <= (i := time - (rows - 1) - c) < len(x):
                sums[i, c] = down[-1, c]
                left -= 1
        time += 1
    return cycles + time, np.array([[sums[i, c] for c in range(len(w))] for i in range(len(x))])


def _output_stationary_fold(x, w, rows, columns):
    """x [m, k], w [n, k] of one fold: cycles until the last sum is complete, and the sums."""
    right, down, held = (np.zeros((rows, columns), int) for _ in range(3))
    seen_of = np.zeros((rows, columns), int)
    k, time = x.shape[1], 0
    while seen_of.min() < k:
        entering = [
            [_skewed(operand, lane, time - lane) for lane in range(n)] for operand, n in ((x, rows), (w, columns))
        ]
        right = np.hstack([np.array(entering[0])[:, None], right[:, :-1]])
        down = np.vstack([np.array(entering[1]), down[:-1]])
        held = held + right * down
        index = time - np.add.outer(np.arange(rows), np.arange(columns))
        seen_of += (index >= 0) & (index < k)
        time += 1
    return time, held[: len(x), : len(w)]


def _skewed(operand, lane, index):
    return operand[lane, index] if lane < len(operand) and 0 <= index < operand.shape[1] else 0


def _simulated(name, rows, columns, x, w):
    """Whole products fold after fold: cycles and result."""
    total, cycles = np.zeros((len(x), len(w)), int), 0
    if name == "os":
        for i, j in product(range(0, len(x), rows), range(0, len(w), columns)):
            time, part = _output_stationary_fold(x[i : i + rows], w[j : j + columns], rows, columns)
            total[i : i + rows, j : j + columns] = part
            cycles += time
        return cycles, total
    if name == "is":
        cycles, transposed = _simulated("ws", rows, columns, w, x)
        return cycles, transposed.T
    for i, j in product(range(0, x.shape[1], rows), range(0, len(w), columns)):
        time, part = _weight_stationary_fold(x[:, i : i + rows], w[j : j + columns, i : i + rows], rows, columns)
        total[:, j : j + columns] += part
        cycles += time
    return cycles, total


@pytest.mark.parametrize("name", DATAFLOWS)
@pytest.mark.parametrize("array", [(1, 1), (1, 3), (2, 2), (3, 2)])
def test_the_closed_form_counts_the_cycles_of_an_array_that_is_simulated_cycle_by_cycle(name, array):
    generator = np.random.default_rng(0)
    for m, n, k in product((1, 2, 3, 5), repeat=3):
        x, w = generator.integers(-8, 8, (m, k)), generator.integers(-8, 8, (n, k))
        cycles, result = _simulated(name, *array, x, w)
        np.testing.assert_array_equal(result, x @ w.T)
        assert DATAFLOWS[name].compute_cycles(Array(*array), Gemm(m, k, n)) == cycles


@pytest.mark.parametrize(("name", "rows", "columns"), SCALE_SIM)
def test_cycles_are_one_more_than_scale_sim_reports(name, rows, columns):
    found = [DATAFLOWS[name].compute_cycles(Array(rows, columns), Gemm(m, k, n)) - 1 for m, n, k in SHAPES]
    assert tuple(found) == SCALE_SIM[name, rows, columns]


@pytest.mark.parametrize("name", SCALE_SIM_READS)
def test_the_array_reads_its_buffers_as_often_as_scale_sim_says(name):
    found = [DATAFLOWS[name].sram(Array(8, 4), Gemm(m, k, n), ONE) for m, n, k in SHAPES]
    assert tuple((t.input, t.weight) for t in found) == SCALE_SIM_READS[name]


def test_a_buffer_that_gives_up_what_was_used_longest_ago_misses_as_often_as_the_closed_form_says():
    for order in permutations("mnk"):
        for counts in product((1, 2, 3), repeat=3):
            folds = dict(zip("mnk", counts, strict=True))
            for own, room in product(("mk", "nk", "mn"), (0, 1, 2, 3, 4, 9)):
                held, misses = OrderedDict(), 0
                for point in product(*(range(folds[axis]) for axis in reversed(order))):
                    tile = tuple(i for i, axis in zip(point, reversed(order), strict=True) if axis in own)
                    misses += tile not in held
                    held[tile] = None
                    held.move_to_end(tile)
                    while len(held) > room:
                        held.popitem(last=False)
                assert reloads(own, "".join(order), folds, room) == misses


@pytest.mark.parametrize("name", DATAFLOWS)
def test_buffers_without_end_move_every_operand_once(name):
    gemm = Gemm(30, 20, 25, groups=3)
    found = plan(DATAFLOWS[name], Array(4, 4), gemm, widths=ONE, capacity=ENDLESS, bits_per_cycle=1_000_000)
    assert found.dram == Traffic(3 * 25 * 20, 3 * 30 * 20, 3 * 30 * 25, 0)
    assert found.cycles == found.compute_cycles + 1  # the first tiles are waited for


@pytest.mark.parametrize("name", DATAFLOWS)
def test_smaller_buffers_never_move_less(name):
    gemm = Gemm(64, 48, 40)
    moved = [
        plan(DATAFLOWS[name], Array(4, 4), gemm, widths=ONE, capacity=Capacity(b, b, b), bits_per_cycle=64).dram.total
        for b in (16, 64, 256, 1024, 4096, 16384)
    ]
    assert moved == sorted(moved, reverse=True)
    assert moved[0] > moved[-1]


@pytest.mark.parametrize(("input_bits", "moved"), [(64, 32 + 64), (63, 32 + 128)])
def test_half_a_buffer_holds_what_is_used(input_bits, moved):
    """Both tiles of the inputs, 32 bits, stay while the weights pass; or else the weights pass twice."""
    found = plan(
        OutputStationary(), Array(4, 4), Gemm(m=8, k=4, n=16), widths=ONE,
        capacity=Capacity(32.0, float(input_bits), 1e6), bits_per_cycle=64,
    )  # fmt: skip
    assert found.dram.input + found.dram.weight == moved


def test_a_plan_that_moves_less_is_not_taken_where_it_is_much_slower():
    gemm, array = Gemm(4096, 64, 64), Array(32, 32)
    found = plan(WeightStationary(), array, gemm, widths=ONE, capacity=Capacity(1e6, 1e6, 5000.0), bits_per_cycle=10**9)
    assert found.dram.output_read > 0
    assert found.compute_cycles <= 1.02 * WeightStationary().compute_cycles(array, gemm)


def test_a_slow_memory_is_what_is_waited_for():
    gemm = Gemm(64, 64, 64)
    found = plan(WeightStationary(), Array(8, 8), gemm, widths=ONE, capacity=ENDLESS, bits_per_cycle=1)
    assert found.cycles >= found.dram.total > found.compute_cycles / 2


def test_partial_sums_that_have_no_room_leave_and_come_back_in_the_width_of_the_accumulator():
    widths = Widths(8.0, 8.0, 24, 8.0)
    found = plan(
        WeightStationary(), Array(4, 4), Gemm(16, 12, 4), widths=widths, capacity=Capacity(1e6, 1e6, 1.0),
        bits_per_cycle=64,
    )  # fmt: skip
    assert found.dram.output_read == 2 * 16 * 4 * 24
    assert found.dram.output_written == 2 * 16 * 4 * 24 + 16 * 4 * 8


@pytest.mark.parametrize("flow", [WeightStationary(), InputStationary(), OutputStationary()])
def test_lanes_shorten_k_and_steps_lengthen_the_stream(flow):
    gemm = Gemm(5, 32, 7)
    vector, scalar = Array(4, 4, Cell(lanes=8)), Array(4, 4)
    assert flow.compute_cycles(vector, gemm) == flow.compute_cycles(scalar, Gemm(5, 4, 7))
    slow = Array(4, 4, Cell(steps=3))
    sizes = {"m": 5, "n": 7, "k": 32}
    folds = -(-sizes[flow.rows] // 4) * -(-sizes[flow.columns] // 4)
    assert flow.compute_cycles(slow, gemm) - flow.compute_cycles(scalar, gemm) == 2 * sizes[flow.streamed] * folds


def test_a_term_serial_array_takes_the_cycles_of_the_specification_and_its_filling():
    cell = term_serial(group=8, budget=12, data_terms=3)
    gemm = Gemm(m=784, k=1152, n=256)
    folds = -(-1152 // (8 * 64)) * -(-256 // 128)
    filling = folds * (2 * 64 + 128 - 2)
    assert WeightStationary().compute_cycles(Array(64, 128, cell), gemm) == folds * 784 * 36 + filling
    plain = bit_serial(group=8, weight_bits=7, data_bits=7)
    assert plain.steps / cell.steps == pytest.approx(10.89, abs=0.005)  # VGG-16: 10.8 published


def test_a_layer_without_rows_takes_nothing():
    found = plan(WeightStationary(), Array(4, 4), Gemm(0, 8, 8), widths=ONE, capacity=ENDLESS, bits_per_cycle=8)
    assert found.cycles == 0


def test_an_array_without_rows_is_refused():
    with pytest.raises(ValueError, match="0 rows and 4 columns found; at least 1 of each"):
        Array(0, 4)
