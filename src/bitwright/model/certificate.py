"""What a network's accumulators need, layer by layer: written as JSON, read back, and printed as a table."""

from dataclasses import dataclass

from bitwright.datapath import Overflow, bits_for
from bitwright.datapath.widths import SumCertificate


@dataclass(frozen=True)
class Placement:
    """What sits in a register: sums of `tile` products (None: as many as the scheme says), with the bias or without."""

    tile: int | None = None
    is_bias_inside: bool = False


@dataclass(frozen=True)
class LayerCertificate:
    """One layer. Sums are in units of 2**unit times the scales that do not vary along K.

    `sums` is the inner register's proof; None where there is no integer register or no fixed operand, and `note` says
    which. `outer_low` and `outer_high` bound the integer register that adds the tiles; None where it is a float or not
    needed. `raw_code_bits` is the width where asymmetric inputs enter as raw codes, their correction in the register.
    """

    name: str
    kind: str
    k: int  # products of one output, padding channels left out
    unit: int
    input_format: str | None
    weight_format: str | None
    available_bits: int | None  # of the scheme's inner register; None where it is as wide as needed
    outer_available_bits: int | None  # of its outer one; None for a float too
    overflow: str
    bias: str  # "none", "inside" or "outside" the register
    sums: SumCertificate | None = None
    outer_low: int | None = None
    outer_high: int | None = None
    raw_code_bits: int | None = None
    reached_low: int | None = None
    reached_high: int | None = None
    note: str = ""
    weight_zeros: float | None = None  # share of the weights, padding left out; None where no operand is fixed
    weight_entropy: float | None = None  # bits that a code of its own needs for one, order 0, to six decimals
    outer_overflow: str | None = None  # of the outer register; None for a float, or one as wide as needed
    format_bits: int | None = None  # where no operand is fixed: of any inner sum of these formats

    @property
    def exact_bits(self) -> int | None:
        return None if self.sums is None else self.sums.exact_bits

    @property
    def fits(self) -> bool | None:
        """Whether the inner register is wide enough; None where it is as wide as needed, or nothing is proved."""
        if self.available_bits is None or self.needed_bits is None:
            return None
        return self.needed_bits <= self.available_bits

    @property
    def needed_bits(self) -> int | None:
        """Of the inner register, by the integers or, where no operand is fixed, by the formats."""
        return self.format_bits if self.sums is None else self.sums.exact_bits

    @property
    def outer_fits(self) -> bool | None:
        """The same of the outer register."""
        if self.outer_available_bits is None or self.outer_bits is None:
            return None
        return self.outer_bits <= self.outer_available_bits

    @property
    def outer_bits(self) -> int | None:
        return None if self.outer_low is None or self.outer_high is None else bits_for(self.outer_low, self.outer_high)

    @property
    def reached_bits(self) -> int | None:
        if self.reached_low is None or self.reached_high is None:
            return None
        return bits_for(self.reached_low, self.reached_high)

    @property
    def utilisation(self) -> float | None:
        """The part of the proved range that data reached, on the side that it filled more."""
        if self.sums is None or self.reached_low is None or self.reached_high is None:
            return None
        sides = ((self.reached_low, self.sums.low), (self.reached_high, self.sums.high))
        return max((reached / proved for reached, proved in sides if proved), default=0.0)


