"""A cell library of our own, so that area, delay and energy need nothing else: rules over transistor counts.

Each combinational cell is one or two stages of static CMOS; a stage is an inverting network of series and parallel
transistors, one pair a literal. Everything follows from that and the eight numbers of `Process`:

- area: a quarter of a NAND for every transistor, so a cell's gate equivalents are its transistors / 4;
- drive: stages conduct as one inverter of unit width, so transistors in series are as many times wider
  (Sutherland, Sproull and Harris, "Logical Effort", 1999, ch. 4);
- input capacitance: the widths of the transistors on the pin; drains load their stage as one unit inverter a literal;
- delay: resistance times capacitance of each stage on the way, plus a share of the input slew;
- internal energy: half C V² of the drains and of the nodes between the stages, for each transition of the output;
- leakage: one unit transistor a literal.

Absolute numbers are those of a plausible 45 nm process, not of a real one; ratios between circuits are what it is for.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

from bitwright.cost.liberty import read_liberty
from bitwright.cost.liberty_function import Function, parse_function
from bitwright.cost.library import Library

STAGES: Mapping[str, tuple[str, ...]] = {
    "INV": ("A",),
    "BUF": ("A", "n"),
    "NAND2": ("A & B",),
    "NAND3": ("A & B & C",),
    "NAND4": ("A & B & C & D",),
    "NOR2": ("A | B",),
    "NOR3": ("A | B | C",),
    "NOR4": ("A | B | C | D",),
    "AND2": ("A & B", "n"),
    "AND3": ("A & B & C", "n"),
    "OR2": ("A | B", "n"),
    "OR3": ("A | B | C", "n"),
    "XOR2": ("A | B", "A & B | n"),
    "XNOR2": ("A & B", "(A | B) & n"),
    "AOI21": ("A & B | C",),
    "AOI22": ("A & B | C & D",),
    "AOI211": ("A & B | C | D",),
    "OAI21": ("(A | B) & C",),
    "OAI22": ("(A | B) & (C | D)",),
    "OAI211": ("(A | B) & C & D",),
}
"""Networks that pull the output low, so each stage inverts; `n` is the output of the stage before."""

DRIVES: Mapping[str, tuple[int, ...]] = {"INV": (1, 2, 4), "BUF": (1, 2, 4)}
"""Widths of the last stage, in unit inverters, of cells that come in several."""

SLEWS_NS = (0.002, 0.01, 0.03, 0.08, 0.2)
LOADS_FF = (0.5, 2.0, 5.0, 12.0, 30.0, 80.0)

FLIP_FLOP_TRANSISTORS = 24
"""Master and slave latches of transmission gates, output inverter, two clock inverters."""
CLOCKED_TRANSISTORS = 12
"""Of those, the two clock inverters and the four transmission gates."""


@dataclass(frozen=True)
class Process:
    """Assumptions from which every figure of the library follows."""

    feature_nm: float = 45.0
    voltage_v: float = 1.1
    gate_area_f2: float = 400.0
    """Area of a NAND in squares of the feature size."""
    unit_width_f: float = 5.0
    """Width of the unit inverter's n transistor; its p transistor is twice as wide."""
    gate_ff_per_um: float = 1.5
    """Capacitance of gate, of drain, per width."""
    fanout4_ps_per_um: float = 500.0
    """Delay of an inverter with four times its own load, per feature size; the rule of thumb for worst corners."""
    slew_share: float = 0.2
    """Part of the input's slew that delays the output."""
    leakage_na_per_um: float = 20.0

    @property
    def unit_ff(self) -> float:
        """Input capacitance of the unit inverter, and of its drains."""
        return 3 * self.unit_width_f * self.feature_nm * 1e-3 * self.gate_ff_per_um

    @property
    def tau_ns(self) -> float:
        """Resistance times input capacitance of the unit inverter: a fifth of the fanout-of-four delay."""
        return self.fanout4_ps_per_um * self.feature_nm * 1e-3 / 5 * 1e-3

    @property
    def gate_area_um2(self) -> float:
        """Area of a two-input NAND."""
        return self.gate_area_f2 * (self.feature_nm * 1e-3) ** 2

    @property
    def leakage_nw(self) -> float:
        """Of one unit n transistor that is off."""
        return self.leakage_na_per_um * self.unit_width_f * self.feature_nm * 1e-3 * self.voltage_v

    def energy_fj(self, units: float) -> float:
        """Half C V² of a capacitance in unit inverters."""
        return 0.5 * units * self.unit_ff * self.voltage_v**2


