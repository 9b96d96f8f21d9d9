"""A network and stored data as a task: samples stream from the data at every pass."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, final

from torch import Tensor, nn

from bitwright.model.task import (
    Batch,
    Metric,
    Perplexity,
    Spearman,
    Task,
    Top1,
    batches_digest,
    call,
    state_digest,
)
from bitwright.sources.network import Network
from bitwright.sources.records import Reader
from bitwright.sources.roles import Role
from bitwright.sources.windows import grouped, logits_of

CALIBRATION_SAMPLES = 64

EVERY_WINDOW = 8
"""Of windows, whose number is not known before they are cut, this one of so many calibrates until there are enough."""


@final
@dataclass(frozen=True)
class SourceTask(Task):
    """Without data for calibration, samples spread evenly over the data calibrate and are left out of the test."""

    network: Network
    role: Role
    data: Reader
    calibration_data: Reader | None = None
    float_metric: float = float("nan")

    @property
    def name(self) -> str:  # type: ignore[override]  # read-only here, as every field of a frozen value
        return self.network.name

    @property
    def source(self) -> str:  # type: ignore[override]
        return self.network.source

    @property
    def data_source(self) -> str:  # type: ignore[override]
        return str(self.data.path)

    @property
    def metric(self) -> Metric:  # type: ignore[override]
        return self.role.metric

    def load(self) -> nn.Module:
        return self.role.wrapped(self.network.model.eval())

    def calibration(self) -> Iterator[Batch]:
        if self.calibration_data is None:
            found = self._samples(self.data, self._is_held())
        else:
            found = self._samples(self.calibration_data, lambda index: True)
        return self._batches(islice(found, CALIBRATION_SAMPLES))

    def test(self, limit: int | None = None) -> Iterator[Batch]:
        is_held = self._is_held() if self.calibration_data is None else lambda index: False
        return self._batches(islice(self._samples(self.data, lambda index: not is_held(index)), limit))

    def forward(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.role.output(call(model, batch.inputs), batch)

    def files(self) -> dict[str, Callable[[], bytes]]:
        readers = {"test data": self.data, "calibration data": self.calibration_data}
        found = {name: reader.digest for name, reader in readers.items() if reader is not None}
        return {"weights": lambda: state_digest(self.network.model), **found}

    def _is_held(self) -> Callable[[int], bool]:
        """Does this sample calibrate?"""
        every = EVERY_WINDOW
        if self.role.is_a_sample_a_record:
            count = self.data.count()
            if count < 2:
                raise ValueError(
                    f"{self.data.path}: {count} samples found; at least 2 are needed to calibrate and to test"
                )
            every = max(count // CALIBRATION_SAMPLES, 2)
        return lambda index: index % every == 0 and index < every * CALIBRATION_SAMPLES

    def _samples(self, data: Reader, is_wanted: Callable[[int], bool]) -> Iterator[Any]:
        if self.role.is_a_sample_a_record:
            return self.role.samples(record for _, record in data.records(is_wanted))
        windows = self.role.samples(record for _, record in data.records())
        return (window for index, window in enumerate(windows) if is_wanted(index))

    def _batches(self, samples: Iterator[Any]) -> Iterator[Batch]:
        size = self.network.batch_size or self.role.batch_size
        whole = self.network.batch_size is None
        return (self.role.batch(group) for group in grouped(samples, size) if whole or len(group) == size)


@final
@dataclass(frozen=True)
class FunctionTask(Task):
    """Batches of a function that is called at every pass.

    It yields Batches, of which the first calibrates and is not tested on; or it returns two such iterables, calibration
    and test. Targets choose the metric: whole numbers are classes, of two axes next tokens, and others scores.
    """

    network: Network
    data_source: str
    batches: Callable[[], Any]
    float_metric: float = float("nan")

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.network.name

    @property
    def source(self) -> str:  # type: ignore[override]
        return self.network.source

    @property
    def metric(self) -> Metric:  # type: ignore[override]
        first = next(self.calibration(), None)
        if first is None or not first.targets.is_floating_point():
            return Perplexity() if first is not None and first.targets.dim() == 2 else Top1()
        return Spearman()

    def load(self) -> nn.Module:
        return self.network.model.eval()

    def calibration(self) -> Iterator[Batch]:
        found = self._made()
        return self._checked(found[0] if isinstance(found, tuple) else islice(found, 1))

    def test(self, limit: int | None = None) -> Iterator[Batch]:
        found = self._made()
        return first_samples(self._checked(found[1] if isinstance(found, tuple) else islice(found, 1, None)), limit)

    def forward(self, model: nn.Module, batch: Batch) -> Tensor:
        found = logits_of(call(model, batch.inputs))
        return found.squeeze(-1) if batch.targets.is_floating_point() else found

    def files(self) -> dict[str, Callable[[], bytes]]:
        return {
            "weights": lambda: state_digest(self.network.model),
            "calibration data": lambda: batches_digest(self.calibration()),
            "test data": lambda: batches_digest(self.test()),
        }

    def _made(self) -> Any:
        made = self.batches() if callable(self.batches) else self.batches
        is_pair = isinstance(made, tuple) and len(made) == 2 and not isinstance(made[0], Batch)
        if is_pair or isinstance(made, Iterable):
            return made if is_pair else iter(made)
        raise ValueError(f"{self.data_source} gives a {type(made).__name__}; it must yield bitwright Batches")

    def _checked(self, batches: Iterable[Any]) -> Iterator[Batch]:
        for batch in batches:
            if not isinstance(batch, Batch):
                raise ValueError(f"{self.data_source} gives a {type(batch).__name__}; it must yield bitwright Batches")
            yield batch


def first_samples(batches: Iterator[Batch], limit: int | None) -> Iterator[Batch]:
    left = limit
    while left is None or left > 0:
        batch = next(batches, None)
        if batch is None:
            return
        yield batch if left is None else batch.first(min(left, len(batch.targets)))
        left = None if left is None else left - len(batch.targets)
