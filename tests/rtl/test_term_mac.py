"""Term Revealing in lockstep: the golden dot products at every budget, in the clocks of the paper's closed form."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("amaranth", reason="circuits need amaranth: pip install 'bitwright[rtl]'")

from bitwright.rtl.operand import Sign
from bitwright.rtl.term_mac import ModeRegisters, TermMac, term_list, term_mac
from bitwright.rtl.term_serial import CoefficientSum, ShiftSum
from bitwright.schemes import integer, term_revealing
from bitwright.schemes.term_revealing import Recoding, TermBudget, term_pairs_bound
from bitwright.testing.rtl import evaluate

X, W = TermBudget(127, False), TermBudget(127, True, 8)
"""Magnitudes of seven bits, as the artifact's circuits have them."""


class Mode:
    """Values of the registers."""

    def __init__(self, recode, group, budget, data_terms):
        self.recode, self.group, self.budget, self.data_terms = recode, group, budget, data_terms

    def formats(self, x, w):
        recoding = Recoding.HESE if self.recode else Recoding.BINARY
        x, w = replace(x, recoding=recoding), replace(w, group=self.group, recoding=recoding)
        return replace(x, budget=min(self.data_terms, x.most_terms)), replace(
            w, budget=min(self.budget, self.group * w.most_terms)
        )


PLAIN = Mode(False, 1, 7, 7)
"""Plain quantization: every bit of one operand with every bit of the other."""


def schedule(unit, modes, x_codes, w_codes):
    """Ports in each clock for one dot product a mode, groups without a pause between; golden sums and their clocks."""
    inputs = {name: [] for name, (_, is_input) in unit.ports().items() if is_input}
    golden, ends, x, w = [], [], unit.x, unit.w

    def clock(**given):
        for name, values in inputs.items():
            values.append(int(given.get(name, 0)))

    pending = []  # ports of the clock in which the group before ends
    for mode, xs, ws in zip(modes, x_codes, w_codes):
        a, b = mode.formats(x, w)
        groups = ws.reshape(-1, mode.group)
        terms = term_list(b, groups)
        for i, lanes in enumerate(xs.reshape(-1, mode.group)):
            load = {"load": 1, "first": i == 0, "recode": mode.recode} | {f"x_{n}": v for n, v in enumerate(lanes)}
            if pending:
                clock(**pending.pop(), **load)
            else:
                clock(**load)
            steps = [(k, j) for k in range(mode.budget) for j in range(mode.data_terms)]
            for k, _ in steps:
                entry = {"group_budget": mode.budget, "data_terms": mode.data_terms}
                if k < terms.exponent.shape[1]:
                    entry |= {"w_term": terms.is_term[i, k], "w_negative": terms.is_negative[i, k],
                              "w_exponent": terms.exponent[i, k], "w_lane": terms.lane[i, k]}  # fmt: skip
                pending = [entry]
                if (k, _) != steps[-1]:
                    clock(**pending.pop())
        golden.append(int((a.decode(xs[None]) * b.decode(ws[None])).sum()))
        ends.append(len(inputs["load"]) + 1)
    clock(**pending.pop())
    clock()
    return inputs, golden, ends


MODES = [
    PLAIN,
    Mode(True, 8, 12, 3),
    Mode(True, 4, 6, 2),
    PLAIN,
    Mode(True, 1, 1, 1),
    Mode(True, 2, 8, 4),
    Mode(False, 8, 9, 2),
]


