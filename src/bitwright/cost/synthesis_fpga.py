"""What a circuit takes on an FPGA, in look-up tables, flip-flops and multiplier blocks: yosys' count, not placed."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from bitwright.cost.netlist import count_cells
from bitwright.cost.synthesis import DESIGN, NET, run_cached
from bitwright.rtl.yosys import Yosys, find_yosys


@dataclass(frozen=True)
class Fpga:
    """A family: the commands that map to it, and the names of its cells as patterns."""

    name: str
    commands: str
    luts: tuple[str, ...]
    flip_flops: tuple[str, ...]
    carries: tuple[str, ...]
    blocks: tuple[str, ...]
    memories: tuple[str, ...]

    def without_blocks(self) -> "Fpga":
        """The family whose multipliers are look-up tables: made by `booth`, as `synth` for cells does."""
        return replace(self, name=f"{self.name} without blocks", commands=f"proc\nflatten\nbooth\n{self.commands}")


ICE40 = Fpga("ice40", "synth_ice40 -dsp", ("SB_LUT4",), ("SB_DFF*",), ("SB_CARRY",), ("SB_MAC16",), ("SB_RAM40*",))
ECP5 = Fpga(
    "ecp5", "synth_ecp5 -noabc9", ("LUT4",), ("TRELLIS_FF",), ("CCU2C",), ("MULT18X18D", "ALU54B"),
    ("DP16KD", "PDPW16KD"),
)  # fmt: skip
XILINX_7 = Fpga(
    "xc7", "synth_xilinx -family xc7 -flatten -noiopad -noclkbuf", ("LUT[1-6]",), ("FD*",), ("CARRY4",), ("DSP48E1",),
    ("RAMB18*", "RAMB36*"),
)  # fmt: skip


@dataclass(frozen=True)
class FpgaReport:
    """Cells of each sort, as the family has them: a carry cell serves 1 bit (ice40), 2 (ecp5) or 4 (xc7)."""

    family: str
    luts: int
    flip_flops: int
    carries: int
    blocks: int
    memories: int
    tool: str


def count_fpga(rtlil: str, family: Fpga, *, cache: Path | None = None, yosys: Yosys | None = None) -> FpgaReport:
    """The circuit mapped to a family."""
    yosys = yosys or find_yosys()
    script = f"read_rtlil {DESIGN}\nhierarchy -auto-top\n{family.commands}\nwrite_json {NET}\n"
    stored = run_cached(rtlil, script, {}, cache, yosys)
    count = functools.partial(_count, count_cells(stored.netlist))
    return FpgaReport(
        family.name,
        count(family.luts),
        count(family.flip_flops),
        count(family.carries),
        count(family.blocks),
        count(family.memories),
        stored.tool,
    )


def _count(cells: Mapping[str, int], patterns: tuple[str, ...]) -> int:
    return sum(number for kind, number in cells.items() if any(fnmatchcase(kind, pattern) for pattern in patterns))
