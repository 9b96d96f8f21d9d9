"""A quantized matrix: codes, scale codes and the quantizer that reads them. Nothing else is stored or exported."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int, Shaped

from bitwright.formats import pack
from bitwright.quantization.scale import scale_product

if TYPE_CHECKING:
    from bitwright.quantization.quantizer import Quantizer


@dataclass(frozen=True)
class QuantizedTensor:
    """x[row, i] ≈ element(codes[row, i // block, i % block]) · product of its scales; K is padded to whole blocks."""

    codes: Int[np.ndarray, "rows blocks block"]
    scales: tuple[Int[np.ndarray, "_ _"], ...]  # coarse to fine
    zero_points: Int[np.ndarray, "down across"] | None  # codes of real zero, on the coarsest grid; None is code 0
    k: int
    quantizer: "Quantizer"

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and K of the matrix it stands for."""
        return self.codes.shape[0], self.k

    def elements(self) -> Float[np.ndarray, "rows blocks block"]:
        """Levels before scaling: decoded codes less the zero point, padding included."""
        elements = self.quantizer.format.decode(self.codes)
        if self.zero_points is None:
            return elements
        padded = self.codes.shape[1] * self.codes.shape[2]
        zero = self.quantizer.scales[0].share.expand(self.zero_points, self.codes.shape[0], padded)
        return elements - self.quantizer.format.decode(zero.astype(np.int64)).reshape(elements.shape)

    def scale(self) -> Float[np.ndarray, "rows blocks"]:
        """Product of all stored scales, one a block, in float64."""
        product = scale_product(self.quantizer.scales, self.scales, self.shape)
        height, _ = self.quantizer.scales[-1].share.cell(*self.shape)
        rows = np.arange(self.codes.shape[0]) // height if product.shape[0] > 1 else np.zeros(len(self.codes), int)
        return np.broadcast_to(product[rows], self.codes.shape[:2])

    def decode(self) -> Float[np.ndarray, "rows k"]:
        """The matrix that the codes stand for."""
        return self._rows(self.elements() * self.scale()[..., None])[:, : self.k]

    def _rows(self, blocks: Shaped[np.ndarray, "rows blocks block"]) -> Shaped[np.ndarray, "rows padded"]:
        return blocks.reshape(len(blocks), blocks.shape[1] * blocks.shape[2])

    def pack(self) -> bytes:
        """Codes, then the scale codes of each level, then zero points: each row-major, its rows on whole bytes."""
        codes = self._rows(self.codes)
        if not self.quantizer.format.bounds().reach:  # padding may hold a neighbour's digits otherwise
            codes = codes[:, : self.k]
        parts = [(codes, self.quantizer.format.bits)]
        parts += [(codes, s.format.bits) for s, codes in zip(self.quantizer.scales, self.scales, strict=True)]
        parts += [(self.zero_points, self.quantizer.format.bits)] if self.zero_points is not None else []
        return b"".join(pack(codes, bits).tobytes() for codes, bits in parts)
