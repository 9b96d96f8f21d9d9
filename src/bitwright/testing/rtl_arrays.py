"""Whole matrix products through a systolic array in Amaranth's simulator, fold by fold, counting cycles."""

from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
from amaranth.sim import Simulator
from jaxtyping import Int, Shaped

from bitwright.rtl.outer import FloatOuter, Outer
from bitwright.rtl.systolic import WeightStationary
from bitwright.testing.rtl import Case, values_of


def assert_array_equals_golden(case: Case, rows: int, columns: int) -> None:
    """A whole product through an array: its sums are the golden ones, and take as many cycles as it states."""
    found = stream(case, rows, columns)
    assert found.cycles == found.folds * (2 * rows + columns + len(case.x.codes) - 2)
    for tile in range(case.tiles):
        np.testing.assert_array_equal(found.sums[tile], case.sums(tile))
    if case.plan.products is None or case.plan.outer is not None:
        totals = found.sums[0] if case.plan.outer is None else found.totals
        np.testing.assert_array_equal(values_of(case, totals), case.scheme.datapath.matmul(case.x, case.w).values)


@dataclass
class Streamed:
    """What left an array, and when."""

    sums: Shaped[np.ndarray, "tiles m n"]  # inner registers at the end of each tile, as they are read
    totals: Shaped[np.ndarray, "m n"]  # outer registers after all tiles; zeros where there are none
    cycles: int = 0  # clock edges until the last sum is out, collectors apart
    folds: int = 0


def stream(case: Case, rows: int, columns: int) -> Streamed:
    """x @ w.T, `columns` rows of w and `rows` elements of K at a time. Both must divide their lengths."""
    m, n = len(case.x.codes), len(case.w.codes)
    assert (n % columns, case.length % rows) == (0, 0), "whole folds"
    array = WeightStationary(case.plan, rows, columns)
    found = Streamed(np.zeros((case.tiles, m, n), object), np.zeros((m, n), object))

    async def bench(context: Any) -> None:
        driver = _Driver(context, array, case, found)
        for first in range(0, n, columns):
            for tile in range(case.tiles):
                await driver.tile(tile, range(first, first + columns))

    simulator = Simulator(array)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return found


@dataclass
class _Driver:
    context: Any
    array: WeightStationary
    case: Case
    found: Streamed
    partial: np.ndarray = field(init=False)  # sums that the folds of a tile hand on, [m, columns]

    async def tile(self, tile: int, outputs: range) -> None:
        """All folds of one tile for these rows of w."""
        case, rows = self.case, self.array.rows
        for name, values in case.selects(1).items():
            self._give(name, values)
        self.partial = case.starts(tile)[:, outputs.start : outputs.stop]
        for lane in range(0, case.length, rows):
            self.found.folds += 1
            here = slice(lane, lane + rows)
            await self._load(self._weights(tile)[outputs.start : outputs.stop, here], tile, outputs)
            await self._stream(case.codes("x", tile)[:, here], tile, outputs, is_last=lane + rows == case.length)

    async def _load(self, w: Int[np.ndarray, "columns rows"], tile: int, outputs: range) -> None:
        scales = self.case.scale_codes("w", tile)
        if scales is not None:
            self._give("w_scale_{}", scales[outputs.start : outputs.stop])
        self._give("load", [1])
        for row in reversed(range(self.array.rows)):
            self._give("w_{}", w[:, row])
            await self._tick()
        self._give("load", [0])

    async def _stream(self, x: Int[np.ndarray, "m rows"], tile: int, outputs: range, *, is_last: bool) -> None:
        columns, m, before = len(outputs), len(x), self.partial.copy()
        outer = self.case.plan.outer if is_last else None
        scales = self.case.scale_codes("x", tile)
        left: list[int] = []  # the cycles in which sums left
        for step in count():
            self._give("valid", [step < m])
            if step < m:
                self._give("x_{}", x[step])
                self._give("sum_in_{}", before[step])
                if scales is not None:
                    self._give("x_scale", scales[step : step + 1])
            if self._take("sum_valid", 1)[0]:
                self.partial[len(left)] = self._take("sum_{}", columns)
                read = "sum_{}" if self.case.plan.inner.readout is None else "read_{}"
                self.found.sums[tile, len(left), outputs.start : outputs.stop] = self._take(read, columns)
                left.append(step)
            if outer is not None:
                self._collect(self.found.totals[:, outputs.start : outputs.stop], outer, step, left)
            if len(left) == m and step == left[-1] + (0 if outer is None else outer.latency):
                return
            await self._tick()
            self.found.cycles -= len(left) == m  # the collectors' own

    def _collect(
        self, totals: Shaped[np.ndarray, "m columns"], outer: Outer | FloatOuter, step: int, left: list[int]
    ) -> None:
        """Registers of the vector that is added to now, and of the one that has been."""
        if step - outer.held_at in left:
            self._give("total_in_{}", totals[left.index(step - outer.held_at)])
        if step - outer.latency in left:
            assert self._take("total_valid", 1) == [1]
            totals[left.index(step - outer.latency)] = self._take("total_{}", totals.shape[1])

    def _weights(self, tile: int) -> Int[np.ndarray, "n length"]:
        """What is loaded: stored codes, or the elements of a format that reads its neighbours."""
        format = self.case.w.quantizer.format
        held = self.array.plan.w.formats[self.case.plan.w.formats.index(format)]
        codes = self.case.codes("w", tile)
        return codes if held == format else held.encode(format.decode(codes))

    async def _tick(self) -> None:
        await self.context.tick()
        self.found.cycles += 1

    def _give(self, name: str, values: Any) -> None:
        for i, value in enumerate(values):
            self.context.set(getattr(self.array, name.format(i)), int(value))

    def _take(self, name: str, count: int) -> list[int]:
        return [int(self.context.get(getattr(self.array, name.format(i)))) for i in range(count)]
