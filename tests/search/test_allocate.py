import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright.search.allocate import Program, allocations, nearest_allocation, places
from bitwright.search.budget import Budget
from bitwright.search.point import Machine
from bitwright.search.strategies import ohq

MACHINES = (Machine("16x16"), Machine("32x32"))


@st.composite
def programs(draw):
    layers, texts, quantities = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(0, 2))
    numbers = st.integers(0, 20).map(float)
    choices = tuple((i, f"scheme {t}") for i in range(layers) for t in range(texts))
    damage = np.array(draw(st.lists(numbers, min_size=len(choices), max_size=len(choices))))
    costs = np.array([draw(st.lists(numbers, min_size=len(choices), max_size=len(choices))) for _ in range(quantities)])
    bounds = np.array(draw(st.lists(st.integers(1, 60).map(float), min_size=quantities, max_size=quantities)))
    names = tuple(f"layer {i}" for i in range(layers))
    return names, choices, damage, costs.reshape(quantities, len(choices)), bounds


def every(program):
    """Damage and costs of all assignments."""
    by_layer = [[c for c, (i, _) in enumerate(program.choices) if i == n] for n in range(len(program.layers))]
    for columns in itertools.product(*by_layer):
        yield program.damage[list(columns)].sum(), program.costs[:, list(columns)].sum(1)


@settings(deadline=None, max_examples=150)
@given(programs())
def test_an_integer_program_finds_what_trying_all_finds(parts):
    program = Program(*parts)
    able = [damage for damage, costs in every(program) if (costs <= program.bounds + 1e-9).all()]
    solved = program.solve()
    if not able:
        assert solved is None
        return
    chosen, beyond = solved
    column = {(program.layers[i], text): c for c, (i, text) in enumerate(program.choices)}
    assert sum(program.damage[column[pair]] for pair in chosen.items()) == pytest.approx(min(able), abs=1e-6)
    assert not beyond.any()


@settings(deadline=None, max_examples=100)
@given(programs())
def test_no_solution_has_less_damage_than_the_bound(parts):
    program = Program(*parts)
    able = [damage for damage, costs in every(program) if (costs <= program.bounds).all()]
    assert program.least <= min(able, default=np.inf) * (1 + 1e-9) + 1e-12


def test_the_bound_is_infinite_where_a_limit_is_below_every_sum():
    program = Program(("a",), ((0, "x"), (0, "y")), np.array([1.0, 2.0]), np.array([[5.0, 4.0]]), np.array([3.0]))
    assert program.least == np.inf
    assert program.solve() is None


def test_the_bound_of_one_limit_is_near_the_least_damage():
    """Without it every set of schemes whose best breaks the budget is solved: within 5 % here, of 60 layers."""
    program = random_program(np.random.default_rng(0), layers=60, quantities=1)
    chosen, _ = program.solve()
    damage = sum(program.damage[program.choices.index((program.layers.index(n), t))] for n, t in chosen.items())
    assert 0.95 * damage <= program.least <= damage


def test_the_solver_writes_nothing_to_standard_output(capfd):
    """The seed is of a program at which HiGHS 1.12 writes a line of its own debugging."""
    assert random_program(np.random.default_rng(222)).solve()
    assert capfd.readouterr().out == ""


def random_program(generator, layers=31, quantities=2):
    """As networks have them: the more bits, the less damage and the more cost."""
    bits = np.tile([8, 6, 6, 4, 4, 4.5, 4.5], layers)
    size = np.repeat(10 ** generator.uniform(0, 4, layers), 7)
    damage = size ** -generator.uniform(0, 1) * 4.0**-bits * 10 ** generator.uniform(-2, 2, 7 * layers)
    costs = np.array([size * bits * generator.uniform(0.9, 1.1, 7 * layers) for _ in range(quantities)])
    by_layer = costs.reshape(quantities, layers, 7)
    low, high = by_layer.min(2).sum(1), by_layer.max(2).sum(1)
    bounds = low + (high - low) * generator.uniform(0.02, 0.7, quantities)
    choices = tuple((i, f"scheme {j}") for i in range(layers) for j in range(7))
    return Program(tuple(f"layer {i}" for i in range(layers)), choices, damage, costs, bounds)


