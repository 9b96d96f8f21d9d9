"""Run a model over a task and judge it, beside the float model's outputs on the same samples."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from bitwright.model.attention import Attention
from bitwright.model.layers import QuantizedLayer
from bitwright.model.site import Probe
from bitwright.model.task import Batch, Task

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


@dataclass(frozen=True)
class Reference:
    """The float model's outputs on the test batches."""

    metric: float
    batches: tuple[Batch, ...]
    outputs: tuple[Tensor, ...]

    @property
    def samples(self) -> int:
        return sum(len(b.targets) for b in self.batches)


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
    for batch in task.test(limit):
        output = forward(task, model, batch)
        if not bool(torch.isfinite(output).all()):
            index = tuple(torch.nonzero(~torch.isfinite(output))[0].tolist())
            raise ValueError(
                f"{task.name}: float output {index} of test batch {len(batches)} is {output[index].item()}; "
                "find the layer or the data that made it"
            )
        batches.append(batch)
        outputs.append(output)
        statistics.append(task.metric.measure(output, batch.targets))
        if tick:
            tick(len(batch.targets))
    if not batches:
        raise ValueError(f"{task.name}: the test data is empty; give at least one sample")
    return Reference(task.metric.reduce(np.concatenate(statistics)), tuple(batches), tuple(outputs))


@torch.no_grad()
def evaluate(task: Task, model: nn.Module, against: Reference, tick: Tick | None = None) -> Evaluation:
    """Metric, agreement and output noise of a model on the reference's batches."""
    counters = [m for m in model.modules() if isinstance(m, QuantizedLayer | Attention)]
    for counter in counters:
        counter.overflows = counter.accumulations = 0
    statistics, agreement, noise = [], [], Probe()
    for batch, exact in zip(against.batches, against.outputs, strict=True):
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
