"""What a scheme's layers ask of a cell: operands, the register behind them, and what scales its sums."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, log2

from bitwright.cost.table_names import format_name, operand_name
from bitwright.cost.widths import alternatives, factors, stationary
from bitwright.datapath import Overflow
from bitwright.formats import Format, Int
from bitwright.gemm import LayerGemm
from bitwright.quantization import Quantizer
from bitwright.scheme import Scheme
from bitwright.schemes.term_revealing import TermBudget

MANY_ROWS = 2**20


@dataclass(frozen=True)
class Outer:
    """The register over tiles of K."""

    products: int
    """In a tile."""
    scales: str
    """Formats of both block scales and of their product, as rows of the table name them."""
    bits: int | None
    """None for a float."""
    saturates: bool
    smallest: int | None = None
    """Products of the smallest tile that several layers have, none of them a whole sum."""

    def with_(self, other: "Outer") -> "Outer | None":
        """One register for both, below the longer tile; shorter ones fill it with zeros."""
        if (self.scales, self.saturates, self.bits is None) != (other.scales, other.saturates, other.bits is None):
            return None
        smallest = min((n for n in (self.smallest, other.smallest) if n is not None), default=None)
        bits = max(self.bits or 0, other.bits or 0) or None
        return Outer(max(self.products, other.products), self.scales, bits, self.saturates, smallest)


@dataclass(frozen=True)
class Need:
    """A cell, and the formats that arrive at the array's edge."""

    x: frozenset[Format]
    w: frozenset[Format]
    register_bits: int
    saturates: bool
    fold: int | None
    """Slope of what the register is read through."""
    """Whether sums are read through a fold."""
    outer: Outer | None

    @property
    def x_name(self) -> str:
        return operand_name(sorted(self.x, key=repr))

    @property
    def w_name(self) -> str:
        return operand_name(sorted(self.w, key=repr))

    @property
    def is_rectified(self) -> bool:
        """Whether its inputs may have a format without negative values: then that one drives the measured cell."""
        return any(format.bounds().lowest >= 0 for format in self.x)

    @property
    def is_blocked(self) -> bool:
        """Whether inputs have scales of their own along K, which whoever makes them must find."""
        return self.outer is not None and self.outer.scales.partition("*")[0] != "1"

    @property
    def is_serial(self) -> bool:
        """Term Revealing's, a pair of terms a cycle."""
        return any(isinstance(format, TermBudget) for format in self.w)

    def with_(self, other: "Need") -> "Need | None":
        """One cell for both; None where their sums run over other tiles or scales."""
        if (self.saturates, self.fold) != (other.saturates, other.fold):
            return None
        outer = self.outer and other.outer and self.outer.with_(other.outer)
        if outer is None and (self.outer or other.outer):
            return None
        bits = max(self.register_bits, other.register_bits)
        return Need(self.x | other.x, self.w | other.w, bits, self.saturates, self.fold, outer)


def needs(work: Iterable[tuple[LayerGemm, Scheme]]) -> list[Need]:
    """Of all layers, as few as serve them."""
    found: list[Need] = []
    for layer, scheme in work:
        own = need(layer, scheme)
        for i, other in enumerate(found):
            both = other.with_(own)
            if both is not None:
                found[i] = both
                break
        else:
            found.append(own)
    return found


def need(layer: LayerGemm, scheme: Scheme) -> Need:
    """Of one layer."""
    bits = factors(scheme, layer).accumulator  # refuses inputs in float
    assert scheme.input is not None
    inputs = alternatives(scheme.input)
    right = stationary(scheme, layer)
    inner = scheme.datapath.inner
    saturates = inner.format is not None and inner.overflow is Overflow.SATURATE
    outer = _outer(scheme, layer, inputs, right, bits)
    formats = frozenset(q.format for q in inputs), frozenset(q.format for q in right)
    return Need(*formats, bits, saturates, None if inner.readout is None else inner.readout.slope, outer)


def _outer(
    scheme: Scheme, layer: LayerGemm, inputs: tuple[Quantizer, ...], right: tuple[Quantizer, ...], bits: int
) -> Outer | None:
    datapath, k = scheme.datapath, layer.gemm.k
    inside = [tuple(s.format for s in q.scales if s.share.splits_k) for q in (inputs[0], right[0])]
    if datapath.tile is None and not any(inside):
        return None
    products = min(datapath.inner_elements(x, w, MANY_ROWS, k) for x in inputs for w in right)
    widths = sum(format.bits for formats in inside for format in formats if isinstance(format, Int))
    product = datapath.scale_product
    names = "*".join(format_name(formats[0]) if formats and formats[0] else "1" for formats in inside)
    if isinstance(product, Int):
        names, widths = f"{names}>{operand_name([product])}", product.bits
    register = None
    if datapath.outer.is_integer:
        register = datapath.outer.bits or bits + widths + ceil(log2(max(-(-k // products), 1)))
    return Outer(
        products, names, register, datapath.outer.overflow is Overflow.SATURATE, products if products < k else None
    )
