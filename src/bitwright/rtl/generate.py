"""A scheme and a size to a file of Verilog, with what a reader must know at its head."""

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bitwright.config import from_text
from bitwright.formats import Format
from bitwright.recipe import Recipe
from bitwright.rtl.describe import described, ports
from bitwright.rtl.engine import Engine
from bitwright.rtl.engine_outputs import OutputEngine
from bitwright.rtl.fused_array import FusedArray
from bitwright.rtl.operand import Sign
from bitwright.rtl.output_stationary import OutputStationary
from bitwright.rtl.plan import LONGEST, Plan, plan
from bitwright.rtl.retile import require_rows
from bitwright.rtl.systolic import WeightStationary
from bitwright.rtl.term_mac import term_mac
from bitwright.rtl.type_fusion import TypeFusion, fused_formats
from bitwright.rtl.unit import Unit
from bitwright.rtl.units import ProcessingElement, VectorUnit
from bitwright.rtl.verilog import digest, rtlil, to_verilog
from bitwright.scheme import Scheme


@dataclass(frozen=True)
class Circuit:
    """A generated circuit: a unit, what it is called, and the scheme's text that it was made from."""

    unit: Unit
    plan: Plan
    name: str
    scheme: str
    source: str
    parameters: tuple[str, ...] = ()  # of the unit, a line each

    def facts(self) -> list[str]:
        """What a user must know, a line each."""
        made = self.plan
        lines = [
            f"scheme    {self.scheme}",
            f"source    {self.source}",
            f"inputs    {_operand(made.x.formats)}",
            f"weights   {_operand(made.w.formats)}",
            f"sums      {made.inner.bits} bits in units of 2**{made.unit}, of up to {made.products or made.k} products",
        ]
        if made.outer is not None:
            lines.append(f"totals    {made.outer.described(made.unit)}, of up to {made.k} products")
        return [*lines, f"then      {made.outside}", *self.parameters]

    def verilog(self) -> str:
        """The text of the file. Needs yosys: pip install 'bitwright[synthesis]'."""
        return _comment("//", self._header()) + _ACCEPTED + to_verilog(self.rtlil) + "/* verilator lint_restore */\n"

    @cached_property
    def rtlil(self) -> str:
        """The same circuit as yosys' intermediate language, which needs no yosys."""
        return rtlil(self.unit, self.name)

    def write(self, folder: Path, *, as_rtlil: bool = False) -> Path:
        """The file in that folder."""
        text = _comment("#", self._header()) + self.rtlil if as_rtlil else self.verilog()
        path = folder / f"{self.name}.{'il' if as_rtlil else 'v'}"
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def _header(self) -> list[str]:
        hashes = [
            f"sha256    {hashlib.sha256(self.scheme.encode()).hexdigest()} of the scheme's text",
            f"sha256    {digest(self.rtlil)} of its RTLIL",
        ]
        said = [line.replace("2**plan.unit", f"2**{self.plan.unit}") for line in ports(self.unit)]
        return [self.name, "", *self.facts(), *hashes, "", *said]


VECTORS = 256
"""That an engine keeps sums of, where nobody says."""

FUSED = ("fused-array", "type-fusion")
UNITS = ("array", "output-stationary", "engine", "engine-output-stationary", "vector", "element", "term-mac", *FUSED)


