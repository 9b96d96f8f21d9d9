"""Graphs of one network for several files: torch's converter takes seconds for what schemes and targets share."""

import copy
import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from bitwright.model.attention import Attention
from bitwright.model.layers import QuantizedEmbedding, QuantizedLayer
from bitwright.model.task import Inputs

if TYPE_CHECKING:
    import onnx

Tracer = Callable[..., "onnx.ModelProto"]
"""`bitwright.export.trace.trace`, or what gives the same."""


class Tracing:
    """A `Tracer` that keeps the graphs of one network.

    A graph holds names and shapes of quantized sites and the weights outside of them. Where those are equal so is the
    graph, whatever the schemes.
    """

    def __init__(self) -> None:
        self._known: dict[str, onnx.ModelProto] = {}

    def __call__(self, frozen: nn.Module, inputs: Inputs, *, has_free_axis: bool = True) -> "onnx.ModelProto":
        from bitwright.export.trace import trace  # of the extra onnx

        key = _outline(frozen, inputs, has_free_axis)
        if key not in self._known:
            self._known[key] = trace(frozen, inputs, has_free_axis=has_free_axis)
        return copy.deepcopy(self._known[key])


def _outline(frozen: nn.Module, inputs: Inputs, has_free_axis: bool) -> str:
    """A digest of what `trace` reads of a network's models."""
    given = [(tuple(t.shape), t.dtype) for t in pytree.tree_leaves(inputs) if isinstance(t, Tensor)]
    is_free = has_free_axis and any(shape and shape[0] > 1 for shape, _ in given)
    sites = QuantizedLayer | QuantizedEmbedding | Attention
    places = [(path, type(m).__name__, m.name) for path, m in frozen.named_modules() if isinstance(m, sites)]
    digest = hashlib.sha256(repr((is_free, given, places)).encode())
    inside = tuple(f"{path}." for path, *_ in places)
    for name, tensor in frozen.state_dict().items():
        if not name.startswith(inside):
            digest.update(repr((name, tensor.shape, tensor.dtype)).encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
