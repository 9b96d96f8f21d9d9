"""How narrow can an accumulator be? Accuracy over its width, with no overflow possible, for eight ways to get there.

    python experiments/accumulators.py digits     # or resnet8, lenet, fashion_cnn, espcn (these need BITWRIGHT_DATA)
    python experiments/accumulators.py resnet8_longer --methods A2Q+ A2Q

Without training: bounded weights by projection (a2q), and AXE; bias correction follows both. With training, from the
float network, all equally long: plain integers, whose certificate is the post-training minimisation, and at narrower
types the data-type bound; A2Q and A2Q+ with learned norms and their regulariser; projection at every step, from the
float weights or from AXE's. The first and the last layer have 8 bits and as wide a register as they need. Sparsity and
sizes are of the layers between. Rows are kept as they come, so a run that is interrupted goes on where it was.
"""

import argparse
import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from bitwright.config import from_text
from bitwright.datapath.widths import data_type_bits
from bitwright.model.data.images import Normalize, luma
from bitwright.model.data.location import data_folder
from bitwright.model.data.samples import Reader
from bitwright.model.evaluate import evaluate, reference
from bitwright.model.layers import FakeQuantizedLayer, QuantizedLayer
from bitwright.model.prepare import calibrate, freeze, prepare
from bitwright.model.task import Batch, Task, call
from bitwright.model.train import Loss, cross_entropy, learn_norms, norm_excess, penalised, train
from bitwright.model.training import Shuffled, Training
from bitwright.model.transform import axe, correct_bias, fold_batchnorm
from bitwright.model.zoo import TASKS
from bitwright.model.zoo.embedded import digits_training_half
from bitwright.model.zoo.real import (
    CIFAR10_JPEG_TEST,
    CIFAR10_JPEG_TRAINING,
    FASHION_NORMALIZE,
    FASHION_TRAINING,
    IMAGENET_TEST,
    MNIST_TRAINING,
    RAW_PIXELS,
    REAL,
)
from bitwright.model.zoo.trained import Split
from bitwright.quantization import compressibility
from bitwright.recipes import kept_ends
from bitwright.result import Compressibility

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Setting:
    """A network, what it is trained and tested on, and the widths of interest by weight and input bits."""

    training: Callable[[], Batch]
    test: Split | None  # None: the task's own
    schedule: Training
    widths: dict[tuple[int, int], tuple[int, ...]]
    loss: Loss = cross_entropy
    task: str = ""  # the setting's own name where it is a task's


def digits() -> Batch:
    """The training half of the embedded digits."""
    images, labels = digits_training_half()
    return Batch((images,), labels)


def stored(reader: Reader, chosen: range, normalize: Normalize) -> Callable[[], Batch]:
    """Samples of a collection."""
    return lambda: next(Split(reader, chosen, normalize, len(chosen)).batches(data_folder()))


def patches() -> Batch:
    """Luma in pieces of 64 × 64 and half that, 9 of each of 128 ImageNet images, reduced as the network expects it."""
    images = luma(np.asarray(IMAGENET_TEST.read(data_folder(), range(128)).inputs))
    large = torch.from_numpy(images[:, 16:208, 16:208]).unfold(1, 64, 64).unfold(2, 64, 64).reshape(-1, 1, 64, 64)
    small = nn.functional.interpolate(large, scale_factor=0.5, mode="bicubic", align_corners=False)
    return Batch(((small.round().clamp(0, 255) / 255).float(),), (large / 255).float())