def circuit(
    scheme: str,
    unit: str = "array",
    rows: int = 16,
    columns: int = 16,
    *,
    k: int = LONGEST,
    inputs: str = "both",
    vectors: int | None = None,
    wide: str | None = None,
) -> Circuit:
    """The circuit that a text names.

    `array` is rows × columns multipliers that keep their weights, `output-stationary` those that keep their sums,
    `engine` and `engine-output-stationary` stand around them, `vector` has as many lanes as rows, `element` is one
    multiplier of the first. `term-mac` is the serial cell of a scheme of term budgets. `type-fusion` and `fused-array`
    compute this scheme and, with several multipliers as one, the `wide` one.

    `inputs` is both, unsigned or signed: which of the formats that a scheme has for inputs are built. `vectors` is how
    many an `engine` keeps sums of, None 256.
    """
    signs = {sign.name.lower(): sign for sign in Sign}
    if inputs not in signs:
        raise ValueError(f"{inputs!r} inputs found; choose from {', '.join(signs)}")
    if vectors is not None and unit != "engine":
        raise ValueError(
            f"{unit!r} keeps no sums of several vectors, {vectors} found; choose 'engine', or leave them out"
        )
    found = _scheme(scheme)
    if unit in FUSED:
        return _fused(scheme, wide, unit, rows, columns, k, signs[inputs])
    if wide is not None:
        raise ValueError(f"{unit!r} computes one scheme, {wide!r} found beside it; choose from {', '.join(FUSED)}")
    made = plan(found, k=k, sign=signs[inputs])
    if unit in ("array", "engine"):
        require_rows(scheme, made, rows, signs[inputs])
    match unit:
        case "array":
            array: WeightStationary | OutputStationary = WeightStationary(made, rows, columns)
            return Circuit(array, array.plan, f"{_slug(scheme)}_{rows}x{columns}", scheme, found.source)
        case "output-stationary":
            array = OutputStationary(made, rows, columns)
            return Circuit(array, array.plan, f"{_slug(scheme)}_outputs_{rows}x{columns}", scheme, found.source)
        case "engine":
            engine = Engine(made, rows, columns, VECTORS if vectors is None else vectors)
            name = f"{_slug(scheme)}_engine_{rows}x{columns}"
            return Circuit(engine, engine.plan, name, scheme, found.source, engine.parameters())
        case "engine-output-stationary":
            sums = OutputEngine(made, rows, columns)
            name = f"{_slug(scheme)}_outputs_engine_{rows}x{columns}"
            return Circuit(sums, sums.plan, name, scheme, found.source, sums.parameters())
        case "vector":
            return Circuit(VectorUnit(made, rows), made, f"{_slug(scheme)}_vector_{rows}", scheme, found.source)
        case "element":
            made = made.elementwise()
            return Circuit(ProcessingElement(made), made, f"{_slug(scheme)}_element", scheme, found.source)
        case "term-mac":
            cell = term_mac(found, k=k, sign=signs[inputs])
            return Circuit(cell, made, f"{_slug(scheme)}_term_mac", scheme, found.source)
    raise ValueError(f"there is no unit {unit!r}; choose from {', '.join(UNITS)}")


def _scheme(text: str) -> Scheme:
    found = from_text(text)
    if isinstance(found, Recipe):
        raise ValueError(f"{text} is a recipe of several schemes; generate the circuit of one of them")
    return found


def _fused(narrow: str, wide: str | None, unit: str, rows: int, columns: int, k: int, sign: Sign) -> Circuit:
    """Two schemes in one circuit."""
    if wide is None:
        raise ValueError(f"a {unit} computes two schemes; name the one of twice the bits too, as --wide 'ant(8, 8)'")
    found = _scheme(narrow)
    x, w = fused_formats(found, _scheme(wide), sign)
    array = FusedArray(x, w, k, rows, columns)
    both = f"{narrow}; {wide}"
    name = f"{_slug(narrow)}_{_slug(wide)}"
    if unit == "fused-array":
        return Circuit(array, array.plan, f"{name}_fused_{rows}x{columns}", both, found.source)
    return Circuit(TypeFusion(x, w, k), array.plan, f"{name}_fusion", both, found.source)


def _slug(text: str) -> str:
    words = re.sub(r"\W+", "_", text.rpartition(":")[2]).strip("_")
    return words if len(words) <= 40 else f"{words[:31]}_{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _operand(formats: tuple[Format, ...]) -> str:
    named = [described(format) for format in formats]
    return named[0] if len(named) == 1 else "; ".join(f"{i}: {name}" for i, name in enumerate(named))


_ACCEPTED = "/* verilator lint_save */\n" + "".join(
    f"/* verilator lint_off {warning} */  // {reason}\n"
    for warning, reason in {
        "DECLFILENAME": "one file has all modules",
        "PROCASSINIT": "registers start at zero where they are declared, and change at clock edges",
        "WIDTHEXPAND": "operands are as wide as their values, and Verilog extends them",
        "UNUSEDSIGNAL": "what elements at an edge pass on leads nowhere, nor do bits that fill a beat up to bytes",
        "CASEOVERLAP": "exactly one bit of a selection is set",
    }.items()
)
"""What Verilator warns of in the text that yosys writes, and why it stands."""


def _comment(mark: str, lines: list[str]) -> str:
    return "".join(f"{mark} {line}".rstrip() + "\n" for line in lines)
