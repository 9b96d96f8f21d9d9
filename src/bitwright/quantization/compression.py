"""How far stored codes can be compressed: their entropy, sparse layouts, and a real compressor."""

import lzma
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from bitwright.formats import pack
from bitwright.quantization.tensor import QuantizedTensor

GAP_BITS = 8
"""Of the distance to the last non-zero element in a sparse row; longer distances store zeros in between."""


@dataclass(frozen=True)
class Compressibility:
    """Sizes of the element codes of one or more matrices; scales are left out. They add up."""

    elements: int
    zeros: int
    packed_bits: int  # at the format's own width
    entropy_bits: float  # order 0: no code that reads elements one by one is shorter
    bitmap_bits: int  # a bit an element, and the non-zero codes
    sparse_bits: int  # the non-zero codes, each with the distance from the last
    compressed_bits: int  # of the packed codes by LZMA, level 9, headers included

    @staticmethod
    def of(t: QuantizedTensor) -> "Compressibility":
        """Of a quantized matrix, padding left out."""
        bits = t.quantizer.format.bits
        codes = t.codes.reshape(len(t.codes), -1)[:, : t.k].ravel()
        is_zero = t.elements().reshape(len(t.codes), -1)[:, : t.k].ravel() == 0
        zeros, count = int(is_zero.sum()), codes.size
        _, occurrences = np.unique(codes, return_counts=True)
        share = occurrences / max(count, 1)
        return Compressibility(
            count,
            zeros,
            count * bits,
            float(-(share * np.log2(share)).sum() * count),
            count + (count - zeros) * bits,
            _stored_in_gaps(is_zero) * (GAP_BITS + bits),
            8 * len(lzma.compress(pack(codes, bits).tobytes(), preset=9)),
        )

    @staticmethod
    def total(parts: "Iterable[Compressibility]") -> "Compressibility":
        """Of several matrices together, each with a code of its own."""
        columns = zip(*(vars(part).values() for part in parts), strict=True)
        return Compressibility(*map(sum, columns))

    @property
    def sparsity(self) -> float:
        """Fraction of elements that are zero."""
        return self.zeros / max(self.elements, 1)

    def ratio(self, bits: float, reference_bits: float = 32.0) -> float:
        """How many times smaller than `reference_bits` an element, for one of the sizes above."""
        return reference_bits * self.elements / bits if bits else float("inf")


def _stored_in_gaps(is_zero: np.ndarray) -> int:
    """Entries of a sparse row: non-zero elements, and a filler wherever a distance exceeds what its bits count."""
    position = np.flatnonzero(~is_zero)
    gaps = np.diff(position, prepend=-1)
    return int(len(position) + ((gaps - 1) // 2**GAP_BITS).sum())
