"""A scheme for each layer by integer programming: least damage within a budget, or least cost within a damage.

Exact for damages and costs that add up over layers. Areas do not: they follow from the set of schemes in use, so one
program is solved for each set of few schemes, with elements that serve every layer under each scheme of the set.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from bitwright.search.budget import Budget, Limit
from bitwright.search.point import Design, Machine
from bitwright.search.prices import LayerSums, Prices, own_area
from bitwright.search.sensitivity import Damages

LARGEST_SET = 3
"""Schemes in use at once, beyond the sets of all."""


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

    def solve(self, *, slack: bool = False) -> tuple[dict[str, str], np.ndarray] | None:
        """Schemes by layer and by which part each bound is exceeded; None where nothing fits and no slack is allowed.

        With slack the sum of the exceeded parts is least, and then the damage.
        """
        count, quantities = len(self.choices), len(self.bounds)
        scale = np.maximum(np.abs(self.bounds), 1e-12)
        costs = np.concatenate([self.costs / scale[:, None], -np.eye(quantities)], 1)
        places = [i for i, _ in self.choices], np.arange(count)
        members = csr_array((np.ones(count), places), (len(self.layers), count + quantities))
        largest = max(float(self.damage.max(initial=0.0)), 1e-30)
        weights = np.concatenate([self.damage / largest, np.full(quantities, 1e3 * max(len(self.layers), 1))])
        constraints = [LinearConstraint(members, 1, 1)]
        if quantities:
            constraints.append(LinearConstraint(costs, -np.inf, np.where(self.bounds > 0, 1.0, 0.0)))
        upper = np.concatenate([np.ones(count), np.full(quantities, np.inf if slack else 0.0)])
        kinds = np.concatenate([np.ones(count), np.zeros(quantities)])
        found = milp(weights, constraints=constraints, integrality=kinds, bounds=Bounds(0, upper))
        if found.x is None:
            return None
        chosen = {self.layers[i]: text for (i, text), x in zip(self.choices, found.x, strict=False) if x > 0.5}
        return chosen, np.maximum(found.x[count:], 0.0)


def program(
    prices: Prices, damages: Damages, texts: Sequence[str], machine: Machine, limits: Sequence[Limit]
) -> Program | None:  # fmt: skip
    """Of layers that have some of these schemes on a machine; None where a layer has none of them."""
    candidates, array = prices.candidates, prices.accelerator(machine)
    choices = [(i, t) for i, n in enumerate(candidates.names) for t in candidates.choices[n] if t in texts]
    most = min((limit.bound for limit in limits if limit.quantity == "accumulator"), default=np.inf)
    choices = [c for c in choices if (candidates.layer(candidates.names[c[0]], c[1]).accumulator_bits or 0) <= most]
    if {i for i, _ in choices} != set(range(len(candidates.names))):
        return None
    macs = prices.elements(candidates.widest_work(texts))
    summed = [limit for limit in limits if limit.quantity in LayerSums._fields]
    sums = [prices.of_layer(array, macs[text], candidates.names[i], text) for i, text in choices]
    table = np.array([[getattr(one, limit.quantity) for one in sums] for limit in summed]).reshape(
        len(summed), len(sums)
    )
    fixed = candidates.model_bytes({})
    bounds = np.array([limit.bound - (fixed if limit.quantity == "model" else 0.0) for limit in summed])
    damage = np.array([damages[candidates.names[i], text] for i, text in choices])
    return Program(candidates.names, tuple(choices), damage, table, bounds)


def allocations(
    prices: Prices, damages: Damages, budget: Budget, machines: Iterable[Machine], largest_set: int = LARGEST_SET
) -> list[Allocation]:  # fmt: skip
    """The best of each machine and set of schemes that keeps the budget, least damage first."""
    found = []
    for machine, texts, areas in _places(prices, machines, largest_set):
        if any(limit.excess(areas[limit.quantity]) for limit in budget.of_costs if limit.quantity in areas):
            continue
        made = program(prices, damages, texts, machine, budget.of_costs)
        solved = None if made is None else made.solve()
        if solved is not None:
            found.append(_allocation(solved[0], machine, damages))
    unique = {allocation.design: allocation for allocation in sorted(found, key=lambda a: a.damage)}
    return list(unique.values())


def nearest_allocation(
    prices: Prices, damages: Damages, budget: Budget, machines: Iterable[Machine], largest_set: int = LARGEST_SET
) -> Allocation | None:  # fmt: skip
    """The design that breaks the budget least, and which limits it breaks; None where no layer fits any scheme."""
    best: tuple[float, Allocation] | None = None
    limits = tuple(m for m in budget.of_costs if m.quantity != "accumulator")
    for machine, texts, _ in _places(prices, machines, largest_set):
        made = program(prices, damages, texts, machine, limits)
        solved = None if made is None else made.solve(slack=True)
        if solved is None:
            continue
        design = _allocation(solved[0], machine, damages).design
        broken = budget.excess(prices.of(design))
        beyond = sum(part for _, part in broken)
        if best is None or beyond < best[0]:
            best = beyond, Allocation(design, _damage(solved[0], damages), broken)
    return None if best is None else best[1]


def damage_of(design: Design, damages: Damages) -> float:
    """Sum over layers: what the additive model says."""
    return _damage(design.assignment, damages)


def _places(
    prices: Prices, machines: Iterable[Machine], largest_set: int
) -> Iterator[tuple[Machine, tuple[str, ...], Mapping[str, float]]]:  # fmt: skip
    """Machines and sets of schemes, with the areas of both together."""
    texts = tuple(prices.candidates.schemes)
    for machine in machines:
        for size in range(1, min(largest_set, len(texts)) + 1):
            for chosen in combinations(texts, size):
                work = prices.candidates.widest_work(chosen)
                areas = prices.areas(prices.accelerator(machine), prices.elements(work))
                whole = sum(figure.value for figure in areas.values()) / 1e6
                yield machine, chosen, {"area": whole, "array": own_area(areas)}


def _allocation(chosen: dict[str, str], machine: Machine, damages: Damages) -> Allocation:
    return Allocation(Design(tuple(chosen.items()), machine), _damage(chosen, damages))


def _damage(chosen: Mapping[str, str], damages: Damages) -> float:
    return float(sum(damages.get(pair, 0.0) for pair in chosen.items()))
