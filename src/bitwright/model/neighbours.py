"""How often outliers of a real network find a zero to overwrite, and one row of it before and after.

Independent lanes have an exact coverage (`expected_coverage`). A layer departs from it twice: rows differ in their
zeros and outliers, and neighbouring channels are correlated. Shuffling the lanes of each row removes only the second.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float
from jaxtyping import Int as Ints
from torch import Tensor, nn

from bitwright.formats import Rounding
from bitwright.model.layers import FakeQuantizedLayer, Ranges
from bitwright.model.task import Batch, Task
from bitwright.model.watch import watch
from bitwright.quantization import Quantizer
from bitwright.result import LaneRow, NeighbourResult, OutlierCoverage
from bitwright.schemes.overq import Overwrite, State, expected_coverage

CASCADES = (1, 2, 4, 8)
SAMPLE = 1 << 18
"""Most input elements of a layer that are looked at."""

WINDOW = 32
"""Most lanes of the row that is shown."""

SEED = 0


@dataclass(frozen=True)
class Levels:
    """Sampled rows of one layer's input as its overwriting format sees them."""

    name: str
    format: Overwrite
    rounding: Rounding
    values: Float[np.ndarray, "rows blocks block"]


def sample_levels(task: Task, prepared: nn.Module, batch: Batch) -> tuple[Levels, ...]:
    """Rows of every layer whose input overwrites neighbours, in the model's order; empty where none does."""
    layers = [m for m in prepared.modules() if isinstance(m, FakeQuantizedLayer) and _format(m) is not None]
    if not layers:
        return ()
    generator = np.random.default_rng(SEED)
    rows: dict[FakeQuantizedLayer, list[np.ndarray]] = {layer: [] for layer in layers}

    def see(layer: FakeQuantizedLayer, x: Tensor) -> None:
        rows[layer].append(_some(layer.lowering.input_rows(x).float().numpy(), generator))

    watch(task, prepared, layers, batch, see)
    found = []
    for layer, parts in rows.items():
        format, quantizer = _format(layer), layer.input_quantizer
        if parts and format is not None and quantizer is not None:
            seen = _some(np.concatenate(parts), generator)
            found.append(
                Levels(str(layer.name), format, quantizer.rounding, levels(quantizer, seen, layer.input_ranges))
            )
    return tuple(found)


def neighbour_result(seen: Levels) -> NeighbourResult:
    """Zeros, outliers, and what became of them."""
    format, lanes = seen.format, seen.values.shape[-1]
    tile = min(format.tile or lanes, lanes)
    zero, outlier, wide = format.classes(seen.values, seen.rounding)
    zeros, outliers = float(zero.mean()), float(outlier.mean())
    coverage = []
    if outliers:
        shuffled = np.random.default_rng(SEED).permuted(seen.values, axis=-1)
        for cascade in CASCADES:
            trial = replace(format, range_overwrite=True, cascade=cascade)
            coverage.append(
                OutlierCoverage(
                    cascade,
                    covered(trial, seen.values, seen.rounding),
                    expected_coverage(zeros, outliers, cascade, tile),
                    covered(trial, shuffled, seen.rounding),
                )
            )
    precise = None
    if format.precision_overwrite:
        owner = format.fraction_owners(zero, outlier, format.donors(zero, outlier, wide))
        precise = float(owner.sum() / max((~zero & ~outlier).sum(), 1))
    cascade = format.cascade if format.range_overwrite else 0
    return NeighbourResult(
        seen.name, lanes, tile, seen.values.size, zeros, outliers, cascade, tuple(coverage), precise
    )  # fmt: skip


def covered(format: Overwrite, x: Float[np.ndarray, "*rows k"], rounding: Rounding) -> float:
    """Fraction of the outliers among these levels that the format's own encoder gives a second digit."""
    zero, outlier, wide = format.classes(x, rounding)
    return float((format.donors(zero, outlier, wide) > 0).sum() / outlier.sum())


