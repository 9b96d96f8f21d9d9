"""An engine computes whole layers from a memory image, whatever its streams do."""

from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest

pytest.importorskip("amaranth", reason="circuits need amaranth: pip install 'bitwright[rtl]'")

from bitwright.datapath import WIDE, Accumulator, Datapath, Overflow
from bitwright.formats import Int
from bitwright.quantization import PerRow, Zero
from bitwright.rtl.engine import Engine
from bitwright.rtl.engine_image import Beats, pack_layer
from bitwright.rtl.generate import circuit
from bitwright.rtl.plan import plan
from bitwright.schemes import (
    a2q,
    ant,
    ant_type,
    combined,
    integer,
    nvfp4,
    overq,
    overq_on,
    term_revealing,
    vs_quant,
    wrapnet,
)  # fmt: skip
from bitwright.testing.rtl_engine import Pauses, assert_engine_equals_golden, image_of, layer, run

SATURATING = integer(4, 4, accumulator_bits=9, overflow=Overflow.SATURATE)
WRAPPING = integer(4, 4, accumulator_bits=7, overflow=Overflow.WRAP)
SHIFTED = integer(4, 4, zero=Zero.FITTED)
SCHEMES = {
    "integer": integer(4, 4), "wrapping": WRAPPING, "saturating": SATURATING, "ant": ant_type("flint"),
    "vs_quant": vs_quant(4, 4, vector=8, scale_product=Int(4, signed=False, exponent=4)),
    "overq": overq(4, 4, tile=4), "overq_fractions": overq(3, 4, tile=4, precision_overwrite=True),
    "overq_on_vs_quant": overq_on(vs_quant(4, 4, vector=4)),
    "term_revealing": term_revealing(5, 5, group=4, budget=6), "a2q": a2q(4, 4, 10, tile=8), "wrapnet": wrapnet(),
    "saturating_tiles": combined(
        integer(4, 4), integer(4, 4), Datapath(WIDE, Accumulator(Int(9), Overflow.SATURATE), tile=4)
    ),
    "saturating_in_tiles": combined(
        integer(4, 4), integer(4, 4),
        Datapath(Accumulator(Int(8), Overflow.SATURATE), Accumulator(Int(9), Overflow.SATURATE), tile=8),
    ),
    "zero_point": SHIFTED, "zero_point_in_tiles": combined(
        SHIFTED, SHIFTED, Datapath(WIDE, Accumulator(Int(10), Overflow.SATURATE), tile=8)
    ),
    "zero_point_in_folds": combined(
        SHIFTED, SHIFTED, Datapath(WIDE, Accumulator(Int(10), Overflow.SATURATE), tile=4)
    ),
}  # fmt: skip
UNSIGNED = {"overq", "overq_fractions", "overq_on_vs_quant"}
SOMETIMES = Pauses(job=0.5, w=0.3, x=0.3, y=0.3)


def sized(name, seed):
    """A layer of random sizes, of which edges are left over."""
    m, n, k = np.random.default_rng(seed).integers([1, 1, 1], [9, 9, 26])
    return layer(SCHEMES[name], int(m), int(n), int(k), signed_input=name not in UNSIGNED, seed=seed)


@pytest.mark.parametrize(("seed", "name"), list(enumerate(SCHEMES)))
def test_layers_of_any_size_come_out_bit_for_bit_while_streams_pause_at_random(seed, name):
    case = sized(name, seed)
    image = image_of(case, 4, 3)
    assert_engine_equals_golden(case, image, run(image, SOMETIMES, seed=seed))


def test_every_type_of_ant_reaches_the_decoders():
    case = layer(ant(4), 3, 3, 6)
    image = image_of(case, 4, 3)
    for w in range(len(case.plan.w.formats)):
        other = replace(case.w, quantizer=replace(case.w.quantizer, format=case.plan.w.formats[w]))
        image = image_of(replace(case, w=other), 4, 3)
        assert_engine_equals_golden(replace(case, w=other), image, run(image, SOMETIMES))


@pytest.mark.parametrize("name", ["integer", "saturating", "vs_quant"])
def test_results_that_nobody_takes_for_long_are_not_lost(name):
    case = layer(SCHEMES[name], 8, 6, 16)
    image = image_of(case, 4, 3)
    ran = run(image, Pauses(until=500))
    assert_engine_equals_golden(case, image, ran)
    assert ran.cycles > 500


@pytest.mark.parametrize("name", ["saturating_in_tiles", "vs_quant"])
@pytest.mark.parametrize("cycle", [3, 17, 30])
def test_a_reset_at_any_time_leaves_nothing_behind(name, cycle):
    case = layer(SCHEMES[name], 4, 4, 16)
    image = image_of(case, 4, 3)
    assert_engine_equals_golden(case, image, run(image, reset_at=cycle))


