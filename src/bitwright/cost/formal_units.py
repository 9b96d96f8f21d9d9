"""What encoders and vector units must do, as Verilog written from values alone, like `formal_spec` of other units.

Encoders are held against tables of what a format encodes, over all levels of all lanes, so lanes are few and levels
short; a vector unit against its register plus the sum of the values' products, times the scales. Registers begin in any
state: the step after it is proved.
"""

import numpy as np
from amaranth.hdl import Shape
from jaxtyping import Bool
from jaxtyping import Float as Floats
from jaxtyping import Int as Ints

from bitwright.cost.formal_spec import Tables, bit_columns, check_module, declared, number
from bitwright.datapath import Accumulator, FixedPoint
from bitwright.formats import Format, Int, Rounding
from bitwright.rtl.encode import Encoder
from bitwright.rtl.float_register import FloatAdder
from bitwright.rtl.hese import TermEncoder
from bitwright.rtl.outer import FloatOuter
from bitwright.rtl.overq_encoder import OverwriteEncoder
from bitwright.rtl.units import VectorUnit
from bitwright.rtl.vector_quantizer import VectorQuantizer, quantize_vectors

Columns = dict[str, Ints[np.ndarray, " rows"]]
"""Integers of each port, a case a row."""

MOST_ADDRESS_BITS = 21
"""Bits of all lanes that a table may have."""


def encoder_check(unit: Encoder | OverwriteEncoder) -> str:
    """Codes of all levels beside the format's own `encode`."""
    level, lanes = unit.level, unit.lanes
    rows = _rows(level.bits, lanes, is_signed=level.signed)
    levels = np.ldexp(rows.astype(np.float64), level.exponent)
    if isinstance(unit, OverwriteEncoder):
        codes = unit.format.encode(levels)
    else:
        codes = unit.format.encode(levels, unit.rounding)
    inputs = {f"level_{lane}": Shape(level.bits, level.signed) for lane in range(lanes)}
    outputs = {f"code_{lane}": codes[:, lane] for lane in range(lanes)}
    return _table_check("encoder", inputs, outputs, dict.fromkeys(outputs, unit.format.bits))


def nearest_check(unit: Encoder) -> str:
    """Codes beside the values that they stand for: that of the nearest value, of a tie what `encode` makes of it.

    For levels too long for a table. A wire is compared with the middle of every two neighbours.
    """
    format, level = unit.format, unit.level
    if unit.lanes > 1 or unit.rounding is not Rounding.NEAREST_EVEN or format.run > 1:
        raise ValueError(
            "several lanes, neighbours or another rounding found; the specification is of one nearest value"
        )
    codes = np.arange(2**format.bits)
    codes = codes[~format.is_reserved(codes)]
    values = np.unique(format.decode(codes))
    middles = (values[:-1] + values[1:]) / 2  # float64 holds sums of two neighbours
    ups = format.decode(format.encode(middles)) == values[1:]
    doubled = np.ldexp(middles, 1 - level.exponent)
    if not (doubled == np.floor(doubled)).all() or np.abs(doubled).max() >= 2.0**53:
        raise ValueError(
            f"levels of {level} found, whose unit does not divide the middle of two values; take a finer one"
        )
    found = format.encode(values).astype(np.int64)
    at_zero = np.searchsorted(values, 0.0)
    if level.signed:  # what is negative and rounds to zero may have a code of its own
        found[at_zero] = format.encode(np.asarray([-np.ldexp(1.0, level.exponent)]))[0]
    first, *others = map(int, found)
    steps = [*zip(doubled, ups, others, strict=True)]
    steps.insert(at_zero, (0.0, True, int(format.encode(np.zeros(1))[0])))
    width, bits = level.bits + 2, format.bits
    taken = "".join(
        f"    if (doubled >{'=' if up else ''} {number(int(middle), width)}) wanted = {bits}'d{code};\n"
        for middle, up, code in steps
    )
    body = f"""  wire signed [{width - 1}:0] doubled = level_0 * 2;
  reg [{bits - 1}:0] wanted;
  always @* begin
    wanted = {bits}'d{first};
{taken}  end
"""
    inputs = {"level_0": Shape(level.bits, level.signed)}
    return check_module("encoder", inputs, {"code_0": Shape(bits)}, body, {"bad": "code_0 != wanted"})


