"""What becomes of a weight in a checkpoint: compressed-tensors' layouts, which vLLM and transformers read.

Scales are that library's (0.20, calculate_qparams) with ranges from the smallest and largest weight, in the weight's
own precision.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Shaped

from bitwright.checkpoint.codes import Cells, Levels, Rows, extremes, magnitudes, narrow, packed_codes, round_to
from bitwright.checkpoint.disk import Buffer
from bitwright.checkpoint.tensors import Entry
from bitwright.formats import E2M1, E2M3, E4M3, Format, Int, Minifloat, pack
from bitwright.quantization import PerRow, PerTensor, PerTile

EPSILON = {"F32": 2.0**-23, "BF16": 2.0**-7, "F16": 2.0**-10}
"""What a scale of zero is stored as."""


class CheckpointFormat(ABC):
    """What becomes of a weight [rows, k]: the tensors that replace it, and their bytes.

    A format that `has_inputs` also says that engines quantize the layer's inputs, each as it comes.
    """

    rows_together: int = 1
    """Rows are quantized in multiples of this, less at the end of a weight."""

    is_fused: bool = False
    """Whether the largest magnitude of the whole weight, and of those fused with it, must be known before."""

    @property
    @abstractmethod
    def group(self) -> int | None:
        """Elements of a row that share a scale, which divide every row; None where any number does."""

    @abstractmethod
    def entries(self, weight: Entry) -> list[Entry]:
        """The tensors that replace the weight: those that grow with its rows, then those that are written once."""

    @abstractmethod
    def quantize(self, rows: Rows, dtype: str, largest: float, memory: Buffer | None = None) -> list[np.ndarray]:
        """Contents of the tensors that grow, of some rows; `largest` is of all rows where `is_fused`.

        With `memory` they hold until it is used again. Raises `NotFinite`.
        """

    def constants(self, weight: Entry, largest: float) -> list[bytes]:
        """Contents of the tensors that no row changes."""
        return []

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """`format`, `weights` and `input_activations` of config.json's quantization_config."""


