"""Products of two integer block scales, rounded to fewer bits before they multiply integer sums."""

import math
from dataclasses import dataclass

from bitwright.datapath import Datapath
from bitwright.formats import Int, Rounding
from bitwright.kernels.operand import Operand
from bitwright.kernels.rounding import Unsupported


@dataclass(frozen=True)
class ScaleProducts:
    """What the library computes for a product s, which is never negative: (s + up + (s >> shift & odd)) >> shift."""

    exponent: int  # a rounded product counts 2**exponent
    shift: int
    up: int
    odd: int
    most: int  # beyond, it saturates
    largest: int  # rounded product that there may be

    @staticmethod
    def of(datapath: Datapath, *operands: Operand) -> "ScaleProducts":
        """Raises `Unsupported` for scales that are no integers, and for products that float32 does not hold."""
        scales = [o.quantizer.scales[-1] for o in operands if o.inside is not None]
        if not all(isinstance(s.format, Int) and s.format.exponent >= 0 and s.zero_as is None for s in scales):
            raise Unsupported("scales that are no integers")
        largest = int(math.prod(s.format.full_scale for s in scales))
        format, rounding = datapath.scale_product, datapath.scale_rounding
        if largest >= 2**24:
            raise Unsupported("products of scales of more than 24 bits")
        if format is None:
            return ScaleProducts(0, 0, 0, 0, 2**31 - 1, largest)
        if not isinstance(format, Int) or not 0 <= format.exponent < 24 or rounding not in _UPS:
            raise Unsupported(f"products of scales in {format} under {rounding}")
        one, most = 1 << format.exponent, min(format.range[1], 2**31 - 1)
        up, odd = (0, 0) if one == 1 else (_UPS[rounding](one), int(rounding is Rounding.NEAREST_EVEN))
        return ScaleProducts(format.exponent, format.exponent, up, odd, most, min((largest + up + odd) // one, most))

    @property
    def rounding(self) -> dict[str, int]:
        """Fields of the library's structures."""
        return {"shift": self.shift, "up": self.up, "odd": self.odd, "most": self.most}


_UPS = {
    Rounding.NEAREST_EVEN: lambda one: one // 2 - 1,
    Rounding.NEAREST_UP: lambda one: one // 2,
    Rounding.NEAREST_AWAY: lambda one: one // 2,
    Rounding.NEAREST_ZERO: lambda one: one // 2 - 1,
    Rounding.FLOOR: lambda one: 0,
    Rounding.TOWARD_ZERO: lambda one: 0,
    Rounding.CEILING: lambda one: one - 1,
}
"""What is added before the bits below `one` are cut off."""
