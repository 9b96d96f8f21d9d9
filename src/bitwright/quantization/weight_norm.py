"""Integers by direction, norm and scale, so that their L1 norm stays bounded whatever a training step does (A2Q).

A tile of a row has the integers trunc(y), y = v·g/‖v‖₁ with g = min(2**t/s, bound) and s = 2**d: direction v, norm t
and scale d learn, and neither rounding toward zero nor clipping can lengthen y beyond the bound.

I. Colbert, A. Pappalardo, J. Petri-Koenig, arXiv:2301.13376 and arXiv:2308.13504; zero-centred: A2Q+, arXiv:2401.10432.
Formulas after the authors' Brevitas. Differs: levels that float arithmetic left a hair below an integer count as it,
and the integers are compared with the bound afterwards.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

SMALLEST_SCALE = 1e-10

HAIR = 1 + 2.0**-20
"""Levels grow by this before they are cut: log2 and its inverse in float32 miss an integer by less."""


@dataclass(frozen=True)
class NormBound:
    """What the integers of a tile may be: magnitudes up to `largest`, and Σ|integer| up to `norm`.

    A centred direction has its mean taken off: then each sign has half the norm, and is bounded by it alone (A2Q+).
    """

    largest: int
    norm: float
    is_centred: bool
    tile: int | None = None  # elements of one sum; None is the whole row

    def shape(self, k: int) -> tuple[int, int]:
        """Sums that a row of k elements is cut into, and the elements of each."""
        tile = k if self.tile is None else self.tile
        return -(-k // tile), tile


def normalised(
    v: Float[np.ndarray, "rows k"],
    log_norm: Float[np.ndarray, "rows tiles"],
    log_scale: Float[np.ndarray, "rows 1"],
    bound: NormBound,
) -> Int[np.ndarray, "rows k"]:
    """The integers of the rows v. A row of zeros stays zero."""
    k = v.shape[1]
    tiles, tile = bound.shape(k)
    tiled = np.pad(v.astype(np.float64), ((0, 0), (0, tiles * tile - k))).reshape(-1, tiles, tile)
    real = (np.arange(tiles * tile) < k).reshape(tiles, tile)
    if bound.is_centred:
        tiled = np.where(real, tiled - tiled.sum(-1, keepdims=True) / real.sum(-1, keepdims=True), 0.0)
    scale = np.maximum(np.exp2(log_scale.astype(np.float64)), SMALLEST_SCALE)
    aim = np.minimum(np.exp2(log_norm.astype(np.float64)) / scale, bound.norm)
    norm = np.abs(tiled).sum(-1)
    level = tiled * np.divide(aim, norm, out=np.zeros_like(norm), where=norm > 0)[..., None]
    whole = np.clip(np.trunc(level * HAIR), -bound.largest, bound.largest)
    return shortened(whole, bound).reshape(len(v), -1)[:, :k].astype(np.int64)


def shortened(whole: Float[np.ndarray, "rows tiles tile"], bound: NormBound) -> Float[np.ndarray, "rows tiles tile"]:
    """Integers within the bound: where a hair was too much, the smallest magnitudes give way."""
    parts, limit = ((whole > 0, whole < 0), bound.norm / 2) if bound.is_centred else ((whole != 0,), bound.norm)
    for part in parts:
        magnitude = np.abs(whole) * part
        surplus = magnitude.sum(-1, keepdims=True) - np.floor(limit)
        if (surplus > 0).any():
            rank = np.argsort(np.argsort(np.where(part, magnitude, np.inf), -1, kind="stable"), -1)
            whole = whole - np.sign(whole) * (part & (rank < surplus))
    return whole
