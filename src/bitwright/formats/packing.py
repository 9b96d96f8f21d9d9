"""Codes to bytes. Element i of a row occupies bits [i·bits, (i+1)·bits) of the row's little-endian bit string.

So two 4-bit codes share a byte with the even index in the low nibble, and four 6-bit codes fill three: the order of
NVFP4, MXFP4 and MXFP6 checkpoints, and of `pack-quantized` read as little-endian words. Rows start on whole bytes.
"""

import numpy as np
from jaxtyping import Int, UInt8


def pack(codes: Int[np.ndarray, "*rows k"], bits: int) -> UInt8[np.ndarray, "*rows bytes"]:
    """Bytes of the codes. A code that does not fit raises ValueError."""
    codes = np.asarray(codes)
    if codes.size and (codes.min() < 0 or codes.max() >> bits):
        raise ValueError(f"pack: codes from {codes.min()} to {codes.max()} found; {bits} bits hold 0 to {2**bits - 1}")
    planes = (codes[..., None] >> np.arange(bits)) & 1
    return np.packbits(
        planes.reshape(*codes.shape[:-1], codes.shape[-1] * bits).astype(np.uint8), axis=-1, bitorder="little"
    )


def unpack(packed: UInt8[np.ndarray, "*rows bytes"], bits: int, count: int) -> Int[np.ndarray, "*rows count"]:
    """The first `count` codes of each row. Too few bytes raise ValueError."""
    if packed.shape[-1] * 8 < count * bits:
        raise ValueError(
            f"unpack: {packed.shape[-1]} bytes found; {count} codes of {bits} bits need {-(-count * bits // 8)}"
        )
    planes = np.unpackbits(packed, axis=-1, count=count * bits, bitorder="little")
    weights = 1 << np.arange(bits, dtype=np.int64)
    return planes.reshape(*packed.shape[:-1], count, bits).astype(np.int64) @ weights
