"""Generations of designs: Optuna proposes, prices reject, workers evaluate; the same seed always takes the same path.

The sampler is told of a generation only when all of it is known, in the order in which it was asked. So where a design
was evaluated, and when, changes nothing: a search that is run again reads what it knows and goes on from there.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import optuna

from bitwright.search.allocate import damage_of
from bitwright.search.budget import Budget
from bitwright.search.execute import Executor
from bitwright.search.point import Design, Figures, Machine, Point
from bitwright.search.prices import Prices
from bitwright.search.sensitivity import Damages

OBJECTIVES = {
    "area": "area_mm2", "array": "array_mm2", "energy": "energy_uj", "delay": "delay_ms", "cycles": "cycles",
    "model": "model_bytes", "accumulator": "accumulator_bits", "area_delay": "area_delay",
}  # fmt: skip
"""Costs that may be made small, beside the metric."""

SAMPLERS = ("nsga2", "tpe", "random")
MACHINE = "machine"


@dataclass(frozen=True)
class Terms:
    """What a search is asked for."""

    trials: int
    seed: int
    population: int
    sampler: str
    objectives: tuple[str, ...]
    budget: Budget
    machines: tuple[Machine, ...]
    higher_is_better: bool
    float_metric: float

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise ValueError(f"there is no sampler {self.sampler!r}; choose from {', '.join(SAMPLERS)}")
        for name in self.objectives:
            if name not in OBJECTIVES:
                raise ValueError(
                    f"there is no objective {name!r} beside the metric; choose from {', '.join(OBJECTIVES)}"
                )

    def loss(self, metric: float) -> float:
        """The metric as something to make small."""
        return -metric if self.higher_is_better else metric

    def drop(self, metric: float) -> float:
        """What the metric loses to float."""
        return self.loss(metric) - self.loss(self.float_metric)

    def values(self, point: Point) -> list[float]:
        """All objectives as something to make small; a metric that is not known is worse than any."""
        loss = math.inf if point.metric is None else self.loss(point.metric)
        return [loss, *(float(getattr(point.known_costs, OBJECTIVES[name])) for name in self.objectives)]

    def judged(self, point: Point) -> Point:
        """With the limits that it breaks."""
        if point.costs is None:
            return point
        excess = self.budget.excess(point.costs)
        if point.metric is not None:
            excess += self.budget.metric_excess(point.metric, self.drop(point.metric))
        return replace(point, excess=excess)


class Study:
    """`points` of all trials so far, by design."""

    def __init__(self, terms: Terms, prices: Prices, damages: Damages, executor: Executor) -> None:
        self.terms, self.prices, self.damages, self.executor = terms, prices, damages, executor
        self.points: dict[Design, Point] = {}
        self.rejected = self.repeated = 0
        self._figures: dict[str, Figures] = {}

    def evaluate(self, designs: Mapping[Design, str]) -> list[Point]:
        """Points of these designs by their origin; those that break a limit on costs are not evaluated."""
        made = {d: self.priced(d, origin) for d, origin in designs.items() if d not in self.points}
        self.rejected += sum(not point.is_feasible for point in made.values())
        open_ = {d.key: d for d, point in made.items() if point.is_feasible and d.key not in self._figures}

        def done(design: Design, figures: Figures) -> None:
            self._figures[design.key] = figures

        if open_:
            self.executor.evaluate(list(open_.values()), done)
        for design, point in made.items():
            figures = self._figures.get(design.key) if point.is_feasible else None
            self.points[design] = self.terms.judged(replace(point, figures=figures))
        return [self.points[design] for design in designs]

    def evaluate_anyway(self, design: Design) -> Figures | None:
        """Also where it breaks a limit."""
        if design.key not in self._figures:
            self.executor.evaluate([design], lambda found, figures: self._figures.update({found.key: figures}))
        return self._figures[design.key]

    def run(self, seeds: Sequence[Design], say: Callable[[str, int, int], None] = lambda *_: None) -> None:
        """Seeds first, then generations of the sampler up to the number of trials."""
        terms, study = self.terms, self._optuna()
        queue, asked = list(seeds), 0
        while asked < terms.trials:
            count = min(terms.population, terms.trials - asked)
            for design in queue[:count]:
                study.enqueue_trial(self._parameters(design))
            queue = queue[count:]
            trials = [study.ask() for _ in range(count)]
            designs = [self._suggest(trial) for trial in trials]
            say("trials", asked, terms.trials)
            known = len(self.points)
            self.evaluate(dict.fromkeys(designs, "search"))
            self.repeated += count - (len(self.points) - known)
            for trial, design in zip(trials, designs, strict=True):
                point = self.points[design]
                if point.costs is None or (point.figures is not None and point.figures.error):
                    study.tell(trial, state=optuna.trial.TrialState.FAIL)
                    continue
                trial.set_constraint("budget", point.beyond)
                study.tell(trial, terms.values(point))
            asked += count
        say("trials", asked, terms.trials)

    def priced(self, design: Design, origin: str) -> Point:
        damage = damage_of(design, self.damages)
        try:
            costs = self.prices.of(design)
        except (ValueError, OverflowError) as error:
            return Point(design, None, damage, None, origin, refused=str(error))
        return self.terms.judged(Point(design, costs, damage, None, origin))

    def _optuna(self) -> "optuna.Study":
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = _sampler(self.terms)
        return optuna.create_study(directions=["minimize"] * (1 + len(self.terms.objectives)), sampler=sampler)

    def _suggest(self, trial: "optuna.Trial") -> Design:
        choices = self.prices.candidates.choices
        layers = tuple((name, str(trial.suggest_categorical(name, texts))) for name, texts in choices.items())
        machines = self.terms.machines
        index = trial.suggest_categorical(MACHINE, list(range(len(machines))))
        return Design(layers, machines[int(index)])

    def _parameters(self, design: Design) -> dict[str, object]:
        return {**design.assignment, MACHINE: self.terms.machines.index(design.machine)}


def front(points: Sequence[Point], terms: Terms) -> list[Point]:
    """Feasible points that no other is better than in all objectives, the best metric first."""
    known = [point for point in points if point.is_feasible and point.metric is not None]
    values = [terms.values(point) for point in known]
    kept = [
        point for point, own in zip(known, values, strict=True)
        if not any(_dominates(other, own) for other in values)
    ]  # fmt: skip
    unique = {tuple(terms.values(point)): point for point in reversed(kept)}
    return sorted(unique.values(), key=lambda point: (terms.values(point), point.design.key))


def _dominates(first: Sequence[float], second: Sequence[float]) -> bool:
    return all(a <= b for a, b in zip(first, second, strict=True)) and list(first) != list(second)


def _sampler(terms: Terms) -> "optuna.samplers.BaseSampler":
    if terms.sampler == "random":
        return optuna.samplers.RandomSampler(seed=terms.seed)
    kind = optuna.samplers.NSGAIISampler if terms.sampler == "nsga2" else optuna.samplers.TPESampler
    words = {"population_size": terms.population} if terms.sampler == "nsga2" else {"multivariate": True}
    return kind(seed=terms.seed, **words)
