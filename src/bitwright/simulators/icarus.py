"""Icarus Verilog: the emitted Verilog in an interpreter. Slow; a second opinion on small circuits."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bitwright.rtl.yosys import find_yosys
from bitwright.simulators.design import WORD, Design, Row
from bitwright.simulators.program import Simulator, SimulatorError

BENCH, STREAMS = (Path(__file__).with_name(name).read_text() for name in ("bench.v", "bench_streams.v"))


@dataclass(frozen=True)
class Icarus(Simulator):
    """The `iverilog` and `vvp` on the search path."""

    def __post_init__(self) -> None:
        if shutil.which("iverilog") is None or shutil.which("vvp") is None:
            raise ImportError("Icarus Verilog is not installed; install iverilog, or use CXXRTL")
        find_yosys()

    @cached_property
    def version(self) -> str:  # type: ignore[override]  # derived, so read-only
        said = subprocess.run(["iverilog", "-V"], capture_output=True, text=True).stdout
        found = re.search(r"version (\S+)", said)
        return f"Icarus Verilog {found[1] if found else 'of unknown version'}, Verilog of yosys {find_yosys().version}"

    @property
    def inputs(self) -> str:
        return BENCH + STREAMS

    def make(self, design: Design, folder: Path) -> tuple[str, ...]:
        (folder / "circuit.v").write_text(design.verilog)
        (folder / "bench.v").write_text(_bench(design))
        made = subprocess.run(
            ["iverilog", "-g2005", "-o", "program", "-s", "bench", "bench.v", "circuit.v"],
            cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        )  # fmt: skip
        if made.returncode:
            raise SimulatorError(f"{self.version} refused the circuit: {(made.stderr or made.stdout).splitlines()[0]}")
        return ("vvp", "-n", "{folder}/program")


def _bench(design: Design) -> str:
    """The test bench of this circuit: `bench.v` with its ports filled in."""
    inputs, outputs = design.inputs, design.outputs
    ports = [f".{name}({wires})" for name, wires in {**_wires(inputs, "in"), **_wires(outputs, "out")}.items()]
    if design.is_clocked:
        ports.append(".clk(clk)")
    holes = []
    for port in outputs.ports:
        low = WORD * outputs.first[port.name]
        if port.bits % WORD:
            holes.append(f"assign out[{low + WORD * port.words - 1}:{low + port.bits}] = 0;")
    takes, gives = design.streams
    filled = {
        "IN_WORDS": str(inputs.words), "OUT_WORDS": str(outputs.words), "CLOCKED": str(int(design.is_clocked)),
        "CIRCUIT": f"{design.name} circuit({', '.join(ports)});", "HOLES": "\n  ".join(holes),
    }  # fmt: skip
    sources = [_source(design, name) for name in takes]
    for part in ("DECLARE", "OPEN", "OFFER", "TAKE"):
        filled[part] = "\n      ".join(source[part] for source in sources)
    filled["STREAM_TASK"], filled["STREAM_CALL"] = "", ""
    if gives:
        filled["STREAM_TASK"] = _fill(STREAMS, filled | _sink(design, gives[0]))
        filled["STREAM_CALL"] = "else streams;"
    return _fill(BENCH, filled)


def _fill(text: str, parts: dict[str, str]) -> str:
    return re.sub(r"`(\w+)`", lambda found: parts[found[1]], text)


def _wires(row: Row, name: str) -> dict[str, str]:
    """The part of a row that each port is."""
    firsts = {port.name: WORD * row.first[port.name] for port in row.ports}
    return {port.name: f"{name}[{firsts[port.name] + port.bits - 1}:{firsts[port.name]}]" for port in row.ports}


def _source(design: Design, name: str) -> dict[str, str]:
    """Statements for one stream that the circuit takes."""
    wires, words = _wires(design.inputs, "in"), _words(design.inputs, f"{name}_tdata")
    width = next(port.bits for port in design.inputs.ports if port.name == f"{name}_tdata")
    beat, left, offered = f"{name}_beat", f"{name}_left", f"{name}_offered"
    following = f'if ({left} != 0) {name}_read = $fscanf({name}_file, "%h", {beat}); else {beat} = 0;'
    offer = [
        "draw(from_sources, is_waiting);",
        f"{offered} = {left} != 0 && ({offered} || !is_waiting);",
        f"{wires[f'{name}_tvalid']} = {offered};",
        f"{wires[f'{name}_tdata']} = {beat}[{width - 1}:0] ^ {{{width}{{!{offered}}}}};",
    ]
    if f"{name}_tlast" in wires:
        offer.append(f"{wires[f'{name}_tlast']} = {beat}[{WORD * words}] ^ !{offered};")
    ready = _wires(design.outputs, "out")[f"{name}_tready"]
    take = f"{left} = {left} - 1; {offered} = 0; {following}"
    registers = f"reg [{WORD * (words + 1) - 1}:0] {beat}; reg [31:0] {left}; reg {offered};"
    return {
        "DECLARE": f"{registers} integer {name}_file, {name}_read;",
        "OPEN": f'{left} = next_number(0); {offered} = 0; {name}_file = $fopen("{name}.hex", "r"); {following}',
        "OFFER": " ".join(offer),
        "TAKE": f"if ({offered} && {ready}) begin {take} end",
    }


def _sink(design: Design, name: str) -> dict[str, str]:
    """Wires of the stream that the circuit gives."""
    wires, words = _wires(design.outputs, "out"), _words(design.outputs, f"{name}_tdata")
    low = WORD * design.outputs.first[f"{name}_tdata"]
    last = wires.get(f"{name}_tlast", "1'b0")
    return {
        "READY": _wires(design.inputs, "in")[f"{name}_tready"],
        "GIVE": wires[f"{name}_tvalid"],
        "DATA": f"{{31'b0, {last}, out[{low + WORD * words - 1}:{low}]}}",
    }


def _words(row: Row, name: str) -> int:
    return next(port.words for port in row.ports if port.name == name)