def squared_error(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Mean squared error of pixels in [0, 1]."""
    return nn.functional.mse_loss(call(model, batch.inputs), batch.targets)


SETTINGS = {
    "digits": Setting(
        digits, None, Training(epochs=15, learning_rate=2e-3),
        {(8, 8): (20, 18, 17, 16, 15, 14), (4, 8): (16, 15, 14, 13, 12), (4, 4): (14, 12, 11, 10, 9, 8)},
    ),
    "resnet8": Setting(
        stored(CIFAR10_JPEG_TRAINING, range(0, 30000, 3), RAW_PIXELS),
        Split(CIFAR10_JPEG_TEST, range(0, 10000, 4), RAW_PIXELS, 128),
        Training(epochs=1, learning_rate=1e-4), {(4, 4): (14, 13, 12, 11, 10), (8, 8): (18, 17, 16, 15)},
    ),
    "digits_longer": Setting(
        digits, None, Training(epochs=60, learning_rate=2e-3), {(8, 8): (16,), (4, 4): (12, 10)}, task="digits"
    ),
    "resnet8_longer": Setting(
        stored(CIFAR10_JPEG_TRAINING, range(30000), RAW_PIXELS),
        Split(CIFAR10_JPEG_TEST, range(0, 10000, 4), RAW_PIXELS, 128),
        Training(epochs=4, learning_rate=1e-3), {(8, 8): (16,), (4, 4): (14, 12)}, task="resnet8",
    ),
    "lenet": Setting(
        stored(MNIST_TRAINING, range(10000), Normalize(deviation=(256.0,))), None, Training(learning_rate=1e-3),
        {(4, 4): (14, 12, 11, 10), (8, 8): (18, 16)},
    ),
    "fashion_cnn": Setting(
        stored(FASHION_TRAINING, range(10000), FASHION_NORMALIZE), None, Training(learning_rate=1e-3),
        {(4, 4): (12, 10), (8, 8): (16,)},
    ),
    "espcn": Setting(
        patches, None, Training(epochs=2, learning_rate=3e-4),
        {(4, 4): (14, 13, 12), (8, 8): (16,)}, squared_error,
    ),
}  # fmt: skip
NARROWER = ((6, 6), (5, 5), (3, 3))
"""Data types of the data-type bound beside those of a setting's widths."""

TRAINED = {"A2Q": "a2q({}, {}, {}, each_sign=False)", "A2Q+": "a2q({}, {}, {})", "projected": "a2q({}, {}, {})"}
METHODS = ("plain", "a2q", "AXE", *TRAINED, "from AXE")


@dataclass(frozen=True)
class Row:
    """One network whose registers cannot overflow."""

    method: str
    weight_bits: int
    input_bits: int
    target: int  # width asked for; 0 where none was
    certified: int  # width that its integers need
    formats: int  # width that the data types ask for
    metric: float  # top-1 in per cent, PSNR in dB
    sparsity: float  # per cent of the weights between the ends
    entropy_ratio: float  # 32-bit floats over the entropy of the integers
    lzma_ratio: float  # 32-bit floats over the size that a real compressor gives


class Study:
    """A network and everything that its rows share."""

    def __init__(self, name: str) -> None:
        self.name, self.setting = name, SETTINGS[name]
        task = (TASKS | REAL)[self.setting.task or name]
        self.task: Task = task if self.setting.test is None else replace(task, test_split=self.setting.test)
        self.calibration = list(self.task.calibration())
        model = self.task.load()
        self.batches = Shuffled(self.setting.training(), 64)
        self.folded = fold_batchnorm(model, self.calibration[0].inputs)
        self.against = reference(self.task, model)

    def simulated(self, scheme: str) -> nn.Module:
        recipe = kept_ends(from_text(scheme), from_text("integer(8, 8)"))
        return calibrate(prepare(self.folded, recipe, self.calibration[0].inputs), self.calibration)

    def fine_tuned_float(self) -> float:
        """Top-1 of the float network after the same training."""
        wide = calibrate(
            prepare(self.folded, from_text("integer(16, 16)"), self.calibration[0].inputs), self.calibration
        )
        train(wide, self.batches, self.setting.schedule, loss=self.setting.loss)
        return evaluate(self.task, wide, self.against).metric

    def untrained(self, method: str, bits: tuple[int, int], width: int) -> nn.Module:
        if method == "a2q":
            chosen = self.simulated(f"a2q({bits[0]}, {bits[1]}, {width})")
        else:
            plain = self.simulated(f"integer({bits[0]}, {bits[1]})")
            names = [m.name for m in plain.modules() if isinstance(m, FakeQuantizedLayer)]
            chosen = axe(plain, self.calibration, accumulator_bits=width, layers=names[1:-1])
        return correct_bias(chosen, self.folded, self.calibration)

    def trained(self, method: str, bits: tuple[int, int], width: int) -> nn.Module:
        text = TRAINED.get(method, "integer({}, {})").format(*bits, width)
        model = self.simulated(text)
        loss = self.setting.loss
        if method in ("A2Q", "A2Q+"):
            learn_norms(model)
            model = correct_bias(model, self.folded, self.calibration)  # as the authors' training begins
            loss = penalised(loss, norm_excess)
        train(model, self.batches, self.setting.schedule, loss=loss)
        return model

    def from_axe(self, bits: tuple[int, int], width: int) -> nn.Module:
        """Projection at every step, from AXE's weights and scales."""
        chosen = {m.name: m for m in self.untrained("AXE", bits, width).modules() if isinstance(m, FakeQuantizedLayer)}
        model = self.simulated(TRAINED["projected"].format(*bits, width))
        layers = [m for m in model.modules() if isinstance(m, FakeQuantizedLayer)]
        with torch.no_grad():
            for layer in layers:
                source = chosen[layer.name]
                layer.weight.copy_(source.weight)
                if layer.bias is not None and source.bias is not None:
                    layer.bias.copy_(source.bias)
                layer.pin("weight", source.calibrated["weight"])
        train(model, self.batches, self.setting.schedule, loss=self.setting.loss)
        return model

    def row(self, method: str, bits: tuple[int, int], width: int) -> Row:
        if method == "from AXE":
            model = self.from_axe(bits, width)
        else:
            model = (self.untrained if method in ("a2q", "AXE") else self.trained)(method, bits, width)
        frozen = freeze(model)  # proves every register
        layers = [m for m in frozen.modules() if isinstance(m, QuantizedLayer)][1:-1]
        sizes = Compressibility.total(compressibility(m.quantized_weight()) for m in layers)
        longest = max(m.weight_shape[1:].numel() for m in layers)
        # where nothing overflows the simulation has the hardware's integers
        accuracy = evaluate(self.task, model, self.against).metric
        certified = max(m.certificate.inner_bits for m in layers)
        assert not width or certified <= width, "proved"
        return Row(
            method, *bits, width, certified, data_type_bits(longest, bits[1], bits[0], is_input_signed=False), accuracy,
            100 * sizes.sparsity, sizes.ratio(sizes.entropy_bits), sizes.ratio(float(sizes.lzma_bits)),
        )  # fmt: skip


def plan(setting: Setting) -> Iterator[tuple[str, tuple[int, int], int]]:
    """Method, bits and width of every row, the most telling first."""
    for bits in setting.widths:
        yield "plain", bits, 0
    for bits, widths in setting.widths.items():
        for width in widths:
            yield from ((method, bits, width) for method in METHODS[1:])
    for bits in NARROWER:
        yield "plain", bits, 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=list(SETTINGS))
    parser.add_argument(
        "--methods", nargs="+", default=METHODS, choices=METHODS, metavar="METHOD", help="of the columns"
    )
    arguments = parser.parse_args()
    name = arguments.network
    torch.set_num_threads(1)
    path = RESULTS / f"accumulators_{name}.csv"
    rows = read(path)
    study = Study(name)
    if not any(row.method == "float, trained" for row in rows):
        rows.append(Row("float, trained", 32, 32, 0, 0, 0, study.fine_tuned_float(), 0.0, 1.0, 1.0))
    done = {(row.method, (row.weight_bits, row.input_bits), row.target) for row in rows}
    for job in plan(study.setting):
        if job not in done and job[0] in arguments.methods:
            rows.append(study.row(*job))
            print(rows[-1], flush=True)
        write(path, rows)
        path.with_suffix(".md").write_text(page(study, rows))


