"""No overflow under a certificate, proved of the circuit: the register equals a wider one for all inputs.

Colbert et al., arXiv:2301.13376: sums cannot leave what Σ⁺ and Σ⁻ of the weights allow. Two statements, each of one
clock after any state within its bounds, so that induction over the clocks carries them to sums of every length:

`step_check`     of a processing element and weights of any value: a sum within bounds, and bounds that the weight may
                 widen without leaving the register, give the exact sum within the wider bounds. A column of elements
                 whose Σ⁺ and Σ⁻ a certificate bounds therefore never overflows.
`channel_check`  of a vector unit and the weights of one channel: what it holds after each of them is the sum itself.
"""

import numpy as np
from amaranth.hdl import Shape
from jaxtyping import Int as Ints

from bitwright.cost.formal import ONE_CLOCK, Dut, Goal, Proof, prove_check
from bitwright.cost.formal_spec import EASY_BITS, Tables, bit_columns, check_module, number
from bitwright.datapath import bits_for
from bitwright.formats import Format
from bitwright.rtl.plan import Plan
from bitwright.rtl.term import term_shapes
from bitwright.rtl.units import ProcessingElement, VectorUnit
from bitwright.rtl.verilog import rtlil
from bitwright.rtl.yosys import Yosys

Codes = Ints[np.ndarray, " k"]

GUARD_BITS = 4
"""By which the bounds of sums may leave the register before they are cut."""


def prove_steps(plan: Plan, low: int, high: int, *, timeout_s: float = 600.0, yosys: Yosys | None = None) -> Proof:
    """`step_check` of a plan's processing element, for inputs from low to high in units of their format."""
    dut = Dut.of_rtlil(rtlil(ProcessingElement(plan), "element"))
    return prove_check(step_check(plan, low, high), dut, step_goals(plan), timeout_s=timeout_s, yosys=yosys)


def prove_channel(
    plan: Plan, codes: Codes, *, format: int = 0, timeout_s: float = 600.0, yosys: Yosys | None = None
) -> Proof:
    """`channel_check` of a plan's vector unit of one lane; `format` is the position of the inputs' in the plan."""
    dut = Dut.of_rtlil(rtlil(VectorUnit(plan, 1), "vector"))
    check = channel_check(plan, codes, format)
    return prove_check(check, dut, [Goal("bad", ONE_CLOCK)], timeout_s=timeout_s, yosys=yosys)


def are_integers(plan: Plan) -> bool:
    """Whether operands are integers and the register neither saturates nor is read through a fold."""
    plain = all(len(o.bounds.exponent) == 1 and not o.bounds.reach for o in (plan.x, plan.w))
    return plain and plan.inner.low is None and plan.inner.readout is None


def step_goals(plan: Plan) -> tuple[Goal, ...]:
    """Of `step_check`, weight by weight where the factors are wide."""
    widths = [term_shapes(bounds)["significand"].width for bounds in (plan.x.bounds, plan.w.bounds)]
    cases = range(2 ** widths[1]) if sum(widths) > EASY_BITS else ()
    settings = [f"{ONE_CLOCK} -set-at 1 w_significand_out {case}" for case in cases] or [ONE_CLOCK]
    return tuple(Goal("bad", setting) for setting in settings)


def step_check(plan: Plan, low: int, high: int) -> str:
    """`bad` where a sum within bounds overflows although the bounds, widened by this weight, fit the register."""
    _require_integers(plan)
    register = plan.inner
    terms = {
        f"{side}_{part}": shape
        for side, bounds in (("x", plan.x.bounds), ("w", plan.w.bounds)) for part, shape in term_shapes(bounds).items()
    }  # fmt: skip
    shapes = {"x": terms["x_significand"], "w": terms["w_significand"]}
    width = max(register.bits, shapes["x"].width + shapes["w"].width + 2) + GUARD_BITS
    wide = Shape(width, signed=True)
    inputs = {"clk": Shape(1), "load": Shape(1), "sum_in": register.shape, **terms, "low": wide, "high": wide}
    outputs = {"sum": register.shape, **{f"{name}_out": shape for name, shape in terms.items()}}
    fits = (-(2 ** (register.bits - 1)), 2 ** (register.bits - 1) - 1)
    body = f"""  wire signed [{width - 1}:0] held = sum_in, weight = w_significand_out, input_value = x_significand;
  wire is_input = input_value >= {number(low, width)} & input_value <= {number(high, width)};
  wire signed [{width - 1}:0] at_low = weight * {number(low, width)}, at_high = weight * {number(high, width)};
  wire signed [{width - 1}:0] after_low = low + (weight < 0 ? at_high : at_low);
  wire signed [{width - 1}:0] after_high = high + (weight < 0 ? at_low : at_high);
  wire is_certified = is_input & low <= 0 & high >= 0 & low <= held & held <= high
    & after_low >= {number(fits[0], width)} & after_high <= {number(fits[1], width)}
    & low >= {number(fits[0], width)} & high <= {number(fits[1], width)};
  reg before_certified;
  reg signed [{width - 1}:0] exact, least, most;
  always @(posedge clk) begin
    before_certified <= is_certified;
    exact <= held + weight * input_value;
    least <= after_low;
    most <= after_high;
  end
  wire signed [{width - 1}:0] found = sum;
"""
    inputs_ports = {name: shape for name, shape in inputs.items() if name not in ("low", "high")}
    bad = "before_certified & (found != exact | exact < least | exact > most)"
    return check_module("element", inputs_ports, outputs, body, {"bad": bad}, free={"low": wide, "high": wide})


