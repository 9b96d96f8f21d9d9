"""Faults put into generated circuits, and what notices them: results/mutants.md.

    python experiments/mutants.py        # about 2 minutes of one idle core

Mutants are drawn from all single faults of the RTLIL by a fixed seed. Simulation is that of their gates beside integer
arithmetic; mutants that it misses are proved to keep the specification. Some of those that it notices are given to the
solver as well, which must refute them.
"""

from collections import Counter
from pathlib import Path

import numpy as np

from bitwright.cost.mutant_benches import catalogue_benches
from bitwright.cost.mutants import Bench, Trial, prove_harmless, run_trials
from bitwright.rtl.yosys import find_yosys

RESULT = Path(__file__).parent / "results" / "mutants.md"
REFUTED_EACH = 1
"""Noticed mutants of a decoder or element that the solver is asked about."""
QUICK_GOALS = 3


def asked(trials: list[tuple[Bench, Trial]]) -> list[tuple[Bench, Trial]]:
    """The first few noticed ones of each circuit whose specification is proved without many cases."""
    taken: Counter[str] = Counter()
    chosen = []
    for bench, trial in trials:
        is_quick = bench.claim is not None and len(bench.claim.goals) <= QUICK_GOALS
        if trial.is_noticed and is_quick and taken[bench.name] < REFUTED_EACH:
            taken[bench.name] += 1
            chosen.append((bench, trial))
    return chosen


def main() -> None:
    rng = np.random.default_rng(0)
    trials = run_trials(catalogue_benches(rng), rng)
    noticed = Counter((trial.circuit, trial.mutant.kind) for _, trial in trials if trial.is_noticed)
    missed = [(bench, trial) for bench, trial in trials if not trial.is_noticed]
    harmless = Counter(t.circuit for b, t in missed if prove_harmless(b, t.mutant).holds)
    put = asked(trials)
    refuted = Counter(t.circuit for b, t in put if not prove_harmless(b, t.mutant).holds)
    given = Counter(t.circuit for _, t in put)
    circuits = sorted({trial.circuit for _, trial in trials})
    kinds = sorted({trial.mutant.kind for _, trial in trials})
    lines = [
        f"| {name} | " + " | ".join(str(noticed[name, kind]) for kind in kinds)
        + f" | {sum(noticed[name, kind] for kind in kinds)} | {harmless[name]} | "
        + f"{sum(t.circuit == name for _, t in missed) - harmless[name]} | "
        + (f"{refuted[name]} of {given[name]} |" if given[name] else "|")
        for name in circuits
    ]  # fmt: skip
    total, wrong = sum(noticed.values()), len(missed) - sum(harmless.values())
    sums = " | ".join(str(sum(noticed[name, kind] for name in circuits)) for kind in kinds)
    solved = f"{sum(refuted.values())} of {sum(given.values())}"
    lines.append(f"| **all** | {sums} | {total} | {sum(harmless.values())} | {wrong} | {solved} |")
    survivors = "\n".join(
        f"- {trial.circuit}, line {trial.mutant.line}, {trial.mutant.kind}: `{trial.mutant.fault}`"
        for _, trial in missed
    )
    RESULT.write_text(f"""# Mutants of generated circuits

Made by `python experiments/mutants.py` with yosys {find_yosys().version}. {len(trials)} circuits with one fault each;
{total} noticed by simulation beside integer arithmetic, {sum(harmless.values())} missed and proved to keep the
specification (codes that stand for no number and exponents of zero terms may give anything; defaults that every case
overwrites), {wrong} missed and wrong. Of the noticed ones {sum(given.values())} were given to the solver, one of each
decoder and each element of narrow factors; it refuted {sum(refuted.values())}.

| circuit | {" | ".join(kinds)} | noticed | harmless | missed | refuted by proof |
| --- |{" ---: |" * (len(kinds) + 4)}
{chr(10).join(lines)}

Harmless:

{survivors}
""")


if __name__ == "__main__":
    main()
