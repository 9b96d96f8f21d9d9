"""A drawing of the array that computes a scheme: what enters where, how wide it is, what stays, and one element.

Lines and letters take the colour of the text around them, so the drawing reads on light and on dark ground alike.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import NamedTuple

from bitwright.report.notation import Number
from bitwright.report.palette import PART_COLOURS
from bitwright.result import ArrayWires, Hardware, Wires

WIDTH, HEIGHT = 760, 500
_CELL_W, _CELL_H = 62, 46
_COLUMN_XS, _ROW_YS = (250, 334, 448), (140, 204, 300)
_ELEMENT_X, _ELEMENT_Y, _ELEMENT_W, _MOST_H, _PITCH = 566, 112, 186, 376, 66

_STYLE = (
    "<style>svg{color:#1a1a1a}@media(prefers-color-scheme:dark){svg{color:#e6e6e2}}text{font:12px sans-serif}</style>"
)


class _Mark(NamedTuple):
    """A box, a wire or a word, drawn with others of its look."""

    kind: str
    look: str
    content: str


@dataclass(frozen=True)
class _Flow:
    """Who enters from the left and from above, and what stays in an element."""

    left: str
    top: str
    rows: str
    columns: str
    stays: str

    @property
    def is_top_held(self) -> bool:
        return self.stays == self.top


_FLOWS = {
    "weight stationary": _Flow("input", "weight", "K", "outputs", "weight"),
    "input stationary": _Flow("weight", "input", "K", "inputs", "input"),
    "output stationary": _Flow("input", "weight", "inputs", "outputs", "sum"),
}


def drawing(hardware: Hardware, wires: ArrayWires) -> str:
    """An SVG element for a page. ValueError for a dataflow of which there is no picture."""
    if hardware.dataflow not in _FLOWS:
        raise ValueError(f"no picture of a {hardware.dataflow!r} array; choose from {', '.join(_FLOWS)}")
    flow = _FLOWS[hardware.dataflow]
    columns, rows = _shown(hardware.columns, _COLUMN_XS), _shown(hardware.rows, _ROW_YS)
    parts = [
        *_memories(hardware, flow), *_cells(rows, columns, flow), *_left(rows, flow, wires),
        *_top(columns, flow, wires), *_bottom(rows, columns, wires), *_element(flow, wires),
        *_facts(hardware, wires, flow),
    ]  # fmt: skip
    name = f"{hardware.rows} by {hardware.columns} array, {hardware.dataflow}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="array" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'stroke="currentColor" fill="none" font-size="12"><title>{escape(name)}</title>' + _drawn(parts) + "</svg>"
    )


def standalone(svg: str) -> str:
    """The drawing as a file of its own, that follows the reader's choice of light or dark."""
    return svg.replace("<title>", _STYLE + "<title>", 1)


def _shown(count: int, places: Sequence[int]) -> list[tuple[int, int]]:
    """Index and position of what is drawn: all, or the first two and the last."""
    if count <= len(places):
        return [(i, places[0] + i * (places[1] - places[0])) for i in range(count)]
    return [(0, places[0]), (1, places[1]), (count - 1, places[2])]


def _memories(hardware: Hardware, flow: _Flow) -> list[_Mark]:
    size = {"weight": hardware.weight_kilobytes, "input": hardware.input_kilobytes}
    dram = escape(f"{hardware.dram}, {hardware.dram_bits} bit a cycle")
    return [
        _box(8, 10, 30, 478), _Mark("text", "", f'<text transform="translate(27 249) rotate(-90)">{dram}</text>'),
        _box(150, 10, 360, 34), _text(330, 31, f"{flow.top} buffer, {size[flow.top]:g} KB"), _bus(38, 27, 150),
        _box(64, 140, 80, 206), _text(104, 238, f"{flow.left} buffer"), _text(104, 254, f"{size[flow.left]:g} KB"),
        _bus(38, 243, 64),
        _box(150, 454, 360, 34), _text(330, 475, f"sum buffer, {hardware.sum_kilobytes:g} KB"), _bus(38, 471, 150),
    ]  # fmt: skip


def _cells(rows: Sequence[tuple[int, int]], columns: Sequence[tuple[int, int]], flow: _Flow) -> list[_Mark]:
    mark = {"weight": "w", "input": "x", "sum": "Σ"}[flow.stays]
    made = []
    for _, y in rows:
        for _, x in columns:
            made += [_box(x, y, _CELL_W, _CELL_H, "multiplier"), _text(x + _CELL_W / 2, y + 28, mark, "italic")]
        for (i, x), (j, later) in pairwise(columns):
            made += _wire(x + _CELL_W, y + 23, later, y + 23, "broken" if j - i > 1 else "")
    for _, x in columns:
        for (i, y), (j, later) in pairwise(rows):
            made += _wire(x + 31, y + _CELL_H, x + 31, later, "broken" if j - i > 1 else "")
    return made


