"""A float model with its data and its metric: what a comparison starts from."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Inputs = tuple[Any, ...] | dict[str, Any]
"""Arguments of a forward call, by position or by keyword."""


def call(model: nn.Module, inputs: Inputs) -> Any:
    """The model on its inputs."""
    return model(**inputs) if isinstance(inputs, dict) else model(*inputs)


@dataclass(frozen=True)
class Batch:
    """Inputs of one forward call, and the targets of its samples."""

    inputs: tuple[Tensor, ...] | dict[str, Tensor]
    targets: Tensor

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The inputs without their keywords."""
        return tuple(self.inputs.values()) if isinstance(self.inputs, dict) else self.inputs

    def first(self, count: int) -> "Batch":
        """Its first samples."""
        return self.part(slice(count))

    def part(self, samples: slice) -> "Batch":
        """Some of its samples."""
        parts = tuple(x[samples] for x in self.tensors)
        inputs = dict(zip(self.inputs, parts, strict=True)) if isinstance(self.inputs, dict) else parts
        return replace(self, inputs=inputs, targets=self.targets[samples])


class Metric(ABC):
    """A figure computed from per-sample statistics, so that two models can be compared sample by sample."""

    name: str
    unit: str
    higher_is_better: bool
    is_of_logits: bool = False
    """Whether outputs are logits, of the classes along their last axis."""

    @abstractmethod
    def measure(self, outputs: Tensor, targets: Tensor) -> np.ndarray:
        """Statistics [samples, s] of one batch."""

    @abstractmethod
    def reduce(self, statistics: np.ndarray) -> float:
        """The metric of all samples together, from their stacked statistics [samples, s]."""

    @abstractmethod
    def agreement(self, outputs: Tensor, reference: Tensor, targets: Tensor) -> np.ndarray:
        """Per decision: how far the outputs decide as the reference does, in [0, 1]."""


class Top1(Metric):
    """Per cent of samples whose largest logit is the target's."""

    name, unit, higher_is_better, is_of_logits = "top-1 accuracy", "%", True, True

    def measure(self, outputs: Tensor, targets: Tensor) -> np.ndarray:
        return (outputs.argmax(-1) == targets).double().numpy()[:, None]

    def reduce(self, statistics: np.ndarray) -> float:
        return 100 * float(statistics[:, 0].mean())

    def agreement(self, outputs: Tensor, reference: Tensor, targets: Tensor) -> np.ndarray:
        return (outputs.argmax(-1) == reference.argmax(-1)).double().numpy()


class Perplexity(Metric):
    """exp of the mean negative log-likelihood. Outputs [samples, time, vocabulary]; targets below 0 are not scored."""

    name, unit, higher_is_better, is_of_logits = "perplexity", "", False, True

    def measure(self, outputs: Tensor, targets: Tensor) -> np.ndarray:
        scored = targets >= 0
        loss = nn.functional.cross_entropy(
            outputs.double().transpose(1, 2), targets.clamp(min=0).long(), reduction="none"
        )
        return np.stack([(loss * scored).sum(1).numpy(), scored.sum(1).double().numpy()], 1)

    def reduce(self, statistics: np.ndarray) -> float:
        nats, tokens = statistics.sum(0)
        return float(np.exp(nats / tokens))

    def agreement(self, outputs: Tensor, reference: Tensor, targets: Tensor) -> np.ndarray:
        return (outputs.argmax(-1) == reference.argmax(-1))[targets >= 0].double().numpy()


class Spearman(Metric):
    """Rank correlation of outputs [samples] with targets, in per cent. Equal values share their mean rank."""

    name, unit, higher_is_better = "Spearman correlation", "%", True

    def measure(self, outputs: Tensor, targets: Tensor) -> np.ndarray:
        return np.stack([outputs.double().numpy(), targets.double().numpy()], 1)

    def reduce(self, statistics: np.ndarray) -> float:
        return 100 * rank_correlation(statistics[:, 0], statistics[:, 1])

    def agreement(self, outputs: Tensor, reference: Tensor, targets: Tensor) -> np.ndarray:
        """Per pair of samples in the batch: whether both models put it in the same order."""
        first, second = torch.triu_indices(len(outputs), len(outputs), offset=1)
        order, expected = (torch.sign(values[first] - values[second]) for values in (outputs, reference))
        return (order == expected).double().numpy()


@dataclass(frozen=True)
class Psnr(Metric):
    """Mean over images of the peak signal-to-noise ratio of 8-bit pixels, without `border` pixels at every edge.

    Outputs [samples, 1, h, w] in [0, 1] are rounded to 8 bits; targets in [0, 255] are not, as luma is no integer.
    """

    border: int

    name, unit, higher_is_better = "PSNR", "dB", True

    def measure(self, outputs: Tensor, targets: Tensor) -> np.ndarray:
        error = self._pixels(outputs) - self._inside(targets.double())
        return (10 * torch.log10(255**2 / error.square().mean((1, 2, 3)))).numpy()[:, None]

    def reduce(self, statistics: np.ndarray) -> float:
        return float(statistics[:, 0].mean())

    def agreement(self, outputs: Tensor, reference: Tensor, targets: Tensor) -> np.ndarray:
        """Per pixel: whether both models give the same 8-bit value."""
        return (self._pixels(outputs) == self._pixels(reference)).double().numpy().ravel()

    def _pixels(self, image: Tensor) -> Tensor:
        return self._inside((255 * image.double()).round().clamp(0, 255))

    def _inside(self, image: Tensor) -> Tensor:
        kept = slice(self.border, -self.border or None)
        return image[..., kept, kept]


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's. Not scipy's, whose statistics take longer to load than all else here."""
    return float(np.corrcoef(_mean_ranks(first), _mean_ranks(second))[0, 1])


def _mean_ranks(values: np.ndarray) -> np.ndarray:
    """Position of each value in sorted order; equal values get the mean of theirs."""
    _, group, size = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(size)
    return (last - (size - 1) / 2)[group]


class Task(ABC):
    """A model, its calibration and test batches, and how its outputs are judged."""

    name: str
    source: str  # of the weights
    data_source: str
    metric: Metric
    float_metric: float  # measured before any quantization; `compare` reproduces it

    @abstractmethod
    def load(self) -> nn.Module:
        """The trained float model, in eval mode."""

    @abstractmethod
    def calibration(self) -> Iterator[Batch]:
        """Batches for static ranges; never test samples."""

    @abstractmethod
    def test(self, limit: int | None = None) -> Iterator[Batch]:
        """Test batches in a fixed order, at most `limit` samples."""

    @abstractmethod
    def files(self) -> dict[str, Callable[[], bytes]]:
        """Weights and data by name, for hashing."""

    def forward(self, model: nn.Module, batch: Batch) -> Tensor:
        """Outputs [samples, ...] that the metric judges."""
        return call(model, batch.inputs)


def state_digest(model: nn.Module) -> bytes:
    """SHA-256 of all tensors by name, one at a time."""
    found = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        found.update(name.encode())
        found.update(_bytes(tensor))
    return found.digest()


def batches_digest(batches: Iterable[Batch]) -> bytes:
    """SHA-256 of inputs and targets, a batch at a time."""
    found = hashlib.sha256()
    for batch in batches:
        for tensor in (*batch.tensors, batch.targets):
            found.update(_bytes(tensor))
    return found.digest()


def _bytes(tensor: Tensor) -> bytes:
    """Of any type, also those that NumPy has not."""
    return tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()
