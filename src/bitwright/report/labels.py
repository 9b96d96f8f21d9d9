"""Where to put the labels of a scatter plot: near their points, off one another, off the lines.

Greedy with a few rounds of improvement over a ring of candidate positions, after J. Christensen, J. Marks and
S. Shieber, "An Empirical Study of Algorithms for Point-Feature Label Placement", ACM TOG 14(3), 1995. Pixels, y down.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bitwright.report.notation import Number

_RADII = (16, 24, 34, 46, 60, 78, 98, 120)
_ANGLES = tuple(2 * math.pi * i / 24 for i in range(24))
_ROUNDS = 4


@dataclass(frozen=True)
class Box:
    """An axis-parallel rectangle."""

    left: Number
    top: Number
    right: Number
    bottom: Number

    def overlap(self, other: "Box") -> Number:
        """Common area."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, width) * max(0.0, height)

    def contains(self, other: "Box") -> bool:
        return (
            self.left <= other.left
            and other.right <= self.right
            and self.top <= other.top
            and other.bottom <= self.bottom
        )


@dataclass(frozen=True)
class Label:
    """A text of known size that belongs to a point."""

    x: Number
    y: Number
    width: Number
    height: Number

    def at(self, dx: Number, dy: Number) -> Box:
        """The label with its centre moved from the point."""
        x, y = self.x + dx, self.y + dy
        return Box(x - self.width / 2, y - self.height / 2, x + self.width / 2, y + self.height / 2)


def place(labels: Sequence[Label], frame: Box, hard: Sequence[Box], soft: Sequence[Box]) -> list[tuple[Number, Number]]:
    """Offset of each label's centre from its point. Points and texts are `hard` obstacles, lines `soft` ones."""
    offsets: list[tuple[Number, Number]] = []
    for label in labels:
        offsets.append(_best(label, frame, [*hard, *_boxes(labels, offsets)], soft, _leaders(labels, offsets)))
    for _ in range(_ROUNDS):
        for i, label in enumerate(labels):
            others = [j for j in range(len(labels)) if j != i]
            boxes = [labels[j].at(*offsets[j]) for j in others]
            leaders = [leader for j in others for leader in _leader(labels[j], offsets[j])]
            offsets[i] = _best(label, frame, [*hard, *boxes], soft, leaders)
    return offsets


def _best(
    label: Label, frame: Box, hard: Sequence[Box], soft: Sequence[Box], leaders: Sequence[Box]
) -> tuple[Number, Number]:
    def cost(offset: tuple[Number, Number]) -> Number:
        box = label.at(*offset)
        trail = _leader(label, offset)
        return (
            20 * sum(box.overlap(other) for other in hard)
            + 2 * sum(box.overlap(other) for other in soft)
            + 20 * sum(box.overlap(other) for other in leaders)
            + 10 * sum(part.overlap(other) for part in trail for other in hard if not _covers(other, label))
            + (0 if frame.contains(box) else 1e6)
            + _gap(label, offset)
        )

    return min(_candidates(label), key=cost)


def _candidates(label: Label) -> list[tuple[Number, Number]]:
    """Centres such that the label's near edge, not its centre, keeps the radius."""
    return [
        (
            round(math.cos(angle) * (radius + label.width / 2), 1),
            round(math.sin(angle) * (radius + label.height / 2), 1),
        )
        for radius in _RADII
        for angle in _ANGLES
    ]


def _gap(label: Label, offset: tuple[Number, Number]) -> Number:
    """Distance from the point to the label's nearest edge."""
    return math.hypot(max(0, abs(offset[0]) - label.width / 2), max(0, abs(offset[1]) - label.height / 2))


def _leader(label: Label, offset: tuple[Number, Number]) -> list[Box]:
    """The line from the point to the label as small boxes."""
    steps = max(1, int(_gap(label, offset) // 6))
    reach = _gap(label, offset) / max(1e-9, math.hypot(*offset))
    points = [(label.x + offset[0] * reach * i / steps, label.y + offset[1] * reach * i / steps) for i in range(steps)]
    return [Box(x - 1, y - 1, x + 1, y + 1) for x, y in points]


def _leaders(labels: Sequence[Label], offsets: Sequence[tuple[Number, Number]]) -> list[Box]:
    return [leader for label, offset in zip(labels, offsets) for leader in _leader(label, offset)]


def _boxes(labels: Sequence[Label], offsets: Sequence[tuple[Number, Number]]) -> list[Box]:
    return [label.at(*offset) for label, offset in zip(labels, offsets)]


def _covers(box: Box, label: Label) -> bool:
    return box.left <= label.x <= box.right and box.top <= label.y <= box.bottom