def _left(rows: Sequence[tuple[int, int]], flow: _Flow, wires: ArrayWires) -> list[_Mark]:
    """Through decoders, where codes are anything but integers."""
    operand = getattr(wires, flow.left)
    made = []
    for i, y in rows:
        if operand.is_decoded:
            made += [*_wire(144, y + 23, 172, y + 23), _box(172, y + 10, 34, 26, "decoders"), _text(189, y + 27, "dec")]
        made += _wire(206 if operand.is_decoded else 144, y + 23, 250, y + 23)
        if i:
            made.append(_text(228, y + 40, f"+{i}", "small"))
    y = rows[0][1] + 17
    coded = [_text(158, y, str(operand.code), "width")] if operand.is_decoded else []
    return [*made, *coded, _text(228, y, str(_moved(operand)), "width")]


def _top(columns: Sequence[tuple[int, int]], flow: _Flow, wires: ArrayWires) -> list[_Mark]:
    """Likewise from above."""
    operand = getattr(wires, flow.top)
    look = "dashed" if flow.is_top_held else ""
    made = []
    for _, x in columns:
        if operand.is_decoded:
            made += [*_wire(x + 31, 44, x + 31, 70), _box(x + 14, 70, 34, 26, "decoders"), _text(x + 31, 87, "dec")]
        made += _wire(x + 31, 96 if operand.is_decoded else 44, x + 31, 140, look)
    x = columns[0][1] + 42
    coded = [_text(x, 61, str(operand.code), "width")] if operand.is_decoded else []
    return [*made, *coded, _text(x, 122, str(_moved(operand)), "width")]


def _bottom(rows: Sequence[tuple[int, int]], columns: Sequence[tuple[int, int]], wires: ArrayWires) -> list[_Mark]:
    """Sums leave below; where blocks have scales, an outer register for each column adds them."""
    start, x = rows[-1][1] + _CELL_H, columns[0][1]
    made = [_text(x + 44, 367, str(wires.accumulator), "width")]
    if wires.outer is None and not wires.is_outer_float:
        return [*made, *(mark for _, x in columns for mark in _wire(x + 31, start, x + 31, 454))]
    inside = "Σ float" if wires.is_outer_float else f"Σ {wires.outer}"
    for _, x in columns:
        made += [*_wire(x + 31, start, x + 31, 384), _box(x, 384, _CELL_W, 30, "scales, outer register"),
                 _text(x + 31, 403, inside), *_wire(x + 31, 414, x + 31, 454)]  # fmt: skip
    scales = [f"{name} scales {w.scale}" for name, w in (("input", wires.input), ("weight", wires.weight)) if w.scale]
    if scales:
        made += [_text(104, 384 + 14 * i, text) for i, text in enumerate(scales)]
        made += _wire(150, 399, columns[0][1], 399)
    return made


def _element(flow: _Flow, wires: ArrayWires) -> list[_Mark]:
    """The parts of one element, in the order that a product goes through."""
    held, moving = getattr(wires, flow.top), getattr(wires, flow.left)
    stays = flow.top if flow.is_top_held else ""
    steps = [(f"{flow.top}{' stays' if stays else ''}, {_described(held)}", "operand registers")]
    if wires.input.back:
        steps.append(("own or neighbour's", "shifter, multiplexer"))
    if wires.is_serial:
        steps.append(("a pair of terms a cycle", "multiplier"))
    else:
        steps.append((f"multiply {moving.significand} × {held.significand}", "multiplier"))
    if held.exponent or moving.exponent or wires.is_serial:
        steps.append(("shift by the exponents", "shifter, multiplexer"))
    steps += [(f"add, {wires.accumulator}", "adder"),
              (f"sum{' stays' if flow.stays == 'sum' else ''}, {wires.accumulator}", "sum register")]  # fmt: skip
    x, middle = _ELEMENT_X + 14, _ELEMENT_X + _ELEMENT_W / 2
    pitch = min((_MOST_H - 66) / (len(steps) - 1), _PITCH)
    height = 66 + pitch * (len(steps) - 1)
    ys = [_ELEMENT_Y + 30 + pitch * i for i in range(len(steps))]
    made = [
        _Mark("wire", "around", f"M{_ELEMENT_X} {_ELEMENT_Y}h{_ELEMENT_W}v{height:g}h{-_ELEMENT_W}z"),
        _text(middle, _ELEMENT_Y + 19, "one element", "strong"),
    ]
    for (label, part), y in zip(steps, ys):
        made += [_box(x, y, _ELEMENT_W - 28, 28, part), _text(middle, y + 18, label)]
    for y, later in pairwise(ys):
        made += _wire(middle, y + 28, middle, later)
    into = next(y for (_, part), y in zip(steps, ys) if part == "multiplier")
    return [
        *made,
        *_wire(_ELEMENT_X - 34, into + 14, x, into + 14),
        _text(_ELEMENT_X - 17, into + 8, str(_moved(moving)), "width"),
    ]


