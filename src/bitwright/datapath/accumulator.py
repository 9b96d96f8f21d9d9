"""An accumulator: the register that sums products, and what it does when a sum does not fit."""

from dataclasses import dataclass
from enum import Enum

import numpy as np
from jaxtyping import Shaped

from bitwright.formats import FLOAT32, Format, Int


class Overflow(Enum):
    """What happens to a sum beyond the register's range."""

    FORBID = "proved never to happen; building a layer checks it"
    WRAP = "two's complement wraps around"
    SATURATE = "stops at the nearest end of the range, after every step"

    def __repr__(self) -> str:
        return f"Overflow.{self.name}"


@dataclass(frozen=True)
class Accumulator:
    """A register of `format`; None is an integer one as wide as the worst case needs. Sums run along K in order."""

    format: Format | None = None
    overflow: Overflow = Overflow.FORBID

    @property
    def is_integer(self) -> bool:
        return self.format is None or isinstance(self.format, Int)

    @property
    def bits(self) -> int | None:
        """Width of the register; None where the worst case decides."""
        return None if self.format is None else self.format.bits

    @property
    def range(self) -> tuple[int, int] | None:
        """Extreme integers that fit; None for a float register or an unlimited one."""
        return self.format.range if isinstance(self.format, Int) else None

    def add(self, total: Shaped[np.ndarray, "m n"], addend: Shaped[np.ndarray, "m n"]) -> Shaped[np.ndarray, "m n"]:
        """The register after one step. A sum that FORBID promised to fit and does not raises OverflowError."""
        total = total + addend
        if self.range is None:
            return total if self.format is None else self.round(total)
        low, high = self.range
        if self.overflow is Overflow.WRAP:
            return (total - low) % (high - low + 1) + low
        saturated = np.clip(total, low, high)
        if self.overflow is Overflow.FORBID and np.any(saturated != total):
            worst = total.flat[int(np.abs(total - saturated).argmax())]
            raise OverflowError(
                f"a sum of {worst} does not fit the {self.bits}-bit accumulator; "
                "widen it, or choose Overflow.WRAP or Overflow.SATURATE"
            )
        return saturated

    def round(self, value: Shaped[np.ndarray, "m n"]) -> Shaped[np.ndarray, "m n"]:
        """A float register's nearest value, ties to even."""
        assert self.format is not None, "only a float register rounds"
        if self.format == FLOAT32:
            return value.astype(np.float32).astype(np.float64)  # the same rounding, in one instruction
        return self.format.decode(self.format.encode(value))


WIDE = Accumulator()
"""An integer register that never overflows."""
