import shutil
import subprocess

import numpy as np
import pytest

from bitwright.cost.cells import Process, generic_library
from bitwright.cost.glitch import TICK_PS, Activity, Delays, Edges, delayed_activity, library_activity, library_delays
from bitwright.cost.netlist import Instance, Netlist, yosys_gates
from bitwright.cost.power import energy_report
from bitwright.cost.simulate import Simulator
from bitwright.cost.timing import Surroundings, analyse

GATES = yosys_gates()


def hazard():
    """a and not a: a pulse after each rising edge, if the inverter is slow enough."""
    gates = (Instance("n", "$_NOT_", {"A": 2, "Y": 3}), Instance("g", "$_AND_", {"A": 2, "B": 3, "Y": 4}))
    return Netlist("hazard", {"a": (2,)}, {"y": (4,)}, gates)


def hazard_activity(inverter, gate, values=(0, 1, 0, 1)):
    delays = Delays({}, {("n", "Y", "A"): inverter, ("g", "Y", "A"): gate, ("g", "Y", "B"): gate})
    stimulus = {"a": np.asarray(values)[:, None]}
    return delayed_activity(Simulator(hazard(), GATES), GATES, stimulus, delays, len(values) - 1)


def ripple(width):
    """An adder of one-bit carries: sums wait for them, so they glitch."""
    gates, carry, net = [], 0, 2 + 2 * width
    sums = []
    for i in range(width):
        a, b, (half, total, both, moved, out) = 2 + i, 2 + width + i, range(net, net + 5)
        net += 5
        gates += [
            Instance(f"h{i}", "XOR2_X1", {"A": a, "B": b, "Y": half}),
            Instance(f"s{i}", "XOR2_X1", {"A": half, "B": carry, "Y": total}),
            Instance(f"b{i}", "AND2_X1", {"A": a, "B": b, "Y": both}),
            Instance(f"m{i}", "AND2_X1", {"A": half, "B": carry, "Y": moved}),
            Instance(f"c{i}", "OR2_X1", {"A": both, "B": moved, "Y": out}),
        ]
        sums.append(total)
        carry = out
    ports = {"a": tuple(range(2, 2 + width)), "b": tuple(range(2 + width, 2 + 2 * width))}
    return Netlist("ripple", ports, {"y": (*sums, carry)}, tuple(gates))


def words(width, cycles, lanes, seed=0):
    rng = np.random.default_rng(seed)
    return {port: rng.integers(0, 2**width, (cycles, lanes)) for port in "ab"}


def test_a_slow_inverter_makes_a_pulse():
    activity = hazard_activity(Edges(5, 5), Edges(2, 2))
    assert activity.toggles == {2: 3, 3: 3, 4: 4}  # after each of two rising edges up and down again
    assert activity.settled == {2: 3, 3: 3, 4: 0}


def test_a_pulse_shorter_than_the_gates_delay_vanishes():
    assert hazard_activity(Edges(2, 2), Edges(5, 5)).toggles[4] == 0


def test_a_pulse_as_long_as_the_gates_delay_passes():
    assert hazard_activity(Edges(3, 3), Edges(3, 3)).toggles[4] == 4


def test_edges_have_delays_of_their_own():
    """What falls slowly makes the pulse on a rising edge; the other way round nothing overlaps."""
    assert hazard_activity(Edges(rise=1, fall=9), Edges(2, 2)).toggles[4] == 4
    assert hazard_activity(Edges(rise=9, fall=1), Edges(2, 2)).toggles[4] == 0


def test_lanes_count_as_runs_of_their_own():
    library = generic_library()
    stimulus = words(6, 4, 5)
    both = library_activity(ripple(6), library, stimulus, transitions=3)
    each = [
        library_activity(ripple(6), library, {port: v[:, [i]] for port, v in stimulus.items()}, transitions=3)
        for i in range(5)
    ]
    assert both.changes == sum(one.changes for one in each)
    for net, count in both.toggles.items():
        assert count == sum(one.toggles[net] for one in each)


def test_settled_changes_are_those_of_the_simulation_without_delays():
    netlist, library = ripple(8), generic_library()
    stimulus = words(8, 5, 64)
    activity = library_activity(netlist, library, stimulus, transitions=4)
    assert activity.settled == Simulator(netlist, library.cells).run(stimulus).toggles
    assert all(activity.toggles[net] >= count for net, count in activity.settled.items())
    assert activity.factor > 1.05


def test_ticks_ten_times_finer_move_toggles_by_less_than_a_hundredth():
    netlist, library = ripple(16), generic_library()
    stimulus, timing = words(16, 3, 512), analyse(netlist, library)
    simulator = Simulator(netlist, library.cells)
    coarse, fine = (
        sum(
            delayed_activity(
                simulator, library.cells, stimulus, library_delays(netlist, library, timing, tick_ps), 2
            ).toggles.values()
        )
        for tick_ps in (TICK_PS, TICK_PS / 10)
    )
    assert coarse == pytest.approx(fine, rel=0.01)


def test_inputs_arrive_as_the_outputs_of_flip_flops():
    gates = (Instance("q", "DFF_X1", {"D": 3, "CK": 2, "Q": 4}), Instance("x", "XOR2_X1", {"A": 3, "B": 4, "Y": 5}))
    netlist = Netlist("late", {"clk": (2,), "d": (3,)}, {"y": (5,)}, gates)
    process = Process()
    library, around = generic_library(process), Surroundings(wire_ff=0.0, output_ff=0.0)
    delays = library_delays(netlist, library, analyse(netlist, library, around), tick_ps=0.001)
    assert delays.launches[3] == delays.launches[4]
    load = library.cell("XOR2_X1").by_name["B"].capacitance_ff / process.unit_ff
    wanted = (8 + 1 + load) * process.tau_ns + process.slew_share * around.slew_ns
    assert delays.launches[4].rise / 1e6 == pytest.approx(wanted, rel=1e-3)


