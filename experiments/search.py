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
from bitwright.result_search import Gain, SearchResult
from bitwright.search import Machine, Question, search
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
on the searched half of the samples and on the held-out half; 0 where the uniform design itself is the best. Positive
gains of the searched half are in part luck (the best of many); the held-out ones are not. Damages are divergences
of the outputs (`kl`), and for {by_error} errors of layers' outputs.
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
    results = [read_json(path, SearchResult) for path in sorted(RUNS.glob("*/search.json"))]
    named = ", ".join(f"`{text}`" for text in results[0].schemes)
    lines = [HEAD.format(schemes=named, by_error=" and ".join(BY_ERROR)), *_summary(results)]
    for result in results:
        lines += ["", *_section(result)]
    (RESULTS / "search.md").write_text("\n".join(lines) + "\n")


def _summary(results: list[SearchResult]) -> list[str]:
    rows = ["| network | uniform designs | beaten on searched samples | and on held-out ones | mean gain held out | "
            "networks evaluated | rank correlation with damages: metric, noise |",
            "|---|---|---|---|---|---|---|"]  # fmt: skip
    for result in results:
        gains = result.gains
        beaten = [gain for gain in gains if gain.gain > 0]
        both = [gain for gain in beaten if (gain.held_out_gain or 0) > 0]
        kept = [gain.held_out_gain or 0.0 for gain in gains]
        trust = ", ".join("–" if t.correlation is None else f"{t.correlation:.2f}" for t in result.trust)
        rows.append(
            f"| {result.info.task} | {len(gains)} | {len(beaten)} | {len(both)} | "
            f"{notation.signed(sum(kept) / max(len(kept), 1), 2)} | {result.evaluated} | {trust} |"
        )
    return rows


def _section(result: SearchResult) -> list[str]:
    info = result.info
    return [
        f"## {info.task}", "",
        f"{info.metric}, float {notation.decimal(result.float_metric, 2)} {info.metric_unit}; {info.samples} samples; "
        f"{len(result.points)} designs, {result.evaluated} networks evaluated in {result.evaluation_seconds:.0f} s.",
        "", f"| uniform | array | {info.metric_unit or info.metric} | best of no more cost | searched | held out |",
        "|---|---|---|---|---|---|", *(_line(result, gain) for gain in result.gains),
    ]  # fmt: skip


def _line(result: SearchResult, gain: Gain) -> str:
    best = "itself"
    if gain.best is not None:
        point = result.points[gain.best]
        texts = [text for _, text in point.design.layers]
        best = ", ".join(f"`{text}` × {texts.count(text)}" for text in dict.fromkeys(texts))
        best += f" on {point.design.machine.array} ({point.origin})"
    held = notation.DASH if gain.held_out_gain is None else notation.signed(gain.held_out_gain, 2)
    return (
        f"| `{gain.scheme}` | {gain.machine.array} | {notation.decimal(gain.metric, 2)} | {best} | "
        f"{notation.signed(gain.gain, 2)} | {held} |"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="*", default=list(SAMPLES))
    parser.add_argument("--trials", type=int, default=100)
    given = parser.parse_args()
    main(given.tasks, given.trials)
