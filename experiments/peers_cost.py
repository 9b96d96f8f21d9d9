"""Cycles and energies of the same layers here, in SCALE-Sim and in ZigZag: results/peers_cost.md.

    python experiments/peers_cost.py --scalesim PYTHON --zigzag PYTHON

Each peer has an interpreter of its own, as their requirements do not fit ours: scalesim 3.0.0 with "numpy<2",
"pandas<3" and "numba<0.62", zigzag-dse 3.9.1 with six. Either may be left out. SCALE-Sim counts cycles of an array of
32 x 32 without waiting for memory; ZigZag searches a mapping of the layer on its own `tpu_like`, which has as many
multipliers, 2 MB of SRAM, and moves 64 bits a cycle to DRAM.
"""

import argparse
import csv
import json
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bitwright.cost.accelerator import Accelerator
from bitwright.cost.estimate import Job, estimate
from bitwright.cost.hardware import accelerator
from bitwright.cost.mac import published_mac
from bitwright.cost.schedule import Cell, Widths
from bitwright.gemm import Gemm, LayerGemm

RESULT = Path(__file__).parent / "results" / "peers_cost.md"
ROWS = COLUMNS = 32
FLOWS = ("ws", "os", "is")
LAYERS = (
    LayerGemm("resnet8, first convolution", Gemm(m=1024, k=27, n=16)),
    LayerGemm("resnet8, second stage", Gemm(m=256, k=288, n=32)),
    LayerGemm("resnet8, third stage", Gemm(m=64, k=576, n=64)),
    LayerGemm("transformer of width 256, query", Gemm(m=64, k=256, n=256)),
    LayerGemm("transformer of width 256, up", Gemm(m=64, k=256, n=1024)),
)
DRAM_BITS = 64
WIDTHS = Widths(weight=8.0, input=8.0, accumulator=16, output=8.0)
"""As `tpu_like` has them: its sums have 16 bits."""

CONFIG = """[general]
run_name = run
[run_presets]
InterfaceBandwidth = CALC
UseRamulatorTrace = False
[architecture_presets]
ArrayHeight = {rows}
ArrayWidth = {columns}
ifmapsramszkB = 128
filtersramszkB = 128
ofmapsramszkB = 128
IfmapOffset = 0
FilterOffset = 10000000
OfmapOffset = 20000000
Dataflow = {flow}
Bandwidth = 100
ReadRequestBuffer = 64
WriteRequestBuffer = 64
MemoryBanks = 1
[layout]
IfmapCustomLayout = False
FilterCustomLayout = False
IfmapSRAMBankBandwidth = 10
IfmapSRAMBankNum = 10
IfmapSRAMBankPort = 2
FilterSRAMBankBandwidth = 10
FilterSRAMBankNum = 10
FilterSRAMBankPort = 2
[sparsity]
SparsitySupport = False
SparseRep = ellpack_block
OptimizedMapping = False
BlockSize = 8
RandomNumberGeneratorSeed = 40
"""

ZIGZAG = """
import json, os, sys, zigzag
from zigzag.api import get_hardware_performance_zigzag
folder = os.path.dirname(zigzag.__file__) + "/inputs/"
found = []
for i, (m, k, n) in enumerate(json.loads(sys.argv[1])):
    layer = {"id": 0, "name": "layer", "operator_type": "Gemm", "equation": "O[b][k]+=W[k][c]*I[b][c]",
             "loop_dims": ["B", "K", "C"], "loop_sizes": [m, n, k],
             "operand_precision": {"W": 8, "I": 8, "O": 16, "O_final": 8}, "operand_source": {"W": 0, "I": 0}}
    pj, cycles, _ = get_hardware_performance_zigzag(
        [layer], folder + "hardware/tpu_like.yaml", folder + "mapping/tpu_like.yaml", opt="latency",
        dump_folder=f"out{i}", loma_show_progress_bar=False)
    found.append([float(cycles), float(pj)])
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Figure:
    """Of one layer."""

    cycles: float
    energy_pj: float = 0.0


def scale_sim(python: str, flow: str) -> list[Figure]:
    """Cycles that it reports: the index of the last one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = "".join(f"g{i},{g.m},{g.n},{g.k},1:1,\n" for i, g in enumerate(layer.gemm for layer in LAYERS))
        (folder / "topology.csv").write_text(f"Layer,M,N,K,Sp,\n{rows}")
        layout = "".join(f"g{i}{',1' * 30},\n" for i in range(len(LAYERS)))
        (folder / "layout.csv").write_text(f"Layer{',a' * 30},\n{layout}")
        (folder / "scale.cfg").write_text(CONFIG.format(rows=ROWS, columns=COLUMNS, flow=flow))
        files = ["-t", "topology.csv", "-l", "layout.csv", "-c", "scale.cfg", "-p", "out", "-i", "gemm"]
        _run([python, "-m", "scalesim.scale", *files], folder)
        with (folder / "out/run/COMPUTE_REPORT.csv").open() as file:
            found = list(csv.reader(file))
    column = [name.strip() for name in found[0]].index("Total Cycles")
    return [Figure(float(row[column])) for row in found[1:]]


