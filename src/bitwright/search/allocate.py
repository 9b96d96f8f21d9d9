"""A scheme for each layer by integer programming: least damage within a budget, or least cost within a damage.

Exact for damages and costs that add up over layers. Areas do not: they follow from the set of schemes in use, so one
program is solved for each set of few schemes, with elements that serve every layer under each scheme of the set.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import heappop, heappush
from itertools import combinations, count

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from bitwright.search.budget import Budget, Limit
from bitwright.search.point import Design, Machine
from bitwright.search.prices import LayerSums, Prices, own_area
from bitwright.search.quiet import without_lines
from bitwright.search.sensitivity import Damages

LARGEST_SET = 3
"""Schemes in use at once, beyond the sets of all."""

PRICES = 2.0 ** np.arange(-16, 4)
"""Of a unit of cost, over the ratio of what damages and costs span, at which a program's damage is bounded."""

TINY = 1e-30


@dataclass(frozen=True)
class Allocation:
    """A design of least damage within a budget, or the nearest to it: `broken` names limits that cannot all be kept."""

    design: Design
    damage: float
    broken: tuple[tuple[str, float], ...] = ()  # and by which part of their bound


@dataclass(frozen=True)
class Program:
    """Choices with their damage and costs: one of each layer's, sums of costs below bounds."""

    layers: tuple[str, ...]
    choices: tuple[tuple[int, str], ...]  # index of the layer, and scheme
    damage: np.ndarray  # [choices]
    costs: np.ndarray  # [quantities, choices]
    bounds: np.ndarray  # [quantities]

    @property
    def least(self) -> float:
        """No solution has less damage: Lagrange's bound at some prices of each cost; infinite where a bound is too low.

        H. Everett, Operations Research 11(3), 1963: whatever a unit of cost is worth, what a best choice for each layer
        then takes, less the worth of the bound, is at most the damage within the bound.
        """
        found = self._sum_of_least(self.damage)
        for cost, bound in zip(self.costs, self.bounds, strict=True):
            slack = 1e-9 * abs(bound)  # no sum is cut that differs by rounding alone
            if self._sum_of_least(cost) > bound + slack:
                return np.inf
            step = np.ptp(self.damage) / max(np.ptp(cost), TINY)
            for price in step * PRICES:
                found = max(found, self._sum_of_least(self.damage + price * cost) - price * (bound + slack))
        return found

    def _sum_of_least(self, values: np.ndarray) -> float:
        """Of the least of each layer's choices."""
        best = np.full(len(self.layers), np.inf)
        np.minimum.at(best, self._places, values)
        return float(best.sum())

    def _free(self) -> np.ndarray:
        """The least damaging choice of each layer, as if there was no bound."""
        order = np.argsort(self.damage, kind="stable")
        return order[np.unique(self._places[order], return_index=True)[1]]

    def _chosen(self, columns: np.ndarray) -> dict[str, str]:
        return {self.layers[layer]: text for layer, text in (self.choices[column] for column in columns)}

    @cached_property
    def _places(self) -> np.ndarray:
        return np.array([i for i, _ in self.choices])

    def solve(self, *, slack: bool = False) -> tuple[dict[str, str], np.ndarray] | None:
        """Schemes by layer and by which part each bound is exceeded; None where nothing fits and no slack is allowed.

        With slack the sum of the exceeded parts is least, and then the damage.
        """
        free = self._free()
        if (self.costs[:, free].sum(1) <= self.bounds).all():
            return self._chosen(free), np.zeros(len(self.bounds))
        columns, quantities = len(self.choices), len(self.bounds)
        scale = np.maximum(np.abs(self.bounds), 1e-12)
        costs = np.concatenate([self.costs / scale[:, None], -np.eye(quantities)], 1)
        members = csr_array(
            (np.ones(columns), (self._places, np.arange(columns))), (len(self.layers), columns + quantities)
        )
        largest = max(float(self.damage.max(initial=0.0)), TINY)
        weights = np.concatenate([self.damage / largest, np.full(quantities, 1e3 * max(len(self.layers), 1))])
        constraints = [LinearConstraint(members, 1, 1)]
        if quantities:
            constraints.append(LinearConstraint(costs, -np.inf, np.where(self.bounds > 0, 1.0, 0.0)))
        upper = np.concatenate([np.ones(columns), np.full(quantities, np.inf if slack else 0.0)])
        kinds = np.concatenate([np.ones(columns), np.zeros(quantities)])
        with without_lines("HighsMipSolverData::"):
            found = milp(weights, constraints=constraints, integrality=kinds, bounds=Bounds(0, upper))
        if found.x is None:
            return None
        return self._chosen(np.flatnonzero(found.x[:columns] > 0.5)), np.maximum(found.x[columns:], 0.0)