def adder_check(unit: FloatAdder) -> str:
    """The next code of all pairs of codes beside `Accumulator.add` of the values."""
    register = unit.register
    rows = _rows(register.bits, 2)
    valid = np.asarray(~register.format.is_reserved(rows).any(1))
    held, addend = register.format.decode(np.where(valid[:, None], rows, 0)).T
    valid &= ~((held == 0) & (rows[:, 0] != 0))  # zero is never negative in a register
    sums = Accumulator(register.format, rounding=register.rounding).add(held[None], addend[None])[0]
    outputs = {"sum": canonical(register.format, sums)}
    inputs = dict.fromkeys(("held", "addend"), Shape(register.bits))
    return _table_check("adder", inputs, outputs, {"sum": register.bits}, valid)


def term_encoder_check(unit: TermEncoder) -> str:
    """Powers of two of all codes that stand for numbers beside those that `TermBudget` keeps."""
    lanes, format = range(unit.lanes), unit.format
    rows = _rows(format.bits, unit.lanes)
    valid = np.asarray(~format.is_reserved(rows).any(1))
    added, subtracted = format.kept(np.where(valid[:, None], rows, 0))
    outputs = {f"plus_{i}": added[:, i] for i in lanes} | {f"minus_{i}": subtracted[:, i] for i in lanes}
    widths = dict.fromkeys(outputs, len(format.bounds().exponent))
    return _table_check("encoder", {f"code_{i}": Shape(format.bits) for i in lanes}, outputs, widths, valid)


def vector_quantizer_check(unit: VectorQuantizer, factor: FixedPoint) -> str:
    """Codes and scale of all vectors, a clock later, beside `quantize_vectors` by this factor."""
    lanes = range(unit.lanes)
    rows = _rows(unit.x.bits, unit.lanes, is_signed=unit.x.signed)
    codes, scale = quantize_vectors(unit.quantizer, unit.requantizer.requantize, factor, rows)
    outputs = {f"code_{i}": codes[:, i] for i in lanes} | {"scale": scale}
    widths = {f"code_{i}": unit.format.bits for i in lanes} | {"scale": unit.requantizer.output.bits}
    fixed = {"multiplier": factor.multiplier, "shift": factor.shift - unit.requantizer.shifts.start}
    ports = {name: getattr(unit, name).shape() for name in fixed}
    body = "".join(f"  wire {declared(ports[name])} {name} = {value};\n" for name, value in fixed.items())
    inputs = {f"x_{i}": Shape(unit.x.bits, unit.x.signed) for i in lanes}
    return _table_check("quantizer", inputs, outputs, widths, body=body, inner=ports, is_clocked=True)


def vector_check(unit: VectorUnit) -> str:
    """The register after a step, of one format a side: what was in it, or zero, and the scaled sum of all products."""
    made, lanes = unit.plan, range(unit.lanes)
    if len(made.x.formats) + len(made.w.formats) > 2 or made.has_zero_point or made.inner.readout is not None:
        raise ValueError("several formats, a zero point or a fold found; the specification is of one format a side")
    register = made.inner if made.outer is None else made.outer.register
    scales: dict[str, Shape] = {}
    if made.outer is not None:
        if isinstance(made.outer, FloatOuter) or made.outer.scale.format is not None:
            raise ValueError(
                "a rounded scale product or a float register found; the specification is of exact integers"
            )
        found = {"x_scale": made.outer.scale.x, "w_scale": made.outer.scale.w}
        scales = {name: Shape(format.bits) for name, format in found.items() if isinstance(format, Int)}
    codes = {f"{side}_{i}": Shape(o.bits) for side, o in (("x", made.x), ("w", made.w)) for i in lanes}
    inputs = {"clk": Shape(1), "enable": Shape(1), "first": Shape(1), **codes, **scales}
    kept = {name: shape for name, shape in inputs.items() if name != "clk"} | {"total": register.shape}
    tables = Tables()
    body = _held(kept)
    width = register.bits + 2
    for side, operand in (("x", made.x), ("w", made.w)):
        for i in lanes:
            body += _values(tables, operand.formats[0], f"{side}_{i}", width)
    products = " + ".join(f"value_x_{i} * value_w_{i}" for i in lanes)
    factor = "".join(f" * $signed({{1'b0, before_{name}}})" for name in scales)
    body += f"""  wire signed [{width - 1}:0] products = {products};
  wire signed [{width - 1}:0] start = before_first ? {number(0, width)} : before_total;
  wire signed [{width - 1}:0] step = start + products{factor};
  wire [{register.bits - 1}:0] wanted = before_enable ? step[{register.bits - 1}:0] : before_total;
"""
    valid = " & ".join(f"valid_{side}_{i}" for side in "xw" for i in lanes)
    results = {"bad": f"{valid} & (total != wanted)"}
    return check_module("vector", inputs, {"total": register.shape}, body, results) + tables.text()


