"""Convolutions to matrix products: one integer convolution where it is exact, unfolded patches otherwise."""

from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from bitwright import kernels
from bitwright.datapath import Datapath
from bitwright.kernels import OneSum, Operand, Stationary, Unsupported, Window
from bitwright.kernels.matmul import accumulate, block_sum
from bitwright.kernels.outputs import digits, product
from bitwright.model.lowering import Gemm, Lowering, Output, shorten
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

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        image, (left, right, top, bottom) = _as_image(x), self.padding
        if left != right or top != bottom:
            image, left, top = functional.pad(image, self.padding), 0, 0
        y = self._convolve(image, _as_image(weight), bias, (top, left))
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

    def empty(self, like: Tensor, w: Stationary) -> Tensor:
        down, across = self._size(_as_image(like).shape[2:], w.kernel)
        image = torch.empty(len(like), down, across, w.operand.rows, device=like.device).movedim(-1, 1)
        return image if like.dim() == 4 else image.squeeze(2)

    def fill(self, datapath: Datapath, x: Operand, like: Tensor, w: Stationary, output: Output) -> tuple[int, int]:
        shape = _as_image(like).shape
        x = _per_pixel(x)
        out = _as_image(output.values).movedim(1, -1)
        output = Output(out, output.bias)
        if kernels.allows("torch"):
            one = kernels.one_sum(datapath, x, w)
            if one is not None and (one.tile is None or w.operand.k == self._k(shape[1], w)):
                return self._one_product(datapath, one, x, shape, w, output)
        if self._is_depthwise(shape[1]):
            one = kernels.sum_in_order(datapath, x, w)
            if one is not None:
                with suppress(Unsupported):
                    return self._read_out(datapath, one, self._each_channel(one, x, shape, w, out), x, w, output)
            with suppress(Unsupported):
                return self._each_channel_scaled(datapath, x, shape, w, output)
        return self._in_parts(datapath, x, shape, w, output)

    def _each_channel_scaled(
        self, datapath: Datapath, x: Operand, shape: torch.Size, w: Stationary, output: Output
    ) -> tuple[int, int]:
        """Sums in an integer register, each tap under scales of its own."""
        window = Window(w.kernel, self.stride, self.dilation, (self.padding[2], self.padding[0]))
        image, out = (shape[0], shape[2], shape[3]), output.values
        overflows = kernels.depthwise_scaled(datapath, x, image, w.operand, window, out)
        sums = out.view(-1, w.operand.rows)
        kernels.rescale(sums, x.outside[:1], w.operand.outside, output.bias, out=sums)
        return overflows, sums.numel() * (w.kernel[0] * w.kernel[1] + 1)

    def _in_parts(
        self, datapath: Datapath, x: Operand, shape: torch.Size, w: Stationary, output: Output
    ) -> tuple[int, int]:
        """Unfolded, some samples at a time."""
        batch, channels, height, width = shape
        rows = height * width * (x.rows // max(batch * height * width, 1))
        step = max(PATCHES // max(channels * height * width * w.kernel[0] * w.kernel[1], 1), 1)
        overflows = accumulations = 0
        for start in range(0, batch, step):
            part = x.take(slice(start * rows, (start + step) * rows))
            samples = torch.Size((min(step, batch - start), channels, height, width))
            values = output.values[start : start + step]
            over, sums = self._patches(datapath, part, samples, w, Output(values, output.bias))
            overflows, accumulations = overflows + over, accumulations + sums
        return overflows, accumulations

    def _is_depthwise(self, channels: int) -> bool:
        """One channel a group; a single-channel image is the case of one group."""
        return self.groups == channels

    def _convolve(
        self, x: Tensor, weight: Tensor, bias: Tensor | None = None, around: tuple[int, int] = (0, 0)
    ) -> Tensor:
        with kernels.whole_products(x):
            return functional.conv2d(x, weight, bias, self.stride, around, self.dilation, self.groups)

    def _size(self, size: torch.Size, kernel: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the output of an image of this size."""
        left, right, top, bottom = self.padding
        down, across = (
            (length + more - d * (k - 1) - 1) // s + 1
            for length, more, d, k, s in zip(
                size, (top + bottom, left + right), self.dilation, kernel, self.stride, strict=True
            )
        )
        return down, across

    def _k(self, channels: int, w: Stationary) -> int:
        """Products of one output."""
        return w.kernel[0] * w.kernel[1] * (channels // self.groups)

    def _one_product(
        self, datapath: Datapath, one: OneSum, x: Operand, shape: torch.Size, w: Stationary, output: Output
    ) -> tuple[int, int]:
        """Where additions may be in any order: a GEMM, a loop over the taps of each channel, or torch's convolution."""
        if self.groups == 1 and w.kernel == (1, 1) and not any(self.padding):
            image = x.scaled.view(*shape[:1], *shape[2:], -1)[:, :: self.stride[0], :: self.stride[1]]
            pixels = replace(x, elements=image.reshape(-1, 1, image.shape[-1]), inside=None)
            overflows, out = 0, output.values.view(-1, w.operand.rows)
            for part, sums in product(one, pixels, w, out):
                scales = x.outside[:1], w.operand.outside
                overflows += kernels.read_out(datapath, one, sums, scales, out[part], output.bias)
            return overflows, out.numel() * kernels.sums_each(one, x, w.operand, shape[1])
        try:
            sums = self._each_channel(one, x, shape, w, output.values)
        except Unsupported:
            sums = self._any_order(one, x, shape, w)
        return self._read_out(datapath, one, sums, x, w, output)

    def _read_out(
        self, datapath: Datapath, one: OneSum, sums: Tensor, x: Operand, w: Stationary, output: Output
    ) -> tuple[int, int]:
        """Sums [batch, down, across, n] to the output."""
        n, taps = w.operand.rows, w.kernel[0] * w.kernel[1]
        scales = x.outside[:1], w.operand.outside
        out = output.values.view(-1, n)
        overflows = kernels.read_out(datapath, one, sums.view(-1, n), scales, out, output.bias)
        return overflows, sums.numel() * kernels.sums_each(one, x, w.operand, w.operand.k, taps)

    def _each_channel(self, one: OneSum, x: Operand, shape: torch.Size, w: Stationary, out: Tensor) -> Tensor:
        """Sums [batch, down, across, n] where each channel has one filter, in `out` if it can hold them."""
        batch, channels, height, width = shape
        if not self._is_depthwise(channels) or w.operand.rows != channels:
            raise Unsupported("several channels or filters together")
        weight = w.scaled[:, : w.kernel[0] * w.kernel[1]].T.reshape(*w.kernel, channels).contiguous()
        sums = out if one.carrier == torch.float32 else torch.empty(out.shape, dtype=one.carrier)
        corner = self.padding[2], self.padding[0]
        image = x.scaled.view(batch, height, width, -1)
        return kernels.depthwise(image, weight, sums, self.stride, self.dilation, corner)

    def _any_order(self, one: OneSum, x: Operand, shape: torch.Size, w: Stationary) -> Tensor:
        """Sums [batch, down, across, n] by torch's convolution, of float64 only where few of float32 do not do."""
        batch, channels, height, width = shape
        n, kernel = w.operand.rows, w.kernel
        span = channels if self._is_depthwise(channels) else channels // self.groups
        if self._is_depthwise(channels):
            weight = w.scaled[:, : kernel[0] * kernel[1]].view(n, 1, *kernel)
        else:
            weight = w.scaled.view(n, *kernel, -1)[..., :span].movedim(-1, 1)

        def convolved(elements: Tensor, dtype: torch.dtype) -> Tensor:
            rows = elements.flatten(1)[:, :span]
            image = rows.reshape(batch, height, width, channels).movedim(-1, 1).to(dtype)
            left, right, top, bottom = self.padding
            around = (top, left)
            if left != right or top != bottom:
                image, around = functional.pad(image, self.padding), (0, 0)
            return self._convolve(image, weight.to(dtype), around=around).movedim(1, -1).contiguous()

        (factor, lowest), *others = digits(one, x, w) or [(0.0, x.scaled)]
        if not others:
            return convolved(lowest, torch.float32 if factor else torch.float64)
        sums = convolved(lowest, torch.float32).double()
        for factor, digit in others:
            sums.add_(convolved(digit, torch.float32), alpha=factor)
        return sums

    def _patches(
        self, datapath: Datapath, x: Operand, shape: torch.Size, w: Stationary, output: Output
    ) -> tuple[int, int]:
        """Unfold, then one product a group."""
        batch, channels, height, width = shape
        taps, n = w.kernel[0] * w.kernel[1], w.operand.rows // self.groups
        if self._is_depthwise(channels):
            with suppress(Unsupported):
                return self._depthwise(datapath, x, shape, w, output)
            # one product a channel then, each by the implementation that takes it
            x, w = _per_channel(x, channels), w if x.inside is None else _in_runs(w, 1, 1, taps)
        else:
            x, w = _aligned(x, w, channels // self.groups, taps)
        # [batch, down, across, taps, groups, padded channels]
        patches = self._windows(x.elements.view(batch, height, width, self.groups, -1), w.kernel)
        inside = None
        if x.inside is not None:
            inside = self._windows(x.inside.view(batch, height, width, self.groups, -1), w.kernel)
        out = output.values.view(-1, w.operand.rows)
        rows = len(out)
        overflows = accumulations = 0
        for g in range(self.groups):
            own = slice(g * n, (g + 1) * n)
            scale = None if inside is None else inside[..., g, :].reshape(rows, -1)
            elements = patches[..., g, :].reshape(rows, 1 if scale is None else scale.shape[1], -1)
            k = elements.shape[1] * elements.shape[2]
            part = replace(x, elements=elements, inside=scale, outside=x.outside[:1].expand(rows, 1), k=k)
            if self.groups == 1:
                return kernels.outputs(datapath, part, w, out, output.bias)
            stationary = Stationary(w.operand.take(own), w.kernel)
            values, over, sums = kernels.matmul(datapath, part, stationary)
            out[:, own] = values
            overflows, accumulations = overflows + over, accumulations + sums
        if output.bias is not None:
            out.add_(output.bias)
        return overflows, accumulations

    def _windows(self, image: Tensor, kernel: tuple[int, int]) -> Tensor:
        """[batch, height, width, ...] zero-padded, as windows [batch, down, across, taps, ...]: a view."""
        down, across = self._size(image.shape[1:3], kernel)
        if any(self.padding):
            image = functional.pad(image, (0, 0) * (image.dim() - 3) + self.padding)
        b, y, x, *rest = image.stride()
        (dy, dx), (sy, sx) = self.dilation, self.stride
        view = image.as_strided(
            (image.shape[0], down, across, *kernel, *image.shape[3:]), (b, y * sy, x * sx, y * dy, x * dx, *rest)
        )
        return view.flatten(3, 4)

    def _depthwise(
        self, datapath: Datapath, x: Operand, shape: torch.Size, w: Stationary, output: Output
    ) -> tuple[int, int]:
        """One channel a group where the input's scales vary between pixels: K is the taps, each its own block."""
        if x.inside is None or datapath.tile is not None or not kernels.allows("torch"):
            raise Unsupported("sums over several taps of one channel")
        batch, channels, height, width = shape
        kernel, taps = w.kernel, w.kernel[0] * w.kernel[1]
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
        out = output.values.view(-1, w.operand.rows)
        kernels.rescale(total.view(out.shape), x.outside[:1], w.operand.outside, output.bias, out=out)
        return overflows, total.numel() * (taps + 1)


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
    if len(x.outside) < 2 or x.outside.stride(0) == 0 or bool((x.outside == x.outside[:1]).all()):
        return x
    if x.inside is not None:
        raise ValueError(
            "a convolution's input has one scale a tensor and one a block; a scale a row as well is not possible"
        )
    return replace(x, elements=x.flat().unsqueeze(1), inside=x.outside.float(), outside=torch.ones_like(x.outside))
