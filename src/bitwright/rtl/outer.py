"""Outer registers: tile sums times the product of their block scales, added up over K."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from amaranth.hdl import Const, Module, Mux, Value, unsigned
from jaxtyping import Float, Shaped

from bitwright.rtl.accumulate import Register
from bitwright.rtl.describe import name
from bitwright.rtl.float_register import FloatRegister, Scaled, Step, at_once, in_float64
from bitwright.rtl.multiply import extended, multiply
from bitwright.rtl.scale import Factor, FloatScale, ScaleProduct
from bitwright.rtl.term import named


@dataclass(frozen=True)
class Outer:
    """An integer register over tiles: total += scale product · tile sum."""

    latency: ClassVar[int] = 1
    """Cycles of a collector from a tile sum to the register after it."""
    held_at: ClassVar[int] = 0
    """Cycles from a tile sum to the register before it."""
    register: Register
    scale: ScaleProduct
    tile_sum: tuple[int, int]

    def add(
        self, m: Module, held: Value, tile_sum: Value, codes: tuple[Value | None, Value | None], step: Step = at_once
    ) -> Value:
        """The register after one tile, of these codes of the scales of x and w."""
        scale = self.scale.make(m, *codes)
        low, high = self.tile_sum
        width = self.register.width(low * self.scale.highest, high * self.scale.highest)
        addend = tile_sum if self.scale.is_one else tile_sum * scale
        return self.register.add(m, "outer", held, [extended(addend, width)], width)

    def described(self, unit: int) -> str:
        """What the register holds, of tile sums that count 2**unit."""
        return f"{self.register.bits} bits in units of 2**{unit + self.scale.unit}"

    def values(self, totals: Shaped[np.ndarray, "*shape"], unit: int) -> Float[np.ndarray, "*shape"]:
        """What the register's contents stand for."""
        return np.ldexp(totals.astype(np.float64), unit + self.scale.unit)

    def contents(self, values: Float[np.ndarray, "*shape"], unit: int) -> Shaped[np.ndarray, "*shape"]:
        """What a register that stands for these values holds."""
        return np.vectorize(int, otypes=[object])(np.ldexp(values, -unit - self.scale.unit))


@dataclass(frozen=True)
class FloatOuter:
    """A float register over tiles: a scaled tile sum is rounded to it, and the sum again. `unit` is the tile sums'.

    Four steps: scale, round, align and add, round.
    """

    latency: ClassVar[int] = 4
    held_at: ClassVar[int] = 2
    register: FloatRegister
    scale: FloatScale
    tile_sum: tuple[int, int]
    unit: int

    def add(
        self, m: Module, held: Value, tile_sum: Value, codes: tuple[Value | None, Value | None], step: Step = at_once
    ) -> Value:
        """The register after one tile, of these codes of the scales of x and w."""
        scale = self.scale.make(m, *codes)
        bits = max(-self.tile_sum[0], self.tile_sum[1]).bit_length()
        is_negative = named(m, "is_negative", unsigned(1), tile_sum < 0)
        magnitude = named(m, "magnitude", unsigned(bits), Mux(is_negative, -tile_sum, tile_sum))
        exact = Scaled(is_negative, magnitude, Const(0, unsigned(0)), range(self.unit, self.unit + 1))
        unscaled = in_float64(m, "unscaled", exact)
        product = self._scaled(m, unscaled, scale).after(m, "scaled_sum", step)
        addend = self.register.rounded(m, "addend", in_float64(m, "product", product))
        return self.register.add(m, "outer", held, step(m, "addend_held", addend), step)

    def _scaled(self, m: Module, value: Scaled, scale: Factor) -> Scaled:
        magnitude = value.magnitude
        if self.scale.significand > 1:
            magnitude = multiply(m, "scaled", magnitude, scale.significand)
        elif self.scale.has_zero:  # and powers of two
            magnitude = Mux(scale.significand, magnitude, 0)
        own, scales = value.exponents, self.scale.exponents
        exponents = range(own.start + scales.start, own[-1] + scales[-1] + 1)
        return Scaled(value.is_negative, magnitude, value.exponent + scale.exponent, exponents)

    def described(self, unit: int) -> str:
        """What the register holds."""
        return f"{self.register.bits} bits, codes of {name(self.register.format)}"

    def values(self, totals: Shaped[np.ndarray, "*shape"], unit: int) -> Float[np.ndarray, "*shape"]:
        """What the register's contents stand for."""
        if self.register.infinity is None:
            return self.register.format.decode(totals.astype(np.int64))
        return totals.astype(np.uint32).view(np.float32).astype(np.float64)

    def contents(self, values: Float[np.ndarray, "*shape"], unit: int) -> Shaped[np.ndarray, "*shape"]:
        """What a register that stands for these values holds."""
        if self.register.infinity is None:
            return self.register.format.encode(values)
        return values.astype(np.float32).view(np.uint32).astype(np.int64)
