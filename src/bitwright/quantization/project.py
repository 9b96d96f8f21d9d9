"""Euclidean projection of rows onto the L1 ball: the nearest rows whose magnitudes add up to a given radius at most.

J. Duchi, S. Shalev-Shwartz, Y. Singer, T. Chandra, "Efficient projections onto the l1-ball for learning in high
dimensions", ICML 2008, fig. 1.
"""

import numpy as np
from jaxtyping import Float, Shaped


def l1_threshold(
    x: Float[np.ndarray, "*rows k"], radius: float | Shaped[np.ndarray, "*rows"]
) -> Float[np.ndarray, "*rows"]:
    """What the projection takes off every magnitude, down to zero; 0 for rows that already lie in the ball."""
    magnitude = -np.sort(-np.abs(x), axis=-1)
    excess = np.cumsum(magnitude, -1) - np.asarray(radius)[..., None]
    count = np.arange(1, x.shape[-1] + 1)
    last: np.ndarray = np.maximum((magnitude * count > excess).sum(-1, keepdims=True) - 1, 0)
    threshold = np.take_along_axis(excess / count, last, -1)[..., 0]
    return np.maximum(threshold, 0.0)


def project_onto_l1_ball(
    x: Float[np.ndarray, "*rows k"], radius: float | Shaped[np.ndarray, "*rows"]
) -> Float[np.ndarray, "*rows k"]:
    """The nearest rows with Σ|x| ≤ radius, up to rounding."""
    return np.sign(x) * np.maximum(np.abs(x) - l1_threshold(x, radius)[..., None], 0.0)