@dataclass(frozen=True)
class Integers(CheckpointFormat):
    """2 to 8-bit integers with a scale in the weight's type for each group of a row, or each row.

    `has_zero_points` fits a zero point to each scale. With inputs, 8-bit weights with a scale a row are stored as
    bytes (int-quantized); all others are packed (pack-quantized).
    """

    bits: int = 4
    group: int | None = 128
    has_zero_points: bool = False
    has_inputs: bool = False

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise ValueError(f"integers of {self.bits} bits found; checkpoints hold 2 to 8")
        if self.group is not None and (self.group < 8 or self.group % 8):
            raise ValueError(f"groups of {self.group} found; a multiple of 8 is needed")

    @property
    def rows_together(self) -> int:  # type: ignore[override]
        return 32 if self.has_zero_points and self._is_packed else 1  # they are packed along the rows

    def entries(self, weight: Entry) -> list[Entry]:
        (rows, k), base = weight.shape, weight.name
        groups = 1 if self.group is None else k // self.group
        if not self._is_packed:
            zero = [Entry(f"{base}_zero_point", "I8", (rows, groups))] if self.has_zero_points else []
            return [Entry(base, "I8", (rows, k)), Entry(f"{base}_scale", weight.dtype, (rows, groups)), *zero]
        words = -(-rows * self.bits // 32)
        zero = [Entry(f"{base}_zero_point", "I32", (words, groups))] if self.has_zero_points else []
        return [
            Entry(f"{base}_packed", "I32", (rows, -(-k * self.bits // 32))),
            Entry(f"{base}_scale", weight.dtype, (rows, groups)), *zero, Entry(f"{base}_shape", "I64", (2,)),
        ]  # fmt: skip

    def quantize(self, rows: Rows, dtype: str, largest: float, memory: Buffer | None = None) -> list[np.ndarray]:
        group = rows.shape[1] if self.group is None else self.group
        steps = np.float32(2**self.bits - 1)
        zero = None
        if self.has_zero_points:
            low, high = extremes(rows, dtype, group)
            low, high = np.minimum(low, 0), np.maximum(high, 0)
            scale = round_to(round_to(high - low, dtype) / steps, dtype)
            zero = self._zero_points(low, scale, dtype)
        else:
            scale = round_to(magnitudes(rows, dtype, group) / (steps / 2), dtype)
        scale = np.where(scale == 0, np.float32(EPSILON[dtype]), scale)
        half = 2 ** (self.bits - 1)
        offset = half if self._is_packed else 0
        codes = packed_codes(rows, Int(self.bits), Levels(dtype, group, scale, zero), offset, memory)
        if self._is_packed and codes.shape[1] % 4:
            codes = np.pad(codes, ((0, 0), (0, -codes.shape[1] % 4)))
        parts = [codes, narrow(scale, dtype)]
        if zero is not None and self._is_packed:
            parts.append(words_down((zero + half).astype(np.int64), self.bits))
        elif zero is not None:
            parts.append(zero.astype(np.int8))
        return parts

    def constants(self, weight: Entry, largest: float) -> list[bytes]:
        return [np.asarray(weight.shape, np.int64).tobytes()] if self._is_packed else []

    def config(self) -> dict[str, Any]:
        share = {"strategy": "channel"} if self.group is None else {"strategy": "group", "group_size": self.group}
        return {
            "format": "pack-quantized" if self._is_packed else "int-quantized",
            "weights": described(self.bits, "int", share, symmetric=not self.has_zero_points),
            "input_activations": described(8, "int", TOKENS, dynamic=True) if self.has_inputs else None,
        }

    @property
    def _is_packed(self) -> bool:
        return not (self.has_inputs and self.bits == 8 and self.group is None)

    def _zero_points(self, low: Cells, scale: Cells, dtype: str) -> Cells:
        half = np.float32(2 ** (self.bits - 1))
        steps = np.divide(low, scale, out=np.zeros_like(low), where=scale != 0)
        zero = round_to(-half - round_to(steps, dtype), dtype)
        # a group of zeros alone: 0 / 0 becomes code 0 there
        return np.where(scale == 0, np.float32(0), np.rint(np.clip(zero, -half, half - 1)))


@dataclass(frozen=True)
class Nvfp4(CheckpointFormat):
    """E2M1 with an E4M3 scale for 16 elements and a float32 one a tensor, stored inverted: nvfp4-pack-quantized."""

    is_fused = True

    @property
    def group(self) -> int:
        return 16

    def entries(self, weight: Entry) -> list[Entry]:
        (rows, k), base = weight.shape, weight.name
        return [
            Entry(f"{base}_packed", "U8", (rows, k // 2)), Entry(f"{base}_scale", "F8_E4M3", (rows, k // 16)),
            Entry(f"{base}_global_scale", "F32", (1,)),
        ]  # fmt: skip

    def quantize(self, rows: Rows, dtype: str, largest: float, memory: Buffer | None = None) -> list[np.ndarray]:
        """Block scale = E4M3(global · largest / 6), a zero one 0.125; elements E2M1(x / (block scale / global))."""
        by = global_scale(largest, dtype)
        ideal = by * round_to(magnitudes(rows, dtype, 16) / np.float32(6), dtype)
        codes = _e4m3_codes(ideal)
        codes[codes == 0] = 0x20  # 0.125
        scale = np.take(_VALUES / by, codes)
        return [packed_codes(rows, E2M1, Levels(dtype, 16, scale, is_rounded=False), memory=memory), codes]

    def constants(self, weight: Entry, largest: float) -> list[bytes]:
        return [np.asarray([global_scale(largest, weight.dtype)], np.float32).tobytes()]

    def config(self) -> dict[str, Any]:
        e4m3 = {"scale_dtype": "torch.float8_e4m3fn", "zp_dtype": "torch.float8_e4m3fn"}
        share = {"strategy": "tensor_group", "group_size": 16}
        weights = described(4, "float", share) | e4m3
        return {"format": "nvfp4-pack-quantized", "weights": weights, "input_activations": None}


@dataclass(frozen=True)
class Mx(CheckpointFormat):
    """E2M1, E2M3 or E4M3 in blocks of 32 with a power of two: mxfp4-, mxfp6-pack-quantized and mxfp8-quantized."""

    element: Minifloat
    has_inputs: bool = False

    @property
    def group(self) -> int:
        return 32

    def entries(self, weight: Entry) -> list[Entry]:
        (rows, k), base = weight.shape, weight.name
        codes = Entry(f"{base}_packed", "U8", (rows, k * self.element.bits // 8))
        if self.element == E4M3:
            codes = Entry(base, "F8_E4M3", (rows, k))
        return [codes, Entry(f"{base}_scale", "U8", (rows, k // 32))]

    def quantize(self, rows: Rows, dtype: str, largest: float, memory: Buffer | None = None) -> list[np.ndarray]:
        codes = mx_scale_codes(magnitudes(rows, dtype, 32), self.element, dtype)
        scale = round_to(np.ldexp(np.float32(1), codes - 127), dtype)
        return [packed_codes(rows, self.element, Levels(dtype, 32, scale), memory=memory), codes.astype(np.uint8)]

    def config(self) -> dict[str, Any]:
        bits = self.element.bits
        share = {"strategy": "group", "group_size": 32}
        kinds = {"scale_dtype": "torch.uint8", "zp_dtype": "torch.uint8"}
        inputs = described(8 if bits == 6 else bits, "float", share, dynamic=True) | kinds
        return {
            "format": f"mxfp{bits}-quantized" if bits == 8 else f"mxfp{bits}-pack-quantized",
            "weights": described(bits, "float", share) | kinds,
            "input_activations": inputs if self.has_inputs else None,
        }


@dataclass(frozen=True)
class Float8(CheckpointFormat):
    """E4M3 with a scale in the weight's type a row, a tile, or a weight and those fused with it: float-quantized."""

    share: PerRow | PerTile | PerTensor = PerRow()
    has_inputs: bool = False

    @property
    def is_fused(self) -> bool:  # type: ignore[override]
        return isinstance(self.share, PerTensor)

    @property
    def rows_together(self) -> int:  # type: ignore[override]
        return self.share.rows if isinstance(self.share, PerTile) else 1

    @property
    def group(self) -> None:
        return None

    def entries(self, weight: Entry) -> list[Entry]:
        (rows, k), base = weight.shape, weight.name
        scale = (1,) if isinstance(self.share, PerTensor) else self.share.shape(rows, k)
        return [Entry(base, "F8_E4M3", (rows, k)), Entry(f"{base}_scale", weight.dtype, scale)]

    def quantize(self, rows: Rows, dtype: str, largest: float, memory: Buffer | None = None) -> list[np.ndarray]:
        group = self.share.columns if isinstance(self.share, PerTile) else rows.shape[1]
        if isinstance(self.share, PerTensor):
            scale = self._scale(np.full((len(rows), 1), largest, np.float32), dtype)
            return [packed_codes(rows, E4M3, Levels(dtype, group, scale), memory=memory)]
        found = magnitudes(rows, dtype, group)
        if isinstance(self.share, PerRow):
            scale = self._scale(found, dtype)
            return [packed_codes(rows, E4M3, Levels(dtype, group, scale), memory=memory), narrow(scale, dtype)]
        tall = self.share.rows
        scale = self._scale(np.maximum.reduceat(found, np.arange(0, len(rows), tall), axis=0), dtype)
        spread = np.repeat(scale, tall, 0)[: len(rows)]
        return [packed_codes(rows, E4M3, Levels(dtype, group, spread), memory=memory), narrow(scale, dtype)]

    def constants(self, weight: Entry, largest: float) -> list[bytes]:
        if not isinstance(self.share, PerTensor):
            return []
        return [narrow(self._scale(np.full(1, largest, np.float32), weight.dtype), weight.dtype).tobytes()]

    def config(self) -> dict[str, Any]:
        share: dict[str, Any] = {"strategy": "channel"}
        inputs = TOKENS
        if isinstance(self.share, PerTensor):
            share = {"strategy": "tensor"}
        elif isinstance(self.share, PerTile):
            share = {"strategy": "block", "block_structure": [self.share.rows, self.share.columns]}
            inputs = {"strategy": "group", "group_size": self.share.columns}
        return {
            "format": "float-quantized",
            "weights": described(8, "float", share),
            "input_activations": described(8, "float", inputs, dynamic=True) if self.has_inputs else None,
        }

    def _scale(self, magnitude: np.ndarray, dtype: str) -> np.ndarray:
        scale = round_to(magnitude / np.float32(448), dtype)
        return np.where(scale == 0, np.float32(EPSILON[dtype]), scale)


NAMED: dict[str, Callable[[bool], CheckpointFormat]] = {
    "nvfp4": lambda has_inputs: Nvfp4(),
    "mxfp4": lambda has_inputs: Mx(E2M1, has_inputs),
    "mxfp6": lambda has_inputs: Mx(E2M3, has_inputs),
    "mxfp8": lambda has_inputs: Mx(E4M3, has_inputs),
    "fp8": lambda has_inputs: Float8(PerRow(), has_inputs),
    "fp8_tensor": lambda has_inputs: Float8(PerTensor(), has_inputs),
    "fp8_block": lambda has_inputs: Float8(PerTile(128, 128), has_inputs),
}
"""Layouts of floats by the names of the command, with or without quantized inputs."""

TOKENS: dict[str, Any] = {"strategy": "token"}
_VALUES = np.concatenate([E4M3.decode(np.arange(127)), np.full(129, np.nan)]).astype(np.float32)


def described(
    bits: int, kind: str, share: dict[str, Any], *, symmetric: bool = True, dynamic: bool = False
) -> dict[str, Any]:
    """An operand as config.json describes it."""
    return {"num_bits": bits, "type": kind, "symmetric": symmetric, **share, "dynamic": dynamic}


def words_down(codes: Shaped[np.ndarray, "rows groups"], bits: int) -> Shaped[np.ndarray, "words groups"]:
    """Codes packed densely along the rows, in 32-bit words."""
    packed = pack(codes.T, bits)
    packed = np.pad(packed, ((0, 0), (0, -packed.shape[1] % 4)))
    return np.ascontiguousarray(np.ascontiguousarray(packed).view(np.uint32).T)


def mx_scale_codes(magnitude: Cells, element: Format, dtype: str) -> Shaped[np.ndarray, "rows groups"]:
    """E8M0: 2**(floor(log2 A') - emax), A' = A rounded to one mantissa bit (E2M3: three), cut to its power of two.

    A block of zeros gets the smallest; where its value is zero in the weight's type, 1.
    """
    mantissa, rounded = {"F32": 23, "BF16": 7, "F16": 10}[dtype], 3 if element == E2M3 else 1
    stored_bits = narrow(magnitude, dtype)
    bits = stored_bits.view(f"u{stored_bits.itemsize}").astype(np.int64)
    exponent = (bits + (1 << (mantissa - rounded - 1))) >> mantissa
    bias = 15 if dtype == "F16" else 127
    largest = int(np.floor(np.log2(element.full_scale)))
    codes = np.where(exponent == 0, 0, np.clip(127 + exponent - bias - largest, 0, 255))
    return np.where(round_to(np.ldexp(np.float32(1), codes - 127), dtype) == 0, 127, codes)


def _e4m3_codes(x: Cells) -> Shaped[np.ndarray, "rows groups"]:
    flat = np.pad(x.reshape(-1), (0, -x.size % 8)) if x.size % 8 else x.reshape(-1)
    one = Levels("F32", flat.size, np.ones((1, 1), np.float32))
    return packed_codes(flat[None], E4M3, one)[0, : x.size].reshape(x.shape)


def global_scale(largest: float, dtype: str) -> np.float32:
    """448 · 6 / the largest magnitude, in the weight's type; 1 where that overflows."""
    tiny = {"F32": 2.0**-126, "BF16": 2.0**-126, "F16": 2.0**-14}[dtype]
    with np.errstate(over="ignore"):
        scale = round_to(np.float32(448 * 6) / np.maximum(np.float32(largest), np.float32(tiny)), dtype)
    return np.float32(1) if not np.isfinite(scale) else np.float32(scale)
