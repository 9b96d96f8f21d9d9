"""Every scheme of the catalogue, in several settings, keeps the laws."""

import inspect

import pytest

from bitwright.datapath import Overflow
from bitwright.formats import E3M2, E4M3, E5M2, Int, Rounding
from bitwright.quantization import AbsMax, MinimumError, PerBlock, PerRow, PerTensor, PerTile, Zero
from bitwright.schemes import CATALOGUE, ant_type, mxfp4, mxint8, nvfp4, term_revealing, vs_quant
from bitwright.schemes.mx import CeilingRule, RoundedRule
from bitwright.schemes.overq import Pick
from bitwright.schemes.term_revealing import Recoding
from bitwright.testing import SchemeContract

SETTINGS = {
    "integer": [
        {}, {"weight_bits": 4, "input_bits": 4}, {"weight_bits": 1, "input_bits": 2}, {"zero": Zero.FITTED},
        {"weight_share": PerBlock(16), "input_share": PerBlock(32), "input_range": None}, {"weight_share": PerTile(2,
        16)},
        {"input_share": PerRow(), "input_range": None}, {"weight_bits": 4, "input_bits": None},
        {"weight_bits": 4, "input_bits": 4, "accumulator_bits": 9, "overflow": Overflow.WRAP},
        {"weight_bits": 4, "input_bits": 4, "accumulator_bits": 9, "overflow": Overflow.SATURATE},
        {"weight_bits": 16, "input_bits": 16}, {"weight_range": MinimumError(80, 101)},
    ],
    "vs_quant": [
        {}, {"weight_bits": 4, "input_bits": 8, "weight_scale_bits": 6, "input_scale_bits": 10}, {"vector": 8},
        {"weight_scale_bits": None, "input_scale_bits": None}, {"input_vectors": AbsMax()}, {"input_range": None},
        {"scale_product": Int(6, signed=False, exponent=2)}, {"input_bits": None}, {"weight_scale_bits": None},
    ],
    "vs_quant_chip": [{}],
    "ant": [{}, {"weight_bits": 8, "input_bits": 8}, {"weight_bits": 3, "input_bits": 5, "types": ("flint", "float")}],
    "ant_type": [{"type": t} for t in ("int", "flint", "pot", "float")] + [{"input_bits": None}],
    "minifloat": [
        {}, {"exponent_bits": 5, "mantissa_bits": 2}, {"exponent_bits": 2, "mantissa_bits": 1,
        "weight_share": PerBlock(32)},
        {"exponent_bits": 3, "mantissa_bits": 0}, {"weight_only": True},
    ],
    "mxfp4": [
        {}, {"rule": CeilingRule()}, {"rule": RoundedRule()}, {"rounding": Rounding.NEAREST_AWAY}, {"block": 16},
        {"weight_only": True},
    ],
    "mxfp6": [{}, {"element": E3M2, "rule": RoundedRule()}],
    "mxfp8": [{}, {"element": E5M2}, {"element": E4M3, "rule": CeilingRule()}],
    "mxint8": [{}, {"block": 8}],
    "nvfp4": [{}, {"four_over_six": True}, {"input_range": None}, {"zero_scale": 0.125, "smallest_scale": 0.0},
    {"weight_only": True}],
    "overq": [
        {}, {"bits": 2, "cascade": 1, "tile": 8}, {"precision_overwrite": True, "signed": True},
        {"range_overwrite": False, "precision_overwrite": True, "bits": 8}, {"pick": Pick.LARGEST, "tile": None},
    ],
    "overq_on": [
        {}, {"scheme": ant_type("flint", 4, 4), "cascade": 2}, {"scheme": mxint8(block=16), "signed": True},
        {"scheme": vs_quant(4, 3), "precision_overwrite": True, "spread": (4.0,)},
    ],
    "term_revealing": [
        {}, {"recoding": Recoding.HESE_ARTIFACT, "group": 16, "budget": 20, "data_terms": 1, "quirks": True},
        {"recoding": Recoding.NAF, "data_terms": None}, {"recoding": Recoding.BINARY, "budget": None},
        {"recoding": Recoding.BOOTH, "group": 1, "budget": 2, "weight_share": PerRow()},
        {"weight_share": PerBlock(16), "weight_bits": 5, "input_bits": 5},
    ],
    "a2q": [
        {}, {"accumulator_bits": 12, "tile": 16}, {"accumulator_bits": 13, "each_sign": False, "rounding":
        Rounding.TOWARD_ZERO},
        {"weight_bits": 8, "weight_range": None, "accumulator_bits": 20},
    ],
    "combined": [{}, {"weight": term_revealing()}, {"weight": vs_quant()}, {"weight": nvfp4()},
    {"input": mxfp4(), "weight": term_revealing(weight_share=PerBlock(16))}],
}  # fmt: skip


def cases():
    """The plain call where it needs no arguments, and every setting above."""
    for factory in CATALOGUE:
        for arguments in SETTINGS.get(factory.__name__, [{}]):
            text = ", ".join(f"{name}={value!r:.40}" for name, value in arguments.items())
            yield pytest.param(factory(**arguments), id=f"{factory.__name__}({text})")


class TestCatalogue(SchemeContract):
    @pytest.fixture(params=cases())
    def scheme(self, request):
        return request.param


def test_every_setting_belongs_to_a_scheme_of_the_catalogue():
    assert set(SETTINGS) <= {factory.__name__ for factory in CATALOGUE}


@pytest.mark.parametrize("factory", CATALOGUE, ids=lambda f: f.__name__)
def test_every_scheme_can_be_made_without_arguments_and_names_its_source(factory):
    scheme = factory()
    assert scheme.source
    assert all(p.default is not p.empty for p in inspect.signature(factory).parameters.values())


def test_equal_calls_make_equal_schemes_and_different_ones_differ():
    made = [case.values[0] for case in cases()]
    again = [case.values[0] for case in cases()]
    assert made == again
    assert PerTensor() == PerTensor()
    assert all(a != b for i, a in enumerate(made) for b in made[:i])
