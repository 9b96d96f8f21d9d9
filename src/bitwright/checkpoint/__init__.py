"""Checkpoints as files: quantized shard by shard on NumPy and the native library, without torch and without a model."""

from bitwright.checkpoint.formats import NAMED, CheckpointFormat, Float8, Integers, Mx, Nvfp4
from bitwright.checkpoint.quantize import Quantized, quantize_checkpoint
from bitwright.checkpoint.selection import Selection
from bitwright.checkpoint.tensors import Entry, TensorFile, TensorWriter

__all__ = [
    "NAMED", "CheckpointFormat", "Entry", "Float8", "Integers", "Mx", "Nvfp4", "Quantized", "Selection", "TensorFile",
    "TensorWriter", "quantize_checkpoint",
]  # fmt: skip
