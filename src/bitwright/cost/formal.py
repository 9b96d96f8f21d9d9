"""Proofs for all inputs and for ever by yosys' SAT solver: two circuits are equal, or one keeps its specification.

Seconds for multipliers of four bits. Those of eight are split into cases of the weight, each a product with a constant
in all but its lowest bits; `simulate_check.check` tries the inputs of larger ones.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from bitwright.cost.library import Library
from bitwright.cost.synthesis import Synthesis
from bitwright.rtl.yosys import LOG, Yosys, YosysError, find_yosys

PREPARE = "hierarchy -auto-top\nproc -norom\nflatten\nopt_clean\n"
"""Tables stay logic: the solver knows no memories."""

ONE_CLOCK = "-seq 2 -prove-skip 1"
"""Of `sat`: the step after any state of the registers."""


@dataclass(frozen=True)
class Proof:
    """What the solver found. `model` is its table of signals in a case where the circuit is wrong."""

    holds: bool
    tool: str
    model: str | None = None
    cases: int = 1
    """Runs of the solver that together cover all inputs."""


@dataclass(frozen=True)
class Dut:
    """A circuit as yosys reads it: commands, and the files that they name."""

    script: str
    files: dict[str, str]

    @classmethod
    def of_rtlil(cls, text: str) -> "Dut":
        return cls("read_rtlil dut.il\n", {"dut.il": text})

    @classmethod
    def of_netlist(cls, synthesis: Synthesis, library: Library) -> "Dut":
        """A mapped netlist, whose cells mean what the library's text says."""
        texts = {f"cells{i}.lib": text for i, text in enumerate(library.liberty)}
        cells = "\n".join(f"read_liberty -ignore_miss_func -ignore_miss_data_latch {name}" for name in texts)
        return cls(f"{cells}\nread_json net.json\n", texts | {"net.json": synthesis.json})


@dataclass(frozen=True)
class Goal:
    """A claim of a module `check`: the output stays zero; `settings` are further options of yosys' `sat`."""

    output: str
    settings: str = ""


def prove_check(
    check: str, dut: Dut, goals: Iterable[Goal], *, timeout_s: float = 600.0, yosys: Yosys | None = None
) -> Proof:
    """Whether all goals of a Verilog module `check` hold for the circuit that it is built around.

    The registers begin in any state, whatever their start. YosysError where all goals together take longer; the
    process is stopped then, as the solver's own limit has no effect in WebAssembly.
    """
    wanted = list(goals)
    if not wanted:
        raise ValueError("no goal found, and nothing proved of a circuit is no proof; give at least one")
    yosys = yosys or find_yosys()
    sat = "\n".join(f"sat {goal.settings} -prove {goal.output} 0 -show-inputs -show-outputs check" for goal in wanted)
    log = yosys.run(
        f"""{dut.script}setattr -mod -unset top A:top
read_verilog check.v
hierarchy -check -top check
proc -norom
flatten
async2sync
setattr -unset init w:*
opt -full
{sat}
""",
        files=dut.files | {"check.v": check},
        timeout_s=timeout_s,
    )[LOG]
    tool = f"yosys {yosys.version} sat"
    if "model found: FAIL!" in log:
        return Proof(False, tool, _model(log), len(wanted))
    if log.count("no model found: SUCCESS!") == len(wanted):
        return Proof(True, tool, cases=len(wanted))
    raise YosysError(f"yosys {yosys.version}: a goal has neither a proof nor a counterexample; see its log")


def prove_equal(
    circuit: str, specification: str, *, latency: int = 0, timeout_s: float = 600.0, yosys: Yosys | None = None
) -> Proof:
    """Whether two RTLIL texts with the same ports have the same outputs.

    `latency` is the clock edges after which outputs count, where both are pipelines; 0 for circuits without registers.
    YosysError where neither a proof nor a counterexample is found in time.
    """
    return _prove(Dut.of_rtlil(circuit), specification, latency, timeout_s, yosys)


def prove_synthesis(
    synthesis: Synthesis,
    library: Library,
    specification: str,
    *,
    latency: int = 0,
    timeout_s: float = 600.0,
    yosys: Yosys | None = None,
) -> Proof:
    """The same of a mapped netlist."""
    dut = Dut.of_netlist(synthesis, library)
    top = f"{dut.script}hierarchy -top {synthesis.netlist.name}\n"
    return _prove(Dut(top, dut.files), specification, latency, timeout_s, yosys)


def _prove(dut: Dut, specification: str, latency: int, timeout_s: float, yosys: Yosys | None) -> Proof:
    yosys = yosys or find_yosys()
    induction = f"-tempinduct -seq {latency} -maxsteps {latency + 8} " if latency else ""
    log = yosys.run(
        f"""read_rtlil gold.il
{PREPARE}rename -top gold
design -stash gold
{dut.script}{PREPARE}rename -top gate
design -stash gate
design -copy-from gold -as gold gold
design -copy-from gate -as gate gate
async2sync
miter -equiv -flatten -make_outputs gold gate miter
hierarchy -top miter
opt -full
sat {induction}-prove trigger 0 -timeout {timeout_s:.0f} -show-inputs -show-outputs miter
""",
        files=dut.files | {"gold.il": specification},
        timeout_s=2.0 * timeout_s,
    )[LOG]
    tool = f"yosys {yosys.version} sat"
    if "SUCCESS!" in log:
        return Proof(True, tool)
    if "model found: FAIL!" in log or "model found for base case: FAIL!" in log:
        return Proof(False, tool, _model(log))
    raise YosysError(_open(yosys, log, timeout_s))


def _model(log: str) -> str:
    """The last table of signals in a log."""
    start = max(log.rfind("  Time Signal Name"), log.rfind("  Signal Name"))
    return log[start:].split("\n\n")[0]


def _open(yosys: Yosys, log: str, timeout_s: float) -> str:
    reason = "stopped at its time limit" if "timeout" in log.lower() else "found no induction"
    return f"yosys {yosys.version}: the proof {reason}; give it longer than {timeout_s:g} s, or simulate"
