"""A quantized matrix as it is stored: packed codes and scale codes, in torch."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bitwright.formats import pack, unpack
from bitwright.quantization import QuantizedTensor, Quantizer


@dataclass(frozen=True)
class Packed:
    """The bytes of `QuantizedTensor.pack`, part by part. Rows of every part start on whole bytes."""

    codes: Tensor  # uint8 [rows, bytes]: K codes a row
    scales: tuple[Tensor, ...]  # uint8 [down, bytes], coarse to fine
    zero_points: Tensor | None  # uint8 [down, bytes]
    k: int
    quantizer: Quantizer

    @staticmethod
    def of(t: QuantizedTensor) -> "Packed":
        """The same matrix from its codes. A format whose codes reach into their neighbours raises ValueError."""
        bits = t.quantizer.format.bits
        if t.quantizer.format.bounds().reach:
            raise ValueError(
                f"Packed: codes of {t.quantizer.format} hold digits of neighbours; use QuantizedTensor.pack"
            )
        rows, blocks, block = t.codes.shape
        codes = t.codes.reshape(rows, blocks * block)[:, : t.k]
        scales = [_bytes(c, s.format.bits) for s, c in zip(t.quantizer.scales, t.scales, strict=True)]
        zero_points = None if t.zero_points is None else _bytes(t.zero_points, bits)
        return Packed(_bytes(codes, bits), tuple(scales), zero_points, t.k, t.quantizer)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and K of the matrix it stands for."""
        return len(self.codes), self.k

    def __bytes__(self) -> bytes:
        """As `QuantizedTensor.pack` writes them."""
        parts = [self.codes, *self.scales, *([] if self.zero_points is None else [self.zero_points])]
        return b"".join(part.numpy().tobytes() for part in parts)

    def unpacked(self) -> QuantizedTensor:
        """The same matrix in the reference's form."""
        rows, k = self.shape
        format, scales = self.quantizer.format, self.quantizer.scales
        block = self.quantizer.block(rows, k)
        codes = unpack(self.codes.numpy(), format.bits, k)
        found = [
            unpack(part.numpy(), scale.format.bits, scale.share.shape(rows, k)[1])
            for scale, part in zip(scales, self.scales, strict=True)
        ]
        zero_points = None
        padding = format.encode(np.zeros(1))[0]
        if self.zero_points is not None:
            zero_points = unpack(self.zero_points.numpy(), format.bits, scales[0].share.shape(rows, k)[1])
            padding = scales[0].share.expand(zero_points, rows, 1)
        padded = np.full((rows, -(-k // block) * block), padding, np.int64)
        padded[:, :k] = codes
        return QuantizedTensor(
            padded.reshape(rows, -(-k // block), block), tuple(found), zero_points, k, self.quantizer
        )


def _bytes(codes: np.ndarray, bits: int) -> Tensor:
    return torch.from_numpy(pack(codes, bits))
