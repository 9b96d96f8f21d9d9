"""Layers to matrix products: rows of pixels or tokens with channels last, weights as rows of K = (kernel, channels).

Inputs are quantized as rows [pixels, channels] and unfolded afterwards, so that a value has one code however many
outputs it reaches. Channels are padded to whole blocks inside K.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from bitwright import kernels
from bitwright.datapath import Datapath
from bitwright.gemm import Gemm
from bitwright.kernels import Operand, Stationary
from bitwright.quantization import AnyQuantizer, BestOf, BySign, PerBlock, PerColumns, Quantizer


@dataclass(frozen=True)
class Sums:
    """An exact output and what its accumulators went through."""

    values: Tensor
    overflows: int
    accumulations: int


@dataclass(frozen=True)
class Output:
    """Where a layer's output goes, and the bias that is added to it."""

    values: Tensor  # float32
    bias: Tensor | None = None


class Lowering(ABC):
    """How one kind of layer becomes matrix products."""

    kind: str

    @abstractmethod
    def input_rows(self, x: Tensor) -> Tensor:
        """x as rows [pixels or tokens, channels of one group]."""

    @abstractmethod
    def input_from_rows(self, rows: Tensor, x: Tensor) -> Tensor:
        """Rows back in the shape of x."""

    @abstractmethod
    def weight_rows(self, weight: Tensor, block: int) -> Tensor:
        """Weight as rows [outputs, K], channels padded to whole blocks."""

    @abstractmethod
    def weight_from_rows(self, rows: Tensor, shape: torch.Size, block: int) -> Tensor:
        """Rows back in the weight's shape, padding dropped."""

    @abstractmethod
    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """The layer in float."""

    @abstractmethod
    def empty(self, like: Tensor, w: Stationary) -> Tensor:
        """Memory for the output of an input of this shape, its channels next to each other."""

    def exact(self, datapath: Datapath, x: Operand, like: Tensor, w: Stationary, output: Output | None = None) -> Sums:
        """The layer through the datapath. `like` has the float input's shape. Without `output`, there is no bias."""
        output = Output(self.empty(like, w)) if output is None else output
        overflows, accumulations = self.fill(datapath, x, like, w, output)
        return Sums(output.values, overflows, accumulations)

    @abstractmethod
    def fill(self, datapath: Datapath, x: Operand, like: Tensor, w: Stationary, output: Output) -> tuple[int, int]:
        """Write the output, of the strides that `empty` gives; sums that overflowed, and sums in all."""

    def input_channels(self, weight: Tensor) -> int:
        """Channels of one group of the input."""
        return self.channels(weight)

    def along_k(self, quantizer: Quantizer, shape: torch.Size) -> Quantizer:
        """The input's quantizer as its scales lie along the K of a weight of this shape."""
        return quantizer

    def kernel(self, weight: Tensor) -> tuple[int, int]:
        """Taps of a convolution."""
        return 1, 1

    @abstractmethod
    def gemm(self, x: Tensor, weight: Tensor) -> Gemm: ...

    @abstractmethod
    def windows(self, x: Tensor, weight: Tensor) -> Tensor:
        """Which pixel or token of x each tap of each output reads, [outputs, taps]; -1 is padding."""

    def add_bias(self, y: Tensor, bias: Tensor | None) -> Tensor:
        return y if bias is None else y + self.per_output(bias, y).to(y.dtype)  # autocast narrows y alone

    def per_output(self, values: Tensor, y: Tensor) -> Tensor:
        """One value an output, in a shape that broadcasts against y."""
        return values

    def channels(self, weight: Tensor) -> int:
        """Elements of K that lie next to each other in the input: what a block can span."""
        return weight.shape[1]

    def has_neighbours(self, weight: Tensor) -> bool:
        """Whether channels that are neighbours in the input meet in one dot product."""
        return True

    def fit_input(self, quantizer: AnyQuantizer, weight: Tensor) -> AnyQuantizer:
        """The input's quantizer with blocks no longer than the channels that they run along."""
        return _each(quantizer, lambda q: shorten(self._neighbourly(q, weight), self.input_channels(weight)))

    def fit_weight(self, quantizer: AnyQuantizer, weight: Tensor) -> AnyQuantizer:
        """The weight's quantizer with blocks no longer than the channels that they run along."""
        return _each(quantizer, lambda q: shorten(self._neighbourly(q, weight), self.channels(weight)))

    def _neighbourly(self, quantizer: Quantizer, weight: Tensor) -> Quantizer:
        return quantizer if self.has_neighbours(weight) else quantizer.alone()


def _each(quantizer: AnyQuantizer, change: Callable[[Quantizer], Quantizer]) -> AnyQuantizer:
    """The same choice among changed quantizers."""
    if isinstance(quantizer, BestOf):
        return BestOf(tuple(change(q) for q in quantizer.quantizers))
    if isinstance(quantizer, BySign):
        return BySign(_each(quantizer.unsigned, change), _each(quantizer.signed, change))  # type: ignore[arg-type]
    return change(quantizer)


def shorten(quantizer: Quantizer, span: int) -> Quantizer:
    """Blocks of at most `span` elements, made up to whole runs of the format."""
    longest = span + -span % quantizer.format.run
    scales = tuple(
        replace(s, share=replace(s.share, size=min(s.share.size, longest)))
        if isinstance(s.share, PerBlock | PerColumns)
        else s
        for s in quantizer.scales
    )
    return replace(quantizer, scales=scales)


@dataclass(frozen=True)
class Linear(Lowering):
    """x @ w.T over the last axis."""

    kind = "Linear"

    def input_rows(self, x: Tensor) -> Tensor:
        return x.reshape(-1, x.shape[-1])

    def input_from_rows(self, rows: Tensor, x: Tensor) -> Tensor:
        return rows.view(x.shape)

    def weight_rows(self, weight: Tensor, block: int) -> Tensor:
        return weight

    def weight_from_rows(self, rows: Tensor, shape: torch.Size, block: int) -> Tensor:
        return rows[:, : shape[-1]]

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return functional.linear(x, weight, bias)

    def empty(self, like: Tensor, w: Stationary) -> Tensor:
        return torch.empty(*like.shape[:-1], w.operand.rows, device=like.device)

    def fill(self, datapath: Datapath, x: Operand, like: Tensor, w: Stationary, output: Output) -> tuple[int, int]:
        return kernels.outputs(datapath, x, w, output.values.view(-1, w.operand.rows), output.bias)

    def gemm(self, x: Tensor, weight: Tensor) -> Gemm:
        return Gemm(x[0].numel() // x.shape[-1] if x.dim() > 1 else 1, weight.shape[1], weight.shape[0])

    def windows(self, x: Tensor, weight: Tensor) -> Tensor:
        return torch.arange(x.numel() // x.shape[-1])[:, None]
