"""One search from end to end: sensitivities, allocations as seeds, generations, a front, and a choice."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import islice
from operator import itemgetter
from pathlib import Path

import numpy as np

from bitwright.comparison import Bench, run_info, source_hash
from bitwright.config import code_of
from bitwright.cost.hardware import accelerator
from bitwright.cost.table_cells import cells_of
from bitwright.model.task import Task, rank_correlation
from bitwright.result import RunInfo
from bitwright.result_search import Costs, Design, Figures, Gain, Machine, Point, SearchResult, Trust
from bitwright.search import strategies
from bitwright.search.allocate import Place, allocations, damage_of, nearest_allocation, places
from bitwright.search.budget import DROP, METRIC, Budget, Quality
from bitwright.search.candidates import Candidates
from bitwright.search.evaluate import Evaluator
from bitwright.search.execute import Executor, Here
from bitwright.search.point import Alone, Damage
from bitwright.search.prices import Prices
from bitwright.search.question import Question
from bitwright.search.sensitivity import Damages, questions, stored
from bitwright.search.store import Store
from bitwright.search.strategies import latencies
from bitwright.search.study import Study, Terms, front
from bitwright.store import key_of, read_json, write_json

Progress = Callable[[str, int, int], None]

FILES = ("search.html", "designs.csv", "recipe.txt", "search.json")
"""Of a question's answer; the last one says which question it is of."""

EARLIER = "earlier"
"""Folder of the answers to other questions that were asked in the same one."""

LEVELS = 6
"""Of energy, between the least and the most of uniform designs, at which the allocator seeds the search."""


def search(
    task: Task, question: Question = Question(), *, folder: Path | None = None,
    executor: Callable[[Evaluator, Store | None], Executor] = Here, command: str = "bitwright.search",
    progress: Progress = lambda *_: None,
) -> SearchResult:  # fmt: skip
    """Designs of `task`'s network, their figures and costs. The same question in the same folder goes on where it was.

    ValueError for words that are not known, schemes that a layer can have none of, and a network without products.
    """
    started = time.perf_counter()
    metric = task.metric
    budget = Budget.of(question.budget, Quality(metric.name, metric.unit == "%", metric.higher_is_better))
    cells = cells_of(question.library)
    for machine in question.machines:  # before what takes long
        accelerator(machine.array, machine.dataflow, machine.buffers, **question.words)  # type: ignore[arg-type]
    bench = Bench.build(task, question.limit, progress)
    candidates = Candidates.of(bench, question.schemes)
    evaluator = Evaluator(candidates, question.held_out)
    terms = Terms(
        question.trials, question.seed, question.population, question.sampler, question.objectives, budget,
        question.machines, metric.higher_is_better, evaluator.float_metric,
    )  # fmt: skip
    info = run_info(task, bench, "exact", command)
    codes = sorted({code_of(text, scheme) for text, scheme in candidates.schemes.items()})
    key = key_of(info.task, info.hashes, info.samples, info.versions["bitwright"], source_hash(), codes)
    own = None if folder is None else folder / key_of(key, question.held_out)
    running = executor(evaluator, None if own is None else Store(own))
    try:
        prices = Prices(candidates, cells, question.words)
        every = list(places(prices, question.machines))  # workers start meanwhile
        is_masked = "ohq" in question.strategies and candidates.is_weighted
        damages, masked = measured(running, candidates, (question.measure, "masked_kl")[: 1 + is_masked], progress)
        times = None
        if is_masked and question.latency == "measured":
            times = stored(own, "latencies", key, candidates, lambda: latencies(candidates, progress))
        study = Study(terms, prices, damages, running)
        uniform = [study.priced(design, "uniform") for design in _uniform(candidates, question.machines)]
        costs = [point.costs for point in uniform if point.costs is not None]
        if not costs:
            raise ValueError(f"no design can be computed: {uniform[0].refused}")
        seeds = {point.design: "uniform" for point in uniform}
        for design in _allocated(study, every, costs):
            seeds.setdefault(design, "allocation")
        published = list(_published(study, question, masked, times))
        for design, name in published:
            seeds.setdefault(design, name)
        idle = [name for name in question.strategies if name not in {name for _, name in published}]
        study.evaluate(seeds)
        study.run([*study.points], progress)
        result = _result(study, question, info, candidates, damages, started)  # may evaluate the nearest design
    finally:
        running.close()
    without = tuple(f"strategy {name}: it has no design of these schemes" for name in idle)
    result = replace(result, left_out=(*result.left_out, *without))
    if folder is not None:
        keep_earlier(folder, result.question)
        write_json(folder / "search.json", result)
    return result


