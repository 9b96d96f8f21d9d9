"""An accumulator: the register that sums products, what it does when a sum does not fit, and how it is read."""

from dataclasses import dataclass
from enum import Enum

import numpy as np
from jaxtyping import Float, Shaped

from bitwright.formats import FLOAT32, Format, Int, Rounding


class Overflow(Enum):
    """What happens to a sum beyond the register's range."""

    FORBID = "proved never to happen; building a layer checks it"
    WRAP = "two's complement wraps around"
    SATURATE = "stops at the nearest end of the range, after every addition to this register"

    def __repr__(self) -> str:
        return f"Overflow.{self.name}"


@dataclass(frozen=True)
class Cyclic:
    """A two's complement m in -h…h-1 read as sign(m)·min(|m|, slope·(h - |m|)): folded back to zero at both ends.

    So it has no jump where a register wraps. R. Ni et al., ICLR 2021, arXiv:2007.13242. Differs from the paper: the
    slope is an integer, so that what is read is one too, and exact.
    """

    slope: int = 1

    def __post_init__(self) -> None:
        if self.slope < 1:
            raise ValueError(f"Cyclic: a slope of {self.slope} found; it is an integer of at least 1")

    def fold(self, m: Shaped[np.ndarray, "*rows n"], half: int) -> Shaped[np.ndarray, "*rows n"]:
        """What is read where the register holds m; `half` is h."""
        magnitude = np.abs(m)
        return np.sign(m) * np.minimum(magnitude, self.slope * (half - magnitude))


@dataclass(frozen=True)
class Accumulator:
    """A register of `format`; None is an integer one as wide as the worst case needs. Sums run along K in order.

    A float register rounds the exact sum once by `rounding` and keeps subnormals. It stops at its largest finite value,
    but for float32 to nearest even, which goes to infinity as IEEE 754 does. `overflow` is for integers.
    """

    format: Format | None = None
    overflow: Overflow = Overflow.FORBID
    rounding: Rounding = Rounding.NEAREST_EVEN  # TOWARD_ZERO truncates
    readout: Cyclic | None = None  # of the final integer; None reads the integer itself

    def __post_init__(self) -> None:
        if self.readout is not None:
            self._require_readable(self.readout)
        if self.rounding is Rounding.STOCHASTIC:
            raise ValueError("an accumulator cannot round at random; choose one of the other roundings")
        if self.format is not None and not self.is_integer and self.format.decode(self.format.encode(np.zeros(1)))[0]:
            raise ValueError(f"an accumulator of {self.format} has no zero to start from; choose a format with one")

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
        if not self.is_integer:
            return self.round(sum_to_odd(total, addend))
        total = total + addend
        if self.range is None:
            return total
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

    def read(self, total: Shaped[np.ndarray, "m n"]) -> Shaped[np.ndarray, "m n"]:
        """What leaves the register when it holds this."""
        return total if self.readout is None else self.readout.fold(total, self.half)

    @property
    def half(self) -> int:
        """Half the integers of a two's complement register: where it wraps."""
        assert self.range is not None, "an integer register of some width"
        return -self.range[0]

    def round(self, value: Shaped[np.ndarray, "m n"]) -> Shaped[np.ndarray, "m n"]:
        """A float register's value in place of this one."""
        assert self.format is not None, "only a float register rounds"
        if self.format == FLOAT32 and self.rounding is Rounding.NEAREST_EVEN:
            return value.astype(np.float32).astype(np.float64)  # the same rounding, in one instruction
        return self.format.decode(self.format.encode(value, self.rounding))

    def _require_readable(self, readout: Cyclic) -> None:
        if not (isinstance(self.format, Int) and self.format.signed and not self.format.narrow):
            raise ValueError(f"Accumulator: {readout} reads two's complement, {self.format} found; choose Int(bits)")
        if self.overflow is not Overflow.WRAP:
            raise ValueError(f"Accumulator: {readout} reads a register that wraps; choose Overflow.WRAP")
        if readout.slope * self.half >= 2**63:
            raise ValueError(f"Accumulator: {readout} of {self.format} needs more than 64 bits; choose fewer")


def sum_to_odd(a: Float[np.ndarray, "m n"], b: Float[np.ndarray, "m n"]) -> Float[np.ndarray, "m n"]:
    """a + b in float64; an inexact one gets an odd last bit, so that rounding it again is rounding the exact sum once.

    S. Boldo and G. Melquiond, "Emulation of a FMA and correctly rounded sums: proved algorithms using rounding to odd",
    IEEE Trans. Computers 57(4), 2008.
    """
    total = a + b
    part = total - a
    error = (a - (total - part)) + (b - part)  # Knuth, TAOCP 2, sec. 4.2.2, theorem B
    is_inexact_even = (error != 0) & (total.view(np.int64) & 1 == 0)
    return np.where(is_inexact_even, np.nextafter(total, np.where(error > 0, np.inf, -np.inf)), total)


WIDE = Accumulator()
"""An integer register that never overflows."""