@settings(deadline=None, max_examples=100)
@given(programs())
def test_with_slack_the_exceeded_parts_are_least(parts):
    program = Program(*parts)
    least = min(np.maximum(costs / program.bounds - 1, 0).sum() if len(costs) else 0.0 for _, costs in every(program))
    _, beyond = program.solve(slack=True)
    assert beyond.sum() == pytest.approx(least, abs=1e-6)


def test_every_allocation_keeps_the_budget(prices, damages):
    budget = Budget.of(["area<=1.8mm2, energy<=3.4uJ, model<=14kB, accumulator<=22"])
    found = list(allocations(prices, damages, budget, places(prices, MACHINES)))
    assert found
    for allocation in found:
        assert budget.excess(prices.of(allocation.design)) == ()
    assert [a.damage for a in found] == sorted(a.damage for a in found)


def test_a_looser_budget_never_has_more_damage(prices, damages):
    least = [
        next(allocations(prices, damages, Budget.of([f"energy<={energy}uJ"]), places(prices, MACHINES))).damage
        for energy in (3, 3.5, 4, 6)
    ]
    assert least == sorted(least, reverse=True)


def test_without_a_limit_each_layer_has_its_least_damaging_scheme(prices, damages):
    best = next(allocations(prices, damages, Budget(), places(prices, MACHINES[:1])))
    for name, texts in prices.candidates.choices.items():
        assert damages[name, best.design.assignment[name]] == min(damages[name, text] for text in texts)


def test_an_impossible_budget_ends_with_the_nearest_design_and_what_binds(prices, damages):
    budget = Budget.of(["area<=0.5mm2, energy<=100uJ"])
    assert list(allocations(prices, damages, budget, places(prices, MACHINES))) == []
    nearest = nearest_allocation(prices, damages, budget, places(prices, MACHINES))
    assert [text for text, _ in nearest.broken] == ["area<=0.5mm2"]
    assert nearest.design.machine == MACHINES[0]


def test_ohq_finds_the_least_weighted_sum_within_its_size_and_the_budget(prices, damages):
    """Against all assignments of three layers, the others left as they were chosen."""
    machine, limit = MACHINES[0], Budget.of(["cycles<=8k"]).limits
    free = ohq(prices, damages, machine, sizes=(0.6,))[0]
    (design,) = ohq(prices, damages, machine, sizes=(0.6,), limits=limit)
    candidates, macs = prices.candidates, prices.elements(prices.candidates.widest_work(prices.candidates.schemes))
    sums = {(n, t): prices.of_layer(machine, macs[t], n, t) for n, texts in candidates.choices.items() for t in texts}
    largest = [max(map(damages.get, sums)), max(s.cycles for s in sums.values()), max(s.energy for s in sums.values())]

    def cost(chosen):
        parts = [(damages[p], sums[p].cycles, sums[p].energy) for p in chosen.items()]
        return sum(
            w * value / most for part in parts for w, value, most in zip((1, 0.5, 0.5), part, largest, strict=True)
        )

    size = 0.6 * sum(max(sums[n, t].model for t in texts) for n, texts in candidates.choices.items())
    moved = candidates.names[:3]
    for found, most in ((free, np.inf), (design, limit[0].bound)):
        assert sum(sums[p].cycles for p in found.assignment.items()) <= most * (1 + 1e-9)
        for texts in itertools.product(*(candidates.choices[n] for n in moved)):
            other = found.assignment | dict(zip(moved, texts, strict=True))
            fits = sum(sums[p].model for p in other.items()) <= size
            if fits and sum(sums[p].cycles for p in other.items()) <= most:
                assert cost(found.assignment) <= cost(other) * (1 + 1e-6)
