"""Fake quantization as a graph of torch operations, which `torch.compile` takes whole and export formats hold.

`kernels.fake_quantize` asks a quantizer in Python what to do, which a compiler cannot follow; here that is asked once.
"""

import torch
from torch import Tensor

from bitwright.kernels.quantize import quantize
from bitwright.kernels.rounding import Unsupported
from bitwright.quantization import Quantizer, Range


class _FakeQuantize(torch.nn.Module):
    def __init__(self, quantizer: Quantizer, ranges: tuple[Range | None, ...]) -> None:
        super().__init__()
        self.quantizer, self.ranges = quantizer, ranges

    def forward(self, x: Tensor) -> Tensor:
        return quantize(self.quantizer, x, self.ranges).decode()


def traced(quantizer: Quantizer, x: Tensor, ranges: tuple[Range | None, ...] = ()) -> torch.nn.Module:
    """`fake_quantize` of float32 matrices shaped as x [rows, k], on its device, without a gradient.

    `torch.compile(traced(...), fullgraph=True)` is one compiled function. Values that are not finite are not refused.
    Raises `Unsupported` for formats whose kernel looks at the values: OverQ, L1 bounds, magnitudes without a sign.
    """
    with torch.no_grad():
        quantize(quantizer, x, ranges)  # fills the tables, which then are constants of the graph
        try:
            program = torch.export.export(_FakeQuantize(quantizer, ranges), (x,), strict=False)
        except (RuntimeError, TypeError, ValueError) as reason:
            raise Unsupported(f"{quantizer.format}, whose kernel looks at values: {reason}") from reason
    return program.module()
