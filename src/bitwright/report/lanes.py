"""Lanes of a real row before and after overwriting, as one SVG: what a lane can hold, what moves, what is won.

From top to bottom: the row's levels under the ceiling of one lane; the lanes without overwriting; arrows for what goes
to another lane; the lanes after overwriting; the arithmetic of two digits; the levels that are kept.
"""

import html
from dataclasses import dataclass

from bitwright.report import notation
from bitwright.report.notation import Number
from bitwright.report.palette import INK
from bitwright.result import LaneRow

OUTLIER, MOVED, FRACTION = "#D55E00", "#0072B2", "#009E73"
"""Of Okabe and Ito, as the families'; letters say the same in grey."""

LETTERS = {"HIGH": "H", "LOW": "F", "MOVED": "M"}
COLOURS = {"HIGH": OUTLIER, "LOW": FRACTION, "MOVED": MOVED}

_WIDTH = 1040
_LEFT = 118  # gutter with the names of the lines
_MOST_CELL = 34
_BAR = 84  # height of the bars
_CELL = 27
_TALLEST = 2.4  # bars reach so many times the lane's largest value and are cut above
_BEFORE_FOOT = 18 + _BAR
_PLAIN = _BEFORE_FOOT + 6
_ARROWS = _PLAIN + _CELL
_WIDE = _ARROWS + 34
_SUMS = _WIDE + _CELL + 8
_AFTER_FOOT = _SUMS + 32 + _BAR
_HEIGHT = _AFTER_FOOT + 18


@dataclass(frozen=True)
class _Drawing:
    """The row and where its lanes lie."""

    row: LaneRow
    cell: Number  # pixels
    top: Number  # level of the highest bar

    @staticmethod
    def of(row: LaneRow) -> "_Drawing":
        cell = min((_WIDTH - _LEFT - 8) / len(row.levels), _MOST_CELL)
        tallest = max(map(abs, [*row.levels, *row.decoded, row.largest]))
        return _Drawing(row, cell, min(tallest, _TALLEST * row.largest))

    def x(self, lane: Number) -> Number:
        return _LEFT + lane * self.cell

    def centre(self, lane: Number) -> Number:
        return self.x(lane + 0.5)

    def height(self, level: Number) -> Number:
        return _BAR * min(abs(level) / self.top, 1)

    def owner(self, lane: int) -> str:
        """What the lane's value got of its neighbour: HIGH, LOW, or OWN for nothing."""
        following = self.row.states[lane + 1] if lane + 1 < len(self.row.states) else "OWN"
        return following if following in ("HIGH", "LOW") else "OWN"


def svg(row: LaneRow) -> str:
    """The picture. Colours and letters are those of `LETTERS`."""
    drawing = _Drawing.of(row)
    parts = [
        _gutter(drawing),
        _bars(drawing, _BEFORE_FOOT, row.plain, is_after=False),
        _plain_cells(drawing),
        _arrows(drawing),
        _wide_cells(drawing),
        _sums(drawing),
        _bars(drawing, _AFTER_FOOT, row.decoded, is_after=True),
        _indices(drawing),
    ]
    label = html.escape(f"{caption(row)}, before and after overwriting")
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}"><title>{label}</title>'
        f"{''.join(parts)}</svg>"
    )


def caption(row: LaneRow) -> str:
    """Which lanes of which layer."""
    return f"{row.layer}, lanes {row.first_lane} to {row.first_lane + len(row.levels) - 1} of one row"


def rms_errors(row: LaneRow) -> tuple[float, float]:
    """Root mean square error of the lanes in levels, before and after."""

    def error(kept: tuple[float, ...]) -> Number:
        return (sum((a - b) ** 2 for a, b in zip(kept, row.levels)) / len(row.levels)) ** 0.5

    return error(row.plain), error(row.decoded)


def _gutter(drawing: _Drawing) -> str:
    """Names of the lines."""
    bars = "magnitudes" if min(drawing.row.levels) < 0 else "levels"
    before, after = (notation.decimal(error, 2) for error in rms_errors(drawing.row))
    names = [
        (_BEFORE_FOOT - 30, "before", True), (_BEFORE_FOOT - 16, bars, False),
        (_BEFORE_FOOT - 2, f"rms error {before}", False),
        (_PLAIN + 12, "plain lanes", True), (_PLAIN + 24, "outliers clipped", False),
        (_WIDE + 12, "overwritten", True), (_WIDE + 24, "digit and state", False),
        (_AFTER_FOOT - 30, "after", True), (_AFTER_FOOT - 16, f"{bars} kept", False),
        (_AFTER_FOOT - 2, f"rms error {after}", False),
    ]  # fmt: skip
    return "".join(
        f'<text x="{_LEFT - 14}" y="{y}" class="name{" strong" if is_strong else ""}">{text}</text>'
        for y, text, is_strong in names
    )


