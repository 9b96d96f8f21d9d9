"""Between the points of the table: a line over the register's bits, and a polynomial over integers of any widths.

Each comes with the largest ratio to a point that was left out, over all points of one library.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from bitwright.cost.figure import Figure, Fitted, Measured

Points = Mapping[int, float]
"""Values by the register's bits."""


class Estimate(NamedTuple):
    """A value, and how far such values lie from measured ones at worst."""

    value: float
    worst_ratio: float
    is_measured: bool = False

    def figure(self, source: str) -> Figure:
        """With its origin."""
        if self.is_measured:
            return Measured(self.value, source)
        return Fitted(self.value, f"{source}, between points", self.worst_ratio)


@dataclass(frozen=True)
class Lines:
    """Values of circuits that differ in their register alone: straight between neighbours, a slope beyond the ends."""

    circuits: tuple[Points, ...]

    @cached_property
    def slope(self) -> float:
        """What a bit of the register adds, in the middle of all circuits."""
        found = []
        for points in self.circuits:
            low, high = min(points), max(points)
            if low < high:
                found.append((points[high] - points[low]) / (high - low))
        return median(found) if found else 0.0

    @cached_property
    def worst_ratio(self) -> float:
        """Each point between two others, from them; where there is none, both ends from each other."""
        ratios = []
        for points in self.circuits:
            for bits, value in points.items():
                if min(points) < bits < max(points):
                    ratios.append(ratio(_on(_without(points, bits), bits), value))
        ends = [ratio(points[min(points)], points[max(points)]) for points in self.circuits]
        return max(ratios or ends, default=1.0)

    @cached_property
    def worst_ratio_of_one(self) -> float:
        """Every point from each other one by the slope alone, up to `REACH` bits away."""
        ratios = [1.0]
        for points in self.circuits:
            for bits, value in points.items():
                near = [other for other in points if 0 < abs(other - bits) <= REACH]
                ratios += [ratio(self._from_one(points[other], other, bits), value) for other in near]
        return max(ratios)

    def at(self, points: Points, bits: int) -> Estimate | None:
        """Of one circuit; None where the register lies too far from all that were measured."""
        low, high = min(points), max(points)
        if low <= bits <= high:
            return Estimate(_on(points, bits), self.worst_ratio)
        if not low - REACH <= bits <= high + REACH:
            return None
        end = low if bits < low else high
        return Estimate(self._from_one(points[end], end, bits), self.worst_ratio_of_one)

    def _from_one(self, value: float, at: int, bits: int) -> float:
        return max(value + self.slope * (bits - at), value / 10)


REACH = 8
"""Bits beyond the measured registers that a line is followed."""


class Integers(NamedTuple):
    """A multiplier of integers with its register, and whether inputs without negative values drive it."""

    x_bits: int
    w_bits: int
    register_bits: int
    saturates: bool
    is_rectified: bool


@dataclass(frozen=True)
class Polynomial:
    """1, x·w, x, w, register; more for one that saturates, less for half the inputs zero. Least squares, relative."""

    points: tuple[Integers, ...]
    values: tuple[float, ...]

    @cached_property
    def worst_ratio(self) -> float:
        """Each point from all others; what a fit without it misses is its residual over one less its leverage.

        Infinite where the others say nothing of a point, or that it is not positive.
        """
        scaled = _terms(self.points) / np.asarray(self.values)[:, None]
        used = scaled[:, scaled.any(axis=0)]
        leverage = np.einsum("ij,ji->i", used, np.linalg.pinv(used))
        left = 1 - leverage
        known = left > 1e-9
        found = 1 - (1 - scaled @ self._weights)[known] / left[known]
        if not known.all() or not (found > 0).all():
            return math.inf
        return float(np.max(np.maximum(found, 1 / found)))

    def at(self, cell: Integers) -> Estimate | None:
        """None beyond the widths that were measured; the register may lie a little outside."""
        for name, value in cell._asdict().items():
            column, reach = [getattr(point, name) for point in self.points], REACH * (name == "register_bits")
            if not min(column) - reach <= value <= max(column) + reach:
                return None
        value = float(self._predicted([cell])[0])
        return Estimate(value, self.worst_ratio) if value > 0 else None

    def _predicted(self, cells: Sequence[Integers]) -> Float[np.ndarray, " cells"]:
        return _terms(cells) @ self._weights

    @cached_property
    def _weights(self) -> Float[np.ndarray, " terms"]:
        scaled = _terms(self.points) / np.asarray(self.values)[:, None]
        return np.linalg.lstsq(scaled, np.ones(len(self.points)), rcond=None)[0]


def _terms(cells: Sequence[Integers]) -> Float[np.ndarray, "cells terms"]:
    x, w, register, saturates, is_rectified = np.asarray(cells, np.float64).T
    more, less = (saturates, saturates * register), (is_rectified, is_rectified * x * w)
    return np.stack([np.ones_like(x), x * w, x, w, register, *more, *less], axis=1)


def _on(points: Points, bits: int) -> float:
    """Straight between the neighbours of bits."""
    if bits in points:
        return points[bits]
    low, high = max(k for k in points if k < bits), min(k for k in points if k > bits)
    return points[low] + (points[high] - points[low]) * (bits - low) / (high - low)


def _without(points: Points, bits: int) -> Points:
    return {other: value for other, value in points.items() if other != bits}


def ratio(a: float, b: float) -> float:
    """Of the larger to the smaller; nothing equals nothing, and is infinitely far from something."""
    if a == b:
        return 1.0
    return max(a / b, b / a) if a > 0 and b > 0 else float("inf")