def test_the_head_of_a_file_says_where_fields_lie_and_which_scheme_it_is(tmp_path):
    made = circuit("vs_quant(4, 4, vector=8)", "engine", 4, 3, k=64, vectors=9)
    lines = made.write(tmp_path, as_rtlil=True).read_text().splitlines()
    for line in (
        "# array     4 rows, 3 columns", "# room      for the sums of 9 vectors",
        "# w_tdata   [11:0] 3 x 4 bits codes, [23:12] 3 x 4 bits scales",
        "# x_tdata   [15:0] 4 x 4 bits codes, [19:16] scale, [20:20] format",
        f"# sha256    {sha256(b'vs_quant(4, 4, vector=8)').hexdigest()} of the scheme's text",
    ):  # fmt: skip
        assert line in lines


def test_more_rows_than_sums_have_room_for_are_several_jobs():
    case = layer(vs_quant(4, 4, vector=8), 11, 5, 20)
    image = image_of(case, 4, 3, vectors=4)
    assert len(image.job.data) == 3
    assert_engine_equals_golden(case, image, run(image, SOMETIMES))
    with pytest.raises(ValueError, match="11 vectors are several jobs of 4"):
        _ = image.cycles


def test_float_scales_leave_one_sum_a_tile_or_one_float():
    case = layer(nvfp4(), 5, 4, 40)
    image = image_of(case, 8, 3)
    assert_engine_equals_golden(case, image, run(image, SOMETIMES))


def test_a_missing_tlast_is_told():
    image = image_of(layer(integer(4, 4), 3, 3, 8), 4, 3)
    assert not run(image).out_of_step
    late = replace(image.x, last=np.roll(image.x.last, 1))
    assert run(replace(image, x=late)).out_of_step
    late = replace(image.w, last=np.roll(image.w.last, 1))
    assert run(replace(image, w=late)).out_of_step


def test_a_job_of_more_vectors_than_there_is_room_for_is_told():
    case = layer(integer(4, 4), 5, 3, 8)
    small, large = (Engine(case.plan, 4, 3, vectors) for vectors in (4, 8))
    assert run(replace(pack_layer(large, case.x, case.w), made_for=small)).out_of_step


def test_folds_that_end_within_a_tile_are_told():
    case = layer(SCHEMES["vs_quant"], 3, 3, 16)
    image = image_of(case, 4, 3)
    cut = image.job.data.copy()
    cut[0, 2] -= 1
    assert run(replace(image, job=Beats(cut, image.job.last))).out_of_step


def test_an_image_has_what_the_engine_takes():
    image = image_of(layer(integer(4, 4), 5, 7, 10), 4, 3)
    assert image.shape == (5, 7, 10)
    assert image.job.data.tolist() == [[4, 0, 2, 0, 2, 0]]  # vectors, folds and groups, less one
    assert len(image.w.data) == 3 * 3 * 4
    assert len(image.x.data) == 3 * 3 * 5
    assert image.x.last.sum() == image.w.last.sum() == 9
    assert image.results == 15


def test_rows_of_weights_lie_in_the_image_last_one_first():
    case = layer(integer(4, 4), 2, 3, 4)
    image = image_of(case, 4, 3)
    codes = image.engine.streams.w.unpack(image.w.data)["codes"]
    np.testing.assert_array_equal(codes[::-1].T, case.w.codes.reshape(3, -1)[:, :4])


def test_hexadecimal_words_are_read_back():
    image = image_of(layer(vs_quant(4, 4, vector=4), 3, 4, 9), 4, 3)
    for beats in (image.job, image.w, image.x):
        again = Beats.read(beats.hex(), beats.data.shape[1])
        np.testing.assert_array_equal(again.data, beats.data)
        np.testing.assert_array_equal(again.last, beats.last)


def test_what_an_engine_cannot_take_is_named():
    case = layer(integer(4, 4), 2, 2, 8)
    with pytest.raises(ValueError, match="an engine for 0 vectors found"):
        Engine(case.plan, 2, 2, 0)
    with pytest.raises(ValueError, match=r"codes of Int\(bits=4.*found; the engine reads Int\(bits=8"):
        pack_layer(Engine(plan(integer(8, 8)), 2, 2), case.x, case.w)
    with pytest.raises(ValueError, match="inputs of K 8 and weights of K 9 found"):
        pack_layer(Engine(case.plan, 2, 2), case.x, layer(integer(4, 4), 2, 2, 9).w)
    with pytest.raises(ValueError, match="sums of 8 products found; the engine has registers for 7"):
        pack_layer(Engine(plan(integer(4, 4), k=7), 2, 2), case.x, case.w)
    rows = layer(integer(4, 4, zero=Zero.FITTED, input_share=PerRow(), input_range=None), 4, 2, 8)
    with pytest.raises(ValueError, match="zero points found; an engine takes one for all inputs"):
        image_of(rows, 2, 2)
    image = image_of(case, 2, 2)
    with pytest.raises(ValueError, match="1 results found; this layer has 2"):
        image.sums(Beats(np.zeros((1, 4), np.uint8), np.zeros(1, bool)))