def test_glitches_take_half_c_v_squared_each():
    """Twice as many pairs of pulses, twice the energy; none without pulses."""
    library, netlist = generic_library(), ripple(8)
    stimulus = words(8, 5, 64)
    trace = Simulator(netlist, library.cells).run(stimulus)
    activity = library_activity(netlist, library, stimulus, transitions=4)
    still = energy_report(netlist, library, trace, activity=Activity(activity.settled, activity.settled, 256))
    once = energy_report(netlist, library, trace, activity=activity)
    twice = {net: 2 * count - activity.settled[net] for net, count in activity.toggles.items()}
    more = energy_report(netlist, library, trace, activity=Activity(twice, activity.settled, activity.changes))
    assert still.glitch_pj == 0
    assert more.glitch_pj == pytest.approx(2 * once.glitch_pj)
    assert once.glitching_pj == pytest.approx(once.total_pj + once.glitch_pj)
    everything = energy_report(netlist, library, type(trace)({}, activity.toggles, trace.cycles, trace.lanes))
    assert everything.total_pj == pytest.approx(once.glitching_pj)  # the same transitions, all counted


def test_energy_with_glitches_needs_delays():
    library, netlist = generic_library(), ripple(2)
    trace = Simulator(netlist, library.cells).run(words(2, 3, 4))
    with pytest.raises(ValueError, match="ripple was simulated without delays; give energy_report an activity"):
        _ = energy_report(netlist, library, trace).glitching_pj


def test_more_transitions_than_cycles_are_refused():
    with pytest.raises(ValueError, match="3 transitions asked of 3 cycles"):
        library_activity(ripple(2), generic_library(), words(2, 3, 1), transitions=3)


@pytest.mark.skipif(shutil.which("iverilog") is None, reason="no iverilog on the search path")
def test_icarus_counts_the_same_toggles(tmp_path):
    """An array multiplier of eight bits, gates with delays of their own: Icarus counts every net's changes."""
    netlist, width = multiplier(8), 8
    rng = np.random.default_rng(0)
    delays = Delays(
        {}, {(i.name, "Y", pin): edges for i in netlist.instances for edges in [Edges(*rng.integers(3, 40, 2).tolist())]
             for pin in i.pins if pin != "Y"},
    )  # fmt: skip
    stimulus = {port: rng.integers(0, 2**width, (151, 1)) for port in ("a", "b")}
    activity = delayed_activity(Simulator(netlist, GATES), GATES, stimulus, delays, 150)
    (tmp_path / "bench.v").write_text(verilog(netlist, delays, stimulus))
    subprocess.run(["iverilog", "-g2012", "-o", "bench", "bench.v"], cwd=tmp_path, check=True)
    said = subprocess.run(["vvp", "-n", "bench"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    counted = {int(net): int(count) for net, count in (line.split() for line in said.split("\n") if line)}
    ours = {net: activity.toggles[net] for net in counted}
    assert sum(ours.values()) > 1.5 * sum(activity.settled[net] for net in counted)
    assert ours == counted


def multiplier(width):
    """Rows of partial products added by ripple carries."""
    gates, net = [], 2 + 2 * width

    def gate(kind, a, b):
        nonlocal net
        gates.append(Instance(f"g{net}", f"$_{kind}_", {"A": a, "B": b, "Y": net}))
        net += 1
        return net - 1

    row = [gate("AND", 2 + i, 2 + width) for i in range(width)] + [0]
    product = []
    for j in range(1, width):
        product.append(row[0])
        added = [gate("AND", 2 + i, 2 + width + j) for i in range(width)]
        carry, sums = 0, []
        for a, b in zip(row[1:], added, strict=True):
            half = gate("XOR", a, b)
            sums.append(gate("XOR", half, carry))
            carry = gate("OR", gate("AND", a, b), gate("AND", half, carry))
        row = [*sums, carry]
    ports = {"a": tuple(range(2, 2 + width)), "b": tuple(range(2 + width, 2 + 2 * width))}
    return Netlist("multiplier", ports, {"y": (*product, *row)}, tuple(gates))


def verilog(netlist, delays, stimulus):
    """The gates as primitives with delays, and a bench that prints how often each of their nets changed."""
    primitives = {"$_AND_": "and", "$_XOR_": "xor", "$_OR_": "or"}
    lines = ["`timescale 1ps/1ps", "module bench;", "reg [7:0] a, b;"]
    names = {0: "1'b0"} | {net: f"{port}[{i}]" for port, nets in netlist.inputs.items() for i, net in enumerate(nets)}
    nets = [i.pins["Y"] for i in netlist.instances]
    for instance in netlist.instances:
        rise, fall = delays.gates[instance.name, "Y", "A"]
        a, b = (names.get(instance.pins[pin], f"n{instance.pins[pin]}") for pin in "AB")
        y = instance.pins["Y"]
        lines += [f"wire n{y};", f"{primitives[instance.kind]} #({rise},{fall}) (n{y}, {a}, {b});"]
        lines += [f"integer t{y}; always @(n{y}) t{y} = t{y} + 1;"]
    lines += ["initial begin"]
    for cycle, (a, b) in enumerate(zip(stimulus["a"][:, 0], stimulus["b"][:, 0], strict=True)):
        lines.append(f"a = {a}; b = {b}; #4000;")
        if cycle == 0:
            lines += [f"t{net} = 0;" for net in nets]
    lines += [f'$display("{net} %0d", t{net});' for net in nets]
    return "\n".join([*lines, "end", "endmodule"])
