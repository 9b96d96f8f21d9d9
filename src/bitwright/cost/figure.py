"""A number with its origin: measured here, fitted to what others give, or cited. A sum says which it is made of."""

from abc import ABC
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar, TypeVar

F = TypeVar("F", bound="Figure")


@dataclass(frozen=True)
class Figure(ABC):
    """A value whose unit stands in the name of the field that holds it, and where it comes from."""

    value: float | int
    source: str

    origin: ClassVar[str]

    def times(self: F, count: float | int) -> F:
        """The same for so many."""
        return replace(self, value=self.value * count)


@dataclass(frozen=True)
class Measured(Figure):
    """Synthesised or run here; the source names tool, library and netlist."""

    origin: ClassVar[str] = "measured"


@dataclass(frozen=True)
class Fitted(Figure):
    """Between or near points that others give; the largest ratio to a point that was left out or is not met."""

    worst_ratio: float | int

    origin: ClassVar[str] = "fitted"


@dataclass(frozen=True)
class Cited(Figure):
    """As another published it."""

    origin: ClassVar[str] = "cited"


@dataclass(frozen=True)
class Sum:
    """A sum of figures, with their origins and sources."""

    value: float | int
    origins: tuple[str, ...]
    sources: tuple[str, ...]


def total(figures: Iterable[Figure]) -> Sum:
    """The sum of figures of one unit. Zeros, which nothing was counted of, do not lend their origin."""
    counted = [f for f in figures if f.value]
    origins = tuple(sorted({f.origin for f in counted}))
    return Sum(float(sum(f.value for f in counted)), origins, tuple(dict.fromkeys(f.source for f in counted)))
