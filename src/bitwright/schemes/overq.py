"""OverQ: outliers of an activation overwrite nearby zeros and so get more bits; ordinary values may do so too.

R. Zhao, J. Dotzel, Z. Hu, P. Ivanov, C. De Sa, Z. Zhang, "OverQ: opportunistic outlier quantization for neural network
accelerators", arXiv:1910.06909v2. Its text is public as an abstract only: lane codes and rules here are ours.
Differs: nothing that the abstract says. Signed lanes and lanes of other formats than integers are additions. The
fraction of an ordinary value is kept from rounding its value to zero or to an outlier, so that encoding is idempotent.
"""

from dataclasses import dataclass, replace
from enum import Enum, IntEnum

import numpy as np
from jaxtyping import Bool, Float
from jaxtyping import Int as Ints

from bitwright.formats import Bounds, Format, Int, Rounding, Terms, round_to_integer
from bitwright.formats.format import own_lane, refuse_nan
from bitwright.quantization import (
    AnyQuantizer,
    BestOf,
    BySign,
    Deviations,
    Granularity,
    PerRow,
    PerTensor,
    Quantizer,
    RangeEstimator,
    Scale,
    Zero,
)  # fmt: skip
from bitwright.scheme import Scheme
from bitwright.schemes.vs_quant import vs_quant

SOURCE = "Zhao, Dotzel, et al., arXiv:1910.06909v2"


class Pick(Enum):
    """Which outlier gets a zero that several could take. Both cover the same number of outliers."""

    LEFTMOST = "the first in reach: one pass from left to right"
    LARGEST = "the largest in reach, the first of equals"

    def __repr__(self) -> str:
        return f"Pick.{self.name}"


class State(IntEnum):
    """What a lane holds. All but OWN multiply with the weight of the lane before."""

    OWN = 0  # its own value, or the low digit of an outlier
    HIGH = 1  # high digit of the outlier one lane before
    LOW = 2  # fraction of the value one lane before
    MOVED = 3  # value of the lane before, displaced by an outlier