def keep_earlier(folder: Path, question: str) -> None:
    """Moves what `folder` has of another question to a folder of its own in `earlier`."""
    try:
        before = read_json(folder / "search.json", SearchResult).question
    except (FileNotFoundError, ValueError):
        before = ""
    own = folder / EARLIER / (before or "unknown")
    for name in FILES if before != question else ():
        if (folder / name).exists():
            own.mkdir(parents=True, exist_ok=True)
            (folder / name).replace(own / name)


def measured(
    executor: Executor, candidates: Candidates, measures: Sequence[str], progress: Progress
) -> tuple[Damages, Damages]:
    """What each scheme does to each layer alone, by the first measure and the last. ValueError where one cannot be."""
    asked = {measure: questions(candidates, measure) for measure in measures}
    jobs, found = [job for jobs in asked.values() for job in jobs], dict[Alone, Damage]()

    def done(what: Alone, damage: Damage) -> None:
        if damage.error:
            raise ValueError(f"the damage of {what.choices[0][0]} cannot be measured: {damage.error}")
        found[what] = damage
        progress("sensitivity", len(found), len(jobs))

    progress("sensitivity", 0, len(jobs))
    executor.evaluate(jobs, done)

    def damages(measure: str) -> Damages:
        return {(name, text): value for what in asked[measure] for name, text, value in found[what].values}

    return damages(measures[0]), damages(measures[-1])


def _uniform(candidates: Candidates, machines: Iterable[Machine]) -> list[Design]:
    """One scheme wherever it can be had, else the first that can."""
    found = []
    for machine in machines:
        for text in candidates.schemes:
            layers = tuple((n, text if text in texts else texts[0]) for n, texts in candidates.choices.items())
            found.append(Design(layers, machine))
    return found


def _allocated(study: Study, every: Sequence[Place], uniform: Sequence[Costs]) -> list[Design]:
    """The allocator's best within the budget, and at levels of energy below it."""
    budget, pairs = study.terms.budget, [place for place in every if len(place.texts) <= 2]
    low, high = (limit(costs.energy_uj for costs in uniform) for limit in (min, max))
    designs = _best(study, budget, every, 6)
    for level in range(LEVELS):
        energy = low + (high - low) * (level + 0.5) / LEVELS
        limits = Budget.of([f"energy<={energy}uJ"]).limits
        designs += _best(study, Budget((*budget.of_costs, *limits)), pairs, 2)
    return designs


def _best(study: Study, budget: Budget, among: Iterable[Place], count: int) -> list[Design]:
    found = allocations(study.prices, study.damages, budget, among)
    return [allocation.design for allocation in islice(found, count)]


def _published(
    study: Study, question: Question, masked: Damages, times: Damages | None
) -> Iterator[tuple[Design, str]]:
    """Designs of published strategies, on the last of the machines, with the strategy's name."""
    prices, machine = study.prices, question.machines[-1]
    candidates = prices.candidates
    for name in question.strategies:
        designs: list[Design] = []
        if name == "ant4_8":
            designs = strategies.ant4_8(candidates, study.damages, machine)
        elif name == "mixquant":
            designs = strategies.mixquant(candidates, machine)
        elif candidates.is_weighted:  # it masks weights
            designs = strategies.ohq(prices, masked, machine, times=times, limits=study.terms.budget.of_costs)
        yield from ((design, name) for design in designs)


def _result(
    study: Study, question: Question, info: RunInfo, candidates: Candidates, damages: Damages, started: float
) -> SearchResult:  # fmt: skip
    terms, points = study.terms, tuple(study.points.values())
    best = front(points, terms)
    chosen = _choice(best, terms)
    nearest = None
    if chosen is None:
        nearest = _nearest(study)
    figures = {point.design.key: point.figures for point in points if point.figures}
    return SearchResult(
        info, question.budget, question.objectives, tuple(candidates.schemes), question.machines, question.library,
        question.measure, question.sampler, question.seed, question.trials, len(figures), study.rejected,
        study.repeated, time.perf_counter() - started, sum((f.seconds for f in figures.values()), 0.0),
        terms.float_metric,
        candidates.names, tuple((n, t, d) for (n, t), d in damages.items()),
        tuple((n, t, why) for (n, t), why in candidates.refused.items()), points,
        tuple(points.index(point) for point in best), None if chosen is None else points.index(chosen), nearest,
        _trust(points, terms), gains(points, higher_is_better=terms.higher_is_better), candidates.left_out,
        key_of(asdict(replace(question, trials=1))),
    )  # fmt: skip