@functools.cache
def generic_library(process: Process = Process()) -> Library:
    """The library under a process; the default one is called generic45."""
    return read_liberty(
        f"generic{process.feature_nm:g}", (generic_liberty(process),), source=f"derived by rules from {process}"
    )


def generic_liberty(process: Process = Process()) -> str:
    """The library as a Liberty text."""
    cells = [_cell(process, name, drive) for name in STAGES for drive in DRIVES.get(name, (1,))]
    return f"""library (generic{process.feature_nm:g}) {{
  delay_model : table_lookup;
  time_unit : "1ns";
  voltage_unit : "1V";
  current_unit : "1uA";
  leakage_power_unit : "1nW";
  pulling_resistance_unit : "1kohm";
  capacitive_load_unit (1, ff);
  nom_voltage : {process.voltage_v:g};
  slew_lower_threshold_pct_rise : 20; slew_upper_threshold_pct_rise : 80;
  slew_lower_threshold_pct_fall : 20; slew_upper_threshold_pct_fall : 80;
  input_threshold_pct_rise : 50; input_threshold_pct_fall : 50;
  output_threshold_pct_rise : 50; output_threshold_pct_fall : 50;
  lu_table_template (delay) {{
    variable_1 : input_net_transition;
    variable_2 : total_output_net_capacitance;
    index_1 ("{_list(SLEWS_NS)}");
    index_2 ("{_list(LOADS_FF)}");
  }}
{"".join([*cells, _flip_flop(process)])}}}
"""


def network_function(name: str) -> Function:
    """The function of a combinational cell of `STAGES`, composed of its stages."""
    before: Function | None = None
    for stage in STAGES[name]:
        words: list[str] = []
        for word in parse_function(stage).postfix:
            words += before.postfix if word == "n" and before else (word,)
        before = Function((*words, "!"))
    assert before is not None, "a cell has stages"
    return before


def transistors(name: str, drive: int = 1) -> int:
    """Two a literal; the last stage as many times as its drive."""
    *first, last = (len(_literals(stage)) for stage in STAGES[name])
    return 2 * (sum(first) + drive * last)


def _literals(stage: str) -> list[str]:
    return [word for word in parse_function(stage).postfix if word not in "&|"]


def effort(stage: str, name: str) -> float:
    """Input capacitance of a pin of a stage in unit inverters: 1 n width and 2 p widths are three of three."""
    total = 0.0
    for place, literal in enumerate(_literals(stage)):
        if literal == name:
            total += (_in_series(stage, place, "&") + 2 * _in_series(stage, place, "|")) / 3
    return total


def _in_series(stage: str, place: int, operator: str) -> int:
    """Transistors in the longest chain through one literal, where `operator` puts networks in series."""
    stack: list[tuple[int, int | None]] = []  # longest chain, and longest chain through the literal if it is inside
    seen = 0
    for word in parse_function(stage).postfix:
        if word in "&|":
            (right, through_right), (left, through_left) = stack.pop(), stack.pop()
            if word == operator:
                through = next(
                    (t + other for t, other in ((through_left, right), (through_right, left)) if t is not None), None
                )
                stack.append((left + right, through))
            else:
                stack.append((max(left, right), through_left if through_left is not None else through_right))
        else:
            stack.append((1, 1 if seen == place else None))
            seen += 1
    ((_, through),) = stack
    assert through is not None, "the literal is in the network"
    return through