def lane_row(seen: Iterable[Levels]) -> LaneRow | None:
    """A row of the layer nearest to the middle that overwrites anything, chosen to show many kinds of states."""
    layers = list(seen)
    for i in sorted(range(len(layers)), key=lambda i: abs(i - len(layers) // 2)):
        found = _telling_row(layers[i])
        if found is not None:
            return found
    return None


def levels(quantizer: Quantizer, x: Float[np.ndarray, "rows k"], ranges: Ranges) -> Float[np.ndarray, "rows blocks _"]:
    """x over its stored scale, padded to whole blocks. Ranges that follow the data are those of these rows."""
    quantized = quantizer.quantize(x, ranges)
    padded = np.pad(x, ((0, 0), (0, quantized.codes[0].size - x.shape[1]))).reshape(quantized.codes.shape)
    scale = quantized.scale()[..., None].astype(x.dtype)
    return np.divide(padded, scale, out=np.zeros_like(padded), where=scale > 0)


def _telling_row(seen: Levels) -> LaneRow | None:
    format, block = seen.format, seen.values.shape[-1]
    width = min(WINDOW, block)
    count = block // width
    codes = format.encode(seen.values, seen.rounding)
    state = format.states(codes)

    def windows(lanes: np.ndarray) -> np.ndarray:
        return lanes[..., : count * width].reshape(*lanes.shape[:-1], count, width)

    ends = np.append(state[..., 1:] == State.OWN, np.ones_like(state[..., :1], bool), -1)
    is_whole = (windows(state)[..., 0] == State.OWN) & windows(ends)[..., -1]
    best = _best(windows(state), windows(seen.values != 0), is_whole)
    if best is None:
        return None
    first = int(best[-1]) * width
    x, codes = (lanes[best[0], best[1]] for lanes in (seen.values, codes))
    decoded = format.decode(codes)
    shown = slice(first, first + width)
    return LaneRow(
        seen.name, first, min(format.tile or block, block), float(format.lane.bounds().highest), 2**format.radix_bits,
        levels=tuple(map(float, x[shown])),
        plain=tuple(map(float, format.lane.decode(format.lane.encode(x[shown], seen.rounding)))),
        digits=tuple(map(float, format.lane.decode(format.payloads(codes[shown])))),
        states=tuple(State(s).name for s in format.states(codes)[shown]),
        decoded=tuple(map(float, decoded[shown])),
    )  # fmt: skip


def _best(
    state: Ints[np.ndarray, "rows blocks windows lanes"],
    used: Bool[np.ndarray, "rows blocks windows lanes"],
    is_whole: Bool[np.ndarray, "rows blocks windows"],
) -> tuple[int, int, int] | None:
    """Most kinds of states, then two outliers, then half of the lanes in use; None where nothing is overwritten."""
    kinds = np.sum([(state == kind).any(-1) for kind in State if kind is not State.OWN], 0)
    outliers = (state == State.HIGH).sum(-1)
    half = used.shape[-1] // 2
    rank = 10_000 * kinds - 100 * np.abs(outliers - 2) - np.abs(used.sum(-1) - half)
    rank[~is_whole | (kinds == 0)] = -10_000
    best = np.unravel_index(int(rank.argmax()), rank.shape)
    return (int(best[0]), int(best[1]), int(best[2])) if rank[best] > -10_000 else None


def _some(rows: Float[np.ndarray, "rows k"], generator: np.random.Generator) -> Float[np.ndarray, "some k"]:
    """All rows, or as many drawn at random as the sample holds; in their order."""
    most = max(SAMPLE // max(rows.shape[1], 1), 1)
    return rows if len(rows) <= most else rows[np.sort(generator.choice(len(rows), most, replace=False))]


def _format(layer: FakeQuantizedLayer) -> Overwrite | None:
    format = None if layer.input_quantizer is None else layer.input_quantizer.format
    return format if isinstance(format, Overwrite) else None
