"""Costs are sums of counts and unit costs; each figure keeps its origin."""

from dataclasses import replace

import pytest

from bitwright.config import from_text
from bitwright.cost.accelerator import Accelerator
from bitwright.cost.estimate import Job, estimate
from bitwright.cost.figure import Cited, Fitted, Measured
from bitwright.cost.hardware import accelerator
from bitwright.cost.mac import Mac, published_mac
from bitwright.cost.memory import Dram
from bitwright.cost.schedule import Cell, Widths
from bitwright.cost.widths import Factors, cell_for, factors, job, storage, widest_mac
from bitwright.gemm import Gemm, LayerGemm

LAYER = LayerGemm("conv", Gemm(196, 576, 128))
BYTES = Widths(8.0, 8.0, 32, 8.0)
MEASURED = Mac(Measured(100.0, "a netlist"), Measured(0.5, "a netlist"))


def test_the_energy_is_that_of_multiplications_and_of_every_bit_moved():
    hardware = Accelerator()
    cost = estimate(hardware, MEASURED, [Job(LAYER, BYTES)])
    (layer,) = cost.layers
    assert layer.mac_pj == Measured(0.5 * 196 * 576 * 128, "a netlist")
    assert layer.dram_pj.value == pytest.approx(8 * layer.dram.total)
    buffers = hardware.weight_buffer, hardware.input_buffer, hardware.output_buffer
    reads = layer.sram.weight, layer.sram.input, layer.sram.output_read + layer.dram.output_written
    writes = layer.dram.weight, layer.dram.input, layer.sram.output_written + layer.dram.output_read
    expected = sum(
        b.read_pj_per_bit.value * r + b.write_pj_per_bit.value * w
        for b, r, w in zip(buffers, reads, writes, strict=True)
    )
    assert sum(figure.value for figure in layer.sram_pj) == pytest.approx(expected)
    assert layer.energy_pj.value == pytest.approx(layer.mac_pj.value + expected + layer.dram_pj.value)


def test_measured_fitted_and_cited_figures_are_told_apart_in_the_total():
    cost = estimate(Accelerator(), MEASURED, [Job(LAYER, BYTES)])
    assert cost.energy_pj.origins == ("cited", "fitted", "measured")
    assert cost.mac_pj.origins == ("measured",)
    assert cost.dram_pj.origins == ("cited",)
    assert cost.area_um2.origins == ("fitted", "measured")


def test_calls_one_after_the_other_cost_as_often():
    once = estimate(Accelerator(), MEASURED, [Job(LAYER, BYTES)])
    thrice = estimate(Accelerator(), MEASURED, [Job(replace(LAYER, calls=3), BYTES)])
    assert thrice.cycles == 3 * once.cycles
    assert thrice.energy_pj.value == pytest.approx(3 * once.energy_pj.value)
    assert thrice.utilization == pytest.approx(once.utilization)


def test_utilization_is_one_where_every_cell_works_in_every_cycle():
    endless = Gemm(10**9, 32, 32)
    hardware = replace(Accelerator(), dram=Dram(Cited(8.0, "x"), 10**9))
    cost = estimate(hardware, MEASURED, [Job(LayerGemm("long", endless), BYTES)])
    assert 0.85 < cost.utilization <= 1.0  # folds of parts that fit the buffers are filled anew


def test_a_serial_cell_counts_its_operations():
    cell = Cell(8, 36, 4.5)
    cost = estimate(Accelerator(), MEASURED, [Job(LAYER, BYTES, cell)])
    assert cost.layers[0].mac_pj.value == pytest.approx(4.5 * 0.5 * LAYER.macs)


def test_its_own_area_gives_an_array_back_and_half_the_cell_gives_twice_the_cells():
    hardware = Accelerator(rows=12, columns=24)
    area = hardware.areas_um2(MEASURED)["array"].value
    odd = replace(MEASURED, area_um2=Measured(100 / 3, "a netlist"))
    for rows, columns in ((rows, columns) for rows in range(1, 130, 7) for columns in (24, 126)):
        like = replace(hardware, rows=rows, columns=columns)
        assert like.with_array_area(like.areas_um2(odd)["array"].value, odd) == like
    small = replace(MEASURED, area_um2=Measured(25.0, "a netlist"))
    assert hardware.with_array_area(area, small) == replace(hardware, rows=24, columns=48)
    with pytest.raises(ValueError, match="10 µm² hold no array of cells of 100 µm²"):
        hardware.with_array_area(10.0, MEASURED)


