"""Operands of a real network's layers as codes: what the hardware experiments drive their circuits with."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from bitwright.config import from_text
from bitwright.model.convolution import Conv
from bitwright.model.layers import FakeQuantizedLayer
from bitwright.model.prepare import calibrate, prepare, quantized_weight
from bitwright.model.task import Batch
from bitwright.model.transform import fold_batchnorm
from bitwright.model.watch import watch
from bitwright.model.zoo import TASKS
from bitwright.quantization import QuantizedTensor

IMAGES = 2
"""Whose inputs are taken, one row of the product after the other."""


@dataclass(frozen=True)
class LayerCodes:
    """Of one layer: inputs as the product has them, in the order of its outputs, and weights."""

    name: str
    x: QuantizedTensor
    w: QuantizedTensor
    macs: int
    """Of one image."""

    @property
    def is_signed(self) -> bool:
        """Whether inputs have negative levels."""
        return self.x.quantizer.format.bounds().lowest < 0


def bench(task_name: str) -> tuple[nn.Module, list[Batch], Callable[[nn.Module, Batch], Tensor]]:
    """A network without batch normalisation, its calibration batches, and how it runs."""
    task = TASKS[task_name]
    calibration = list(task.calibration())
    return fold_batchnorm(task.load(), calibration[0].inputs), calibration, task.forward


def layer_codes(task_name: str, scheme: str) -> tuple[LayerCodes, ...]:
    """Layers of a network under a scheme, on its first test images; without those of one channel a group."""
    task = TASKS[task_name]
    folded, calibration, forward = bench(task_name)
    prepared = calibrate(prepare(folded, from_text(scheme), calibration[0].first(1).inputs), calibration, forward)
    found: dict[str, LayerCodes] = {}

    def see(layer: FakeQuantizedLayer, x: Tensor) -> None:
        assert layer.input_quantizer is not None, "quantized inputs"
        if layer.weight.dim() > 2 and layer.weight.shape[1] == 1:
            return
        rows = layer.lowering.input_rows(x).float().numpy()
        codes = layer.input_quantizer.quantize(np.ascontiguousarray(rows), layer.input_ranges)
        if isinstance(layer.lowering, Conv):
            codes = unfolded(layer.lowering, layer.lowering.kernel(layer.weight), codes, x.shape)
        gemm = layer.lowering.gemm(x, layer.weight)
        macs = len(codes.codes) // len(x) * gemm.k * gemm.n
        found.setdefault(str(layer.name), LayerCodes(str(layer.name), codes, quantized_weight(layer), macs))

    layers = [m for m in prepared.modules() if isinstance(m, FakeQuantizedLayer)]
    with torch.no_grad():
        watch(task, prepared, layers, next(iter(task.test(IMAGES))), see)
    return tuple(found.values())


def unfolded(conv: Conv, kernel: tuple[int, int], x: QuantizedTensor, image: torch.Size) -> QuantizedTensor:
    """Codes of pixels as those of windows, taps before channels; scales that vary along K go with their codes."""
    batch, height, width = image[0], *image[-2:]
    assert image[1:2] == (x.k,), "one group"

    def windows(values: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(values.astype(np.float64)).view(batch, height, width, -1).movedim(-1, 1)
        taken = functional.unfold(functional.pad(pixels, conv.padding), kernel, conv.dilation, stride=conv.stride)
        taps = taken.view(batch, pixels.shape[1], -1, taken.shape[-1]).permute(0, 3, 2, 1)
        return taps.reshape(batch * taken.shape[-1], -1).numpy().astype(np.int64)

    block = x.codes.shape[2]
    codes = windows(x.codes.reshape(len(x.codes), -1)).reshape(-1, kernel[0] * kernel[1] * x.codes.shape[1], block)
    fine = x.scales[-1]
    scales = x.scales if fine.shape[0] == 1 else (*x.scales[:-1], windows(np.broadcast_to(fine, x.codes.shape[:2])))
    return replace(x, codes=codes, scales=scales, k=codes.shape[1] * block)
