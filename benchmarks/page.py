"""The page and the picture of measured ratios, from the JSON lines that the benchmarks write.

python benchmarks/page.py FILE
"""

import json
import sys
from html import escape
from itertools import groupby
from math import log10
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"
PAGE, PICTURE = DOCS / "concepts" / "speed.md", DOCS / "images" / "speed.svg"
BEGIN, END = "<!-- measured -->", "<!-- end of measured -->"
DRAWN = (
    "fake quantization, 64 MB", "neighbours, ReLU 8x64x56x56", "terms, weights 4096x4096",
    "products, 1024x1024x1024", "mobilenetv2, 8 samples", "a training step of ResNet-8, batch 64",
    "packed layer 4096×4096, batch 1", "quantizing a 4096×4096 bfloat16 weight",
)  # fmt: skip
"""Groups of the picture; the tables have all."""

ROW, LEFT, RIGHT, WIDTH = 18, 330, 70, 960
OURS, PEER, TEXT, GRID = "#0072b2", "#d55e00", "#555", "#ddd"


def write(path: Path) -> None:
    """Put the tables between the page's marks and draw the picture of one thread."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    text = PAGE.read_text()
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    PAGE.write_text(f"{head}{BEGIN}\n\n{tables(found)}\n{END}{tail}")
    drawn = [m for m in found if m["threads"] == 1 and m["group"] in DRAWN and not m["case"].startswith(m["limit"])]
    PICTURE.write_text(picture(sorted(drawn, key=lambda m: DRAWN.index(m["group"]))))
    print(f"written: {PAGE}, {PICTURE}")


def tables(found: list[dict]) -> str:
    """A Markdown table a group, with columns for one thread and for more."""
    threads = sorted({m["threads"] for m in found})
    lines = [_where(found), ""]
    for name, group in groupby(sorted(found, key=lambda m: _order(found).index(m["group"])), lambda m: m["group"]):
        rows = list(group)
        noisy = sorted({m["threads"] for m in rows if m["is_noisy"]})
        lines += [f"**{name}**, time over {rows[0]['limit']}" + (f" (noisy with {noisy} threads)" if noisy else ""), ""]
        lines += [
            "| case | " + " | ".join(f"{t} thread{'s' * (t > 1)}" for t in threads) + " | ms | |",
            "|---|" + "--:|" * (len(threads) + 1) + "---|",
        ]
        for case in dict.fromkeys(m["case"] for m in rows):
            own = {m["threads"]: m for m in rows if m["case"] == case}
            cells = [f"{_ratio(own[t])}" if t in own else "" for t in threads]
            first = own[min(own)]
            lines.append(f"| {case} | {' | '.join(cells)} | {first['milliseconds']:.3g} | {first['note']} |")
        lines.append("")
    return "\n".join(lines)


def _order(found: list[dict]) -> list[str]:
    return list(dict.fromkeys(m["group"] for m in found))


def _where(found: list[dict]) -> str:
    e = found[0]["environment"]
    load = [m["environment"]["load"] for m in found]
    return (
        f"Measured {e['date']}, {e['cpu']}, native kernels of {e['native']}, torch {e['torch']}, Python {e['python']}; "
        f"load {min(a for a, _ in load)} to {max(b for _, b in load)}. Medians, quartiles; milliseconds on one thread."
    )


def _ratio(m: dict) -> str:
    return f"{m['median']:.3g} ({m['low']:.3g}–{m['high']:.3g})"


def picture(found: list[dict]) -> str:
    """Medians and quartiles on a logarithmic axis, a band a group; peers in another colour."""
    found = [m for m in found if m["milliseconds"] > 0]
    low, high = -1.0, max(log10(m["high"]) for m in found) + 0.2
    scale = (WIDTH - LEFT - RIGHT) / (high - low)
    parts, y = [], 40

    def at(ratio: float) -> float:
        return LEFT + (log10(ratio) - low) * scale

    for name in _order(found):
        rows = [m for m in found if m["group"] == name]
        parts.append(f'<text x="8" y="{y + 4}" font-weight="bold">{escape(name)}</text>')
        y += ROW
        for m in rows:
            colour = PEER if m["note"].startswith("peer") else OURS
            x, a, b = at(m["median"]), at(m["low"]), at(m["high"])
            parts.append(f'<text x="{LEFT - 10}" y="{y + 4}" text-anchor="end">{escape(m["case"])}</text>')
            parts.append(f'<line x1="{a:.1f}" x2="{b:.1f}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="3"/>')
            parts.append(f'<circle cx="{x:.1f}" cy="{y}" r="4" fill="{colour}"/>')
            parts.append(f'<text x="{max(x, b) + 8:.1f}" y="{y + 4}">{m["median"]:.3g}</text>')
            y += ROW
        y += ROW // 2
    ticks = [10.0**e for e in range(int(low), int(high) + 1)]
    axis = [
        f'<line x1="{at(t):.1f}" x2="{at(t):.1f}" y1="26" y2="{y}" stroke="{TEXT if t == 1 else GRID}"/>'
        f'<text x="{at(t):.1f}" y="20" text-anchor="middle">{t:g}×</text>'
        for t in ticks
    ]
    size = f'width="{WIDTH}" height="{y + 10}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12" fill="{TEXT}">'
        f'<rect {size} fill="white"/>{"".join(axis + parts)}</svg>\n'
    )


if __name__ == "__main__":
    write(Path(sys.argv[1]))
