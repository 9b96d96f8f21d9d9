import pytest

from bitwright.cost.cells import Process, generic_library
from bitwright.cost.netlist import Instance, Netlist
from bitwright.cost.timing import Surroundings, analyse, net_loads

LIBRARY = generic_library(Process(slew_share=0.0))
PROCESS = Process()
TAU = PROCESS.tau_ns
AROUND = Surroundings(wire_ff=0.0, output_ff=PROCESS.unit_ff)


def netlist(*gates, outputs, inputs=None):
    instances = tuple(Instance(f"g{i}", kind, pins) for i, (kind, pins) in enumerate(gates))
    return Netlist("small", inputs or {"a": (2,), "b": (3,)}, {"y": outputs}, instances)


def inverters(count):
    return netlist(*[("INV_X1", {"A": 2 + 10 * i, "Y": 12 + 10 * i}) for i in range(count)], outputs=(2 + 10 * count,))


@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_chain_of_inverters_takes_two_units_each(count):
    """Each drives its own drains and one gate."""
    timing = analyse(inverters(count), LIBRARY, AROUND)
    assert timing.period_ns == pytest.approx(2 * TAU * count, rel=1e-3)
    assert [step.cell for step in timing.path] == ["input a"] + ["INV_X1"] * count
    assert timing.setup_ns == 0


def test_loads_are_pins_and_wires():
    gates = [("INV_X1", {"A": 2, "Y": 4}), ("NAND2_X1", {"A": 2, "B": 3, "Y": 5})]
    loads = net_loads(netlist(*gates, outputs=(4, 5)), LIBRARY, Surroundings(wire_ff=1.0, output_ff=3.0))
    unit = PROCESS.unit_ff
    assert loads == pytest.approx({2: unit + 4 / 3 * unit + 2, 3: 4 / 3 * unit + 1, 4: 4, 5: 4}, rel=1e-3)


def test_the_slower_of_two_paths_counts():
    gates = [("INV_X1", {"A": 2, "Y": 4}), ("NAND2_X1", {"A": 4, "B": 3, "Y": 5})]
    timing = analyse(netlist(*gates, outputs=(5,)), LIBRARY, AROUND)
    assert [step.net for step in timing.path] == [2, 4, 5]
    assert timing.period_ns == pytest.approx(TAU * (1 + 4 / 3 + 2 + 1), rel=1e-3)


def test_between_flip_flops_setup_is_part_of_the_period():
    gates = [
        ("DFF_X1", {"D": 9, "CK": 2, "Q": 4}),
        ("INV_X1", {"A": 4, "Y": 5}),
        ("DFF_X1", {"D": 5, "CK": 2, "Q": 6}),
    ]
    timing = analyse(netlist(*gates, outputs=(6,), inputs={"clk": (2,), "d": (9,)}), LIBRARY, AROUND)
    assert timing.setup_ns == pytest.approx(6 * TAU, rel=1e-3)
    assert timing.period_ns == pytest.approx(TAU * (8 + 2 + 2 + 6), rel=1e-3)
    assert [step.cell for step in timing.path] == ["DFF_X1", "INV_X1"]
    assert timing.clock_mhz == pytest.approx(1000 / timing.period_ns)


def test_a_slow_input_delays_the_output():
    library = generic_library()
    fast, slow = (analyse(inverters(1), library, Surroundings(slew_ns=slew)) for slew in (0.01, 0.1))
    assert slow.period_ns - fast.period_ns == pytest.approx(0.09 * PROCESS.slew_share, rel=1e-3)


def test_heavier_wires_make_a_path_slower():
    light, heavy = (analyse(inverters(3), LIBRARY, Surroundings(wire_ff=wire)) for wire in (0.0, 5.0))
    assert heavy.period_ns - light.period_ns == pytest.approx(3 * TAU * 5 / PROCESS.unit_ff, rel=1e-3)


def test_a_netlist_of_nothing_has_no_path():
    with pytest.raises(ValueError, match="small has no path"):
        analyse(netlist(outputs=(0,)), LIBRARY)
