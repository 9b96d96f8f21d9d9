"""Scales of tiles of several rows, by the kernels for scales of rows: each tile is a row of another matrix."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bitwright.kernels.native import scalars
from bitwright.kernels.operand import Operand
from bitwright.kernels.rounding import Unsupported
from bitwright.quantization import PerRow, Quantizer, Range


@dataclass(frozen=True)
class _Tiles:
    """How rows [rows, k] lie in tiles of some height and width."""

    rows: int
    k: int
    height: int
    width: int

    @staticmethod
    def of(quantizer: Quantizer, x: Tensor) -> "_Tiles":
        rows, k = x.shape
        height, width = quantizer.scales[-1].share.cell(rows, k)
        if len(quantizer.scales) > 1 or len(quantizer.candidates()) > 1 or not 1 < height < rows:
            raise Unsupported("scales that are not of tiles of several rows alone")
        return _Tiles(rows, k, height, width)

    def apart(self, x: Tensor) -> Tensor:
        """One tile a row, filled up with zeros, which no range notices."""
        padded = torch.nn.functional.pad(x, (0, -self.k % self.width, 0, -self.rows % self.height))
        return (
            padded.view(-1, self.height, self.across, self.width).transpose(1, 2).reshape(-1, self.height * self.width)
        )

    @property
    def across(self) -> int:
        return -(-self.k // self.width)

    def together(self, tiles: Tensor) -> Tensor:
        """The rows of such a matrix [rows, blocks, width]."""
        rows = tiles.view(-1, self.across, self.height, self.width).transpose(1, 2).flatten(0, 1)
        return rows[: self.rows]


def _of_rows(quantizer: Quantizer, ranges: Sequence[Range | None]) -> tuple[Quantizer, tuple[Range | None, ...]]:
    """The same for tiles that are rows."""
    of_rows = replace(quantizer, scales=(replace(quantizer.scales[0], share=PerRow()),))
    return of_rows, tuple(r and Range(r.low.reshape(-1, 1), r.high.reshape(-1, 1)) for r in ranges)


def quantize(quantizer: Quantizer, x: Tensor, ranges: tuple[Range | None, ...]) -> Operand:
    """Raises `Unsupported` for what the library does not take, or `NotFinite`."""
    tiles = _Tiles.of(quantizer, x)
    of_rows, given = _of_rows(quantizer, ranges)
    found = scalars.quantize(of_rows, tiles.apart(x), given)
    inside = found.outside.float().view(-1, tiles.across).repeat_interleave(tiles.height, 0)[: tiles.rows]
    elements = tiles.together(found.elements.flatten(1)).contiguous()
    return Operand(elements, inside, torch.ones(tiles.rows, 1, dtype=torch.float64), tiles.k, quantizer)


def fake_quantize(quantizer: Quantizer, x: Tensor, ranges: tuple[Range | None, ...], out: Tensor | None) -> Tensor:
    """As `quantize`, decoded."""
    tiles = _Tiles.of(quantizer, x)
    of_rows, given = _of_rows(quantizer, ranges)
    apart = tiles.apart(x)
    made = tiles.together(scalars.fake_quantize(of_rows, apart, given, apart)).flatten(1)[:, : tiles.k]
    return made.contiguous() if out is None else out.copy_(made)
