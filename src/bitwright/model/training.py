"""How a model is trained: optimizer, schedule, batches, and what else varies, as values."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from bitwright.model.task import Batch


@dataclass(frozen=True)
class AdamW:
    """Loshchilov and Hutter, arXiv:1711.05101."""

    betas: tuple[float, float] = (0.9, 0.999)

    def build(self, groups: list[dict[str, object]], learning_rate: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups, learning_rate, self.betas)


@dataclass(frozen=True)
class Sgd:
    """Stochastic gradient descent with momentum."""

    momentum: float = 0.9
    nesterov: bool = False

    def build(self, groups: list[dict[str, object]], learning_rate: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(groups, learning_rate, self.momentum, nesterov=self.nesterov)


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from the learning rate to `floor` times it, after a linear warm-up (arXiv:1608.03983, eq. 5)."""

    warmup_steps: int = 0
    floor: float = 0.0

    def factor(self, step: int, steps: int) -> float:
        """Of the learning rate, at a step of so many."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(steps - self.warmup_steps, 1)
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * done)) / 2


@dataclass(frozen=True)
class Staircase:
    """The learning rate falls by `drop` after each of these parts of all steps."""

    after: tuple[float, ...] = (0.5, 0.75)
    drop: float = 0.1

    def factor(self, step: int, steps: int) -> float:
        """Of the learning rate, at a step of so many."""
        return self.drop ** sum(step >= part * steps for part in self.after)


@dataclass(frozen=True)
class RangeWarmup:
    """Static input ranges are estimated anew from the batch of every so many steps at first, then stay."""

    steps: int
    every: int = 10

    def __post_init__(self) -> None:
        if self.steps < 0 or self.every < 1:
            raise ValueError(f"{self}: found; steps must be at least 0 and every at least 1")


@dataclass(frozen=True)
class Training:
    """How a prepared model is trained. Weight decay leaves out biases, normalisation and learned step sizes."""

    epochs: int = 1
    learning_rate: float = 1e-3
    optimizer: AdamW | Sgd = AdamW()
    schedule: Cosine | Staircase = Cosine()
    weight_decay: float = 0.0
    largest_gradient: float = math.inf  # norm of all gradients together, beyond which they are scaled down
    range_warmup: RangeWarmup = RangeWarmup(0)
    batchnorm_epochs: int = 0  # in which BatchNorm follows the batches; afterwards its statistics stay
    autocast: torch.dtype | None = None  # such as torch.bfloat16; None computes in the model's own type
    patience: int | None = None  # epochs without a better score before stopping
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.learning_rate <= 0 or self.weight_decay < 0 or self.largest_gradient <= 0:
            raise ValueError(
                f"{self}: found; epochs and weight_decay must be at least 0, learning_rate and largest_gradient above 0"
            )
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"Training: a patience of {self.patience} epochs found; it is at least 1, or None")


class Batches(ABC):
    """Training data: the same batches for the same epoch, however often they are asked for."""

    @abstractmethod
    def __len__(self) -> int:
        """Batches of an epoch."""

    @abstractmethod
    def epoch(self, index: int) -> Iterator[Batch]: ...


@final
@dataclass(frozen=True)
class InOrder(Batches):
    """The same batches in the same order every epoch."""

    batches: tuple[Batch, ...]

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, index: int) -> Iterator[Batch]:
        return iter(self.batches)


@final
@dataclass(frozen=True)
class Shuffled(Batches):
    """Samples in an order of their own every epoch; the last batch may be smaller."""

    samples: Batch
    size: int
    seed: int = 0

    def __len__(self) -> int:
        return -(-len(self.samples.targets) // self.size)

    def epoch(self, index: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        order = torch.randperm(len(self.samples.targets), generator=generator)
        return (select(self.samples, part) for part in order.split(self.size))


def select(samples: Batch, index: Tensor | slice) -> Batch:
    """Some of the samples of a batch."""
    inputs = samples.inputs
    chosen = {k: x[index] for k, x in inputs.items()} if isinstance(inputs, dict) else tuple(x[index] for x in inputs)
    return replace(samples, inputs=chosen, targets=samples.targets[index])