@pytest.mark.parametrize("sums", [CoefficientSum, ShiftSum])
@pytest.mark.parametrize("x", [X, TermBudget(127)], ids=["unsigned", "signed"])
def test_one_cell_switches_between_modes_and_sums_what_each_keeps(sums, x):
    rng = np.random.default_rng(0)
    count = len(MODES)
    x_codes = x.encode(rng.normal(0, 60, (count, 16)) if x.signed else np.abs(rng.normal(0, 60, (count, 16))))
    w_codes = W.encode(rng.normal(0, 50, (count, 16)))
    x_codes[1, :8], w_codes[2, 3] = W.largest, 0
    unit = TermMac(x, W, 16, sums)
    inputs, golden, ends = schedule(unit, MODES, x_codes, w_codes)
    found = evaluate(unit, inputs, clocked=True)
    assert [found["total"][end] for end in ends] == golden
    clocks = [end - start for start, end in zip([1, *ends], ends)]
    for mode, taken in zip(MODES, clocks):
        pairs = term_pairs_bound(16, group=mode.group, budget=mode.budget, data_terms=mode.data_terms,
                                 weight_bits=mode.budget, data_bits=mode.data_terms)  # fmt: skip
        assert taken == pairs == 16 // mode.group * mode.budget * mode.data_terms


@pytest.mark.parametrize("recoding", [Recoding.HESE, Recoding.BINARY], ids=repr)
@pytest.mark.parametrize("group", [1, 2, 8])
def test_a_budget_is_the_beginning_of_the_list(group, recoding):
    rng = np.random.default_rng(1)
    format = TermBudget(127, True, group, None, recoding)
    codes = format.encode(rng.normal(0, 60, (30, group)))
    whole = term_list(format, codes)
    assert whole.is_term.shape[1] == group * format.most_terms
    for budget in range(1, whole.is_term.shape[1] + 1):
        values = np.where(whole.is_negative, -1, 1) * whole.is_term * 2**whole.exponent
        kept = np.zeros(codes.shape, int)
        for row in range(len(codes)):
            np.add.at(kept[row], whole.lane[row, :budget], values[row, :budget])
        np.testing.assert_array_equal(kept, replace(format, budget=budget).decode(codes))


def test_the_sum_holds_truncated_values_beyond_the_largest():
    unit = TermMac(X, W, 8)
    mode = Mode(True, 8, 8, 1)  # 127 keeps its first term: 128
    inputs, golden, ends = schedule(unit, [mode], np.full((1, 8), 127), np.full((1, 8), 127))
    assert golden == [8 * 128 * 128]
    assert evaluate(unit, inputs, clocked=True)["total"][ends[0]] == golden[0]


def test_counters_are_those_of_the_paper():
    assert len(TermMac(X, W, 8).sum.counter_bits) == 15


def test_two_writes_switch_the_mode():
    writes = [(0x8, 3 << 12 | 12 << 5 | 8), (0x0, 3), (0x8, 7 << 12 | 7 << 5 | 1), (0x0, 0), (0x4, 5)]
    inputs = {
        "write": [1] * 5 + [0] * 3, "address": [a for a, _ in writes] + [0, 4, 8],
        "data": [d for _, d in writes] + [0] * 3,
    }  # fmt: skip
    found = evaluate(ModeRegisters(), inputs, clocked=True)
    fields = ("recode", "limit", "group_size", "group_budget", "data_terms")
    assert [found[name][2] for name in fields] == [1, 1, 8, 12, 3]
    assert [found[name][4] for name in fields] == [0, 0, 1, 7, 7]
    assert found["read"][5:] == [0, 0, 7 << 12 | 7 << 5 | 1]


def test_a_cell_of_a_scheme_holds_all_its_budgets():
    unit = term_mac(term_revealing(8, 8, group=8, budget=12, data_terms=3), k=64)
    assert (unit.x, unit.w) == (TermBudget(255, True), TermBudget(128, True, 8))
    assert term_mac(term_revealing(), k=64, sign=Sign.UNSIGNED).x == TermBudget(255, False)
    with pytest.raises(ValueError, match="give a scheme of term budgets"):
        term_mac(integer(), k=64)


def test_budgets_are_no_part_of_the_circuit():
    with pytest.raises(ValueError, match="recoding and budget are chosen at run time"):
        TermMac(TermBudget(127, False, 1, 3), W, 8)
