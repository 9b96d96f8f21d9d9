"""What decoders and processing elements must do, as Verilog written from values alone, beside the circuit itself.

Each text is a module `check` around the circuit `dut`; its output `bad` is one where the circuit leaves its
specification. Decoders are held against tables of `Format.terms`, elements against
sum + significand·significand·2**exponents in the register's overflow mode. Nothing here comes from the generator.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from amaranth.hdl import Shape
from jaxtyping import Bool
from jaxtyping import Int as Ints

from bitwright.cost.formal import ONE_CLOCK, Goal
from bitwright.formats import Bounds, Format
from bitwright.rtl.decode import bounds
from bitwright.rtl.operand import Operand
from bitwright.rtl.plan import Plan
from bitwright.rtl.term import back_shape, exponent_shape, significand_shape, significands, term_shapes

WHOLE_ROW_BITS = 12
"""Bits of all codes of a decoder up to which one table holds every row of them; else each lane has one of its own."""

EASY_BITS, FREE_BITS = 10, 3
"""Bits of both factors that the solver takes at once; of a wider weight so many stay free in each case."""

RANDOM_ROWS = 512
"""On which the tables of lanes are compared with `Format.terms` of whole rows."""

Codes = Ints[np.ndarray, "rows lanes"]


@dataclass
class Tables:
    """Verilog modules of truth tables, one for all that are equal, as reduced trees of multiplexers."""

    modules: dict[bytes, tuple[str, str]] = field(default_factory=dict)

    def instance(self, name: str, address: list[str], columns: Bool[np.ndarray, "rows outputs"]) -> str:
        """A wire of this name that holds the row at an address, whose signals stand most significant first."""
        key = columns.tobytes() + bytes([len(address)]) + columns.shape[1].to_bytes(4, "little")
        if key not in self.modules:
            module = f"table_{len(self.modules)}"
            self.modules[key] = (module, _truth_table(module, columns))
        wire = f"  wire [{columns.shape[1] - 1}:0] {name};\n"
        return wire + f"  {self.modules[key][0]} {name}_table(.a({{{', '.join(address)}}}), .y({name}));\n"

    def text(self) -> str:
        return "".join(text for _, text in self.modules.values())


def decoder_check(format: Format, lanes: int) -> str:
    """`rtl.decoder.Decoder` beside `Format.terms`; codes that stand for no number may give anything.

    Of a term that is zero only the significand counts.
    """
    b, tables = bounds(format), Tables()
    shapes = {"significand": significand_shape(b), "exponent": exponent_shape(b), "back": back_shape(b)}
    ports = {
        f"{part}_{lane}_{t}": shape
        for lane in range(lanes) for t in range(b.per_lane) for part, shape in shapes.items()
    }  # fmt: skip
    body, wrong = "", []
    for lane, rows, seen in _rows(format, lanes):
        terms, own = format.terms(rows), range(lane * b.per_lane, (lane + 1) * b.per_lane)
        parts: list[tuple[str, int, Ints[np.ndarray, " rows"]]] = []
        for t, i in enumerate(own):
            position = (_column(terms.exponent, i, rows) - b.exponent.start) // b.exponent.step
            back = lane - _column(terms.source, i, rows)
            values = {"significand": terms.significand[:, i], "exponent": position, "back": back}
            parts += [(f"{part}_{lane}_{t}", shapes[part].width, values[part]) for part in shapes]
        valid = ~format.is_reserved(rows).any(1)
        columns = [valid, *(bit for _, width, values in parts for bit in bit_columns(values, width))]
        want = f"want_{lane}"
        body += tables.instance(want, [f"code_{i}" for i in reversed(seen)], np.stack(columns, 1))
        at = 1
        for name, width, _ in parts:
            if name.startswith("significand"):
                significand = f"{want}[{at + width - 1}:{at}]"
            if width:
                is_term = "" if name.startswith("significand") else f" & |{significand}"
                wrong.append(f"({want}[0]{is_term} & ({name} != {want}[{at + width - 1}:{at}]))")
            at += width
    inputs = {f"code_{lane}": Shape(format.bits) for lane in range(lanes)}
    return check_module("decoder", inputs, ports, body, {"bad": _any(wrong)}) + tables.text()


def operand_check(operand: Operand, lanes: int) -> str:
    """`rtl.decoder.OperandDecoder` beside the values of `Format.terms`, format by format, in units of the operand."""
    tables, body, wrong = Tables(), "", []
    unit, shapes = operand.bounds.exponent.start, term_shapes(operand.bounds)
    ports = {f"{part}_{lane}": shape for lane in range(lanes) for part, shape in shapes.items()}
    width = 2 + max(abs(u) for u in operand.bounds.units).bit_length()
    for lane in range(lanes):
        body += f"  wire signed [{width - 1}:0] value_{lane} = {_value(operand, f'significand_{lane}', lane, width)};\n"
    for i, format in enumerate(operand.formats):
        per_lane = bounds(format).per_lane
        chosen = f"select == {i} & " if operand.select_bits else ""
        for lane, rows, seen in _rows(format, lanes):
            terms = format.terms(rows)
            own = slice(lane * per_lane, (lane + 1) * per_lane)
            raised = np.maximum(np.broadcast_to(terms.exponent, terms.significand.shape)[:, own] - unit, 0)
            values = (terms.significand[:, own] << raised).sum(1)
            back = lane - _column(terms.source, own.start, rows)
            valid, back_bits = ~format.is_reserved(rows).any(1), shapes.get("back", Shape(0)).width
            columns = np.stack([valid, values != 0, *bit_columns(values, width), *bit_columns(back, back_bits)], 1)
            want = f"want_{i}_{lane}"
            address = [f"code_{j}[{format.bits - 1}:0]" for j in reversed(seen)]
            body += tables.instance(want, address, columns)
            wrong.append(f"({chosen}{want}[0] & (value_{lane} != $signed({want}[{width + 1}:2])))")
            if "exponent" in shapes:
                count = len(operand.bounds.exponent)
                wrong.append(f"({chosen}{want}[0] & {want}[1] & (exponent_{lane} >= {count}))")
            if back_bits:
                differs = f"back_{lane} != {want}[{width + 1 + back_bits}:{width + 2}]"
                wrong.append(f"({chosen}{want}[0] & {want}[1] & ({differs}))")
    inputs = {f"code_{lane}": Shape(operand.bits) for lane in range(lanes)}
    inputs |= {"select": Shape(operand.select_bits)}
    return check_module("decoder", inputs, ports, body, {"bad": _any(wrong)}) + tables.text()


def element_check(plan: Plan) -> str:
    """`rtl.units.ProcessingElement`, one clock after another: `bad` is its sum, `bad_moved` what it keeps or passes on.

    Both speak of the outputs now and one clock before, from any state of the registers; in the first step they say
    nothing.
    """
    register = plan.inner
    sides = {"x": term_shapes(plan.x.bounds), "w": term_shapes(plan.w.bounds)}
    terms = {f"{side}_{part}": shape for side, shapes in sides.items() for part, shape in shapes.items()}
    inputs = {"clk": Shape(1), "load": Shape(1), "sum_in": register.shape, **terms}
    outputs = {"sum": register.shape, **{f"{name}_out": shape for name, shape in terms.items()}}
    kept = {**{name: shape for name, shape in inputs.items() if name != "clk"}, **outputs}
    body = "".join(f"  reg {declared(shape)} before_{name};\n" for name, shape in kept.items())
    moves = "".join(f"    before_{name} <= {name};\n" for name in kept)
    body += f"  always @(posedge clk) begin\n{moves}  end\n"
    moved = [f"({name}_out != before_{name})" for name in terms if name.startswith("x_")]
    moved += [f"({n}_out != (before_load ? before_{n} : before_{n}_out))" for n in terms if n.startswith("w_")]

    for part, shape in sides["w"].items():  # a digit of the lane before meets the weight of that lane
        held = f"before_w_{part}_out"
        weight = f"before_x_back ? before_w_{part} : {held}" if "back" in sides["x"] else held
        body += f"  wire {declared(shape)} met_{part} = {weight};\n"
    places = [
        f"{b.exponent.step} * {name}"
        for side, b, name in (("x", plan.x.bounds, "before_x_exponent"), ("w", plan.w.bounds, "met_exponent"))
        if "exponent" in sides[side]
    ]
    most = sum(b.exponent[-1] - b.exponent.start for b in (plan.x.bounds, plan.w.bounds))
    factor_width = {side: shapes["significand"].width + 1 for side, shapes in sides.items()}
    product_width = sum(factor_width.values())
    width = max(register.bits, product_width + most) + 2
    body += f"""  wire signed [{factor_width["x"] - 1}:0] x_factor = before_x_significand;
  wire signed [{factor_width["w"] - 1}:0] w_factor = met_significand;
  wire signed [{product_width - 1}:0] product = x_factor * w_factor;
  wire [{most.bit_length()}:0] places = {" + ".join(places) or "0"};
  wire signed [{width - 1}:0] extended = product;
  wire signed [{width - 1}:0] held = before_sum_in;
  wire signed [{width - 1}:0] exact = held + (extended <<< places);