@dataclass(frozen=True)
class Overwrite(Format):
    """Lanes whose free neighbours hold further digits: a group format along K. The radix is the lane's 2**n.

    A value that rounds to zero frees its lane. The zero's run of non-zero lanes before it may hold an outlier (beyond
    the lane's largest value) at most `cascade` lanes back: that outlier gets a second, higher digit in the next lane,
    and values in between move up by one. With `precision_overwrite` a free lane that no outlier takes holds the
    fraction of the ordinary value before it. Nothing crosses the ends of a tile. Values of signed lanes keep their sign
    in both digits.

    A code is the lane's code, and above it the state: one bit if one kind of overwriting is on (a set bit after an
    unset one is HIGH or LOW, after a set one MOVED), two bits (`State`) otherwise.
    """

    lane: Format
    range_overwrite: bool = True
    cascade: int = 1
    precision_overwrite: bool = False
    pick: Pick = Pick.LEFTMOST
    tile: int | None = None  # lanes that face one column of the array; None is the whole block

    def __post_init__(self) -> None:
        if not self.range_overwrite and not self.precision_overwrite:
            raise ValueError("Overwrite: nothing is overwritten; use the lane's format, or switch one kind on")
        if self.range_overwrite and self.cascade < 1:
            raise ValueError(
                f"Overwrite: cascade {self.cascade} found; range overwriting reaches at least 1 lane, "
                "or switch range_overwrite off"
            )
        if self.tile is not None and self.tile < 1:
            raise ValueError(f"Overwrite: a tile of {self.tile} lanes found; it needs at least 1")
        if self.precision_overwrite and not isinstance(self.lane, Int):
            raise ValueError(f"Overwrite: {self.lane} found; precision overwriting needs evenly spaced Int lanes")
        low, high = self.lane.bounds().lowest, self.lane.bounds().highest
        if low not in (0, -high):
            raise ValueError(f"Overwrite: lanes from {low} to {high} found; they start at 0 or are symmetric (narrow)")

    @property
    def side_bits(self) -> int:
        """State bits of a lane."""
        return 1 + (self.range_overwrite and self.precision_overwrite)

    @property
    def bits(self) -> int:  # type: ignore[override]  # derived, so read-only
        return self.lane.bits + self.side_bits

    @property
    def full_scale(self) -> float:
        return self.lane.full_scale

    @property
    def run(self) -> int:
        return self.tile or 1

    def alone(self) -> Format:
        return self.lane

    @property
    def unit(self) -> float:
        """Spacing of the integers that a lane counts."""
        return 2.0 ** self.lane.bounds().exponent.start

    @property
    def radix_bits(self) -> int:
        """A second digit is worth 2**radix_bits times the first, or 2**-radix_bits for a fraction."""
        return int(self.lane.bounds().highest / self.unit + 1).bit_length() - 1

    @property
    def largest(self) -> float:
        """Largest value of two digits."""
        return self.lane.bounds().highest * (2.0**self.radix_bits + 1)

    def encode(
        self,
        x: Float[np.ndarray, "*rows k"],
        rounding: Rounding = Rounding.NEAREST_UP,
        generator: np.random.Generator | None = None,
    ) -> Ints[np.ndarray, "*rows k"]:
        """Codes of the levels x. A negative level in unsigned lanes raises ValueError naming its index."""
        refuse_nan(x, self)
        self._refuse_negative(x)
        x = x.astype(np.float64)
        payload = self.lane.encode(x, rounding, generator)
        state = np.zeros(x.shape, np.int64)
        zero, outlier, wide = self.classes(x, rounding, generator)
        donor = self.donors(zero, outlier, wide)
        own = payload.copy()
        high, low = self._digits(wide)
        for distance in range(1, int(donor.max(initial=0)) + 1):
            at = np.nonzero(donor == distance)
            home = (*at[:-1], at[-1] - distance)
            payload[home], payload[_next(home)] = low[home], high[home]
            state[_next(home)] = State.HIGH
            for moved in range(2, distance + 1):
                here = _next(home, moved)
                payload[here], state[here] = own[_next(home, moved - 1)], State.MOVED
        if self.precision_overwrite:
            at = np.nonzero(self.fraction_owners(zero, outlier, donor))
            whole, fraction = self._fraction_digits(x[at], rounding, generator)
            payload[at], payload[_next(at)], state[_next(at)] = whole, fraction, State.LOW
        side = state if self.side_bits == 2 else (state != State.OWN).astype(np.int64)
        return side << self.lane.bits | payload

    def payloads(self, codes: Ints[np.ndarray, "*rows k"]) -> Ints[np.ndarray, "*rows k"]:
        """Code of the lane's format in each lane."""
        return codes & (2**self.lane.bits - 1)

    def states(self, codes: Ints[np.ndarray, "*rows k"]) -> Ints[np.ndarray, "*rows k"]:
        """`State` of each lane."""
        side = codes >> self.lane.bits
        if self.side_bits == 2:
            return side
        if not self.range_overwrite:
            return np.where(side == 1, State.LOW, State.OWN)
        before = np.concatenate([np.zeros_like(side[..., :1]), side[..., :-1]], -1)
        return np.where(side == 1, np.where(before == 1, State.MOVED, State.HIGH), State.OWN)

    def terms(self, codes: Ints[np.ndarray, "*rows k"]) -> Terms:
        state = self.states(codes)
        significand, exponent, _ = self.lane.terms(self.payloads(codes))
        shift = np.asarray([0, self.radix_bits, -self.radix_bits, 0])[state]
        return Terms(significand, exponent + shift, own_lane(codes.shape) - (state != State.OWN))

    def bounds(self) -> Bounds:
        lane = self.lane.bounds()
        down = self.radix_bits if self.precision_overwrite else 0
        up = self.radix_bits if self.range_overwrite else 0
        highest = self.largest * (1.0 if self.range_overwrite else 2.0**-self.radix_bits)
        exponent = range(lane.exponent.start - down, lane.exponent.stop + up)
        return Bounds(lane.significand, exponent, -highest if lane.lowest < 0 else 0.0, highest, reach=1)

    def is_reserved(self, codes: Ints[np.ndarray, "*rows k"]) -> Bool[np.ndarray, "*rows k"]:
        is_astray = (self._lanes(codes.shape[-1]) == 0) & (self.states(codes) != State.OWN)
        return is_astray | self.lane.is_reserved(self.payloads(codes))

    def classes(
        self, x: Float[np.ndarray, "*rows k"], rounding: Rounding, generator: np.random.Generator | None = None
    ) -> tuple[Bool[np.ndarray, "*rows k"], Bool[np.ndarray, "*rows k"], Float[np.ndarray, "*rows k"]]:
        """Which levels are zeros, which are outliers, and all as integers."""
        sure = Rounding.NEAREST_UP if rounding is Rounding.STOCHASTIC else rounding
        zero = self.lane.decode(self.lane.encode(x, sure)) == 0
        level = np.clip(x / self.unit, -(2.0**52), 2.0**52)  # infinity has no neighbours to round to
        outlier = np.abs(round_to_integer(level, sure)) * self.unit > self.lane.bounds().highest
        return zero, outlier, round_to_integer(level, rounding, generator) * self.unit

    def donors(
        self,
        zero: Bool[np.ndarray, "*rows k"],
        outlier: Bool[np.ndarray, "*rows k"],
        value: Float[np.ndarray, "*rows k"],
    ) -> Ints[np.ndarray, "*rows k"]:
        """For each zero how many lanes back the outlier is that takes it; 0 where none does.

        A zero serves an outlier of the run before it or none, and runs share no lane: so each zero decides alone.
        """
        k = zero.shape[-1]
        lane = self._lanes(k)
        donor = np.zeros(zero.shape, np.int64)
        best = np.zeros(zero.shape)
        unbroken = zero.copy()
        for distance in range(1, min(self.cascade, k - 1) + 1 if self.range_overwrite else 1):
            unbroken[..., distance:] &= ~zero[..., :-distance]
            unbroken &= lane >= distance
            candidate = unbroken.copy()
            candidate[..., distance:] &= outlier[..., :-distance]
            if self.pick is Pick.LARGEST:
                size = np.zeros(zero.shape)
                size[..., distance:] = np.abs(value[..., :-distance])
                candidate &= size >= best  # the farther of equals comes first from the left
                best = np.where(candidate, size, best)
            donor[candidate] = distance
        return donor

    def fraction_owners(
        self,
        zero: Bool[np.ndarray, "*rows k"],
        outlier: Bool[np.ndarray, "*rows k"],
        donor: Ints[np.ndarray, "*rows k"],
    ) -> Bool[np.ndarray, "*rows k"]:
        """Ordinary values before a zero that no outlier takes."""
        free = zero & (donor == 0) & (self._lanes(zero.shape[-1]) > 0)
        owner = np.zeros(zero.shape, bool)
        owner[..., :-1] = free[..., 1:] & ~zero[..., :-1] & ~outlier[..., :-1]
        return owner

    def fractions(
        self, x: Float[np.ndarray, "*values"], rounding: Rounding, generator: np.random.Generator | None = None
    ) -> Float[np.ndarray, "*values"]:
        """Ordinary levels with the precision of two digits."""
        radix, highest = 2.0**self.radix_bits, self.lane.bounds().highest
        fine = round_to_integer(x / self.unit * radix, rounding, generator)
        sure = Rounding.NEAREST_UP if rounding is Rounding.STOCHASTIC else rounding
        landed = np.abs(round_to_integer(fine / radix, sure))
        fine = fine + np.sign(fine) * ((landed == 0).astype(np.float64) - (landed * self.unit > highest))
        return fine / radix * self.unit

    def _lanes(self, k: int) -> Ints[np.ndarray, " k"]:
        """Position of each lane in its tile."""
        return np.arange(k) % (self.tile or max(k, 1))

    def two_digits(self, wide: Float[np.ndarray, "*values"]) -> Float[np.ndarray, "*values"]:
        """What an outlier's two digits stand for: itself in integer lanes."""
        high, low = (self.lane.decode(digit) for digit in self._digits(wide))
        return high * 2.0**self.radix_bits + low

    def _digits(self, wide: Float[np.ndarray, "*rows k"]) -> tuple[np.ndarray, np.ndarray]:
        """Codes of the high and low digit; saturates."""
        radix = 2.0**self.radix_bits
        wide = np.clip(wide, -self.largest, self.largest)
        high = self.lane.encode(wide / radix, Rounding.TOWARD_ZERO)
        return high, self.lane.encode(wide - self.lane.decode(high) * radix, Rounding.NEAREST_UP)

    def _fraction_digits(
        self, x: Float[np.ndarray, " values"], rounding: Rounding, generator: np.random.Generator | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Codes of the whole part and of the fraction."""
        value = self.fractions(x, rounding, generator)
        whole = self.lane.encode(value, Rounding.TOWARD_ZERO)
        fraction = (value - self.lane.decode(whole)) * 2.0**self.radix_bits
        return whole, self.lane.encode(fraction, Rounding.NEAREST_UP)

    def _refuse_negative(self, x: Float[np.ndarray, "*rows k"]) -> None:
        if self.lane.bounds().lowest == 0 and np.any(x < 0):
            index = tuple(int(i) for i in np.argwhere(x < 0)[0])
            raise ValueError(
                f"the level at index {index} is {x[index]}, and unsigned lanes hold no negative values; "
                "calibrate on data that shows the sign, or use signed lanes"
            )


def _next(index: tuple[np.ndarray, ...], lanes: int = 1) -> tuple[np.ndarray, ...]:
    """The same lanes, further along the last axis."""
    return (*index[:-1], index[-1] + lanes)


def expected_coverage(zeros: float, outliers: float, cascade: int, tile: int | None = None) -> float:
    """Fraction of outliers that find a zero where lanes are independent, of the given probabilities.

    Each zero serves at most one outlier, of the last `cascade` lanes of the run before it. With few outliers and
    without tiles this is 1 - (1 - zeros)**cascade.
    """
    other = 1 - zeros - outliers
    if min(zeros, outliers, other) < 0:
        raise ValueError(f"probabilities {zeros} and {outliers} found; they are at least 0 and add up to 1 at most")
    if not zeros:
        return 0.0
    if tile is None:
        reached = 1 - other**cascade
    else:
        cascade = min(cascade, tile - 1)
        geometric = (1 - other**cascade) / (1 - other)
        reached = 1 - (geometric + (tile - cascade) * other**cascade) / tile
    return zeros / (zeros + outliers) * reached


def expected_precision_rate(zeros: float, outliers: float, cascade: int) -> float:
    """Fraction of ordinary values that get a zero's lane for their fraction; cascade 0 is without range overwriting."""
    if cascade <= 1 or not zeros:
        return zeros
    other = (1 - zeros - outliers) ** (cascade - 1)
    return zeros * (zeros * (1 - other) / (zeros + outliers) + other)


def overq(
    bits: int = 4,
    weight_bits: int = 8,
    *,
    cascade: int = 4,
    range_overwrite: bool = True,
    precision_overwrite: bool = False,
    pick: Pick = Pick.LEFTMOST,
    tile: int | None = 128,
    signed: bool = False,
    input_range: RangeEstimator = Deviations(),
    weight_share: Granularity = PerRow(),
) -> Scheme:
    """Unsigned inputs of `bits` a lane, one static scale, integer weights with symmetric range.

    `tile` is the array's rows. Inputs with negative values get plain symmetric integers, as in the paper, unless
    `signed` lets their lanes overwrite as well.
    """
    base = Scheme(
        BySign(
            Quantizer(Int(bits, signed=False), (Scale(PerTensor(), range=input_range),), Rounding.NEAREST_UP),
            Quantizer(Int(bits, narrow=True), (Scale(PerTensor(), range=input_range),), Rounding.NEAREST_AWAY),
        ),
        Quantizer(Int(weight_bits, narrow=True), (Scale(weight_share),)),
        source=SOURCE,
    )
    made = overq_on(
        base, cascade=cascade, range_overwrite=range_overwrite, precision_overwrite=precision_overwrite, pick=pick,
        tile=tile, signed=signed,
    )  # fmt: skip
    return replace(made, source=SOURCE)


def overq_on(
    scheme: Scheme = vs_quant(4, 4),
    *,
    cascade: int = 4,
    range_overwrite: bool = True,
    precision_overwrite: bool = False,
    pick: Pick = Pick.LEFTMOST,
    tile: int | None = None,
    signed: bool = False,
    spread: tuple[float, ...] = (1.0, 2.0, 4.0),
) -> Scheme:
    """Any scheme with overwriting lanes in place of its input's format: flint lanes, the vectors of VS-Quant, ...

    A scale that follows the data leaves no outliers. `spread` lists how far beyond the lane's largest value the
    magnitude of a block along K may lie, as factors; the one of least error is chosen for each block. Where a scale
    serves all of K, its range estimator decides.
    """
    if scheme.input is None:
        raise ValueError("overq_on: the scheme leaves inputs in float; choose one that quantizes them")

    def over(quantizer: AnyQuantizer) -> AnyQuantizer:
        if isinstance(quantizer, BySign):
            return BySign(over(quantizer.unsigned), over(quantizer.signed))  # type: ignore[arg-type]
        if isinstance(quantizer, BestOf):
            return BestOf(tuple(over(q) for q in quantizer.quantizers))  # type: ignore[misc]
        lane = quantizer.format
        if quantizer.zero is Zero.FITTED:
            raise ValueError("overq_on: a fitted zero point leaves no code for zero alone; choose a symmetric scheme")
        if lane.bounds().lowest < 0 and not signed:
            return quantizer
        *coarse, finest = quantizer.scales
        if finest.share.splits_k:
            finest = replace(finest, full_scale=tuple(factor * lane.full_scale for factor in spread))
        wide = Overwrite(lane, range_overwrite, cascade, precision_overwrite, pick, tile)
        return replace(quantizer, format=wide, scales=(*coarse, finest))

    return Scheme(over(scheme.input), scheme.weight, scheme.datapath, f"{SOURCE}; {scheme.source}")
