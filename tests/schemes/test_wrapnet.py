"""WrapNet keeps the laws of schemes but one: what leaves its registers is no sum."""

import numpy as np
import pytest

from bitwright.config import from_text
from bitwright.datapath import Accumulator, Cyclic, Overflow
from bitwright.formats import Int
from bitwright.quantization import Statistics
from bitwright.schemes import CATALOGUE, wrapnet
from bitwright.testing import SchemeContract
from bitwright.testing.operands import operands

SETTINGS = [
    {}, {"weight_bits": 1, "input_bits": 2}, {"narrow": False, "slope": 2}, {"accumulator_bits": 12},
    {"weight_bits": 4, "input_bits": 4},
]  # fmt: skip


@pytest.fixture(params=SETTINGS, ids=repr)
def scheme(request):
    return wrapnet(**request.param)


class TestWrapnet(SchemeContract):
    test_matmul_equals_the_exact_product_of_decoded_operands = None  # what is read is no sum; the law below instead

    @pytest.fixture(params=SETTINGS, ids=repr)
    def scheme(self, request):
        return wrapnet(**request.param)


@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
@pytest.mark.parametrize("k", [3, 67, 300])
def test_a_product_is_the_cyclic_activation_of_the_exact_sum_of_integers(scheme, k, signed):
    both = operands(scheme, rows=4, columns=3, k=k, signed_input=signed)
    x, w = (t.elements().reshape(len(t.codes), -1)[:, :k].astype(int) for t in (both.x, both.w))
    bits, slope = scheme.datapath.inner.bits, scheme.datapath.inner.readout.slope
    half = 2 ** (bits - 1)
    sums = x @ w.T
    m = (sums + half) % (2 * half) - half
    read = np.where(
        np.abs(m) * (slope + 1) <= slope * half, m, np.where(m > 0, slope * (half - m), -slope * (half + m))
    )
    scale = both.x.scale()[:, :1] * both.w.scale()[:, :1].T
    found = scheme.datapath.matmul(both.x, both.w)
    # the reference multiplies input scale and weight scale one after the other, in float64
    np.testing.assert_allclose(found.values, read * scale, rtol=2.0**-50, atol=0)
    assert found.overflows == int((sums != m).sum())


def test_it_is_not_in_the_catalogue_as_a_register_near_its_end_is_read_as_no_sum():
    assert wrapnet not in CATALOGUE
    register = wrapnet().datapath.inner
    assert register.read(np.asarray([[100]]))[0, 0] == 28


@pytest.mark.parametrize(
    ("arguments", "values"),
    [((1,), {-1, 1}), ((2,), {-1, 0, 1}), ((3,), {-3, -2, -1, 0, 1, 2, 3})],
)
def test_weights_are_binary_ternary_or_symmetric_integers(arguments, values):
    format = wrapnet(*arguments).weight.format
    codes = np.arange(2**format.bits)
    assert set(format.decode(codes[~format.is_reserved(codes)])) == values


def test_two_bits_that_are_not_narrow_have_four_levels():
    assert wrapnet(narrow=False).weight.format == Int(2)


@pytest.mark.parametrize(("low", "levels"), [(0.0, (0, 7)), (-1.0, (-3, 3))])
def test_inputs_without_a_negative_value_are_unsigned(low, levels):
    quantizer = wrapnet().input.fit(Statistics.of(np.asarray([[low, 0.5, 1.0]], np.float32)))
    bounds = quantizer.format.bounds()
    assert (bounds.lowest, bounds.highest) == levels


def test_the_scheme_is_made_from_text_with_its_module():
    made = from_text("wrapnet(2, 3, accumulator_bits=10, slope=2)")
    assert made == wrapnet(2, 3, 10, 2)
    assert made.datapath.inner == Accumulator(Int(10), Overflow.WRAP, readout=Cyclic(2))
