"""Do mixed designs beat uniform ones of equal cost? `bitwright search` on real networks, no limit but area × delay.

    BITWRIGHT_DATA=<folder> python experiments/search.py [TASK ...] [--trials N]

Writes results/search.md over all tasks that have been run; searches are resumed from runs/search/. Half of the samples
is searched on, the other half is never looked at by a decision: gains there are the claim.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from bitwright.model.zoo import TASKS
from bitwright.report import notation
from bitwright.report.search import verdict
from bitwright.result_search import Gain, SearchResult
from bitwright.search import Machine, Question, search
from bitwright.search.driver import gains
from bitwright.store import read_json

RESULTS = Path(__file__).parent / "results"
RUNS = Path("runs") / "search"

SAMPLES = {"digits": None, "dscnn_kws": 1000, "resnet8": None, "lenet": 1000, "fashion_cnn": 1000,
           "resnet20_jpeg": 1000, "mobilenetv1_vww": None, "mobilenetv2": 80, "minilm_sst2": 40}  # fmt: skip
"""Test samples by task; None is all."""

BY_ERROR = ("mobilenetv2", "minilm_sst2")
"""Large networks, whose layers' damages are errors of their outputs, found in one run; OHQ's masks need many."""

MACHINES = (Machine("16x16"), Machine("32x32"))

HEAD = """# Mixed designs beside uniform ones of equal cost

`python experiments/search.py`. For each network and each uniform design: the best design that `bitwright search` found
among those that take no more area × delay **and** no more energy, on arrays of 16 × 16 and 32 × 32 (generic45, weight
stationary, 128 KB buffers, LPDDR4). Schemes to choose from: {schemes}. The gain is of the metric, to its good side,
on the searched half of the samples and on the held-out half; 0 where the uniform design itself is the best. The last
two columns are the same of the best mixed design, of several schemes: below 0 where it loses to the uniform one, –
where no mixed design takes as little. Positive gains of the searched half are in part luck (the best of many); the
held-out ones are not. Damages are divergences of the outputs (`kl`), and for {by_error} errors of layers' outputs.
"""


def main(names: list[str], trials: int) -> None:
    torch.set_num_threads(1)
    for name in names:
        question = Question(machines=MACHINES, trials=trials, limit=SAMPLES.get(name))
        if name in BY_ERROR:
            question = replace(question, measure="error", strategies=("mixquant", "ant4_8"))
        found = search(TASKS[name], question, folder=RUNS / name, command=f"python experiments/search.py {name}")
        print(f"{name}: {found.evaluated} networks in {found.seconds:.0f} s")
        write()


def write() -> None:
    """The page over every search that is finished."""
    found = [read_json(path, SearchResult) for path in sorted(RUNS.glob("*/search.json"))]
    results = [replace(r, gains=gains(r.points, higher_is_better=r.info.higher_is_better)) for r in found]
    named = ", ".join(f"`{text}`" for text in results[0].schemes)
    lines = [HEAD.format(schemes=named, by_error=" and ".join(BY_ERROR)), *_summary(results)]
    lines += ["", *_ohq(results)]
    for result in results:
        lines += ["", *_section(result)]
    (RESULTS / "search.md").write_text("\n".join(lines) + "\n")


def _summary(results: list[SearchResult]) -> list[str]:
    rows = ["| network | uniform designs | beaten on searched samples | and on held-out ones | mean gain held out | "
            "by mixed designs | equal | lost to, by at most | no mixed one as cheap | "
            "networks evaluated | rank correlation with damages: metric, noise |",
            "|---|---|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for result in results:
        found = result.gains
        beaten = [gain for gain in found if gain.gain > 0]
        both = [gain for gain in beaten if (gain.held_out_gain or 0) > 0]
        kept = [gain.held_out_gain or 0.0 for gain in found]
        mixed = [gain.mixed_gain for gain in found if gain.mixed_gain is not None]
        lost = [-gain for gain in mixed if gain < 0]
        by = f"{len(lost)}, {notation.decimal(max(lost), 2)}" if lost else "0"
        trust = ", ".join("–" if t.correlation is None else notation.decimal(t.correlation, 2) for t in result.trust)
        rows.append(
            f"| {result.info.task} | {len(found)} | {len(beaten)} | {len(both)} | "
            f"{notation.signed(sum(kept) / max(len(kept), 1), 2)} | {sum(gain > 0 for gain in mixed)} | "
            f"{mixed.count(0.0)} | {by} | {len(found) - len(mixed)} | {result.evaluated} | {trust} |"
        )
    return rows


def _ohq(results: list[SearchResult]) -> list[str]:
    """Its designs beside eight bits everywhere on the same array."""
    rows = [
        "## OHQ beside `integer(8, 8)`",
        "",
        "What OHQ's procedure chose of these schemes, beside `integer(8, 8)` on the same array. Its paper has 15 to "
        "30 % less latency on an FPGA; here four bits are as fast as eight where memory does not bind.",
        "",
        "| network | less delay | energy | metric, searched | held out |",
        "|---|---|---|---|---|",
    ]
    for result in results:
        for point in result.points:
            if point.origin != "ohq" or point.figures is None:
                continue
            same = [p for p in result.points if p.design.machine == point.design.machine and p.figures is not None]
            eight = next(p for p in same if p.design.schemes == ("integer(8, 8)",))
            own, other, figures = point.known_costs, eight.known_costs, eight.figures
            found = point.figures
            more = (found.metric - figures.metric, found.held_out_metric - figures.held_out_metric)
            rows.append(
                f"| {result.info.task} | {notation.decimal(100 * (1 - own.delay_ms / other.delay_ms), 1)} % | "
                f"× {notation.decimal(own.energy_uj / other.energy_uj, 2)} | "
                f"{' | '.join(notation.signed(value, 2) for value in more)} |"
            )
    return rows


def _section(result: SearchResult) -> list[str]:
    info = result.info
    return [
        f"## {info.task}", "",
        f"{info.metric}, float {notation.decimal(result.float_metric, 2)} {info.metric_unit}; {info.samples} samples; "
        f"{len(result.points)} designs, {result.evaluated} networks evaluated in {result.evaluation_seconds:.0f} s.",
        "", verdict(result), "",
        f"| uniform | array | {info.metric_unit or info.metric} | best of no more cost | searched | held out | mixed | "
        "held out |", "|---|---|---|---|---|---|---|---|", *(_line(result, gain) for gain in result.gains),
    ]  # fmt: skip


def _line(result: SearchResult, gain: Gain) -> str:
    best = "itself"
    if gain.best is not None:
        point = result.points[gain.best]
        texts = [text for _, text in point.design.layers]
        best = ", ".join(f"`{text}` × {texts.count(text)}" for text in dict.fromkeys(texts))
        best += f" on {point.design.machine.array} ({point.origin})"
    more = (gain.gain, gain.held_out_gain, gain.mixed_gain, gain.mixed_held_out_gain)
    cells = " | ".join(notation.DASH if value is None else notation.signed(value, 2) for value in more)
    return f"| `{gain.scheme}` | {gain.machine.array} | {notation.decimal(gain.metric, 2)} | {best} | {cells} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="*", default=list(SAMPLES))
    parser.add_argument("--trials", type=int, default=100)
    given = parser.parse_args()
    main(given.tasks, given.trials)
