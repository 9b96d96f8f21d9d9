import numpy as np
import pytest

from bitwright.cost.cells import CLOCKED_TRANSISTORS, FLIP_FLOP_TRANSISTORS, Process, generic_library
from bitwright.cost.netlist import Instance, Netlist
from bitwright.cost.power import energy_report
from bitwright.cost.simulate import Simulator
from bitwright.cost.timing import Surroundings

LIBRARY = generic_library()
PROCESS = Process()
AROUND = Surroundings(wire_ff=0.0, output_ff=PROCESS.unit_ff)
ONE_FJ = PROCESS.energy_fj(1.0)
"""Half C V² of one unit inverter's input."""


def register():
    """An inverter, then a flip-flop whose output leaves."""
    gates = (Instance("i", "INV_X1", {"A": 3, "Y": 4}), Instance("q", "DFF_X1", {"D": 4, "CK": 2, "Q": 5}))
    return Netlist("register", {"clk": (2,), "d": (3,)}, {"y": (5,)}, gates)


def energy(data, **how):
    netlist = register()
    trace = Simulator(netlist, LIBRARY.cells).run({"d": np.asarray(data)[:, None]})
    return energy_report(netlist, LIBRARY, trace, surroundings=AROUND, **how)


def test_what_holds_still_takes_clock_and_leakage_only():
    still = energy([1, 1, 1, 1])
    moving = energy([1, 0, 1, 0])
    assert still.switching_pj < moving.switching_pj
    assert still.clock_pj == moving.clock_pj > 0
    assert still.leakage_pj == moving.leakage_pj > 0


def test_a_net_that_toggles_every_cycle_takes_half_c_v_squared():
    """From the second cycle on every net toggles: three of one unit each."""
    report = energy([0, 1, 0, 1, 0, 1, 0, 1])
    assert report.switching_pj * 1000 == pytest.approx(ONE_FJ * 3, rel=1e-3)
    data = FLIP_FLOP_TRANSISTORS - CLOCKED_TRANSISTORS
    assert report.internal_pj * 1000 == pytest.approx(ONE_FJ * (1 + data), rel=1e-3)


def test_the_clock_has_two_edges_a_cycle():
    clocked = CLOCKED_TRANSISTORS / 2 + 1
    assert energy([0, 1]).clock_pj * 1000 == pytest.approx(2 * ONE_FJ * (1 + clocked), rel=1e-3)


def test_a_slower_clock_leaks_longer():
    slow, fast = energy([0, 1], clock_mhz=100.0), energy([0, 1], clock_mhz=500.0)
    assert slow.leakage_pj == pytest.approx(5 * fast.leakage_pj)
    assert slow.leakage_pj == pytest.approx((2 / 2 + 24 / 2) * PROCESS.leakage_nw * 10 / 1e6, rel=1e-3)


def test_the_total_is_the_sum_of_its_parts():
    report = energy([0, 1, 1])
    parts = (report.switching_pj, report.internal_pj, report.clock_pj, report.leakage_pj)
    assert report.total_pj == pytest.approx(sum(parts))


def test_lanes_are_averaged():
    netlist = register()
    lanes = np.asarray([[0, 0], [1, 0], [0, 0], [1, 0], [0, 0]])
    both = energy_report(netlist, LIBRARY, Simulator(netlist, LIBRARY.cells).run({"d": lanes}), surroundings=AROUND)
    alone = [energy([0, 1, 0, 1, 0]), energy([0, 0, 0, 0, 0])]
    assert both.switching_pj == pytest.approx(sum(one.switching_pj for one in alone) / 2)
