"""C++ for simulators that compile: the compiler, and what a circuit's driver is told of its ports."""

import functools
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bitwright.simulators.design import WORD, Design
from bitwright.simulators.program import SimulatorError

DRIVER = Path(__file__).with_name("driver.cpp").read_text()

WHERE = "install g++ or clang++, or: pip install ziglang"


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler: the command that starts it, and its version."""

    command: tuple[str, ...]
    version: str

    def run(self, arguments: Sequence[str], folder: Path) -> None:
        """SimulatorError with its first error where it does not end well."""
        done = subprocess.run([*self.command, *arguments], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True)
        if done.returncode:
            said = done.stderr.decode(errors="replace").splitlines()
            error = next((line for line in said if "error" in line), said[-1] if said else "no message")
            raise SimulatorError(f"{self.version} stopped with status {done.returncode}: {error}")


@functools.cache
def find_compiler(named: str | None = None) -> Compiler:
    """The named one, else g++, clang++ or zig's, whichever is there first. ImportError where none is."""
    commands: list[tuple[str, ...]] = [tuple(named.split())] if named else [("g++",), ("clang++",)]
    if not named and importlib.util.find_spec("ziglang") is not None:
        commands.append((sys.executable, "-m", "ziglang", "c++"))
    for command in commands:
        path = shutil.which(command[0])
        if path is not None:
            said = subprocess.run([path, *command[1:], "--version"], capture_output=True, text=True).stdout
            return Compiler((path, *command[1:]), said.splitlines()[0].strip() if said else command[0])
    missing = f"there is no C++ compiler {named!r}" if named else "no C++ compiler was found"
    raise ImportError(f"{missing}; {WHERE}")


def tables(design: Design) -> str:
    """Where the ports lie, for the driver."""
    takes, gives = design.streams
    masks = [
        min((1 << port.bits - WORD * i) - 1, 0xFFFFFFFF) for port in design.inputs.ports for i in range(port.words)
    ]
    none = '{"", 0, 0, 0, 0, -1}'
    sources = [_stream(design, name, is_source=True) for name in takes]
    sink = _stream(design, gives[0], is_source=False) if gives else none
    return f"""#include <cstdint>
#include <cstddef>
#include <vector>
static const size_t IN_WORDS = {design.inputs.words}, OUT_WORDS = {design.outputs.words};
static const bool CLOCKED = {str(design.is_clocked).lower()};
static const uint32_t MASK[] = {{{", ".join(f"{mask:#x}u" for mask in masks or [0])}}};
struct Stream {{ const char *name; int valid, ready, data, words, last; }};
static const std::vector<Stream> SOURCES = {{{", ".join(sources)}}};
static const Stream SINK = {sink};
"""


def _stream(design: Design, name: str, *, is_source: bool) -> str:
    ahead, back = (design.inputs, design.outputs) if is_source else (design.outputs, design.inputs)
    words = next(port.words for port in ahead.ports if port.name == f"{name}_tdata")
    places = [ahead.first[f"{name}_tvalid"], back.first[f"{name}_tready"], ahead.first[f"{name}_tdata"], words]
    return f'{{"{name}", {", ".join(map(str, places))}, {ahead.first.get(f"{name}_tlast", -1)}}}'
