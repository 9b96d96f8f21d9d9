"""Generated circuits, run clock by clock by programs that others wrote: CXXRTL, Icarus Verilog, Verilator.

One signature for all: `Simulator.build` makes a `Program` of a `Design`; `Program.steps` gives it values cycle by
cycle, `Program.streams` connects its AXI4-Stream ports and lets them pause at random.
"""

from bitwright.simulators.cxxrtl import Cxxrtl
from bitwright.simulators.design import Design, design
from bitwright.simulators.icarus import Icarus
from bitwright.simulators.program import Pauses, Program, Simulator, SimulatorError, Streamed
from bitwright.simulators.verilator import Verilator

__all__ = [
    "Cxxrtl",
    "Design",
    "Icarus",
    "Pauses",
    "Program",
    "Simulator",
    "SimulatorError",
    "Streamed",
    "Verilator",
    "design",
]