"""
    limits = [
        limit
        for side, b, name in (("x", plan.x.bounds, "before_x_{}"), ("w", plan.w.bounds, "met_{}"))
        for limit in _limits(b, sides[side], name)
    ]
    body += f"  wire valid = {' & '.join(limits)};\n"
    wanted = f"exact[{register.bits - 1}:0]"
    if register.low is not None and register.high is not None:
        body += f"""  wire signed [{width - 1}:0] low = {number(register.low, width)};
  wire signed [{width - 1}:0] high = {number(register.high, width)};
  wire signed [{width - 1}:0] clipped = exact < low ? low : exact > high ? high : exact;
"""
        wanted = f"clipped[{register.bits - 1}:0]"
    return check_module(
        "element", inputs, outputs, body, {"bad": f"valid & (sum != {wanted})", "bad_moved": _any(moved)}
    )


def element_goals(plan: Plan) -> tuple[Goal, ...]:
    """Of `element_check`: products of few free bits each, which together are all."""
    factors = [term_shapes(bounds)["significand"].width for bounds in (plan.x.bounds, plan.w.bounds)]
    fixed = max(factors[1] - FREE_BITS, 0) if sum(factors) > EASY_BITS else 0
    top = f"met_significand[{factors[1] - 1}:{factors[1] - fixed}]"
    cases = [f" -set-at 2 {top} {value}" for value in range(2**fixed)] if fixed else [""]
    if fixed and plan.x.bounds.reach:
        cases = [f"{case} -set-at 2 before_x_back {back}" for back in range(2) for case in cases]
    return (Goal("bad_moved", ONE_CLOCK), *(Goal("bad", ONE_CLOCK + case) for case in cases))


def _rows(format: Format, lanes: int) -> Iterator[tuple[int, Codes, list[int]]]:
    """For each lane rows of codes, and which lanes number them: all lanes, or the lane and those it may reach."""
    bits = format.bits
    if bits * lanes <= WHOLE_ROW_BITS or lanes == 1:
        row = np.arange(2 ** (bits * lanes))[:, None] >> (bits * np.arange(lanes)) & (2**bits - 1)
        yield from ((lane, row, list(range(lanes))) for lane in range(lanes))
        return
    reach = bounds(format).reach
    windows = [list(range(max(lane - reach, 0), lane + 1)) for lane in range(lanes)]
    if format.run == 1 and not reach:
        windows = [[lane] for lane in range(lanes)]
    _require_local(format, lanes, windows)
    for lane, seen in enumerate(windows):
        yield lane, _window(bits, lane + 1, seen), seen


def _window(bits: int, lanes: int, seen: list[int]) -> Codes:
    """Every combination of the codes of some lanes, the others zero."""
    rows = np.zeros((2 ** (bits * len(seen)), lanes), np.int64)
    rows[:, seen] = np.arange(len(rows))[:, None] >> (bits * np.arange(len(seen))) & (2**bits - 1)
    return rows


def _require_local(format: Format, lanes: int, windows: list[list[int]]) -> None:
    """ValueError where a lane's terms depend on codes outside of its window."""
    rows = np.random.default_rng(0).integers(0, 2**format.bits, (RANDOM_ROWS, lanes))
    rows = np.where(format.is_reserved(rows), 0, rows)
    rows = rows[~format.is_reserved(rows).any(1)]
    whole, per_lane = format.terms(rows), bounds(format).per_lane
    for lane, seen in enumerate(windows):
        alone = np.zeros_like(rows)
        alone[:, seen] = rows[:, seen]
        own = slice(lane * per_lane, (lane + 1) * per_lane)
        parts = [
            np.array_equal(
                np.broadcast_to(a, whole.significand.shape)[:, own],
                np.broadcast_to(b, whole.significand.shape)[:, own],
            )
            for a, b in zip(whole, format.terms(alone), strict=True)
        ]
        if format.is_reserved(alone).any() or not all(parts):
            raise ValueError(f"{format}: lane {lane} depends on codes beyond its reach; simulate it instead")


