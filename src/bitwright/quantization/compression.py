"""How far stored codes can be compressed: their entropy, sparse layouts, and real compressors."""

import lzma
import zlib

import numpy as np
from jaxtyping import Bool, Shaped

from bitwright.formats import pack
from bitwright.quantization.tensor import QuantizedTensor
from bitwright.result import Compressibility

GAP_BITS = 8
"""Of the distance to the last non-zero element in a sparse row; longer distances store zeros in between."""

LZMA_PRESET, ZLIB_LEVEL = 0, 6
"""Fast ones: on codes, which have little to find beyond their frequencies, the slowest preset gains a few per cent."""

COMPRESSED = 1 << 16
"""Codes of a matrix that the compressors are given; larger ones count in proportion, as compressors are slow."""


def compressibility(t: QuantizedTensor, is_stored: Bool[np.ndarray, "rows k"] | None = None) -> Compressibility:
    """Of a quantized matrix; elements that are not stored are padding and left out, as those beyond K are."""
    bits = t.quantizer.format.bits
    codes, is_zero = _stored(t, is_stored)
    count, zeros = codes.size, int(is_zero.sum())
    scales = [(codes, s.format.bits) for s, codes in zip(t.quantizer.scales, t.scales, strict=True)]
    scales += [(t.zero_points, bits)] if t.zero_points is not None else []
    part = codes[:COMPRESSED]
    times = 8 * max(count, 1) / max(part.size, 1)
    by_lzma = lzma.compress(pack(part, bits).tobytes(), preset=LZMA_PRESET)
    by_zlib = zlib.compress(part.astype(_whole_bytes(bits)).tobytes(), ZLIB_LEVEL)
    return Compressibility(
        elements=count,
        zeros=zeros,
        scale_bits=sum(array.size * width for array, width in scales),
        packed_bits=count * bits,
        entropy_bits=entropy(codes) * count,
        bitmap_bits=count + (count - zeros) * bits,
        sparse_bits=_stored_in_gaps(is_zero) * (GAP_BITS + bits),
        lzma_bits=round(len(by_lzma) * times),
        zlib_bits=round(len(by_zlib) * times),
    )


def zeros_and_entropy(t: QuantizedTensor, is_stored: Bool[np.ndarray, "rows k"] | None = None) -> tuple[float, float]:
    """Share of elements that are zero, and bits an element: two of the figures above, without a compressor."""
    codes, is_zero = _stored(t, is_stored)
    return float(is_zero.mean()), entropy(codes)


def entropy(codes: Shaped[np.ndarray, " count"]) -> float:
    """Bits a code, order 0: no way to write them one by one is shorter. Two codes of zero count as two."""
    narrow = codes.size and codes.min() >= 0 and codes.max() < 2**16  # counting beats sorting
    occurrences = np.bincount(codes) if narrow else np.unique(codes, return_counts=True)[1]
    share = occurrences[occurrences > 0] / max(codes.size, 1)
    return abs(float(-(share * np.log2(share)).sum()))  # no minus zero


def _stored(
    t: QuantizedTensor, is_stored: Bool[np.ndarray, "rows k"] | None
) -> tuple[Shaped[np.ndarray, " count"], Bool[np.ndarray, " count"]]:
    """Codes row by row, and which stand for zero."""
    rows = len(t.codes)
    codes, is_zero = t.codes.reshape(rows, -1)[:, : t.k], (t.elements() == 0).reshape(rows, -1)[:, : t.k]
    return (codes.ravel(), is_zero.ravel()) if is_stored is None else (codes[is_stored], is_zero[is_stored])


def _whole_bytes(bits: int) -> type[np.unsignedinteger]:
    return next(t for t in (np.uint8, np.uint16, np.uint32, np.uint64) if np.iinfo(t).bits >= bits)


def _stored_in_gaps(is_zero: Bool[np.ndarray, " count"]) -> int:
    """Entries of a sparse row: non-zero elements, and a filler wherever a distance exceeds what its bits count."""
    position = np.flatnonzero(~is_zero)
    gaps = np.diff(position, prepend=-1)
    return int(len(position) + ((gaps - 1) // 2**GAP_BITS).sum())
