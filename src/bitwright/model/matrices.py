"""A frozen layer's products as quantized matrices: the codes that a circuit is given, and what they must come to.

Convolutions are unfolded code by code. K runs over taps, then channels, as in `bitwright.model.lowering`; channels are
filled up with codes of zero to whole blocks and runs.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import lcm
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bitwright.datapath import Datapath
from bitwright.model.layers import QuantizedLayer
from bitwright.model.task import Batch, Task
from bitwright.quantization import PerBlock, QuantizedTensor, Quantizer


class NotMatrices(ValueError):
    """A layer's products are not two matrices of codes."""


@dataclass(frozen=True)
class Matrices:
    """x @ w.T through a datapath: one layer, one group of its channels."""

    layer: str
    group: int
    groups: int
    datapath: Datapath
    x: QuantizedTensor
    w: QuantizedTensor
    values: Float[np.ndarray, "m n"]  # of the kernels, without the bias; float32


@dataclass(frozen=True)
class Seen:
    """A layer and an input that it was called with."""

    layer: QuantizedLayer
    input: Tensor


@torch.no_grad()
def layer_inputs(task: Task, frozen: nn.Module, batches: Iterable[Batch]) -> list[Seen]:
    """What each frozen layer with quantized inputs gets to see, in the order of calls."""
    seen: list[Seen] = []
    layers = [m for m in frozen.modules() if isinstance(m, QuantizedLayer) and m.input_quantizer is not None]
    hooks = [layer.register_forward_pre_hook(lambda m, args: seen.append(Seen(m, args[0].float()))) for layer in layers]
    try:
        for batch in batches:
            task.forward(frozen, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


@torch.no_grad()
def matrices(layer: QuantizedLayer, x: Tensor) -> Iterator[Matrices]:
    """The products of one call, group by group. NotMatrices where pixels of a convolution have scales of their own."""
    lowering, w = layer.lowering, _Taps.of(layer.quantized_weight())
    assert layer.input_quantizer is not None, "quantized input"
    weight = torch.empty(layer.weight_shape)
    rows = lowering.input_rows(x).contiguous()
    pixels = _Taps.of(layer.input_quantizer.quantize(rows.numpy(), layer.input_ranges))
    windows = lowering.windows(x, weight).numpy()
    exact = layer.sums(x).values
    outputs = (exact if lowering.kind == "Linear" else exact.movedim(1, -1)).reshape(-1, len(w.codes)).numpy()
    is_of_one_channel = weight.dim() > 2 and weight.shape[1] == 1
    groups = rows.shape[1] if is_of_one_channel else lowering.gemm(x, weight).groups
    count = len(w.codes) // groups
    for g in range(groups):
        here = slice(g * count, (g + 1) * count)
        if is_of_one_channel:
            pair = pixels.channel(g).gathered(windows).joined(), w.take(here)
        else:
            numbers = np.where(windows < 0, -1, windows * groups + g)
            pair = pixels.gathered(numbers), w.take(here).cut(windows.shape[1])
        alike = _alike(*pair)
        yield Matrices(layer.name, g, groups, layer.scheme.datapath, *alike, outputs[:, here].astype(np.float32))


class _Taps(NamedTuple):
    """Codes whose K is taps, then channels, with the scale codes of blocks of channels."""

    quantizer: Quantizer
    codes: Int[np.ndarray, "rows taps channels"]
    inside: Int[np.ndarray, "rows taps blocks"] | None  # None where no scale varies along K
    coarse: tuple[Int[np.ndarray, "_ _"], ...]
    zero_points: Int[np.ndarray, "1 1"] | None

    @staticmethod
    def of(t: QuantizedTensor) -> "_Taps":
        """With all of K as one tap."""
        rows, k = t.shape
        levels = list(zip(t.quantizer.scales, t.scales, strict=True))
        fine = [s.share.expand(codes, rows, k)[:, None, :: t.codes.shape[2]] for s, codes in levels if s.share.splits_k]
        coarse = tuple(codes for s, codes in levels if not s.share.splits_k)
        assert len(fine) < 2, "at most one level of scales varies along K"
        if t.zero_points is not None and t.zero_points.size > 1:
            raise NotMatrices(f"{t.zero_points.size} zero points found; one for all inputs can be unfolded")
        return _Taps(t.quantizer, t.codes.reshape(rows, 1, -1), fine[0] if fine else None, coarse, t.zero_points)

    def zeros(self, *shape: int) -> Int[np.ndarray, "*shape"]:
        """Codes of real zero."""
        if self.zero_points is None:
            return self.quantizer.format.encode(np.zeros(shape))
        return np.full(shape, self.zero_points[0, 0])

    @property
    def block(self) -> int:
        return 1 if self.inside is None else self.codes.shape[2] // self.inside.shape[2]

    def take(self, rows: slice) -> "_Taps":
        inside = None if self.inside is None else self.inside[rows]
        return self._replace(codes=self.codes[rows], inside=inside, coarse=_coarse(self.coarse, rows))

    def channel(self, c: int) -> "_Taps":
        """One channel alone."""
        inside = None if self.inside is None else self.inside[:, :, c // self.block, None]
        return self._replace(codes=self.codes[:, :, c, None], inside=inside)

    def gathered(self, numbers: Int[np.ndarray, "m taps"]) -> "_Taps":
        """These rows as taps; -1 is zero."""
        if numbers.shape[1] > 1 and any(len(codes) > 1 for codes in self.coarse):
            raise NotMatrices("each pixel has a scale of its own, which lies inside a convolution's sum")
        codes = np.concatenate([self.codes[:, 0], self.zeros(1, self.codes.shape[2])])[numbers]
        inside = None if self.inside is None else self.inside[:, 0][np.maximum(numbers, 0)]
        return self._replace(codes=codes, inside=inside, coarse=_coarse(self.coarse, numbers[:, 0]))

    def joined(self) -> "_Taps":
        """All taps as channels of one."""
        inside = None if self.inside is None else self.inside.reshape(len(self.codes), 1, -1)
        return self._replace(codes=self.codes.reshape(len(self.codes), 1, -1), inside=inside)

    def cut(self, taps: int) -> "_Taps":
        """One row of K as so many taps."""
        if self.codes.shape[2] // taps % self.block:
            raise NotMatrices(f"blocks of {self.block} elements reach from one tap of a convolution into the next")
        inside = None if self.inside is None else self.inside.reshape(len(self.codes), taps, -1)
        return self._replace(codes=self.codes.reshape(len(self.codes), taps, -1), inside=inside)

    def tensor(self, channels: int) -> QuantizedTensor:
        """The matrix, with so many channels: codes of zero behind those there are."""
        rows, taps, here = self.codes.shape
        filling = np.broadcast_to(self.zeros(1, 1, channels - here), (rows, taps, channels - here))
        codes = np.concatenate([self.codes, filling], 2)
        if self.inside is None:
            return QuantizedTensor(
                codes.reshape(rows, 1, -1), self.coarse, self.zero_points, taps * channels, self.quantizer
            )  # fmt: skip
        more = (channels - here) // self.block
        inside = np.pad(self.inside, ((0, 0), (0, 0), (0, more)), mode="edge").reshape(rows, -1)
        fine = replace(self.quantizer.scales[-1], share=PerBlock(self.block))
        quantizer = replace(self.quantizer, scales=(*self.quantizer.scales[:-1], fine))
        blocks = codes.reshape(rows, -1, self.block)
        return QuantizedTensor(blocks, (*self.coarse, inside), None, taps * channels, quantizer)


def _alike(x: _Taps, w: _Taps) -> tuple[QuantizedTensor, QuantizedTensor]:
    """Both with as many channels, in whole blocks and runs."""
    unit = lcm(x.block, w.block, x.quantizer.format.run, w.quantizer.format.run)
    channels = max(x.codes.shape[2], w.codes.shape[2])
    channels += -channels % unit
    return x.tensor(channels), w.tensor(channels)


def _coarse(scales: tuple[np.ndarray, ...], rows: slice | np.ndarray) -> tuple[np.ndarray, ...]:
    return tuple(codes if len(codes) == 1 else codes[rows] for codes in scales)
