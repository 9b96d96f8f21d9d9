"""What every place in a model that has a scheme has in common: it is watched, measured, and may learn its ranges."""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn

from bitwright.model.surrogate import Ranges, can_learn, first_step
from bitwright.quantization import Quantizer


@dataclass
class Probe:
    """Energies and counts of one operand or output, gathered over batches."""

    signal: float = 0.0
    noise: float = 0.0
    count: int = 0
    clipped: int = 0
    zeros: int = 0

    def add(self, exact: Tensor, represented: Tensor) -> None:
        self.signal += float(exact.double().square().sum())
        self.noise += float((exact.double() - represented.double()).square().sum())
        self.count += exact.numel()
        self.zeros += int((represented == 0).sum())

    @property
    def sqnr_db(self) -> float | None:
        """Signal to quantization noise; None where there is no noise or no signal."""
        return 10 * float(np.log10(self.signal / self.noise)) if self.noise > 0 and self.signal > 0 else None

    def fraction(self, part: int) -> float | None:
        return part / self.count if self.count else None


@dataclass
class Measurement:
    """What one layer did to its operands over the batches it was measured on."""

    input: Probe = field(default_factory=Probe)
    weight: Probe = field(default_factory=Probe)
    output: Probe = field(default_factory=Probe)


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Puts the layer's name in front of a ValueError or OverflowError that its work raises."""
    try:
        yield
    except (ValueError, OverflowError) as error:
        raise type(error)(f"layer {name}: {error}" if name else str(error)) from None


class Site(nn.Module):
    """A layer or an attention whose operands are rounded to what its scheme can represent."""

    name: str
    seen: Any  # statistics of the operands
    quantizers: dict[str, Quantizer]  # of the operands that are quantized
    calibrated: dict[str, Ranges]  # static ranges by operand, before any is learned

    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.ParameterDict()  # learned scales by operand; empty unless `learn_ranges`
        self.measurement: Measurement | None = None
        self._observes = self._measures = False

    @abstractmethod
    def no_statistics(self) -> Any:
        """Empty statistics of the operands."""

    @abstractmethod
    def resolve(self, seen: Any) -> None:
        """Choose formats and ranges from the operands' statistics."""

    @abstractmethod
    def follow(self, seen: Any) -> None:
        """Estimate static ranges anew; formats and learned ranges stay."""

    @abstractmethod
    def pin(self, operand: str, ranges: Ranges) -> None:
        """Set the static ranges of an operand; a learned range stays."""

    @contextmanager
    def observing(self) -> Iterator[None]:
        """Forward passes compute in float and add their operands to `seen`."""
        self.seen, self._observes = self.no_statistics(), True
        try:
            yield
        finally:
            self._observes = False

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Forward passes of the simulation add to `measurement`."""
        self.measurement, self._measures = Measurement(), True
        try:
            yield
        finally:
            self._measures = False

    def scale_parameters(self) -> tuple[nn.Parameter, ...]:
        """What is learned about scales: no part of a stored model, and not to be decayed."""
        return tuple(self.steps.values())

    def learn_ranges(self) -> tuple[str, ...]:
        """Make static ranges of one level parameters, in `steps`; returns whose they are."""
        for operand, quantizer in self.quantizers.items():
            if operand not in self.steps and can_learn(quantizer, self.calibrated[operand]):
                self.steps[operand] = first_step(quantizer, self.calibrated[operand])
        return tuple(self.steps)
