"""Run a model over a task and judge it, beside the float model's outputs on the same samples."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn

from bitwright.model.attention import Attention
from bitwright.model.layers import QuantizedLayer
from bitwright.model.site import Probe
from bitwright.model.task import Batch, Metric, Task

Tick = Callable[[int], None]
"""Called with the number of samples that each batch adds."""


@dataclass(frozen=True)
class Evaluation:
    """A model's metric, and how near its outputs are to the reference's."""

    metric: float
    agreement: float | None  # per cent
    output_sqnr_db: float | None
    overflows: int
    accumulations: int


KEPT_BYTES = 2**30
"""Of test batches and float outputs that are kept in memory; those beyond are made again at every evaluation."""


@dataclass(frozen=True)
class Reference:
    """The float model's outputs on the test batches: the first are kept, the rest is made by `others`."""

    metric: float
    batches: tuple[Batch, ...]
    outputs: tuple[Tensor, ...]
    others: Callable[[], Iterator[tuple[Batch, Tensor]]] = lambda: iter(())
    other_samples: int = 0

    @property
    def samples(self) -> int:
        return sum(len(b.targets) for b in self.batches) + self.other_samples

    def pairs(self) -> Iterator[tuple[Batch, Tensor]]:
        """Every batch with its outputs."""
        yield from zip(self.batches, self.outputs, strict=True)
        yield from self.others()


@torch.no_grad()
def forward(task: Task, model: nn.Module, batch: Batch) -> Tensor:
    """The task's forward. ValueError where the model does not take the batch, or gives something else than a tensor."""
    try:
        output = task.forward(model, batch)
    except (RuntimeError, TypeError, IndexError) as error:
        shapes = " and ".join(str(tuple(x.shape)) for x in batch.tensors)
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"{task.name}: the model does not take inputs of shape {shapes} ({reason})") from error
    if not isinstance(output, Tensor):
        raise ValueError(
            f"{task.name}: the model gives a {type(output).__name__}, not a tensor; choose one in Task.forward"
        )
    return output


@torch.no_grad()
def reference(task: Task, model: nn.Module, limit: int | None = None, tick: Tick | None = None) -> Reference:
    """Evaluate the float model and keep what later comparisons need."""
    batches: list[Batch] = []
    outputs: list[Tensor] = []
    statistics: list[np.ndarray] = []
    size = other_samples = 0
    for batch in task.test(limit):
        output = forward(task, model, batch)
        if not bool(torch.isfinite(output).all()):
            index = tuple(torch.nonzero(~torch.isfinite(output))[0].tolist())
            raise ValueError(
                f"{task.name}: float output {index} of test batch {len(statistics)} is {output[index].item()}; "
                "find the layer or the data that made it"
            )
        size += sum(tensor.nbytes for tensor in (*batch.tensors, batch.targets, output))
        if size <= KEPT_BYTES:
            batches.append(batch)
            outputs.append(output)
        else:
            other_samples += len(batch.targets)
        statistics.append(task.metric.measure(output, batch.targets))
        if tick:
            tick(len(batch.targets))
    if not statistics:
        raise ValueError(f"{task.name}: the test data is empty; give at least one sample")
    kept = len(batches)

    @torch.no_grad()
    def others() -> Iterator[tuple[Batch, Tensor]]:
        rest = islice(task.test(limit), kept, None) if other_samples else iter(())
        return ((batch, forward(task, model, batch)) for batch in rest)

    metric = task.metric.reduce(np.concatenate(statistics))
    return Reference(metric, tuple(batches), tuple(outputs), others, other_samples)


def require_finite(metric: Metric, value: float | None) -> None:
    """ValueError where a figure of the metric is no number: nothing can be compared with it."""
    if value is not None and not math.isfinite(value):
        raise ValueError(f"the {metric.name} is {value}: too little of the network is left")


@torch.no_grad()
def evaluate(task: Task, model: nn.Module, against: Reference, tick: Tick | None = None) -> Evaluation:
    """Metric, agreement and output noise of a model on the reference's batches."""
    counters = [m for m in model.modules() if isinstance(m, QuantizedLayer | Attention)]
    for counter in counters:
        counter.overflows = counter.accumulations = 0
    statistics, agreement, noise = [], [], Probe()
    for batch, exact in against.pairs():
        output = task.forward(model, batch)
        statistics.append(task.metric.measure(output, batch.targets))
        agreement.append(task.metric.agreement(output, exact, batch.targets).reshape(-1))
        noise.add(exact, output)
        if tick:
            tick(len(batch.targets))
    return Evaluation(
        task.metric.reduce(np.concatenate(statistics)),
        100 * float(np.concatenate(agreement).mean()),
        noise.sqnr_db,
        sum(c.overflows for c in counters),
        sum(c.accumulations for c in counters),
    )
