"""What an array is made of, from one library's rows: its cell, and what stands at its edge.

A cell is the element that multiplies and adds, and its share of what scales a tile's sum below it. At the edge stand
decoders of inputs and weights, and what turns sums into the next layer's inputs.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from bitwright.cost.table_find import Finder, Found
from bitwright.cost.table_names import integer_of, operand_name
from bitwright.cost.table_need import Need, needs
from bitwright.gemm import LayerGemm
from bitwright.scheme import Scheme

LARGEST_REQUANTIZED = 32
"""Bits of the widest register that the table has a requantizer for."""

Work = tuple[tuple[LayerGemm, Scheme], ...]


class NoCell(LookupError):
    """Operands that no row multiplies, by name."""


@dataclass(frozen=True)
class Parts:
    """A cell; what decodes inputs a row and weights a column, and what makes codes of sums a column."""

    cell: Found
    input: Found
    weight: Found
    output: Found
    remarks: tuple[str, ...]
    """Which circuit the cell is; what the parts leave out, or stand in for."""
    serves_all: bool = True
    """Whether it computes every layer that it was found for."""


def serving(work: Work, cell: Callable[[Need], Parts | None]) -> Parts:
    """Of the cell that serves all layers, else the largest of theirs. NoCell where a layer has none."""
    groups = needs(work)
    found = [cell(need) for need in groups]
    if None in found:  # no cell reads the formats of all: those of each scheme
        groups = list(dict.fromkeys(need for pair in work for need in needs([pair])))
        found = [cell(need) for need in groups]
    unknown = [need for need, parts in zip(groups, found, strict=True) if parts is None]
    if unknown:
        raise NoCell(", ".join(dict.fromkeys(f"{need.x_name} × {need.w_name}" for need in unknown)))
    known = [parts for parts in found if parts is not None]
    largest = max(known, key=_size)
    if len({_size(parts) for parts in known}) > 1:
        said = "no measured cell serves all layers: each is priced as the largest of their cells"
        return replace(largest, remarks=(*largest.remarks, said), serves_all=False)
    return largest


def _size(parts: Parts) -> float:
    return parts.cell.estimates[0].value


@dataclass(frozen=True)
class TableArray:
    """One library's circuits as parts of an array."""

    finder: Finder

    def element(self, need: Need) -> Parts | None:
        """Around the cell of an array; None where nothing like it was measured."""
        if need.is_serial:
            found = self.finder.pairs(need.x_name, need.w_name)
            return None if found is None else self._parts(need, found, [], has_decoders=False)
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
        return self._parts(need, found, left_out, has_decoders=True)

    def lane(self, need: Need) -> Parts | None:
        """Around one lane of a vector unit."""
        scales = need.outer.scales if need.outer else ""
        found, left_out = self.finder.vector(need.x_name, need.w_name, scales), []
        if found is None and need.outer is not None and need.outer.bits is None:
            found, left_out = self.finder.vector(need.x_name, need.w_name, ""), [f"the {_register(need)} of a block"]
        return None if found is None else self._parts(need, found, left_out, has_decoders=False)

    def _parts(self, need: Need, found: Found, left_out: list[str], *, has_decoders: bool) -> Parts:
        x, w = (self._part("decoder", name, left_out) if has_decoders else self.finder.nothing
                for name in (need.x_name, need.w_name))  # fmt: skip
        output = self._output(need, left_out)
        said = [found.said]
        if need.outer and (need.outer.smallest or need.outer.products) < need.outer.products:
            said.append(f"blocks of {need.outer.smallest} fill tiles of {need.outer.products} with zeros")
        said += [f"left out: {', '.join(dict.fromkeys(left_out))}"] if left_out else []
        return Parts(found, x, w, output, tuple(said))

    def _output(self, need: Need, left_out: list[str]) -> Found:
        """From a sum to codes of the next layer's inputs: a fixed-point factor, then an encoder of each format."""
        fold = self.finder.nothing
        if need.fold is not None:
            found = self.finder.fold(need.register_bits, need.fold)
            fold = found or self.finder.nothing
            if found is None:
                left_out.append("the fold that sums are read through")
        outer = need.outer
        if outer and outer.bits is None:
            left_out.append("what makes float sums codes again")
            return self.finder.nothing
        bits = outer.bits if outer and outer.bits else need.register_bits
        if bits > LARGEST_REQUANTIZED:
            left_out.append(f"what requantization of {bits} bits takes beyond that of {LARGEST_REQUANTIZED}")
        output = self.finder.requantizer(min(bits, LARGEST_REQUANTIZED), max(format.bits for format in need.x))
        if output is None:
            left_out.append("requantization")
            output = self.finder.nothing
        for name in sorted({operand_name([format]) for format in need.x}):
            if need.is_blocked or not integer_of(name):
                output = output.plus(self._part("encoder", name, left_out))
        return output.plus(fold)

    def _part(self, unit: str, name: str, left_out: list[str]) -> Found:
        found = self.finder.decoder(name) if unit == "decoder" else self.finder.encoder(name)
        if found is None:
            left_out.append(f"{unit} of {name}")
        return found or self.finder.nothing


def _register(need: Need) -> str:
    assert need.outer is not None
    kind = "float register" if need.outer.bits is None else f"{need.outer.bits}-bit register"
    return f"{kind} and scales of sums"
