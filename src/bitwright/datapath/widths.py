"""How wide must a register be? Bounds from ever more knowledge, and a certificate that anyone can check again.

From the formats, from a row's L1 norm (I. Colbert et al., arXiv:2301.13376), from the norm of each sign (A2Q+,
arXiv:2401.10432), from the integers themselves. Each bound holds for every partial sum in any order, as zero lies
within the inputs' range. Closed forms are the papers', after the authors' Brevitas; they may ask for a bit too many.
"""

import hashlib
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped

from bitwright.datapath.ranges import bits_for


class Span(NamedTuple):
    """Extreme integers of an operand or a sum."""

    low: int
    high: int

    @property
    def bits(self) -> int:
        """Width of the two's complement register that holds them."""
        return bits_for(self.low, self.high)

    @property
    def magnitude(self) -> int:
        return max(-self.low, self.high)


def data_type_span(x: Span, w: Span, k: int) -> Span:
    """Extreme sums of k products, whatever the weights are."""
    products = [a * b for a in x for b in w]
    return Span(k * min(0, *products), k * max(0, *products))


def norm_span(x: Span, norm1: int) -> Span:
    """Extreme sums of a row of this L1 norm: max|x|·‖w‖₁ (Hölder)."""
    return Span(-x.magnitude * norm1, x.magnitude * norm1)


def zero_centred_span(x: Span, positive: int, negative: int) -> Span:
    """Extreme sums of a row whose positive weights add up to this, and its negative ones to minus that.

    (ν - μ)·max(Σ⁺, Σ⁻): A2Q+'s (ν - μ)·‖w‖₁/2 where the row adds up to zero, and sound where it does not.
    """
    most = (x.high - x.low) * max(positive, negative)
    return Span(-most, most)


def data_type_bits(k: int, input_bits: int, weight_bits: int, *, is_input_signed: bool) -> int:
    """Closed form from widths alone: P ≥ α + log2(1 + 2**-α) + 1, α = log2(K) + N + M - 1 - signed.

    Solved in integers: the least P with K·2**(N - signed)·2**(M - 1) ≤ 2**(P - 1) - 1.
    """
    return (k << (input_bits - is_input_signed + weight_bits - 1)).bit_length() + 1


def norm_bits(norm1: int, input_bits: int, *, is_input_signed: bool) -> int:
    """Closed form from a row's L1 norm: the least P with 2**(N - signed)·‖w‖₁ ≤ 2**(P - 1) - 1."""
    return (norm1 << (input_bits - is_input_signed)).bit_length() + 1


