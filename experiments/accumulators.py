"""How narrow can an accumulator be? Accuracy of the digits network over the width, with no overflow possible.

    python experiments/accumulators.py

Four ways to a guarantee, at the same formats: narrower data types (the data-type bound), the exact certificate of plain
integers, bounded weights without training (a2q; AXE), bounded weights with training (a2q). The first and the last layer
have 8 bits and as wide a register as they need. Sparsity and sizes are of the bounded layers.
"""

import csv
import math
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import nn

from bitwright.config import from_text
from bitwright.datapath import bits_for, worst_sum
from bitwright.formats import Int
from bitwright.model.evaluate import evaluate, reference
from bitwright.model.layers import QuantizedLayer
from bitwright.model.prepare import calibrate, freeze, prepare
from bitwright.model.task import Batch
from bitwright.model.train import train
from bitwright.model.training import Shuffled, Training
from bitwright.model.transform import axe, correct_bias, fold_batchnorm
from bitwright.model.zoo import TASKS
from bitwright.model.zoo.embedded import digits_training_half
from bitwright.quantization import Compressibility
from bitwright.recipes import kept_ends

RESULTS = Path(__file__).parent / "results"
TRAINING = Training(epochs=15, learning_rate=2e-3)
WIDTHS = {(8, 8): (20, 18, 17, 16, 15, 14, 13), (4, 8): (18, 16, 15, 14, 13, 12), (4, 4): (14, 12, 11, 10, 9, 8)}
LARGEST_K = 288  # of the bounded layers


@dataclass(frozen=True)
class Row:
    """One network whose registers cannot overflow."""

    weight_bits: int
    input_bits: int
    method: str
    target: int | None  # width asked for
    certified: int  # width that its integers need
    accuracy: float  # per cent, exact
    sparsity: float  # of the bounded layers' weights
    entropy_ratio: float  # 32-bit floats over the entropy of the integers
    lzma_ratio: float  # 32-bit floats over the size that a real compressor gives


def main() -> None:
    torch.set_num_threads(1)
    task = TASKS["digits"]
    calibration = list(task.calibration())
    float_model = task.load()
    folded = fold_batchnorm(float_model, calibration[0].inputs)
    against = reference(task, float_model)
    images, labels = digits_training_half()
    samples = Shuffled(Batch((images,), labels), 64)
    rows: list[Row] = []

    def simulated(scheme: str) -> nn.Module:
        recipe = kept_ends(from_text(scheme), from_text("integer(8, 8)"))
        return calibrate(prepare(folded, recipe, calibration[0].inputs), calibration)

    def add(bits: tuple[int, int], method: str, target: int | None, model: nn.Module) -> None:
        frozen = freeze(model)
        found = evaluate(task, frozen, against)
        layers = [m for m in frozen.modules() if isinstance(m, QuantizedLayer)][1:-1]
        sizes = Compressibility.total(Compressibility.of(m.quantized_weight()) for m in layers)
        assert found.overflows == 0, "proved"
        row = Row(
            *bits, method, target, max(m.certificate.inner_bits for m in layers), found.metric,
            100 * sizes.sparsity, sizes.ratio(sizes.entropy_bits), sizes.ratio(float(sizes.compressed_bits)),
        )  # fmt: skip
        rows.append(row)
        print(row, flush=True)
        write(rows, against.metric, against.samples)

    for bits, widths in WIDTHS.items():
        plain = f"integer({bits[0]}, {bits[1]})"
        add(bits, "plain", None, simulated(plain))
        trained = simulated(plain)
        train(trained, samples, TRAINING)
        add(bits, "plain, trained", None, trained)
        for width in widths:
            bounded = f"a2q({bits[0]}, {bits[1]}, {width})"
            add(bits, "a2q", width, correct_bias(simulated(bounded), folded, calibration))
            inner = [name for name, m in simulated(plain).named_modules() if hasattr(m, "weight_quantizer")][1:-1]
            chosen = axe(simulated(plain), calibration, accumulator_bits=width, layers=inner)
            add(bits, "AXE", width, correct_bias(chosen, folded, calibration))
            model = simulated(bounded)
            train(model, samples, TRAINING)
            add(bits, "a2q, trained", width, model)


def data_type_bits(weight_bits: int, input_bits: int) -> int:
    """Width that the formats alone ask for."""
    weight, entering = Int(weight_bits, narrow=True).bounds(), Int(input_bits, signed=False).bounds()
    return bits_for(*worst_sum(entering, weight, LARGEST_K))


def write(rows: list[Row], float_metric: float, samples: int) -> None:
    """The rows as CSV, and a table of accuracy over width."""
    with (RESULTS / "accumulators_digits.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([f.name for f in fields(Row)])
        writer.writerows([[getattr(row, f.name) for f in fields(Row)] for row in rows])
    lines = [
        "# Accumulators of the digits network",
        "",
        f"Float top-1: {float_metric:.2f} % on {samples} test images. Exact evaluation; no register can overflow.",
        f"Training: {TRAINING.epochs} epochs over the training half, AdamW at {TRAINING.learning_rate:g}, one seed.",
        "AXE and a2q without training are followed by bias correction. Made by `python experiments/accumulators.py`.",
    ]
    for bits in dict.fromkeys((row.weight_bits, row.input_bits) for row in rows):
        own = [row for row in rows if (row.weight_bits, row.input_bits) == bits]
        wide = [row for row in own if row.target is None]
        lines += [
            "",
            f"## {bits[0]}-bit weights, {bits[1]}-bit inputs",
            "",
            f"The formats alone ask for {data_type_bits(*bits)} bits at K = {LARGEST_K}. "
            + " ".join(
                f"{r.method}: {r.accuracy:.2f} % with {r.certified} certified bits, {r.sparsity:.1f} % zeros."
                for r in wide
            ),
            "",
            "| width | a2q | AXE | a2q, trained | zeros | entropy against float32 | LZMA against float32 |",
            "|---|---|---|---|---|---|---|",
        ]
        for width in dict.fromkeys(row.target for row in own if row.target is not None):
            found = {row.method: row for row in own if row.target == width}
            cells = [f"{found[m].accuracy:.2f}" if m in found else "–" for m in ("a2q", "AXE", "a2q, trained")]
            last = found.get("a2q, trained")
            sizes = (
                ["–"] * 3
                if last is None
                else [f"{last.sparsity:.1f} %", _times(last.entropy_ratio), _times(last.lzma_ratio)]
            )
            lines.append(f"| {width} | " + " | ".join(cells + sizes) + " |")
        lines += ["", "Zeros and sizes: of the trained weights between first and last layer."]
    (RESULTS / "accumulators_digits.md").write_text("\n".join(lines) + "\n")


def _times(ratio: float) -> str:
    return f"{ratio:.1f}×" if math.isfinite(ratio) else "–"


if __name__ == "__main__":
    main()