def _choice(best: Sequence[Point], terms: Terms) -> Point | None:
    """The best metric within the budget; where the budget asks for a metric, the least product of the objectives."""
    if not best:
        return None
    if any(limit.quantity in (METRIC, DROP) for limit in terms.budget.limits):

        def product(point: Point) -> float:
            found = 1.0
            for value in terms.values(point)[1:]:
                found *= max(value, 1e-30)
            return found

        return min(best, key=product)
    return best[0]


def _nearest(study: Study) -> Point | None:
    """The design that breaks the budget least: of the evaluated ones, and of the allocator's with slack."""
    terms = study.terms
    found = nearest_allocation(study.prices, study.damages, terms.budget, places(study.prices, terms.machines))
    designs = [] if found is None else [found.design]
    cheapest = [p.design for p in study.points.values() if p.costs is not None]
    cheapest.sort(key=lambda design: study.points[design].beyond)
    candidates = []
    for design in [*designs, *cheapest[:3]]:
        costs = study.prices.of(design)
        figures = study.evaluate_anyway(design)
        candidates.append(terms.judged(Point(design, costs, damage_of(design, study.damages), figures, "nearest")))
    return min(candidates, key=lambda point: (point.metric is None, point.beyond), default=None)


def _trust(points: Sequence[Point], terms: Terms) -> tuple[Trust, ...]:
    """The predicted damage beside what was measured, over designs of different schemes."""
    unique = {p.design.key: p for p in points if p.figures is not None and p.metric is not None}
    predicted = [p.predicted_damage for p in unique.values()]
    drops = [terms.drop(p.metric) for p in unique.values() if p.metric is not None]
    noise = [(p.predicted_damage, -p.figures.output_sqnr_db) for p in unique.values()
             if p.figures is not None and p.figures.output_sqnr_db is not None]  # fmt: skip
    return (
        Trust("loss of the metric", correlation(predicted, drops), len(drops)),
        Trust("noise of the outputs", correlation(*map(list, zip(*noise))) if noise else None, len(noise)),
    )


def correlation(first: list[float], second: list[float]) -> float | None:
    """None where one of them does not vary."""
    if len(set(first)) < 2 or len(set(second)) < 2:
        return None
    return rank_correlation(np.array(first), np.array(second))


def gains(points: Sequence[Point], *, higher_is_better: bool) -> tuple[Gain, ...]:
    """Each uniform design that was evaluated, beside the best at no more area × delay and energy."""
    known = [(p.figures, p.known_costs, p) for p in points if p.figures is not None and p.metric is not None]
    sign, found = 1 if higher_is_better else -1, []
    for own, most, point in known:
        if point.origin != "uniform" or len(point.design.schemes) > 1:
            continue
        able = [
            (sign * figures.metric, figures, p) for figures, costs, p in known
            if costs.area_delay <= most.area_delay * (1 + 1e-9) and costs.energy_uj <= most.energy_uj * (1 + 1e-9)
        ]  # fmt: skip
        several = [each for each in able if len(each[2].design.schemes) > 1]
        _, figures, best = max(able, key=itemgetter(0))
        gain = Gain(
            point.design.schemes[0], point.design.machine, own.metric, own.held_out_metric,
            None if best is point else points.index(best), *_gain(own, figures, sign),
        )  # fmt: skip
        if several:
            _, figures, mixed = max(several, key=itemgetter(0))
            more, held_out = _gain(own, figures, sign)
            gain = replace(gain, mixed=points.index(mixed), mixed_gain=more, mixed_held_out_gain=held_out)
        found.append(gain)
    return tuple(found)


def _gain(before: Figures, after: Figures, sign: int) -> tuple[float, float | None]:
    """Of the metric, to its good side, on searched samples and on held-out ones."""
    is_kept = before.held_out_metric is not None and after.held_out_metric is not None
    held_out = sign * (after.held_out_metric - before.held_out_metric) if is_kept else None  # type: ignore[operator]
    return sign * (after.metric - before.metric), held_out
