"""A2Q: weights whose L1 norm is bounded, so that a narrow accumulator never overflows, whatever the inputs are.

I. Colbert, A. Pappalardo, J. Petri-Koenig, "Quantized neural networks for low-precision accumulation with guaranteed
overflow avoidance", arXiv:2301.13376; "A2Q", ICCV 2023, arXiv:2308.13504; "A2Q+", ICML 2024, arXiv:2401.10432;
multi-stage accumulation: AXE, arXiv:2409.17092. Formulas after the authors' Brevitas.
Differs from the papers: rows that are over budget are projected onto the L1 ball, not scaled down, and what the budget
has left rounds the largest fractions up. Bounding each sign holds for any weights, whether they add up to zero or not.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from jaxtyping import Int as Ints

from bitwright.datapath import WIDE, Accumulator, Datapath
from bitwright.formats import Bounds, Format, Int, Rounding, Terms, round_to_integer
from bitwright.formats.format import refuse_nan
from bitwright.quantization import BySign, MinimumErrorByOctave, PerRow, PerTensor, Quantizer, RangeEstimator, Scale
from bitwright.quantization.project import project_onto_l1_ball
from bitwright.scheme import Scheme
from bitwright.schemes.integer import CLIPPED

SOURCE = "Colbert et al., arXiv:2301.13376, arXiv:2308.13504, arXiv:2401.10432, arXiv:2409.17092"


@dataclass(frozen=True)
class L1Bounded(Format):
    """Integers of which each tile along K has Σ|integer| ≤ bound; with `each_sign` the positive and the negative alone.

    A tile that is over is replaced by the nearest one within the bound, magnitudes rounded toward zero; where the
    rounding is to nearest, the largest fractions of a half or more are rounded up as far as the bound allows.
    """

    lane: Int
    bound: float
    each_sign: bool = False
    tile: int | None = None  # elements of one sum; None is the whole block

    def __post_init__(self) -> None:
        if self.lane.exponent or not (self.lane.signed and self.lane.narrow):
            raise ValueError(f"L1Bounded: {self.lane} found; it takes symmetric integers, Int(bits, narrow=True)")
        if self.bound < 1:
            raise ValueError(f"L1Bounded: a bound of {self.bound:g} leaves every weight zero; it must be at least 1")
        if self.tile is not None and self.tile < 1:
            raise ValueError(f"L1Bounded: a tile of {self.tile} elements found; it needs at least 1")

    @property
    def bits(self) -> int:  # type: ignore[override]  # derived, so read-only
        return self.lane.bits

    @property
    def full_scale(self) -> float:
        return self.lane.full_scale

    def alone(self) -> Format:
        return self

    def encode(
        self,
        x: Float[np.ndarray, "*rows k"],
        rounding: Rounding = Rounding.NEAREST_EVEN,
        generator: np.random.Generator | None = None,
    ) -> Ints[np.ndarray, "*rows k"]:
        """Codes of the levels, moved within the bound where their tile is not."""
        refuse_nan(x, self)
        low, high = self.lane.range
        level = np.clip(x.astype(np.float64), low, high)
        rounded = round_to_integer(level, rounding, generator)
        tiles, k = self._tiles(level), x.shape[-1]
        fitted = self._tiles(rounded)
        for part in self._parts(tiles):
            magnitude = np.abs(tiles) * part
            is_over = (np.abs(fitted) * part).sum(-1) > self.bound
            if is_over.any():
                within = self._within(magnitude[is_over], up=rounding is not Rounding.TOWARD_ZERO)
                fitted[is_over] = np.where(part[is_over], np.sign(tiles[is_over]) * within, fitted[is_over])
        flat = fitted.reshape(*x.shape[:-1], fitted.shape[-2] * fitted.shape[-1])[..., :k]
        return self.lane.encode(flat)

    def terms(self, codes: Ints[np.ndarray, "*rows k"]) -> Terms:
        return self.lane.terms(codes)

    def is_reserved(self, codes: Ints[np.ndarray, "*rows k"]) -> Bool[np.ndarray, "*rows k"]:
        return self.lane.is_reserved(codes)

    def bounds(self) -> Bounds:
        whole = float(np.floor(self.bound))
        lane = self.lane.bounds()
        return lane._replace(norm1_of_sign=whole) if self.each_sign else lane._replace(norm1=whole)

    def _tiles(self, x: Float[np.ndarray, "*rows k"]) -> Float[np.ndarray, "*rows tiles tile"]:
        tile = min(self.tile or x.shape[-1], x.shape[-1]) or 1
        padding = [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % tile)]
        return np.pad(x, padding).reshape(*x.shape[:-1], -(-x.shape[-1] // tile), tile)

    def _parts(self, x: Float[np.ndarray, "*tiles"]) -> list[Bool[np.ndarray, "*tiles"]]:
        """The elements that share one bound."""
        return [x > 0, x < 0] if self.each_sign else [np.ones(x.shape, bool)]

    def _within(self, magnitude: Float[np.ndarray, "over tile"], *, up: bool) -> Float[np.ndarray, "over tile"]:
        """Integer magnitudes near these, of a sum within the bound."""
        nearest = project_onto_l1_ball(magnitude, self.bound)
        whole = np.floor(nearest)
        fraction = np.where(nearest - whole >= 0.5, nearest - whole, 0.0)
        left = np.floor(self.bound) - whole.sum(-1, keepdims=True)
        rank = np.argsort(np.argsort(-fraction, -1, kind="stable"), -1)
        if up:
            whole += (fraction > 0) & (rank < left)
        # a float sum may pass an integer bound by its rounding: the smallest magnitudes give way
        surplus = whole.sum(-1, keepdims=True) - np.floor(self.bound)
        smallest = np.argsort(np.argsort(np.where(whole > 0, whole, np.inf), -1, kind="stable"), -1)
        return whole - ((whole > 0) & (smallest < surplus))


def a2q(
    weight_bits: int = 4,
    input_bits: int = 8,
    accumulator_bits: int = 16,
    *,
    tile: int | None = None,
    each_sign: bool = True,
    has_signed_inputs: bool = False,
    weight_range: RangeEstimator | None = MinimumErrorByOctave(),
    input_range: RangeEstimator | None = CLIPPED,
    rounding: Rounding = Rounding.NEAREST_EVEN,
) -> Scheme:
    """Weights that a two's complement accumulator of `accumulator_bits` holds for all inputs, signed or not.

    `each_sign` is A2Q+: the positive weights of a row and the negative ones have a budget each, of
    (2**(P-1) - 1)/(2**N - 1); otherwise A2Q: one budget of (2**(P-1) - 1)/2**N for both, twice as much where all
    inputs are signed codes (`has_signed_inputs`). With `tile` every sum of `tile` products has the accumulator, and a
    wider one adds the tiles (AXE). The scale of a row is searched beyond its largest weight, as small levels fit a
    small budget.
    """
    largest = 2 ** (accumulator_bits - 1) - 1
    furthest = 2**input_bits - 1 if each_sign else 2 ** (input_bits - has_signed_inputs)
    budget = largest / furthest
    if budget < 1:
        needed = furthest.bit_length() + 1
        raise ValueError(
            f"a2q: {accumulator_bits} bits hold no product of a weight and a {input_bits}-bit input; "
            f"accumulator_bits={needed} is the least, with one non-zero weight"
        )
    weight = L1Bounded(Int(weight_bits, narrow=True), budget, each_sign, tile)
    unsigned, signed = (
        Quantizer(format, (Scale(PerTensor(), range=input_range),))
        for format in (Int(input_bits, signed=False), Int(input_bits, narrow=True))
    )
    datapath = Datapath(inner=Accumulator(Int(accumulator_bits)), outer=WIDE, tile=tile)
    either = signed if has_signed_inputs else BySign(unsigned, signed)
    return Scheme(either, Quantizer(weight, (Scale(PerRow(), range=weight_range),), rounding), datapath, SOURCE)