@dataclass(frozen=True)
class Place:
    """A machine, and schemes that may be chosen on it, with what the choices take there."""

    machine: Machine
    texts: tuple[str, ...]
    areas: Mapping[str, float]  # of elements that serve all of the schemes
    choices: tuple[tuple[int, str], ...]  # index of the layer, and scheme
    sums: tuple[LayerSums, ...]  # of each choice
    accumulator_bits: tuple[int, ...]


def places(prices: Prices, machines: Iterable[Machine], largest_set: int = LARGEST_SET) -> Iterator[Place]:
    """Every machine with every set of up to so many schemes that leaves each layer one."""
    candidates = prices.candidates
    for machine in machines:
        for size in range(1, min(largest_set, len(candidates.schemes)) + 1):
            for texts in combinations(candidates.schemes, size):
                choices = [(i, t) for i, n in enumerate(candidates.names) for t in candidates.choices[n] if t in texts]
                if {i for i, _ in choices} != set(range(len(candidates.names))):
                    continue
                macs = prices.elements(candidates.widest_work(texts))
                areas = prices.areas(machine, macs)
                whole = sum(figure.value for figure in areas.values()) / 1e6
                named = [(candidates.names[i], text) for i, text in choices]
                sums = tuple(prices.of_layer(machine, macs[text], name, text) for name, text in named)
                bits = tuple(candidates.layer(name, text).accumulator_bits or 0 for name, text in named)
                yield Place(machine, texts, {"area": whole, "array": own_area(areas)}, tuple(choices), sums, bits)


def program(prices: Prices, damages: Damages, place: Place, limits: Sequence[Limit]) -> Program | None:
    """Of the choices in a place; None where a layer has none whose register is narrow enough."""
    names = prices.candidates.names
    most = min((limit.bound for limit in limits if limit.quantity == "accumulator"), default=np.inf)
    kept = [c for c in range(len(place.choices)) if place.accumulator_bits[c] <= most]
    choices = tuple(place.choices[c] for c in kept)
    if {i for i, _ in choices} != set(range(len(names))):
        return None
    summed = [limit for limit in limits if limit.quantity in LayerSums._fields]
    costs = np.array([[getattr(place.sums[c], limit.quantity) for c in kept] for limit in summed])
    fixed = prices.candidates.model_bytes({})
    bounds = np.array([limit.bound - (fixed if limit.quantity == "model" else 0.0) for limit in summed])
    damage = np.array([damages[names[i], text] for i, text in choices])
    return Program(names, choices, damage, costs.reshape(len(summed), len(kept)), bounds)


def allocations(
    prices: Prices, damages: Damages, budget: Budget, among: Iterable[Place]
) -> Iterator[Allocation]:  # fmt: skip
    """Designs that keep the budget, each the best of a machine and some of the schemes, least damage first.

    A program is solved when no design that is known has less damage than it could reach, so the first designs come
    before most programs are solved.
    """
    numbers, found = count(), set[Design]()
    heap: list[tuple[float, int, Program | Allocation, Machine]] = []
    for place in among:
        if any(limit.excess(place.areas[limit.quantity]) for limit in budget.of_costs if limit.quantity in place.areas):
            continue
        made = program(prices, damages, place, budget.of_costs)
        if made is not None and (least := made.least) < np.inf:
            heappush(heap, (least, next(numbers), made, place.machine))
    while heap:
        _, _, best, machine = heappop(heap)
        if isinstance(best, Allocation):
            yield best
        elif (solved := best.solve()) is not None:
            design = Design(tuple(solved[0].items()), machine)
            if design not in found:
                found.add(design)
                damage = _damage(solved[0], damages)
                heappush(heap, (damage, next(numbers), Allocation(design, damage), machine))


def nearest_allocation(
    prices: Prices, damages: Damages, budget: Budget, among: Iterable[Place]
) -> Allocation | None:  # fmt: skip
    """The design that breaks the budget least, and which limits it breaks; None where no layer fits any scheme."""
    best: tuple[float, Allocation] | None = None
    limits = tuple(m for m in budget.of_costs if m.quantity != "accumulator")
    for place in among:
        made = program(prices, damages, place, limits)
        solved = None if made is None else made.solve(slack=True)
        if solved is None:
            continue
        design = Design(tuple(solved[0].items()), place.machine)
        broken = budget.excess(prices.of(design))
        beyond = sum(part for _, part in broken)
        if best is None or beyond < best[0]:
            best = beyond, Allocation(design, _damage(solved[0], damages), broken)
    return None if best is None else best[1]


def damage_of(design: Design, damages: Damages) -> float:
    """Sum over layers: what the additive model says."""
    return _damage(design.assignment, damages)


def _damage(chosen: Mapping[str, str], damages: Damages) -> float:
    return float(sum(damages.get(pair, 0.0) for pair in chosen.items()))
