"""Whole layers through an engine in Amaranth's simulator, with streams that pause at random."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from amaranth.sim import Simulator
from jaxtyping import Shaped

from bitwright.rtl.engine import Engine
from bitwright.rtl.engine_image import Beats, Image, pack_layer
from bitwright.rtl.engine_outputs import OutputEngine
from bitwright.rtl.operand import Sign
from bitwright.rtl.plan import plan
from bitwright.scheme import Scheme
from bitwright.testing.operands import operands
from bitwright.testing.rtl import Case, values_of


@dataclass(frozen=True)
class Pauses:
    """How likely each stream waits at a clock: `job`, `w` and `x` offer nothing, `y` takes nothing."""

    job: float = 0
    w: float = 0
    x: float = 0
    y: float = 0
    until: int = 0  # y takes nothing at all before this cycle

    def of(self, name: str, generator: np.random.Generator) -> Iterator[bool]:
        cycle = 0
        while True:
            yield bool(generator.random() < getattr(self, name)) or (name == "y" and cycle < self.until)
            cycle += 1


@dataclass(frozen=True)
class Ran:
    """What an engine did with an image."""

    y: Beats
    cycles: int  # clock edges until the last result has left
    out_of_step: bool


def run(
    image: Image, pauses: Pauses = Pauses(), *, seed: int = 0, limit: int = 20_000, reset_at: int | None = None
) -> Ran:
    """The engine on this image. RuntimeError where it has not given all results after `limit` cycles.

    At the cycle `reset_at` rst is high, and the image starts again.
    """
    engine = image.engine.again()
    assert isinstance(engine, Engine | OutputEngine)
    driver = _Driver(engine, image, pauses, np.random.default_rng(seed))

    async def bench(context: Any) -> None:
        while len(driver.results) < image.results:
            if driver.cycles == limit:
                raise RuntimeError(f"{len(driver.results)} of {image.results} results after {limit} cycles")
            driver.step(context)
            if is_reset := driver.cycles == reset_at:
                driver.start()
            context.set(engine.rst, is_reset)
            await context.tick()
            driver.cycles += 1
        driver.out_of_step = bool(context.get(engine.out_of_step))

    simulator = Simulator(engine)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    width = engine.streams.y.bytes
    data = np.stack([np.frombuffer(value.to_bytes(width, "little"), np.uint8) for value, _ in driver.results])
    return Ran(Beats(data, np.asarray([bool(last) for _, last in driver.results])), driver.cycles, driver.out_of_step)


class _Driver:
    """What stands at the ports of an engine."""

    def __init__(
        self, engine: Engine | OutputEngine, image: Image, pauses: Pauses, generator: np.random.Generator
    ) -> None:
        self.engine = engine
        self.sinks = {name: _words(getattr(image, name)) for name in ("job", "w", "x")}
        self.pause = {name: pauses.of(name, generator) for name in (*self.sinks, "y")}
        self.cycles, self.out_of_step = 0, False
        self.start()

    def start(self) -> None:
        """Nothing was moved yet."""
        self.position = dict.fromkeys(self.sinks, 0)
        self.offered = dict.fromkeys(self.sinks, False)
        self.results: list[tuple[int, int]] = []
        self.untaken: tuple[int, int] | None = None

    def step(self, context: Any) -> None:
        """Offer beats, and see which move at the coming edge."""
        for name, words in self.sinks.items():
            may_wait = next(self.pause[name]) and not self.offered[name]  # what was offered stays until it is taken
            self.offered[name] = self.position[name] < len(words) and not may_wait
            self._set(context, f"{name}_tvalid", self.offered[name])
            if self.offered[name]:
                data, last = words[self.position[name]]
                self._set(context, f"{name}_tdata", data)
                if name != "job":
                    self._set(context, f"{name}_tlast", last)
        takes = not next(self.pause["y"])
        self._set(context, "y_tready", takes)
        for name in self.sinks:
            if self.offered[name] and self._get(context, f"{name}_tready"):
                self.position[name], self.offered[name] = self.position[name] + 1, False
        is_valid, result = (
            self._get(context, "y_tvalid"),
            (self._get(context, "y_tdata"), self._get(context, "y_tlast")),
        )
        assert self.untaken is None or (is_valid and result == self.untaken), "what is offered stays until it is taken"
        self.untaken = result if is_valid and not takes else None
        if takes and is_valid:
            self.results.append(result)

    def _set(self, context: Any, port: str, value: int) -> None:
        context.set(getattr(self.engine, port), value)

    def _get(self, context: Any, port: str) -> int:
        return int(context.get(getattr(self.engine, port)))


def layer(scheme: Scheme, m: int, n: int, k: int, *, signed_input: bool = True, seed: int = 0) -> Case:
    """Random operands of any sizes."""
    both = operands(scheme, rows=m, columns=n, k=k, seed=seed, signed_input=signed_input)
    return Case(scheme, plan(scheme, k=max(k, 64), sign=Sign.BOTH), both.x, both.w)


def assert_engine_equals_golden(case: Case, image: Image, ran: Ran) -> None:
    """Its sums are the golden ones bit for bit, and its last beats end jobs."""
    assert not ran.out_of_step
    assert int(ran.y.last.sum()) == len(image.job.data)
    assert ran.y.last[-1]
    sums = image.sums(ran.y)
    if case.plan.products is None or case.plan.outer is not None:
        np.testing.assert_array_equal(values_of(case, sums[0]), case.scheme.datapath.matmul(case.x, case.w).values)
    else:
        np.testing.assert_array_equal(sums, golden_tiles(case))


def golden_tiles(case: Case) -> Shaped[np.ndarray, "tiles m n"]:
    """Sums of all tiles."""
    return np.stack([case.sums(tile) for tile in range(-(-case.x.k // case.length))])


def image_of(case: Case, rows: int, columns: int, vectors: int = 16) -> Image:
    """The layer for an engine of this size."""
    return pack_layer(Engine(case.plan, rows, columns, vectors), case.x, case.w)


def _words(beats: Beats) -> list[tuple[int, bool]]:
    return [(int.from_bytes(bytes(beat), "little"), bool(last)) for beat, last in zip(beats.data, beats.last)]