@dataclass(frozen=True)
class ModelCertificate:
    """All layers of one network under one scheme."""

    model: str
    scheme: str
    tile: int | None
    is_bias_inside: bool
    samples: int  # that the reached sums stand on
    layers: tuple[LayerCertificate, ...]

    @property
    def placement(self) -> Placement:
        return Placement(self.tile, self.is_bias_inside)

    @property
    def shortfall(self) -> str:
        """What must be mended before no register that forbids overflow can; empty where all fit."""
        forbids = Overflow.FORBID.name
        inner = [c for c in self.layers if c.fits is False and c.overflow == forbids]
        outer = [c for c in self.layers if c.outer_fits is False and c.outer_overflow == forbids]
        count = sum(c in inner or c in outer for c in self.layers)
        if not count:
            return ""
        said = []
        if inner:
            worst = max(inner, key=lambda c: c.needed_bits or 0)
            bound = f", or bound the weights with a2q(accumulator_bits={worst.available_bits})" if worst.sums else ""
            said.append(
                f"{worst.name} needs a {worst.needed_bits}-bit accumulator and has {worst.available_bits}; "
                f"widen it{bound}"
            )
        if outer:
            worst = max(outer, key=lambda c: c.outer_bits or 0)
            said.append(
                f"{worst.name} needs {worst.outer_bits} bits to add its tiles and has {worst.outer_available_bits}; "
                "widen the outer register"
            )
        return f"{count} of {len(self.layers)} layers may overflow: {'; '.join(said)}"

    def lines(self) -> list[str]:
        """A table of bits, what it leaves out, and what its columns mean."""
        lines = [f"{self.model} under {self.scheme}: accumulator bits, two's complement"]
        cells = [_cells(c) for c in self.layers if c.sums is not None]
        if cells:
            headings = [h for h in cells[0] if any(row[h] for row in cells)]
            widths = {h: max(len(h), *(len(row[h]) for row in cells)) for h in headings}
            for row in [{h: h for h in headings}, *cells]:
                texts = [row[h].ljust(widths[h]) if h == "layer" else row[h].rjust(widths[h]) for h in headings]
                lines.append("  ".join(texts).rstrip())
            lines += ["", *(f"{h:10s}{MEANINGS[h].format(samples=self.samples)}" for h in headings if h in MEANINGS)]
            biases = {c.bias for c in self.layers if c.sums is not None} - {"none"}
            lines += [f"biases are added {where} this register" for where in sorted(biases)]
            if any(c.sums.tiles > 1 and c.outer_low is None for c in self.layers if c.sums is not None):
                lines.append("sums of a part of K are scaled and added in a float register")
        for note in dict.fromkeys(c.note for c in self.layers if c.note):
            names = [c.name for c in self.layers if c.note == note]
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            lines.append(f"not certified: {names[0]}{more}: {note}")
        return lines


MEANINGS = {
    "in a sum": "products that one register adds",
    "formats": "bits whatever the weights are",
    "norm": "bits from the largest L1 norm of a row",
    "signs": "bits from the norm of each sign",
    "exact": "bits of these integers, for any input",
    "raw codes": "the same with raw codes multiplied and their correction in the register",
    "has": "bits of the scheme's register",
    "outer": "bits of the integer register that adds those sums",
    "reached": "bits that complete sums of {samples} samples take",
    "used": "part of the exact range that they fill",
    "zeros": "part of the weights",
    "entropy": "least bits a weight that a code of single weights takes",
}


def _cells(layer: LayerCertificate) -> dict[str, str]:
    sums = layer.sums
    assert sums is not None, "certified"

    def text(value: int | None) -> str:
        return "" if value is None else str(value)

    return {
        "layer": layer.name, "K": str(layer.k), "in a sum": str(min(sums.tile, layer.k)),
        "formats": str(sums.data_type_bits), "norm": str(sums.norm_bits), "signs": str(sums.zero_centred_bits),
        "exact": str(sums.exact_bits), "raw codes": text(layer.raw_code_bits), "has": text(layer.available_bits),
        "outer": text(layer.outer_bits), "outer has": text(layer.outer_available_bits),
        "reached": text(layer.reached_bits),
        "used": "" if layer.utilisation is None else f"{layer.utilisation:.0%}",
        "zeros": "" if layer.weight_zeros is None else f"{layer.weight_zeros:.0%}",
        "entropy": "" if layer.weight_entropy is None else f"{layer.weight_entropy:.2f}",
    }  # fmt: skip
