"""A quantized matrix as the matrix kernels take it: elements and scales in torch, no codes."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from bitwright.datapath import Lanes
from bitwright.datapath.ranges import tiles
from bitwright.quantization import QuantizedTensor, Quantizer


@dataclass(frozen=True)
class Operand:
    """x[row, i] = elements[row, i // block, i % block] · inside[row, i // block] · outside[row]."""

    elements: Tensor  # float32 [rows, blocks, block], exact
    inside: Tensor | None  # float32 [rows, blocks]: the scale that varies along K; None where there is none
    outside: Tensor  # float64 [rows, 1]: product of the scales that do not
    k: int
    quantizer: Quantizer

    @staticmethod
    def of(t: QuantizedTensor) -> "Operand":
        """The same matrix from its codes."""
        rows, k = t.shape
        scales = t.quantizer.scales
        # one level only may lie inside: its stored value is exact in float32
        coarse = sum(not s.share.splits_k for s in scales)
        assert coarse >= len(scales) - 1, "at most one level of scales varies along K"
        outside = np.ones((rows, 1))
        for scale, codes in zip(scales[:coarse], t.scales[:coarse], strict=True):
            outside = scale.share.expand(scale.format.decode(codes), rows, 1) * outside
        inside = None
        if coarse < len(scales):
            fine = scales[-1].format.decode(t.scales[-1])
            height, _ = scales[-1].share.cell(rows, k)
            inside = torch.from_numpy(fine[np.arange(rows) // height if len(fine) > 1 else np.zeros(rows, int)]).float()
        elements = torch.from_numpy(t.elements()).float()
        return Operand(elements, inside, torch.from_numpy(np.ascontiguousarray(outside)), k, t.quantizer)

    @property
    def rows(self) -> int:
        return len(self.elements)

    @property
    def unit(self) -> int:
        """Every element is a multiple of 2**unit."""
        return self.quantizer.format.bounds().exponent.start

    def flat(self) -> Tensor:
        """Elements [rows, padded K]."""
        return self.elements.flatten(1)

    @cached_property
    def scaled(self) -> Tensor:
        """Elements times the scale inside; exact in float32 where their significant bits allow."""
        return self.elements if self.inside is None else self.elements * self.inside[..., None]

    def scaled_in(self, dtype: torch.dtype) -> Tensor:
        """Elements times the scale inside, multiplied in this type."""
        elements = self.elements.to(dtype)
        return elements if self.inside is None else elements * self.inside.to(dtype)[..., None]

    @cached_property
    def largest(self) -> float:
        """Largest |element|, in units."""
        return _largest(self.elements) * 2.0**-self.unit

    @cached_property
    def extremes(self) -> tuple[float, float]:
        """Lowest and highest element, zero among them, in units."""
        low, high = self.elements.aminmax() if self.elements.numel() else (torch.zeros(()), torch.zeros(()))
        return min(float(low), 0.0) * 2.0**-self.unit, max(float(high), 0.0) * 2.0**-self.unit

    @cached_property
    def largest_scaled(self) -> float:
        """Largest |element · scale inside|, in units."""
        return _largest(self.scaled) * 2.0**-self.unit

    def decode(self) -> Tensor:
        """The matrix in float32 [rows, k]."""
        if not rounds_once(self.quantizer):
            return self.decode_exactly().float()
        scaled = self.scaled.flatten(1)[:, : self.k]
        single = self.outside.float()
        if not torch.compiler.is_compiling() and bool(
            (single == self.outside).all()
        ):  # a product of two float32 rounds the same in either precision
            return scaled * single
        return (scaled * self.outside).float()

    def decode_exactly(self) -> Tensor:
        """The matrix in float64 [rows, k], as the reference decodes it."""
        scale = self.outside if self.inside is None else self.inside.double() * self.outside
        return (self.elements.double() * scale[..., None]).flatten(1)[:, : self.k]

    def to(self, device: torch.device | str) -> "Operand":
        """The same matrix there."""
        inside = None if self.inside is None else self.inside.to(device)
        return replace(self, elements=self.elements.to(device), inside=inside, outside=self.outside.to(device))

    def take(self, rows: slice) -> "Operand":
        """Some of its rows."""
        inside = None if self.inside is None else self.inside[rows]
        return replace(self, elements=self.elements[rows], inside=inside, outside=self.outside[rows])

    def reblocked(self, block: int) -> "Operand":
        """The same rows in blocks of another size, where no scale varies inside."""
        assert self.inside is None, "blocks are fixed by the scales inside"
        flat = self.flat()[:, : self.k]
        flat = torch.nn.functional.pad(flat, (0, -self.k % block))
        return replace(self, elements=flat.unflatten(1, (-1, block)))

    def lanes(self, tile: int) -> Lanes:
        """The same rows for the reference datapath."""
        units = np.ldexp(self.flat().double().cpu().numpy(), -self.unit)
        largest = float(np.abs(units).max(initial=0))
        integers = units.astype(np.int64) if largest < 2**24 else np.vectorize(int, otypes=[object])(units)
        integers = tiles(integers[:, None], self.k, tile)
        inside = np.ones(integers.shape[:2])
        if self.inside is not None:
            inside = np.repeat(self.inside.double().cpu().numpy(), -(-self.elements.shape[2] // tile), 1)[
                :, : integers.shape[1]
            ]
        return Lanes(integers, inside, self.outside.cpu().numpy(), self.unit, self.inside is not None)


def rounds_once(quantizer: Quantizer) -> bool:
    """Whether float32 holds elements times the scale inside, so that only the scales outside make them round."""
    if len(quantizer.scales) == 1 or not quantizer.scales[-1].share.splits_k:
        return True
    bounds, scale = quantizer.format.bounds(), quantizer.scales[-1].format.bounds()
    is_plain = bounds.per_lane == 1 and bounds.reach == 0
    largest = bounds.significand if is_plain else int(max(-bounds.units[0], bounds.units[1]))
    return largest.bit_length() + scale.significand.bit_length() <= 24


def _largest(x: Tensor) -> float:
    if not x.numel():
        return 0.0
    low, high = x.aminmax()
    return max(-float(low), float(high))
