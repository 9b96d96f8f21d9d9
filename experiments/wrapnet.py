"""Do accumulators that wrap cost accuracy? The digits network over the width of its registers, exact evaluation.

    python experiments/wrapnet.py

The network is first trained at low precision with 32-bit registers, where nothing overflows. Its registers are then
narrowed: as they are (plain wrap), read through the cyclic activation, with steps chosen so that few sums overflow, and
trained on with the registers in place, without and with the overflow penalty. BatchNorm is folded, so its scales are
those of the weights' rows and its offsets are biases behind the registers. The first and the last layer have 8 bits and
as wide a register as they need.
"""

import csv
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from torch import nn

from bitwright.model.checkpoint import sites
from bitwright.model.evaluate import Reference, evaluate, reference
from bitwright.model.layers import QuantizedLayer
from bitwright.model.prepare import calibrate, freeze, prepare
from bitwright.model.task import Batch
from bitwright.model.train import Loss, cross_entropy, train
from bitwright.model.training import Shuffled, Training
from bitwright.model.transform import fold_batchnorm
from bitwright.model.wrap import OverflowPenalty, choose_steps
from bitwright.model.zoo import TASKS
from bitwright.model.zoo.embedded import digits_training_half
from bitwright.recipes import kept_ends
from bitwright.scheme import Scheme
from bitwright.schemes import integer, wrapnet

RESULTS = Path(__file__).parent / "results"
FIRST = Training(epochs=20, learning_rate=2e-3)
SECOND = Training(epochs=15, learning_rate=2e-3)
PENALTY = 0.1
SHARES = (0.05, 0.01)
WIDTHS = {(2, 3): (12, 10, 8, 6, 5), (4, 4): (12, 10, 8)}
UNTRAINED = ("plain wrap", "cyclic", *(f"cyclic, p = {share:.0%}" for share in SHARES))
TRAINED = tuple(f"trained, p = {share:.0%}{penalty}" for share in SHARES for penalty in ("", ", penalty"))


@dataclass(frozen=True)
class Row:
    """One network with its registers."""

    weight_bits: int
    input_bits: int
    width: int
    method: str
    accuracy: float  # per cent, exact
    overflowing: float  # per cent of the sums between first and last layer, on the test images


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

    def with_registers(scheme: Scheme) -> nn.Module:
        recipe = kept_ends(scheme, integer(8, 8))
        return calibrate(prepare(folded, recipe, calibration[0].inputs), calibration)

    def narrowed(trained: nn.Module, scheme: Scheme, share: float | None = None) -> nn.Module:
        """The same network with other registers; its weights and ranges stay, but for the steps that are chosen."""
        model = with_registers(scheme)
        model.load_state_dict(trained.state_dict())
        for name, site in sites(trained).items():
            for operand, ranges in site.calibrated.items():
                sites(model)[name].pin(operand, ranges)
        if share is not None:
            choose_steps(model, calibration, share)
        return model

    def trained_on(model: nn.Module, training: Training, loss: Loss = cross_entropy) -> nn.Module:
        train(model, samples, training, loss=loss)
        return model

    def add(bits: tuple[int, int], width: int, method: str, model: nn.Module) -> None:
        frozen = freeze(model)
        found = evaluate(task, frozen, against)
        inner = [m for m in frozen.modules() if isinstance(m, QuantizedLayer)][1:-1]
        share = 100 * sum(m.overflows for m in inner) / sum(m.accumulations for m in inner)
        rows.append(Row(*bits, width, method, found.metric, share))
        print(rows[-1], flush=True)
        write(rows, against)

    for bits, widths in WIDTHS.items():
        wide = trained_on(with_registers(wrapnet(*bits, 32)), FIRST)
        add(bits, 32, UNTRAINED[0], wide)
        add(bits, 32, TRAINED[0], trained_on(narrowed(wide, wrapnet(*bits, 32)), SECOND))
        for width in widths:
            scheme = wrapnet(*bits, width)
            add(bits, width, UNTRAINED[0], narrowed(wide, unread(scheme)))
            add(bits, width, UNTRAINED[1], narrowed(wide, scheme))
            for i, share in enumerate(SHARES):
                add(bits, width, UNTRAINED[2 + i], narrowed(wide, scheme, share))
                for j, loss in enumerate((cross_entropy, OverflowPenalty(PENALTY))):
                    model = trained_on(narrowed(wide, scheme, share), SECOND, loss)
                    add(bits, width, TRAINED[2 * i + j], model)


def unread(scheme: Scheme) -> Scheme:
    """The same registers, read as they are."""
    inner = replace(scheme.datapath.inner, readout=None)
    return replace(scheme, datapath=replace(scheme.datapath, inner=inner))


def write(rows: list[Row], against: Reference) -> None:
    """The rows as CSV, and tables of accuracy and of overflowing sums over width."""
    with (RESULTS / "wrapnet_digits.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([f.name for f in fields(Row)])
        writer.writerows([[getattr(row, f.name) for f in fields(Row)] for row in rows])
    lines = [
        "# Accumulators of the digits network that wrap on purpose",
        "",
        f"Float top-1: {against.metric:.2f} % on {against.samples} test images. Exact evaluation, slope 1, one seed.",
        f"Training: {FIRST.epochs} epochs with 32-bit registers, {SECOND.epochs} with narrow ones,",
        f"AdamW at {FIRST.learning_rate:g}, on the training half. Made by `python experiments/wrapnet.py`.",
        "",
        f"Steps are chosen so that at most p of each layer's sums overflows in calibration; the penalty is {PENALTY:g}",
        "times the mean distance of the sums beyond the register, added over layers. In brackets: per cent of the sums",
        "between first and last layer that overflow on the test images.",
    ]
    for bits in dict.fromkeys((row.weight_bits, row.input_bits) for row in rows):
        own = {(row.width, row.method): row for row in rows if (row.weight_bits, row.input_bits) == bits}
        title = f"{'Ternary' if bits[0] == 2 else f'{bits[0]}-bit'} weights, {bits[1]}-bit inputs"
        for methods, state in ((UNTRAINED, "before training on"), (TRAINED, "trained with the registers")):
            lines += ["", f"## {title}, {state}", "", f"| width | {' | '.join(methods)} |"]
            lines.append(f"|---{'|---' * len(methods)}|")
            for width in dict.fromkeys(width for width, _ in own):
                cells = (_cell(own.get((width, method))) for method in methods)
                lines.append(f"| {width} | {' | '.join(cells)} |")
    (RESULTS / "wrapnet_digits.md").write_text("\n".join(lines) + "\n")


def _cell(row: Row | None) -> str:
    return "–" if row is None else f"{row.accuracy:.2f} ({row.overflowing:.2g})"


if __name__ == "__main__":
    main()
