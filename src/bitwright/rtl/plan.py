"""From a scheme to what its circuits need: operands, registers, scales. Everything else is generic in these values."""

from dataclasses import dataclass, replace
from functools import cached_property

from amaranth.hdl import Module, Value

from bitwright.datapath import Aligned, Datapath, worst_sum
from bitwright.formats import Int, Rounding
from bitwright.quantization import Quantizer
from bitwright.rtl.accumulate import Register, register_for
from bitwright.rtl.multiply import extended
from bitwright.rtl.operand import Operand, Sign, choices, operand
from bitwright.rtl.scale import ScaleProduct
from bitwright.rtl.term import significands
from bitwright.scheme import Scheme

LONGEST = 4096
"""Products in the longest sum, where nobody says: it sizes registers that have no width of their own."""

MANY_ROWS = 2**20


@dataclass(frozen=True)
class Outer:
    """An integer register over tiles: total += scale product · tile sum."""

    register: Register
    scale: ScaleProduct
    tile_sum: tuple[int, int]

    def add(self, m: Module, held: Value, tile_sum: Value, scale: Value) -> Value:
        """The register after one tile."""
        low, high = self.tile_sum
        width = self.register.width(low * self.scale.highest, high * self.scale.highest)
        addend = tile_sum * scale if self.scale.highest > 1 else tile_sum
        return self.register.add(m, "outer", held, [extended(addend, width)], width)


@dataclass(frozen=True)
class Plan:
    """What the circuits of a scheme have in common."""

    x: Operand
    w: Operand
    products: int | None  # of one inner sum; None where it runs over all of K
    k: int  # longest sum
    inner: Register
    outer: Outer | None
    outside: str  # what a user of the circuit still has to do with its result

    @property
    def unit(self) -> int:
        """Inner sums count 2**unit."""
        return self.x.bounds.exponent.start + self.w.bounds.exponent.start

    def elementwise(self) -> "Plan":
        """The same with weights that are stored one element a code."""
        return replace(self, w=self.w.elementwise())

    @cached_property
    def product(self) -> tuple[int, int]:
        """Extreme products of two terms, in units of 2**unit."""
        extremes = []
        for bounds in (self.x.bounds, self.w.bounds):
            top = bounds.exponent[-1] - bounds.exponent.start
            extremes.append([s << top for s in significands(bounds)])
        products = [a * b for a in extremes[0] for b in extremes[1]]
        return min(products), max(products)

    @property
    def addend_width(self) -> int:
        """Bits of a product on its way into the inner register."""
        return self.inner.width(*self.product)


def plan(scheme: Scheme, *, k: int = LONGEST, sign: Sign = Sign.BOTH) -> Plan:
    """What circuits of a scheme need, for sums of up to k products. ValueError where no circuit computes it."""
    if scheme.input is None:
        raise ValueError("the scheme leaves inputs in float, so there is no integer circuit; give it input bits")
    if k < 1:
        raise ValueError(f"sums of {k} products found; at least one is needed")
    x, w, datapath = operand(scheme.input, sign), operand(scheme.weight), scheme.datapath
    _require_integer(datapath)
    pairs = [(a, b) for a in choices(scheme.input, sign) for b in choices(scheme.weight)]
    lengths = {datapath.inner_elements(a, b, MANY_ROWS, k) for a, b in pairs}
    if len(lengths) > 1:
        raise ValueError(f"the formats of one operand sum {sorted(lengths)} products at a time; give them one block")
    length = lengths.pop()
    is_scaled = any(q.scales[-1].share.splits_k for pair in pairs for q in pair)
    has_outer = datapath.tile is not None or is_scaled
    worst = _worst_sum(x, w, length)
    inner = register_for(datapath.inner, worst, f"a sum of {length} products")
    _require_one_unit(datapath, x, w)
    outer, outside = None, "multiply each sum by 2**unit and the scales of its row and column"
    if has_outer and datapath.outer.is_integer:
        scale = ScaleProduct(
            _block_scale([a for a, _ in pairs]), _block_scale([b for _, b in pairs]),
            *_scale_format(datapath),
        )  # fmt: skip
        read = inner.read_shape
        held = (-(1 << (read.width - 1)), (1 << (read.width - 1)) - 1) if inner.readout else worst
        tiles = -(-k // length)
        total = (min(held[0], 0) * scale.highest * tiles, max(held[1], 0) * scale.highest * tiles)
        register = register_for(datapath.outer, total, f"a sum of {tiles} scaled tiles")
        outer = Outer(register, scale, held)
        outside = "multiply each total by 2**unit and the scales shared along K"
    elif has_outer:
        outside = (
            f"multiply each tile sum by 2**unit and its block scales, and add it in {datapath.outer.format}; "
            "then multiply by the scales shared along K"
        )
    return Plan(x, w, length if has_outer else None, k, inner, outer, outside)


def for_array(made: Plan, rows: int) -> Plan:
    """The plan of an array whose columns add `rows` products at a time. ValueError where the scheme forbids that."""
    if made.products is not None and made.products % rows:
        raise ValueError(
            f"tiles of {made.products} products do not split over {rows} rows; "
            f"choose a divisor of {made.products} for the rows"
        )
    group = made.x.run
    if made.x.bounds.reach and group == 1:
        group = made.products or made.k
    if rows % group:
        raise ValueError(
            f"inputs use digits or terms of neighbours within {group} lanes, {rows} rows found; choose a multiple of "
            f"{group} rows, or a scheme whose tile is {rows}"
        )
    if made.w.bounds.reach:
        raise ValueError("stationary weights hold digits of neighbours; give that format to the inputs")
    return made.elementwise()


def _worst_sum(x: Operand, w: Operand, k: int) -> tuple[int, int]:
    """Extreme sums over all pairs of formats, each with the norms that it promises, in units of the operands."""
    unit = x.bounds.exponent.start + w.bounds.exponent.start
    lows, highs = [], []
    for a in x.formats:
        for b in w.formats:
            low, high = worst_sum(a.bounds(), b.bounds(), k)
            raised = a.bounds().exponent.start + b.bounds().exponent.start - unit
            lows.append(low << raised)
            highs.append(high << raised)
    return min(lows), max(highs)


def _require_integer(datapath: Datapath) -> None:
    if not datapath.inner.is_integer:
        raise ValueError(f"no circuit for an inner register of {datapath.inner.format}; use integers, or inner=WIDE")
    if isinstance(datapath.product, Aligned):
        raise ValueError(f"no circuit for {datapath.product} products; leave `product` out for exact sums")


def _require_one_unit(datapath: Datapath, x: Operand, w: Operand) -> None:
    for operands in (x, w):
        units = {format.bounds().exponent.start for format in operands.formats}
        if len(units) > 1 and datapath.inner.format is not None:
            raise ValueError(
                f"formats that count units of 2**{sorted(units)} meet in a register of {datapath.inner.bits} bits; "
                "leave its width open"
            )


def _block_scale(quantizers: list[Quantizer]) -> Int | None:
    """The format of scales that vary along K."""
    inside = {tuple(s.format for s in q.scales if s.share.splits_k) for q in quantizers}
    if inside == {()}:
        return None
    if len(inside) > 1 or len(only := inside.pop()) > 1 or not isinstance(only[0], Int):
        raise ValueError("an integer outer accumulator needs one level of Int scales along K; use a float one")
    return only[0]


def _scale_format(datapath: Datapath) -> tuple[Int | None, Rounding]:
    product = datapath.scale_product
    if product is not None and not isinstance(product, Int):
        raise ValueError(f"an integer outer accumulator needs an integer scale product, {product} found; use Int")
    return product, datapath.scale_rounding
