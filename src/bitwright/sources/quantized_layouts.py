"""How other tools store quantized layers: which tensors are a layer's, and their codes, scales and zero points.

Model Optimizer: NVIDIA/Model-Optimizer, unified Hugging Face checkpoints. GPTQ: AutoGPTQ's and GPTQModel's qweight,
qzeros, scales, g_idx, whose first format stores zero points less one. AWQ: AutoAWQ's "gemm" format, eight codes a word
interleaved.
"""

import re
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bitwright.checkpoint.folder import TensorFolder
from bitwright.checkpoint.layouts import (
    Described,
    Raw,
    codes_of,
    input_quantizer,
    read_weight,
    static,
    tensor_of,
    two_level,
)
from bitwright.formats import E2M1, E4M3, FLOAT16, FLOAT32, Int, unpack
from bitwright.quantization import PerBlock, PerRow, PerTensor, QuantizedTensor, Quantizer, Range, Scale, Zero

OF_CACHES = frozenset({"k_scale", "v_scale", "q_scale", "k_zero_point", "v_zero_point", "output_scale"})
"""Tensors beside a layer's own that its product does not need."""

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""The column, of eight, that each four bits of a word hold, from the lowest on."""


@dataclass(frozen=True)
class Stored:
    """One layer: its weight, how its input is quantized, and the order of the weight's columns if they were moved."""

    weight: QuantizedTensor
    input: Quantizer | None = None
    ranges: tuple[Range | None, ...] = ()
    order: np.ndarray | None = None


class Layout(ABC):
    """Layers as one tool stores them."""

    marker: str
    """The tensor that every quantized layer has."""

    known: frozenset[str]
    """The tensors that a layer may have; another one would change what it computes."""

    def __init__(self, config: Mapping[str, Any], tensors: TensorFolder) -> None:
        self.config, self.tensors = config, tensors
        self._parts: dict[str, list[str]] = defaultdict(list)
        for name in tensors.entries:
            self._parts[name.rpartition(".")[0]].append(name)

    def holds(self, module: str) -> bool:
        """Whether this layer is stored quantized."""
        return f"{module}.{self.marker}" in self.names(module)

    def names(self, module: str) -> list[str]:
        """The tensors of a quantized layer, less its bias."""
        return [name for name in self._parts.get(module, ()) if not name.endswith(".bias")]

    def parts(self, module: str) -> dict[str, Raw]:
        names = {name.rpartition(".")[2]: name for name in self.names(module)}
        strange = sorted(names.keys() - self.known - OF_CACHES)
        if strange:
            raise ValueError(
                f"{module} has {', '.join(strange)}, which is not read here; read are {_listed(self.known)}"
            )
        return {last: self.tensors.read(name) for last, name in names.items() if last in self.known}

    @abstractmethod
    def read(self, module: str, shape: tuple[int, int]) -> Stored:
        """The layer, whose weight is [rows, k] in the architecture."""


