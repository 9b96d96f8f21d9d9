"""Which circuits the table of measured cells has, in the order in which they are measured."""

from collections.abc import Iterator
from dataclasses import dataclass

from bitwright.rtl.operand import Sign

WIDTHS = (2, 3, 4, 5, 6, 7, 8)
SUMS = (12, 16, 20, 24, 32)
LONG = 4096


@dataclass(frozen=True)
class Point:
    """A circuit by the scheme that it is made for: its unit, bits of its register (None: what k products need)."""

    unit: str
    scheme: str
    sign: Sign = Sign.SIGNED
    bits: int | None = None
    k: int = LONG
    lanes: int = 1
    inputs: bool = True
    """Of decoders and encoders: the inputs' format, not the weights'."""


def points(library: str) -> list[Point]:
    """All of them in the embedded library; in others what tells how they differ, most of it in sky130hd."""
    schemes = [*scheme_elements(), *edges(), *folds(), *vectors(), *pairs(), *largest()]
    if library == "generic45":
        return list(dict.fromkeys([*square_integers(), *schemes, *other_integers()]))
    if library == "sky130hd":
        chosen = [p for p in schemes if p.k in (512, LONG) and (p.unit not in ("vector", "pairs") or _is_core(p))]
        return list(dict.fromkeys([*some_integers(), *chosen]))
    elements = [p for p in scheme_elements() if p.k == LONG]
    core = [p for p in elements if _is_core(p)]
    return list(dict.fromkeys([*few_integers(), *core, *small_edges(), *some_integers(), *elements]))


def _is_core(point: Point) -> bool:
    """One of each kind."""
    return point.unit in ("element", "vector") and point.scheme in (
        "vs_quant(4, 4)", "mxfp4()", "mxfp8()", "nvfp4()", "ant_type('flint')", "overq(4, 8)", "integer(4, 4)",
        "integer(8, 8)",
    ) and (point.sign is not Sign.BOTH or point.scheme in ("ant_type('flint')", "overq(4, 8)"))  # fmt: skip


def square_integers() -> Iterator[Point]:
    """Weights and inputs of one width, and the usual unequal ones, over all sums; saturating ones."""
    pairs = [(w, x) for w in WIDTHS for x in WIDTHS if w == x or (w, x) in ((4, 8), (8, 4), (2, 8), (2, 4), (6, 8))]
    for w, x in pairs:
        for sign in Sign:
            yield from (Point("element", f"integer({w}, {x})", sign, bits) for bits in sums(w, x))
    for w, x in ((4, 4), (4, 8), (8, 8)):
        for bits in sums(w, x):
            scheme = f"integer({w}, {x}, accumulator_bits={bits}, overflow=Overflow.SATURATE)"
            yield from (Point("element", scheme, sign) for sign in (Sign.SIGNED, Sign.BOTH))


def sums(w: int, x: int) -> Iterator[int]:
    """Registers that hold a product; narrow ones where they overflow anyway are not asked for."""
    yield from (bits for bits in ((8, *SUMS) if w + x <= 8 else SUMS) if bits >= w + x)


def other_integers() -> Iterator[Point]:
    """Every other pair of widths."""
    for w in WIDTHS:
        for x in WIDTHS:
            yield from (Point("element", f"integer({w}, {x})", sign, 24) for sign in (Sign.SIGNED, Sign.BOTH))


def some_integers() -> Iterator[Point]:
    for bits in (16, 24, 32):
        for w in (2, 4, 8):
            for x in (2, 4, 8):
                yield Point("element", f"integer({w}, {x})", Sign.SIGNED, bits)
        for w, x in ((4, 4), (4, 8), (8, 8)):
            for sign in (Sign.UNSIGNED, Sign.BOTH):
                yield Point("element", f"integer({w}, {x})", sign, bits)


