"""What stands at an array's edge is part of its area, its energy, and of what equal areas compare."""

from dataclasses import replace

import pytest

from bitwright.cost.accelerator import Accelerator
from bitwright.cost.estimate import Job, estimate
from bitwright.cost.figure import Cited, Fitted, Measured
from bitwright.cost.mac import Edge, Mac, added
from bitwright.cost.schedule import Widths
from bitwright.gemm import Gemm, LayerGemm

LAYER = LayerGemm("conv", Gemm(196, 576, 128), calls=3)
BYTES = Widths(8.0, 8.0, 32, 8.0)


def of(value):
    return Measured(value, "a netlist")


EDGE = Edge(of(50.0), of(70.0), of(0.01), of(0.02), of(0.03))
MAC = Mac(of(100.0), of(0.5), EDGE)


def test_the_edge_has_a_part_for_every_row_and_every_column():
    areas = Accelerator(rows=16, columns=8).areas_um2(MAC)
    assert areas["array"] == of(16 * 8 * 100.0)
    assert areas["edge"] == of(16 * 50.0 + 8 * 70.0)


def test_inputs_and_weights_are_decoded_when_they_enter_and_outputs_encoded_once():
    (layer,) = estimate(Accelerator(), MAC, [Job(LAYER, BYTES)]).layers
    found = [figure.value for figure in layer.edge_pj]
    outputs = 3 * 196 * 128
    assert found == pytest.approx([0.01 * layer.sram.input / 8, 0.02 * layer.sram.weight / 8, 0.03 * outputs])
    without = estimate(Accelerator(), replace(MAC, edge=None), [Job(LAYER, BYTES)])
    assert layer.energy_pj.value == pytest.approx(without.energy_pj.value + sum(found))


def test_an_array_of_equal_area_leaves_room_for_its_edge():
    hardware = Accelerator(rows=32, columns=16)
    own = sum(hardware.areas_um2(MAC)[part].value for part in ("array", "edge"))
    assert hardware.with_array_area(own, MAC) == hardware
    smaller = hardware.with_array_area(own - 1, MAC)
    assert smaller.rows < 32
    areas = smaller.areas_um2(MAC)
    assert areas["array"].value + areas["edge"].value <= own - 1


def test_a_sum_of_parts_is_no_more_certain_than_its_least_certain_part():
    assert added(of(1.0), of(2.0)) == of(3.0)
    fitted = added(of(1.0), Fitted(2.0, "a fit", 1.3), Fitted(4.0, "another", 1.1))
    assert (fitted.value, fitted.worst_ratio) == (7.0, 1.3)
    assert isinstance(added(of(1.0), Cited(2.0, "a paper")), Cited)
    assert added(of(1.0), Fitted(0.0, "nothing", 9.0)) == of(1.0)
