"""A weight of 4-bit codes as it is stored and multiplied: two codes a byte, scale codes in their own formats.

Codes lie in tiles of 16 rows, a vector lane a row: [tiles, steps, 16, 4] bytes, where a step is 8 elements of K and a
row's 4 bytes hold the first four in their low nibbles. Scales that vary along K are [tiles, blocks, 16].
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bitwright.formats import FLOAT32, Format
from bitwright.kernels.operand import Operand
from bitwright.kernels.rounding import Unsupported
from bitwright.quantization import QuantizedTensor, Quantizer, Scale

TILE_ROWS = 16
STEP = 8
PANEL = 1 << 20
"""Weights that are decoded at a time where a product is done by a float GEMM: bounds memory."""


@dataclass(frozen=True)
class PackedWeight:
    """A matrix [rows, k] in the layout that the kernels read; nothing but codes is stored."""

    codes: Tensor  # uint8 [tiles, steps, 16, 4]
    scales: tuple[Tensor, ...]  # coarse to fine, uint8, or int32 of float32's bits for formats of more than 8 bits
    rows: int
    k: int
    quantizer: Quantizer

    @staticmethod
    def of(w: QuantizedTensor) -> "PackedWeight":
        """The same codes in tiles. Raises `Unsupported` naming what does not fit."""
        require_packable(w.quantizer, w.shape)
        if w.zero_points is not None:
            raise Unsupported("a weight with zero points")
        return PackedWeight._of(torch.from_numpy(w.codes.astype(np.uint8)), w.scales, w.k, w.quantizer)

    @staticmethod
    def _of(codes: Tensor, scales: tuple[np.ndarray, ...], k: int, quantizer: Quantizer) -> "PackedWeight":
        rows, flat = len(codes), codes.flatten(1)
        codes = functional.pad(flat, (0, -flat.shape[1] % STEP, 0, -rows % TILE_ROWS))
        halves = codes.view(-1, TILE_ROWS, codes.shape[1] // STEP, 2, 4).permute(3, 0, 2, 1, 4)
        stored = tuple(_stored(c, s) for c, s in zip(scales, quantizer.scales, strict=True))
        return PackedWeight((halves[0] | halves[1] << 4).contiguous(), stored, rows, k, quantizer)

    @staticmethod
    def quantize(quantizer: Quantizer, w: Tensor, operand: Operand) -> "PackedWeight":
        """float32 w [rows, k], of which a kernel made the operand: codes found by value, equal to `encode`'s."""
        format, scales = quantizer.format, quantizer.scales
        require_packable(quantizer, (len(w), operand.k))
        codes = np.arange(2**format.bits)
        codes = codes[~format.is_reserved(codes)]
        values, first = np.unique(format.decode(codes), return_index=True)
        flat = operand.flat()
        found = torch.from_numpy(codes[first]).to(torch.uint8)[torch.bucketize(flat, torch.from_numpy(values).float())]
        small = int(format.encode(np.asarray([-1e-30]))[0])  # floats of a small negative level keep its sign
        negative = functional.pad(w < 0, (0, flat.shape[1] - w.shape[1]))
        found[negative & (flat == 0)] = small
        coarse = [s for s in scales if not s.share.splits_k]
        if len(coarse) > 1 or len(scales) - len(coarse) > 1:
            raise Unsupported("several coarse scales")
        down = coarse[0].share.shape(*w.shape)[0] if coarse else 0
        parts = [operand.outside.numpy()[:: max(len(w) // max(down, 1), 1)]] if coarse else []
        parts += [operand.inside.double().numpy()] if operand.inside is not None else []
        encoded = tuple(s.format.encode(part) for s, part in zip(scales, parts, strict=True))
        lanes = found.view(len(w), operand.elements.shape[1], -1)
        return PackedWeight._of(lanes, encoded, operand.k, quantizer)

    @property
    def steps(self) -> int:
        return self.codes.shape[1]

    @property
    def block(self) -> int | None:
        """Elements of K that share a scale; None where no scale varies along K."""
        share = self.quantizer.scales[-1].share
        return share.cell(self.rows, self.k)[1] if share.splits_k else None

    @property
    def inside(self) -> Tensor | None:
        """Codes of the scale that varies along K."""
        return self.scales[-1] if self.block else None

    @cached_property
    def outside(self) -> Tensor:
        """Product of the scales that do not, float64 [rows]."""
        outside = np.ones((self.rows, 1))
        for scale, codes in zip(self.quantizer.scales, self.scales, strict=True):
            if not scale.share.splits_k:
                outside = scale.share.expand(_decoded(codes, scale.format).double().numpy(), self.rows, 1) * outside
        return torch.from_numpy(np.ascontiguousarray(outside[:, 0]))

    @cached_property
    def values(self) -> np.ndarray:
        """What each of 16 codes stands for; 0 for those that stand for no number."""
        format = self.quantizer.format
        codes = np.arange(2**format.bits)
        codes = codes[~format.is_reserved(codes)]
        values = np.zeros(16)
        values[codes] = format.decode(codes)
        return values

    @property
    def bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (self.codes, *self.scales))

    def is_within(self, low: float, high: float) -> bool:
        """Whether the scale of every block that is not all zeros lies between these."""
        if self.inside is None:
            return True
        scale = _decoded(self.inside, self.quantizer.scales[-1].format)
        beyond = (scale < low) | (scale > high)
        if not bool(beyond.any()):
            return True
        is_zero = torch.from_numpy(self.values == 0)
        part = self._codes(self.codes).int()
        empty = is_zero[part].unflatten(1, (scale.shape[1], -1)).all(2)
        return bool((empty | ~beyond.transpose(1, 2).flatten(0, 1)).all())

    def quantized(self) -> QuantizedTensor:
        """The codes as the reference holds them."""
        block = self.quantizer.block(self.rows, self.k)
        codes = self._codes(self.codes)[: self.rows].numpy().astype(np.int64)
        blocks = -(-self.k // block)
        codes = np.pad(codes, ((0, 0), (0, max(blocks * block - codes.shape[1], 0))))[:, : blocks * block]
        scales = tuple(self._scale_codes(i) for i in range(len(self.scales)))
        return QuantizedTensor(codes.reshape(self.rows, blocks, block), scales, None, self.k, self.quantizer)

    def panels(self) -> Iterator[tuple[slice, Tensor]]:
        """Rows and what their codes and scales along K stand for in float32 [rows, k], whole tiles of bounded size."""
        tiles = max(PANEL // (TILE_ROWS * STEP * self.steps), 1)
        table = torch.from_numpy(self.values).float()
        for first in range(0, len(self.codes), tiles):
            part = slice(first, first + tiles)
            elements = table[self._codes(self.codes[part]).int()]
            if self.inside is not None:
                scale = _decoded(self.inside[part], self.quantizer.scales[-1].format).float()
                scale = scale.transpose(1, 2).flatten(0, 1)
                elements = (elements.unflatten(1, (scale.shape[1], -1)) * scale[:, :, None]).flatten(1)
            rows = slice(first * TILE_ROWS, min((first + tiles) * TILE_ROWS, self.rows))
            yield rows, elements[: rows.stop - rows.start, : self.k]

    def _codes(self, tiles: Tensor) -> Tensor:
        halves = torch.stack((tiles & 15, tiles >> 4), 3)  # [tiles, steps, rows, half, 4]
        return halves.permute(0, 2, 1, 3, 4).reshape(len(tiles) * TILE_ROWS, -1)

    def _scale_codes(self, level: int) -> np.ndarray:
        scale, stored = self.quantizer.scales[level], self.scales[level]
        if scale.share.splits_k:
            stored = stored.transpose(1, 2).flatten(0, 1)[: self.rows]
        if scale.format.bits <= 8:
            return stored.numpy().astype(np.int64)
        return scale.format.encode(stored.view(torch.float32).double().numpy())


def require_packable(quantizer: Quantizer, shape: tuple[int, int]) -> None:
    """Raise `Unsupported` naming what keeps a weight of this shape from being multiplied packed."""
    format = quantizer.format
    bounds = format.bounds()
    if format.bits > 4 or bounds.reach or bounds.per_lane > 1 or format.run > 1:
        raise Unsupported(f"{format}: only codes of up to 4 bits that stand for their own element are packed")
    rows, k = shape
    if any(s.share.splits_k and s.share.cell(rows, k)[0] > 1 for s in quantizer.scales):
        raise Unsupported("scales of several rows")
    if sum(s.share.splits_k for s in quantizer.scales) > 1:
        raise Unsupported("more than one level of scales along K")
    if quantizer.scales[-1].share.splits_k and quantizer.block(rows, k) % STEP:
        raise Unsupported(f"blocks of {quantizer.block(rows, k)} elements; multiples of {STEP} are packed")
    if any(s.format.bits > 8 and not _fits_float32(s.format) for s in quantizer.scales):
        raise Unsupported("scales that float32 does not hold")


def _fits_float32(format: Format) -> bool:
    return format == FLOAT32 or format.bits <= 16


def _stored(codes: np.ndarray, scale: Scale) -> Tensor:
    if scale.format.bits <= 8:
        stored = torch.from_numpy(codes.astype(np.uint8))
    else:
        stored = torch.from_numpy(scale.format.decode(codes).astype(np.float32).view(np.int32))
    if not scale.share.splits_k:
        return stored
    padded = functional.pad(stored, (0, 0, 0, -len(stored) % TILE_ROWS))
    return padded.unflatten(0, (-1, TILE_ROWS)).transpose(1, 2).contiguous()


def _decoded(stored: Tensor, format: Format) -> Tensor:
    if stored.dtype == torch.int32:
        return stored.view(torch.float32)
    codes = np.arange(2**format.bits)
    values = np.zeros(len(codes))
    values[~format.is_reserved(codes)] = format.decode(codes[~format.is_reserved(codes)])
    return torch.from_numpy(values)[stored.int()]


def linear(weight: PackedWeight, x: Tensor, bias: Tensor | None) -> Tensor:
    """x [m, k] @ w.T + bias in float32, decoded panel by panel."""
    y = torch.empty(len(x), weight.rows)
    for rows, panel in weight.panels():
        torch.mm(x, panel.T, out=y[:, rows])
    y = (y * weight.outside).float()
    return y if bias is None else y.add_(bias)