def _facts(hardware: Hardware, wires: ArrayWires, flow: _Flow) -> list[_Mark]:
    block = f", in blocks of {wires.block}" if wires.block and flow.rows == "K" else ""
    lines = [
        f"{hardware.rows} rows: {flow.rows}{block}", f"{hardware.columns} columns: {flow.columns}",
        f"{hardware.dataflow}, {hardware.clock_mhz:g} MHz", "numbers: bits of a wire",
        "dashed: loaded, then held" if flow.is_top_held else "+n: clocks later",
    ]  # fmt: skip
    return [_text(_ELEMENT_X, 20 + 17 * i, line, "start") for i, line in enumerate(lines)]


def _described(operand: Wires) -> str:
    """Significand, exponent and whose weight it meets."""
    return " + ".join(str(bits) for bits in (operand.significand, operand.exponent, operand.back) if bits)


def _moved(operand: Wires) -> int:
    return operand.significand + operand.exponent + operand.back


_LOOKS = {
    "": "", "italic": ' font-style="italic" font-size="14"', "strong": ' font-weight="600"',
    "small": ' font-size="10" opacity=".7"', "width": ' font-size="11" font-weight="600"',
    "start": ' text-anchor="start"',
}  # fmt: skip
_STROKES = {
    "": "", "dashed": ' stroke-dasharray="4 3"', "around": ' stroke-dasharray="2 3"',
    "broken": ' stroke-dasharray="1 5" stroke-linecap="round" stroke-width="2"',
}  # fmt: skip


def _drawn(marks: Iterable[_Mark]) -> str:
    """Marks of one look together, boxes below wires below words."""
    groups: dict[tuple[str, str], list[str]] = {}
    for mark in marks:
        groups.setdefault((mark.kind, mark.look), []).append(mark.content)
    words = [f"<g{_LOOKS[look]}>{''.join(content)}</g>" for (kind, look), content in groups.items() if kind == "text"]
    boxes = [
        f'<path{_fill(look)} d="{"".join(content)}"/>' for (kind, look), content in groups.items() if kind == "box"
    ]
    wires = [
        f'<path{_STROKES[look]} d="{"".join(content)}"/>' for (kind, look), content in groups.items() if kind == "wire"
    ]
    return "".join([*boxes, *wires, '<g stroke="none" fill="currentColor" text-anchor="middle">', *words, "</g>"])


def _fill(part: str) -> str:
    return f' fill="{PART_COLOURS[part]}" fill-opacity=".28"' if part else ' fill="currentColor" fill-opacity=".07"'


def _text(x: Number, y: Number, words: str, look: str = "") -> _Mark:
    return _Mark("text", look, f'<text x="{x:g}" y="{y:g}">{escape(words)}</text>')


def _box(x: Number, y: Number, width: Number, height: Number, part: str = "") -> _Mark:
    return _Mark("box", part, f"M{x:g} {y:g}h{width:g}v{height:g}h{-width:g}z")


def _wire(x: Number, y: Number, to_x: Number, to_y: Number, look: str = "") -> list[_Mark]:
    """With its head; a broken one leaves out what is not drawn."""
    is_across = to_x > x
    head = f"M{to_x - 6:g} {to_y - 3:g}l6 3l-6 3" if is_across else f"M{to_x - 3:g} {to_y - 6:g}l3 6l3 -6"
    return [_Mark("wire", look, f"M{x:g} {y:g}L{to_x:g} {to_y:g}"), _Mark("wire", "", head)]


def _bus(x: Number, y: Number, to_x: Number) -> _Mark:
    """Carries both ways."""
    heads = f"M{x + 6:g} {y - 3:g}l-6 3l6 3M{to_x - 6:g} {y - 3:g}l6 3l-6 3"
    return _Mark("wire", "", f"M{x:g} {y:g}H{to_x:g}{heads}")