def _values(tables: Tables, format: Format, port: str, width: int) -> str:
    """Wires with the value of the code before, in units of the format, and whether it stands for a number."""
    rows = _rows(format.bits, 1)
    valid = np.asarray(~format.is_reserved(rows).any(1))
    low, high = format.bounds().units
    bits = max(abs(low), abs(high)).bit_length() + 1
    units = np.where(valid, np.ldexp(format.decode(np.where(valid[:, None], rows, 0))[:, 0], -_unit(format)), 0)
    columns = np.stack([valid, *bit_columns(units.astype(np.int64), bits)], 1)
    return tables.instance(f"table_of_{port}", [f"before_{port}"], columns) + (
        f"  wire valid_{port} = table_of_{port}[0];\n"
        f"  wire signed [{width - 1}:0] value_{port} = $signed(table_of_{port}[{bits}:1]);\n"
    )


def _unit(format: Format) -> int:
    return format.bounds().exponent.start


def canonical(format: Format, values: Floats[np.ndarray, " rows"]) -> Ints[np.ndarray, " rows"]:
    """Codes of values that the format has, zero without a sign."""
    return np.where(values == 0, 0, format.encode(values)).astype(np.int64)


def all_columns(inputs: dict[str, Shape]) -> tuple[Columns, Bool[np.ndarray, " rows"]]:
    """All values of all inputs, the first counting fastest, and that each of them counts."""
    bits = sum(shape.width for shape in inputs.values())
    if bits > MOST_ADDRESS_BITS:
        raise ValueError(f"inputs of {bits} bits found; a table has at most {MOST_ADDRESS_BITS}, so try narrower ones")
    count, columns, place = np.arange(2**bits), {}, 0
    for name, shape in inputs.items():
        found = count >> place & (2**shape.width - 1)
        columns[name] = found - (found >> (shape.width - 1) << shape.width) if shape.signed else found
        place += shape.width
    return columns, np.ones(2**bits, bool)


def _table_check(
    circuit: str, inputs: dict[str, Shape], outputs: dict[str, Ints[np.ndarray, " rows"]], widths: dict[str, int],
    valid: Bool[np.ndarray, " rows"] | None = None, *, body: str = "", inner: dict[str, Shape] | None = None,
    is_clocked: bool = False,
) -> str:  # fmt: skip
    """Outputs beside a table of them over all valid inputs, now or a clock before."""
    tables = Tables()
    columns = [bit for name, values in outputs.items() for bit in bit_columns(values, widths[name])]
    columns.append(np.ones_like(columns[0]) if valid is None else valid)
    before = "before_" if is_clocked else ""
    body += _held(inputs) if is_clocked else ""
    for name, shape in inputs.items():  # a signed wire alone in braces stops yosys
        body += f"  wire [{shape.width - 1}:0] bits_{name} = {before}{name};\n"
    body += tables.instance("want", [f"bits_{name}" for name in reversed(inputs)], np.stack(columns, 1))
    clock = {"clk": Shape(1)} if is_clocked else {}
    together = ", ".join(reversed(list(outputs)))
    shapes = {name: Shape(width) for name, width in widths.items()}
    results = {"bad": f"want[{len(columns) - 1}] & ({{{together}}} != want[{len(columns) - 2}:0])"}
    return check_module(circuit, clock | inputs, shapes, body, results, inner=inner) + tables.text()


def _held(kept: dict[str, Shape]) -> str:
    """Registers with what signals were a clock before."""
    body = "".join(f"  reg {declared(shape)} before_{name};\n" for name, shape in kept.items())
    moves = "".join(f"    before_{name} <= {name};\n" for name in kept)
    return f"{body}  always @(posedge clk) begin\n{moves}  end\n"


def _rows(bits: int, lanes: int, *, is_signed: bool = False) -> Ints[np.ndarray, "rows lanes"]:
    """All integers of so many bits in all lanes, the first lane counting fastest."""
    if bits * lanes > MOST_ADDRESS_BITS:
        raise ValueError(f"{lanes} lanes of {bits} bits found; a table has at most {MOST_ADDRESS_BITS}, so try fewer")
    rows = np.arange(2 ** (bits * lanes))[:, None] >> (bits * np.arange(lanes)) & (2**bits - 1)
    return rows - (rows >> (bits - 1) << bits) if is_signed else rows
