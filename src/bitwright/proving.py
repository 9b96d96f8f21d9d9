"""Whole layers of a trained network through a whole array, streams pausing at random, bit for bit the arithmetic's.

A layer's inputs and weights are those of the network under the scheme. Two comparisons make the chain: what leaves the
circuit is what the datapath's definition gives; and that is what an exact evaluation of the network computes.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bitwright.config import from_text
from bitwright.cost.verify import tools
from bitwright.model.attention import Attention
from bitwright.model.matrices import Matrices, NotMatrices, layer_inputs, matrices
from bitwright.model.prepare import calibrate, freeze, prepare
from bitwright.model.task import Task
from bitwright.model.transform import fold_batchnorm
from bitwright.quantization import QuantizedTensor
from bitwright.rtl.plan import plan
from bitwright.rtl.retile import require_rows
from bitwright.scheme import Scheme
from bitwright.simulators import Pauses, Program, Simulator, design
from bitwright.simulators.product import AnyEngine, DoesNotFit, Product, compare, engine_for, fitted, padded_k

CYCLES = 60_000
"""Array cycles spent on a network, about: layers that take more are compared in part, as their findings say."""

SLICE = 600
"""Array cycles that a slower simulator repeats, about."""

PAUSES = Pauses(sources=64, sink=64)
"""Each stream waits at one clock in four."""


EngineOf = Callable[..., AnyEngine]
"""Makes an engine of a scheme, rows and columns, for sums of up to k products: `engine_for` or `output_engine_for`."""


@dataclass(frozen=True)
class LayerFinding:
    """A layer beside its definition: how much of it was compared, and the first difference."""

    layer: str
    m: int
    k: int
    n: int
    groups: int
    vectors_compared: int  # of m
    outputs_compared: int  # of n
    groups_compared: int
    products: int  # multiply-accumulates compared
    cycles: int
    beats_sha256: str  # of what went into the array and came out
    difference: str | None = None


@dataclass(frozen=True)
class Opinion:
    """A slice repeated by another simulator, from the emitted Verilog."""

    simulator: str
    layer: str
    cycles: int
    difference: str | None = None


@dataclass(frozen=True)
class ArrayVerification:
    """What was compared, with which tools."""

    scheme: str
    model: str
    samples: int
    array: str
    engine: str
    simulator: str
    tools: tuple[str, ...]
    rtlil_sha256: str
    seed: int
    pauses: str
    layers: tuple[LayerFinding, ...]
    left_out: tuple[str, ...]
    opinions: tuple[Opinion, ...]
    build_s: float
    run_s: float

    @property
    def holds(self) -> bool:
        return not any([found.difference for found in self.layers] + [found.difference for found in self.opinions])

    @property
    def products(self) -> int:
        return sum(layer.products for layer in self.layers)

    @property
    def cycles(self) -> int:
        return sum(layer.cycles for layer in self.layers)

    def record(self) -> dict[str, Any]:
        """The same for machines."""
        return asdict(self) | {"products": self.products, "cycles": self.cycles, "holds": self.holds}

    def lines(self) -> list[str]:
        """For a terminal."""
        shown = [_line(layer) for layer in self.layers]
        shown += [line for opinion in self.opinions for line in _opinion_lines(opinion)]
        shown += [f"left out {line}" for line in self.left_out]
        word = "equal  " if self.holds else "DIFFERS"
        samples = f"{self.samples} {'sample' if self.samples == 1 else 'samples'}"
        return [
            *shown,
            f"{word} {self.model} on a {self.array} array, {samples}: {len(self.layers)} layers, {self.products:,} "
            f"products in {self.cycles:,} cycles; {self.pauses}",
            f"simulator: {self.simulator}",
        ]


def verify_array(
    text: str, task: Task, rows: int, columns: int, simulator: Simulator, cache: Path, *,
    engine_of: EngineOf = engine_for, others: Sequence[Simulator] = (), samples: int = 1, cycles: int = CYCLES,
    seed: int = 1, pauses: Pauses = PAUSES,
) -> ArrayVerification:  # fmt: skip
    """Compare the layers of a network under a scheme with its arithmetic, on an engine of rows × columns.

    `engine_of` makes the engine; `others` repeat a slice. ValueError where no circuit computes the scheme at this size.
    """
    scheme = require_array(text, rows, columns, engine_of)
    rng, pauses = np.random.default_rng(seed), replace(pauses, seed=seed)
    size = _Size(rows, columns, plan(scheme).products)
    drawn, left_out = _drawn(task, scheme, samples, size, cycles, rng)
    longest = max((padded_k(_product(layer.parts[0]), size.products) for layer in drawn), default=1)
    engine = engine_of(scheme, rows, columns, k=longest)
    program = simulator.build(design(engine, "engine"), cache)
    started, kept = time.perf_counter(), []
    for layer in drawn:
        try:
            for part in layer.parts:
                fitted(engine, _product(part))
            kept.append(layer)
        except DoesNotFit as refused:
            left_out.append(str(refused))
    layers = [_compare(program, engine, layer, pauses) for layer in kept]
    if not layers:
        raise ValueError(f"{task.name} under {text}: no layer can be compared; {'; '.join(left_out)}")
    run_s = time.perf_counter() - started
    opinions = _opinions(program, engine, [layer.parts[0] for layer in kept], others, cache, rng, pauses)
    return ArrayVerification(
        text, task.name, samples, f"{rows}x{columns}", type(engine).__name__, program.simulator, tools(),
        program.design.sha256, seed,
        f"inputs pause in {pauses.sources} of 256 cycles at random, results in {pauses.sink}",
        tuple(layers), tuple(left_out), opinions, round(program.build_s, 1), round(run_s, 1),
    )  # fmt: skip


def require_array(text: str, rows: int, columns: int, engine_of: EngineOf = engine_for) -> Scheme:
    """The scheme, of which an engine of rows × columns can be made. ValueError where not, with what would do."""
    scheme = from_text(text)
    if not isinstance(scheme, Scheme):
        raise ValueError(f"{text} is a recipe of several schemes; verify each of them")
    made = plan(scheme)
    if engine_of is engine_for:
        require_rows(text, made, rows)
    engine_of(scheme, rows, columns, k=made.products or rows)
    return scheme


class _Size(NamedTuple):
    """Of an array; `products` is the length of its tiles, None where a sum runs over all of K."""

    rows: int
    columns: int
    products: int | None


class _Drawn(NamedTuple):
    """A layer's shape, and as much of it as is compared."""

    m: int
    k: int
    n: int
    groups: int
    cycles: int  # about
    parts: tuple[Matrices, ...]


