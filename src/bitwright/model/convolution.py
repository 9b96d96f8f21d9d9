"""Convolutions to matrix products: one integer convolution where it is exact, unfolded patches otherwise."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from bitwright import kernels
from bitwright.datapath import Datapath, Overflow
from bitwright.kernels import Operand, Stationary, Unsupported
from bitwright.kernels.matmul import accumulate, block_sum, is_one_integer_sum, settle
from bitwright.model.lowering import Gemm, Lowering, Sums, shorten
from bitwright.quantization import Quantizer

PATCHES = 1 << 21
"""Unfolded elements worked on at a time: bounds memory, and keeps temporaries small enough to be recycled."""


@dataclass(frozen=True)
class Conv(Lowering):
    """Convolution over one or two axes; one axis is two with a height of 1."""

    stride: tuple[int, int]
    padding: tuple[int, int, int, int]  # left, right, top, bottom
    dilation: tuple[int, int]
    groups: int
    kind: str = "Conv2d"

    @staticmethod
    def of(layer: nn.Conv1d | nn.Conv2d) -> "Conv":
        """The lowering of a torch layer. Padding other than zeros raises ValueError."""
        if layer.padding_mode != "zeros":
            raise ValueError(f"padding mode {layer.padding_mode!r} is not quantized; only zeros are")
        kind = "Conv1d" if isinstance(layer, nn.Conv1d) else "Conv2d"
        stride, dilation = _height_and_width(layer.stride, 1), _height_and_width(layer.dilation, 1)
        if isinstance(layer.padding, str):  # "same", or "valid", which pads nothing
            kernel = _height_and_width(layer.kernel_size, 1)
            wanted = [d * (k - 1) * (layer.padding == "same") for d, k in zip(dilation, kernel, strict=True)]
            height, width = wanted
            return Conv(
                stride,
                (width // 2, width - width // 2, height // 2, height - height // 2),
                dilation,
                layer.groups,
                kind,
            )
        height, width = _height_and_width(layer.padding, 0)
        return Conv(stride, (width, width, height, height), dilation, layer.groups, kind)

    def input_rows(self, x: Tensor) -> Tensor:
        x = _as_image(x).movedim(1, -1)
        groups = 1 if self._is_depthwise(x.shape[-1]) else self.groups
        return x.reshape(-1, x.shape[-1] // groups)

    def input_from_rows(self, rows: Tensor, x: Tensor) -> Tensor:
        image = _as_image(x)
        return rows.view(*image.movedim(1, -1).shape).movedim(-1, 1).reshape(x.shape)

    def weight_rows(self, weight: Tensor, block: int) -> Tensor:
        weight = _as_image(weight)
        if weight.shape[1] == 1:
            return weight.flatten(1)
        padded = functional.pad(weight.movedim(1, -1), (0, -weight.shape[1] % block))
        return padded.flatten(1).contiguous()

    def weight_from_rows(self, rows: Tensor, shape: torch.Size, block: int) -> Tensor:
        n, channels = shape[:2]
        if channels == 1:
            return rows.view(shape)
        kernel = (1, *shape[2:])[-2:]
        padded = rows.view(n, *kernel, -1)[..., :channels]
        return padded.movedim(-1, 1).reshape(shape)

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        y = self._convolve(functional.pad(_as_image(x), self.padding), _as_image(weight))
        return y if x.dim() == 4 else y.squeeze(2)

    def channels(self, weight: Tensor) -> int:
        # a depthwise weight has one channel a filter: its vectors run over the taps instead
        return weight.shape[1] if weight.shape[1] > 1 else weight[0].numel()

    def input_channels(self, weight: Tensor) -> int:
        """Channels of one group, or of the whole image where each group has one."""
        return weight.shape[1] if weight.shape[1] > 1 else self.groups

    def has_neighbours(self, weight: Tensor) -> bool:
        """A filter of one channel meets its taps, whose codes are neighbours in no row of the input."""
        return weight.shape[1] > 1

    def along_k(self, quantizer: Quantizer, shape: torch.Size) -> Quantizer:
        """Of one channel a group: blocks run over channels and K over taps, so each tap has a scale of its own."""
        return quantizer if shape[1] > 1 else shorten(quantizer, 1)

    def kernel(self, weight: Tensor) -> tuple[int, int]:
        height, width = (1, *weight.shape[2:])[-2:]
        return height, width

    def per_output(self, values: Tensor, y: Tensor) -> Tensor:
        return values.view(-1, *[1] * (y.dim() - 2))

    def gemm(self, x: Tensor, weight: Tensor) -> Gemm:
        out = self._convolve(functional.pad(torch.zeros_like(_as_image(x[:1])), self.padding), _as_image(weight))
        return Gemm(out.shape[2] * out.shape[3], weight[0].numel(), weight.shape[0] // self.groups, self.groups)

    def windows(self, x: Tensor, weight: Tensor) -> Tensor:
        batch, _, height, width = _as_image(x).shape
        pixels = torch.arange(1, batch * height * width + 1).view(batch, height, width)
        return self._windows(pixels, self.kernel(weight)).flatten(0, 2) - 1

    def exact(self, datapath: Datapath, x: Operand, like: Tensor, w: Stationary) -> Sums:
        image = _as_image(like)
        batch, channels, height, width = image.shape
        x = _per_pixel(x)
        kernel = w.kernel
        if self._fits_one_convolution(datapath, x, w):
            sums = self._one_convolution(datapath, x, image.shape, w, kernel)
        else:
            rows = height * width * (x.rows // max(batch * height * width, 1))
            step = max(PATCHES // max(channels * height * width * kernel[0] * kernel[1], 1), 1)
            parts = []
            for start in range(0, batch, step):
                part = x.take(slice(start * rows, (start + step) * rows))
                count = min(step, batch - start)
                parts.append(self._patches(datapath, part, (count, channels, height, width), w, kernel))
            sums = Sums(
                torch.cat([p.values for p in parts]),
                sum(p.overflows for p in parts),
                sum(p.accumulations for p in parts),
            )
        return sums if like.dim() == 4 else replace(sums, values=sums.values.squeeze(2))

    def _is_depthwise(self, channels: int) -> bool:
        """One channel a group; a single-channel image is the case of one group."""
        return self.groups == channels

    def _convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        with kernels.whole_products(x):
            return functional.conv2d(x, weight, None, self.stride, 0, self.dilation, self.groups)

    def _fits_one_convolution(self, datapath: Datapath, x: Operand, w: Stationary) -> bool:
        """Whether scales can be multiplied in beforehand, float32 holds every sum and no register is stepped."""
        if datapath.tile is not None or (datapath.inner.range is None and datapath.inner.format is not None):
            return False
        if x.inside is None and w.operand.inside is None:
            limits, bound = datapath.inner.range, kernels.matmul_bound(x, w)
            may_saturate = limits is not None and bound > min(-limits[0], limits[1])
            return not (may_saturate and datapath.inner.overflow is Overflow.SATURATE) and bound < 2**24
        return is_one_integer_sum(datapath, x, w) and kernels.matmul_bound(x, w) < 2**24

    def _one_convolution(
        self, datapath: Datapath, x: Operand, shape: torch.Size, w: Stationary, kernel: tuple[int, int]
    ) -> Sums:
        batch, channels, height, width = shape
        depthwise = self._is_depthwise(channels)
        span = channels // (1 if depthwise else self.groups)
        image = x.scaled.flatten(1)[:, :span].reshape(batch, height, width, channels).movedim(-1, 1)
        n = w.operand.rows
        rows = w.scaled
        weight = rows[:, : kernel[0] * kernel[1]].view(n, 1, *kernel) if depthwise else (
            rows.view(n, *kernel, -1)[..., :span].movedim(-1, 1)
        )  # fmt: skip
        bound = kernels.matmul_bound(x, w)
        total = self._convolve(functional.pad(image, self.padding), weight.contiguous()).double()
        overflows = blocks = 0
        if x.inside is None and w.operand.inside is None:
            total, overflows = settle(datapath.inner, total, bound, x.unit + w.operand.unit)
        else:  # scales are multiplied in, and no register of a block can overflow
            blocks = self._blocks(x, w, kernel, depthwise)
        outside_x = x.outside[0, 0]  # one for the tensor, or it would vary along K
        values = total * outside_x * w.operand.outside.view(1, -1, 1, 1)
        return Sums(values.float(), overflows, total.numel() * (blocks + 1))

    def _blocks(self, x: Operand, w: Stationary, kernel: tuple[int, int], depthwise: bool) -> int:
        taps = kernel[0] * kernel[1]
        return (
            taps
            if depthwise
            else w.operand.elements.shape[1]
            if w.operand.inside is not None
            else taps * x.elements.shape[1]
        )

    def _patches(
        self, datapath: Datapath, x: Operand, shape: tuple[int, int, int, int], w: Stationary, kernel: tuple[int, int]
    ) -> Sums:
        """Unfold, then one product a group."""
        batch, channels, height, width = shape
        taps = kernel[0] * kernel[1]
        if self._is_depthwise(channels):
            try:
                return self._depthwise(datapath, x, shape, w, kernel)
            except Unsupported:  # one product a channel then, each by the implementation that takes it
                x, w = _per_channel(x, channels), w if x.inside is None else _in_runs(w, 1, 1, taps)
        else:
            x, w = _aligned(x, w, channels // self.groups, taps)
        image = x.elements.view(batch, height, width, self.groups, -1)
        patches = self._windows(image, kernel)  # [batch, down, across, taps, groups, padded channels]
        down, across = patches.shape[1:3]
        inside = None
        if x.inside is not None:
            inside = self._windows(x.inside.view(batch, height, width, self.groups, -1), kernel)
        rows = batch * down * across
        n = w.operand.rows // self.groups
        outputs, overflows, accumulations = [], 0, 0
        for g in range(self.groups):
            scale = None if inside is None else inside[..., g, :].reshape(rows, -1)
            elements = patches[..., g, :].reshape(rows, 1 if scale is None else scale.shape[1], -1)
            part = replace(
                x,
                elements=elements,
                inside=scale,
                outside=x.outside[:1].expand(rows, 1),
                k=elements.shape[1] * elements.shape[2],
            )
            stationary = w if self.groups == 1 else Stationary(w.operand.take(slice(g * n, (g + 1) * n)), kernel)
            values, over, sums = kernels.matmul(datapath, part, stationary)
            outputs.append(values.float())
            overflows, accumulations = overflows + over, accumulations + sums
        values = torch.cat(outputs, 1).view(batch, down, across, -1).movedim(-1, 1)
        return Sums(values, overflows, accumulations)

    def _windows(self, image: Tensor, kernel: tuple[int, int]) -> Tensor:
        """[batch, height, width, ...] zero-padded, as windows [batch, down, across, taps, ...]: a view."""
        left, right, top, bottom = self.padding
        image = functional.pad(image, (0, 0) * (image.dim() - 3) + (left, right, top, bottom))
        down, across = (
            (size - d * (k - 1) - 1) // s + 1
            for size, d, k, s in zip(image.shape[1:3], self.dilation, kernel, self.stride, strict=True)
        )
        b, y, x, *rest = image.stride()
        (dy, dx), (sy, sx) = self.dilation, self.stride
        view = image.as_strided(
            (image.shape[0], down, across, *kernel, *image.shape[3:]), (b, y * sy, x * sx, y * dy, x * dx, *rest)
        )
        return view.flatten(3, 4)

    def _depthwise(
        self, datapath: Datapath, x: Operand, shape: tuple[int, int, int, int], w: Stationary, kernel: tuple[int, int]
    ) -> Sums:
        """One channel a group where the input's scales vary between pixels: K is the taps, each its own block."""
        if x.inside is None or datapath.tile is not None:
            raise Unsupported("sums over several taps of one channel")
        batch, channels, height, width = shape
        taps = kernel[0] * kernel[1]
        multiplier = w.operand.rows // channels
        flat = x.elements.flatten(1)[:, :channels].view(batch, height, width, channels)
        elements = self._windows(flat, kernel).repeat_interleave(multiplier, -1)
        per_channel = _per_element(x)[:, :channels].view(batch, height, width, channels)
        inside = self._windows(per_channel, kernel).repeat_interleave(multiplier, -1)
        weight = w.operand.flat()[:, :taps]
        scale = torch.ones(1, 1, device=weight.device)
        if w.operand.inside is not None:
            scale = _per_element(w.operand)[:, :taps]
        bound = x.largest * w.operand.largest
        steps = (
            (
                block_sum(datapath.inner, elements[..., t, :], weight[:, t], bound, multiply=torch.mul),
                inside[..., t, :].double() * scale[:, min(t, scale.shape[1] - 1)].double(),
            )
            for t in range(taps)
        )
        total, overflows = accumulate(datapath, steps, x.unit + w.operand.unit)
        values = total * x.outside[0, 0] * w.operand.outside.view(-1)
        return Sums(values.float().movedim(-1, 1), overflows, values.numel() * (taps + 1))