def _bars(drawing: _Drawing, foot: Number, kept: tuple[float, ...], *, is_after: bool) -> str:
    """Real levels as outlines, what is kept as solid bars, and the ceiling of one lane across."""
    row, parts, values = drawing.row, [], []
    for lane, (level, value) in enumerate(zip(row.levels, kept)):
        owner = drawing.owner(lane) if is_after else "OWN"
        is_clipped = abs(level) > row.largest + 0.5 and abs(value) <= row.largest
        colour = COLOURS.get(owner, "#a9a9a4")
        left, width = drawing.x(lane) + 3, drawing.cell - 6
        height, real = drawing.height(value), drawing.height(level)
        if real > 0.4:
            edge = OUTLIER if is_clipped else "#a9a9a4"
            parts.append(
                f'<rect x="{left + 0.5:.1f}" y="{foot - real:.1f}" width="{width - 1:.1f}" height="{real:.1f}" '
                f'fill="{"#fbe9df" if is_clipped else "none"}" stroke="{edge}" stroke-width="1" '
                f'stroke-dasharray="{"2 2" if is_clipped else "none"}"/>'
            )
        if height > 0.4:
            parts.append(
                f'<rect x="{left:.1f}" y="{foot - height:.1f}" width="{width:.1f}" height="{height:.1f}" '
                f'fill="{colour}"/>'
            )
        text = _number(value) if owner != "OWN" else notation.decimal(level, 1) if is_clipped else ""
        if text:
            y = foot - max(height, real) - 4
            fill = colour if owner != "OWN" else OUTLIER
            values.append(f'<text x="{drawing.centre(lane):.1f}" y="{y:.1f}" class="value" fill="{fill}">{text}</text>')
        if max(abs(level), abs(value)) > drawing.top * 1.001:
            parts.append(_slit(drawing.centre(lane), foot - _BAR + 9))
    ceiling = foot - drawing.height(row.largest)
    end = drawing.x(len(row.levels))
    parts.append(
        f'<line x1="{_LEFT}" x2="{end:.1f}" y1="{ceiling:.1f}" y2="{ceiling:.1f}" stroke="{INK}" stroke-width=".8" '
        f'stroke-dasharray="5 3"/><text x="{_LEFT - 6}" y="{ceiling + 3.5:.1f}" class="end">'
        f"{'' if is_after else 'most in one lane '}{_number(row.largest)}</text>"
        f'<line x1="{_LEFT}" x2="{end:.1f}" y1="{foot}" y2="{foot}" stroke="{INK}" stroke-width=".8"/>'
    )
    return "".join([*parts, *values])  # numbers over the ceiling


def _plain_cells(drawing: _Drawing) -> str:
    row, parts = drawing.row, []
    for lane, (level, value) in enumerate(zip(row.levels, row.plain)):
        is_clipped = abs(level) > row.largest + 0.5
        taken = COLOURS.get(row.states[lane]) if value == 0 else None
        fill, stroke = ("#fbe9df", OUTLIER) if is_clipped else ("white", taken or "#b9b9b4")
        text = OUTLIER if is_clipped else taken or ("#b9b9b4" if value == 0 else INK)
        parts.append(
            _cell(drawing, lane, _PLAIN, _number(value), fill=fill, stroke=stroke, text=text, dash="3 2" * bool(taken))
        )
    return "".join(parts)


def _wide_cells(drawing: _Drawing) -> str:
    row, parts = drawing.row, []
    for lane, (digit, state) in enumerate(zip(row.digits, row.states)):
        name = state if state != "OWN" else drawing.owner(lane)
        colour = COLOURS.get(name)
        text = colour or ("#b9b9b4" if digit == 0 else INK)
        parts.append(
            _cell(drawing, lane, _WIDE, _number(digit), fill=colour or "white", stroke=colour or "#b9b9b4", text=text,
                  opacity=0.16 if state != "OWN" else 0.05, letter=LETTERS.get(state, ""))
        )  # fmt: skip
    return "".join(parts)


