"""Unroll transposed convolutions into ordinary ones, one for each phase of their output.

With stride s, dilation d and padding p, input i and tap t of the kernel meet in output o = s·i + d·t - p. The outputs
with o mod s = r are phase r. They meet only taps with d·t ≡ r + p (mod s), which lie s / gcd(d, s) apart, so that each
phase is a convolution of stride 1 and dilation d / gcd(d, s) with these taps in reverse order. Phases are interleaved
to the output. The network computes the same function, and K of each product counts the taps that do meet.

W. Shi et al., "Is the deconvolution layer the same as a convolutional layer?", arXiv:1609.07009.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bitwright.model.inspect import TRANSPOSED, unsupported_reason
from bitwright.model.transform.replaced import replaced


def unroll_transposed(model: nn.Module) -> nn.Module:
    """A copy with `UnrolledTransposed` for nn.ConvTranspose1d and 2d. What `inspect` calls unsupported stays.

    Phases have weights of their own: a weight that several modules share is shared no more.
    """
    model = copy.deepcopy(model)
    replacements: dict[int, nn.Module] = {
        id(module): UnrolledTransposed(module)
        for module in model.modules()
        if isinstance(module, TRANSPOSED) and unsupported_reason(module) is None
    }
    return replaced(model, replacements)


@dataclass(frozen=True)
class Phase:
    """The outputs along one axis whose index is `residue` modulo the stride."""

    residue: int
    taps: tuple[int, ...]  # of the transposed kernel, the last first; none where the kernel is shorter than the stride
    dilation: int
    start: int  # input that the first of these taps meets at the phase's first output

    @staticmethod
    def of(residue: int, kernel: int, stride: int, padding: int, dilation: int) -> "Phase":
        """The phase of a transposed convolution's axis."""
        taps = tuple(t for t in reversed(range(kernel)) if (residue + padding - dilation * t) % stride == 0)
        start = (residue + padding - dilation * taps[0]) // stride if taps else 0
        return Phase(residue, taps, dilation // math.gcd(dilation, stride), start)

    def inputs(self, outputs: int) -> range:
        """The inputs that the first outputs meet; those that do not exist are zeros."""
        return range(self.start, self.start + outputs + self.dilation * (len(self.taps) - 1))


class UnrolledTransposed(nn.Module):
    """An nn.ConvTranspose1d or 2d whose phases are children, called as the module that it is made of.

    `phase_1` of one axis, or `phase_0_1` of height and width, is the nn.Conv1d or 2d of the outputs with these indices
    modulo the stride. All share the bias. A phase that meets no tap has no child: it is the bias alone. Fields such as
    `stride` keep their names. Arguments of wrong shapes raise ValueError.
    """

    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    output_padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    bias: nn.Parameter | None

    def __init__(self, module: nn.ConvTranspose1d | nn.ConvTranspose2d) -> None:
        super().__init__()
        self._kind = type(module).__name__
        for field, value in vars(module).items():
            if not field.startswith("_"):
                setattr(self, field, value)
        self._phases: dict[str, tuple[Phase, ...]] = {}
        weight, has_gap = _as_convolution(module.weight.detach(), module.groups), False
        for phases in product(*self._phases_of_axes()):
            if all(phase.taps for phase in phases):
                name = "_".join(("phase", *(str(phase.residue) for phase in phases)))
                self._phases[name] = phases
                self.add_module(name, _convolution(module, phases, weight))
            else:
                has_gap = True
        self.bias = module.bias if has_gap else None  # type: ignore[assignment]  # torch says Tensor
        self.train(module.training)

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        axes = len(self.stride)
        if input.dim() not in (axes + 1, axes + 2) or input.shape[-axes - 1] != self.in_channels:
            raise ValueError(
                f"{self._kind}: the input has shape {tuple(input.shape)}; give {self.in_channels} channels in front of "
                f"the last {axes} axes, and at most one axis, of samples, in front of them"
            )
        x = input if input.dim() == axes + 2 else input[None]
        sizes = self._sizes(input, output_size)
        y = x.new_zeros(len(x), self.out_channels, *sizes)
        if self.bias is not None:
            y = y + self.bias.view(-1, *[1] * axes)
        for name, phases in self._phases.items():
            strided = tuple(slice(phase.residue, None, s) for phase, s in zip(phases, self.stride, strict=True))
            outputs = [len(range(size)[part]) for size, part in zip(sizes, strided, strict=True)]
            if all(outputs):
                read = [phase.inputs(count) for phase, count in zip(phases, outputs, strict=True)]
                place: Any = (..., *strided)
                y[place] = self.get_submodule(name)(_cut(x, read))
        return y if input.dim() == axes + 2 else y.squeeze(0)

    def _phases_of_axes(self) -> list[list[Phase]]:
        axes = zip(self.kernel_size, self.stride, self.padding, self.dilation, strict=True)
        return [[Phase.of(residue, *axis) for residue in range(axis[1])] for axis in axes]

    def _sizes(self, input: Tensor, wanted: Sequence[int] | None) -> list[int]:
        """Outputs along each axis."""
        axes = len(self.stride)
        least = [
            (n - 1) * s - 2 * p + d * (k - 1) + 1
            for n, k, s, p, d in zip(
                input.shape[-axes:], self.kernel_size, self.stride, self.padding, self.dilation, strict=True
            )
        ]
        if wanted is None:
            sizes = [size + more for size, more in zip(least, self.output_padding, strict=True)]
        else:
            sizes = [int(size) for size in wanted][-axes:]
            most = [size + s - 1 for size, s in zip(least, self.stride, strict=True)]
            fits = all(low <= n <= high for low, n, high in zip(least, sizes, most, strict=False))
            if len(wanted) not in (axes, input.dim()) or not fits:
                raise ValueError(
                    f"{self._kind}: an output size of {tuple(wanted)} is not possible for an input of shape "
                    f"{tuple(input.shape)}; give {tuple(least)} to {tuple(most)}"
                )
        if min(sizes) < 1:
            raise ValueError(
                f"{self._kind}: an input of shape {tuple(input.shape)} has an output of size {tuple(sizes)}; give a "
                "larger input or less padding"
            )
        return sizes


def _as_convolution(weight: Tensor, groups: int) -> Tensor:
    """torch's [inputs, outputs of a group, ...] as [outputs, inputs of a group, ...]."""
    return weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)