def _drawn(
    task: Task, scheme: Scheme, samples: int, size: _Size, cycles: int, rng: np.random.Generator
) -> tuple[list[_Drawn], list[str]]:
    """Each call of each layer of the network, as far as the cycles go, and what is left out."""
    batch = next(iter(task.calibration()), None)
    if batch is None:
        raise ValueError(f"{task.name}: the calibration data is empty; give at least one batch")
    example = batch.first(1).inputs
    prepared = calibrate(prepare(fold_batchnorm(task.load(), example), scheme, example), [batch], task.forward)
    frozen = freeze(prepared)
    left = [f"{m.name}: products of two activations" for m in frozen.modules() if isinstance(m, Attention)]
    drawn, seen = [], layer_inputs(task, frozen, task.test(samples))
    for i, call in enumerate(seen):
        try:
            drawn.append(_part(size, matrices(call.layer, call.input), max(cycles, 0) // (len(seen) - i), rng))
            cycles -= drawn[-1].cycles
        except NotMatrices as refused:
            left.append(f"{call.layer.name}: {refused}")
    return drawn, left


def _product(group: Matrices) -> Product:
    name = group.layer if group.groups == 1 else f"{group.layer}, group {group.group}"
    return Product(name, group.datapath, group.x, group.w)


def _part(size: _Size, groups: Iterator[Matrices], budget: int, rng: np.random.Generator) -> _Drawn:
    """As much of a layer as the array does in about `budget` cycles: fewer vectors first, then groups, then outputs."""
    first = next(groups)
    product = _product(first)
    (m, n, k), per, least = product.shape, -(-padded_k(product, size.products) // size.rows), size.rows + 1
    slots = per * -(-n // size.columns)
    vectors = min(m, max(budget // (slots * first.groups), 2 * least))
    count = min(first.groups, max(budget // (slots * max(vectors, least)), 1))
    outputs = min(n, size.columns * max(budget // (per * max(vectors, least)), 1))
    chosen = set(rng.choice(first.groups, count, replace=False).tolist())
    parts = [_slice(group, vectors, outputs, rng) for group in chain([first], groups) if group.group in chosen]
    about = count * per * -(-outputs // size.columns) * max(vectors, least)
    return _Drawn(m, k, n, first.groups, about, tuple(parts))


def _slice(group: Matrices, vectors: int, outputs: int, rng: np.random.Generator) -> Matrices:
    """Some rows of either operand, drawn at random."""
    m, n = group.values.shape
    if (vectors, outputs) == (m, n):
        return group
    i, j = (np.sort(rng.choice(size, count, replace=False)) for size, count in ((m, vectors), (n, outputs)))
    return replace(group, x=_rows(group.x, i), w=_rows(group.w, j), values=group.values[np.ix_(i, j)])


def _rows(t: QuantizedTensor, rows: np.ndarray) -> QuantizedTensor:
    return replace(t, codes=t.codes[rows], scales=tuple(s if len(s) == 1 else s[rows] for s in t.scales))


def _compare(program: Program, engine: AnyEngine, drawn: _Drawn, pauses: Pauses) -> LayerFinding:
    parts = drawn.parts
    compared = compare(program, engine, [_product(part) for part in parts], pauses)
    difference = compared.difference or next((said for part in parts if (said := _kernels_differ(part))), None)
    vectors, outputs = parts[0].values.shape
    return LayerFinding(
        parts[0].layer, drawn.m, drawn.k, drawn.n, drawn.groups, vectors, outputs, len(parts),
        len(parts) * vectors * outputs * drawn.k, compared.cycles, compared.beats_sha256, difference,
    )  # fmt: skip


def _kernels_differ(part: Matrices) -> str | None:
    """Where an exact evaluation of the network gives something else than the definition of its arithmetic."""
    right = part.datapath.matmul(part.x, part.w).values.astype(np.float32)
    wrong = np.argwhere(right != part.values)
    if not len(wrong):
        return None
    i, j = wrong[0].tolist()
    return f"vector {i}, output {j}: exact evaluation gives {part.values[i, j]}, its definition {right[i, j]}"


def _opinions(
    program: Program, engine: AnyEngine, parts: Sequence[Matrices], others: Sequence[Simulator], cache: Path,
    rng: np.random.Generator, pauses: Pauses,
) -> tuple[Opinion, ...]:  # fmt: skip
    """The shortest layer's first vectors, by each of the other simulators: the same sums after as many cycles."""
    if not parts or not others:
        return ()
    part = min(parts, key=lambda part: _product(part).shape[2])
    some = min(len(part.values), SLICE // 4), min(part.values.shape[1], engine.columns)
    product = _product(_slice(part, *some, rng))
    first = compare(program, engine, [product], pauses)
    found = []
    for other in others:
        built = other.build(program.design, cache)
        second = compare(built, engine, [product], pauses)
        difference = second.difference
        if difference is None and second.cycles != first.cycles:
            difference = f"it takes {second.cycles} cycles, the first simulator {first.cycles}"
        found.append(Opinion(built.simulator, product.name, second.cycles, difference))
    return tuple(found)


def _line(layer: LayerFinding) -> str:
    word = "equal  " if layer.difference is None else "DIFFERS"
    parts = [f"{layer.vectors_compared} of {layer.m} vectors"] if layer.vectors_compared < layer.m else []
    parts += [f"{layer.outputs_compared} of {layer.n} outputs"] if layer.outputs_compared < layer.n else []
    parts += [f"{layer.groups_compared} of {layer.groups} groups"] if layer.groups_compared < layer.groups else []
    size = f"{layer.m} x {layer.k} x {layer.n}" + (f", {layer.groups} groups" if layer.groups > 1 else "")
    how = f" ({', '.join(parts)})" if parts else ""
    line = f"{word} {layer.layer}: {size}{how}, {layer.products:,} products, {layer.cycles:,} cycles"
    return line if layer.difference is None else f"{line}\n        {layer.difference}"


def _opinion_lines(opinion: Opinion) -> list[str]:
    word = "equal  " if opinion.difference is None else "DIFFERS"
    line = f"{word} {opinion.layer}, a slice of it again in {opinion.simulator}, {opinion.cycles:,} cycles"
    return [line] if opinion.difference is None else [line, f"        {opinion.difference}"]
