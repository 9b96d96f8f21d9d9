"""Term Revealing: of the signed power-of-two terms of a group of weights, only the largest few are multiplied.

H. T. Kung, B. McDanel, S. Q. Zhang, "Term quantization: furthering quantization at run time", SC 2020,
arXiv:2007.06389; artifact BradMcDanel/term-quantization@c2c4a1e.
Differs from the artifact: a last group shorter than the others keeps its whole budget (the artifact reads past the
row); input ranges are searched over the calibration sample, not on its coarse grid (`ArtifactGrid` is that grid).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property

import numpy as np
from jaxtyping import Float
from jaxtyping import Int as Ints

from bitwright.formats import Bounds, Format, Rounding, Terms, round_to_integer
from bitwright.formats.format import refuse_nan
from bitwright.quantization import (
    BySign,
    Granularity,
    MinimumError,
    PerTensor,
    Quantizer,
    RangeEstimator,
    Scale,
    Statistics,
)  # fmt: skip
from bitwright.quantization.ranges import Error
from bitwright.scheme import Scheme

SOURCE = "Kung et al., SC 2020, arXiv:2007.06389; BradMcDanel/term-quantization@c2c4a1e"

Masks = tuple[Ints[np.ndarray, "*shape"], Ints[np.ndarray, "*shape"]]
"""Bit e of the first is set where 2**e is added, of the second where it is subtracted."""


class Recoding(Enum):
    """How a magnitude is written as signed powers of two. All are exact; they differ in the number of terms."""

    HESE = "from the least significant bit, two bits and a mode at a time: fewest terms"
    HESE_ARTIFACT = "runs of two or more ones as a difference, single ones as they are; not always fewest"
    NAF = "non-adjacent form, from x and 3x: the digits of HESE"
    BOOTH = "radix-4 Booth: digits -2 to 2 at even exponents"
    BINARY = "the bits themselves"

    def __repr__(self) -> str:
        return f"Recoding.{self.name}"

    def masks(self, magnitude: Ints[np.ndarray, "*shape"]) -> Masks:
        """Which powers of two are added and which subtracted."""
        x = np.asarray(magnitude, np.int64)
        above, below = x >> 1, x << 1  # the neighbouring bits, in place of each bit
        match self:
            case Recoding.HESE:
                return _two_bit_windows(x)
            case Recoding.HESE_ARTIFACT:
                single, run_top = x & ~above & ~below, x & ~above & below
                return single | run_top << 1, x & above & ~below
            case Recoding.NAF:
                return (3 * x & ~x) >> 1, (x & ~(3 * x)) >> 1
            case Recoding.BOOTH:
                even = np.int64(0x1555555555555555)
                high, middle, low = above & even, x & even, below & even
                one = middle ^ low
                twice = middle & low
                return (one & ~high) | (twice & ~high) << 1, (one & high) | (high & ~middle & ~low) << 1
            case _:
                return x, np.zeros_like(x)

    def digits(self, magnitude: Ints[np.ndarray, "*shape"]) -> Ints[np.ndarray, "*shape exponents"]:
        """Signed digits -1, 0, 1 by ascending exponent, one more than the largest magnitude has bits."""
        added, subtracted = self.masks(magnitude)
        exponents = np.arange(int(np.max(magnitude, initial=0)).bit_length() + 1)
        return ((added[..., None] >> exponents & 1) - (subtracted[..., None] >> exponents & 1)).astype(np.int8)


def _two_bit_windows(x: Ints[np.ndarray, "*shape"]) -> Masks:
    """Bits b1 b0 at each position and one mode: inside a run of ones the carry is due, and paid where the run ends."""
    added, subtracted, mode = np.zeros_like(x), np.zeros_like(x), np.zeros_like(x)
    for i in range(int(x.max(initial=0)).bit_length() + 1):
        b0, b1 = x >> i & 1, x >> (i + 1) & 1
        is_term = b0 ^ mode
        added |= (is_term & ~b1) << i
        subtracted |= (is_term & b1) << i
        mode = (b0 & b1) | (mode & (b0 | b1))
    return added, subtracted


@dataclass(frozen=True)
class TermBudget(Format):
    """Sign and magnitude, of which each group of `group` neighbours keeps at most `budget` terms: the largest.

    Terms of one exponent are kept from the first lane on. Codes hold the whole magnitude; the budget acts where terms
    are read, so one stored tensor serves every budget (`replace(format, budget=...)`). What is dropped is not rounded.
    Encoding is not idempotent where a truncated value may be written otherwise than by its first digits: in radix-4
    Booth, and in the artifact's recoding where truncation rounds up beyond `largest`.
    """

    largest: int
    signed: bool = True
    group: int = 1
    budget: int | None = None
    recoding: Recoding = Recoding.HESE

    def __post_init__(self) -> None:
        if not 1 <= self.largest < 2**16:
            raise ValueError(f"TermBudget: a largest magnitude of {self.largest} found; 1 to 65535 are possible")
        if self.group < 1:
            raise ValueError(f"TermBudget: groups of {self.group} elements found; they need at least 1")
        most = self.group * self.most_terms
        if self.budget is not None and not 1 <= self.budget <= most:
            raise ValueError(
                f"TermBudget: a budget of {self.budget} terms found; 1 to {most} are possible, as many as a group of "
                f"{self.group} can have; None keeps all"
            )

    @cached_property
    def most_terms(self) -> int:
        """Largest number of terms of one magnitude."""
        added, subtracted = self.recoding.masks(np.arange(self.largest + 1))
        return int(np.bitwise_count(added | subtracted).max())

    @property
    def bits(self) -> int:  # type: ignore[override]  # derived, so read-only
        return self.signed + self.largest.bit_length()

    @property
    def full_scale(self) -> float:
        return float(self.largest)

    @property
    def run(self) -> int:
        return self.group

    def alone(self) -> Format:
        return self if self.group == 1 else replace(self, group=1, budget=None)

    def encode(
        self,
        x: Float[np.ndarray, "*rows k"],
        rounding: Rounding = Rounding.NEAREST_AWAY,
        generator: np.random.Generator | None = None,
    ) -> Ints[np.ndarray, "*rows k"]:
        """Sign and magnitude of the rounded level, with all terms. Without a sign negative levels raise ValueError."""
        refuse_nan(x, self)
        if not self.signed and np.any(x < 0):
            index = tuple(int(i) for i in np.argwhere(x < 0)[0])
            raise ValueError(
                f"the level at index {index} is {x[index]}, and magnitudes alone hold no negative values; use a sign"
            )
        value = round_to_integer(np.clip(x, -self.largest, self.largest), rounding, generator).astype(np.int64)
        return (value < 0).astype(np.int64) << self.largest.bit_length() | np.abs(value)

    def terms(self, codes: Ints[np.ndarray, "*rows k"]) -> Terms:
        added, subtracted = self.kept(codes)
        per_lane = self.bounds().per_lane
        left: np.ndarray = added | subtracted
        significand = np.zeros((*codes.shape, per_lane), np.int64)
        exponent = np.zeros_like(significand)
        for i in range(per_lane):  # the largest first
            has = (left > 0).astype(np.int64)
            exponent[..., i] = has * (np.frexp(left.astype(np.float64))[1] - 1)
            bit = has << exponent[..., i]
            significand[..., i] = ((added & bit) > 0).astype(np.int64) - ((subtracted & bit) > 0)
            left = left & ~bit
        k = codes.shape[-1]
        source = np.broadcast_to(np.repeat(np.arange(k), per_lane), (*codes.shape[:-1], k * per_lane))
        return Terms(significand.reshape(source.shape), exponent.reshape(source.shape), source)

    def kept(self, codes: Ints[np.ndarray, "*rows k"]) -> Masks:
        """Powers of two that each element adds and subtracts, within the budget."""
        magnitude, is_negative = self._parts(codes)
        added, subtracted = self.recoding.masks(magnitude)
        kept = self._within_budget(added | subtracted)
        added, subtracted = added & kept, subtracted & kept
        return np.where(is_negative, subtracted, added), np.where(is_negative, added, subtracted)

    def term_counts(self, codes: Ints[np.ndarray, "*rows k"]) -> Ints[np.ndarray, "*rows k"]:
        """Terms of each element that are multiplied."""
        added, subtracted = self.kept(codes)
        return np.bitwise_count(added | subtracted).astype(np.int64)

    def bounds(self) -> Bounds:
        return self._bounds

    def is_reserved(self, codes: Ints[np.ndarray, "*rows k"]) -> np.ndarray:
        magnitude, is_negative = self._parts(codes)
        return (magnitude > self.largest) | (is_negative & (magnitude == 0))

    @cached_property
    def _bounds(self) -> Bounds:
        added, subtracted = self.recoding.masks(np.arange(self.largest + 1))
        exponents = range(int((added | subtracted).max()).bit_length())
        per_lane = min(self.most_terms, self.budget or self.most_terms)
        highest = self.largest if self.budget is None else self._highest(added, subtracted, self.budget)
        return Bounds(1, exponents, -float(highest) if self.signed else 0.0, float(highest), per_lane=per_lane)

    def _highest(self, added: Ints[np.ndarray, " n"], subtracted: Ints[np.ndarray, " n"], budget: int) -> int:
        """Largest value of any number of first terms that neighbours can leave an element."""
        left = added | subtracted
        most_from = np.asarray([np.bitwise_count(left >> e).max() for e in range(int(left.max()).bit_length() + 1)])
        kept = np.zeros_like(left)
        highest = 0
        for count in range(min(self.most_terms, budget) + 1):
            following = np.frexp(left.astype(np.float64))[1] - 1
            # the next term is lost only if neighbours have as many larger ones as the budget has room for
            is_possible = (left == 0) | (budget - count <= (self.group - 1) * most_from[following])
            highest = max(highest, int(((added & kept) - (subtracted & kept))[is_possible].max(initial=0)))
            top = (left > 0).astype(np.int64) << np.maximum(following, 0)
            kept, left = kept | top, left & ~top
        return highest

    def _parts(self, codes: Ints[np.ndarray, "*rows k"]) -> tuple[np.ndarray, np.ndarray]:
        width = self.largest.bit_length()
        return codes & (2**width - 1), codes >> width > 0

    def _within_budget(self, present: Ints[np.ndarray, "*rows k"]) -> Ints[np.ndarray, "*rows k"]:
        """The terms that stay when water recedes from the largest exponent on, first lanes first."""
        if self.budget is None:
            return present
        k = present.shape[-1]
        padding = [(0, 0)] * (present.ndim - 1) + [(0, -k % self.group)]
        count = -(-k // self.group)
        groups = np.pad(present, padding).reshape(*present.shape[:-1], count, self.group)
        kept = np.zeros_like(groups)
        left = np.full((*groups.shape[:-1], 1), self.budget)
        for exponent in reversed(range(int(present.max(initial=0)).bit_length())):
            has = groups >> exponent & 1
            take = has & (np.cumsum(has, -1) <= left)
            kept |= take << exponent
            left = left - take.sum(-1, keepdims=True)
        return kept.reshape(*present.shape[:-1], count * self.group)[..., :k]


@dataclass(frozen=True)
class ArtifactGrid(RangeEstimator):
    """The artifact's scale of data: least error of a histogram of -50 to 50 over 2048 evenly spaced scales, the first.

    Coarse (steps of 0.0244), blind beyond 50, and aware of the terms that are kept.
    """

    limit: float = 50.0
    bins: int = 8192
    candidates: int = 2048

    def magnitude(self, seen: Statistics, share: Granularity, format: Format, error: Error) -> np.ndarray:
        if not isinstance(share, PerTensor):
            raise ValueError(f"ArtifactGrid: {share} found; the artifact has one scale a tensor")
        counts = np.histogram(seen.sample, self.bins, (-self.limit, self.limit))[0].astype(np.float64)
        occupied = counts > 0
        points = np.linspace(-self.limit, self.limit, self.bins, dtype=np.float32)[occupied]
        if format.bounds().lowest == 0:
            points = np.maximum(points, 0)
        scales = np.linspace(1e-8, self.limit, self.candidates, dtype=np.float32)

        def wrong(scale: np.float32) -> float:
            codes = format.encode((points / scale)[:, None], Rounding.NEAREST_AWAY)
            error = format.decode(codes)[:, 0] * float(scale) - points
            return float(counts[occupied] @ error**2)

        return np.full((1, 1), float(min(scales, key=wrong)) * format.full_scale)


def term_revealing(
    weight_bits: int = 8,
    input_bits: int = 8,
    *,
    group: int = 8,
    budget: int | None = 12,
    data_terms: int | None = 3,
    recoding: Recoding = Recoding.HESE,
    weight_share: Granularity = PerTensor(),
    quirks: bool = False,
) -> Scheme:
    """Groups of `group` weights keep `budget` terms, each input `data_terms`; None keeps all (plain quantization).

    Weights reach 2**(weight_bits - 1), inputs 2**input_bits - 1, signs apart. `quirks` takes the artifact's scale of
    data, from its coarse grid.
    """
    search: RangeEstimator = ArtifactGrid() if quirks else MinimumError(20, 101, 2)
    weight = TermBudget(2 ** (weight_bits - 1), True, group, budget, recoding)
    unsigned, signed = (
        Quantizer(
            TermBudget(2**input_bits - 1, sign, 1, data_terms, recoding),
            (Scale(PerTensor(), range=search),),
            Rounding.NEAREST_AWAY,
        )
        for sign in (False, True)
    )
    return Scheme(
        BySign(unsigned, signed), Quantizer(weight, (Scale(weight_share),), Rounding.NEAREST_AWAY), source=SOURCE
    )


def with_budget(terms: int | None) -> Callable[[Format], Format]:
    """A change of operating point: the same codes, of which at most this many terms are read; None reads all.

    Other formats stay as they are, and so do weights without neighbours, which have no budget.
    """

    def change(format: Format) -> Format:
        if not isinstance(format, TermBudget) or (format.group == 1 and format.budget is None):
            return format
        most = format.group * format.most_terms
        return replace(format, budget=None if terms is None or terms >= most else terms)

    return change


def term_pairs_bound(
    macs: int, *, group: int, budget: int | None, data_terms: int | None, weight_bits: int, data_bits: int
) -> float:
    """Term pair multiplications as the paper reports them: a bound, of the budgets alone.

    None is plain quantization, which multiplies every bit of one operand with every bit of the other.
    """
    data = data_bits if data_terms is None else min(data_terms, data_bits)
    weight = weight_bits if budget is None else budget / group if group > 1 else min(budget, weight_bits)
    return float(data * weight * macs)


def stored_bits(codes: Ints[np.ndarray, "*rows k"], format: TermBudget, weight_bits: int) -> int:
    """The artifact's storage: for each kept term an exponent, a sign and a barrier; terms in its own recoding."""
    added, subtracted = format.kept(codes)
    kept, lost = Recoding.HESE_ARTIFACT.masks(np.abs(added - subtracted))
    return (int(np.ceil(np.log2(weight_bits))) + 2) * int(np.bitwise_count(kept | lost).sum())
