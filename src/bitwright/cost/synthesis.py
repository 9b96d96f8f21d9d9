"""RTLIL to gates: a netlist of library cells, its area and what it is made of. Yosys does the work.

The flow is the area-optimised mapping of yosys and ABC. `synth -booth` matters: without it a signed multiply-add is
one compressor tree with full sign extension, a third larger. Results are kept by content, so nothing is mapped twice.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bitwright.cost.library import Library
from bitwright.cost.netlist import Netlist, read_netlist
from bitwright.rtl.yosys import Yosys, find_yosys
from bitwright.store import key_of, read_json, write_json

NET, DESIGN = "net.json", "design.il"


@dataclass(frozen=True)
class Flow:
    """How a circuit becomes gates."""

    options: tuple[str, ...] = ("-booth",)
    """Of yosys' `synth`, besides -flatten."""
    target_ps: int = 1800
    """What ABC sizes for; loose targets give the smallest area."""
    output_load_ff: float = 3.0

    def script(self, files: list[str]) -> str:
        """Yosys commands that read `DESIGN` and the library's files and write `NET`."""
        flags = " ".join(f"-liberty {file}" for file in files)
        return f"""read_rtlil {DESIGN}
synth -flatten {" ".join(self.options)}
opt -purge
dfflibmap {flags}
opt
abc {flags} -constr limits.sdc -D {self.target_ps}
setundef -zero
opt_clean -purge
rename -enumerate
write_json {NET}
"""


WIDE_SUMS = Flow(options=("-booth", "-noalumacc"))
"""For units that add many products, which yosys otherwise gathers into one compressor, for minutes to hours."""

GATES_SCRIPT = f"""read_rtlil {DESIGN}
synth -flatten -booth
dfflegalize -cell $_DFF_P_ 01
opt -purge
abc -g simple
setundef -zero
opt_clean -purge
rename -enumerate
write_json {NET}
"""


@dataclass(frozen=True)
class AreaReport:
    """What one circuit takes in one library."""

    name: str
    library: str
    area_um2: float
    area_ge: float
    """In areas of the library's smallest two-input NAND."""
    flip_flops: int
    flip_flop_area_um2: float
    cells: tuple[tuple[str, int], ...]
    """Instances of each cell."""
    tool: str


@dataclass(frozen=True)
class Synthesis:
    """A mapped netlist with its report."""

    netlist: Netlist
    report: AreaReport
    json: str = field(repr=False)
    """The netlist as yosys wrote it."""


@dataclass(frozen=True)
class StoredRun:
    """A run of yosys as it is kept."""

    tool: str
    netlist: str


def synthesize(
    rtlil: str, library: Library, flow: Flow = Flow(), *, cache: Path | None = None, yosys: Yosys | None = None
) -> Synthesis:
    """The circuit in cells of the library. `cache` is a folder of results, such as `user_cache()`; None keeps none."""
    files = {f"cells{i}.lib": text for i, text in enumerate(library.liberty)}
    script = flow.script(list(files))
    limits = {"limits.sdc": f"set_load {flow.output_load_ff:g} [all_outputs]\n"}
    stored = run_cached(rtlil, script, files | limits, cache, yosys)
    netlist = read_netlist(stored.netlist)
    return Synthesis(netlist, area_report(netlist, library, stored.tool), stored.netlist)


def synthesize_gates(rtlil: str, *, cache: Path | None = None, yosys: Yosys | None = None) -> Netlist:
    """The circuit in the gates of `yosys_gates()`, before any library."""
    return read_netlist(run_cached(rtlil, GATES_SCRIPT, {}, cache, yosys).netlist)


def area_report(netlist: Netlist, library: Library, tool: str) -> AreaReport:
    """Sums over the cells of a mapped netlist."""
    counts = netlist.count()
    areas = {kind: library.cell(kind).area_um2 * count for kind, count in counts.items()}
    registers = {kind: count for kind, count in counts.items() if library.cell(kind).flip_flop}
    area = sum(areas.values(), 0.0)
    return AreaReport(
        name=netlist.name,
        library=library.name,
        area_um2=area,
        area_ge=area / library.gate_area_um2,
        flip_flops=sum(registers.values()),
        flip_flop_area_um2=sum((areas[kind] for kind in registers), 0.0),
        cells=tuple(counts.items()),
        tool=tool,
    )


def user_cache() -> Path:
    """Where the command line keeps results of synthesis."""
    return Path.home() / ".cache" / "bitwright" / "synthesis"


def run_cached(
    rtlil: str, script: str, files: Mapping[str, str], cache: Path | None, yosys: Yosys | None = None
) -> StoredRun:
    """What a script made of a circuit, computed once for each circuit, script, files and release of yosys."""
    yosys = yosys or find_yosys()
    contents = [hashlib.sha256(text.encode()).hexdigest() for text in (rtlil, script, *files.values())]
    path = cache / f"{key_of(contents, yosys.version)}.json" if cache else None
    if path and path.exists():
        return read_json(path, StoredRun)
    found = yosys.run(script, files={**files, DESIGN: rtlil}, outputs=[NET])
    stored = StoredRun(f"yosys {yosys.version}", found[NET])
    if path:
        write_json(path, stored)
    return stored
