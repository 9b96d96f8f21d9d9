"""Output-stationary arrays: sums stay, operands move, and are complete when stated."""

import numpy as np
import pytest

pytest.importorskip("amaranth", reason="circuits need amaranth: pip install 'bitwright[rtl]'")

from bitwright.datapath import Overflow
from bitwright.rtl.output_stationary import OutputStationary
from bitwright.rtl.plan import plan
from bitwright.schemes import a2q, ant_type, integer, mxfp4, overq, term_revealing, wrapnet
from bitwright.testing.rtl import case, evaluate

SCHEMES = [
    integer(4, 4), integer(4, 4, accumulator_bits=8, overflow=Overflow.SATURATE), ant_type("flint"),
    overq(4, 4, tile=4), overq(3, 4, tile=4, precision_overwrite=True), term_revealing(4, 4, group=2, budget=3),
    a2q(4, 4, 9), wrapnet(),
]  # fmt: skip


def stored(operand, built, t):
    """Codes, or the elements of a format that looks at its neighbours."""
    codes, format = t.codes.reshape(len(t.codes), -1), t.quantizer.format
    held = built.formats[operand.formats.index(format)]
    return codes if held == format else held.encode(format.decode(codes))


@pytest.mark.parametrize(("rows", "columns"), [(4, 5), (2, 3)])
@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: s.source.split(",")[0])
def test_sums_are_the_golden_ones_and_complete_when_stated(scheme, rows, columns):
    k = 8
    operands = case(scheme, k=k, signed_input=False, examples=False)
    array = OutputStationary(operands.plan, rows, columns)
    x = stored(operands.plan.x, array.plan.x, operands.x)[:rows]
    w = stored(operands.plan.w, array.plan.w, operands.w)[:columns]
    complete = rows + columns + k - 2
    # a product before it leaves something in the registers
    steps = 3 + complete + rows
    inputs = {name: np.zeros(steps, int) for name in ("valid", "first", "drain")}
    inputs |= {f"x_{r}": np.zeros(steps, int) for r in range(rows)} | {
        f"w_{c}": np.zeros(steps, int) for c in range(columns)
    }
    inputs["valid"][[0, *range(3, 3 + k)]] = 1
    inputs["first"][3] = 1
    inputs["drain"][3 + complete :] = 1
    for r in range(rows):
        inputs[f"x_{r}"][0], inputs[f"x_{r}"][3 : 3 + k] = x[r, 0], x[r]
    for c in range(columns):
        inputs[f"w_{c}"][0], inputs[f"w_{c}"][3 : 3 + k] = w[c, 0], w[c]
    found = evaluate(array, inputs | operands.selects(steps), clocked=True)
    name = "sum" if operands.plan.inner.readout is None else "read"
    left = [[found[f"{name}_{c}"][3 + complete + step] for c in range(columns)] for step in range(rows)]
    np.testing.assert_array_equal(left[::-1], operands.sums(0)[:rows, :columns])


def test_blocks_are_refused():
    with pytest.raises(ValueError, match="blocks of 32 products found; use a weight-stationary array"):
        OutputStationary(plan(mxfp4()), 2, 2)