def zero_centred_bits(norm1: int, input_bits: int) -> int:
    """Closed form for a row whose positive and negative weights each have half the norm, inputs signed or not.

    The least P with ‖w‖₁ ≤ (2**P - 2)/(2**N - 1). Too small where one sign has more than half: see `zero_centred_span`.
    """
    return (-(-((2**input_bits - 1) * norm1) // 2)).bit_length() + 1


def outer_bits(inner_bits: int, tiles: int) -> int:
    """Width that holds any sum of so many registers of `inner_bits` (AXE, arXiv:2409.17092)."""
    return inner_bits + (tiles - 1).bit_length()


class Raw(NamedTuple):
    """Asymmetric inputs whose raw codes are multiplied: their range, and what corrects each row's sum."""

    x: Span
    correction: Shaped[np.ndarray, " rows"]  # -zero point · Σ w: a constant, so part of the bias


def raw_codes(weights: Shaped[np.ndarray, "rows k"], input_bits: int, zero_point: int) -> Raw:
    """The register's view of unsigned codes that stand for code - zero point."""
    return Raw(Span(0, 2**input_bits - 1), -zero_point * weights.sum(1))


@dataclass(frozen=True)
class SumCertificate:
    """Proof of how wide the register of one matrix must be: sums of `tile` products, over all inputs in a range.

    `positive`, `negative` and `norm1` are the largest Σ⁺, Σ⁻ and Σ|w| of a sum; a constant is what the register holds
    besides the products (bias, zero-point correction), zero where it is added outside.
    """

    rows: int
    k: int
    tile: int
    input_low: int
    input_high: int
    weight_low: int
    weight_high: int
    constant_low: int
    constant_high: int
    positive: int
    negative: int
    norm1: int
    zeros: float  # share of weights
    low: int
    high: int
    data_type_bits: int
    norm_bits: int
    zero_centred_bits: int
    exact_bits: int
    integers_sha256: str

    @property
    def tiles(self) -> int:
        return -(-self.k // self.tile)


def certify_sums(
    weights: Shaped[np.ndarray, "rows k"],
    x: Span,
    *,
    w: Span | None = None,
    constant: Shaped[np.ndarray, " rows"] | None = None,
    tile: int | None = None,
) -> SumCertificate:
    """The certificate of integer weights. `w` is the range of their format, the extremes found where it is not given.

    A constant sits in the register of a whole row; with tiles it is added to the outer sum, so give it to that one.
    """
    rows, k = weights.shape
    tile = min(tile or k, k)
    if x.low > 0 or x.high < 0 or tile < 1:
        raise ValueError(f"inputs in {x.low}..{x.high} and tiles of {tile} found; inputs include 0, tiles an element")
    if constant is not None and tile < k:
        raise ValueError(f"a constant in sums of {tile} of {k} products found; add it to the outer sum")
    found = Span(min(int(weights.min(initial=0)), 0), max(int(weights.max(initial=0)), 0))
    w = w or found
    if found.low < w.low or found.high > w.high:
        raise ValueError(f"weights in {found.low}..{found.high} found; the format holds {w.low}..{w.high}")
    positive, negative = _sums_of_signs(weights, tile)
    high, low = x.high * positive - x.low * negative, x.low * positive - x.high * negative
    held = Span(0, 0)
    if constant is not None:
        added = np.asarray(constant).astype(object)
        # the constant may come first or last, so a partial sum may lack it
        high, low = high + np.maximum(added, 0)[:, None], low + np.minimum(added, 0)[:, None]
        held = Span(int(added.min()), int(added.max()))
    extremes = Span(int(low.min()), int(high.max()))
    norm1 = int((positive + negative).max())
    most_positive, most_negative = int(positive.max()), int(negative.max())

    def with_constant(span: Span) -> int:
        return bits_for(span.low + min(held.low, 0), span.high + max(held.high, 0))

    return SumCertificate(
        rows=rows, k=k, tile=tile, input_low=x.low, input_high=x.high, weight_low=w.low, weight_high=w.high,
        constant_low=held.low, constant_high=held.high,
        positive=most_positive, negative=most_negative, norm1=norm1,
        zeros=1 - int(np.count_nonzero(weights)) / max(weights.size, 1),
        low=extremes.low, high=extremes.high,
        data_type_bits=with_constant(data_type_span(x, w, tile)),
        norm_bits=with_constant(norm_span(x, norm1)),
        zero_centred_bits=with_constant(zero_centred_span(x, most_positive, most_negative)),
        exact_bits=extremes.bits, integers_sha256=_digest(weights),
    )  # fmt: skip


def check_sums(
    weights: Shaped[np.ndarray, "rows k"],
    certificate: SumCertificate,
    constant: Shaped[np.ndarray, " rows"] | None = None,
) -> None:
    """ValueError naming the first statement of a certificate that does not hold for these integers."""
    if constant is None and (certificate.constant_low, certificate.constant_high) != (0, 0):
        raise ValueError(
            f"the certificate has constants of {certificate.constant_low} to {certificate.constant_high} in the "
            "register; give them to be checked"
        )
    if weights.shape != (certificate.rows, certificate.k):
        raise ValueError(
            f"the certificate is of {certificate.rows} rows of {certificate.k} weights, these are {weights.shape}"
        )
    if _digest(weights) != certificate.integers_sha256:
        raise ValueError("the certificate is of other integers: their SHA-256 differ; certify these anew")
    again = certify_sums(
        weights,
        Span(certificate.input_low, certificate.input_high),
        w=Span(certificate.weight_low, certificate.weight_high),
        constant=constant,
        tile=certificate.tile,
    )
    for field in fields(SumCertificate):
        stated, found = getattr(certificate, field.name), getattr(again, field.name)
        if stated != found:
            raise ValueError(f"the certificate states {field.name} = {stated}, the integers give {found}")


def _sums_of_signs(
    weights: Shaped[np.ndarray, "rows k"], tile: int
) -> tuple[Shaped[np.ndarray, "rows tiles"], Shaped[np.ndarray, "rows tiles"]]:
    """Σ⁺ and Σ⁻ of each tile, both at least zero, as Python integers."""
    largest = int(np.abs(weights).max(initial=0))
    weights = weights.astype(np.int64 if largest * tile < 2**63 else object)
    padded = np.pad(weights, ((0, 0), (0, -weights.shape[1] % tile))).reshape(len(weights), -1, tile)
    positive, negative = np.maximum(padded, 0).sum(2), -np.minimum(padded, 0).sum(2)
    return positive.astype(object), negative.astype(object)


def _digest(weights: Shaped[np.ndarray, "rows k"]) -> str:
    """SHA-256 of the integers in decimal, row by row: no matter how they are stored."""
    lines = (",".join(map(str, row)) for row in weights.tolist())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