@pytest.mark.parametrize(
    ("widths", "energy_pj", "area_um2"),
    [((8, 8, 32), 0.3, 419.0), ((8, 8, 8), 0.23, 318.0), ((32, 32, 32), 3.2, 3632.0)],
)
def test_published_multipliers_cost_what_is_published(widths, energy_pj, area_um2):
    mac = published_mac(*widths)
    assert mac.energy_pj.value == pytest.approx(energy_pj)
    assert mac.area_um2.value == pytest.approx(area_um2)
    assert isinstance(mac.energy_pj, Cited)


def test_other_multipliers_are_fitted_and_say_so():
    mac = published_mac(4, 4, 24)
    assert isinstance(mac.energy_pj, Fitted)
    assert (
        published_mac(4, 4, 24).energy_pj.value
        < published_mac(4, 8, 24).energy_pj.value
        < published_mac(8, 8, 24).energy_pj.value
    )


@pytest.mark.parametrize(
    ("scheme", "found"),
    [
        ("integer(8, 8)", Factors(8, 8, 26)), ("integer(4, 4)", Factors(4, 4, 17)),
        ("a2q(4, 8, 16)", Factors(4, 8, 16)), ("vs_quant(4, 4)", Factors(4, 4, 12)),
        ("vs_quant_chip()", Factors(4, 4, 14)), ("overq(4)", Factors(8, 4, 26)),
    ],
)  # fmt: skip
def test_a_scheme_asks_for_multipliers_of_its_formats(scheme, found):
    """The dot product of VS-Quant's 4-bit vectors of 16 has 12 bits in the paper, of the chip's of 64 it has 14."""
    assert factors(from_text(scheme), LAYER) == found


@pytest.mark.parametrize(
    ("scheme", "weight", "accumulator"),
    [("integer(8, 8)", 8 + 32 / 576, 26), ("vs_quant(4, 4)", 4 + 4 / 16 + 32 / 576, 32), ("mxfp4()", 4.25, 32)],
)
def test_stored_widths_count_scales_and_move_sums_in_the_register_that_holds_all_of_k(scheme, weight, accumulator):
    found = storage(from_text(scheme), LAYER)
    assert found.weight == pytest.approx(weight)
    assert found.accumulator == accumulator


def test_two_activations_are_both_stored_as_inputs():
    attention = LayerGemm("scores", Gemm(64, 32, 64, 4), is_of_activations=True)
    found = storage(from_text("integer(4, 8)"), attention)
    assert found.weight == pytest.approx(8, abs=0.05)
    assert factors(from_text("integer(4, 8)"), attention)[:2] == (8, 8)


def test_term_revealing_runs_on_serial_cells_and_others_on_multipliers():
    scheme = from_text("term_revealing()")
    cell = cell_for(scheme)
    assert (cell.lanes, cell.operations_per_mac) == (8, cell.steps / 8)
    assert job(LAYER, scheme).cell == cell
    assert cell_for(from_text("integer(8, 8)")) == Cell()


def test_one_multiplier_serves_all_layers():
    work = [(LAYER, from_text("integer(4, 4)")), (LAYER, from_text("integer(8, 8)"))]
    assert widest_mac(work) == widest_mac(work[1:])
    with pytest.raises(ValueError, match="no layer to compute"):
        widest_mac([])


def test_inputs_in_float_are_refused():
    with pytest.raises(ValueError, match="leaves inputs in float"):
        storage(from_text("integer(4, None)"), LAYER)


def test_words_make_an_accelerator():
    found = accelerator("16x8", "os", "128,64,2048", "hbm2", dram_bits=512, clock_mhz=800.0)
    assert (found.rows, found.columns, found.dataflow.name) == (16, 8, "output stationary")
    assert (found.output_buffer.banks, found.dram.pj_per_bit.value) == (2, 6.25)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("32",), "write rows and columns as 32x32"), (("0x8",), "has no cells"),
        (("8x8", "xs"), "there is no dataflow 'xs'; choose from ws, os, is"),
        (("8x8", "ws", "1,2"), "write three sizes in KB"), (("8x8", "ws", "a,b,c"), "write three sizes in KB"),
        (("8x8", "ws", "4,4,-4"), "write three sizes in KB"),
        (("8x8", "ws", "8,8,8", "sram"), "there is no memory 'sram'; choose from lpddr4, hbm2, ddr3"),
    ],
)  # fmt: skip
def test_words_that_make_no_accelerator_are_refused_with_what_is_allowed(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        accelerator(*arguments)