def zigzag(python: str) -> list[Figure]:
    """Its best mapping for speed."""
    sizes = [[layer.gemm.m, layer.gemm.k, layer.gemm.n] for layer in LAYERS]
    with tempfile.TemporaryDirectory() as folder:
        said = _run([python, "-c", ZIGZAG, json.dumps(sizes)], Path(folder))
    return [Figure(*found) for found in json.loads(said.splitlines()[-1])]


def ours(hardware: Accelerator) -> list[Figure]:
    cost = estimate(hardware, published_mac(8, 8, 16), [Job(layer, WIDTHS) for layer in LAYERS])
    return [Figure(c.cycles, c.energy_pj.value) for c in cost.layers]


def without_memory(hardware: Accelerator) -> list[Figure]:
    """Every operand at hand when it is needed, so nothing is cut for the buffers' sake."""
    array = hardware.array(Cell())
    return [Figure(hardware.dataflow.compute_cycles(array, layer.gemm)) for layer in LAYERS]


def page(scale: dict[str, list[Figure]], other: list[Figure] | None) -> str:
    lines = [
        "# Beside SCALE-Sim and ZigZag", "",
        "Made by `python experiments/peers_cost.py --scalesim PYTHON --zigzag PYTHON`.", "",
    ]  # fmt: skip
    if scale:
        lines += [
            "## SCALE-Sim 3.0.0", "",
            f"Cycles of an array of {ROWS} x {COLUMNS} that never waits for memory. SCALE-Sim reports the index of the "
            "last cycle, so one less.", "",
            "| layer | m, k, n | " + " | ".join(f"{f}, here | {f}, there" for f in scale) + " |",
            "| --- | --- |" + " ---: |" * 2 * len(scale),
        ]  # fmt: skip
        own = {flow: without_memory(accelerator(f"{ROWS}x{COLUMNS}", flow)) for flow in scale}
        for i, layer in enumerate(LAYERS):
            cells = " | ".join(f"{own[f][i].cycles:,.0f} | {scale[f][i].cycles:,.0f}" for f in scale)
            lines.append(f"| {layer.name} | {_sizes(layer)} | {cells} |")
        equal = sum(own[f][i].cycles == scale[f][i].cycles + 1 for f in scale for i in range(len(LAYERS)))
        lines += ["", f"{equal} of {len(scale) * len(LAYERS)} differ by exactly that one.", ""]
    if other:
        lines += _zigzag_lines(other)
    return "\n".join(lines).rstrip() + "\n"


def _zigzag_lines(other: Sequence[Figure]) -> list[str]:
    own = ours(accelerator(f"{ROWS}x{COLUMNS}", "ws", "1024,1024,1024", dram_bits=DRAM_BITS))
    lines = [
        "## ZigZag 3.9.1", "",
        f"On its `tpu_like`: weights stationary, 32 x 32, {DRAM_BITS} bits a cycle to DRAM, the mapping that it finds "
        "fastest. Here: weight stationary, buffers of 1 MB each, the same DRAM width, published multipliers. All "
        "layers are bound by DRAM: the fifth column is how long both operands and the outputs take there, each moved "
        "once; where ZigZag takes less, it does not count all of that. Energies come from other tables, so each column "
        "is divided by its first layer.", "",
        "| layer | m, k, n | cycles, here | there | DRAM alone | energy to the first, here | there |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]  # fmt: skip
    for layer, a, b in zip(LAYERS, own, other, strict=True):
        energies = f"{a.energy_pj / own[0].energy_pj:.2f} | {b.energy_pj / other[0].energy_pj:.2f}"
        lines.append(
            f"| {layer.name} | {_sizes(layer)} | {a.cycles:,.0f} | {b.cycles:,.0f} | {_dram_cycles(layer.gemm):,.0f} | "
            f"{energies} |"
        )
    return lines


def _dram_cycles(gemm: Gemm) -> float:
    bits = gemm.k * (gemm.m * WIDTHS.input + gemm.n * WIDTHS.weight) + gemm.m * gemm.n * WIDTHS.output
    return bits / DRAM_BITS


def _sizes(layer: LayerGemm) -> str:
    return f"{layer.gemm.m}, {layer.gemm.k}, {layer.gemm.n}"


def _run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scalesim", help="interpreter that has scalesim")
    parser.add_argument("--zigzag", help="interpreter that has zigzag-dse and six")
    given = parser.parse_args()
    scale = {flow: scale_sim(given.scalesim, flow) for flow in FLOWS} if given.scalesim else {}
    text = page(scale, zigzag(given.zigzag) if given.zigzag else None)
    RESULT.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
