"""Cells of a scheme from the table of measured circuits: measured where it has them, else fitted, else published.

An array's cell is the element that multiplies and adds, and its share of what scales a tile's sum below it. At the edge
stand decoders of inputs and weights, and what turns sums into the next layer's inputs. Energies are scaled to those of
M. Horowitz, ISSCC 2014, so that they add up with memories that are built on them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

from bitwright.cost.mac import Edge, Mac
from bitwright.cost.table import CellTable, Origin, shipped_table
from bitwright.cost.table_find import NOTHING, Finder, Found
from bitwright.cost.table_names import integer_of, operand_name
from bitwright.cost.table_need import Need, needs
from bitwright.cost.widths import widest_mac
from bitwright.gemm import LayerGemm
from bitwright.scheme import Scheme

LARGEST_REQUANTIZED = 32
"""Bits of the widest register that the table has a requantizer for."""

Work = tuple[tuple[LayerGemm, Scheme], ...]
Cells = Callable[[Work], Mac]

DEFAULT, PUBLISHED = "generic45", "published"


def cells_of(library: str, *, has_vectors: bool = False) -> Cells:
    """By the name that a command line has: `published`, or a library of the table."""
    if library == PUBLISHED:
        return widest_mac
    return measured_vectors(library) if has_vectors else measured_cells(library)


def measured_cells(library: str = DEFAULT, table: CellTable | None = None) -> Cells:
    """Elements of a systolic array, for `pricing.price`. ValueError for a library that the table has not."""
    array = _array(library, table) if table else _shipped(library)
    return lambda work: _serving(work, array.element)


def measured_vectors(library: str = DEFAULT, table: CellTable | None = None) -> Cells:
    """A lane of vector units of 16 or 32, which share one register, scale hardware and decoders included."""
    array = _array(library, table) if table else _shipped(library)
    return lambda work: _serving(work, array.lane)


def _serving(work: Work, cell: Callable[[Need], Mac | None]) -> Mac:
    """The cell that serves all layers, else the largest of theirs; published ones where the table has none."""
    published = widest_mac(work)  # refuses what has no layers
    groups = needs(work)
    found = [cell(need) for need in groups]
    if None in found:  # no cell reads the formats of all: those of each scheme
        groups = list(dict.fromkeys(need for pair in work for need in needs([pair])))
        found = [cell(need) for need in groups]
    unknown = [need for need, mac in zip(groups, found, strict=True) if mac is None]
    if unknown:
        names = ", ".join(dict.fromkeys(f"{need.x_name} × {need.w_name}" for need in unknown))
        said = f"no measured cell for {names}: published multipliers, not to be compared with measured cells"
        return replace(published, remarks=(said,))
    largest = max((mac for mac in found if mac is not None), key=lambda mac: mac.area_um2.value)
    if len({mac.area_um2.value for mac in found if mac is not None}) > 1:
        said = "no measured cell serves all layers: each is priced as the largest of their cells"
        return replace(largest, remarks=(*largest.remarks, said), serves_all=False)
    return largest


@cache
def _shipped(library: str) -> "_Array":
    return _array(library, shipped_table())


def _array(library: str, table: CellTable) -> "_Array":
    rows = table.of(library)
    tool = rows[0].tool if rows else ""
    return _Array(Finder(rows), table.origins[library], library, f"{library}, {tool}, zero-delay activity")


@dataclass(frozen=True)
class _Array:
    """One library's circuits as parts of an array."""

    finder: Finder
    origin: Origin
    library: str
    source: str

    def element(self, need: Need) -> Mac | None:
        """The cell of an array; None where nothing like it was measured."""
        if need.is_serial:
            found = self.finder.pairs(need.x_name, need.w_name)
            return None if found is None else self._mac(need, found, [], has_decoders=False)
        found = self.finder.element(need)
        if found is None:
            return None
        left_out: list[str] = []
        if need.outer is not None:
            collector = self.finder.collector(need.outer, need.x_name, need.w_name)
            if collector is None:
                left_out.append(f"the {_register(need)} of every {need.outer.products} products")
            else:
                found = found.plus(collector, 1 / need.outer.products)
        return self._mac(need, found, left_out, has_decoders=True)

    def lane(self, need: Need) -> Mac | None:
        """One lane of a vector unit."""
        scales = need.outer.scales if need.outer else ""
        found, left_out = self.finder.vector(need.x_name, need.w_name, scales), []
        if found is None and need.outer is not None and need.outer.bits is None:
            found, left_out = self.finder.vector(need.x_name, need.w_name, ""), [f"the {_register(need)} of a block"]
        return None if found is None else self._mac(need, found, left_out, has_decoders=False)

    def _mac(self, need: Need, found: Found, left_out: list[str], *, has_decoders: bool) -> Mac:
        x, w = (self._part("decoder", name, left_out) if has_decoders else NOTHING
                for name in (need.x_name, need.w_name))  # fmt: skip
        output = self._output(need, left_out)
        factor = self.origin.calibration
        energies = [part.energy_pj(f"{self.source}, × {factor:.2g}", factor) for part in (found, x, w, output)]
        edge = Edge(x.area_um2(self.source), w.plus(output).area_um2(self.source), *energies[1:])
        said = [f"{found.said}, {self.library}"]
        if need.outer and (need.outer.smallest or need.outer.products) < need.outer.products:
            said.append(f"blocks of {need.outer.smallest} fill tiles of {need.outer.products} with zeros")
        said += [f"left out: {', '.join(dict.fromkeys(left_out))}"] if left_out else []
        return Mac(
            found.area_um2(self.source), energies[0], edge, factor, self.origin.feature_nm, found.period_ns, tuple(said)
        )

    def _output(self, need: Need, left_out: list[str]) -> Found:
        """From a sum to codes of the next layer's inputs: a fixed-point factor, then an encoder of each format."""
        fold = NOTHING
        if need.fold is not None:
            found = self.finder.fold(need.register_bits, need.fold)
            fold = found or NOTHING
            if found is None:
                left_out.append("the fold that sums are read through")
        outer = need.outer
        if outer and outer.bits is None:
            left_out.append("what makes float sums codes again")
            return NOTHING
        bits = outer.bits if outer and outer.bits else need.register_bits
        if bits > LARGEST_REQUANTIZED:
            left_out.append(f"what requantization of {bits} bits takes beyond that of {LARGEST_REQUANTIZED}")
        output = self.finder.requantizer(min(bits, LARGEST_REQUANTIZED), max(format.bits for format in need.x))
        if output is None:
            left_out.append("requantization")
            output = NOTHING
        for name in sorted({operand_name([format]) for format in need.x}):
            if need.is_blocked or not integer_of(name):
                output = output.plus(self._part("encoder", name, left_out))
        return output.plus(fold)

    def _part(self, unit: str, name: str, left_out: list[str]) -> Found:
        found = self.finder.decoder(name) if unit == "decoder" else self.finder.encoder(name)
        if found is None:
            left_out.append(f"{unit} of {name}")
        return found or NOTHING


def _register(need: Need) -> str:
    assert need.outer is not None
    kind = "float register" if need.outer.bits is None else f"{need.outer.bits}-bit register"
    return f"{kind} and scales of sums"
