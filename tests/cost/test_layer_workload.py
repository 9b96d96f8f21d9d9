import numpy as np
import pytest

pytest.importorskip("amaranth", reason="amaranth is not installed")

from bitwright.cost.layer_workload import CYCLES, REUSE, layer_element_workload, layer_vector_workload, zeros
from bitwright.cost.synthesis_element import element_plan
from bitwright.rtl.operand import Sign, choices
from bitwright.rtl.plan import plan
from bitwright.rtl.units import VectorUnit
from bitwright.schemes import integer, overq, term_revealing, vs_quant

RNG = np.random.default_rng(0)


def operands(scheme, k=32, rows=80, columns=6, seed=0):
    """A layer's codes: inputs without negative values, weights."""
    rng = np.random.default_rng(seed)
    x = choices(scheme.input, Sign.UNSIGNED)[0].quantize(np.maximum(rng.normal(size=(rows, k)), 0).astype(np.float32))
    (weight,) = choices(scheme.weight)
    return x, weight.quantize(rng.normal(size=(columns, k)).astype(np.float32))


def column_sums(made, work, k):
    """What leaves the last element of each column: its own product added to the sum above it."""
    lanes = {port: values.reshape(len(values), -1, k) for port, values in work.items()}
    x, w = (lanes[f"{side}_significand"] for side in "xw")
    return lanes["sum_in"][..., -1] + x[..., -1] * w[0, :, -1]


def test_an_elements_work_adds_up_to_a_row_of_the_layers_product():
    scheme = integer(8, 8)
    x, w = operands(scheme)
    made = element_plan(scheme, sign=Sign.UNSIGNED)
    work = layer_element_workload(made, x, w, np.random.default_rng(1))
    exact = x.elements().reshape(len(x.codes), -1) @ w.elements().reshape(len(w.codes), -1).T
    found = column_sums(made, work, 32)
    first = int(np.flatnonzero([np.isin(found[:, 0], exact[i : i + CYCLES]).all() for i in range(len(exact))])[0])
    for column in found.T:
        assert any(np.array_equal(column, exact[first : first + CYCLES, n]) for n in range(exact.shape[1]))


@pytest.mark.parametrize("scheme", [overq(4, 8, tile=16), term_revealing(), vs_quant(4, 4)], ids=str)
def test_every_elements_sum_is_the_one_above_it_and_its_product(scheme):
    x, w = operands(scheme)
    made = element_plan(scheme, sign=Sign.UNSIGNED)
    work = layer_element_workload(made, x, w, np.random.default_rng(1))
    assert set(work) >= {"load", "sum_in", "x_significand", "w_significand"}
    assert work["load"][0].all()
    assert not work["load"][1:].any()
    assert work["sum_in"].shape == (CYCLES, 4 * 32)
    bits = made.inner.bits
    assert np.abs(work["sum_in"]).max() < 2 ** (bits - 1)


def test_a_vector_units_work_is_vectors_of_the_layer_that_meet():
    scheme = vs_quant(4, 4, 4, 6)
    x, w = operands(scheme, k=64)
    unit = VectorUnit(plan(scheme, k=64, sign=Sign.UNSIGNED), 16)
    work = layer_vector_workload(unit, x, w, np.random.default_rng(2))
    assert set(work) == {name for name in unit.signature.members if name != "total"}
    met = np.einsum("rbi,nbi->rnb", x.elements(), w.elements())
    found = sum(
        x.quantizer.format.decode(work[f"x_{i}"]) * w.quantizer.format.decode(work[f"w_{i}"]) for i in range(16)
    )
    products = x.scales[-1][:, None] * w.scales[-1][None]
    known = set(zip(met.ravel().tolist(), products.ravel().tolist(), strict=True))
    pairs = zip(found.ravel().tolist(), (work["x_scale"] * work["w_scale"]).ravel().tolist(), strict=True)
    assert set(pairs) <= known


def test_a_weight_vector_is_held_for_several_inputs():
    scheme = integer(8, 8)
    unit = VectorUnit(plan(scheme, k=64, sign=Sign.UNSIGNED), 16)
    work = layer_vector_workload(unit, *operands(scheme, k=64), np.random.default_rng(2))
    changes = (np.diff(work["w_3"], axis=0) != 0).any(1)
    assert set((np.flatnonzero(changes) + 1) % REUSE) == {0}
    assert (np.diff(work["x_3"], axis=0) != 0).any(1).mean() > 0.9


def test_zeros_are_counted_where_scales_flush_too():
    x, _ = operands(integer(8, 4))
    assert zeros(x) == np.mean(x.elements() == 0)