def _truth_table(name: str, columns: Bool[np.ndarray, "rows outputs"]) -> str:
    """Outputs as functions of the address, each split by its highest bit until it is constant."""
    known: dict[bytes, str] = {}
    lines: list[str] = []

    def node(values: Bool[np.ndarray, " part"]) -> str:
        if values.all() or not values.any():
            return f"1'b{int(values[0])}"
        half = len(values) // 2
        if np.array_equal(values[:half], values[half:]):
            return node(values[:half])
        key = values.tobytes()
        if key not in known:
            low, high = node(values[:half]), node(values[half:])
            known[key] = f"n{len(known)}"
            lines.append(f"  wire {known[key]} = a[{half.bit_length() - 1}] ? {high} : {low};\n")
        return known[key]

    outputs = [node(column) for column in columns.T]
    bits = (len(columns) - 1).bit_length()
    return (
        f"module {name}(input [{max(bits, 1) - 1}:0] a, output [{len(outputs) - 1}:0] y);\n{''.join(lines)}"
        f"  assign y = {{{', '.join(reversed(outputs))}}};\nendmodule\n"
    )


def bit_columns(values: Ints[np.ndarray, " rows"], width: int) -> list[Bool[np.ndarray, " rows"]]:
    """Two's complement, least significant first."""
    return [(values >> j & 1).astype(bool) for j in range(width)]


