"""An engine that keeps its sums computes whole layers, whatever its streams do, in the cycles that it states."""

import numpy as np
import pytest

pytest.importorskip("amaranth", reason="circuits need amaranth: pip install 'bitwright[rtl]'")

from dataclasses import replace

from bitwright.datapath import Overflow
from bitwright.quantization import Zero
from bitwright.rtl.engine_image import pack_layer
from bitwright.rtl.engine_outputs import OutputEngine
from bitwright.rtl.plan import plan
from bitwright.schemes import a2q, ant_type, integer, overq, term_revealing, vs_quant, wrapnet
from bitwright.testing.rtl_engine import Pauses, assert_engine_equals_golden, layer, run

SCHEMES = {
    "integer": integer(4, 4), "wrapping": integer(4, 4, accumulator_bits=7, overflow=Overflow.WRAP),
    "saturating": integer(4, 4, accumulator_bits=9, overflow=Overflow.SATURATE), "ant": ant_type("flint"),
    "overq": overq(4, 4, tile=4), "overq_fractions": overq(3, 4, tile=4, precision_overwrite=True),
    "term_revealing": term_revealing(4, 4, group=2, budget=3), "a2q": a2q(4, 4, 10), "wrapnet": wrapnet(),
    "zero_point": integer(4, 4, zero=Zero.FITTED),
}  # fmt: skip
SOMETIMES = Pauses(job=0.5, w=0.3, x=0.3, y=0.3)


def packed(name, m, n, k, *, seed=0, rows=4, columns=3):
    case = layer(SCHEMES[name], m, n, k, signed_input=not name.startswith("overq"), seed=seed)
    return case, pack_layer(OutputEngine(case.plan, rows, columns), case.x, case.w)


@pytest.mark.parametrize(("seed", "name"), list(enumerate(SCHEMES)))
def test_layers_of_any_size_come_out_bit_for_bit_while_streams_pause_at_random(seed, name):
    m, n, k = (int(size) for size in np.random.default_rng(seed).integers([1, 1, 1], [9, 9, 26]))
    case, image = packed(name, m, n, k, seed=seed)
    assert_engine_equals_golden(case, image, run(image, SOMETIMES, seed=seed))


def test_a_moved_digit_meets_the_weight_before_however_long_that_was_ago():
    case, image = packed("overq_fractions", 6, 4, 20)
    assert case.x.quantizer.format.states(case.x.codes).any()
    assert_engine_equals_golden(case, image, run(image, SOMETIMES))


@pytest.mark.parametrize("k", [1, 3, 4, 13])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 4), (4, 1), (3, 5)])
def test_without_pauses_cycles_are_those_of_the_closed_form(rows, columns, k):
    case, image = packed("integer", 7, 6, k, rows=rows, columns=columns)
    ran = run(image)
    assert_engine_equals_golden(case, image, ran)
    assert ran.cycles == image.cycles


def test_the_closed_form_by_hand():
    _, image = packed("integer", 8, 3, 10)
    assert image.cycles == 2 * 4 + 3 + 10 + 2 + 10


def test_results_that_nobody_takes_for_long_are_not_lost():
    case, image = packed("integer", 8, 9, 5)
    ran = run(image, Pauses(until=400))
    assert_engine_equals_golden(case, image, ran)
    assert ran.cycles > 400


@pytest.mark.parametrize(("rows", "columns", "k"), [(4, 3, 9), (1, 6, 2), (2, 1, 1)])
def test_every_fold_starts_from_its_own_correction(rows, columns, k):
    case, image = packed("zero_point", 7, 8, k, rows=rows, columns=columns)
    ran = run(image)
    assert_engine_equals_golden(case, image, ran)
    assert ran.cycles == image.cycles
    assert_engine_equals_golden(case, image, run(image, SOMETIMES))


@pytest.mark.parametrize("cycle", [3, 17, 30])
def test_a_reset_at_any_time_leaves_nothing_behind(cycle):
    case, image = packed("integer", 8, 6, 7)
    assert_engine_equals_golden(case, image, run(image, reset_at=cycle))


@pytest.mark.parametrize("name", ["x", "w"])
def test_a_missing_tlast_is_told(name):
    _, image = packed("integer", 3, 3, 8)
    assert not run(image).out_of_step
    beats = getattr(image, name)
    assert run(replace(image, **{name: replace(beats, last=np.roll(beats.last, 1))})).out_of_step


def test_blocks_are_refused():
    with pytest.raises(ValueError, match="blocks of 16 products found; use a weight-stationary array"):
        OutputEngine(plan(vs_quant()), 2, 2)
