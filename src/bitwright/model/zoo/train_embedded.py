"""Trains the embedded models: `python -m bitwright.model.zoo.train_embedded digits|pydoc`.

Writes the weights next to this file and prints the float metric to put into `embedded.py`. The seed fixes the result
on one machine and one torch version; elsewhere sums are rounded in another order.
"""

import platform
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from safetensors.torch import save as serialize
from torch import Tensor, nn

from bitwright.model.task import Task
from bitwright.model.zoo.embedded import (
    CONTEXT,
    EMBEDDED,
    Attention,
    DigitsNetwork,
    PydocNetwork,
    SwiGLU,
    digits_training_half,
    encode,
    next_character_targets,
    pydoc_training_text,
)


@dataclass(frozen=True)
class Training:
    """AdamW with a linear warm-up over a tenth of the steps, then a linear decay to zero."""

    steps: int
    batch: int
    learning_rate: float
    weight_decay: float
    seed: int = 0


@dataclass(frozen=True)
class Job:
    """How one embedded model is made: `precision` is that of the stored weights."""

    train: Callable[[Training], nn.Module]
    training: Training
    precision: torch.dtype


def train_digits(training: Training) -> DigitsNetwork:
    """Learns the training half, each batch shifted by at most one pixel."""
    torch.manual_seed(training.seed)
    model = DigitsNetwork()
    _fit_(model, _shifted_digits(training.batch), training)
    return model


def train_pydoc(training: Training) -> PydocNetwork:
    """Learns windows of CONTEXT characters from random places of the training text."""
    torch.manual_seed(training.seed)
    model = PydocNetwork()
    for matrix in (parameter for parameter in model.parameters() if parameter.ndim == 2):
        nn.init.normal_(matrix, std=0.02)
    for branch in (module for module in model.modules() if isinstance(module, Attention | SwiGLU)):
        branch.register_forward_hook(_dropout)  # a hook, because only training needs it
    _fit_(model, _random_windows(training.batch), training)
    return model


JOBS = {
    "digits": Job(train_digits, Training(800, 64, 4e-3, 1e-2), torch.float32),
    "pydoc": Job(train_pydoc, Training(1000, 32, 3e-3, 1e-1), torch.float16),
}


def save(model: nn.Module, path: Path, precision: torch.dtype) -> None:
    """Writes the weights and the versions that they were trained with; integer buffers keep their type."""
    state = {
        name: tensor.to(precision) if tensor.is_floating_point() else tensor
        for name, tensor in model.state_dict().items()
    }
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    path.write_bytes(serialize(state, versions))


def float_metric(task: Task, model: nn.Module) -> float:
    """The task's metric of the unquantized model."""
    with torch.no_grad():
        statistics = [task.metric.measure(task.forward(model, batch), batch.targets) for batch in task.test()]
    return task.metric.reduce(np.concatenate(statistics))


def main(name: str) -> None:
    torch.set_num_threads(1)  # the order of summation, and so the result, depends on it
    job = JOBS[name]
    path = Path(__file__).with_name(f"{name}.safetensors")
    save(job.train(job.training), path, job.precision)
    task = EMBEDDED[name]
    print(f"{path}: {path.stat().st_size} bytes, {task.metric.name} {float_metric(task, task.load())!r}")


def _shifted_digits(batch: int) -> Iterator[tuple[Float[Tensor, "n 1 8 8"], Int64[Tensor, " n"]]]:
    images, digits = digits_training_half()
    padded = nn.functional.pad(images, (1, 1, 1, 1))
    while True:
        index = torch.randint(len(images), (batch,))
        down, right = torch.randint(3, (2,)).tolist()
        yield padded[index, :, down : down + 8, right : right + 8], digits[index]


def _random_windows(batch: int) -> Iterator[tuple[Int64[Tensor, "samples time"], Int64[Tensor, "samples time"]]]:
    ids = encode(pydoc_training_text())
    while True:
        start = torch.randint(len(ids) - CONTEXT, (batch, 1))
        windows = ids[start + torch.arange(CONTEXT + 1)]
        yield windows[:, :-1], next_character_targets(windows)


def _dropout(module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return nn.functional.dropout(output, 0.2, module.training)


def _fit_(model: nn.Module, samples: Iterator[tuple[Tensor, Tensor]], training: Training) -> None:
    model.train()
    optimizer = torch.optim.AdamW(
        model.parameters(), training.learning_rate, betas=(0.9, 0.95), weight_decay=training.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(10 * (step + 1) / training.steps, 1 - step / training.steps)
    )
    for step, (inputs, targets) in zip(range(training.steps), samples, strict=False):
        logits = model(inputs)
        loss = nn.functional.cross_entropy(logits.flatten(0, -2), targets.flatten(), ignore_index=-1)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            print(f"step {step + 1}: loss {loss.item():.3f}", flush=True)


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=JOBS)
    main(parser.parse_args().name)
