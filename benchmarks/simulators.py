"""How fast simulators of others run an engine, and how long they take to build it: cycles a second beside Amaranth's.

    OMP_NUM_THREADS=1 python benchmarks/simulators.py [PATH OF verilator_bin]

Processor seconds, of the children too, as machines have other work. All give the same beats in the same cycles, or the
script stops. Those that are not installed are left out.
"""

import resource
import sys
import tempfile
import time
from pathlib import Path

from bitwright.config import from_text
from bitwright.rtl.engine_image import pack_layer
from bitwright.simulators import Cxxrtl, Icarus, Verilator, design
from bitwright.simulators.product import engine_for, run
from bitwright.testing.rtl_engine import layer
from bitwright.testing.rtl_engine import run as run_in_amaranth

SCHEME, SIZES = "integer(8, 8)", (4, 8, 16)
CYCLES = {"Amaranth": 400, "Icarus": 2_000, "Cxxrtl": 40_000, "Verilator": 40_000}
"""Cycles of a run, about."""


def main() -> None:
    print(f"{SCHEME}, engines with AXI4-Stream ports, streams that do not pause; processor seconds")
    print("size   simulator  build s  cycles   cycles/s")
    for size in SIZES:
        engine = engine_for(from_text(SCHEME), size, size, k=4 * size)
        circuit = design(engine.again(), "engine")
        images = {name: image_of(engine, size, cycles) for name, cycles in CYCLES.items()}
        started = seconds()
        cycles = run_in_amaranth(images["Amaranth"], limit=10**6).cycles
        show(size, "Amaranth", 0.0, cycles, seconds() - started)
        for kind in (Icarus, Cxxrtl, Verilator):
            try:
                simulator = Verilator(program=sys.argv[1]) if kind is Verilator and sys.argv[1:] else kind()
            except ImportError as missing:
                print(f"{size}x{size}: {missing}")
                continue
            with tempfile.TemporaryDirectory() as folder:
                started = seconds()
                program = simulator.build(circuit, Path(folder))
                built = seconds() - started
                check, _ = run(program, [images["Amaranth"]])
                assert check.cycles == cycles, "every simulator counts the same cycles"
                started = seconds()
                ran, _ = run(program, [images[kind.__name__]])
                show(size, kind.__name__, built, ran.cycles, seconds() - started)


def image_of(engine, size: int, cycles: int):
    """A product of about as many cycles on this engine: four folds, and as many vectors as it takes."""
    vectors = max(cycles // 4, 1)
    case = layer(from_text(SCHEME), vectors, size, 4 * size)
    return pack_layer(engine, case.x, case.w)


def seconds() -> float:
    """Processor seconds of this process and of those that it waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def show(size: int, name: str, built: float, cycles: int, took: float) -> None:
    print(f"{f'{size}x{size}':6} {name:10} {built:7.1f} {cycles:7} {cycles / took:10,.0f}", flush=True)


if __name__ == "__main__":
    main()
