"""compressed-tensors' layouts both ways: what its configuration says, and one weight's tensors as codes and scales.

Nothing is quantized here: codes, scales and zero points are those of the file, bit for bit. The one number that is
computed is NVFP4's tensor scale, which the file holds inverted; engines multiply by its float32 reciprocal, and so does
the quantizer here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int as Ints
from jaxtyping import Shaped

from bitwright.formats import (
    BFLOAT16,
    E2M1,
    E2M3,
    E4M3,
    E8M0,
    FLOAT16,
    FLOAT32,
    Format,
    Int,
    unpack,
)
from bitwright.quantization import (
    AbsMax,
    Granularity,
    PerBlock,
    PerRow,
    PerTensor,
    PerTile,
    QuantizedTensor,
    Quantizer,
    Range,
    Scale,
    Zero,
)
from bitwright.schemes.mx import RoundedRule

SCALES: dict[str, Format] = {
    "F32": FLOAT32,
    "BF16": BFLOAT16,
    "F16": FLOAT16,
    "F8_E4M3": E4M3,
    "U8": E8M0,
    "F8_E8M0": E8M0,
}
"""Formats of scales by safetensors' names."""


@dataclass(frozen=True)
class Raw:
    """One tensor as stored: floats of fewer than 32 bits are unsigned integers of their bits."""

    name: str
    dtype: str
    values: np.ndarray

    def require(self, dtypes: tuple[str, ...], *shapes: tuple[int, ...]) -> np.ndarray:
        """Its values, in the last of the shapes, which all hold as many; ValueError for another type or shape."""
        if self.dtype not in dtypes or (shapes and self.values.shape not in shapes):
            wanted = " or ".join(str(list(shape)) for shape in shapes)
            raise ValueError(
                f"{self.name}: {self.dtype} {list(self.values.shape)} found, {' or '.join(dtypes)} {wanted} needed; "
                "the folder is damaged or of another layout"
            )
        return self.values.reshape(shapes[-1]) if shapes else self.values


@dataclass(frozen=True)
class Described:
    """An operand as config.json describes it. The order of a scheme's fields is the library's."""

    bits: int
    is_float: bool
    share: Granularity
    is_symmetric: bool
    is_dynamic: bool  # block scales that follow the data under a static tensor scale too
    has_tensor_scale: bool
    is_mx: bool

    @property
    def element(self) -> Format:
        """Integers with a zero point are unsigned here; the file's are less by half of their range."""
        return {4: E2M1, 6: E2M3, 8: E4M3}[self.bits] if self.is_float else Int(self.bits, signed=self.is_symmetric)

    @staticmethod
    def of(config: Mapping[str, Any], where: str) -> "Described":
        """ValueError, naming `where`, for what no quantizer says."""
        try:
            bits, kind = int(config["num_bits"]), str(config.get("type", "int"))
            strategy, group = config.get("strategy"), config.get("group_size")
            block, scale_dtype = config.get("block_structure"), str(config.get("scale_dtype") or "")
            strategy = strategy or ("group" if group and group > 0 else "channel" if group == -1 else "tensor")
            shares: dict[str, Any] = {"tensor": PerTensor, "channel": PerRow, "token": PerRow}
            if strategy == "block":
                tall, wide = (int(n) for n in (block.split("x") if isinstance(block, str) else block or ()))
                share: Granularity = PerTile(tall, wide)
            else:
                share = PerBlock(int(group or 0)) if strategy in ("group", "tensor_group") else shares[strategy]()
        except (KeyError, TypeError, ValueError, AttributeError):
            raise ValueError(
                f"{where}: {dict(config)} found, which is not how compressed-tensors describes an operand"
            ) from None
        if (kind, bits) not in {("float", 4), ("float", 6), ("float", 8)} and not (kind == "int" and 1 <= bits <= 8):
            raise ValueError(f"{where}: {kind} of {bits} bits found; read are floats of 4, 6, 8 and integers of 1 to 8")
        is_mx = kind == "float" and share == PerBlock(32) and "uint8" in scale_dtype
        return Described(
            bits, kind == "float", share, bool(config.get("symmetric", True)), bool(config.get("dynamic", False)),
            strategy == "tensor_group", is_mx,
        )  # fmt: skip


