"""Weights chosen on their grid by what they do to the output, one input after the other, instead of one by one.

E. Frantar et al., "GPTQ: Accurate post-training quantization for generative pre-trained transformers", ICLR 2023,
arXiv:2210.17323, algorithm 1 with its lazy batches. `GreedyPath` is E. Lybrand and R. Saab, "A greedy algorithm for
quantizing neural networks", JMLR 2021, arXiv:2010.15979, as I. Colbert et al. write it with second moments
(arXiv:2409.17092). Scales are set first, from the original weights; `ScaleSearch` may widen them, row by row.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import nn

from bitwright.model.layers import FakeQuantizedLayer
from bitwright.model.site import naming
from bitwright.model.task import Batch
from bitwright.model.transform.input_moments import Forward, Moments, in_float, input_moments, layers_in_order
from bitwright.model.transform.weight_grid import Grid, Nearest, Pinned, Rounder
from bitwright.recipe import nearest

LAZY = 128
"""Columns between updates of all later ones: changes no result but the order of its sums."""

AT_ONCE = 1 << 22
"""Weights chosen in one pass over several scales: bounds memory."""

Order = Callable[[Float[np.ndarray, " k"]], Integer[np.ndarray, " k"]]
"""From the energy of each input, the sequence in which their weights are chosen."""


def largest_first(energy: Float[np.ndarray, " k"]) -> Integer[np.ndarray, " k"]:
    """Inputs of most energy first (GPTQ's `act_order`)."""
    return np.argsort(-energy, kind="stable")


def as_stored(energy: Float[np.ndarray, " k"]) -> Integer[np.ndarray, " k"]:
    """Inputs in the order of K."""
    return np.arange(len(energy))


class ErrorFrom(Enum):
    """Where the error that later weights make up for is counted from."""

    TARGET = "the weight before any constraint (AXE, algorithm 2)"
    CLIPPED = "the weight as the constraint left it (AXE's public code)"

    def __repr__(self) -> str:
        return f"ErrorFrom.{self.name}"


class Method(ABC):
    """Chooses the weights of one group of rows from the moments of its inputs."""

    follows_float: ClassVar[bool]
    """Whether it reads the inputs of the float network too."""

    @abstractmethod
    def choose(
        self,
        weights: Float[np.ndarray, "n k"],
        quantized: Float[np.ndarray, "k k"],
        crossed: Float[np.ndarray, "k k"] | None,
        rounder: Rounder,
    ) -> Float[np.ndarray, "n k"]:
        """Weights on the rounder's grid, from Σ x̂ x̂ᵀ and Σ x̂ xᵀ. Those of inputs that are always zero become zero."""

    @abstractmethod
    def error(
        self,
        weights: Float[np.ndarray, "n k"],
        chosen: Float[np.ndarray, "n k"],
        quantized: Float[np.ndarray, "k k"],
        crossed: Float[np.ndarray, "k k"] | None,
    ) -> Float[np.ndarray, " n"]:
        """Squared error of each output that chosen weights leave, up to a constant of the row."""


@dataclass(frozen=True)
class Gptq(Method):
    """Spreads each weight's error over those not chosen yet, by the inverse of H = Σ x̂ x̂ᵀ.

    `damping` times the mean of H's diagonal is added to it.
    """

    order: Order = largest_first
    damping: float = 0.01
    error_from: ErrorFrom = ErrorFrom.TARGET

    follows_float: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.damping > 0:
            raise ValueError(f"Gptq: a damping of {self.damping} found; the inverse needs one above 0, such as 0.01")

    def choose(
        self,
        weights: Float[np.ndarray, "n k"],
        quantized: Float[np.ndarray, "k k"],
        crossed: Float[np.ndarray, "k k"] | None,
        rounder: Rounder,
    ) -> Float[np.ndarray, "n k"]:
        dead = np.diag(quantized) == 0
        hessian = quantized + np.diag(dead.astype(np.float64))
        energy = np.diag(hessian)
        sequence = self.order(energy)
        spread = _inverse_factor((hessian + np.eye(len(energy)) * self.damping * energy.mean())[sequence][:, sequence])
        targets, chosen = np.where(dead, 0.0, weights)[:, sequence], np.empty_like(weights)
        for start in range(0, len(energy), LAZY):
            block = slice(start, min(start + LAZY, len(energy)))
            errors = np.empty_like(targets[:, block])
            for i in range(block.start, block.stop):
                target = targets[:, i].copy()
                choice = rounder.choose(int(sequence[i]), target)
                chosen[:, sequence[i]] = choice.weights
                wanted = target if self.error_from is ErrorFrom.TARGET else choice.aims
                error = (wanted - choice.weights) / spread[i, i]
                targets[:, i : block.stop] -= error[:, None] * spread[i, i : block.stop]
                errors[:, i - start] = error
            targets[:, block.stop :] -= errors @ spread[block, block.stop :]
        return chosen

    def error(
        self,
        weights: Float[np.ndarray, "n k"],
        chosen: Float[np.ndarray, "n k"],
        quantized: Float[np.ndarray, "k k"],
        crossed: Float[np.ndarray, "k k"] | None,
    ) -> Float[np.ndarray, " n"]:
        """Σ (q·x̂ - w·x̂)²."""
        wrong = chosen - weights
        return np.asarray(np.sum(wrong @ quantized * wrong, 1))


@dataclass(frozen=True)
class GreedyPath(Method):
    """Each weight makes up for all that went wrong before it: the sum so far follows that of the float network."""

    order: Order = largest_first

    follows_float: ClassVar[bool] = True

    def choose(
        self,
        weights: Float[np.ndarray, "n k"],
        quantized: Float[np.ndarray, "k k"],
        crossed: Float[np.ndarray, "k k"] | None,
        rounder: Rounder,
    ) -> Float[np.ndarray, "n k"]:
        assert crossed is not None, "moments with the float network's inputs"
        energy = np.diag(quantized)
        sequence = self.order(energy)
        dead, energy = energy[sequence] == 0, np.where(energy == 0, 1.0, energy)[sequence]
        quantized, crossed = quantized[sequence][:, sequence], crossed[sequence][:, sequence]
        path = weights[:, sequence] @ np.tril(crossed).T  # Σ over s ≤ t of <x̂_t, w_s x_s>
        so_far, chosen = np.zeros_like(weights), np.empty_like(weights)
        for t, column in enumerate(sequence):
            target = (path[:, t] - so_far[:, :t] @ quantized[t, :t]) / energy[t]
            choice = rounder.choose(int(column), np.where(dead[t], 0.0, target))
            so_far[:, t] = chosen[:, column] = choice.weights
        return chosen

    def error(
        self,
        weights: Float[np.ndarray, "n k"],
        chosen: Float[np.ndarray, "n k"],
        quantized: Float[np.ndarray, "k k"],
        crossed: Float[np.ndarray, "k k"] | None,
    ) -> Float[np.ndarray, " n"]:
        """Σ (q·x̂ - w·x)² less Σ (w·x)²."""
        assert crossed is not None, "moments with the float network's inputs"
        return np.asarray(np.sum(chosen @ quantized * chosen - 2 * (chosen @ crossed) * weights, 1))


@dataclass(frozen=True)
class ScaleSearch:
    """Multiples of each row's calibrated scale to choose weights with; those of the least output error stay.

    Rows that share a scale choose together. Of equals the first factor stays.
    """

    factors: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.factors or min(self.factors) <= 0:
            raise ValueError(f"ScaleSearch: factors {self.factors} found; give at least one, all above 0")


AS_CALIBRATED = ScaleSearch((1.0,))
"""Scales as calibration set them, commonly by the largest weight: what the papers do."""


def gptq(
    prepared: nn.Module,
    batches: Iterable[Batch],
    *,
    method: Method = Gptq(),
    scales: ScaleSearch = AS_CALIBRATED,
    layers: Collection[str] | None = None,
    forward: Forward | None = None,
) -> nn.Module:
    """A copy of a calibrated model with weights chosen layer by layer, each with the inputs that reach it then.

    The weights lie on the grid of each layer's quantizer and `freeze` stores those very points. Calibrating again
    sets new scales. `layers` None chooses the weights of all of them.
    """

    def make_rounder(layer: FakeQuantizedLayer, pinned: Pinned) -> OnGrid:
        return lambda grid, weights: Nearest(grid)

    return choose_weights(prepared, batches, make_rounder, Choosing(method, scales), layers=layers, forward=forward)


OnGrid = Callable[[Grid, Float[np.ndarray, "rows k"]], Rounder]
"""What chooses the weights of some rows of a layer, from their grid and their original weights."""

MakeRounder = Callable[[FakeQuantizedLayer, Pinned], OnGrid]


@dataclass(frozen=True)
class Choosing:
    """How weights are chosen, and on which of several grids."""

    method: Method
    scales: ScaleSearch

    def chosen(self, pinned: Pinned, moments: Moments, on_grid: OnGrid) -> tuple[Pinned, Float[np.ndarray, "rows k"]]:
        """The scales and weights of least error."""
        rows, k = pinned.weights.shape
        candidates = [pinned.widened(np.full(rows, factor)) for factor in self.scales.factors]
        at_once = max(AT_ONCE // (rows * k), 1)
        parts = [
            self._on_each(candidates[i : i + at_once], moments, on_grid) for i in range(0, len(candidates), at_once)
        ]
        weights, errors = (np.concatenate(part) for part in zip(*parts, strict=True))
        starts = np.arange(0, rows, pinned.together)
        best = np.add.reduceat(errors, starts, axis=1).argmin(0)[np.arange(rows) // pinned.together]
        return pinned.widened(np.asarray(self.scales.factors)[best]), weights[best, np.arange(rows)]

    def _on_each(
        self, candidates: Sequence[Pinned], moments: Moments, on_grid: OnGrid
    ) -> tuple[Float[np.ndarray, "candidates rows k"], Float[np.ndarray, "candidates rows"]]:
        """Weights and errors on the grid of each candidate: one pass over their stacked rows."""
        original = candidates[0].weights
        groups, count = len(moments.quantized), len(candidates)
        height = len(original) // groups
        weights, errors = np.empty((count, *original.shape)), np.empty((count, len(original)))
        for g in range(groups):
            rows = slice(g * height, (g + 1) * height)
            stacked = np.tile(original[rows], (count, 1))
            grid = Grid.stacked([candidate.grid.take(rows) for candidate in candidates])
            both = moments.quantized[g], None if moments.crossed is None else moments.crossed[g]
            chosen = self.method.choose(stacked, *both, on_grid(grid, stacked))
            weights[:, rows] = chosen.reshape(count, height, -1)
            errors[:, rows] = self.method.error(stacked, chosen, *both).reshape(count, height)
        return weights, errors


@torch.no_grad()
def choose_weights(
    prepared: nn.Module,
    batches: Iterable[Batch],
    make_rounder: MakeRounder,
    choosing: Choosing,
    *,
    layers: Collection[str] | None,
    forward: Forward | None,
) -> nn.Module:
    """`gptq` with any rounder."""
    batches, model = list(batches), copy.deepcopy(prepared)
    reference = in_float(prepared) if choosing.method.follows_float else None
    originals = {} if reference is None else {m.name: m for m in _quantized(reference)}
    sequence = layers_in_order(model, batches, forward)
    names = [layer.name for layer in sequence]
    for name in layers or ():
        if name not in names:
            raise ValueError(f"{name!r} is no quantized layer with weights{nearest(name, names)}")
    for layer in sequence:
        if layers is not None and layer.name not in layers:
            continue
        with naming(layer.name):
            pinned = Pinned.of(layer)
            on_grid = make_rounder(layer, pinned)
            beside = None if reference is None else (reference, originals[layer.name])
            moments = input_moments(model, layer, batches, beside, forward)
            settled, weights = choosing.chosen(pinned, moments, on_grid)
            settled.give_(layer, weights)
    return model


def _quantized(model: nn.Module) -> list[FakeQuantizedLayer]:
    return [m for m in model.modules() if isinstance(m, FakeQuantizedLayer)]


def _inverse_factor(hessian: Float[np.ndarray, "k k"]) -> Float[np.ndarray, "k k"]:
    """U, upper, with Uᵀ U = H⁻¹: row i says how an error in column i is spread over the later ones."""
    # H⁻¹ = Uᵀ U follows from H = V Vᵀ with V = U⁻¹ upper, which is a Cholesky factor of H taken from its end
    lower = np.linalg.cholesky(hessian[::-1, ::-1])
    return np.linalg.inv(lower[::-1, ::-1])
