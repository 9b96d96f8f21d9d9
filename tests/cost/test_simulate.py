import numpy as np
import pytest

from bitwright.cost.netlist import Instance, Netlist, yosys_gates
from bitwright.cost.simulate import Simulator, as_port, pack, unpack
from bitwright.cost.simulate_check import check

GATES = yosys_gates()


def xor(kind="$_XOR_", **more):
    gates = [Instance("g", kind, {"A": 2, "B": 3, "Y": 4})]
    return Netlist("xor", {"a": (2,), "b": (3,)}, {"y": (4,)}, tuple(gates), **more)


def delay(start=()):
    """A flip-flop behind an inverter that it feeds, and one behind that: 0 1 0 1, one cycle apart."""
    gates = [
        Instance("n", "$_NOT_", {"A": 4, "Y": 3}),
        Instance("q", "$_DFF_P_", {"D": 3, "C": 2, "Q": 4}),
        Instance("r", "$_DFF_P_", {"D": 4, "C": 2, "Q": 5}),
        Instance("x", "$_AND_", {"A": 4, "B": 6, "Y": 7}),
    ]
    outputs = {"q": (4,), "r": (5,), "x": (7,)}
    return Netlist("toggle", {"clk": (2,), "e": (6,)}, outputs, tuple(gates), ones=frozenset(start))


@pytest.mark.parametrize("is_signed", [False, True])
@pytest.mark.parametrize("width", [1, 3, 8, 33, 63])
def test_packing_then_unpacking_changes_nothing(width, is_signed):
    low, high = (-(2 ** (width - 1)), 2 ** (width - 1)) if is_signed else (0, 2**width)
    values = np.random.default_rng(0).integers(low, high, 77, dtype=np.int64)
    np.testing.assert_array_equal(unpack(pack(values, width), 77, is_signed), values)


def test_a_wider_plane_extends_the_sign():
    assert [plane & 1 for plane in pack(np.asarray([-1]), 70)] == [1] * 70


@pytest.mark.parametrize("is_signed", [False, True])
@pytest.mark.parametrize("width", [64, 70, 130])
def test_ports_beyond_int64_hold_python_integers(width, is_signed):
    low, high = (-(2 ** (width - 1)), 2 ** (width - 1)) if is_signed else (0, 2**width)
    values = [low, low + 1, -is_signed, 0, 1, 2**62, 2**63 - 1, high // 3, high - 1]
    planes = pack(np.asarray(values, object), width)
    assert unpack(planes, len(values), is_signed).tolist() == values
    wrapped = np.asarray([value + 2**width for value in values], object)
    assert as_port(wrapped, width, is_signed).tolist() == values


def test_all_inputs_of_a_small_circuit_are_tried():
    verdict = check(xor(), GATES, lambda v: {"y": v["a"] ^ v["b"]})
    assert verdict.holds
    assert verdict.is_exhaustive
    assert verdict.patterns == 4


def test_a_wrong_gate_is_found_with_a_counterexample():
    verdict = check(xor("$_OR_"), GATES, lambda v: {"y": v["a"] ^ v["b"]})
    assert not verdict.holds
    assert verdict.counterexample == "b=1, a=1: y is 1, the reference says 0"


def test_a_reference_of_an_unknown_port_is_an_error():
    with pytest.raises(ValueError, match=r"has the outputs \['y'\], the reference gives \['z'\]"):
        check(xor(), GATES, lambda v: {"z": v["a"]})


def test_a_reference_of_nothing_proves_nothing():
    with pytest.raises(ValueError, match=r"the reference gives \[\]"):
        check(xor(), GATES, lambda v: {})


def test_signed_ports_hold_signed_integers():
    seen = set()

    def reference(v):
        seen.update(v["a"].tolist())
        return {"y": -v["a"] ^ v["b"]}

    assert check(xor(signed=frozenset({"a"})), GATES, reference).holds
    assert seen == {0, -1}


def wide(width=20):
    gates = [
        Instance(f"g{i}", "$_AND_", {"A": 2 + i, "B": 2 + width + i, "Y": 2 + 2 * width + i}) for i in range(width)
    ]
    ports = [tuple(range(2 + i * width, 2 + (i + 1) * width)) for i in range(3)]
    return Netlist("wide", {"a": ports[0], "b": ports[1]}, {"y": ports[2]}, tuple(gates), signed=frozenset({"a"}))


def test_a_large_circuit_is_tried_at_the_ends_and_at_random():
    seen = {"a": set(), "b": set()}

    def reference(v):
        for port, values in v.items():
            seen[port].update(values.tolist())
        return {"y": v["a"] & v["b"]}

    verdict = check(wide(), GATES, reference, rng=np.random.default_rng(0), patterns=2**16)
    assert verdict.holds
    assert not verdict.is_exhaustive
    assert {-(2**19), 2**19 - 1, 0} <= seen["a"]
    assert {0, 2**20 - 1} <= seen["b"]
    assert len(seen["a"]) > 50_000


def test_a_large_circuit_without_a_generator_is_an_error():
    with pytest.raises(ValueError, match="40 input bits, too many for all cases; give rng"):
        check(wide(), GATES, lambda v: {})


def test_flip_flops_take_their_next_state_together():
    trace = Simulator(delay(), GATES).run({"e": np.zeros((4, 1), dtype=np.int64)})
    np.testing.assert_array_equal(trace.outputs["q"][:, 0], [0, 1, 0, 1])
    np.testing.assert_array_equal(trace.outputs["r"][:, 0], [0, 0, 1, 0])


def test_a_register_starts_where_its_circuit_says():
    trace = Simulator(delay(start=[4]), GATES).run({"e": np.zeros((3, 1), dtype=np.int64)})
    np.testing.assert_array_equal(trace.outputs["q"][:, 0], [1, 0, 1])


def test_toggles_are_changes_between_cycles_over_all_lanes():
    enable = np.asarray([[0, 1], [0, 1], [1, 1], [1, 0]])
    trace = Simulator(delay(), GATES).run({"e": enable})
    assert (trace.cycles, trace.lanes) == (4, 2)
    assert trace.toggles == {6: 2, 3: 6, 4: 6, 5: 4, 7: 1 + 2}


def test_two_clocks_are_refused():
    gates = (Instance("q", "$_DFF_P_", {"D": 4, "C": 2, "Q": 5}), Instance("r", "$_DFF_P_", {"D": 4, "C": 3, "Q": 6}))
    two = Netlist("two", {"c": (2,), "k": (3,), "d": (4,)}, {"q": (5,), "r": (6,)}, gates)
    with pytest.raises(ValueError, match="need one clock port, found 2"):
        Simulator(two, GATES)


def test_a_missing_input_is_an_error():
    with pytest.raises(ValueError, match=r"xor has the inputs \['a', 'b'\], found \['a'\]"):
        Simulator(xor(), GATES).run({"a": np.zeros((1, 1), dtype=np.int64)})