def read_weight(args: Described, parts: Mapping[str, Raw], shape: tuple[int, int]) -> QuantizedTensor:
    """A weight [rows, k] from its tensors: `weight` or `weight_packed`, `weight_scale`, `weight_zero_point`, ..."""
    rows, k = shape
    bits, offset = args.bits, 2 ** (args.bits - 1)
    down, across = args.share.shape(rows, k)
    if "weight_packed" in parts:
        codes = _unpacked(parts["weight_packed"], bits, rows, k)
        is_offset = not args.is_float
    else:
        stored = _part(parts, "weight").require(("F8_E4M3",) if args.is_float else ("I8",), shape)
        codes = stored.astype(np.int64) & (2**bits - 1)
        is_offset = False
    if not args.is_float and is_offset != (not args.is_symmetric):  # two's complement, or unsigned with a zero point
        codes = codes ^ offset
    zero = None
    if not args.is_symmetric:
        stored_zero = _part(parts, "weight_zero_point")
        if stored_zero.dtype == "I32":
            words = stored_zero.require(("I32",), (-(-rows * bits // 32), across))
            zero = unpack(np.ascontiguousarray(words.T).view(np.uint8), bits, rows).T
        else:
            zero = stored_zero.require(("I8",), (down, across)).astype(np.int64) + offset
    fine = _part(parts, "weight_scale")
    allowed = ("F8_E4M3",) if args.has_tensor_scale else ("U8", "F8_E8M0") if args.is_mx else ("F32", "BF16", "F16")
    flat = ((down,), (1,), ()) if down * across == 1 else ((down,),) if across == 1 else ()
    scale_codes = codes_of(fine.require(allowed, *flat, (down, across)))
    levels: tuple[Scale, ...] = (Scale(args.share, SCALES[fine.dtype]),)
    scales: tuple[np.ndarray, ...] = (scale_codes,)
    if args.has_tensor_scale:
        inverse = _part(parts, "weight_global_scale").require(("F32",), (), (1,))
        tensor_scale = reciprocal(inverse, f"{_part(parts, 'weight_global_scale').name}")
        levels = (Scale(PerTensor()), Scale(args.share, E4M3, zero_as=0.125))
        scales = (codes_of(tensor_scale[None]), scale_codes)
    quantizer = Quantizer(args.element, levels, zero=Zero.FIXED if zero is None else Zero.FITTED)
    name = next(iter(parts.values())).name.rpartition(".")[0]
    return tensor_of(codes, scales, zero, quantizer, name)


def tensor_of(
    codes: Ints[np.ndarray, "rows k"], scales: tuple[np.ndarray, ...], zero: np.ndarray | None, quantizer: Quantizer,
    name: str,
) -> QuantizedTensor:  # fmt: skip
    """Codes in whole blocks. A NaN or infinity among codes or scales raises ValueError naming the layer."""
    rows, k = codes.shape
    for what, format, found in (
        ("weight", quantizer.format, codes),
        *(("scale", s.format, c) for s, c in zip(quantizer.scales, scales, strict=True)),
    ):
        if np.any(format.is_reserved(found)):
            raise ValueError(f"{name}: a {what} is NaN or infinite; the folder is damaged")
    block = quantizer.block(rows, k)
    padded = np.pad(codes.astype(np.int64), ((0, 0), (0, -k % block)))
    if zero is not None and k % block:
        padded[:, k:] = quantizer.scales[0].share.expand(zero, rows, padded.shape[1])[:, k:]
    return QuantizedTensor(padded.reshape(rows, -1, block), scales, zero, k, quantizer)


def input_quantizer(args: Described, parts: Mapping[str, Raw]) -> tuple[Quantizer, tuple[Range | None, ...]]:
    """How a layer's input is quantized, and the static ranges of its levels."""
    element, zero = args.element, Zero.FIXED if args.is_symmetric else Zero.FITTED
    if args.is_mx:
        return Quantizer(element, (RoundedRule().scale(element, PerBlock(32)),)), ()
    if args.has_tensor_scale:
        inverse = _part(parts, "input_global_scale")
        fine = Scale(args.share, E4M3, zero_as=0.125)
        return two_level(element, fine, reciprocal(inverse.require(("F32",), (), (1,)), inverse.name))
    if args.is_dynamic:
        full_scale = None if args.is_float or not args.is_symmetric else args.bits and (2**args.bits - 1) / 2
        return Quantizer(element, (Scale(args.share, full_scale=full_scale),), zero=zero), ()
    stored = _part(parts, "input_scale")
    step = values_of(stored.require(("F32", "BF16", "F16"), (), (1,)), stored)
    if args.share != PerTensor() or not np.isfinite(step).all() or step[0] <= 0:
        raise ValueError(f"{stored.name}: {step.ravel()[:3]} a {args.share} found; one positive scale a tensor is read")
    start = 0.0
    if not args.is_symmetric:
        point = _part(parts, "input_zero_point")
        start = float(point.require(("I8",), (), (1,))[0]) + 2 ** (args.bits - 1)
    return static(element, float(step[0]), start if zero is Zero.FITTED else None)


def static(element: Format, step: float, zero_point: float | None) -> tuple[Quantizer, tuple[Range, ...]]:
    """One calibrated step, and the range that gives exactly it: a power of two of steps."""
    power = 2.0 ** np.ceil(np.log2(element.full_scale))
    scale = Scale(PerTensor(), range=AbsMax(), full_scale=power)
    low = -power * step if zero_point is None else -zero_point * step
    high = power * step if zero_point is None else (power - zero_point) * step
    ranges = (Range(np.full((1, 1), low), np.full((1, 1), high)),)
    return Quantizer(element, (scale,), zero=Zero.FIXED if zero_point is None else Zero.FITTED), ranges


def two_level(element: Format, fine: Scale, tensor_scale: np.ndarray) -> tuple[Quantizer, tuple[Range | None, ...]]:
    """A static tensor scale above block scales that follow the data: the range that gives the scale, or its neighbour.

    A magnitude / 2688 in float32 does not reach every value; the nearest one is one unit in the last place away.
    """
    quantizer = Quantizer(element, (Scale(PerTensor(), range=AbsMax()), fine))
    full = np.float32(element.full_scale * fine.room)
    near = np.float32(np.float64(tensor_scale[0]) * np.float64(full))
    tries = [np.nextafter(near, np.float32(0)), near, np.nextafter(near, np.float32(np.inf))]
    magnitude = min(tries, key=lambda m: abs(float(np.float32(m) / full) - float(tensor_scale[0])))
    found = np.full((1, 1), float(magnitude))
    return quantizer, (Range(-found, found), None)


def codes_of(stored: Shaped[np.ndarray, "..."]) -> Ints[np.ndarray, "..."]:
    """A float's bits as its code."""
    return np.ascontiguousarray(stored).view(f"u{stored.itemsize}").astype(np.int64)


def values_of(stored: np.ndarray, raw: Raw) -> np.ndarray:
    """Stored scales as float64; NaN and infinity stay."""
    if raw.dtype == "BF16":
        return (stored.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return (stored.view(np.float16) if raw.dtype == "F16" else stored).astype(np.float64)


def reciprocal(inverse: np.ndarray, name: str) -> np.ndarray:
    """float32 1 / x, [1]."""
    with np.errstate(divide="ignore", over="ignore"):
        found = np.float32(1) / inverse.reshape(1).astype(np.float32)
    if not np.isfinite(found).all() or found[0] <= 0:
        raise ValueError(f"{name}: {inverse.ravel()[0]} found; a positive scale is needed")
    return found


def _part(parts: Mapping[str, Raw], name: str) -> Raw:
    if name not in parts:
        some = next(iter(parts.values())).name if parts else "a layer"
        raise ValueError(f"{some}: the layer has no {name}; the folder is damaged or of another layout")
    return parts[name]


def _unpacked(packed: Raw, bits: int, rows: int, k: int) -> Ints[np.ndarray, "rows k"]:
    if packed.dtype == "U8":
        stored = packed.require(("U8",), (rows, k * bits // 8))
    else:
        stored = packed.require(("I32",), (rows, -(-k * bits // 32)))
    return unpack(np.ascontiguousarray(stored).view(np.uint8), bits, k)
