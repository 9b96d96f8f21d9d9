"""One colour and one marker per scheme family, told apart by colour-blind readers and in grey.

Colours: M. Okabe and K. Ito, "Color Universal Design", 2008 (yellow left out: too pale on white), then P. Tol,
"Colour Schemes", SRON/EPS/TN/09-002, 2021, muted.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from bitwright.result import Comparison

_COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#332288", "#882255", "#999933", "#555555",
)  # fmt: skip
# seven markers against ten colours: the pairs repeat only after seventy families
_MARKERS = ("circle", "square", "diamond", "triangle-up", "cross", "triangle-down", "pentagon")

INK = "#1a1a1a"
MUTED = "#6b6b6b"
RULE = "#d8d8d4"

PART_COLOURS = {
    "multiplier": "#0072B2",
    "shifter, multiplexer": "#56B4E9",
    "adder": "#009E73",
    "sum register": "#999933",
    "operand registers": "#CC79A7",
    "decoders": "#D55E00",
    "scales, outer register": "#E69F00",
}
"""Of what a processing element is made of, in the order of its drawing."""


@dataclass(frozen=True)
class Family:
    """Schemes that share the name before the parenthesis."""

    name: str
    index: int

    @property
    def colour(self) -> str:
        return _COLOURS[self.index % len(_COLOURS)]

    @property
    def marker(self) -> str:
        return _MARKERS[self.index % len(_MARKERS)]


def family_name(scheme: str) -> str:
    return scheme.partition("(")[0].strip() or scheme


def families(comparison: Comparison) -> dict[str, Family]:
    """Scheme text -> family; families are numbered as they first appear."""
    names = _unique(family_name(row.scheme) for row in comparison.rows)
    known = {name: Family(name, i) for i, name in enumerate(names)}
    return {row.scheme: known[family_name(row.scheme)] for row in comparison.rows}


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
