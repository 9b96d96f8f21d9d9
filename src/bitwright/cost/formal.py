"""Proofs that two circuits are equal for all inputs and for ever: yosys' miter and its SAT solver.

Seconds for multipliers of four bits, minutes for eight; `simulate_check.check` tries the inputs of larger ones.
"""

from dataclasses import dataclass

from bitwright.cost.library import Library
from bitwright.cost.synthesis import Synthesis
from bitwright.cost.yosys import LOG, Yosys, YosysError, find_yosys

PREPARE = "hierarchy -auto-top\nproc -norom\nflatten\nopt_clean\n"
"""Tables stay logic: the solver knows no memories."""


@dataclass(frozen=True)
class Proof:
    """What the solver found. `model` is its table of signals in a case where the circuits differ."""

    holds: bool
    tool: str
    model: str | None = None


def prove_equal(
    circuit: str, specification: str, *, latency: int = 0, timeout_s: float = 600.0, yosys: Yosys | None = None
) -> Proof:
    """Whether two RTLIL texts with the same ports have the same outputs.

    `latency` is the clock edges after which outputs count, where both are pipelines; 0 for circuits without registers.
    YosysError where neither a proof nor a counterexample is found in time.
    """
    files = {"gate.il": circuit, "gold.il": specification}
    return _prove(f"read_rtlil gate.il\n{PREPARE}", files, latency, timeout_s, yosys)


def prove_synthesis(
    synthesis: Synthesis,
    library: Library,
    specification: str,
    *,
    latency: int = 0,
    timeout_s: float = 600.0,
    yosys: Yosys | None = None,
) -> Proof:
    """The same of a mapped netlist, whose cells mean what the library's text says."""
    texts = {f"cells{i}.lib": text for i, text in enumerate(library.liberty)}
    cells = "\n".join(f"read_liberty -ignore_miss_func -ignore_miss_data_latch {name}" for name in texts)
    script = f"{cells}\nread_json net.json\nhierarchy -top {synthesis.netlist.name}\n{PREPARE}"
    files = texts | {"net.json": synthesis.json, "gold.il": specification}
    return _prove(script, files, latency, timeout_s, yosys)


def _prove(read_gate: str, files: dict[str, str], latency: int, timeout_s: float, yosys: Yosys | None) -> Proof:
    yosys = yosys or find_yosys()
    induction = f"-tempinduct -seq {latency} -maxsteps {latency + 8} " if latency else ""
    log = yosys.run(
        f"""read_rtlil gold.il
{PREPARE}rename -top gold
design -stash gold
{read_gate}rename -top gate
design -stash gate
design -copy-from gold -as gold gold
design -copy-from gate -as gate gate
async2sync
miter -equiv -flatten -make_outputs gold gate miter
hierarchy -top miter
opt -full
sat {induction}-prove trigger 0 -timeout {timeout_s:.0f} -show-inputs -show-outputs miter
""",
        files=files,
        timeout_s=2.0 * timeout_s,
    )[LOG]
    tool = f"yosys {yosys.version} sat"
    if "SUCCESS!" in log:
        return Proof(True, tool)
    if "model found: FAIL!" in log or "model found for base case: FAIL!" in log:
        return Proof(
            False,
            tool,
            log[log.rindex("  Time Signal Name") if induction else log.rindex("  Signal Name") :].split("\n\n")[0],
        )
    reason = "stopped at its time limit" if "timeout" in log.lower() else "found no induction"
    raise YosysError(f"yosys {yosys.version}: the proof {reason}; give it longer than {timeout_s:g} s, or simulate")