def _cell(process: Process, name: str, drive: int) -> str:
    stages, function = STAGES[name], network_function(name)
    *first, last = (len(_literals(stage)) for stage in stages)
    inner = float(sum(first)) + (drive * effort(stages[-1], "n") if len(stages) > 1 else 0.0)
    energy = process.energy_fj(drive * last + inner)
    widths = [drive if stage is stages[-1] else 1 for stage in stages]
    inputs, arcs = "", ""
    for pin in function.inputs:
        units = sum(width * effort(stage, pin) for width, stage in zip(widths, stages, strict=True))
        inputs += f"    pin ({pin}) {{ direction : input; capacitance : {units * process.unit_ff:.5g}; }}\n"
        before = inner if len(stages) > 1 and effort(stages[0], pin) else 0.0
        arcs += _timing(process, pin, function.sense(pin), units_before=before, units_own=last, drive=drive)
    return f"""  cell ({name}_X{drive}) {{
    area : {transistors(name, drive) / 4 * process.gate_area_um2:.6g};
    cell_leakage_power : {(sum(first) + drive * last) * process.leakage_nw:.5g};
{inputs}    pin (Y) {{ direction : output; function : "{_infix(function)}"; max_capacitance : {drive * LOADS_FF[-1]:g};
{arcs}{"".join(_power(pin, energy) for pin in function.inputs)}    }}
  }}
"""


def _flip_flop(process: Process) -> str:
    clocked = CLOCKED_TRANSISTORS / 2
    clock_fj = process.energy_fj(clocked + 1)  # drains or gates of the clocked pairs, and the second inverter's gate
    data_fj = process.energy_fj(float(FLIP_FLOP_TRANSISTORS - CLOCKED_TRANSISTORS))
    arc = _timing(process, "CK", "non_unate", units_before=8.0, units_own=1, drive=1, kind="rising_edge")
    setup = 3 * 2 * process.tau_ns  # three inverters, each with one gate and its own drains
    return f"""  cell (DFF_X1) {{
    area : {FLIP_FLOP_TRANSISTORS / 4 * process.gate_area_um2:.6g};
    cell_leakage_power : {FLIP_FLOP_TRANSISTORS / 2 * process.leakage_nw:.5g};
    ff (IQ, IQN) {{ clocked_on : "CK"; next_state : "D"; }}
    pin (CK) {{ direction : input; clock : true; capacitance : {process.unit_ff:.5g};
{_power("", clock_fj)}    }}
    pin (D) {{ direction : input; capacitance : {process.unit_ff:.5g};
      timing () {{ related_pin : "CK"; timing_type : setup_rising;
        rise_constraint (scalar) {{ values ("{setup:.5g}"); }} fall_constraint (scalar) {{ values ("{setup:.5g}"); }} }}
    }}
    pin (Q) {{ direction : output; function : "IQ"; max_capacitance : {LOADS_FF[-1]:g};
{arc}{_power("CK", data_fj)}    }}
  }}
"""


def _timing(
    process: Process,
    pin: str,
    sense: str,
    *,
    units_before: float,
    units_own: int,
    drive: int,
    kind: str = "combinational",
) -> str:
    """An arc whose delay is RC of the stages before, then of the last one with its own drains and the load."""
    tau = process.tau_ns

    def last(load: float) -> float:
        return tau * (units_own + load / process.unit_ff / drive)

    delay = [[tau * units_before + last(load) + process.slew_share * slew for load in LOADS_FF] for slew in SLEWS_NS]
    slews = [
        [2 * last(load) for load in LOADS_FF] for _ in SLEWS_NS
    ]  # 20 to 80 % of RC, where 50 % is tau: ln 4 / ln 2
    tables = [("cell_rise", delay), ("cell_fall", delay), ("rise_transition", slews), ("fall_transition", slews)]
    text = "".join(f"        {name} (delay) {{ values ({_rows(rows)}); }}\n" for name, rows in tables)
    return f'      timing () {{ related_pin : "{pin}"; timing_type : {kind}; timing_sense : {sense};\n{text}      }}\n'


def _power(pin: str, energy_fj: float) -> str:
    tables = "".join(f'{edge}_power (scalar) {{ values ("{energy_fj:.5g}"); }} ' for edge in ("rise", "fall"))
    cause = f'related_pin : "{pin}"; ' if pin else ""
    return f"      internal_power () {{ {cause}{tables}}}\n"


def _infix(function: Function) -> str:
    stack: list[str] = []
    for word in function.postfix:
        if word == "!":
            stack.append(f"!{stack.pop()}")
        elif word in "&|":
            right, left = stack.pop(), stack.pop()
            stack.append(f"({left} {word} {right})")
        else:
            stack.append(word)
    return stack[0]


def _rows(table: list[list[float]]) -> str:
    return ", ".join(f'"{_list(row)}"' for row in table)


def _list(numbers: "tuple[float, ...] | list[float]") -> str:
    return ", ".join(f"{x:.5g}" for x in numbers)
