"""Without pauses an engine takes the cycles that it states, whatever its shape and its scheme."""

import pytest

pytest.importorskip("amaranth", reason="circuits need amaranth: pip install 'bitwright[rtl]'")

from bitwright.cost.schedule import DATAFLOWS, Array
from bitwright.datapath import WIDE, Accumulator, Datapath, Overflow
from bitwright.formats import Int, Minifloat
from bitwright.gemm import Gemm
from bitwright.rtl.engine import Engine
from bitwright.rtl.engine_image import pack_layer
from bitwright.rtl.engine_outputs import OutputEngine
from bitwright.schemes import combined, integer, mxfp4, overq_on, vs_quant
from bitwright.testing.rtl_engine import Pauses, assert_engine_equals_golden, image_of, layer, run

NARROW = Accumulator(Int(9), Overflow.SATURATE)
FLOAT = Accumulator(Minifloat(5, 6))


def tiled(tile, *, inner=WIDE, outer=NARROW):
    """Products of `tile` elements in the inner register, the tiles in one that saturates."""
    return combined(integer(4, 4), integer(4, 4), Datapath(inner, outer, tile=tile))


SCHEMES = {
    "integer": integer(4, 4), "wrapping": integer(4, 4, accumulator_bits=7, overflow=Overflow.WRAP),
    "saturating": integer(4, 4, accumulator_bits=9, overflow=Overflow.SATURATE), "saturating_tiles": tiled(4),
    "saturating_in_tiles": tiled(8, inner=Accumulator(Int(8), Overflow.SATURATE)),
    "vs_quant": vs_quant(4, 4, vector=8), "overq_on_vs_quant": overq_on(vs_quant(4, 4, vector=4)),
    "float_totals": tiled(4, outer=FLOAT), "mxfp4": mxfp4(block=8),
}  # fmt: skip
TIMED = {1: ["wrapping", "saturating"], 6: SCHEMES, 11: ["integer", "saturating", "saturating_in_tiles", "vs_quant"]}


@pytest.mark.parametrize(("m", "name"), [(m, name) for m, names in TIMED.items() for name in names])
def test_without_pauses_cycles_are_those_of_the_closed_form(m, name):
    case = layer(SCHEMES[name], m, 4, 17, signed_input="overq" not in name)
    image = image_of(case, 4, 3)
    ran = run(image)
    assert_engine_equals_golden(case, image, ran)
    assert ran.cycles == image.cycles


@pytest.mark.parametrize(("m", "cycles"), [(6, 13 + 6 + 2 * 6), (2, 13 + 2 + 2 * 5)])
def test_a_fold_takes_its_vectors_or_the_loading_of_weights(m, cycles):
    """Three folds on 4 x 3 multipliers, by hand."""
    assert image_of(layer(integer(4, 4), m, 3, 12), 4, 3).cycles == cycles


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 4), (4, 1), (2, 9)])
@pytest.mark.parametrize("name", ["integer", "saturating_in_tiles"])
def test_arrays_of_any_shape_compute_the_layer_in_the_stated_cycles(name, rows, columns):
    case = layer(SCHEMES[name], 1, 3, 17)
    image = image_of(case, rows, columns)
    ran = run(image)
    assert_engine_equals_golden(case, image, ran)
    assert ran.cycles == image.cycles
    assert_engine_equals_golden(case, image, run(image, Pauses(job=0.5, w=0.3, x=0.3, y=0.3)))


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize("outer", [NARROW, FLOAT], ids=["integer", "float"])
def test_tiles_as_deep_as_the_array_find_the_total_of_the_tile_before(rows, outer):
    case = layer(tiled(rows, outer=outer), 1, 2, 9)
    image = image_of(case, rows, 2)
    ran = run(image)
    assert_engine_equals_golden(case, image, ran)
    assert ran.cycles == image.cycles


@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 1), (2, 7, 9), (9, 5, 17), (6, 3, 30)])
@pytest.mark.parametrize(("rows", "columns"), [(1, 2), (4, 3)])
def test_the_cost_model_counts_the_engines_cycles(rows, columns, m, n, k):
    case = layer(integer(4, 4), m, n, k)
    for dataflow, engine in (("ws", Engine(case.plan, rows, columns)), ("os", OutputEngine(case.plan, rows, columns))):
        stated = DATAFLOWS[dataflow].overlapped_cycles(Array(rows, columns), Gemm(m, k, n))
        assert stated == pack_layer(engine, case.x, case.w).cycles
