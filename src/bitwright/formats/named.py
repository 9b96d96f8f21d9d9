"""Formats under the field's own names, from OCP FP8 v1.0, OCP MX v1.0 and IEEE 754."""

from bitwright.formats.integer import Int
from bitwright.formats.minifloat import Minifloat, Specials

E2M1 = Minifloat(2, 1)  # FP4: no infinity, no NaN
E2M3 = Minifloat(2, 3)  # FP6
E3M2 = Minifloat(3, 2)  # FP6
E4M3 = Minifloat(4, 3, specials=Specials.NAN)  # FP8, the "fn" variant: largest value 448
E5M2 = Minifloat(5, 2, specials=Specials.IEEE)  # FP8
E8M0 = Minifloat(8, 0, signed=False, subnormal=False, specials=Specials.NAN)  # MX scale: 2**(code - 127)
FLOAT16 = Minifloat(5, 10, specials=Specials.IEEE)
BFLOAT16 = Minifloat(8, 7, specials=Specials.IEEE)
FLOAT32 = Minifloat(8, 23, specials=Specials.IEEE)
MXINT8_ELEMENT = Int(8, narrow=True, exponent=-6)