def channel_check(plan: Plan, codes: Codes, format: int = 0) -> str:
    """`bad` where the register of a vector unit differs from the sum of the products so far, for any inputs.

    Weights follow each other from their first to their last and begin again; bounds of the sum after each of them are
    those of Σ⁺ and Σ⁻ of the weights so far.
    """
    _require_integers(plan)
    x, (w_format,) = plan.x.formats[format], plan.w.formats
    every = np.arange(2**x.bits)
    values, valid = _units(x, every, plan.x.bounds.exponent.start), ~x.is_reserved(every[:, None])[:, 0]
    weights = _units(w_format, codes, plan.w.bounds.exponent.start)
    x_low, x_high = int(values[valid].min()), int(values[valid].max())
    lows = np.cumsum(np.minimum(weights * x_low, weights * x_high))
    highs = np.cumsum(np.maximum(weights * x_low, weights * x_high))
    k, index_bits = len(codes), len(codes).bit_length()
    width = max(bits_for(int(lows.min()), int(highs.max())), plan.inner.bits) + 1
    x_width, w_width = bits_for(int(values.min()), int(values.max())), bits_for(int(weights.min()), int(weights.max()))
    tables = Tables()
    rows = 2**index_bits

    def row_of(given: Ints[np.ndarray, " k"], first: int) -> Ints[np.ndarray, " rows"]:
        return np.concatenate([np.zeros(first, np.int64), given, np.zeros(rows - first - k, np.int64)])

    at = [f"step[{i}]" for i in reversed(range(index_bits))]
    body = f"  reg [{index_bits - 1}:0] step;\n"
    body += f"  wire [{index_bits - 1}:0] place = step == {k} ? 0 : step;\n"
    place = [name.replace("step", "place") for name in at]
    body += tables.instance(
        "weight_row",
        place,
        np.stack([*bit_columns(row_of(codes, 0), plan.w.bits), *bit_columns(row_of(weights, 0), w_width)], 1),
    )
    body += tables.instance(
        "bound_row", at, np.stack([*bit_columns(row_of(lows, 1), width), *bit_columns(row_of(highs, 1), width)], 1)
    )
    body += tables.instance("input_row", ["x_0"], np.stack([valid, *bit_columns(values, x_width)], 1))
    total = plan.inner.read_shape
    body += f"""  wire [{plan.w.bits - 1}:0] w_0 = weight_row[{plan.w.bits - 1}:0];
  wire signed [{w_width - 1}:0] weight = weight_row[{plan.w.bits + w_width - 1}:{plan.w.bits}];
  wire signed [{x_width - 1}:0] input_value = input_row[{x_width}:1];
  wire enable = 1, first = place == 0;
  wire signed [{x_width + w_width - 1}:0] product = weight * input_value;
  reg signed [{width - 1}:0] exact;
  wire signed [{width - 1}:0] least = bound_row[{width - 1}:0], most = bound_row[{2 * width - 1}:{width}];
  wire signed [{width - 1}:0] found = total;
  wire is_right = step == 0 | (step <= {k} & found == exact & least <= exact & exact <= most);
  reg was_right;
  always @(posedge clk) begin
    step <= place + 1;
    exact <= (first ? {width}'sd0 : exact) + product;
    was_right <= is_right & input_row[0];
  end
"""
    inputs = {"clk": Shape(1), "x_0": Shape(x.bits)}
    inner = {"w_0": Shape(plan.w.bits), "enable": Shape(1), "first": Shape(1)}
    if plan.x.select_bits:
        inner["x_select"] = Shape(plan.x.select_bits)
        body += f"  wire [{plan.x.select_bits - 1}:0] x_select = {format};\n"
    text = check_module("vector", inputs, {"total": total}, body, {"bad": "was_right & ~is_right"}, inner=inner)
    return text + tables.text()


def _units(format: Format, codes: Codes, unit: int) -> Ints[np.ndarray, " codes"]:
    """What codes stand for, counting 2**unit."""
    significand, exponent, _ = format.terms(codes[:, None])
    return (significand[:, 0] << (np.broadcast_to(exponent, significand.shape)[:, 0] - unit)).astype(np.int64)


def _require_integers(plan: Plan) -> None:
    if not are_integers(plan):
        raise ValueError(
            f"operands {plan.x.formats} and {plan.w.formats} in {plan.inner} found; certificates are of integers in "
            "registers that neither saturate nor are read through a fold"
        )
