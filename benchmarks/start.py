"""How long commands and imports take to start: each in a process of its own, beside that of an empty Python program.

python benchmarks/start.py
"""

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

from timing import Case, Group, main

COMMANDS = {
    "bitwright --help": "--help",
    "bitwright compare --help": "compare --help",
    "bitwright cost --help": "cost --help",
    "bitwright schemes": "schemes",
}
IMPORTS = ("numpy", "bitwright.formats", "torch", "bitwright.kernels", "brevitas", "torchao", "compressed_tensors")
COMMAND = Path(sys.executable).with_name("bitwright")


def program(*command: str) -> Callable[[], object]:
    return lambda: subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)


def python(source: str) -> Callable[[], object]:
    return program(sys.executable, "-c", source)


def groups(arguments: argparse.Namespace) -> Iterator[Group]:
    empty = Case("an empty program", python(""))
    commands = [Case(name, program(str(COMMAND), *options.split())) for name, options in COMMANDS.items()]
    imports = [Case(f"import {name}", python(f"import {name}")) for name in IMPORTS if find_spec(name)]
    yield Group("start of a process", empty, [*commands, *imports])


if __name__ == "__main__":
    main(__doc__ or "", groups, by_wall=True, seconds=1.0, few=2)  # some imports take seconds each
