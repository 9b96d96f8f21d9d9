"""Formats that are their values: flint, powers of two, any codebook of dyadic numbers."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from bitwright.formats.format import Bounds, Format, Terms, own_lane, refuse_nan
from bitwright.formats.rounding import Rounding, choose_upper


@dataclass(frozen=True)
class Table(Format):
    """Code c stands for significands[c] · 2**exponents[c]. Equal values are written with their smallest code."""

    significands: tuple[int, ...]
    exponents: tuple[int, ...]

    def __post_init__(self) -> None:
        count = len(self.significands)
        if count < 2 or count & (count - 1) or len(self.exponents) != count:
            raise ValueError(
                f"Table: {count} significands and {len(self.exponents)} exponents found; "
                "both must be one a code, and their number a power of two"
            )

    @property
    def bits(self) -> int:  # type: ignore[override]  # derived, so read-only
        return len(self.significands).bit_length() - 1

    @cached_property
    def values(self) -> Float[np.ndarray, " codes"]:
        """Value of each code."""
        return np.ldexp(np.asarray(self.significands, np.float64), np.asarray(self.exponents))

    @cached_property
    def _grid(self) -> tuple[Float[np.ndarray, " values"], Int[np.ndarray, " values"]]:
        return np.unique(self.values, return_index=True)

    @property
    def full_scale(self) -> float:
        return float(self.values.max())

    def encode(
        self,
        x: Float[np.ndarray, "*rows k"],
        rounding: Rounding = Rounding.NEAREST_EVEN,
        generator: np.random.Generator | None = None,
    ) -> Int[np.ndarray, "*rows k"]:
        """Nearest value's code; NEAREST_EVEN breaks ties toward the even code."""
        refuse_nan(x, self)
        grid, codes = self._grid
        x = np.clip(x.astype(np.float64), grid[0], grid[-1])
        below = np.minimum(np.searchsorted(grid, x, side="right") - 1, len(grid) - 2)
        up = choose_upper(
            x, grid[below], grid[below + 1],
            is_lower_even=codes[below] % 2 == 0, rounding=rounding, generator=generator,
        )  # fmt: skip
        # the top value is its own lower neighbour's upper one; toward-zero rounding must not step off it
        return codes[np.where(x == grid[below + 1], below + 1, below + up)]

    def terms(self, codes: Int[np.ndarray, "*rows k"]) -> Terms:
        significand, exponent = np.asarray(self.significands)[codes], np.asarray(self.exponents)[codes]
        return Terms(significand, exponent, own_lane(codes.shape))

    def bounds(self) -> Bounds:
        return Bounds(
            max(abs(s) for s in self.significands),
            range(min(self.exponents), max(self.exponents) + 1),
            float(self.values.min()),
            float(self.values.max()),
        )
