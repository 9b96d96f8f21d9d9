"""A second opinion on `timing`: OpenSTA on the same netlist and library, where it is installed.

Wires have no capacitance in it; give `timing.analyse` a `Surroundings(wire_ff=0.0)` to compare.
"""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from bitwright.cost.library import Library
from bitwright.cost.netlist import ONE, ZERO, Netlist
from bitwright.cost.timing import Surroundings

SLACK = re.compile(r"(-?\d+\.\d+)\s+slack")
ESTIMATED_WIRES = re.compile(r"default_wire_load\w*\s*:[^;]*;")
"""Where a library has OpenSTA guess the wires by the size of the circuit."""

LONG_NS = 1000.0
"""A clock that every path meets: its slack says how long the path is."""


def open_sta_period(
    netlist: Netlist,
    library: Library,
    surroundings: Surroundings = Surroundings(wire_ff=0.0),
    *,
    timeout_s: float = 120.0,
) -> float:
    """Nanoseconds of the slowest path, setup included. Raises ImportError where OpenSTA is not installed."""
    if surroundings.wire_ff:
        raise ValueError(f"open_sta_period: wires of {surroundings.wire_ff:g} fF found; OpenSTA is asked without wires")
    command = shutil.which("sta")
    if command is None:
        raise ImportError("OpenSTA's program `sta` is not installed; Debian has it in the package opensta")
    cells = [f"cells{i}.lib" for i in range(len(library.liberty))]
    with tempfile.TemporaryDirectory(prefix="bitwright_") as scratch:
        folder = Path(scratch)
        for name, text in zip(cells, library.liberty, strict=True):
            (folder / name).write_text(ESTIMATED_WIRES.sub("", text))
        (folder / "netlist.v").write_text(structural_verilog(netlist))
        (folder / "script.tcl").write_text(_script(netlist, library, cells, surroundings))
        done = subprocess.run(
            [command, "-exit", "-no_splash", "script.tcl"], cwd=folder, capture_output=True, text=True,
            stdin=subprocess.DEVNULL, timeout=timeout_s,
        )  # fmt: skip
    found = SLACK.findall(done.stdout)
    if not found:
        raise RuntimeError(f"OpenSTA gave no slack for {netlist.name}: {(done.stdout + done.stderr).strip()[-300:]}")
    return LONG_NS - min(map(float, found))


def structural_verilog(netlist: Netlist) -> str:
    """The netlist as instances with named pins; buses are single wires, `n7` is net 7."""
    ports = {net: f"n{net}" for nets in (*netlist.inputs.values(), *netlist.outputs.values()) for net in nets}
    inputs = sorted({net for nets in netlist.inputs.values() for net in nets})
    outputs = sorted({net for nets in netlist.outputs.values() for net in nets} - {ZERO, ONE} - set(inputs))
    driven = {net for instance in netlist.instances for net in instance.pins.values()}
    inner = sorted(driven - ports.keys() - {ZERO, ONE})
    lines = [f"module {netlist.name} ({', '.join(f'n{net}' for net in (*inputs, *outputs))});"]
    for kind, nets in (("input", inputs), ("output", outputs), ("wire", inner)):
        lines += [f"  {kind} n{net};" for net in nets]
    for i, instance in enumerate(netlist.instances):
        pins = ", ".join(f".{pin}({_net(net)})" for pin, net in instance.pins.items())
        lines.append(f"  {instance.kind} g{i} ({pins});")
    return "\n".join([*lines, "endmodule", ""])


def _net(net: int) -> str:
    return {ZERO: "1'b0", ONE: "1'b1"}.get(net, f"n{net}")


def _script(netlist: Netlist, library: Library, cells: list[str], surroundings: Surroundings) -> str:
    clocks = sorted({
        instance.pins[flip_flop.clock.inputs[0]]
        for instance in netlist.instances
        if (flip_flop := library.cell(instance.kind).flip_flop) is not None
    })  # fmt: skip
    at = f" [get_ports n{clocks[0]}]" if clocks else ""
    return "\n".join([
        *(f"read_liberty {name}" for name in cells),
        "read_verilog netlist.v",
        f"link_design {netlist.name}",
        "set_cmd_units -time ns -capacitance fF",
        f"create_clock -name clock -period {LONG_NS:g}{at}",
        f"set_clock_transition {surroundings.slew_ns:g} [get_clocks clock]",
        f"set_input_transition {surroundings.slew_ns:g} [all_inputs]",
        "set_input_delay 0 -clock clock [all_inputs -no_clocks]",
        "set_output_delay 0 -clock clock [all_outputs]",
        f"set_load {surroundings.output_ff:g} [all_outputs]",
        "report_checks -path_delay max -digits 6",
        "",
    ])  # fmt: skip
