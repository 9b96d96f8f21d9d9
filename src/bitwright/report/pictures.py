"""A histogram of scaled values above the grid of levels that represents them, as a small SVG."""

import html
from collections.abc import Callable

from bitwright.report import notation
from bitwright.result import Picture

_WIDTH, _HEIGHT = 240, 118
_LEFT, _RIGHT, _TOP = 6, 6, 4
_BASE = 84  # y of the histogram's foot
_RUG_TOP, _RUG_BOTTOM = 86, 97
_LABEL = 111
_SPIKE = 4  # a bar so many times the next one is cut
_MOST_GUIDES = 34  # beyond these many levels the guides would hide the histogram


def svg(picture: Picture, colour: str) -> str:
    """The picture, the share beyond the grid's ends in grey."""
    low, high = _span(picture)
    to_x = lambda level: _LEFT + (level - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)  # noqa: E731
    inside = _inside(picture)
    parts = [
        _guides(picture, to_x),
        _bars(picture, to_x, [not is_in for is_in in inside], "#b9b9b4"),
        _bars(picture, to_x, inside, colour),
        _cut(picture, to_x),
        f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{_BASE}" y2="{_BASE}" stroke="#1a1a1a" stroke-width=".7"/>',
        _rug(picture, to_x),
        _ends(picture, to_x),
    ]
    label = html.escape(f"{picture.layer}, {picture.operand}, {picture.format}: {caption(picture)}")
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">'
        f"<title>{label}</title>{''.join(parts)}</svg>"
    )


def caption(picture: Picture) -> str:
    """How many levels, and the share of values beyond the outermost ones."""
    total = sum(picture.counts)
    levels = notation.plural(len(picture.grid), "level")
    if not total or not picture.grid:
        return levels
    beyond = sum(count for count, is_in in zip(picture.counts, _inside(picture)) if not is_in)
    text = f"{levels}, {notation.per_cent(beyond / total)} % beyond"
    if _ceiling(_raw_densities(picture)) < max(_raw_densities(picture)):
        text += f"; cut bar: {notation.per_cent(max(picture.counts) / total)} %"
    return text


def _span(picture: Picture) -> tuple[float, float]:
    """Common range of histogram and grid."""
    marks = [*picture.edges, *picture.grid]
    low, high = (min(marks), max(marks)) if marks else (0.0, 1.0)
    room = 0.02 * (high - low) or 0.5
    return low - room, high + room


def _inside(picture: Picture) -> list[bool]:
    """Per bin: whether its centre rounds to a level rather than saturates: half a step beyond the ends still does."""
    grid = picture.grid
    if not grid:
        return [True] * len(picture.counts)
    step_low = (grid[1] - grid[0]) / 2 if len(grid) > 1 else 0.5
    step_high = (grid[-1] - grid[-2]) / 2 if len(grid) > 1 else 0.5
    centres = [(a + b) / 2 for a, b in zip(picture.edges, picture.edges[1:])]
    return [grid[0] - step_low <= centre <= grid[-1] + step_high for centre in centres]


def _raw_densities(picture: Picture) -> list[float]:
    widths = [b - a for a, b in zip(picture.edges, picture.edges[1:])]
    return [count / width if width > 0 else 0.0 for count, width in zip(picture.counts, widths)]


def _ceiling(densities: list[float]) -> float:
    """The density at full height: a lone spike, as the zeros of a rectified input, must not flatten the rest."""
    second, tallest = sorted([0.0, 0.0, *densities])[-2:]
    return 1.2 * second if second and tallest > _SPIKE * second else tallest


def _heights(picture: Picture) -> list[float]:
    """Height of each bin in [0, 1]."""
    raw = _raw_densities(picture)
    ceiling = _ceiling(raw)
    return [min(1.0, value / ceiling) if ceiling else 0.0 for value in raw]


def _bars(picture: Picture, to_x: Callable[[float], float], shown: list[bool], colour: str) -> str:
    """The shown bins as one path: bins side by side without seams."""
    path = []
    for left, right, height, is_shown in zip(picture.edges, picture.edges[1:], _heights(picture), shown):
        if is_shown and height > 0:
            # a populated bin never vanishes: at least half a pixel
            y = _BASE - max(0.5, height * (_BASE - _TOP))
            path.append(f"M{to_x(left):.2f} {_BASE}V{y:.2f}H{to_x(right):.2f}V{_BASE}Z")
    return f'<path d="{"".join(path)}" fill="{colour}" fill-opacity=".82"/>' if path else ""


def _cut(picture: Picture, to_x: Callable[[float], float]) -> str:
    """A white slit through the bar that is taller than the frame."""
    raw = _raw_densities(picture)
    if not raw or max(raw) <= _ceiling(raw):
        return ""
    i = raw.index(max(raw))
    x, y = to_x((picture.edges[i] + picture.edges[i + 1]) / 2), _TOP + 9
    return f'<path d="M{x - 5:.2f} {y + 2.5}L{x + 5:.2f} {y - 2.5}" stroke="white" stroke-width="2.5"/>'


def _guides(picture: Picture, to_x: Callable[[float], float]) -> str:
    if len(picture.grid) > _MOST_GUIDES:
        return ""
    path = "".join(f"M{to_x(level):.2f} {_TOP}V{_BASE}" for level in picture.grid)
    return f'<path d="{path}" stroke="#dededa" stroke-width=".6" fill="none"/>' if path else ""


def _rug(picture: Picture, to_x: Callable[[float], float]) -> str:
    if not picture.grid:
        return ""
    width = 1.1 if len(picture.grid) <= _MOST_GUIDES else 0.35
    path = "".join(f"M{to_x(level):.2f} {_RUG_TOP}V{_RUG_BOTTOM}" for level in picture.grid)
    return f'<path d="{path}" stroke="#1a1a1a" stroke-width="{width}" fill="none"/>'


def _ends(picture: Picture, to_x: Callable[[float], float]) -> str:
    """The outermost levels and zero by name, as far as they stay apart."""
    if not picture.grid:
        return ""
    named = [picture.grid[0], picture.grid[-1]]
    if named[0] < 0 < named[1] and all(abs(to_x(0.0) - to_x(level)) > 30 for level in named):
        named.append(0.0)
    texts = dict.fromkeys(named)
    return "".join(
        f'<text x="{min(max(to_x(level), _LEFT + 6), _WIDTH - _RIGHT - 6):.1f}" y="{_LABEL}">{_level(level)}</text>'
        for level in texts
    )


def _level(level: float) -> str:
    return notation.decimal(level, 0) if float(level).is_integer() else notation.three_digits(level)