def read(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [Row(**{f.name: f.type(line[f.name]) for f in fields(Row)}) for line in csv.DictReader(file)]  # type: ignore[operator]


def write(path: Path, rows: list[Row]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([f.name for f in fields(Row)])
        writer.writerows([[getattr(row, f.name) for f in fields(Row)] for row in rows])


def page(study: Study, rows: list[Row]) -> str:
    """Tables of accuracy over width."""
    schedule = study.setting.schedule
    fine_tuned = next(row.metric for row in rows if row.method == "float, trained")
    count = len(study.batches.samples.targets)
    unit = f"{study.task.metric.name} ({study.task.metric.unit})"
    lines = [
        f"# Accumulators of {study.name}",
        "",
        f"Float {unit}: {study.against.metric:.2f} on {study.against.samples} test images, {fine_tuned:.2f} after "
        f"the same training (at 16 bits). Training: {schedule.epochs} epochs over {count} images in batches of 64, "
        f"AdamW at {schedule.learning_rate:g} with a cosine, one seed, no augmentation. No register can overflow: "
        f"each row's certificate is proved. Made by `python experiments/accumulators.py {study.name}`.",
    ]
    for bits in study.setting.widths:
        own = [row for row in rows if (row.weight_bits, row.input_bits) == bits]
        plain = next((row for row in own if row.method == "plain"), None)
        lines += ["", f"## {bits[0]}-bit weights, {bits[1]}-bit inputs", ""]
        if plain is not None:
            lines += [
                f"The data types ask for {plain.formats} bits. Plain training: {plain.metric:.2f}, certified at "
                f"{plain.certified} bits, {plain.sparsity:.1f} % zeros.",
                "",
            ]
        lines += [
            "| width | a2q, untrained | AXE, untrained | A2Q | A2Q+ | projected | from AXE | zeros | entropy | LZMA |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        for width in study.setting.widths[bits]:
            found = {row.method: row for row in own if row.target == width}
            cells = [f"{found[m].metric:.2f}" if m in found else "–" for m in METHODS[1:]]
            best = max(
                (found[m] for m in (*TRAINED, "from AXE") if m in found), key=lambda row: row.metric, default=None
            )
            if best is not None:
                cells += [f"{best.sparsity:.1f} %", f"{best.entropy_ratio:.1f}×", f"{best.lzma_ratio:.1f}×"]
                lines.append(f"| {width} | " + " | ".join(cells) + " |")
        lines += ["", "Zeros, and 32-bit floats over the integers' size: of the best trained network at the width."]
    narrow = sorted((row for row in rows if row.method == "plain"), key=lambda row: -row.weight_bits)
    lines += ["", "## The data-type bound, and post-training minimisation", ""]
    lines += ["| weights and inputs | data types ask for | certified | metric |", "|---|---|---|---|"]
    lines += [f"| {r.weight_bits}, {r.input_bits} | {r.formats} | {r.certified} | {r.metric:.2f} |" for r in narrow]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
