"""Signed multiplication without sign extension.

C. R. Baugh, B. A. Wooley, "A two's complement parallel array multiplication algorithm", IEEE Trans. Computers
C-22(12), 1973, for operands of any signs: a partial product bit of negative weight is inverted,
-p·2**k = (1 - p)·2**k - 2**k, and the constants are added up beforehand.
"""

from amaranth.hdl import Cat, Const, Module, Shape, Value, unsigned

from bitwright.rtl.term import Term, named, places, shift_left


def multiply(m: Module, name: str, a: Value, b: Value) -> Value:
    """a·b, as wide as both operands together."""
    width = len(a) + len(b)
    product = total(_partial_products(m, name, a, b), width)
    is_signed = a.shape().signed or b.shape().signed
    return named(m, name, Shape(width, is_signed), product.as_signed() if is_signed else product)


def term_product(m: Module, name: str, x: Term, w: Term, exponents: tuple[range, range]) -> Value:
    """The product of two terms, in units of both first exponents."""
    product = multiply(m, name, x.significand, w.significand)
    above = [places(t.exponent, r) for t, r in zip((x, w), exponents) if len(t.exponent)]
    if not above:
        return product
    most = sum(r[-1] - r.start for r in exponents)
    by = above[0] if len(above) == 1 else named(m, f"{name}_exponent", unsigned(most.bit_length()), above[0] + above[1])
    shape = Shape(len(product) + most, product.shape().signed)
    return named(m, f"{name}_aligned", shape, shift_left(product, by, most))


def _partial_products(m: Module, name: str, a: Value, b: Value) -> list[Value]:
    """Unsigned addends whose sum is a·b modulo 2**(bits of both): one a bit of the shorter operand, and a constant."""
    if len(a) < len(b):
        a, b = b, a
    sign = 1 << (len(a) - 1) if a.shape().signed else 0
    every = (1 << len(a)) - 1
    constant = 0
    rows: list[Value] = []
    for j in range(len(b)):
        inverted = every ^ sign if b.shape().signed and j == len(b) - 1 else sign
        constant -= inverted << j
        row = a.as_unsigned() & b[j].replicate(len(a))
        row = named(m, f"{name}_row_{j}", unsigned(len(a)), row ^ inverted if inverted else row)
        rows.append(Cat(Const(0, unsigned(j)), row))
    width = len(a) + len(b)
    return [*rows, Const(constant % (1 << width), unsigned(width))] if constant else rows


def total(addends: list[Value], width: int) -> Value:
    """Sum modulo 2**width, unsigned, by a balanced tree whose adders are as wide as what they add."""
    parts = list(addends) or [Const(0, unsigned(width))]
    while len(parts) > 1:
        sums = [a + b for a, b in zip(parts[::2], parts[1::2])]
        parts = [s if len(s) <= width else s[:width] for s in sums] + parts[len(parts) & ~1 :]
    return extended(parts[0], width)


def extended(value: Value, width: int) -> Value:
    """The same integer modulo 2**width, unsigned."""
    missing = max(width - len(value), 0)
    fill = value[-1].replicate(missing) if value.shape().signed and len(value) else Const(0, unsigned(missing))
    return Cat(value, fill)[:width]
