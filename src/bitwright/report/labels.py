"""Where to put the labels of a scatter plot: near their points, off one another, off the lines.

Greedy with a few rounds of improvement over a ring of candidate positions, after J. Christensen, J. Marks and
S. Shieber, "An Empirical Study of Algorithms for Point-Feature Label Placement", ACM TOG 14(3), 1995. Pixels, y down.
Boxes are arrays of left, top, right, bottom.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from bitwright.report.notation import Number

_RADII = np.array([16, 24, 34, 46, 60, 78, 98, 120])
_ANGLES = 2 * np.pi * np.arange(24) / 24
_ROUNDS = 4
_LEADER_STEPS = 8
_TEXT, _LINE, _OUTSIDE = 20.0, 2.0, 1e6  # cost of a covered pixel of text or point, of a line, of leaving the frame


@dataclass(frozen=True)
class Label:
    """A text of known size that belongs to a point."""

    x: Number
    y: Number
    width: Number
    height: Number

    @staticmethod
    def of(x: Number, y: Number, text: str) -> "Label":
        """Of one line in an 11 px sans font; the width is an upper estimate."""
        return Label(x, y, 6.0 * len(text) + 6, 15)

    @property
    def point(self) -> Float[np.ndarray, "2"]:
        return np.array([self.x, self.y], float)

    @property
    def half(self) -> Float[np.ndarray, "2"]:
        return np.array([self.width, self.height]) / 2

    def at(self, offsets: Float[np.ndarray, "c 2"]) -> Float[np.ndarray, "c 4"]:
        """The label with its centre moved from the point."""
        centres = self.point + offsets
        return np.concatenate([centres - self.half, centres + self.half], -1)


def boxes(rows: Sequence[Sequence[Number]]) -> Float[np.ndarray, "b 4"]:
    return np.array(rows, float).reshape(-1, 4)


def overlap(a: Float[np.ndarray, "c 4"], b: Float[np.ndarray, "b 4"]) -> Float[np.ndarray, "c b"]:
    """Common area of each box with each other one."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    return np.maximum(high - low, 0).prod(-1)


def place(
    labels: Sequence[Label],
    *,
    frame: Float[np.ndarray, "4"],
    points: Float[np.ndarray, "p 4"],
    lines: Float[np.ndarray, "l 4"],
) -> list[tuple[float, float]]:
    """Offset of each label's centre from its point."""
    offsets: dict[int, Float[np.ndarray, "1 2"]] = {}
    for _ in range(1 + _ROUNDS):
        for i, label in enumerate(labels):
            others = [(labels[j], offset) for j, offset in offsets.items() if j != i]
            texts = [points, *(other.at(offset) for other, offset in others)]
            leaders = [_leader(other, offset)[0] for other, offset in others]
            candidates = _candidates(label)
            cost = (
                _TEXT * overlap(label.at(candidates), np.concatenate([*texts, *leaders])).sum(1)
                + _LINE * overlap(label.at(candidates), lines).sum(1)
                + _TEXT / 2 * _crossings(label, candidates, np.concatenate(texts))
                + _OUTSIDE * _leaves(label.at(candidates), frame)
                + _gap(label, candidates)
            )
            best = int(np.argmin(cost))
            offsets[i] = candidates[best : best + 1]
    return [(float(offset[0, 0]), float(offset[0, 1])) for _, offset in sorted(offsets.items())]


def _candidates(label: Label) -> Float[np.ndarray, "c 2"]:
    """Offsets such that the label's near edge, not its centre, keeps the radius."""
    ring = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], -1)
    return np.round((ring * (_RADII[:, None, None] + label.half)).reshape(-1, 2), 1)


def _gap(label: Label, offsets: Float[np.ndarray, "c 2"]) -> Float[np.ndarray, "c"]:
    """Distance from the point to the label's nearest edge."""
    return np.hypot(*np.maximum(np.abs(offsets) - label.half, 0).T)


def _leader(label: Label, offsets: Float[np.ndarray, "c 2"]) -> Float[np.ndarray, "c steps 4"]:
    """The line from the point to the label as small boxes."""
    reach = _gap(label, offsets) / np.maximum(np.hypot(*offsets.T), 1e-9)
    shares = np.arange(_LEADER_STEPS) / _LEADER_STEPS
    points = label.point + offsets[:, None] * reach[:, None, None] * shares[:, None]
    return np.concatenate([points - 1, points + 1], -1)


def _crossings(
    label: Label, offsets: Float[np.ndarray, "c 2"], texts: Float[np.ndarray, "t 4"]
) -> Float[np.ndarray, "c"]:
    """Area in which the leader lies on texts and points, its own point apart."""
    is_own = (texts[:, :2] <= label.point).all(1) & (label.point <= texts[:, 2:]).all(1)
    covered = overlap(_leader(label, offsets).reshape(-1, 4), texts[~is_own])
    return covered.reshape(len(offsets), -1).sum(1)


def _leaves(placed: Float[np.ndarray, "c 4"], frame: Float[np.ndarray, "4"]) -> Float[np.ndarray, "c"]:
    return ((placed[:, :2] < frame[:2]).any(1) | (placed[:, 2:] > frame[2:]).any(1)).astype(float)
