"""Accuracy against accumulator width: the tables results/overflow_*.md.

    BITWRIGHT_DATA=<folder> python experiments/overflow.py [TASK ...]

integer(8, 8) with one accumulator in all layers, evaluated exactly: integer registers from the width that the
certificate proves downwards, float registers from 19 bits. The same as `bitwright overflow TASK`, twice.
"""

import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import torch

from bitwright.model.overflow import BEHAVIOURS, sweep
from bitwright.model.task import Task
from bitwright.model.zoo import TASKS
from bitwright.report import overflow, overflow_page
from bitwright.result import OverflowSweep

HERE = Path(__file__).parent
SCHEME = "integer(8, 8)"
SAMPLES = {"digits": 500, "resnet8": 150}
FLOAT_WIDTHS = range(19, 7, -1)


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    for name in names or SAMPLES:
        found = both(TASKS[name], SAMPLES[name])
        path = HERE / "results" / f"overflow_{name}"
        overflow_page.write_csv(found, path.with_suffix(".csv"))
        overflow_page.write_needed_bits_csv(found, path.with_name(f"{path.name}_needed_bits.csv"))
        path.with_suffix(".md").write_text("\n".join(markdown(name, found)) + "\n")


def both(task: Task, samples: int) -> OverflowSweep:
    """Integer and float registers, each over the widths where they differ."""

    def say(what: str, done: int, total: int) -> None:
        print(f"{task.name}: {what} {done}/{total}", flush=True)

    floats = [name for name, behaviour in BEHAVIOURS.items() if behaviour.is_float]
    integers = [name for name in BEHAVIOURS if name not in floats]
    first = sweep(task, SCHEME, None, integers, samples=samples, progress=say)
    second = sweep(task, SCHEME, FLOAT_WIDTHS, floats, samples=samples, progress=say)
    return replace(first, behaviours=first.behaviours | second.behaviours, points=(*first.points, *second.points))


def markdown(name: str, found: OverflowSweep) -> list[str]:
    """What the register's width does, beside what is proved and what is reached."""
    info = found.info
    reached = max(len(layer.counts) for layer in found.layers)
    unit = f" {info.metric_unit}" if info.metric_unit else ""
    return [
        f"# Narrow accumulators, executed: {name}",
        "",
        textwrap.fill(
            f"`{SCHEME}` with one accumulator in all layers, evaluated exactly on {info.samples} samples (float "
            f"{info.float_metric:.2f}{unit}). {overflow.finding(found).text} Complete sums reach {reached} bits; "
            f"overflows are complete sums that the register changed. Made by `python experiments/overflow.py {name}`.",
            120,
        ),
        "",
        *(f"- {overflow.named(key)}: {meaning}" for key, meaning in found.behaviours.items()),
        "",
        f"{info.metric} in {info.metric_unit}:",
        "",
        *table(*overflow_page.table(found)),
        "",
        "Per layer: what is proved, what is reached, and the share of complete sums, in per cent, that need more bits.",
        "",
        *table(*overflow_page.layer_table(found)),
    ]


def table(headings: list[str], lines: list[list[str]]) -> list[str]:
    """A table of Markdown."""
    rows = [f"| {' | '.join(line)} |" for line in (headings, *lines)]
    return [rows[0], "|" + "---|" * len(headings), *rows[1:]]


if __name__ == "__main__":
    main(sys.argv[1:])