class CompressedTensors(Layout):
    """Of compressed-tensors: described by groups of targets."""

    marker = "weight_scale"
    known = frozenset({
        "weight", "weight_packed", "weight_scale", "weight_zero_point", "weight_shape", "weight_global_scale",
        "weight_g_idx", "input_scale", "input_zero_point", "input_global_scale",
    })  # fmt: skip

    def read(self, module: str, shape: tuple[int, int]) -> Stored:
        group = self._group(module)
        weights, inputs = group.get("weights"), group.get("input_activations")
        if not isinstance(weights, dict) or not isinstance(inputs, dict | None):
            raise ValueError(f"{module}: its group in config.json describes no weights; the folder is damaged")
        parts = self.parts(module)
        weight = read_weight(Described.of(weights, f"the weights of {module}"), parts, shape)
        order = None
        if "weight_g_idx" in parts and (parts["weight_g_idx"].values >= 0).all():  # -1 where columns were not moved
            groups = weight.quantizer.scales[0].share.shape(*shape)[1]
            order = _order(parts["weight_g_idx"], shape[1], shape[1] // groups, module)
        if order is not None:
            codes = weight.codes.reshape(shape)[:, order]
            weight = replace(weight, codes=codes.reshape(weight.codes.shape))
        if inputs is None:
            return Stored(weight, order=order)
        return Stored(weight, *input_quantizer(Described.of(inputs, f"the inputs of {module}"), parts), order=order)

    def _group(self, module: str) -> Mapping[str, Any]:
        groups = self.config.get("config_groups")
        for group in groups.values() if isinstance(groups, dict) else ():
            targets = group.get("targets") if isinstance(group, dict) else None
            for target in targets if isinstance(targets, list) else ():
                if target in ("Linear", module) or (
                    isinstance(target, str) and target.startswith("re:") and _matches(target[3:], module)
                ):
                    return group
        raise ValueError(f"{module} is stored quantized, but no group of config.json names it; the folder is damaged")


class ModelOpt(Layout):
    """Of Model Optimizer: what a layer is follows from its tensors."""

    marker = "weight_scale"
    known = frozenset({"weight", "weight_scale", "weight_scale_2", "input_scale"})

    def read(self, module: str, shape: tuple[int, int]) -> Stored:
        parts = self.parts(module)
        rows, k = shape
        scales: tuple[np.ndarray, ...]
        weight, scale = self._part(parts, module, "weight"), self._part(parts, module, "weight_scale")
        step = self._scalar(parts["input_scale"]) if "input_scale" in parts else None
        if weight.dtype == "U8":
            codes = unpack(weight.require(("U8",), (rows, k // 2)), 4, k)
            second = self._scalar(self._part(parts, module, "weight_scale_2"))
            fine = Scale(PerBlock(16), E4M3, smallest=2.0**-9, zero_as=1.0)
            scales = codes_of(second), codes_of(scale.require(("F8_E4M3",), (rows, -(-k // 16))))
            quantizer = Quantizer(E2M1, (Scale(PerTensor()), fine))
            inputs = (None, ()) if step is None else two_level(E2M1, fine, step[0])
        else:
            codes = codes_of(weight.require(("F8_E4M3",), shape))
            scales = (codes_of(self._scalar(scale)),)
            quantizer = Quantizer(E4M3, (Scale(PerTensor()),))
            inputs = (None, ()) if step is None else static(E4M3, float(step[0, 0]), None)
        return Stored(tensor_of(codes, scales, None, quantizer, module), *inputs)

    def _part(self, parts: Mapping[str, Raw], module: str, name: str) -> Raw:
        if name not in parts:
            raise ValueError(f"{module} has no {name}; read are Model Optimizer's NVFP4 and FP8 with a scale a tensor")
        return parts[name]

    def _scalar(self, raw: Raw) -> np.ndarray:
        found = raw.require(("F32",), (1,), ()).reshape(1, 1)
        if not np.isfinite(found).all() or found[0, 0] <= 0:
            raise ValueError(f"{raw.name}: {found[0, 0]} found; a positive scale is needed")
        return found


class Gptq(Layout):
    """Of GPTQ: codes along K in words, a group for each column."""

    marker = "qweight"
    known = frozenset({"qweight", "qzeros", "scales", "g_idx"})

    def read(self, module: str, shape: tuple[int, int]) -> Stored:
        bits = _number(self.config, "bits", (2, 3, 4, 8))
        parts, (rows, k) = self.parts(module), shape
        words = _raw(parts, module, "qweight").require(("I32",), (k * bits // 32, rows))
        codes = unpack(np.ascontiguousarray(words.T).view(np.uint8), bits, k)
        scales = _raw(parts, module, "scales")
        groups = scales.values.shape[0] if scales.values.ndim == 2 else 0
        scale = scales.require(("F16", "F32"), (max(groups, 1), rows))
        stored_zero = _raw(parts, module, "qzeros").require(("I32",), (groups, rows * bits // 32))
        is_first = self.config.get("checkpoint_format", "gptq") == "gptq"
        zero = unpack(np.ascontiguousarray(stored_zero).view(np.uint8), bits, rows) + is_first
        size = _size(self.config, k, groups, module)
        order = _order(parts["g_idx"], k, size, module) if "g_idx" in parts else None
        codes = codes if order is None else codes[:, order]
        return Stored(_grouped(codes, codes_of(scale).T, zero.T, bits, size, scales.dtype, module), order=order)


class Awq(Layout):
    """Of AWQ: codes along the rows in words, interleaved."""

    marker = "qweight"
    known = frozenset({"qweight", "qzeros", "scales"})

    def read(self, module: str, shape: tuple[int, int]) -> Stored:
        bits = _number(self.config, "bits" if "bits" in self.config else "w_bit", (4,))
        version = str(self.config.get("version", "gemm")).lower()
        if version != "gemm":
            raise ValueError(f"{module}: AWQ of version {version!r} found; read is 'gemm'")
        parts, (rows, k) = self.parts(module), shape
        scales = _raw(parts, module, "scales")
        groups = scales.values.shape[0] if scales.values.ndim == 2 else 0
        scale = scales.require(("F16", "F32"), (max(groups, 1), rows))
        codes = self._codes(_raw(parts, module, "qweight").require(("I32",), (k, rows // 8)), bits)
        zero = self._codes(_raw(parts, module, "qzeros").require(("I32",), (groups, rows // 8)), bits)
        size = _size(self.config, k, groups, module)
        return Stored(_grouped(codes.T, codes_of(scale).T, zero.T, bits, size, scales.dtype, module))

    def _codes(self, words: np.ndarray, bits: int) -> np.ndarray:
        stored = unpack(np.ascontiguousarray(words).view(np.uint8), bits, words.shape[1] * 8)
        eights = stored.reshape(len(stored), -1, 8)
        return eights[:, :, np.argsort(AWQ_ORDER)].reshape(len(stored), -1)


def _grouped(
    codes: np.ndarray, scale: np.ndarray, zero: np.ndarray, bits: int, size: int, dtype: str, module: str
) -> QuantizedTensor:
    """Unsigned codes with a zero point a group; signed ones where all zero points are in the middle."""
    share = PerRow() if size >= codes.shape[1] else PerBlock(size)
    levels = (Scale(share, FLOAT16 if dtype == "F16" else FLOAT32),)
    middle = 2 ** (bits - 1)
    if (zero == middle).all():
        return tensor_of(codes ^ middle, (scale,), None, Quantizer(Int(bits), levels), module)
    if zero.max() >= 2**bits:
        raise ValueError(f"{module}: a zero point of {zero.max()} found, which is no code of {bits} bits")
    quantizer = Quantizer(Int(bits, signed=False), levels, zero=Zero.FITTED)
    return tensor_of(codes, (scale,), zero, quantizer, module)


def _size(config: Mapping[str, Any], k: int, groups: int, module: str) -> int:
    """Columns of a group, as config.json says them; the last group may have fewer."""
    found = config.get("group_size", config.get("q_group_size", -1))
    size = found if type(found) is int and found > 0 else k
    if -(-k // size) != groups:
        raise ValueError(f"{module}: scales of {groups} groups found, {k} columns in groups of {found} need others")
    return size


def _order(stored: Raw, k: int, size: int, module: str) -> np.ndarray | None:
    """The columns group by group, from each column's group; None where they lie so."""
    group = stored.require(("I32", "I64"), (k,)).astype(np.int64)
    order = np.argsort(group, kind="stable")
    if not np.array_equal(group[order], np.arange(k) // size):
        raise ValueError(f"{module}: {stored.name} has groups of other than {size} columns; none other are read")
    return None if np.array_equal(order, np.arange(k)) else order


def _listed(names: frozenset[str]) -> str:
    return ", ".join(sorted(names))


def _raw(parts: Mapping[str, Raw], module: str, name: str) -> Raw:
    if name not in parts:
        raise ValueError(f"{module} has no {name}; the folder is damaged or of another layout")
    return parts[name]


def _number(config: Mapping[str, Any], name: str, allowed: tuple[int, ...]) -> int:
    found = config.get(name)
    if found not in allowed or isinstance(found, bool):
        raise ValueError(f"{name} {found!r} found in quantization_config; read are {', '.join(map(str, allowed))}")
    return int(found)


def _matches(pattern: str, module: str) -> bool:
    try:
        return re.match(pattern, module) is not None
    except re.error:
        raise ValueError(f"config.json names layers by {pattern!r}, which is no regular expression") from None