def _convolution(
    module: nn.ConvTranspose1d | nn.ConvTranspose2d, phases: tuple[Phase, ...], weight: Tensor
) -> nn.Conv1d | nn.Conv2d:
    make: type[Any] = nn.Conv1d if len(phases) == 1 else nn.Conv2d
    convolution: nn.Conv1d | nn.Conv2d = make(
        module.in_channels, module.out_channels, tuple(len(phase.taps) for phase in phases), groups=module.groups,
        dilation=tuple(phase.dilation for phase in phases), bias=module.bias is not None, device="meta",
    )  # fmt: skip
    for axis, phase in enumerate(phases, 2):
        weight = weight.index_select(axis, torch.tensor(phase.taps, device=weight.device))
    convolution.weight = nn.Parameter(weight, requires_grad=module.weight.requires_grad)
    convolution.bias = module.bias
    return convolution


def _cut(x: Tensor, read: Sequence[range]) -> Tensor:
    """These places of the last axes of x, zeros where there are none."""
    sizes = x.shape[-len(read) :]
    before = [max(-part.start, 0) for part in read]
    after = [max(part.stop - size, 0) for part, size in zip(read, sizes, strict=True)]
    if any(before) or any(after):
        around = [n for ends in zip(reversed(before), reversed(after), strict=True) for n in ends]
        x = functional.pad(x, around)
    for axis, (part, n) in enumerate(zip(read, before, strict=True), x.dim() - len(read)):
        x = x.narrow(axis, part.start + n, len(part))
    return x
