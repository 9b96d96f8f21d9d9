"""Four multipliers of narrow types make one of integers twice as wide, in any mixture, bit for bit."""

import numpy as np
import pytest

pytest.importorskip("amaranth", reason="circuits need amaranth: pip install 'bitwright[rtl]'")

from bitwright.formats import Int, Minifloat
from bitwright.rtl.type_fusion import TypeFusion, type_fusion
from bitwright.schemes import ant, overq
from bitwright.schemes.ant import flint, power_of_two
from bitwright.testing.rtl import evaluate

NARROW = (
    Int(4),
    Int(4, signed=False),
    flint(4),
    flint(4, signed=False),
    power_of_two(4),
    power_of_two(4, signed=False),
)
WIDE = (Int(8), Int(8, signed=False))
UNIT = TypeFusion(NARROW + WIDE, NARROW + WIDE, 4)


def ports(name, format, codes, products):
    """Codes [steps, products] at the ports of one operand: a wide code takes two."""
    if format.bits == 8:
        codes = np.stack([codes & 15, codes >> 4], -1).reshape(len(codes), -1)
    return {f"{name}_{i}": codes[:, i] for i in range(codes.shape[1])}


def products_of(x, w):
    """How many a clock."""
    return {8: 4, 12: 2, 16: 1}[x.bits + w.bits]


def assert_sums_equal_golden(x, w, x_codes, w_codes, unit=UNIT, formats=NARROW + WIDE):
    """Pairs of codes, as many a clock as the formats allow, each clock's sum alone."""
    count = products_of(x, w)
    steps = len(x_codes) // count
    x_codes, w_codes = (np.asarray(codes)[: steps * count].reshape(steps, count) for codes in (x_codes, w_codes))
    inputs = ports("x", x, x_codes, count) | ports("w", w, w_codes, count)
    inputs |= {f"{n}_select": np.full(steps, formats.index(f)) for n, f in (("x", x), ("w", w))}
    inputs |= {"enable": np.ones(steps, int), "first": np.ones(steps, int)}
    found = evaluate(unit, {name: np.append(values, 0) for name, values in inputs.items()}, clocked=True)["total"][1:]
    np.testing.assert_array_equal(found, (x.decode(x_codes) * w.decode(w_codes)).sum(1))


def all_pairs(x, w):
    return (codes.ravel() for codes in np.meshgrid(np.arange(2**x.bits), np.arange(2**w.bits)))


@pytest.mark.parametrize("w", NARROW, ids=lambda f: str(NARROW.index(f)))
@pytest.mark.parametrize("x", NARROW, ids=lambda f: str(NARROW.index(f)))
def test_four_products_a_clock_of_all_pairs_of_narrow_types(x, w):
    assert_sums_equal_golden(x, w, *all_pairs(x, w))


@pytest.mark.parametrize("wide", WIDE, ids=["s8", "u8"])
@pytest.mark.parametrize("narrow", NARROW[::2], ids=["int", "flint", "pot"])
def test_two_products_a_clock_of_a_narrow_type_and_a_wide_integer(narrow, wide):
    n, v = (codes[::11] for codes in all_pairs(narrow, wide))  # a stride that meets all codes of both
    assert_sums_equal_golden(narrow, wide, n, v)
    assert_sums_equal_golden(wide, narrow, v, n)


EDGES = np.asarray([0, 1, 15, 16, 17, 127, 128, 129, 239, 240, 255])


@pytest.mark.parametrize("w", WIDE, ids=["s8", "u8"])
@pytest.mark.parametrize("x", WIDE, ids=["s8", "u8"])
def test_one_product_a_clock_of_wide_integers(x, w):
    rng = np.random.default_rng(0)
    edges = np.meshgrid(EDGES, EDGES)
    codes = [np.concatenate([e.ravel(), rng.integers(0, 256, 120)]) for e in edges]
    assert_sums_equal_golden(x, w, *codes)


@pytest.mark.slow
def test_all_pairs_of_wide_signed_integers():
    assert_sums_equal_golden(WIDE[0], WIDE[0], *all_pairs(*WIDE[:1] * 2))


def test_sums_of_changing_formats_add_up_in_one_register():
    rng = np.random.default_rng(2)
    unit = TypeFusion(NARROW + WIDE, NARROW + WIDE, 200)
    steps, total = 60, 0
    inputs = {name: [] for name in unit.signature.members if name != "total"}
    golden = []
    for step in range(steps):
        x_select, w_select = rng.integers(0, len(NARROW + WIDE), 2)
        x, w = (NARROW + WIDE)[x_select], (NARROW + WIDE)[w_select]
        count = products_of(x, w)
        a, b = rng.integers(0, 2**x.bits, (1, count)), rng.integers(0, 2**w.bits, (1, count))
        given = {name: int(v[0]) for name, v in (ports("x", x, a, count) | ports("w", w, b, count)).items()}
        given |= {"x_select": x_select, "w_select": w_select, "enable": step % 7 != 3, "first": step == 0}
        for name, values in inputs.items():
            values.append(given.get(name, int(rng.integers(0, 16))))  # ports that the mode does not read
        total += int((x.decode(a) * w.decode(b)).sum()) * given["enable"]
        golden.append(total)
    found = evaluate(unit, {name: np.append(values, 0) for name, values in inputs.items()}, clocked=True)["total"][1:]
    assert found == golden


def test_a_unit_of_two_schemes_has_the_formats_of_both():
    unit = type_fusion(ant(4, 4), ant(8, 8), k=64)
    assert unit.x.formats[-2:] == (Int(8, signed=False), Int(8, signed=True))
    assert unit.w.formats == (Int(4), flint(4), power_of_two(4), Int(8))
    assert unit.x.bits == 4


def test_wide_operands_are_integers():
    with pytest.raises(
        ValueError, match=r"beside formats of 4 bits found; give scalar formats of these bits, or Int\(8\)"
    ):
        TypeFusion((Int(4), Minifloat(4, 3)), (Int(4),), 4)
    with pytest.raises(ValueError, match="give scalar formats"):
        type_fusion(overq(4, 4, tile=4), ant(8, 8), k=4)
