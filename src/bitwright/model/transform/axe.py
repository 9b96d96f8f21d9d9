"""Weights chosen on their grid so that no sum of theirs can overflow a given accumulator.

AXE: I. Colbert et al., "Accumulator-aware post-training quantization", arXiv:2409.17092. A soft threshold shrinks the
weights toward the L1 ball in which sums fit; a budget for each tile of K then bounds each weight by what those before
it left. Differs from the paper as its public code does: the budget is the exact one of both signs together, and
limits are whole elements instead of half an element less. Differs by default: each row tries wider scales too, since
elements of the scale of its largest weight are too large for a narrow register, and keeps the one of least output
error; `AS_CALIBRATED` is the paper's.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Integer
from torch import nn

from bitwright.datapath import WIDE, Accumulator
from bitwright.formats import Int, Rounding
from bitwright.model.layers import FakeQuantizedLayer
from bitwright.model.task import Batch
from bitwright.model.transform.gptq import Choosing, Gptq, Method, OnGrid, ScaleSearch, choose_weights
from bitwright.model.transform.input_moments import Forward
from bitwright.model.transform.weight_grid import Choice, Grid, Pinned, Rounder
from bitwright.quantization.project import l1_threshold

WIDER = ScaleSearch(tuple(2 ** (i / 4) for i in range(-2, 25)))
"""0.7 to 64 times the calibrated scale: 8-bit weights that keep two bits are 64 times as far apart."""


@dataclass(frozen=True)
class InputRange:
    """Extreme elements of an input as integers, in units of its format."""

    lowest: int
    highest: int

    def __post_init__(self) -> None:
        if not self.lowest <= 0 <= self.highest or self.lowest == self.highest:
            raise ValueError(
                f"InputRange: {self.lowest} to {self.highest} found; it must contain zero and something else"
            )


@dataclass(frozen=True)
class Budget:
    """What the sums over each tile of K may reach, whatever the inputs: ±(2**(bits - 1) - 1), in units of the formats.

    Tiles are `tile` consecutive inputs. As the range of inputs holds zero, every partial sum fits in any order too.
    """

    bits: int
    tile: int
    inputs: InputRange

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 62:
            raise ValueError(f"Budget: an accumulator of {self.bits} bits found; 2 to 62 are possible")
        if self.tile < 1:
            raise ValueError(f"Budget: a tile of {self.tile} inputs found; it needs at least 1")

    @property
    def limit(self) -> int:
        return 2 ** (self.bits - 1) - 1

    @property
    def radius(self) -> float:
        """Σ|w| of a tile with as much positive as negative weight that just fits (Colbert et al., eq. 4)."""
        return 2 * self.limit / (self.inputs.highest - self.inputs.lowest)

    def thresholds(self, levels: Float[np.ndarray, "rows k"], exponent: int = 0) -> Float[np.ndarray, "rows tiles"]:
        """λ of each tile: what the projection of its levels, less their mean, onto the L1 ball takes off (eq. 16)."""
        tiles = [levels[:, i : i + self.tile] for i in range(0, levels.shape[1], self.tile)]
        radius = float(np.ldexp(self.radius, exponent))
        return np.stack([l1_threshold(t - t.mean(1, keepdims=True), radius) for t in tiles], 1)

    def room(
        self, positive: Integer[np.ndarray, " rows"], negative: Integer[np.ndarray, " rows"]
    ) -> tuple[Integer[np.ndarray, " rows"], Integer[np.ndarray, " rows"]]:
        """Lowest and highest weight that a tile can still take, which holds these sums of |w| of each sign."""
        low, high = -self.inputs.lowest, self.inputs.highest
        up = self.limit - (high * positive + low * negative)
        down = self.limit - (low * positive + high * negative)
        most = np.minimum(_quotient(up, high), _quotient(down, low))
        least = np.minimum(_quotient(down, high), _quotient(up, low))
        return -least, most


class WithinBudget(Rounder):
    """The nearest point of the grid that keeps every tile within its budget, counted over the columns so far."""

    def __init__(self, grid: Grid, budget: Budget, weights: Float[np.ndarray, "rows k"]) -> None:
        if grid.round(np.zeros(1), Rounding.TOWARD_ZERO)[0] != 0:
            raise ValueError(f"{grid.format} has no zero, so sums of its elements cannot be kept small")
        self.grid, self.budget = grid, budget
        self.thresholds = budget.thresholds(grid.levels(weights), grid.format.bounds().exponent.start)
        self._positive = np.zeros(self.thresholds.shape, np.int64)  # Σ|element| of each sign, in units
        self._negative = np.zeros(self.thresholds.shape, np.int64)

    def choose(self, column: int, targets: Float[np.ndarray, " rows"]) -> Choice:
        tile = column // self.budget.tile
        level = self.grid.level(column, targets)
        aim = np.sign(level) * np.maximum(np.abs(level) - self.thresholds[:, tile], 0.0)
        lowest, highest = self.budget.room(self._positive[:, tile], self._negative[:, tile])
        unit = 2.0 ** self.grid.format.bounds().exponent.start
        aim = np.clip(aim, lowest * unit, highest * unit)
        within = np.clip(aim, self._furthest(lowest), self._furthest(highest))
        element = self.grid.round(within, Rounding.NEAREST_EVEN)
        units = (element / unit).astype(np.int64)
        self._positive[:, tile] += np.maximum(units, 0)
        self._negative[:, tile] += np.maximum(-units, 0)
        scale = self.grid.scale[:, column]
        return Choice(element * scale, aim * scale)

    def _furthest(self, units: Integer[np.ndarray, " rows"]) -> Float[np.ndarray, " rows"]:
        """The furthest element from zero within so many units: rounding anything nearer to zero stays within it."""
        bounds = self.grid.format.bounds()
        level = np.ldexp(np.clip(units, *bounds.units).astype(np.float64), bounds.exponent.start)
        return self.grid.round(level, Rounding.TOWARD_ZERO)


def axe(
    prepared: nn.Module,
    batches: Iterable[Batch],
    *,
    accumulator_bits: int,
    tile: int | None = None,
    method: Method = Gptq(),
    scales: ScaleSearch = WIDER,
    layers: Collection[str] | None = None,
    forward: Forward | None = None,
) -> nn.Module:
    """A copy of a calibrated model whose sums over tiles of K fit an accumulator, whatever the inputs.

    The layers get that register, so `freeze` proves it, and `tile`, the elements of one inner sum; None keeps what
    their datapath has. `layers` None takes all of them; the first and the last are commonly left wide. Bias and the
    sum of tiles lie outside. Weights are chosen by `method`, with the calibrated scales times the factors of `scales`.
    """

    def make_rounder(layer: FakeQuantizedLayer, pinned: Pinned) -> OnGrid:
        inputs = layer.input_quantizer
        if inputs is None:
            raise ValueError("its inputs stay in float, so it has no integer sums; leave it out of `layers`")
        if len(pinned.quantizer.candidates()) > 1:
            raise ValueError(
                "its quantizer chooses among scales by the error, which would change its integers; "
                "give it one full scale"
            )
        wide = replace(layer.scheme.datapath, tile=layer.scheme.datapath.tile if tile is None else tile)
        elements = wide.inner_elements(
            layer.lowering.along_k(inputs, layer.weight.shape), pinned.quantizer, *pinned.weights.shape
        )
        budget = Budget(accumulator_bits, elements, _input_range(layer))
        varies = any(q.scales[-1].share.splits_k for q in (inputs, pinned.quantizer))
        outer = wide.outer if varies else WIDE  # tiles of one scale are added as the integers they are
        datapath = replace(wide, inner=Accumulator(Int(accumulator_bits)), outer=outer)
        layer.scheme = replace(layer.scheme, datapath=datapath)
        return lambda grid, weights: WithinBudget(grid, budget, weights)

    return choose_weights(prepared, batches, make_rounder, Choosing(method, scales), layers=layers, forward=forward)


def _input_range(layer: FakeQuantizedLayer) -> InputRange:
    """What reaches the multipliers: codes less the zero point."""
    quantizer = layer.input_quantizer
    assert quantizer is not None, "quantized input"
    return InputRange(*quantizer.element_bounds(layer.input_ranges).units)


def _quotient(units: Integer[np.ndarray, " rows"], rate: int) -> Integer[np.ndarray, " rows"]:
    """Whole elements that fit where each takes `rate`; any number where they take nothing."""
    return units // rate if rate else np.full_like(units, np.iinfo(np.int64).max)
