"""What a search looks at: a design, and the figures that were found for it."""

from collections.abc import Mapping
from dataclasses import dataclass

from bitwright.recipe import Recipe, Rule
from bitwright.scheme import Scheme
from bitwright.store import key_of

Assignment = Mapping[str, str]
"""The scheme's text of each layer."""


@dataclass(frozen=True)
class Machine:
    """An accelerator by its words, as `cost.hardware.accelerator` reads them."""

    array: str = "32x32"
    dataflow: str = "ws"
    buffers: str = "128,128,128"


@dataclass(frozen=True)
class Design:
    """A scheme for each layer, and the accelerator that computes them."""

    layers: tuple[tuple[str, str], ...]  # name and scheme's text, in the order of execution
    machine: Machine = Machine()

    @property
    def assignment(self) -> dict[str, str]:
        return dict(self.layers)

    @property
    def schemes(self) -> tuple[str, ...]:
        """Each once, in the order of first use."""
        return tuple(dict.fromkeys(self.assignment.values()))

    @property
    def key(self) -> str:
        """Short content key of what decides accuracy: the schemes of the layers."""
        return key_of(self.layers)

    def recipe(self, parsed: Mapping[str, Scheme]) -> Recipe:
        """A rule a layer, or one for all where they agree."""
        if len(self.schemes) == 1:
            return Recipe.uniform(parsed[self.schemes[0]])
        return Recipe(tuple(Rule(exact_name(name), parsed[text]) for name, text in self.layers))


@dataclass(frozen=True)
class Costs:
    """What a design takes, a sample, batch of one."""

    area_mm2: float  # array, its edge, and buffers
    array_mm2: float  # without buffers
    energy_uj: float
    delay_ms: float
    cycles: float
    model_bytes: float
    accumulator_bits: float  # of the widest register that the weights of some layer need
    origins: tuple[str, ...] = ()  # measured, fitted, cited
    left_out: tuple[str, ...] = ()

    @property
    def area_delay(self) -> float:
        """mm² ms."""
        return self.area_mm2 * self.delay_ms


@dataclass(frozen=True)
class Figures:
    """How well a network with a scheme for each layer computes, on the searched samples if nothing else is said."""

    metric: float
    held_out_metric: float | None  # of samples that no decision of the search has seen
    agreement: float | None
    output_sqnr_db: float | None
    samples: int
    seconds: float
    error: str | None = None


@dataclass(frozen=True)
class Point:
    """A design with its costs; figures where it was evaluated."""

    design: Design
    costs: Costs
    predicted_damage: float
    figures: Figures | None = None
    origin: str = "search"  # "uniform" | "allocation" | a strategy's name | "search"
    excess: tuple[tuple[str, float], ...] = ()  # limits that it breaks, and by which part of their bound

    @property
    def is_feasible(self) -> bool:
        return not self.excess

    @property
    def metric(self) -> float | None:
        return None if self.figures is None or self.figures.error else self.figures.metric


def exact_name(name: str) -> str:
    """A pattern of `Rule` that matches this name alone."""
    import re

    return f"re:^{re.escape(name)}$"
