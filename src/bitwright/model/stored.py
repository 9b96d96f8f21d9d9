"""A quantized matrix as buffers of a module: codes and scale codes, in as few bytes as torch has a type for."""

import numpy as np
import torch
from torch import Tensor, nn

from bitwright.quantization import QuantizedTensor, Quantizer


def store_(module: nn.Module, weight: QuantizedTensor) -> None:
    """Codes, scale codes and codes of real zero as the module's buffers."""
    for name in [name for name in module._buffers if name.startswith("scales_")]:
        del module._buffers[name]
    module.register_buffer("codes", _as_buffer(weight.codes, weight.quantizer.format.bits))
    for i, (codes, scale) in enumerate(zip(weight.scales, weight.quantizer.scales, strict=True)):
        module.register_buffer(f"scales_{i}", _as_buffer(codes, scale.format.bits))
    zero = weight.zero_points
    module.register_buffer("zero_points", None if zero is None else _as_buffer(zero, weight.quantizer.format.bits))


def stored(module: nn.Module, quantizer: Quantizer, k: int) -> QuantizedTensor:
    """What `store_` keeps."""
    scales = tuple(_from_buffer(getattr(module, f"scales_{i}")) for i in range(len(quantizer.scales)))
    zero = None if module.zero_points is None else _from_buffer(module.zero_points)  # type: ignore[arg-type]
    return QuantizedTensor(_from_buffer(module.codes), scales, zero, k, quantizer)  # type: ignore[arg-type]


def _as_buffer(codes: np.ndarray, bits: int) -> Tensor:
    dtype = np.uint8 if bits <= 8 else np.int32 if bits < 32 else np.int64
    return torch.from_numpy(codes.astype(dtype))


def _from_buffer(buffer: Tensor) -> np.ndarray:
    return buffer.cpu().numpy().astype(np.int64)
