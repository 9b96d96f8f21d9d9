"""Accuracy against accumulator width when sums overflow: the tables results/overflow*.md.

    BITWRIGHT_DATA=<folder> python experiments/overflow.py [TASK ...]

integer(8, 8) with a register of P bits, evaluated exactly, from the width that the certificate proves downwards. A
register that wraps costs nothing extra; one that saturates is stepped product by product, which is slow: `Samples`.
"""

import csv
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from bitwright.config import from_text
from bitwright.datapath import Accumulator, Overflow
from bitwright.formats import Int
from bitwright.model.certificate import ModelCertificate
from bitwright.model.certify import certify_task
from bitwright.model.evaluate import evaluate, reference
from bitwright.model.layers import QuantizedLayer
from bitwright.model.prepare import quantize
from bitwright.model.task import Task
from bitwright.model.zoo import TASKS

HERE = Path(__file__).parent
SCHEME = "integer(8, 8)"
NARROWER = 10
"""Bits below the proved width at which the sweep ends."""


@dataclass(frozen=True)
class Samples:
    """Test samples of each sweep."""

    wrap: int
    saturate: int


RUNS = {"digits": Samples(500, 500), "resnet8": Samples(500, 346)}


@dataclass(frozen=True)
class Point:
    """One register on one network."""

    task: str
    overflow: str
    accumulator_bits: int
    samples: int
    metric: float  # per cent
    float_metric: float  # of the same samples
    agreement: float  # with the float model's decisions, per cent
    overflow_rate: float  # complete sums that overflow changed, of all
    layer_rates: tuple[tuple[str, float], ...]
    seconds: float


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    for name in names or RUNS:
        task, samples = TASKS[name], RUNS[name]
        certificate = certify_task(task, SCHEME, samples=samples.wrap)
        points = [
            point
            for overflow, count in ((Overflow.WRAP, samples.wrap), (Overflow.SATURATE, samples.saturate))
            for point in sweep(task, certificate, overflow, count)
        ]
        write(name, certificate, points)


def sweep(task: Task, certificate: ModelCertificate, overflow: Overflow, samples: int) -> Iterator[Point]:
    """The same frozen network with ever narrower registers."""
    model = quantize(task.load(), from_text(SCHEME), task.calibration())
    layers = {m.name: m for m in model.modules() if isinstance(m, QuantizedLayer)}
    against = reference(task, task.load(), samples)
    proved = max(c.exact_bits or 0 for c in certificate.layers)
    for bits in range(proved, proved - NARROWER - 1, -1):
        started = time.perf_counter()
        for layer in layers.values():
            register = Accumulator(Int(bits), overflow)
            layer.scheme = replace(layer.scheme, datapath=replace(layer.scheme.datapath, inner=register))
        found = evaluate(task, model, against)
        point = Point(
            task.name, overflow.name, bits, against.samples, found.metric, against.metric, found.agreement or 0.0,
            found.overflows / found.accumulations,
            tuple((name, layer.overflows / layer.accumulations) for name, layer in layers.items()),
            time.perf_counter() - started,
        )  # fmt: skip
        print(f"{point.task} {point.overflow} {bits}: {point.metric:.2f} ({point.seconds:.1f} s)", flush=True)
        yield point


def write(name: str, certificate: ModelCertificate, points: list[Point]) -> None:
    """results/overflow_NAME.md and .csv."""
    path = HERE / "results" / f"overflow_{name}"
    with path.with_suffix(".csv").open("w", newline="") as file:
        plain = [f for f in asdict(points[0]) if f not in ("layer_rates", "seconds")]
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow([*plain, *(f"overflow_rate {layer}" for layer, _ in points[0].layer_rates)])
        for p in points:
            rows.writerow([*(getattr(p, f) for f in plain), *(rate for _, rate in p.layer_rates)])
    path.with_suffix(".md").write_text("\n".join(markdown(name, certificate, points)) + "\n")


def markdown(name: str, certificate: ModelCertificate, points: list[Point]) -> list[str]:
    """What the register's width does, beside what was proved and what was reached."""
    proved = max(c.exact_bits or 0 for c in certificate.layers)
    reached = max(c.reached_bits or 0 for c in certificate.layers)
    wrap, saturate = ([p for p in points if p.overflow == kind] for kind in ("WRAP", "SATURATE"))
    lines = [
        f"# Overflow, executed: {name}",
        "",
        textwrap.fill(
            f"`{SCHEME}` with one accumulator width in all layers, evaluated exactly. The certificate proves that "
            f"{proved} bits never overflow; complete sums of {certificate.samples} samples reach {reached}. Overflows "
            f"are complete sums that the register changed. Wrapping stands on {counted(wrap[0])}; saturation, which is "
            f"stepped product by product, on {counted(saturate[0])}. Made by `python experiments/overflow.py {name}`.",
            120,
        ),
        "",
        "| bits | wrap: top-1 % | agree % | overflows % | saturate: top-1 % | agree % | overflows % |",
        "|---|---|---|---|---|---|---|",
    ]
    for a, b in zip(wrap, saturate, strict=True):
        cells = [f"{p.metric:.2f} | {p.agreement:.1f} | {100 * p.overflow_rate:.4f}" for p in (a, b)]
        lines.append(f"| {a.accumulator_bits} | {' | '.join(cells)} |")
    layers = [c for c in certificate.layers if c.sums is not None]
    lines += [
        "",
        "Per layer: what is proved, what is reached, and the overflow rate in per cent where the register wraps.",
        "",
        "| layer | K | formats | norm | exact | reached | "
        + " | ".join(f"{p.accumulator_bits} bits" for p in wrap[1:])
        + " |",
        "|" + "---|" * (6 + len(wrap) - 1),
    ]
    for c in layers:
        rates = [f"{100 * dict(p.layer_rates)[c.name]:.3f}" for p in wrap[1:]]
        sums = c.sums
        assert sums is not None, "certified"
        widths = f"{sums.data_type_bits} | {sums.norm_bits} | {sums.exact_bits} | {c.reached_bits}"
        lines.append(f"| {c.name} | {c.k} | {widths} | {' | '.join(rates)} |")
    return lines


def counted(point: Point) -> str:
    return f"{point.samples} samples (float {point.float_metric:.2f} %)"


if __name__ == "__main__":
    main(sys.argv[1:])