def few_integers() -> Iterator[Point]:
    for w, x in ((4, 4), (8, 8), (4, 8), (2, 2)):
        yield from (Point("element", f"integer({w}, {x})", Sign.SIGNED, bits) for bits in (16, 24, 32))
        yield from (Point("element", f"integer({w}, {x})", sign, 24) for sign in (Sign.UNSIGNED, Sign.BOTH))


def scheme_elements() -> Iterator[Point]:
    """Elements of all other formats: of blocks, and of long sums at two lengths."""
    for scheme in ("vs_quant(4, 4)", "vs_quant(4, 8)", "vs_quant(8, 8)", "vs_quant(6, 6)", "vs_quant_chip()"):
        yield from (Point("element", scheme, sign) for sign in Sign)
    for scheme in (
        "mxfp4()", "nvfp4()", "mxfp6()", "mxfp6(element=E3M2)", "mxfp8()", "mxfp8(element=E5M2)", "mxint8()",
    ):  # fmt: skip
        yield Point("element", scheme)
    for e, m in ((2, 1), (2, 3), (3, 2), (4, 3), (5, 2), (3, 1), (3, 0)):
        yield from (Point("element", f"minifloat({e}, {m})", k=k) for k in (16, 256, LONG))
    for text in (
        "ant_type('flint')", "ant()", "ant_type('pot')", "ant_type('float')", "ant(types=('int', 'flint'))",
        "ant_type('flint', 8, 8)", "ant_type('flint', 3, 3)", "ant(types=('int', 'pot', 'flint', 'float'))",
    ):  # fmt: skip
        for sign in Sign:
            yield from (Point("element", text, sign, k=k) for k in (64, 512, LONG))
    for bits in (3, 4, 5, 6):
        for w in (4, 8):
            for both in ("", ", precision_overwrite=True"):
                for sign in (Sign.UNSIGNED, Sign.BOTH):
                    yield from (Point("element", f"overq({bits}, {w}{both})", sign, k=k) for k in (128, LONG))
    for text in ("ant(3, 3)", "overq(4, 8, signed=True)", "overq(4, 4, signed=True)"):
        yield from (Point("element", text, Sign.BOTH, k=k) for k in (64, 512, LONG))
    for x in (1, 2, 4, 8):
        yield from (Point("element", f"integer(1, {x})", Sign.BOTH, bits) for bits in (12, 16, 24))
    yield from (Point("element", "wrapnet()", sign) for sign in Sign)
    for text in ("overq_on(vs_quant(4, 4))", "overq_on(vs_quant(4, 4), precision_overwrite=True)"):
        yield from (Point("element", text, sign) for sign in (Sign.UNSIGNED, Sign.BOTH))
    for text in ("combined()", "combined(overq(4), integer(8, 8))", "combined(integer(8, 8), ant())"):
        yield from (Point("element", text, sign, k=k) for sign in (Sign.UNSIGNED, Sign.BOTH) for k in (128, LONG))


