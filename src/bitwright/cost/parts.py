"""What the processing elements of the catalogue are made of: a table of measured areas that ships with the package.

`experiments/pe_breakdown.py` makes it by synthesis; reading it needs no tool. Elements are those of a weight-stationary
array for inputs of either sign and sums of up to 4096 products.
"""

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from bitwright.config import from_text
from bitwright.scheme import Scheme

TABLE = "pe_parts.csv"

GATES = ("multiplier_um2", "shifter_um2", "neighbour_um2", "adder_um2")
REGISTERS = ("sum_register_um2", "operand_registers_um2")
IN_ELEMENT = (*GATES, *REGISTERS)


@dataclass(frozen=True)
class ElementParts:
    """Areas of one element's parts and of what stands at the array's edge for it."""

    scheme: str
    sum_bits: int
    element_um2: float
    """Without boundaries between parts; the parts were measured with them."""
    multiplier_um2: float
    shifter_um2: float
    """With the adder of exponents."""
    neighbour_um2: float
    """Multiplexer of the own and the neighbour's weight."""
    adder_um2: float
    """Of product and sum, with what saturates."""
    sum_register_um2: float
    operand_registers_um2: float
    """Input and weight, with what lets the weight be loaded."""
    input_decoder_um2: float
    """Of a row."""
    weight_decoder_um2: float
    """Of a column."""
    collector_um2: float
    """Of a column: scales and the outer register."""
    circuit: str
    """Hash of the RTLIL of element and collector."""
    library: str
    tool: str

    @property
    def parts_um2(self) -> float:
        """The element as the sum of its parts, with boundaries between them."""
        return sum(getattr(self, name) for name in IN_ELEMENT)

    def of_element(self) -> dict[str, float]:
        """Parts of the element without boundaries: registers, and gates in the proportions that they have with them."""
        held = sum(getattr(self, name) for name in REGISTERS)
        ratio = (self.element_um2 - held) / (self.parts_um2 - held)
        return {name: getattr(self, name) * (ratio if name in GATES else 1.0) for name in IN_ELEMENT}


def parts_of(scheme: Scheme) -> ElementParts | None:
    """The element of a scheme, if it is in the table."""
    return _by_scheme().get(scheme)


@cache
def table() -> tuple[ElementParts, ...]:
    """Every element measured."""
    lines = (files("bitwright.cost") / TABLE).read_text(encoding="utf-8").splitlines()
    return tuple(_element(row) for row in csv.DictReader(lines))


def _element(row: dict[str, str]) -> ElementParts:
    kinds: dict[str, type] = {name: float for name in row if name.endswith("_um2")} | {"sum_bits": int}
    return ElementParts(**{name: kinds.get(name, str)(text) for name, text in row.items()})


@cache
def _by_scheme() -> dict[Scheme, ElementParts]:
    found = {}
    for element in table():
        scheme = from_text(element.scheme)
        assert isinstance(scheme, Scheme), "a row is one element"
        found[scheme] = element
    return found
