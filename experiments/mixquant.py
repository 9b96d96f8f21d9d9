"""What MixQuant's rule chooses on residual networks, as a function of its multiplier, and what that keeps.

    BITWRIGHT_DATA=<folder> python experiments/mixquant.py [TASK ...]

Writes results/mixquant.md. Kloberdanz and Le, arXiv 2309.17341: the fewest bits whose round-off error is at most a
multiple of that at 8 bits. Their accuracies are of ImageNet networks behind BRECQ; here weights are rounded to the
nearest, and widths are those of `integer(bits, 8)`.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch

from bitwright.comparison import Bench
from bitwright.model.zoo import TASKS
from bitwright.report import notation
from bitwright.search.candidates import Candidates
from bitwright.search.evaluate import Evaluator
from bitwright.search.point import Design, Machine
from bitwright.search.strategies import MULTIPLIERS, WIDTHS, mixquant

PAGE = Path(__file__).parent / "results" / "mixquant.md"

NETWORKS = ("resnet8", "resnet20", "resnet32")

HEAD = """# MixQuant's widths as a function of its multiplier

`python experiments/mixquant.py`. Each layer gets the fewest bits whose squared round-off error (asymmetric, a scale a
tensor) is at most the multiplier times that at 8 bits; then every weight is rounded to the nearest under
`integer(bits, 8)`. Mean bits are of weights. Below: one width everywhere.

The error of a layer at b bits over that at 8 is close to the squared ratio of the steps, (255 / (2^b − 1))², whatever
its weights are. So the rule gives every layer the same width unless the multiplier is next to such a ratio, as all of
these are; and there it chooses between two widths.
"""


@dataclass(frozen=True)
class Row:
    """One design: its widths in the order of layers, and what it keeps."""

    name: str
    widths: list[int]
    mean: float
    metric: float


def rows(name: str) -> tuple[float, list[Row]]:
    """The float metric, and designs of MixQuant and of one width."""
    texts = {bits: f"integer({bits}, 8)" for bits in WIDTHS}
    candidates = Candidates.of(Bench.build(TASKS[name], None, lambda *_: None), tuple(texts.values()))
    evaluator = Evaluator(candidates, held_out=0.0)
    bits_of = {text: bits for bits, text in texts.items()}
    known: dict[str, float] = {}
    sizes = {n: candidates.float_layers[n].weight.numel() for n in candidates.names}  # type: ignore[union-attr]

    def row(label: str, design: Design) -> Row:
        widths = {n: bits_of[text] for n, text in design.layers}
        mean = sum(widths[n] * sizes[n] for n in widths) / sum(sizes.values())
        if design.key not in known:
            known[design.key] = evaluator.figures(design.assignment).metric
        return Row(label, list(widths.values()), mean, known[design.key])

    chosen = mixquant(candidates, Machine())
    found = [row(f"× {multiplier:.4g}", design) for multiplier, design in zip(MULTIPLIERS, chosen, strict=True)]
    for bits, text in reversed(texts.items()):
        found.append(row(f"all {bits}", Design(tuple((n, text) for n in candidates.names))))
    return evaluator.float_metric, found


def section(name: str) -> list[str]:
    """Of one network."""
    metric, found = rows(name)
    unit = TASKS[name].metric.unit
    lines = ["", f"## {name}", "", f"{TASKS[name].metric.name}, float {notation.decimal(metric, 2)} {unit}.", "",
             f"| multiplier | mean bits | {unit} | bits by layer |", "|---|---|---|---|"]  # fmt: skip
    for row in found:
        widths = " ".join(map(str, row.widths)) if len(set(row.widths)) > 1 else f"{row.widths[0]} everywhere"
        lines.append(f"| {row.name} | {row.mean:.2f} | {notation.decimal(row.metric, 2)} | {widths} |")
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="*", default=NETWORKS)
    torch.set_num_threads(1)
    PAGE.write_text(
        "\n".join([HEAD.rstrip(), *(line for name in parser.parse_args().tasks for line in section(name))]) + "\n"
    )