def edges() -> Iterator[Point]:
    """What stands at the array's edge: once a row, a column or a tile."""
    for scheme in (
        "vs_quant(4, 4)", "vs_quant(4, 4, 6, 6)", "vs_quant(8, 8, 6, 6)", "vs_quant_chip()", "vs_quant(4, 8, 4, 8)",
        "vs_quant(4, 8, 6, 10)", "vs_quant(4, 4, 8, 8)",
    ):  # fmt: skip
        yield from (Point("collector", scheme, k=k) for k in (512, LONG))
    yield from (Point("collector", "a2q(4, 8, 16, tile=128)", k=k) for k in (512, LONG))
    for scheme in (
        "mxfp4()",
        "nvfp4()",
        "mxfp6()",
        "mxfp6(element=E3M2)",
        "mxfp8()",
        "mxint8()",
        "mxfp8(element=E5M2)",
    ):
        yield Point("collector", scheme)
    for text in ("mxfp4()", "mxfp6()", "mxfp6(element=E3M2)", "mxfp8()", "mxfp8(element=E5M2)"):
        yield Point("decoder", text)
    for text in ("ant_type('flint')", "ant_type('flint', 8, 8)", "ant_type('pot')", "ant_type('float')", "ant()"):
        yield from (Point("decoder", text, sign) for sign in Sign)
        yield Point("decoder", text, inputs=False)
    for bits in (4, 8):
        yield from (Point("requantizer", f"integer({bits}, {bits})", Sign.BOTH, width) for width in (16, 24, 32))
    for bits in (3, 4, 5, 6):
        for both in ("", ", precision_overwrite=True"):
            yield Point("decoder", f"overq({bits}, 8, tile=16{both})", Sign.UNSIGNED, lanes=16)
            yield Point("encoder", f"overq({bits}, 8, tile=16{both})", Sign.UNSIGNED, lanes=16)
    for text in ("ant_type('flint')", "ant_type('pot')"):
        yield from (Point("encoder", text, sign) for sign in (Sign.SIGNED, Sign.UNSIGNED))
    for text in ("mxfp4()", "mxfp6()", "mxfp8()", "mxfp6(element=E3M2)", "mxfp8(element=E5M2)"):
        yield Point("encoder", text)


def small_edges() -> Iterator[Point]:
    """Of the edge what takes seconds to map, with long sums."""
    small = ("collector", "decoder", "requantizer")
    yield from (p for p in edges() if p.unit in small and p.k == LONG and p.lanes == 1)
    yield from (p for p in edges() if p.unit == "encoder" and p.lanes == 1)
    yield from (p for p in folds() if p.scheme == "wrapnet()")


def folds() -> Iterator[Point]:
    """What WrapNet reads its registers through."""
    yield Point("fold", "wrapnet()")
    for bits in (10, 12, 16):
        yield Point("fold", f"wrapnet(accumulator_bits={bits})")
    for bits in (8, 12):
        yield Point("fold", f"wrapnet(accumulator_bits={bits}, slope=2)")


def vectors() -> Iterator[Point]:
    """Vector units, with their decoders, accumulators and scale hardware."""
    for text, lanes in (
        ("nvfp4()", 16), ("mxfp4()", 32), ("integer(8, 8)", 16), ("integer(4, 4)", 16), ("integer(4, 8)", 16),
        ("vs_quant(4, 4)", 16), ("vs_quant(4, 8)", 16), ("vs_quant(8, 8, 6, 6)", 16), ("ant_type('flint')", 16),
        ("integer(2, 2)", 16), ("integer(6, 6)", 16),
    ):  # fmt: skip
        yield Point("vector", text, k=512, lanes=lanes)
    for text in ("vs_quant(4, 4)", "integer(4, 4)", "integer(8, 8)"):
        yield Point("vector", text, Sign.BOTH, k=512, lanes=16)
    for text in ("vs_quant(4, 4)", "vs_quant(4, 8)", "integer(4, 4)", "integer(4, 8)", "integer(8, 8)"):
        yield Point("vector", text, Sign.UNSIGNED, k=512, lanes=16)
    for text in ("mxint8()", "mxfp6()", "mxfp6(element=E3M2)"):
        yield Point("vector", text, k=512, lanes=32)


def largest() -> Iterator[Point]:
    """What takes minutes to map."""
    yield Point("encoder", "vs_quant(4, 4)", Sign.SIGNED, lanes=16)
    yield Point("vector", "mxfp8()", k=512, lanes=32)
    yield Point("encoder", "vs_quant(4, 4)", Sign.UNSIGNED, lanes=16)


def pairs() -> Iterator[Point]:
    """Term Revealing's serial units: a pair of terms a cycle."""
    for w, group, budget, data in ((8, 8, 12, 3), (8, 8, 16, 3), (8, 8, 20, 3), (8, 8, 8, 2)):
        text = f"term_revealing({w}, 8, group={group}, budget={budget}, data_terms={data})"
        yield Point("pairs", text, k=LONG, lanes=group)