def _height_and_width(values: tuple[int, ...], missing: int) -> tuple[int, int]:
    """The last two axes; `missing` stands for the height of one axis alone."""
    height, width = (missing, *values)[-2:]
    return int(height), int(width)


def _as_image(x: Tensor) -> Tensor:
    return x if x.dim() == 4 else x.unsqueeze(2)


def _per_element(operand: Operand) -> Tensor:
    """The scale inside, at each element [rows, padded K]."""
    assert operand.inside is not None, "a scale that varies along K"
    return operand.inside.repeat_interleave(operand.elements.shape[2], 1)


def _per_channel(x: Operand, channels: int) -> Operand:
    """Rows of pixels in blocks of one channel."""
    inside = None if x.inside is None else _per_element(x)[:, :channels]
    return replace(x, elements=x.flat()[:, :channels].unsqueeze(2), inside=inside)


def _aligned(x: Operand, w: Stationary, channels: int, taps: int) -> tuple[Operand, Stationary]:
    """Both operands with each tap's channels in whole blocks of the finer one's size."""
    sizes = [o.elements.shape[2] for o in (x, w.operand) if o.inside is not None]
    block = min(sizes, default=channels)
    padded = channels + -channels % block
    if x.elements.shape[1] * x.elements.shape[2] != padded or (x.inside is not None and x.elements.shape[2] != block):
        x = _in_runs(Stationary(x), block, channels, 1).operand
    if w.operand.k != taps * padded or (w.operand.inside is not None and w.operand.elements.shape[2] != block):
        w = _in_runs(w, block, channels, taps)
    return x, w


def _in_runs(w: Stationary, block: int, channels: int, runs: int) -> Stationary:
    """The same rows of K = (runs, channels), each run padded to whole blocks of this size."""
    operand = w.operand

    def cut(values: Tensor) -> Tensor:
        run = values[:, : operand.k].unflatten(1, (runs, -1))[..., :channels]
        return functional.pad(run, (0, -channels % block)).flatten(1).unflatten(1, (-1, block))

    inside = None if operand.inside is None else cut(_per_element(operand))[..., 0]
    elements = cut(operand.flat())
    return Stationary(replace(operand, elements=elements, inside=inside, k=elements.shape[1] * block), w.kernel)


def _per_pixel(x: Operand) -> Operand:
    """A scale that varies between pixels lies inside the sum of a convolution."""
    if bool((x.outside == x.outside[:1]).all()):
        return x
    if x.inside is not None:
        raise ValueError(
            "a convolution's input has one scale a tensor and one a block; a scale a row as well is not possible"
        )
    return replace(x, elements=x.flat().unsqueeze(1), inside=x.outside.float(), outside=torch.ones_like(x.outside))