def _column(part: Ints[np.ndarray, "*any"], i: int, rows: Codes) -> Ints[np.ndarray, " rows"]:
    return np.broadcast_to(part, (len(rows), np.shape(part)[-1]))[:, i]


def _value(operand: Operand, significand: str, lane: int, width: int) -> str:
    if len(operand.bounds.exponent) == 1:
        return significand
    shape = significand_shape(operand.bounds)
    above = f"{{{width}{{{significand}[{shape.width - 1}]}}}}" if shape.signed else f"{width}'d0"
    extended = f"$signed({{{above}, {significand}}})"
    return f"{extended} <<< ({operand.bounds.exponent.step} * exponent_{lane})"


def number(value: int, width: int) -> str:
    return f"-{width}'sd{-value}" if value < 0 else f"{width}'sd{value}"


def _any(conditions: list[str]) -> str:
    """A vector, as long chains of operators exhaust the stack of yosys' parser."""
    return f"|{{{', '.join(conditions)}}}" if conditions else "1'b0"


def _limits(b: Bounds, shapes: Mapping[str, Shape], name: str) -> list[str]:
    """What holds for every term within bounds; `name` has a place for a part."""
    low, high = significands(b)
    width = shapes["significand"].width + 2
    significand = name.format("significand")
    above = f"{{2{{{significand}[{width - 3}]}}}}" if shapes["significand"].signed else "2'b00"
    factor = f"$signed({{{above}, {significand}}})"
    found = [f"({factor} >= {number(low, width)})", f"({factor} <= {number(high, width)})"]
    if "exponent" in shapes:
        found.append(f"({name.format('exponent')} < {len(b.exponent)})")
    return found


def declared(shape: Shape) -> str:
    return f"{'signed ' if shape.signed else ''}[{shape.width - 1}:0]"


def check_module(
    circuit: str,
    inputs: Mapping[str, Shape],
    outputs: Mapping[str, Shape],
    body: str,
    results: Mapping[str, str],
    *,
    inner: Mapping[str, Shape] | None = None,
    free: Mapping[str, Shape] | None = None,
) -> str:
    """The module `check` around a circuit. Ports of no bits are left out.

    `inner` are inputs of the circuit that the body drives, `free` inputs of the check alone.
    """
    given, made = ({n: s for n, s in ports.items() if s.width} for ports in (inputs, outputs))
    ports = [f"input {declared(shape)} {name}" for name, shape in (given | dict(free or {})).items()]
    ports += [f"output {name}" for name in results]
    wires = "".join(f"  wire {declared(shape)} {name};\n" for name, shape in made.items())
    connected = ", ".join(f".{name}({name})" for name in (*given, *(inner or {}), *made))
    assigned = "".join(f"  assign {name} = {value};\n" for name, value in results.items())
    return f"module check({', '.join(ports)});\n{wires}{body}  {circuit} dut({connected});\n{assigned}endmodule\n"