def _cell(
    drawing: _Drawing, lane: int, y: Number, number: str, *, fill: str, stroke: str, text: str, opacity: Number = 1,
    letter: str = "", dash: str = "",
) -> str:  # fmt: skip
    """One lane: its digit, and the letter of its state in the corner. A tile starts with a gap."""
    starts_tile = lane and (drawing.row.first_lane + lane) % drawing.row.tile == 0
    left = drawing.x(lane) + (3 if starts_tile else 0.5)
    width = drawing.x(lane + 1) - 0.5 - left
    mark = (
        f'<text x="{left + width - 2:.1f}" y="{y + 9}" class="letter" fill="{text}">{letter}</text>' if letter else ""
    )
    middle = left + width / 2 - (2 if letter else 0)
    return (
        f'<rect x="{left:.1f}" y="{y + 0.5}" width="{width:.1f}" height="{_CELL - 1}" fill="{fill}" '
        f'fill-opacity="{opacity}" stroke="{stroke}" stroke-width="1" stroke-dasharray="{dash or "none"}"/>'
        f'<text x="{middle:.1f}" y="{y + _CELL / 2 + 4.5}" class="digit" fill="{text}">{number}</text>{mark}'
    )


def _arrows(drawing: _Drawing) -> str:
    """From the lane that a digit belongs to, to the lane that holds it."""
    parts = []
    for lane, state in enumerate(drawing.row.states):
        if state == "OWN":
            continue
        x0, x1, y0, y1 = drawing.centre(lane - 1), drawing.centre(lane), _ARROWS + 2, _WIDE - 3
        colour = COLOURS[state]
        middle = (y0 + y1) / 2
        parts.append(
            f'<path d="M{x0:.1f} {y0}C{x0:.1f} {middle} {x1:.1f} {middle} {x1:.1f} {y1 - 5}" fill="none" '
            f'stroke="{colour}" stroke-width="1.6"/>'
            f'<path d="M{x1 - 3.5:.1f} {y1 - 6}L{x1 + 3.5:.1f} {y1 - 6}L{x1:.1f} {y1}Z" fill="{colour}"/>'
        )
        if state != "MOVED":  # the other digit stays
            parts.append(
                f'<path d="M{x0:.1f} {y0}V{y1}" fill="none" stroke="{colour}" stroke-width="1.2" '
                f'stroke-dasharray="1.5 2.5"/>'
            )
    return "".join(parts)


def _sums(drawing: _Drawing) -> str:
    """A brace under the two lanes of a value, with what they add up to."""
    row, parts = drawing.row, []
    for lane, state in enumerate(row.states):
        if state not in ("HIGH", "LOW"):
            continue
        colour = COLOURS[state]
        left, right, y = drawing.x(lane - 1) + 3, drawing.x(lane + 1) - 3, _SUMS - 5
        own, other = _number(row.digits[lane - 1]), _number(row.digits[lane])
        plus = "" if other.startswith(notation.MINUS) else "+"
        text = f"{own}{plus}{other}{'·' if state == 'HIGH' else '/'}{row.radix}"
        parts.append(
            f'<path d="M{left:.1f} {y}v4H{right:.1f}v-4" fill="none" stroke="{colour}" stroke-width="1.2"/>'
            f'<text x="{drawing.x(lane):.1f}" y="{y + 15}" class="sum" fill="{colour}">{text}</text>'
        )
    return "".join(parts)


def _indices(drawing: _Drawing) -> str:
    first = drawing.row.first_lane
    return "".join(
        f'<text x="{drawing.centre(lane):.1f}" y="{_AFTER_FOOT + 12}" class="index">{first + lane}</text>'
        for lane in range(len(drawing.row.levels))
        if lane % 4 == 0
    )


def _slit(x: Number, y: Number) -> str:
    """A white stroke through a bar that is taller than the frame."""
    return f'<path d="M{x - 9:.1f} {y + 3}L{x + 9:.1f} {y - 3}" stroke="white" stroke-width="2.5"/>'


def _number(value: Number) -> str:
    return notation.decimal(value, 0 if float(value).is_integer() else 1 if float(10 * value).is_integer() else 2)
