"""Circuits as text: RTLIL by Amaranth alone, Verilog through yosys.

Registers have no reset: a pipeline forgets what it held, and a reset costs area at every register. They start at zero
in simulation and on an FPGA.
"""

import hashlib
import re

from amaranth.back import rtlil as back
from amaranth.hdl import ClockDomain, Fragment, Value, ValueCastable
from amaranth.hdl._ir import PortDirection
from amaranth.lib.wiring import Component, In

from bitwright.rtl.unit import Library
from bitwright.rtl.yosys import find_yosys


def rtlil(component: Component, name: str) -> str:
    """RTLIL text of a component; its ports are those of its signature, and `clk` where it has registers.

    Units within it become modules that begin with its name, one for all that are equal.
    """
    library = Library(name)
    text = _convert(component, name, library)
    written: set[str] = set()
    while left := [n for n in library.units if n not in written]:  # a unit may hold further ones
        for module in left:
            written.add(module)
            text += _convert(library.units[module], module, library).replace("attribute \\top 1\n", "")
    return text


def _convert(component: Component, name: str, library: Library) -> str:
    ports: dict[str, tuple[Value, PortDirection]] = {}
    for path, member, value in component.signature.flatten(component):
        wire = value.as_value() if isinstance(value, ValueCastable) else value
        assert isinstance(wire, Value)
        direction = PortDirection.Input if member.flow is In else PortDirection.Output
        ports["__".join(map(str, path))] = (wire, direction)
    fragment = Fragment.get(component, library)
    text, _ = back.convert_fragment(
        fragment, ports, name, emit_src=False, missing_domain=lambda domain: ClockDomain(domain, reset_less=True)
    )
    return text.replace(f"\\{name}.", f"\\{name}_")  # modules inside: names that Verilog need not escape


def digest(text: str) -> str:
    """SHA-256 of RTLIL, whatever numbers the generator gave to unnamed wires, and without remarks about sources."""
    lines = (line.strip() for line in text.splitlines())
    kept = (line for line in lines if line and not line.startswith(("#", "attribute \\src ", "attribute \\generator ")))
    numbers: dict[str, str] = {}
    renamed = re.sub(r"\$\d+", lambda found: numbers.setdefault(found[0], f"${len(numbers) + 1}"), "\n".join(kept))
    return hashlib.sha256(renamed.encode()).hexdigest()


def verilog(component: Component, name: str) -> str:
    """Verilog-2001 text of a component. The first call on a machine compiles yosys, which takes a minute or two."""
    return to_verilog(rtlil(component, name))


def to_verilog(text: str) -> str:
    """The same modules in Verilog-2001: unreachable logic and unused bits left out, equal logic once."""
    script = "read_rtlil in.il; proc -noopt; opt_merge; wreduce; opt_clean -purge; write_verilog -noattr out.v"
    made = find_yosys().run(script, files={"in.il": _readable(text)}, outputs=["out.v"])["out.v"]
    return made.partition("*/")[2].lstrip("\n") if made.startswith("/*") else made


def _readable(text: str) -> str:
    """Names without dots, and wires called after a port or another wire, Amaranth's `\\name$7`, as `\\name_inner`."""
    text = re.sub(r"\\[A-Za-z_][\w.$]*", lambda found: found[0].replace(".", "_"), text)
    taken, names = set(re.findall(r"\\\S+", text)), dict[str, str]()

    def name(found: re.Match[str]) -> str:
        if found[0] not in names:
            tries = (f"{found[1]}_inner{i}" for i in ["", *map(str, range(2, len(taken) + 2))])
            names[found[0]] = next(free for free in tries if free not in taken)
            taken.add(names[found[0]])
        return names[found[0]]

    return re.sub(r"(\\[A-Za-z_]\w*)\$\d+(?!\S)", name, text)
